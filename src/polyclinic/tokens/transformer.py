"""The one Transformer, used by every encoder, fusion and decoder (Vaswani et al. 2017).

    pre   x ──norm──qkv──attention (each sequence alone)──out──(+)── [norm──cross-attention──(+)] ──norm──up──act──down──(+)── … ──norm
    post  x ──qkv──attention──out──(+)──norm── [cross-attention──(+)──norm] ──up──act──down──(+)──norm── …

Tokens stay packed (n d): norms, linear layers and activations never touch padding. What the literature's Transformers differ in
is a `Style`; a named one is written down beside the system that has it, in `models/systems/`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .attention import Attention, Context, CrossAttention, Memory, Remembered, Rotary, Sight, distances
from .layout import Layout


@dataclass(frozen=True, slots=True)
class Style:
    """What Transformers differ in. The default is a pre-norm encoder (Xiong et al. 2020), as ViT's.

    Args:
        norm: "layer" (Ba et al. 2016) or "rms" (Zhang & Sennrich 2019).
        eps: of the norms.
        post: norms stand after the sums, as in BERT, and there is none at the end.
        activation: of the perceptron: GELU (exact, by tanh as GPT-2, or by sigmoid as CLIP), or SwiGLU (Shazeer 2020).
        bias: whether linear layers add one.
        qkv_bias: whether those to queries, keys and values do; as `bias` where None.
        causal: a token sees no later one of its sequence.
        groups: heads of keys and values (GQA, Ainslie et al. 2023); as many as heads where None.
        head: width of a head; d / h where None.
        rotary: positions that turn queries and keys.
        alibi: positions that push distant tokens' scores down.
    """

    norm: Literal["layer", "rms"] = "layer"
    eps: float = 1e-5
    post: bool = False
    activation: Literal["gelu", "gelu_tanh", "gelu_sigmoid", "swiglu"] = "gelu"
    bias: bool = True
    qkv_bias: bool | None = None
    causal: bool = False
    groups: int | None = None
    head: int | None = None
    rotary: Rotary | None = None
    alibi: bool = False

    @property
    def biases(self) -> tuple[bool, bool]:
        """Of attention's projections: into it, and out of it."""
        return (self.bias if self.qkv_bias is None else self.qkv_bias, self.bias)

    def normed(self, width: int) -> nn.Module:
        """A norm, freshly initialised."""
        return nn.LayerNorm(width, self.eps) if self.norm == "layer" else nn.RMSNorm(width, self.eps)


def activated(x: Tensor, kind: str) -> Tensor:
    """(n m) → (n m), or (n m/2) where one half gates the other."""
    match kind:
        case "gelu":
            return F.gelu(x)
        case "gelu_tanh":
            return F.gelu(x, approximate="tanh")
        case "gelu_sigmoid":
            return x * torch.sigmoid(1.702 * x)
        case _:
            gate, value = x.chunk(2, dim=-1)
            return F.silu(gate) * value


class Block(nn.Module):
    """Self-attention, cross-attention where there is a context, and a perceptron; each is added to what it was given."""

    def __init__(self, width: int, heads: int, hidden: int, style: Style, context: int | None) -> None:
        super().__init__()
        self.post = style.post
        self.norm1 = style.normed(width)
        self.attention = Attention(width, heads, style.groups, style.head, style.biases)
        self.cross = None
        if context is not None:
            self.norm_cross = style.normed(width)
            self.cross = CrossAttention(width, context, heads, style.biases)
        self.norm2 = style.normed(width)
        self.activation = style.activation
        # With SwiGLU the first layer is twice as wide, and one half of it gates the other.
        self.up = nn.Linear(width, (2 if style.activation == "swiglu" else 1) * hidden, style.bias)
        self.down = nn.Linear(hidden, width, style.bias)

    def forward(
        self, x: Tensor, sight: Sight, context: Context | None = None, remembered: Remembered | None = None
    ) -> Tensor:
        """(n d) → (n d)."""
        if self.post:
            x = self.norm1(x + self.attention(x, sight, remembered))
            if self.cross is not None and context is not None:
                x = self.norm_cross(x + self.cross(x, context, remembered))
            return self.norm2(x + self._perceptron(x))
        x = x + self.attention(self.norm1(x), sight, remembered)
        if self.cross is not None and context is not None:
            x = x + self.cross(self.norm_cross(x), context, remembered)
        return x + self._perceptron(self.norm2(x))

    def _perceptron(self, x: Tensor) -> Tensor:
        return self.down(activated(self.up(x), self.activation))


