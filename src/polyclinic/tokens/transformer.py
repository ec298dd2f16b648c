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

from .packing import Layout

FUSED_FROM = 384
"""Tokens a sequence from which the fused attention kernel is used (measured on two Zen 4 cores, bf16)."""


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Attention of one bucket.

    Args:
        q, k, v: (s h l e).
        bias: (s 1 1 l), 0 or -inf.
    Returns:
        (s h l e)
    """
    if q.shape[2] >= FUSED_FROM or q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.to(q.dtype))
    scores = (q * (1.0 / math.sqrt(q.shape[-1]))) @ k.transpose(-2, -1)
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    return torch.softmax(scores, dim=-1, dtype=scores.dtype) @ v


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
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """(n d) → (n d)."""
        n, d = x.shape
        qkv = self.qkv(x)
        if layout.whole is not None:
            s, length = layout.whole
            q, k, v = qkv.view(s, length, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
            return self.out(attend(q, k, v, None).transpose(1, 2).reshape(n, d))
        mixed = torch.empty(n, d, dtype=qkv.dtype, device=qkv.device)
        parts, places = [], []
        for bucket in layout.buckets:
            s, length = bucket.place.shape
            padded = qkv[bucket.place.reshape(-1)].view(s, length, 3, self.heads, d // self.heads)
            q, k, v = padded.permute(2, 0, 3, 1, 4).unbind(0)
            answer = attend(q, k, v, bucket.bias).transpose(1, 2).reshape(s, length, d)
            inside = bucket.inside
            parts.append(answer.reshape(-1, d) if inside is None else answer[inside])
            places.append(bucket.place.reshape(-1) if inside is None else bucket.place[inside])
        mixed = mixed.index_copy(0, torch.cat(places), torch.cat(parts))
        return self.out(mixed)


class Block(nn.Module):
    """Attention and a two-layer perceptron, each normed before and added after."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, int(mlp_ratio * width))
        self.down = nn.Linear(int(mlp_ratio * width), width)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """(n d) → (n d)."""
        x = x + self.attention(self.norm1(x), layout)
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
        for block in self.blocks:
            x = block(x, layout)
        return self.norm(x)
