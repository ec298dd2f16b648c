"""Co-attention: each modality's tokens look at the others' (ViLBERT, Lu et al. 2019; METER, Dou et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..schema import Fused, Modality, Tokens
from ..tokens import Context, Layout, Transformer
from .fusion import Fusion
from .pooling import balanced
from .streams import Stream, merged, own, streams


class CrossAttentionFusion(Fusion):
    """A trunk a modality: in each block its tokens see each other, and then those of the patient's other modalities.

        image  x ──self-attention──(+)──cross-attention──(+)──perceptron──(+)──
                                             │ the patient's words and cells, as they were before this block
        text   x ──self-attention──(+)──cross-attention──(+)──perceptron──(+)──

    A block is METER's, with the norms before the sums. With two modalities it is theirs; with more, each looks at all others at
    once. A patient's only modality hears nothing: its tokens are what its trunk makes of them.

    Args:
        width: d.
        depth, heads: of each trunk.
        modalities: that have one.
    """

    def __init__(self, width: int, depth: int, heads: int, modalities: Sequence[Modality]) -> None:
        super().__init__()
        self.depth = depth
        self.trunks = own(modalities, lambda: Transformer(width, depth, heads, context=width))

    def forward(self, tokens: Tokens) -> Fused:
        """Tokens (n d) → the same tokens having seen the other modalities', and (b d)."""
        parts = streams(tokens)
        trunk: dict[Modality, Transformer] = {m: self.trunks[m.value] for m in parts}  # type: ignore[misc]
        sight = {m: trunk[m].sight(Layout.of(part.patient)) for m, part in parts.items()}
        others = {m: _others(tokens, m, part) for m, part in parts.items()}
        around = {m: Layout.pair(part.patient, tokens.patient[others[m]]) for m, part in parts.items()}
        x = {m: part.of(tokens.values) for m, part in parts.items()}
        for block in range(self.depth):
            # Normed without weights of its own: the projection to keys and values has them.
            bag = F.layer_norm(merged(tokens, parts, x).values, tokens.values.shape[1:])
            context = {m: Context(bag.index_select(0, others[m]), *around[m]) for m in parts}
            x = {m: trunk[m].blocks[block](x[m], sight[m], context[m]) for m in parts}
        seen = merged(tokens, parts, {m: trunk[m].norm(x[m]) for m in parts})
        return Fused(seen, balanced(seen), tokens.lengths > 0)


def _others(tokens: Tokens, modality: Modality, part: Stream) -> Tensor:
    """(m,) int64, ascending: the other modalities' tokens of the patients who have this one."""
    has = torch.zeros_like(tokens.lengths, dtype=torch.bool).index_fill(0, part.patient, True)
    return torch.nonzero((tokens.modality != modality.number) & has[tokens.patient]).flatten()
