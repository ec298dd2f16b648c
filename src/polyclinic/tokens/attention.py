"""Attention within the sequences of a layout, of every kind that a shipped system uses.

    queries  h0 h1 h2 h3 h4 h5     h0 h1 h2 h3 h4 h5     h0 h1 h2 h3 h4 h5
             |  |  |  |  |  |       \\/    \\/    \\/       \\_______|______/
    keys     g0 g1 g2 g3 g4 g5      g0    g1    g2              g0
             as many as heads       grouped (GQA)         one for all (MQA)

Heads stand first (h s l e): those of a group stand together, and grouped keys are seen without being moved.

Attention takes a kernel by length: below a few hundred tokens two batched products and a softmax are several times faster, forward
and backward, than the fused kernel on a CPU; above, the fused one saves memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layout import Layout, Seats, bias_of

FUSED_FROM = 384
"""Tokens a sequence from which the fused attention kernel is used on a CPU. Measured: in bf16 its backward is several times
dearer below; in fp32 the two are equal from 128 to 512, and it wins above."""


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, causal: bool = False) -> Tensor:
    """Attention of one bucket.

    Args:
        q: (h s l e), contiguous.
        k, v: (g s m e), contiguous, where g divides h: head i sees the keys of head i // (h / g).
        bias: added to the scores, (h s l m) or 1 instead of any; -inf for what is not seen.
        causal: the i-th query sees no key after the i-th.
    Returns:
        (h s l e)
    """
    h, length, g, many = q.shape[0], q.shape[2], k.shape[0], k.shape[2]
    if q.device.type != "cpu" or (length > 1 and max(length, many) >= FUSED_FROM):
        if g < h:
            k, v = (x.repeat_interleave(h // g, 0) for x in (k, v))
        if bias is not None and causal:
            bias, causal = bias + triangle(length, many, q.device), False
        return F.scaled_dot_product_attention(q, k, v, None if bias is None else bias.to(q.dtype), is_causal=causal)
    if causal:
        bias = triangle(length, many, q.device) if bias is None else bias + triangle(length, many, q.device)
    if length == 1 and (bias is None or bias.shape[0] == 1) and not torch.is_grad_enabled():
        # A further word: the fused kernel does not move what is remembered, and its dear backward is not asked for.
        under = q.view(g, h // g, *q.shape[1:3], q.shape[3])[:, :, :, 0].transpose(1, 2)
        seen = None if bias is None else bias.to(q.dtype)
        return F.scaled_dot_product_attention(under, k, v, seen).transpose(1, 2).reshape(q.shape)
    if g < h and (bias is None or bias.shape[0] == 1):
        return _grouped(q, k, v, bias)
    if g < h:
        k, v = (x.repeat_interleave(h // g, 0) for x in (k, v))
    return _products(q, k, v, bias)


def _grouped(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """The heads of a group stand one under the other as further queries: keys are not copied for each of them."""
    (h, s, length, e), g = q.shape, k.shape[0]
    each = h // g
    under = q.view(g, each, s, length, e).transpose(1, 2).reshape(g, s, each * length, e)
    if bias is not None and bias.shape[2] > 1:
        bias = bias.repeat(1, 1, each, 1)
    found = _products(under, k, v, bias).view(g, s, each, length, e)
    return found.transpose(1, 2).reshape(h, s, length, e)


def _products(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Two batched products and a softmax, with as many heads of keys as of queries."""
    h, s, length, e = q.shape
    q, k, v = (x.flatten(0, 1) for x in (q, k.transpose(2, 3), v))
    added, there = q.new_empty(1, 1, 1), 0
    if bias is not None:
        bias, there = bias.to(q.dtype), 1
        added = bias[0] if bias.shape[:2] == (1, 1) else bias.expand(h, s, *bias.shape[2:]).flatten(0, 1)
    scores = torch.baddbmm(added, q, k, beta=there, alpha=1 / math.sqrt(e))
    return torch.bmm(torch.softmax(scores, dim=-1, dtype=scores.dtype), v).view(h, s, length, e)


def triangle(queries: int, keys: int, device: torch.device) -> Tensor:
    """(1 1 l m) 0 where the i-th query sees the j-th key (j ≤ i), -inf elsewhere."""
    return torch.full((queries, keys), -torch.inf, device=device).triu(1)[None, None]


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotary positions (RoFormer, Su et al. 2021): query and key are turned by their place, so that scores know the distance.

    The i-th number of a head is turned with the one half a head further, as LLaMA's published weights want it.

    Args:
        theta: of the longest wavelength.
        factor, low, high, original: of LLaMA 3's stretch to longer texts: wavelengths beyond `original` / `low` are `factor` times
            as long, those under `original` / `high` stay, and between them it goes smoothly. A factor of 1 stretches nothing.
    """

    theta: float = 10000.0
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    original: int = 8192

    def frequencies(self, width: int, device: torch.device | None = None) -> Tensor:
        """(e / 2) radians a step, for heads of `width`."""
        own = self.theta ** (-torch.arange(0, width, 2, dtype=torch.int64, device=device).float() / width)
        if self.factor == 1:
            return own
        turns = self.original * own / (2 * math.pi)
        keep = ((turns - self.low) / (self.high - self.low)).clamp(0, 1)
        return own * (keep + (1 - keep) / self.factor)

    def angles(self, place: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine (n 1 e) of places (n,)."""
        angle = place.float()[:, None] * self.frequencies(width, place.device)
        angle = torch.cat([angle, angle], 1)[:, None]
        return angle.cos(), angle.sin()


