"""What every task is: a head with `output`, `loss`, `score` and `present`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from ..schema import Batch, Modality, PolyclinicError, Target


class TaskError(PolyclinicError):
    """A task that cannot be asked of this model or these records."""


class TaskFields(BaseModel):
    """What every task's specification has.

    Args:
        inputs: the modalities that may be read; None for all that the model knows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    inputs: tuple[Modality, ...] | None = None


@dataclass(frozen=True, slots=True)
class Predictions:
    """A model's answers, one a patient.

    Args:
        task: its name.
        patients: p names.
        outputs: (p,) probability, log hazard; for segmentation (p k) Dice of each class, NaN where there is no mask.
        targets: (p,) class, (p 2) time and event; for segmentation (p k) the masks' volumes in mL.
        mask: (p,) bool, who is labelled.
        modalities: what each patient had of what was asked for.
    """

    task: str
    patients: tuple[str, ...]
    outputs: np.ndarray
    targets: np.ndarray
    mask: np.ndarray
    modalities: tuple[tuple[Modality, ...], ...] = ()

    def where(self, keep: np.ndarray) -> Predictions:
        """Those of the patients for whom keep (p,) is True."""
        rows = np.flatnonzero(keep)
        names = tuple(self.patients[i] for i in rows)
        has = tuple(self.modalities[i] for i in rows) if self.modalities else ()
        return Predictions(self.task, names, self.outputs[rows], self.targets[rows], self.mask[rows], has)

    def labelled(self) -> Predictions:
        """Only the labelled patients'."""
        return self.where(self.mask)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer in clinical form.

    Args:
        headline: one sentence.
        values: numbers with their names and units.
        overlay: of a segmentation, the mask on the source's grid.
        used: the modalities that were read.
    """

    headline: str
    values: Mapping[str, float | str]
    used: tuple[Modality, ...]
    overlay: np.ndarray | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


class Task(nn.Module):
    """A head over a model.

    Args:
        name: in the recipe.
        spec: its specification.
    """

    def __init__(self, name: str, spec: Any) -> None:
        super().__init__()
        self.name, self.spec = name, spec

    def output(self, model: Any, batch: Batch) -> Tensor:
        """What the head says of a batch."""
        raise TypeError(f"{type(self).__name__} says nothing")

    def loss(self, output: Tensor, target: Target) -> Tensor | None:
        """The loss over the labelled; None where nobody is."""
        raise TypeError(f"{type(self).__name__} has no loss")

    def score(self, predictions: Predictions) -> dict[str, float]:
        """The metrics of labelled predictions; NaN where one is not defined."""
        raise TypeError(f"{type(self).__name__} has no metric")
