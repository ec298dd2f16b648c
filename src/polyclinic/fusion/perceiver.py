"""Shared latents: a few learned vectors read the whole bag and answer for it (Perceiver, Jaegle et al. 2021)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..schema import Fused, Tokens
from ..tokens import Context, Layout, Transformer
from .fusion import Fusion


class PerceiverFusion(Fusion):
    """Each patient's k latents look at its tokens once and then, in `depth` blocks, at each other; their mean answers.

    The one look is Perceiver IO's encoder (Jaegle et al. 2022). The work grows with the tokens and not with their
    square; the tokens stay as they are and hear nothing of each other.

    Args:
        width: d.
        depth, heads: of the trunk over the latents.
        latents: k.
    """

    def __init__(self, width: int, depth: int, heads: int, latents: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(latents, width) * 0.1)
        self.read = Transformer(width, 1, heads, context=width)
        self.trunk = Transformer(width, depth, heads)

    def forward(self, tokens: Tokens) -> Fused:
        """Tokens (n d) → the same tokens, and (b d)."""
        (k, d), who = self.latents.shape, torch.unique_consecutive(tokens.patient)
        owner = who.repeat_interleave(k)
        layout = Layout.of(owner)
        # Normed without weights of its own: the projection to keys and values has them.
        context = Context.of(owner, F.layer_norm(tokens.values, (d,)), tokens.patient)
        latents = self.read(self.latents.repeat(len(who), 1), layout, context=context)
        answers = self.trunk(latents, layout).view(len(who), k, d).mean(1)
        pooled = answers.new_zeros(len(tokens.lengths), d).index_copy(0, who, answers)
        return Fused(tokens, pooled, tokens.lengths > 0)