def turned(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Heads (n r e), turned by their tokens' angles."""
    cos, sin = (a.to(x.dtype) for a in angles)
    one, other = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-other, one], dim=-1) * sin


def slopes(heads: int, device: torch.device | None = None) -> Tensor:
    """(h) of ALiBi (Press et al. 2022, section 3): a geometric series from 2^(-8/h); between powers of two as its authors do."""
    whole = 1 << (heads.bit_length() - 1)
    own = [2.0 ** (-8 * (i + 1) / whole) for i in range(whole)]
    between = [2.0 ** (-4 * (2 * i + 1) / whole) for i in range(heads - whole)]
    return torch.tensor(own + between, device=device)


def distances(layout: Layout, place: Tensor, heads: int) -> list[Tensor]:
    """(h s l l) a bucket: minus slope times the distance between tokens at places (n k): ALiBi in the plane.

    Of TITAN (Ding et al. 2025, Methods): the Euclidean distance stands for ALiBi's difference of indices, so that a longer or
    wider grid than was trained on is only farther away.
    """
    out = []
    for bucket in layout.buckets:
        at = place.float()[bucket.token]
        out.append(-slopes(heads, place.device)[:, None, None, None] * torch.cdist(at, at))
    return out


ROOM = 64
"""How many further tokens a memory has room for before it is moved."""


