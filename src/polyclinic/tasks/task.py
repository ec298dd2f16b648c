"""What every task is: a head with `output`, `loss`, `score` and `present`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ..cohort import Label
from ..harmonise.unread import Unread
from ..models import Model
from ..objectives import Structure
from ..schema import Batch, Modality, PolyclinicError, Target
from .baseline import Baseline
from .incidence import Incidence


class TaskError(PolyclinicError):
    """A task that cannot be asked of this model or these records."""


Read = Callable[..., tuple[Tensor, ...]]
"""Of any texts the words (w,) as the model reads them; of one that reads none, nothing."""


class TaskFields(BaseModel, ABC):
    """What every task's specification has; a subclass adds its `kind` and its own fields.

    Args:
        inputs: the modalities that may be read; None for all that the model knows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    inputs: tuple[Modality, ...] | None = Field(default=None, min_length=1)

    @abstractmethod
    def label(self, name: str) -> Label | None:
        """Where the answers of the task of this name stand; None where it needs none."""

    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The table columns that must not be inputs."""

    def asked(self) -> tuple[str, ...]:
        """The ways to ask it in words, for a model that reads the question; none where it is not asked so."""
        return ()

    def taught(self, name: str, read: Read) -> Structure | None:
        """What the labels of the task of this name are of, for an objective that is shown them; None where none is."""
        return None

    @abstractmethod
    def asks(self, words: Mapping[str, str]) -> str:
        """What it asks, as a question to a person; `words` are what the modalities are called."""

    @abstractmethod
    def build(self, name: str, model: Model) -> Task:
        """The head, freshly initialised.

        Raises:
            TaskError: the task cannot be asked of this model.
        """


class PlacedFields(TaskFields, ABC):
    """What the specification of a task has whose answers lie on an image or a volume.

    Args:
        modality: of what they lie on.
    """

    modality: Literal[Modality.VOLUME, Modality.IMAGE] = Modality.VOLUME


class AskedFields(TaskFields, ABC):
    """What the specification of a task has whose answers are known of whole patients.

    Args:
        questions: ways to ask it in words, for a model that reads the question (the objective `question`).
    """

    questions: tuple[Annotated[str, Field(min_length=1)], ...] = ()

    @abstractmethod
    def asked(self) -> tuple[str, ...]:
        """The ways to ask it, at least one."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """A model's answers, one a patient.

    Args:
        task: its name.
        patients: p names.
        outputs: (p,) probability, log hazard; (p k) probability of each grade or finding; (p k j) of hazards, the chance of each
            event by the end of each interval; for segmentation (p k) Dice of each class, NaN where there is no mask; for detection and
            keypoints (p,) arrays, see `DetectionTask` and `KeypointsTask`.
        targets: (p,) class or grade, (p k) findings, NaN where unknown, (p 2) time and event, of hazards (p 3) with the number
            of the landmark; for segmentation (p k) the masks' volumes in mL; for detection and keypoints (p,) arrays.
        mask: (p,) bool, who is labelled.
        modalities: what each patient had of what was asked for.
        records: the ids of those records.
        baseline: of a survival whose head knows it, what makes risks of log hazards; of hazards, what reads risks of them.
        unread: who was asked about and could not be read, and why; they are not among the patients.
    """

    task: str
    patients: tuple[str, ...]
    outputs: np.ndarray
    targets: np.ndarray
    mask: np.ndarray
    modalities: tuple[tuple[Modality, ...], ...] = ()
    records: tuple[tuple[str, ...], ...] = ()
    baseline: Baseline | Incidence | None = None
    unread: tuple[Unread, ...] = ()

    def where(self, keep: np.ndarray) -> Predictions:
        """Those of the patients for whom keep (p,) is True."""
        rows = np.flatnonzero(keep)
        names = tuple(self.patients[i] for i in rows)
        has = tuple(self.modalities[i] for i in rows) if self.modalities else ()
        ids = tuple(self.records[i] for i in rows) if self.records else ()
        each = (self.outputs[rows], self.targets[rows], self.mask[rows])
        return Predictions(self.task, names, *each, has, ids, self.baseline, self.unread)

    def labelled(self) -> Predictions:
        """Only the labelled patients'."""
        return self.where(self.mask)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer in clinical form.

    Args:
        headline: one sentence.
        values: numbers with their names and units.
        overlay: of what lies on a record, the mask (of boxes and points their outlines) on the source's grid.
        used: the modalities that were read.
    """

    headline: str
    values: Mapping[str, float | str]
    used: tuple[Modality, ...]
    overlay: np.ndarray | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Thing:
    """A box or a point on the grid of the file that it is about.

    Args:
        name: of its class.
        score: how sure, in 0..1; no probability.
        low, high: both corners (x y) or (x y z) in pixels or voxels, 0 being the file's first corner and 1 the far side of its first
            sample; of a point the same twice.
        size_mm: of its sides along x, y (and z) of the file; None of a point, or where the file has no scale.
        centre_mm: (x y z) in LPS; None where the file has no place in the patient.
    """

    name: str
    score: float
    low: tuple[float, ...]
    high: tuple[float, ...]
    size_mm: tuple[float, ...] | None = None
    centre_mm: tuple[float, float, float] | None = None


def told(thing: Thing) -> str:
    """Where a thing is, how large and how sure, in words."""
    span = lambda a, b: f"{a:.1f}" if a == b else f"{a:.1f}–{b:.1f}"
    unit = "px" if len(thing.low) == 2 else "voxels"
    place = ", ".join(f"{axis} {span(a, b)}" for axis, a, b in zip("xyz", thing.low, thing.high, strict=False))
    size = f"; {' × '.join(f'{s:.1f}' for s in thing.size_mm)} mm" if thing.size_mm else ""
    centre = f"; centre {', '.join(f'{c:.1f}' for c in thing.centre_mm)} mm (LPS)" if thing.centre_mm else ""
    return f"score {thing.score:.2f} at {place} {unit}{size}{centre}"


class Task(nn.Module, ABC):
    """A head over a model. It also has `present`, which puts one patient's answer in clinical form; what that needs differs.

    Args:
        name: in the recipe.
        spec: its specification.
    """

    least_lr: float = 0.0
    """The rate at which it learns at least beside a backbone that learns slowly."""

    def __init__(self, name: str, spec: Any) -> None:
        super().__init__()
        self.name, self.spec = name, spec

    @abstractmethod
    def output(self, model: Model, batch: Batch) -> Tensor:
        """What the head says of a batch."""

    @abstractmethod
    def loss(self, output: Tensor, target: Target) -> Tensor | None:
        """The loss over the labelled; None where nobody is."""

    @abstractmethod
    def score(self, predictions: Predictions) -> dict[str, float]:
        """The metrics of labelled predictions; NaN where one is not defined."""


def met(model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
    """The mean (b e) of each patient's modalities' vectors in the space that records and sentences share; and (b,) bool, who has any."""
    total = torch.zeros(len(batch.patients), model.embedding)
    count = torch.zeros(len(batch.patients))
    for tower in model.towers(model.encode(batch)).values():
        total = total.to(tower.vectors).index_add(0, tower.patient, tower.vectors)
        count = count.to(tower.vectors).index_add(0, tower.patient, torch.ones_like(tower.vectors[:, 0]))
    return total / count.clamp(min=1)[:, None], count > 0


SMALLEST_SPREAD = 0.02
"""A coordinate that moves less than this share of a vector's spread is noise, and is not blown up."""


