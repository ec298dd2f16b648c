"""Retrieval: from one modality of a patient to another."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ..schema import Modality
from .task import TaskError, TaskFields


class Retrieval(TaskFields):
    """Find a patient's `answer` by their `query`; needs no adaptation."""

    kind: Literal["retrieval"] = "retrieval"
    query: Modality
    answer: Modality

    def label(self, name: str) -> None:
        """Needs none: whose it is, is the answer."""
        return

    def columns(self) -> tuple[str, ...]:
        """No column is a label."""
        return ()

    def build(self, name: str, model: Any) -> Any:
        """Refuse: there is nothing to adapt."""
        raise TaskError(
            f"task {name!r} is a retrieval, which has no head",
            "a task with labels",
            "use `polyclinic evaluate` on the pretrained run",
        )


def ranks(query: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """(p,) at which place, from 1, each query's own answer comes; ties count against it.

    Args:
        query, answer: (p e) unit vectors, row i of both of one patient.
    """
    alike = query @ answer.T
    own = np.diag(alike)[:, None]
    return (alike > own).sum(1) + (alike == own).sum(1)


def retrieval_metrics(query: np.ndarray, answer: np.ndarray) -> dict[str, float]:
    """Recall at 1 and 5 and the median rank, in both directions; and what chance would give."""
    out: dict[str, float] = {"n": float(len(query))}
    for name, (one, other) in {"forth": (query, answer), "back": (answer, query)}.items():
        place = ranks(one, other)
        out |= {f"recall_at_1_{name}": float((place <= 1).mean()), f"recall_at_5_{name}": float((place <= 5).mean())}
        out[f"median_rank_{name}"] = float(np.median(place))
    return out | {"chance_recall_at_1": 1 / len(query), "chance_median_rank": (len(query) + 1) / 2}