class Transformer(nn.Module):
    """`depth` blocks over packed tokens, and a final norm where norms stand before.

    Args:
        width: d.
        depth: blocks.
        heads: attention heads.
        mlp_ratio: hidden width of the perceptron over d.
        style: which of the literature's.
        context: width of what cross-attention sees; None for none.
        recompute: keep no activations within a block but compute them again in the backward (Chen et al. 2016): a third more
            work, and memory for one block instead of all.
    """

    def __init__(
        self, width: int, depth: int, heads: int, mlp_ratio: float = 4.0, style: Style = Style(),
        context: int | None = None, recompute: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.heads, self.style, self.recompute = heads, style, recompute
        self.head = style.head or width // heads
        hidden = round(mlp_ratio * width)
        self.blocks = nn.ModuleList(Block(width, heads, hidden, style, context) for _ in range(depth))
        self.norm = nn.Identity() if style.post else style.normed(width)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                # Residual branches start small (Radford et al. 2019, section 2.3).
                shrink = 1 / math.sqrt(2 * depth) if name.endswith(("out", "down")) else 1.0
                nn.init.normal_(module.weight, std=shrink * (2 / (module.in_features + module.out_features)) ** 0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def layers(self) -> list[Block]:
        """Its blocks, the first to see the tokens first."""
        return [block for block in self.blocks if isinstance(block, Block)]

    def memory(self) -> Memory:
        """Nothing remembered yet, a place a block."""
        return Memory([Remembered() for _ in self.blocks])

    def forward(
        self, x: Tensor, layout: Layout, place: Tensor | None = None, context: Context | None = None, memory: Memory | None = None
    ) -> Tensor:  # fmt: skip
        """Tokens see those of their own sequence, and the context of it.

        Args:
            x: (n d).
            layout: the sequences. With an empty memory it is one bucket (`Layout.of(group, together=True)`), with one that has
                begun each of its sequences has one further token.
            place: (n,) of rotary positions, (n k) of ALiBi's; by default a token's number in its sequence.
            context: what cross-attention sees.
            memory: of earlier tokens; it is added to.
        Returns:
            (n d)
        """
        sight = self.sight(layout, place, memory)
        for number, block in enumerate(self.blocks):
            remembered = None if memory is None else memory.blocks[number]
            if self.recompute and self.training and torch.is_grad_enabled():
                again = checkpoint(block, x, sight, context, remembered, use_reentrant=False)
                assert isinstance(again, Tensor)
                x = again
            else:
                x = block(x, sight, context, remembered)
        return self.norm(x)

    def sight(self, layout: Layout, place: Tensor | None = None, memory: Memory | None = None) -> Sight:
        """How the tokens of a layout see each other in every block, for who goes through the blocks one by one."""
        style, groups = self.style, self.style.groups or self.heads
        lengths = None if memory is None else memory.lengths
        if lengths is not None:
            assert memory is not None
            biases: list[Tensor | None] = [memory.next()]
            place = lengths if place is None else place
        else:
            # Padding stands at the end, where no token that came before it looks.
            biases = [None if style.causal else bucket.bias for bucket in layout.buckets]
            if memory is not None:
                memory.begin(layout)
        if style.alibi:
            assert place is not None
            far = distances(layout, place, self.heads)
            biases = [a if b is None else a + b for a, b in zip(far, biases, strict=True)]
        angles = None
        if style.rotary is not None:
            angles = style.rotary.angles(layout.order() if place is None else place, self.head)
        enter, leave = layout.seats(self.heads + 2 * groups), layout.seats(self.heads)
        return Sight(enter, leave, biases, style.causal and lengths is None, angles)
