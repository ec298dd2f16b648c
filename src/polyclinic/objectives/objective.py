"""What every objective is, and what it may ask of a model (it is handed one and imports none)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from ..fusion import FusionFields, Tower
from ..schema import Batch, Fused, Losses, Modality, PolyclinicError, Tokens
from ..tokens import Encoded, Encoder, EncoderFields


class ObjectiveError(PolyclinicError):
    """An objective that cannot be asked of this model or these records."""


class Backbone(Protocol):
    """What an objective may ask of a model; `models.Model` is one."""

    width: int
    """d of the fusion."""
    embedding: int
    """e of the space that all modalities share."""
    own_trunks: bool
    """Whether a modality's tokens go through their encoder's trunk before the fusion."""

    place: int
    """Which part of a step this is; 0 of one in one piece."""
    world: int
    """How many processes share the step."""

    @property
    def modalities(self) -> list[Modality]:
        """What it can read."""
        ...

    def encoder(self, modality: Modality) -> Encoder:
        """The encoder of one modality."""
        ...

    def bridged(self, modality: Modality, tokens: Tokens) -> Tokens:
        """An encoder's tokens in the fusion's width."""
        ...

    def encode(self, batch: Batch) -> Encoded:
        """The bridged tokens of whole records; each modality is read when it is first asked for, and once."""
        ...

    def fuse(self, tokens: Mapping[Modality, Tokens], patients: int) -> Fused:
        """What the modalities' tokens are together."""
        ...

    def towers(self, tokens: Mapping[Modality, Tokens]) -> dict[Modality, Tower]:
        """Each modality's unit vectors in the space that all share; of tokens that `encode` gave, of those that it is compared by."""
        ...

    def placed(self, tokens: Mapping[Modality, Tokens]) -> dict[Modality, Tokens]:
        """Each token's unit vector in that space."""
        ...

    def alone(self, tokens: Tokens) -> Tokens:
        """One modality's bridged tokens after everything that reads them before other modalities do."""
        ...

    @property
    def shared(self) -> list[nn.Parameter]:
        """The weights of the last layer that every objective's answer comes through."""
        ...

    def everyone(self, towers: Mapping[Modality, Tower], patients: int) -> Mapping[Modality, Tower]:
        """The towers of all whom a loss compares: the batch's, or the whole step's where it is divided (`objectives/gather.py`).

        A contrastive loss calls it on what it compares, equally often whatever the batch holds.
        """
        ...

    def summed(self, numbers: Tensor) -> Tensor:
        """Numbers (…) of the batch, or their sums over the whole step where it is divided; no gradient goes through.

        What takes a mean over all of a step calls it, equally often and with as many numbers whatever the batch holds.
        """
        ...


def on_grid(model: Backbone, modality: Modality, what: str, refusal: type[PolyclinicError]) -> Encoder:
    """The encoder of a modality whose tokens lie on a grid: what is drawn or found on a record stands beside them.

    Args:
        what: is asked for, in words; refusal: the error that whoever asks raises.
    Raises:
        PolyclinicError: the model does not read the modality, or its tokens lie on no grid.
    """
    if modality not in model.modalities:
        raise refusal(
            f"{what}, which the model does not read",
            "one of " + ", ".join(model.modalities),
            f"add an encoder of {modality} to the recipe",
        )
    encoder = model.encoder(modality)
    if not encoder.patch:
        raise refusal(
            f"{what}, whose encoder's tokens lie on no grid", "an encoder with a `patch`", "take another encoder"
        )
    return encoder


@dataclass(frozen=True, slots=True)
class Structure:
    """What the masks of a segmentation task show.

    Args:
        modality: IMAGE or VOLUME, that they lie on.
        names: of the labels 1, 2 …; 0 is background.
        words: (w,) int64 of each name, as the model's encoder of words reads it; none where it has none.
    """

    modality: Modality
    names: tuple[str, ...]
    words: tuple[Tensor, ...] = ()

    @property
    def labels(self) -> int:
        """k, background among them."""
        return len(self.names) + 1