@dataclass(slots=True)
class Remembered:
    """What one block remembers.

    Args:
        keys, values: of s sequences, (g s l e): all of them end at `count`, and there is room for more behind.
        count: tokens of the longest sequence.
        ends: (s l) the first tokens' numbers in their sequence, so that all end at the same place; None where they do.
        context: keys and values of what its cross-attention sees, packed (m 2·d).
        seated: the same side by side, of the layout that stands beside it.
    """

    keys: Tensor | None = None
    values: Tensor | None = None
    count: int = 0
    ends: Tensor | None = None
    context: Tensor | None = None
    seated: tuple[Layout, list[tuple[Tensor, ...]]] | None = None

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The first tokens, or one further token a sequence, (g s l e) → all so far; `Memory.next` tells which are none."""
        if self.keys is None:
            self.count = k.shape[2]
            self.keys, self.values = (F.pad(self._ended(x), (0, 0, 0, ROOM)) for x in (k, v))
            return k, v
        assert self.values is not None
        if self.keys.shape[2] == self.count:
            self.keys, self.values = (F.pad(x, (0, 0, 0, ROOM)) for x in (self.keys, self.values))
        self.keys.select(2, self.count).copy_(k.select(2, 0))
        self.values.select(2, self.count).copy_(v.select(2, 0))
        self.count += 1
        return self.keys.narrow(2, 0, self.count), self.values.narrow(2, 0, self.count)

    def keep(self, order: Tensor) -> None:
        """Go on with these sequences only: (k,) their rows."""
        assert self.keys is not None
        assert self.values is not None
        self.keys, self.values = self.keys.index_select(1, order), self.values.index_select(1, order)

    def _ended(self, x: Tensor) -> Tensor:
        """The first tokens (g s l e), with their padding before them."""
        return x if self.ends is None else x.gather(2, self.ends[None, :, :, None].expand_as(x))


@dataclass(slots=True)
class Memory:
    """What a decoder's blocks remember of s sequences, so that a further token costs one token's work.

    Sequences of differing lengths stand so that they end together: a further token has the same place in all of them.

    Args:
        blocks: of the Transformer.
        lengths: (s,) int64 tokens so far; None before the first ones.
        bias: (1 s 1 l) of the padding before the first tokens, see `attend`; None where there is none.
    """

    blocks: list[Remembered]
    lengths: Tensor | None = None
    bias: Tensor | None = None

    def begin(self, layout: Layout) -> None:
        """With the first tokens of the sequences of a layout of one bucket."""
        (bucket,) = layout.buckets
        self.lengths = bucket.lengths
        if bucket.inside is None:
            return
        longest = bucket.token.shape[1]
        steps = torch.arange(longest, device=bucket.token.device) - (longest - self.lengths)[:, None]
        self.bias = bias_of(steps >= 0)
        for block in self.blocks:
            block.ends = steps % longest

    def next(self) -> Tensor | None:
        """One further token a sequence: (1 s 1 l) bias of those that a sequence does not have."""
        assert self.lengths is not None
        self.lengths = self.lengths + 1
        if self.bias is not None:
            self.bias = F.pad(self.bias, (0, 1))
        return self.bias

    def keep(self, order: Tensor) -> None:
        """Go on with these sequences only: (k,) their rows."""
        assert self.lengths is not None
        self.lengths = self.lengths[order]
        if self.bias is not None:
            self.bias = self.bias.index_select(1, order)
        for block in self.blocks:
            block.keep(order)


class Context(NamedTuple):
    """What else the tokens see, by cross-attention.

    Args:
        values: (m c) packed.
        queries: the layout of those who look; a sequence without context has no seat and gets zeros.
        keys: the layout of what is seen.
    """

    values: Tensor
    queries: Layout
    keys: Layout

    @classmethod
    def of(cls, group: Tensor, values: Tensor, seen: Tensor, together: bool = False) -> Context:
        """Tokens of group number g (n,) see the values (m c) whose number `seen` (m,) is g; both ascending."""
        return cls(values, *Layout.pair(group, seen, together))


@dataclass(frozen=True, slots=True)
class Sight:
    """How the tokens of a layout see each other: the same in every block.

    Args:
        enter: seats of queries, keys and values.
        leave: seats of the answers.
        biases: of each bucket, see `attend`.
        causal: see `attend`.
        angles: of rotary positions.
    """

    enter: Seats
    leave: Seats
    biases: list[Tensor | None]
    causal: bool = False
    angles: tuple[Tensor, Tensor] | None = None


class Attention(nn.Module):
    """Multi-head self-attention within the sequences of a layout (Vaswani et al. 2017; grouped: Ainslie et al. 2023).

    Args:
        width: d.
        heads: h.
        groups: g, heads of keys and values; as many as heads where None.
        head: e, the width of a head; d / h where None.
        bias: whether the projections to queries, keys and values, and the one back, add one.
    Raises:
        ValueError: heads do not divide the width, or groups not the heads.
    """

    def __init__(
        self, width: int, heads: int, groups: int | None = None, head: int | None = None,
        bias: tuple[bool, bool] = (True, True),
    ) -> None:  # fmt: skip
        super().__init__()
        if head is None and width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}")
        if groups is not None and heads % groups:
            raise ValueError(f"{groups} groups of keys do not divide {heads} heads")
        self.heads, self.groups, self.head = heads, groups or heads, head or width // heads
        self.qkv = nn.Linear(width, (heads + 2 * self.groups) * self.head, bias[0])
        self.out = nn.Linear(heads * self.head, width, bias[1])

    def forward(self, x: Tensor, sight: Sight, remembered: Remembered | None = None) -> Tensor:
        """(n d) → (n d)."""
        h, g, qkv = self.heads, self.groups, self.qkv(x)
        if sight.angles is not None:
            rows = qkv.view(len(x), h + 2 * g, self.head)
            qkv = torch.cat([turned(rows[:, : h + g], sight.angles), rows[:, h + g :]], 1).flatten(1)
        answers = []
        for (q, k, v), bias in zip(sight.enter.split(qkv, [h, g, g]), sight.biases, strict=True):
            if remembered is not None:
                k, v = remembered.extend(k, v)
            answers.append(attend(q, k, v, bias, sight.causal))
        return self.out(sight.leave.merge(answers))


class CrossAttention(nn.Module):
    """Tokens look at a context of their own sequence; one without context hears nothing.

    Args:
        width: d.
        context: c, the width of what is seen.
        heads: h.
        bias: as `Attention`'s.
    """

    def __init__(self, width: int, context: int, heads: int, bias: tuple[bool, bool] = (True, True)) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}")
        self.heads = heads
        self.query = nn.Linear(width, width, bias[0])
        self.kv = nn.Linear(context, 2 * width, bias[0])
        self.out = nn.Linear(width, width, bias[1])

    def forward(self, x: Tensor, context: Context, remembered: Remembered | None = None) -> Tensor:
        """(n d) → (n d)."""
        if not context.queries.buckets:
            return torch.zeros_like(x)
        h, answers = self.heads, []
        queries = context.queries.seats(h)
        sides = zip(
            queries.split(self.query(x), [h]), self._seen(context, remembered), context.keys.buckets, strict=True
        )
        for (q,), (k, v), bucket in sides:
            answers.append(attend(q, k, v, bucket.bias))
        heard = self.out(queries.merge(answers))
        return heard if queries.standing is None else heard.masked_fill(queries.standing[:, None], 0)

    def _seen(self, context: Context, remembered: Remembered | None) -> list[tuple[Tensor, ...]]:
        """Keys and values of each bucket, which a further word finds where the last one left them."""
        seats, h = context.keys.seats(2 * self.heads), self.heads
        if remembered is None:
            return seats.split(self.kv(context.values), [h, h])
        packed = remembered.context = self.kv(context.values) if remembered.context is None else remembered.context
        if remembered.seated is None or remembered.seated[0] is not context.keys:
            remembered.seated = context.keys, seats.split(packed, [h, h])
        return remembered.seated[1]
