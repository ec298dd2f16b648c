"""Layouts: which packed tokens (n …) form a sequence, and how sequences stand side by side for attention.

Linear layers, norms and activations work on the packed array; only attention needs sequences side by side. Sequences of
similar length share a bucket, so that a patient with three tokens is not padded to one with a thousand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

SMALLEST_BUCKET = 16
"""Below this many tokens padding costs less than the calls of another bucket."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """s sequences of at most l tokens.

    Args:
        token: (s l) int64, which packed token stands there; padding, at the end, names the sequence's first.
        inside: (s l) bool, False for padding; None where there is none.
    """

    token: Tensor
    inside: Tensor | None

    @property
    def lengths(self) -> Tensor:
        """(s,) int64 tokens of each sequence."""
        s, longest = self.token.shape
        return torch.full((s,), longest, device=self.token.device) if self.inside is None else self.inside.sum(1)

    @property
    def bias(self) -> Tensor | None:
        """(1 s 1 l) float32 to be added to the scores of these keys: 0 for a token, -inf for padding."""
        return None if self.inside is None else bias_of(self.inside)


@dataclass(frozen=True, slots=True)
class Layout:
    """Which packed tokens form a sequence.

    Args:
        tokens: n.
        buckets: the sequences, those of similar length together.
        whole: every token has its seat in the one bucket, in the packed order: nothing has to be moved by number.
        seated: the seats that were asked for, by rows: all blocks of a Transformer ask for the same ones.
    """

    tokens: int
    buckets: tuple[Bucket, ...]
    whole: bool = False
    seated: dict[int, Seats] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, group: Tensor, together: bool = False) -> Layout:
        """The layout of ascending group numbers (n,): tokens of one number see each other and no other.

        Args:
            group: (n,) int64.
            together: in one bucket, whatever the lengths: what a decoder remembers is one array.
        """
        _, counts = torch.unique_consecutive(group, return_counts=True)
        lengths = counts.tolist()
        if len(set(lengths)) <= 1:
            token = torch.arange(len(group), device=group.device).view(len(lengths), lengths[0] if lengths else 0)
            return cls(len(group), (Bucket(token, None),), True)
        starts = torch.cumsum(counts, 0) - counts
        rows: dict[int, list[int]] = {}
        for number, length in enumerate(lengths):
            rows.setdefault(0 if together else _size(length), []).append(number)
        return cls(len(group), tuple(_bucket(starts, counts, rows[size]) for size in sorted(rows)))

    @classmethod
    def each(cls, tokens: int, device: torch.device) -> Layout:
        """Every token is a sequence of its own: the further words of as many texts."""
        return cls(tokens, (Bucket(torch.arange(tokens, device=device)[:, None], None),), True)

    @classmethod
    def pair(cls, queries: Tensor, keys: Tensor, together: bool = False) -> tuple[Layout, Layout]:
        """The layouts of two packed arrays whose equal group numbers belong together: bucket by bucket the same sequences.

        A sequence that only one of them has gets no seat.

        Args:
            queries: (n,) int64, ascending.
            keys: (m,) int64, ascending.
            together: in one bucket, whatever the lengths.
        """
        (names, counts), (others, totals) = (torch.unique_consecutive(g, return_counts=True) for g in (queries, keys))
        place = {name: number for number, name in enumerate(others.tolist())}
        lengths, widths = counts.tolist(), totals.tolist()
        rows: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for number, name in enumerate(names.tolist()):
            if (other := place.get(name)) is not None:
                size = (0, 0) if together else (_size(lengths[number]), _size(widths[other]))
                rows.setdefault(size, []).append((number, other))
        starts, begins = torch.cumsum(counts, 0) - counts, torch.cumsum(totals, 0) - totals
        sides = [[_bucket(starts, counts, [a for a, _ in rows[size]]) for size in sorted(rows)]]
        sides.append([_bucket(begins, totals, [b for _, b in rows[size]]) for size in sorted(rows)])
        return cls(len(queries), tuple(sides[0])), cls(len(keys), tuple(sides[1]))

    def order(self) -> Tensor:
        """(n,) int64, a token's number in its sequence."""
        order = self.buckets[0].token.new_zeros(self.tokens)
        for bucket in self.buckets:
            steps = torch.arange(bucket.token.shape[1], device=order.device).expand_as(bucket.token)
            seated = _everywhere(bucket)
            order[bucket.token[seated]] = steps[seated]
        return order

    def seats(self, rows: int) -> Seats:
        """How arrays of `rows` heads a token get their sequences side by side, and are packed again."""
        if rows not in self.seated:
            with torch.inference_mode(False):  # they are kept, and a later call may want gradients
                self.seated[rows] = self._seats(rows)
        return self.seated[rows]

    def _seats(self, rows: int) -> Seats:
        shapes = tuple((rows, b.token.shape[0], b.token.shape[1]) for b in self.buckets)
        if self.whole or not self.buckets:
            return Seats(self.tokens, shapes, None, None)
        device = self.buckets[0].token.device
        head = torch.arange(rows, device=device)[:, None, None]
        enter = torch.cat([(b.token * rows + head).flatten() for b in self.buckets])
        inside = torch.cat([_everywhere(b).expand(rows, -1, -1).flatten() for b in self.buckets])
        filled, padding = torch.nonzero(inside).flatten(), torch.nonzero(~inside).flatten()
        # A token without a seat takes a row of zeros, which stands after all others.
        leave = torch.full((self.tokens * rows,), len(enter), dtype=torch.int64, device=device)
        leave[enter[filled]] = filled
        standing = leave.view(-1, rows)[:, 0] == len(enter) if len(filled) < len(leave) else None
        return Seats(self.tokens, shapes, enter, leave, padding if len(padding) else None, standing)


