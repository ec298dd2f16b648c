"""Volumes: boxes of voxels, placed in mm."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from ..harmonise import Fingerprint, VolumeStandard
from ..schema import Modality, Ragged, Tokens
from .encoder import Encoder, EncoderFields, grid_positions, normalised, rows, spacing_or

NOMINAL_MM = (1.0, 1.0, 1.0)
"""A voxel's (z y x), where a file does not say."""


class VolumeFields(EncoderFields, ABC):
    """What every encoder of volumes has: boxes of voxels that fill what the harmoniser gives.

    Args:
        size: (z y x) voxels.
        whole: volumes are read whole, a box of `size` at a time: training draws one, where there are masks every third about a
            structure; a segmentation asks boxes that overlap and blends what they say (Isensee et al. 2021, nnU-Net); all else
            reads the box in the middle.
        spacing_mm: (z y x); None: the data's median.
        window_hu, intensity, bias_field: the standard's: how a CT or an MR is made comparable.
    """

    size: tuple[PositiveInt, PositiveInt, PositiveInt] = (40, 56, 40)
    whole: bool = False
    spacing_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = (1.0, 1.0, 1.0)
    window_hu: tuple[float, float] | None = None
    intensity: Literal["own", "fingerprint"] = "own"
    bias_field: bool = False

    @property
    @abstractmethod
    def boxes(self) -> tuple[int, int, int]:
        """(z y x) voxels a token."""

    @property
    def at_once(self) -> tuple[int, int, int] | None:
        """The box that is read of a whole volume at a time; None where `size` is all that is read."""
        return self.size if self.whole else None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if any(n % p for n, p in zip(self.size, self.boxes, strict=True)):
            raise ValueError(f"boxes of {self.boxes} do not fill a volume of {self.size}")
        return self

    def standard(self, exclude: tuple[str, ...] = ()) -> VolumeStandard:
        """What it wants from the harmoniser."""
        return VolumeStandard(
            size=None if self.whole else self.size, box=self.size if self.whole else None, spacing_mm=self.spacing_mm,
            window_hu=self.window_hu, intensity=self.intensity, bias_field=self.bias_field,
        )  # fmt: skip


class Vit3d(VolumeFields):
    """A vision transformer on volumes of `size` (z y x) at `spacing_mm`, in boxes of `patch`.

    Args:
        patch: (z y x) voxels a token.
        scales: how many times coarser voxels the boxes are cut from; of several, tokens of all see each other. Boxes of scale 2 are
            twice as large in mm, and there are an eighth as many.
    """

    pieced: ClassVar[bool] = True
    kind: Literal["vit3d"] = "vit3d"
    patch: tuple[PositiveInt, PositiveInt, PositiveInt] = (8, 8, 8)
    scales: tuple[PositiveInt, ...] = Field(default=(1,), min_length=1)

    @property
    def boxes(self) -> tuple[int, int, int]:
        """(z y x) voxels a token."""
        return self.patch

    @model_validator(mode="after")
    def _fill(self) -> Self:
        for scale in self.scales:
            if any(n % (p * scale) for n, p in zip(self.size, self.patch, strict=True)):
                raise ValueError(f"boxes of {self.patch} at scale {scale} do not fill a volume of {self.size}")
        if len(set(self.scales)) < len(self.scales):
            raise ValueError(f"scales {self.scales}: one of them twice")
        return self

    def build(self, fingerprint: Fingerprint) -> Encoder:
        """The module, freshly initialised."""
        return VolumeEncoder(self) if self.scales == (1,) else ScalesEncoder(self)


def grid_of(values: Tensor, patch: tuple[int, ...]) -> tuple[int, int, int]:
    """How many boxes of (m 1 z y x) along (z y x)."""
    z, y, x = (n // p for n, p in zip(values.shape[2:], patch, strict=True))
    return z, y, x


def boxes_of(values: Tensor, patch: tuple[int, ...]) -> Tensor:
    """(m 1 z y x) → (m n p)."""
    (z, y, x), (a, b, c) = grid_of(values, patch), patch
    split = values.reshape(len(values), z, a, y, b, x, c)
    return split.permute(0, 1, 3, 5, 2, 4, 6).reshape(len(values), z * y * x, a * b * c)


class VolumeEncoder(Encoder):
    """(m 1 z y x) → m · (z / pz · y / py · x / px) tokens."""

    def __init__(self, spec: Vit3d) -> None:
        super().__init__(Modality.VOLUME, spec)
        self.patch, self.answer_size, self.at_once = spec.patch, math.prod(spec.patch), spec.at_once
        self.project = nn.Linear(self.answer_size, spec.width)

    def embed(self, ragged: Ragged) -> Tokens:
        """One token a box."""
        assert isinstance(ragged.values, Tensor)
        boxes = boxes_of(ragged.values, self.patch)
        m, n, _ = boxes.shape
        position = grid_positions(grid_of(ragged.values, self.patch), self.patch, spacing_or(ragged, NOMINAL_MM))
        return self.tokens(ragged, self.project(boxes.flatten(0, 1)), rows(m, n, boxes.device), position.flatten(0, 1))

    def pieces(self, ragged: Ragged) -> Tensor:
        """(n p) boxes."""
        assert isinstance(ragged.values, Tensor)
        return boxes_of(ragged.values, self.patch).flatten(0, 1)

    def answer(self, ragged: Ragged) -> Tensor:
        """(n p) standardised boxes."""
        return normalised(self.pieces(ragged))


class ScalesEncoder(Encoder):
    """(m 1 z y x) → of each volume the tokens of every scale, one scale after the other: boxes of as many voxels, finer or coarser.

    After the multi-scale CTViT of M3FM (Niu et al., Nature Communications 2025), which has a projection for each scale and one trunk
    for all. A box's place is in mm at every scale.

    They lie on no one grid, so that no mask can be decoded of them. Where tokens are hidden, what a box held may be seen coarser at
    another scale.
    """

    def __init__(self, spec: Vit3d) -> None:
        super().__init__(Modality.VOLUME, spec)
        self.box, self.scales, self.answer_size = spec.patch, spec.scales, math.prod(spec.patch)
        self.project = nn.ModuleList([nn.Linear(self.answer_size, spec.width) for _ in spec.scales])

    def at(self, values: Tensor, scale: int) -> Tensor:
        """(m 1 z y x) → (m 1 z/s y/s x/s), each voxel the mean of s³."""
        return F.avg_pool3d(values, scale) if scale > 1 else values

    def embed(self, ragged: Ragged) -> Tokens:
        """One token a box of each scale."""
        assert isinstance(ragged.values, Tensor)
        spacing, values, places = spacing_or(ragged, NOMINAL_MM), [], []
        for scale, project in zip(self.scales, self.project, strict=True):
            seen = self.at(ragged.values, scale)
            values.append(project(boxes_of(seen, self.box)))
            places.append(grid_positions(grid_of(seen, self.box), self.box, spacing * scale))
        value, place = torch.cat(values, 1), torch.cat(places, 1)
        m, n, _ = value.shape
        return self.tokens(ragged, value.flatten(0, 1), rows(m, n, value.device), place.flatten(0, 1))

    def answer(self, ragged: Ragged) -> Tensor:
        """(n p) standardised boxes, each of its own scale's voxels."""
        assert isinstance(ragged.values, Tensor)
        boxes = torch.cat([boxes_of(self.at(ragged.values, scale), self.box) for scale in self.scales], 1)
        return normalised(boxes.flatten(0, 1))
