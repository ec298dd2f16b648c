"""The one Transformer, used by every encoder, fusion and decoder (Vaswani et al. 2017; pre-norm after Xiong et al. 2020).

    x ──LN──qkv──attention (each sequence alone)──out──(+)──LN──up──GELU──down──(+)── …  (n d) throughout

Tokens stay packed (n d): norms, linear layers and activations never touch padding. Attention takes a kernel by length: below
a few hundred tokens two batched products and a softmax are several times faster, forward and backward, than the fused kernel on
a CPU; above, the fused one saves memory.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .packing import Bucketed, Layout, Whole

FUSED_FROM = 384
"""Tokens a sequence from which the fused attention kernel is used on a CPU. Measured: in bf16 its backward is several times
dearer below; in fp32 the two are equal from 128 to 512, and it wins above."""


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Attention of one bucket.

    Args:
        q, k, v: (s h l e), contiguous.
        bias: (s 1 1 l), 0 or -inf.
    Returns:
        (s h l e)
    """
    s, h, length, e = q.shape
    if length >= FUSED_FROM or q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.to(q.dtype))
    q, k, v = (x.flatten(0, 1) for x in (q / math.sqrt(e), k.transpose(2, 3), v))
    if bias is None:
        scores = torch.bmm(q, k)
    else:
        scores = torch.baddbmm(bias.to(q.dtype).expand(s, h, 1, length).reshape(s * h, 1, length), q, k)
    return torch.bmm(torch.softmax(scores, dim=-1, dtype=scores.dtype), v).view(s, h, length, e)


class Attention(nn.Module):
    """Multi-head self-attention within the sequences of a layout.

    Args:
        width: d.
        heads: h; each has width d / h.
    Raises:
        ValueError: heads do not divide the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}")
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, heads: Whole | Bucketed) -> Tensor:
        """(n d) → (n d)."""
        return self.out(heads.merge([attend(*side) for side in heads.split(self.qkv(x))]))


class Block(nn.Module):
    """Attention and a two-layer perceptron, each normed before and added after."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, int(mlp_ratio * width))
        self.down = nn.Linear(int(mlp_ratio * width), width)

    def forward(self, x: Tensor, heads: Whole | Bucketed) -> Tensor:
        """(n d) → (n d)."""
        x = x + self.attention(self.norm1(x), heads)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """`depth` blocks and a final norm over packed tokens.

    Args:
        width: d.
        depth: blocks.
        heads: attention heads.
        mlp_ratio: hidden width of the perceptron over d.
    """

    def __init__(self, width: int, depth: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.heads = heads
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                # Residual branches start small (Radford et al. 2019, section 2.3).
                shrink = 1 / math.sqrt(2 * depth) if name.endswith(("out", "down")) else 1.0
                nn.init.normal_(module.weight, std=shrink * (2 / (module.in_features + module.out_features)) ** 0.5)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """(n d) → (n d); tokens see those of their own sequence."""
        heads = layout.heads(self.heads)
        for block in self.blocks:
            x = block(x, heads)
        return self.norm(x)