@dataclass(frozen=True, slots=True)
class Seats:
    """Where the r heads of n packed tokens sit: in each bucket as (r s l), and those of all buckets in turn are t.

    A row has one seat, so that the gradient of taking seats is leaving them, and no row is added to another: `index_select` alone
    would add, and take twenty times as long (3.7 ms against 0.2, 28 thousand rows of 64 in bf16). Padding gives and gets no gradient.

    Args:
        tokens: n.
        shapes: (r, s, l) of each bucket.
        enter: (t) which of the packed rows (n r) sits there; None where they sit in the packed order.
        leave: (n r) which of the seats (t) is the row's.
        padding: which of the seats are only filled up, with zeros; None where none is.
        standing: (n,) bool, which tokens have none; None where all have one.
    """

    tokens: int
    shapes: tuple[tuple[int, int, int], ...]
    enter: Tensor | None
    leave: Tensor | None
    padding: Tensor | None = None
    standing: Tensor | None = None

    def split(self, packed: Tensor, parts: Sequence[int]) -> list[tuple[Tensor, ...]]:
        """(n r·e) → of each bucket the heads in parts, as many as said in each: (p s l e), contiguous."""
        every: tuple[Tensor, ...] = ()
        if self.shapes and torch.is_grad_enabled():
            every = _Enter.apply(packed, self, tuple(parts))
        elif self.shapes:
            every = self.side_by_side(packed, parts)
        return [every[i : i + len(parts)] for i in range(0, len(every), len(parts))]

    def merge(self, answers: Sequence[Tensor]) -> Tensor:
        """(r s l e) of each bucket, at least one → (n r·e), zeros for a token without a seat."""
        return _Leave.apply(self, *answers) if torch.is_grad_enabled() else self.packed(answers)

    def side_by_side(self, packed: Tensor, parts: Sequence[int]) -> tuple[Tensor, ...]:
        """As `split`, without gradients, the buckets' parts in turn."""
        return tuple(part for side in self.seated(packed) for part in side.contiguous().split(tuple(parts)))

    def seated(self, packed: Tensor) -> list[Tensor]:
        """(n r·e) → (r s l e) of each bucket, zeros for padding."""
        if self.enter is None:
            r, s, length = self.shapes[0]
            return [packed.view(s, length, r, packed.shape[1] // r).permute(2, 0, 1, 3)]
        e = packed.shape[1] // self.shapes[0][0]
        rows = packed.reshape(-1, e).index_select(0, self.enter)
        if self.padding is not None:
            rows.index_fill_(0, self.padding, 0)
        sides = rows.split([r * s * n for r, s, n in self.shapes])
        return [side.view(*shape, e) for side, shape in zip(sides, self.shapes, strict=True)]

    def packed(self, parts: Sequence[Tensor]) -> Tensor:
        """(p s l e) of every bucket, its parts in turn → (n r·e), zeros for a token without a seat."""
        (r, s, length), e = self.shapes[0], parts[0].shape[-1]
        if self.leave is None:
            out, begin = parts[0].new_empty(s, length, r, e), 0
            for part in parts:
                out[:, :, begin : begin + len(part)] = part.permute(1, 2, 0, 3)
                begin += len(part)
            return out.view(self.tokens, r * e)
        rows = [part.reshape(-1, e) for part in parts]
        if self.standing is not None:
            rows.append(rows[0].new_zeros(1, e))
        return torch.cat(rows).index_select(0, self.leave).view(self.tokens, r * e)


class _Enter(torch.autograd.Function):
    """Packed rows to their seats."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor, seats: Seats, parts: tuple[int, ...]) -> tuple[Tensor, ...]:
        ctx.seats = seats
        return seats.side_by_side(packed, parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.seats.packed(grads), None, None


class _Leave(torch.autograd.Function):
    """Seats to their packed rows."""

    @staticmethod
    def forward(ctx: Any, seats: Seats, *answers: Tensor) -> Tensor:
        ctx.seats = seats
        return seats.packed(answers)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.seats.seated(grads[0].contiguous())


def bias_of(inside: Tensor) -> Tensor:
    """(s l) bool → (1 s 1 l) float32 to be added to the scores of these keys: 0 for a token, -inf for padding."""
    return torch.zeros(inside.shape, device=inside.device).masked_fill(~inside, -torch.inf)[None, :, None]


def _size(length: int) -> int:
    """Sequences of one size share a bucket: none is padded beyond twice its length."""
    return max(SMALLEST_BUCKET, 1 << (length - 1).bit_length())


def _bucket(starts: Tensor, counts: Tensor, rows: Sequence[int]) -> Bucket:
    """These sequences side by side."""
    chosen = torch.tensor(rows, device=starts.device)
    own = counts[chosen]
    steps = torch.arange(int(own.max()), device=starts.device)
    inside = steps < own[:, None]
    token = starts[chosen, None] + torch.where(inside, steps, 0)
    return Bucket(token, None if bool(inside.all()) else inside)


def _everywhere(bucket: Bucket) -> Tensor:
    """(s l) bool, what of it is no padding."""
    return torch.ones_like(bucket.token, dtype=torch.bool) if bucket.inside is None else bucket.inside
