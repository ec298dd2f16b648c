"""Late fusion: one vector a modality, then one a patient."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from ..schema import Fused, Tokens
from .fusion import Fusion, FusionFields
from .pooling import by_modality


class Late(FusionFields):
    """How the modalities' vectors meet: their mean, or a mean weighted by a learned gate (Arevalo et al. 2017)."""

    kind: Literal["late"] = "late"
    style: Literal["mean", "gated"] = "mean"

    def build(self, width: int) -> LateFusion:
        """The module, freshly initialised."""
        return LateFusion(self, width)


class LateFusion(Fusion):
    """Tokens of different modalities never see each other."""

    def __init__(self, spec: Late, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, 1) if spec.style == "gated" else None

    def forward(self, tokens: Tokens) -> Fused:
        """Tokens (n d) → the same tokens, and (b d)."""
        means, there = by_modality(tokens)
        scores = self.gate(means).squeeze(2) if self.gate is not None else means.new_zeros(there.shape)
        # Not -inf: of a patient without anything nine zeros are weighed alike, and nothing is divided by nothing.
        weights = torch.softmax(scores.masked_fill(~there, torch.finfo(scores.dtype).min), dim=1)
        return Fused(tokens, (weights[:, :, None] * means).sum(1), tokens.lengths > 0)
