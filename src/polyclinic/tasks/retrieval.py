"""Retrieval: from one modality of a patient to another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Never

import numpy as np

from ..models import Model
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

    def asks(self, words: Mapping[str, str]) -> str:
        """By its modalities."""
        query, answer = (words.get(m.value, m.value) for m in (self.query, self.answer))
        return f"Does a patient's {query} find their own {answer}?"

    def build(self, name: str, model: Model) -> Never:
        """Refuse: there is nothing to adapt."""
        raise TaskError(
            f"task {name!r} is a retrieval, which has no head",
            "a task with labels",
            "use `polyclinic evaluate` on the pretrained run",
        )


def ranks(query: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """(p,) at which place, from 1, each query's own answer comes; ties, and vectors that are not numbers, count against it.

    Args:
        query, answer: (p e) unit vectors, row i of both of one patient.
    """
    alike = query @ answer.T
    own = np.diag(alike)[:, None]
    return (~(alike < own)).sum(1)
