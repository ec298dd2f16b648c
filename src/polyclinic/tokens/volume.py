"""Volumes: boxes of voxels, placed in mm."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal, Self

from pydantic import PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from ..harmonise import Fingerprint, VolumeStandard
from ..schema import Modality, Ragged, Tokens
from .encoder import Encoder, EncoderFields, grid_positions, normalised, rows, spacing_or


class VolumeFields(EncoderFields, ABC):
    """What every encoder of volumes has: boxes of voxels that fill what the harmoniser gives.

    Args:
        size: (z y x) voxels.
        spacing_mm: (z y x); None: the data's median.
        window_hu, intensity, bias_field: the standard's: how a CT or an MR is made comparable.
    """

    size: tuple[PositiveInt, PositiveInt, PositiveInt] = (40, 56, 40)
    spacing_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = (1.0, 1.0, 1.0)
    window_hu: tuple[float, float] | None = None
    intensity: Literal["own", "fingerprint"] = "own"
    bias_field: bool = False

    @property
    @abstractmethod
    def boxes(self) -> tuple[int, int, int]:
        """(z y x) voxels a token."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if any(n % p for n, p in zip(self.size, self.boxes, strict=True)):
            raise ValueError(f"boxes of {self.boxes} do not fill a volume of {self.size}")
        return self

    def standard(self, exclude: tuple[str, ...] = ()) -> VolumeStandard:
        """What it wants from the harmoniser."""
        return VolumeStandard(
            size=self.size, spacing_mm=self.spacing_mm, window_hu=self.window_hu, intensity=self.intensity,
            bias_field=self.bias_field,
        )  # fmt: skip


class Vit3d(VolumeFields):
    """A vision transformer on volumes of `size` (z y x) at `spacing_mm`, in boxes of `patch`."""

    pieced: ClassVar[bool] = True
    kind: Literal["vit3d"] = "vit3d"
    patch: tuple[PositiveInt, PositiveInt, PositiveInt] = (8, 8, 8)

    @property
    def boxes(self) -> tuple[int, int, int]:
        """(z y x) voxels a token."""
        return self.patch

    def build(self, fingerprint: Fingerprint) -> VolumeEncoder:
        """The module, freshly initialised."""
        return VolumeEncoder(self)


class VolumeEncoder(Encoder):
    """(m 1 z y x) → m · (z / pz · y / py · x / px) tokens."""

    def __init__(self, spec: Vit3d) -> None:
        super().__init__(Modality.VOLUME, spec)
        self.patch, self.answer_size = spec.patch, math.prod(spec.patch)
        self.project = nn.Linear(self.answer_size, spec.width)

    def grid(self, values: Tensor) -> tuple[int, int, int]:
        """How many boxes along (z y x)."""
        z, y, x = (n // p for n, p in zip(values.shape[2:], self.patch, strict=True))
        return z, y, x

    def boxes(self, values: Tensor) -> Tensor:
        """(m 1 z y x) → (m n p)."""
        (z, y, x), (a, b, c) = self.grid(values), self.patch
        split = values.reshape(len(values), z, a, y, b, x, c)
        return split.permute(0, 1, 3, 5, 2, 4, 6).reshape(len(values), z * y * x, a * b * c)

    def embed(self, ragged: Ragged) -> Tokens:
        """One token a box."""
        assert isinstance(ragged.values, Tensor)
        boxes = self.boxes(ragged.values)
        m, n, _ = boxes.shape
        position = grid_positions(self.grid(ragged.values), self.patch, spacing_or(ragged, (1.0, 1.0, 1.0)))
        return self.tokens(ragged, self.project(boxes.flatten(0, 1)), rows(m, n, boxes.device), position.flatten(0, 1))

    def pieces(self, ragged: Ragged) -> Tensor:
        """(n p) boxes."""
        assert isinstance(ragged.values, Tensor)
        return self.boxes(ragged.values).flatten(0, 1)

    def answer(self, ragged: Ragged) -> Tensor:
        """(n p) standardised boxes."""
        return normalised(self.pieces(ragged))
