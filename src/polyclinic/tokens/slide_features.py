"""Slides whose tiles another network has made features of: a token a tile, placed by nothing but its distances to the others."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..harmonise import Fingerprint, SlideFeaturesStandard
from ..schema import Modality, Ragged, Tokens
from .encoder import Encoder, EncoderFields, normalised, rows_of
from .transformer import Style


class Titan(EncoderFields):
    """A Transformer with ALiBi in the plane on the features of a slide's tiles (Ding et al. 2025); see `models/systems/titan.py`.

    Args:
        features: of a tile, as the files have them.
        size: pixels of a tile's side, at
        mpp: µm a pixel. It is the unit of distances, whatever the tiles of a file; and a file's that has no scale.
        most: tiles of a slide.
    """

    kind: Literal["titan"] = "titan"
    features: int = Field(default=768, ge=1)
    size: int = Field(default=512, ge=1)
    mpp: float = Field(default=0.5, gt=0)
    most: int = Field(default=4096, ge=1)

    @property
    def side_mm(self) -> float:
        """Of a tile."""
        return self.size * self.mpp / 1000

    def standard(self, exclude: tuple[str, ...] = ()) -> SlideFeaturesStandard:
        """What it wants from the harmoniser."""
        return SlideFeaturesStandard(features=self.features, side_mm=self.side_mm, most=self.most)

    def build(self, fingerprint: Fingerprint) -> TitanEncoder:
        """The module, freshly initialised."""
        return TitanEncoder(self)


class TitanEncoder(Encoder):
    """m slides of (n f) features → a token a tile."""

    def __init__(self, spec: Titan) -> None:
        side = spec.side_mm
        super().__init__(Modality.SLIDE, spec, scale=(side, side, side, 1.0), style=Style(alibi=True))
        self.answer_size, self.side_mm = spec.features, side
        self.project = nn.Linear(spec.features, spec.width)

    def embed(self, ragged: Ragged) -> Tokens:
        """One token a tile."""
        assert ragged.places is not None
        # Where a scanner puts the slide's origin says nothing of the tissue.
        position = torch.cat([place - place.mean(0, keepdim=True) for place in ragged.places])
        return self.tokens(ragged, self.project(torch.cat(list(ragged.values))), rows_of(ragged.values), position)

    def placed(self, position: Tensor) -> Tensor:
        """Nothing of them is added to the values: a grid larger than any of training has no place that was never seen."""
        return torch.zeros_like(position)

    def place(self, tokens: Tokens) -> Tensor:
        """(n 2) where the tiles lie, in sides of a tile."""
        return tokens.position[:, :2] / self.side_mm

    def answer(self, ragged: Ragged) -> Tensor:
        """(n f) each tile's features, standardised."""
        return normalised(torch.cat(list(ragged.values)).float())
