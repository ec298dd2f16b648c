"""Attention bottlenecks: modalities tell each other what fits into a few tokens (MBT, Nagrani et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..schema import Fused, Modality, Tokens
from ..tokens import Transformer
from .beside import Beside
from .fusion import Fusion
from .pooling import balanced
from .streams import merged, own, streams


class BottleneckFusion(Fusion):
    """A trunk a modality. In each block its tokens and the patient's k bottleneck tokens see each other; the bottleneck is then the
    mean of what the patient's modalities made of it.

    A patient's only modality has the bottleneck for itself. MBT averages its modalities' class tokens to answer; here it is the
    mean of each modality's tokens that is averaged.

    Args:
        width: d.
        depth, heads: of each trunk.
        latents: k.
        modalities: that have a trunk.
    """

    def __init__(self, width: int, depth: int, heads: int, latents: int, modalities: Sequence[Modality]) -> None:
        super().__init__()
        self.depth = depth
        self.latents = nn.Parameter(torch.randn(latents, width) * 0.1)
        self.trunks = own(modalities, lambda: Transformer(width, depth, heads))

    def forward(self, tokens: Tokens) -> Fused:
        """Tokens (n d) → the same tokens having seen the bottleneck, and (b d)."""
        parts, b = streams(tokens), len(tokens.lengths)
        trunk: dict[Modality, Transformer] = {m: self.trunks[m.value] for m in parts}  # type: ignore[misc]
        beside = {m: Beside.of(part.patient, len(self.latents)) for m, part in parts.items()}
        sight = {m: trunk[m].sight(beside[m].layout) for m in parts}
        # How many modalities each patient has.
        voices = torch.bincount(torch.cat([tokens.patient[:0], *(side.who for side in beside.values())]), minlength=b)
        x = {m: part.of(tokens.values) for m, part in parts.items()}
        between = self.latents.expand(b, -1, -1)  # (b k d)
        for block in range(self.depth):
            told = torch.zeros_like(between)
            for m in parts:
                both = beside[m].join(x[m], between.index_select(0, beside[m].who))
                x[m], said = beside[m].part(trunk[m].blocks[block](both, sight[m]))
                told = told.index_add(0, beside[m].who, said.to(told.dtype))
            between = told / voices.clamp(min=1)[:, None, None]
        seen = merged(tokens, parts, {m: trunk[m].norm(x[m]) for m in parts})
        return Fused(seen, balanced(seen), tokens.lengths > 0)
