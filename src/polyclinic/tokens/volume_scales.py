"""Volumes at several scales: boxes of as many voxels, that are finer or coarser, in one bag.

After the multi-scale CTViT of M3FM (Niu et al., Nature Communications 2025), which has a projection for each scale and one trunk for
all. A box's place is in mm at every scale.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..schema import Modality, Ragged, Tokens
from .encoder import Encoder, grid_positions, normalised, rows, spacing_or
from .volume import NOMINAL_MM, Vit3d, boxes_of, grid_of


class ScalesEncoder(Encoder):
    """(m 1 z y x) → of each volume the tokens of every scale, one scale after the other.

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
