"""Classification: does a patient have a finding?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from ..cohort import Label
from ..models import Model
from ..objectives import Finding
from ..objectives.outcomes import yes_no_loss
from ..schema import Modality, Target
from .task import Answer, AskedFields, LinearTask, Predictions, Read

YES = ("y", "yes", "1", "true", "positive", "present")
"""Cells that say no more than that the column applies."""
BARE = {True: ("yes", "true"), False: ("no", "false")}
"""What may have stood in a YAML file where it reads a truth value."""


class Classification(AskedFields):
    """A finding of the patient.

    Args:
        column: the table column that has it.
        positive: the cells that mean yes.
        negative: the cells that mean no; empty: every other known cell.
        threshold: what the score from which on yes is said is chosen by, of the training patients: the best F1, or the best sum of
            sensitivity and specificity (Youden 1950).

    YAML reads a bare `yes` or `no` as true or false: then cells of either spelling count.
    """

    kind: Literal["classification"] = "classification"
    column: str
    positive: tuple[str, ...] = Field(min_length=1)
    negative: tuple[str, ...] = ()
    threshold: Literal["f1", "youden"] = "f1"

    @field_validator("positive", "negative", mode="before")
    @classmethod
    def _bare(cls, cells: Any) -> Any:
        if not isinstance(cells, list | tuple):
            return cells
        return [word for cell in cells for word in (BARE[cell] if isinstance(cell, bool) else (cell,))]

    def label(self, name: str) -> Label:
        """Where the answers stand."""
        return Label(name, "class", self.column, self.positive, self.negative)

    def columns(self) -> tuple[str, ...]:
        """The columns that must not be inputs."""
        return (self.column,)

    def finding(self) -> str:
        """What is asked, in words: the cells that mean yes, or the column where these say no more than yes."""
        column, cells = self.column.replace("_", " "), " or ".join(self.positive)
        if all(cell.strip().lower() in YES for cell in self.positive):
            return column
        return cells if any(len(cell) > 2 for cell in self.positive) else f"{column} {cells}"

    def asked(self) -> tuple[str, ...]:
        """The ways to ask it; where the recipe has none, one made of the finding."""
        return self.questions or (f"Is there {self.finding()}?",)

    def taught(self, name: str, read: Read) -> Finding:
        """Whether it is there."""
        return Finding(Modality.TABLE, (name,), read(*self.asked()), "class", self.inputs)

    def asks(self, words: Mapping[str, str]) -> str:
        """By its column and cells."""
        return f"Is “{self.column.replace('_', ' ')}” {' or '.join(self.positive)}?"

    def build(self, name: str, model: Model) -> ClassificationTask:
        """The head, freshly initialised."""
        return ClassificationTask(name, self, model.width)


class ClassificationTask(LinearTask):
    """The output is logits (b,)."""

    cut: Tensor
    refers = True

    def __init__(self, name: str, spec: Classification, width: int) -> None:
        super().__init__(name, spec, width, bias=True)
        self.register_buffer("cut", torch.tensor(math.nan))

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The probability from which on yes is said; none where no labels chose one (nearest means and patients, sentences)."""
        return (float(self.cut.sigmoid()),) if bool(self.cut.isfinite()) else ()

    def loss(self, output: Tensor, target: Target) -> Tensor | None:
        """Cross-entropy over the labelled, both classes with equal weight in the batch."""
        assert isinstance(target.values, Tensor)
        return yes_no_loss(output[target.mask, None], target.values[target.mask, None])

    @property
    def says(self) -> str:
        """The probability."""
        return f"(1,) the probability of {self.spec.finding()}"

    def answer(self, output: Tensor) -> Tensor:
        """Probabilities (b,)."""
        return output.sigmoid()

    def refer_to(self, output: Tensor, target: Target) -> None:
        """Choose the threshold by the training patients."""
        assert isinstance(target.values, Tensor)
        if bool(target.mask.any()):
            chosen = threshold(output[target.mask], target.values[target.mask], self.spec.threshold)
            self.cut = torch.tensor(chosen, device=self.cut.device)

    @torch.no_grad()
    def to_prevalence(self, values: Sequence[int]) -> None:
        """Give back how common the finding is among the training patients.

        The loss weighs both classes alike, so that the rare one is learned; its answers would be probabilities among as many with
        as without the finding. The log odds of the training patients, added to the offset, put that right (King & Zeng 2001, section 4.1).
        """
        positives = sum(values)
        shift = math.log(positives / (len(values) - positives))
        self.head.bias.add_(shift)
        self.cut += shift

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
        """The score, and no words for it: what a score means is said by the evidence of the test patients who had it."""
        what = self.spec.finding()
        return Answer(f"{what}: score {probability:.2f}", {"score": round(probability, 4), "finding": what}, used)


def threshold(scores: Tensor, truth: Tensor, by: Literal["f1", "youden"]) -> float:
    """The score from which on yes is said, so that F1 or Youden's index is best on these patients; halfway to the next lower one.

    Args:
        scores: (n,).
        truth: (n,) 0 or 1.
        by: what is best.
    """
    levels = scores.unique()
    said = scores[None] >= levels[:, None]
    hits, alarms = (said & (truth > 0)).sum(1), (said & (truth <= 0)).sum(1)
    positives = (truth > 0).sum()
    negatives = len(truth) - positives
    good = 2 * hits / (hits + alarms + positives) if by == "f1" else hits / positives - alarms / negatives
    best = int(good.argmax())
    return float(levels[best] if best == 0 else (levels[best] + levels[best - 1]) / 2)
