"""Slides: a token a tile, placed in mm; what the slide is, is told by its tiles together (HIPT, Chen et al. 2022)."""

from __future__ import annotations

from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..harmonise import Fingerprint, SlideStandard
from ..schema import Modality, Ragged, Tokens
from .encoder import Encoder, EncoderFields, grid_positions, normalised, rows, rows_of, spacing_or
from .image import squares
from .layout import Layout
from .position import PhysicalPosition
from .transformer import Transformer


class SlideVit(EncoderFields):
    """A transformer on a slide's tiles, each made a token by a smaller one on its patches.

    Args:
        size: pixels of a tile's side.
        mpp: µm a pixel.
        most: tiles of a slide.
        tissue: of a tile's area, at least.
        stain: to whose colours each slide's are taken, see `SlideStandard`.
        patch: pixels of a patch's side.
        tile_depth: blocks of the transformer within a tile.
    """

    kind: Literal["slide_vit"] = "slide_vit"
    size: int = Field(default=112, ge=8)
    mpp: float = Field(default=1.0, gt=0)
    most: int = Field(default=32, ge=1)
    tissue: float = Field(default=0.5, ge=0, le=1)
    stain: Literal["none", "macenko", "reinhard"] = "none"
    patch: int = Field(default=16, ge=2)
    tile_depth: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.size % self.patch:
            raise ValueError(f"patches of {self.patch} do not fill a tile of {self.size}")
        return self

    def standard(self, exclude: tuple[str, ...] = ()) -> SlideStandard:
        """What it wants from the harmoniser."""
        return SlideStandard(mpp=self.mpp, size=self.size, most=self.most, tissue=self.tissue, stain=self.stain)

    def build(self, fingerprint: Fingerprint) -> SlideEncoder:
        """The module, freshly initialised."""
        return SlideEncoder(self)


class Stem(nn.Module):
    """Tiles → a vector each: their patches see each other, and the mean of them stands for the tile."""

    def __init__(self, spec: SlideVit) -> None:
        super().__init__()
        patch_mm = spec.patch * spec.mpp / 1000
        self.patch = spec.patch
        self.project = nn.Linear(3 * spec.patch**2, spec.width)
        self.position = PhysicalPosition(spec.width, (patch_mm, patch_mm, patch_mm, 1.0))
        self.blocks = Transformer(spec.width, spec.tile_depth, spec.heads)

    def forward(self, tiles: Tensor, spacing_mm: Tensor) -> Tensor:
        """(n 3 y x) 0..255 and (n 2) mm a pixel (y x) → (n d)."""
        patches = squares(tiles.float() / 127.5 - 1, self.patch)
        n, each, _ = patches.shape
        grid = (tiles.shape[2] // self.patch, tiles.shape[3] // self.patch)
        place = grid_positions(grid, (self.patch, self.patch), spacing_mm).flatten(0, 1)
        values = self.project(patches.flatten(0, 1))
        values = values + self.position(place, torch.zeros_like(place[:, 0])).to(values.dtype)
        return self.blocks(values, Layout.of(rows(n, each, tiles.device))).view(n, each, -1).mean(1)


class SlideEncoder(Encoder):
    """m slides of (n 3 y x) uint8 tiles → a token a tile, about the middle of the slide's tiles."""

    def __init__(self, spec: SlideVit) -> None:
        tile_mm = spec.size * spec.mpp / 1000
        super().__init__(Modality.SLIDE, spec, scale=(tile_mm, tile_mm, tile_mm, 1.0))
        self.side, self.nominal_mm = spec.patch, spec.mpp / 1000
        self.answer_size = 3 * (spec.size // spec.patch) ** 2
        self.stem = Stem(spec)

    def embed(self, ragged: Ragged) -> Tokens:
        """One token a tile."""
        assert ragged.places is not None
        record = rows_of(ragged.values)
        spacing = spacing_or(ragged, (self.nominal_mm, self.nominal_mm))[record]
        # Where a scanner puts the slide's origin says nothing of the tissue.
        position = torch.cat([place - place.mean(0, keepdim=True) for place in ragged.places])
        return self.tokens(ragged, self.stem(torch.cat(list(ragged.values)), spacing), record, position)

    def answer(self, ragged: Ragged) -> Tensor:
        """(n p) each tile's thumbnail of one pixel a patch, standardised: all of its pixels are more than one token can hold."""
        tiles = torch.cat(list(ragged.values)).float()
        return normalised(F.avg_pool2d(tiles / 255, self.side).flatten(1))
