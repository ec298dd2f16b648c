"""Volumes slice by slice through somebody's network of images: 2.5-D, three neighbouring slices as its three channels."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from ..harmonise import Fingerprint
from ..schema import Modality, Ragged, Tokens
from . import snapshot
from .encoder import grid_positions, rows, spacing_or
from .pretrained import SightEncoder, SightFields, shown
from .volume import VolumeFields

CHANNELS = 3
"""Slices a picture (Roth et al. 2014)."""


class PretrainedSlices(VolumeFields, SightFields):
    """A network of images on a volume's axial slices, three at a time; the tokens of a volume see each other only after it.

    Args:
        size: (z y x) voxels, z in threes.
    """

    kind: Literal["pretrained_slices"] = "pretrained_slices"
    read = ("width", "patch")
    size: tuple[PositiveInt, PositiveInt, PositiveInt] = (48, 224, 224)
    spacing_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = (5.0, 1.0, 1.0)
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
