"""What every encoder is: `embed` makes tokens of records, `trunk` lets each record's tokens see each other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from ..harmonise import Fingerprint, Standard
from ..schema import Modality, Ragged, Tokens
from .layout import Layout
from .packing import counts, with_values
from .position import PhysicalPosition
from .transformer import Style, Transformer

PRE_NORM = Style()


class EncoderFields(BaseModel, ABC):
    """What every encoder's specification has; a subclass adds its `kind` and its own fields.

    Args:
        width: d of its tokens.
        depth: blocks of its trunk; 0 for none.
        heads: attention heads.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    causal: ClassVar[bool] = False
    """Whether a token sees no later one of its record."""
    pieced: ClassVar[bool] = False
    """Whether its tokens hold all of a record's samples, so that a record can be put together of them (`Encoder.pieces`)."""
    width: int = Field(default=128, ge=8)
    depth: int = Field(default=4, ge=0)
    heads: int = Field(default=4, ge=1)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.width}")
        return self

    @abstractmethod
    def standard(self, exclude: tuple[str, ...] = ()) -> Standard:
        """What it wants from the harmoniser; `exclude` are the table columns that the recipe's tasks name."""

    @abstractmethod
    def build(self, fingerprint: Fingerprint) -> Encoder:
        """The module, freshly initialised; the fingerprint has the training records' vocabulary, codes and genes."""

    def keep(self, into: Path) -> None:
        """Copy to a run's folder what it is built from besides the recipe and the fingerprint; most need nothing else."""

    def kept(self, at: Path) -> Self:
        """The same, built from what `keep` copied."""
        return self


