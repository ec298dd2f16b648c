"""Merged attention: all tokens of a patient see each other in one trunk (METER's name for it, Dou et al. 2022)."""

from __future__ import annotations

import torch
from torch import nn

from ..schema import Fused, Tokens
from ..tokens import Layout, Transformer
from ..tokens.packing import with_values
from .beside import Beside
from .fusion import Fusion
from .pooling import balanced


class SelfAttentionFusion(Fusion):
    """A trunk over each patient's bag.

    Args:
        width: d.
        depth, heads: of the trunk.
        latents: k learned tokens that join each patient's, and whose mean answers for them; 0 where the tokens' mean does.
    """

    def __init__(self, width: int, depth: int, heads: int, latents: int) -> None:
        super().__init__()
        self.trunk = Transformer(width, depth, heads)
        self.latents = nn.Parameter(torch.randn(latents, width) * 0.1) if latents else None

    def forward(self, tokens: Tokens) -> Fused:
        """Tokens (n d) → the same tokens having seen each other, and (b d)."""
        present = tokens.lengths > 0
        if self.latents is None:
            seen = with_values(tokens, self.trunk(tokens.values, Layout.of(tokens.patient)))
            return Fused(seen, balanced(seen), present)
        beside = Beside.of(tokens.patient, len(self.latents))
        both = beside.join(tokens.values, self.latents.expand(len(beside.who), -1, -1))
        values, answers = beside.part(self.trunk(both, beside.layout))
        pooled = values.new_zeros(len(present), values.shape[1]).index_copy(0, beside.who, answers.mean(1))
        return Fused(with_values(tokens, values), pooled, present)