class LinearTask(Task):
    """One number of a patient: a linear head on the patient's normalised vector, which says nothing before it is fitted.

    Where a head is fitted to a backbone, each coordinate is then standardised by the training patients: what all vectors share
    says nothing of anyone. In float32 whatever the model's precision: patients are ranked by it, and bfloat16 would tie them.

    Args:
        name, spec: the task.
        width: d of the vector.
        bias: whether the head has an offset.
        outputs: k, how many numbers.
    """

    mean: Tensor
    sd: Tensor
    apart: tuple[Modality, ...] = ()
    """The modalities whose vectors it reads each by itself; none for the vector in which they met."""
    marks = 1
    """How often each patient is asked of: at each landmark of a task that has some."""
    shared = False
    """Whether it reads the mean of a patient's vectors in the space that records and sentences share, as they are, not the fused one."""
    refers: ClassVar[bool] = False
    """Whether `refer_to` remembers something: outputs of a network that changed since are then to be asked again."""

    def __init__(self, name: str, spec: Any, width: int, bias: bool, outputs: int = 1) -> None:
        super().__init__(name, spec)
        self.width, self.outputs = width, outputs
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self._begin(bias, ())

    def _begin(self, bias: bool, apart: tuple[Modality, ...]) -> None:
        self.apart, parts = apart, (len(apart),) if apart else ()
        self.register_buffer("mean", torch.zeros(*parts, self.width))
        self.register_buffer("sd", torch.ones(*parts, self.width))
        self.head = nn.Linear(len(apart) * (self.width + 1) or self.width, self.outputs, bias)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def read_apart(self, modalities: Sequence[Modality]) -> None:
        """Begin anew as a head that reads each modality's vector by itself; of none, as one that reads the patient's.

        What it then says is a sum over the modalities that a patient has, and of one that is not there nothing is added.

        Raises:
            TaskError: its answer is no sum.
        """
        if type(self).read is not LinearTask.read:
            raise TaskError(
                f"modalities read apart for {self.name!r}, a {self.spec.kind}",
                "a classification, classes, findings or a survival, whose answers add up",
                "leave `modalities` of the probe at `together`",
            )
        self._begin(self.head.bias is not None, tuple(modalities))

    def pooled(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        """What `read` reads of a batch, and (b,) bool of whom there is anything.

        Returns:
            (b d) the patients' vectors; (b k (d + 1)) where k modalities are read apart, each one's vector and a one, zeros where it
            is not there.
        """
        if not self.apart:
            fused = model(batch)
            return fused.pooled, fused.present
        tokens, b = model.encode(batch), len(batch.patients)
        parts = []
        for modality in self.apart:
            own = model.fuse({m: tokens[m] for m in (modality,) if m in tokens}, b)
            parts.append(torch.cat([own.pooled.float(), own.present[:, None].float()], 1))
        every = torch.stack(parts, 1)
        return every.flatten(1), every[:, :, -1].any(1)

    def read(self, pooled: Tensor) -> Tensor:
        """(b d) → (b,), or (b k) where there are several numbers; see `pooled`."""
        with torch.autocast(pooled.device.type, enabled=False):
            x = pooled.float()
            if not self.apart:
                return self.head(x if self.shared else (self.norm(x) - self.mean) / self.sd).squeeze(1)
            x = x.unflatten(1, (len(self.apart), self.width + 1))
            there = x[:, :, -1:]
            own = (self.norm(x[:, :, :-1]) - self.mean) / self.sd
            return self.head((torch.cat([own, torch.ones_like(there)], 2) * there).flatten(1)).squeeze(1)

    def standardise_by(self, pooled: Tensor) -> None:
        """Take the mean and spread of each coordinate from the training patients' vectors (p d), at least two."""
        normed = self.norm(pooled.float())
        self.mean, self.sd = normed.mean(0), normed.std(0).clamp(min=SMALLEST_SPREAD)

    def begin(self, values: Sequence[Any]) -> None:
        """Take from what is known of the training patients what the head rests on, before it is fitted."""

    def said(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        """The outputs (b …), and (b,) bool of whom anything could be said."""
        if self.shared:
            vectors, there = met(model, batch)
            return self.read(vectors), there
        vectors, there = self.pooled(model, batch)
        return self.read(vectors), there

    def output(self, model: Model, batch: Batch) -> Tensor:
        """(b …)"""
        return self.said(model, batch)[0]

    @property
    @abstractmethod
    def says(self) -> str:
        """What an answer is, in words, with its shape for one patient."""

    def answer(self, output: Tensor) -> Tensor:
        """What is told of outputs (b …): here themselves, else a probability (b,) or several (b k)."""
        return output

    def refer_to(self, output: Tensor, target: Target) -> None:
        """Remember of the training patients' outputs (p …), and of what is known of them, what an answer is placed by."""

    def to_prevalence(self, values: Sequence[Any]) -> None:
        """Give the answers back how common each is among the training patients, where the loss weighs all alike."""

    @abstractmethod
    def present(self, told: Any, used: tuple[Modality, ...], /) -> Answer:
        """One patient's answer in clinical form.

        Args:
            told: a number or several, of `answer`.
            used: the modalities that were read.
        """
