"""Volumes slice by slice through somebody's network of images: 2.5-D, three neighbouring slices as its three channels."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from ..harmonise import Fingerprint, VolumeStandard
from ..schema import Modality, Ragged, Tokens
from . import snapshot
from .encoder import grid_positions, rows, spacing_or
from .pretrained import SightEncoder, SightFields, shown

CHANNELS = 3
"""Slices a picture (Roth et al. 2014)."""


class PretrainedSlices(SightFields):
    """A network of images on a volume's axial slices, three at a time; the tokens of a volume see each other only after it.

    Args:
        size: (z y x) voxels, z in threes.
        spacing_mm: (z y x); None: the data's median.
        window_hu, intensity, bias_field: the standard's: how a CT or an MR is made comparable.
    """

    kind: Literal["pretrained_slices"] = "pretrained_slices"
    read = ("width", "patch")
    size: tuple[PositiveInt, PositiveInt, PositiveInt] = (48, 224, 224)
    spacing_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = (5.0, 1.0, 1.0)
    window_hu: tuple[float, float] | None = None
    intensity: Literal["own", "fingerprint"] = "own"
    bias_field: bool = False
    depth: int = Field(default=1, ge=0)

    @classmethod
    def told(cls, folder: Path) -> dict[str, int]:
        """Width and patch."""
        _, config = snapshot.settings(folder, cls.known)
        return {"width": config.hidden_size, "patch": config.patch_size}

    @property
    def boxes(self) -> tuple[int, int, int]:
        """(z y x) voxels a token."""
        return CHANNELS, self.patch, self.patch

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

    def build(self, fingerprint: Fingerprint) -> PretrainedSlicesEncoder:
        """The module, with the snapshot's weights."""
        return PretrainedSlicesEncoder(self)


class PretrainedSlicesEncoder(SightEncoder):
    """(m 1 z y x) → m · (z / 3 · y / patch · x / patch) tokens, each of a box of three slices."""

    def __init__(self, spec: PretrainedSlices) -> None:
        super().__init__(Modality.VOLUME, spec, spec.size[1:])
        self.patch = spec.boxes

    def embed(self, ragged: Ragged) -> Tokens:
        """One token a box, after the whole network: it has seen its three slices and no other."""
        assert isinstance(ragged.values, Tensor)
        (m, _, *size), (c, p, _) = ragged.values.shape, self.patch
        z, y, x = size[0] // c, size[1] // p, size[2] // p
        hidden = self.look(shown(ragged.values).reshape(m * z, c, *size[1:]))[:, self.skipped :]
        position = grid_positions((z, y, x), self.patch, spacing_or(ragged, (1.0, 1.0, 1.0)))
        record = rows(m, z * y * x, hidden.device)
        return self.tokens(ragged, hidden.flatten(0, 1), record, position.flatten(0, 1))
