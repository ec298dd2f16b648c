"""A tree of findings: some are kinds of others, and none is likelier than what it is a kind of.

    opacity ─┬─ consolidation ─── pneumonia        P(pneumonia) = P(opacity) P(consolidation | opacity)
             └─ nodule                                            P(pneumonia | consolidation)

Each output is the chance of a finding among those who have what it is a kind of (Chen et al. 2019, "Deep hierarchical multi-label
classification of chest X-ray images"). What a table's cells imply of the findings around is filled in where labels are read
(`cohort.labels.implied`); what is still unknown then is summed over.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..objectives.outcomes import tree_loss
from ..schema import Target
from .findings import Findings, FindingsTask, threshold
from .task import Predictions


class TreeTask(FindingsTask):
    """The output is logits of each finding among those who have what it is a kind of (b k); answers are chances among all.

    Args:
        name, spec: the task.
        width: d of the patient's vector.
    """

    above: Tensor

    def __init__(self, name: str, spec: Findings, width: int) -> None:
        super().__init__(name, spec, width)
        self.parents = spec.parents()
        self.register_buffer("above", torch.as_tensor(lines(self.parents)), persistent=False)

    def chances(self, output: Tensor) -> Tensor:
        """(b k) logits → (b k) logarithms of the chances among all."""
        return torch.nn.functional.logsigmoid(output) @ self.above.to(output).T

    def answer(self, output: Tensor) -> Tensor:
        """Probabilities (b k), none above that of what it is a kind of."""
        return self.chances(output).exp()

    def loss(self, output: Tensor, target: Target) -> Tensor | None:
        """The negative log likelihood of what is known of the labelled."""
        assert isinstance(target.values, Tensor)
        return tree_loss(output[target.mask], target.values[target.mask], self.parents)

    def refer_to(self, output: Tensor, target: Target) -> None:
        """Choose the threshold of each finding's probability by the training patients of whom it is known."""
        assert isinstance(target.values, Tensor)
        told = self.chances(output.double())
        told = told - _log_without(told)
        for number in range(len(self.cuts)):
            known = target.mask & target.values[:, number].isfinite()
            if bool(known.any()):
                self.cuts[number] = threshold(told[known, number], target.values[known, number], self.spec.threshold)

    def to_prevalence(self, values: Sequence[Sequence[float]]) -> None:
        """Nothing: the loss weighs patients as they come."""

    def score(self, predictions: Predictions) -> dict[str, float]:
        """As of findings, and the hierarchical F1."""
        return super().score(predictions) | {"hierarchical_f1": self._whole(predictions.labelled())}

    def _whole(self, known: Predictions) -> float:
        from sklearn.metrics import f1_score

        if not len(known.patients):
            return float("nan")
        said, there = called(known.outputs, self.thresholds, self.parents), np.isfinite(known.targets)
        truth = known.targets[there]
        return float(f1_score(truth, said[there])) if (truth > 0).any() or (said[there] > 0).any() else float("nan")


def _log_without(log_chance: Tensor) -> Tensor:
    """log(1 − p) of log p; a p of 1 counts as one that is a rounding below."""
    return torch.log(-torch.expm1(log_chance.clamp(max=-torch.finfo(log_chance.dtype).eps)))


def lines(parents: Sequence[int]) -> np.ndarray:
    """(k k) float32: 1 where the second is the first, or something that the first is a kind of."""
    above = np.eye(len(parents), dtype=np.float32)
    for number in range(len(parents)):
        place = parents[number]
        while place >= 0:
            above[number, place] = 1
            place = parents[place]
    return above


def called(probabilities: np.ndarray, thresholds: Sequence[float], parents: Sequence[int]) -> np.ndarray:
    """What is called present: what is above its threshold, and all that it is a kind of.

    Micro-averaged F1 of it is the hierarchical F1 (Kiritchenko et al. 2006): precision and recall of the findings extended by what they
    are kinds of.

    Args:
        probabilities: (n k).
        thresholds, parents: (k).
    Returns:
        (n k) 0.0 or 1.0
    """
    above = (probabilities >= np.asarray(thresholds)).astype(float)
    return (above @ lines(parents) > 0).astype(float)