class Encoder(nn.Module, ABC):
    """Records of one modality → tokens.

    A subclass gives `embed`. Where masked reconstruction should ask for what was hidden, it gives `answer` and says in
    `answer_size` how many numbers (or categories) an answer has; where a record can be put
    together of them, `pieces`. Where tokens lie on a grid, `patch` says of how many samples, and `channels` how many numbers a sample has;
    `at_once` is the box of samples that is read of a record at a time, None where each is read whole.

    Args:
        modality: which.
        spec: width, depth, heads.
        scale: of the positions, see `PhysicalPosition`.
        style, mlp_ratio: of the trunk.
    """

    patch: tuple[int, ...] = ()
    at_once: tuple[int, ...] | None = None
    channels: int = 1
    answer_kind: Literal["continuous", "categorical"] = "continuous"
    answer_size: int = 0

    def __init__(
        self, modality: Modality, spec: EncoderFields, scale: tuple[float, float, float, float] = (1, 1, 1, 1),
        style: Style = PRE_NORM, mlp_ratio: float = 4.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.modality, self.width, self.causal = modality, spec.width, style.causal
        self.position = PhysicalPosition(spec.width, scale)
        self.blocks = Transformer(spec.width, spec.depth, spec.heads, mlp_ratio, style)

    @abstractmethod
    def embed(self, ragged: Ragged) -> Tokens:
        """Tokens before the trunk, with their positions: each of its own piece of a record and of nothing else."""

    def answer(self, ragged: Ragged) -> Tensor:
        """What masked reconstruction asks for, aligned with `embed`'s tokens: (n p), or (n,) int64."""
        raise NotImplementedError(f"{type(self).__name__} has no answer for masked reconstruction (answer_size is 0)")

    def pieces(self, ragged: Ragged) -> Tensor:
        """The samples of which each of `embed`'s tokens is made, as harmonised, in no other order and none changed.

        Returns:
            (n p), NaN where nothing was measured; p is `answer_size`.
        Raises:
            NotImplementedError: a token is made of more than it can be asked for (a slide's tile) or of no samples (words, events).
        """
        raise NotImplementedError(f"{type(self).__name__} has no pieces that a record could be put together of")

    def assembled(self, ragged: Ragged, pieces: Tensor) -> Tensor | list[Tensor]:
        """The way back of `pieces`: what the records' arrays would be.

        Args:
            ragged: whose values are read only as to which are there.
            pieces: (n p).
        Returns:
            as `ragged.values`; NaN where no piece says anything.
        """
        parts = [v.double() for v in ragged.values]
        sizes, there = [v.numel() for v in parts], torch.cat([v.flatten() for v in parts]).isfinite()
        # Where each sample goes is found by cutting the samples' own numbers into pieces.
        number = torch.arange(len(there), device=there.device).double().where(there, torch.nan)
        shaped = [n.view_as(v) for n, v in zip(number.split(sizes), parts, strict=True)]
        values = torch.stack(shaped) if isinstance(ragged.values, Tensor) else shaped
        seat = self.pieces(replace(ragged, values=values))
        known = seat.isfinite()
        flat = torch.full((len(there),), torch.nan, dtype=pieces.dtype, device=pieces.device)
        flat[seat[known].long()] = pieces[known]
        back = [part.view_as(v) for part, v in zip(flat.split(sizes), parts, strict=True)]
        return torch.stack(back) if isinstance(ragged.values, Tensor) else back

    def trunk(self, tokens: Tokens) -> Tokens:
        """Each record's tokens see each other; those of a causal trunk only what comes before them."""
        return with_values(tokens, self.blocks(tokens.values, Layout.of(tokens.record), self.place(tokens)))

    def place(self, tokens: Tokens) -> Tensor | None:
        """What the trunk's own positions, where it has any, are made of: the seconds or words within the record."""
        return tokens.position[:, 3]

    def forward(self, ragged: Ragged) -> Tokens:
        """Records → tokens (n d)."""
        return self.trunk(self.embed(ragged))

    def ended(self, ragged: Ragged) -> tuple[Tokens, Tokens]:
        """Records → tokens (n d), and those that a record is compared by: the same, but for an encoder that has some for that."""
        tokens = self(ragged)
        return tokens, tokens

    def tokens(
        self, ragged: Ragged, values: Tensor, record: Tensor, position: Tensor, time_h: Tensor | None = None
    ) -> Tokens:
        """Assemble tokens; their place and time are added to the values.

        Args:
            ragged: the records.
            values: (n d).
            record: (n,) row of the ragged, ascending.
            position: (n 4) float32, x y z in mm and s in seconds (or words).
            time_h: (n,), by default the record's.
        """
        patient = ragged.patient[record]
        hours = ragged.time_h[record] if time_h is None else time_h
        placed = values + self.position(self.placed(position), hours).to(values.dtype)
        number = torch.full_like(record, self.modality.number)
        return Tokens(placed, patient, number, record, position, hours, counts(patient, ragged.patients))

    def placed(self, position: Tensor) -> Tensor:
        """What of the positions (n 4) is added to the values."""
        return position


def grid_positions(shape: tuple[int, ...], patch: tuple[int, ...], spacing: Tensor) -> Tensor:
    """Centres of a grid of patches about the centre of the array, in mm.

    Args:
        shape: patches along (z y x) or (y x).
        patch: samples a patch along them.
        spacing: (m k) mm a sample along them.
    Returns:
        (m, patches, 4): x, y, z, 0.
    """
    device = spacing.device
    axes = [torch.arange(n, device=device, dtype=torch.float32) - (n - 1) / 2 for n in shape]
    index = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(shape))
    mm = index * torch.tensor(patch, device=device) * spacing[:, None].float()
    out = torch.zeros(*mm.shape[:2], 4, device=device)
    out[..., : len(shape)] = mm.flip(-1)  # (z y x) → x, y, z
    return out


def spacing_or(ragged: Ragged, nominal: tuple[float, ...]) -> Tensor:
    """(m k) the records' spacing; a nominal one, in the same axis order and unit, where a file had none."""
    otherwise = torch.tensor(nominal, device=ragged.patient.device).expand(len(ragged), -1)
    own = ragged.spacing
    return otherwise if own is None else torch.where(torch.isfinite(own), own, otherwise)


def normalised(patches: Tensor) -> Tensor:
    """Each patch (n p) about zero mean and unit variance: what masked image modelling asks for (He et al. 2022, 4.1)."""
    return (patches - patches.mean(1, keepdim=True)) / (patches.var(1, keepdim=True, correction=0) + 1e-2).sqrt()


def rows(m: int, each: int, device: torch.device) -> Tensor:
    """(m * each,) row numbers 0 0 0 1 1 1 …"""
    return torch.arange(m, device=device).repeat_interleave(each)


def rows_of(parts: Sequence[Tensor] | Tensor) -> Tensor:
    """(n,) row numbers of records of differing lengths: 0 0 0 1 2 2 …"""
    device = parts[0].device if len(parts) else None
    lengths = torch.tensor([len(part) for part in parts], device=device, dtype=torch.int64)
    return torch.arange(len(lengths), device=device).repeat_interleave(lengths)
