"""Classification: does a patient have a finding?"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..cohort import Label
from ..schema import Batch, Modality, Target
from .task import Answer, Predictions, Task, TaskFields


class Classification(TaskFields):
    """A finding of the patient.

    Args:
        column: the table column that has it.
        positive: the cells that mean yes.
        negative: the cells that mean no; empty: every other known cell.
    """

    kind: Literal["classification"] = "classification"
    column: str
    positive: tuple[str, ...] = Field(min_length=1)
    negative: tuple[str, ...] = ()

    def label(self, name: str) -> Label:
        """Where the answers stand."""
        return Label(name, "class", self.column, self.positive, self.negative)

    def columns(self) -> tuple[str, ...]:
        """The columns that must not be inputs."""
        return (self.column,)

    def build(self, name: str, model: Any) -> ClassificationTask:
        """The head, freshly initialised."""
        return ClassificationTask(name, self, model.width)


class ClassificationTask(Task):
    """A linear head on the patient's vector.

    Args:
        name, spec: the task.
        width: of the vector.
    """

    def __init__(self, name: str, spec: Classification, width: int) -> None:
        super().__init__(name, spec)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.head = nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def read(self, pooled: Tensor) -> Tensor:
        """(b d) → logits (b,)."""
        return self.head(self.norm(pooled.float())).squeeze(1)

    def output(self, model: Any, batch: Batch) -> Tensor:
        """Logits (b,)."""
        return self.read(model(batch).pooled)

    def loss(self, output: Tensor, target: Target) -> Tensor | None:
        """Cross-entropy over the labelled, both classes with equal weight in the batch."""
        if not bool(target.mask.any()):
            return None
        assert isinstance(target.values, Tensor)
        truth = target.values[target.mask].float()
        each = F.binary_cross_entropy_with_logits(output[target.mask], truth, reduction="none")
        positives = truth.sum().clamp(min=1)
        negatives = (1 - truth).sum().clamp(min=1)
        weight = torch.where(truth > 0, 0.5 * len(truth) / positives, 0.5 * len(truth) / negatives)
        return (weight * each).sum() / weight.sum()

    def score(self, predictions: Predictions) -> dict[str, float]:
        """AUROC and average precision; NaN with one class."""
        from sklearn.metrics import average_precision_score, roc_auc_score

        known = predictions.labelled()
        if len(np.unique(known.targets)) < 2:
            return {"auroc": float("nan"), "average_precision": float("nan")}
        return {
            "auroc": float(roc_auc_score(known.targets, known.outputs)),
            "average_precision": float(average_precision_score(known.targets, known.outputs)),
        }

    def present(self, probability: float, used: tuple[Modality, ...]) -> Answer:
        """The probability in words."""
        what = " or ".join(self.spec.positive) if self.spec.positive != ("Y",) else self.spec.column.replace("_", " ")
        words = "likely" if probability >= 0.8 else "unlikely" if probability <= 0.2 else "not clear"
        return Answer(
            f"{what}: {words} (score {probability:.2f})", {"score": round(probability, 4), "finding": what}, used
        )