Outcome = Literal["class", "classes", "grade", "findings", "survival"]
"""What may be known of a patient: whether something is there; which of several classes, or grades; which of several findings; when."""


@dataclass(frozen=True, slots=True)
class Finding(Structure):
    """What the labels of a task tell of a whole patient; they lie in a table's cells.

    Args:
        names: of the classes, grades or findings; else the task's alone.
        words: (w,) of each way to ask it.
        outcome: what is known.
        inputs: the modalities that may be read to answer; None for all.
        balance: of classes, how much the rare ones are made to count, see `tasks.Classes`.
        parents: of findings that are kinds of others, the place of what each is a kind of, or −1.
        parts: of findings, each as a "class" with words of its own.
    """

    outcome: Outcome = "class"
    inputs: tuple[Modality, ...] | None = None
    balance: float = 0.0
    parents: tuple[int, ...] = ()
    parts: tuple[Finding, ...] = ()

    @property
    def outputs(self) -> int:
        """How many numbers a linear head says of it; a grade's one is held against thresholds."""
        return len(self.names) if self.outcome in ("classes", "findings") else 1

    @property
    def questions(self) -> tuple[Finding, ...]:
        """What of it can be asked in words, as the answer is yes, no or how soon: itself or each finding; nothing of more classes."""
        return (self,) if self.outcome in ("class", "survival") else self.parts


class ObjectiveFields(BaseModel, ABC):
    """What every objective's specification has; a subclass adds its `kind` and its own fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    alike: ClassVar[tuple[str, ...]] = ()
    """The fields in which a later stage's must agree for it to go on with what this one has learned."""

    def named(self) -> set[Modality]:
        """The modalities that it names, of which there must be an encoder."""
        return set()

    def fits(self, encoders: Mapping[Modality, EncoderFields], width: int, fusion: FusionFields) -> None:
        """Refuse a recipe's network that it cannot be asked of.

        Args:
            encoders: of the model; those that it names are among them.
            width: d of the fusion.
            fusion: how they meet.
        Raises:
            ValueError: in a person's words.
        """

    def labelled(self) -> dict[str, int | None]:
        """The tasks of the recipe whose labels it is shown, and of how many training patients (None: of all)."""
        return {}

    @abstractmethod
    def build(self, model: Backbone, structures: Mapping[str, Structure]) -> Objective:
        """The module, freshly initialised.

        Args:
            model: that will be trained.
            structures: what the labels of each of the recipe's tasks are of.
        """


class DecoderFields(ObjectiveFields):
    """What the specification of an objective with a Transformer of its own has.

    Args:
        width, depth, heads: of it.
    """

    width: int = Field(default=128, ge=8)
    depth: int = Field(default=2, ge=1)
    heads: int = Field(default=4, ge=1)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.width}")
        return self


class Objective(nn.Module, ABC):
    """A model and a batch → losses. What it learns besides the model (a temperature, a decoder) is its own.

    To ask it changes nothing: what it keeps from step to step (a momentum teacher, a loss's running weight) moves in `stepped`, and
    stands in its parameters and buffers, so that a checkpoint has it.
    """

    @abstractmethod
    def forward(
        self, model: Backbone, batch: Batch, generator: torch.Generator, tokens: Encoded | None = None
    ) -> Losses:
        """The terms that the batch speaks to, and no other.

        Args:
            model: that is trained.
            batch: of any patients.
            generator: of every draw.
            tokens: the batch's as `model.encode` gives them, where it is read for others too.
        """

    def begun(self, model: Backbone) -> None:
        """What it does where a stage begins, once it has what an earlier stage learned: nothing, but for those that keep a copy.

        Args:
            model: as the stage finds it.
        """

    def stepped(self, model: Backbone, done: float) -> None:
        """What it does after each step of the optimiser: nothing, but for those that keep something.

        Args:
            model: as the step left it.
            done: the share of the stage's steps that are done, above 0 and up to 1.
        """
