"""What every encoder is: `embed` makes tokens of records, `trunk` lets each record's tokens see each other."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from ..schema import Modality, Ragged, Tokens
from .packing import Layout, counts, with_values
from .position import PhysicalPosition
from .transformer import Transformer


class EncoderFields(BaseModel):
    """The fields that every encoder's specification has."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    width: int = Field(default=128, ge=8)
    depth: int = Field(default=4, ge=0)
    heads: int = Field(default=4, ge=1)

    @model_validator(mode="after")
    def _divides(self) -> Any:
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.width}")
        return self


class Encoder(nn.Module):
    """Records of one modality → tokens.

    A subclass gives `embed` (and, where masked reconstruction should ask for it, `answer`).

    Args:
        modality: which.
        spec: width, depth, heads.
        scale: of the positions, see `PhysicalPosition`.
    """

    answer_kind: Literal["continuous", "categorical"] = "continuous"
    answer_size: int = 0

    def __init__(
        self, modality: Modality, spec: EncoderFields, scale: tuple[float, float, float, float] = (1, 1, 1, 1)
    ) -> None:
        super().__init__()
        self.modality, self.width = modality, spec.width
        self.position = PhysicalPosition(spec.width, scale)
        self.blocks = Transformer(spec.width, spec.depth, spec.heads)

    def embed(self, ragged: Ragged) -> Tokens:
        """Tokens before the trunk, with their positions."""
        raise TypeError(f"{type(self).__name__} does not say how it embeds a record")

    def answer(self, ragged: Ragged) -> Tensor:
        """What masked reconstruction asks for, aligned with `embed`'s tokens: (n p), or (n,) int64."""
        raise TypeError(f"{type(self).__name__} has no answer for masked reconstruction")

    def trunk(self, tokens: Tokens) -> Tokens:
        """Each record's tokens see each other."""
        return with_values(tokens, self.blocks(tokens.values, Layout.of(tokens.record)))

    def forward(self, ragged: Ragged) -> Tokens:
        """Records → tokens (n d)."""
        return self.trunk(self.embed(ragged))

    def tokens(
        self, ragged: Ragged, values: Tensor, record: Tensor, position: Tensor, time_h: Tensor | None = None
    ) -> Tokens:
        """Assemble tokens; their place and time are added to the values.

        Args:
            ragged: the records.
            values: (n d).
            record: (n,) row of the ragged, ascending.
            position: (n 4).
            time_h: (n,), by default the record's.
        """
        patient = ragged.patient[record]
        hours = ragged.time_h[record] if time_h is None else time_h
        placed = values + self.position(position, hours).to(values.dtype)
        number = torch.full_like(record, self.modality.number)
        return Tokens(placed, patient, number, record, position, hours, counts(patient, ragged.patients))


def grid_positions(shape: tuple[int, ...], patch: tuple[int, ...], spacing: Tensor) -> Tensor:
    """Centres of a grid of patches about the centre of the array, in mm.

    Args:
        shape: patches along (z y x) or (y x).
        patch: samples a patch along them.
        spacing: (m k) mm a sample along them.
    Returns:
        (m, patches, 4): x, y, z, 0.
    """
    axes = [torch.arange(n, device=spacing.device, dtype=torch.float32) for n in shape]
    index = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(shape))
    extent = torch.tensor(patch, dtype=torch.float32, device=spacing.device)
    middle = (torch.tensor(shape, dtype=torch.float32, device=spacing.device) - 1) / 2
    mm = (index - middle)[None] * extent * spacing[:, None]
    out = torch.zeros(len(spacing), len(index), 4, device=spacing.device)
    for axis in range(len(shape)):
        out[..., len(shape) - 1 - axis] = mm[..., axis]
    return out


def normalised(patches: Tensor) -> Tensor:
    """Each patch (n p) about zero mean and unit variance: what masked image modelling asks for (He et al. 2022, 4.1)."""
    return (patches - patches.mean(1, keepdim=True)) / (patches.var(1, keepdim=True) + 1e-2).sqrt()


def rows(m: int, each: int, device: torch.device) -> Tensor:
    """(m * each,) row numbers 0 0 0 1 1 1 …"""
    return torch.arange(m, device=device).repeat_interleave(each)
