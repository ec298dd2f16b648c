"""Packing: tokens of many sequences in one array (n d); which of them see each other.

Linear layers, norms and activations work on the packed array; only attention needs sequences side by side. Sequences of
similar length share a bucket, so that a patient with three tokens is not padded to one with a thousand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..schema import Tokens

SMALLEST_BUCKET = 16
"""Below this many tokens padding costs less than the calls of another bucket."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """s sequences of at most l tokens.

    Args:
        token: (s l) int64, which packed token stands there; padding repeats the sequence's first.
        inside: (s l) bool, False for padding.
        bias: (s 1 1 l) float32 to be added to attention's scores, 0 for a token and -inf for padding; None where there is none.
    """

    token: Tensor
    inside: Tensor
    bias: Tensor | None


class Side(NamedTuple):
    """Sequences side by side, as attention wants them: q, k, v (s h l e) and the bias of their bucket."""

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None


@dataclass(frozen=True, slots=True)
class Whole:
    """Sequences of one length, which stand one after the other: nothing is padded or moved by number.

    Args:
        shape: (s, h, l) sequences, heads and tokens a sequence.
    """

    shape: tuple[int, int, int]

    def split(self, qkv: Tensor) -> list[Side]:
        """Queries, keys and values (n 3d) → side by side."""
        s, h, length = self.shape
        q, k, v = qkv.view(s, length, 3, h, qkv.shape[1] // (3 * h)).permute(2, 0, 3, 1, 4).contiguous().unbind(0)
        return [Side(q, k, v, None)]

    def merge(self, answers: Sequence[Tensor]) -> Tensor:
        """(s h l e) → (n d)."""
        s, h, length, e = answers[0].shape
        return answers[0].transpose(1, 2).reshape(s * length, h * e)


@dataclass(frozen=True, slots=True)
class Bucketed:
    """Sequences of mixed lengths: the rows of a bucket are (s h l), and those of all buckets in turn are t.

    Rows are taken with `index_select`, whose gradient adds whole rows: by brackets all of attention but its products takes half
    as long again (13 ms against 9, forward and backward, 32 reports at width 384 in bf16).

    Args:
        shapes: (s, h, l) of each bucket.
        biases: of each bucket.
        enter: (3 t) which of the packed rows (n 3 h) stands there as query, key or value.
        leave: (n h) which of the answers (t) is the token's.
    """

    shapes: tuple[tuple[int, int, int], ...]
    biases: tuple[Tensor | None, ...]
    enter: Tensor
    leave: Tensor

    def split(self, qkv: Tensor) -> list[Side]:
        """Queries, keys and values (n 3d) → side by side, a bucket at a time."""
        e, sizes = qkv.shape[1] // (3 * self.shapes[0][1]), [math.prod(shape) for shape in self.shapes]
        parts = qkv.view(-1, e).index_select(0, self.enter).view(3, sum(sizes), e).split(sizes, dim=1)
        sides = []
        for part, shape, bias in zip(parts, self.shapes, self.biases, strict=True):
            q, k, v = part.view(3, *shape, e).unbind(0)
            sides.append(Side(q, k, v, bias))
        return sides

    def merge(self, answers: Sequence[Tensor]) -> Tensor:
        """(s h l e) of each bucket → (n d)."""
        (_, h, _), e = self.shapes[0], answers[0].shape[-1]
        rows = torch.cat([answer.reshape(-1, e) for answer in answers])
        return rows.index_select(0, self.leave).view(-1, h * e)


@dataclass(frozen=True, slots=True)
class Layout:
    """Which packed tokens form a sequence.

    Args:
        tokens: n.
        whole: (s, l) where all sequences have one length.
        buckets: else, of sequences of similar length.
    """

    tokens: int
    whole: tuple[int, int] | None
    buckets: tuple[Bucket, ...] = ()

    @classmethod
    def of(cls, group: Tensor) -> Layout:
        """The layout of ascending group numbers (n,): tokens of one number see each other and no other."""
        _, counts = torch.unique_consecutive(group, return_counts=True)
        lengths, starts = counts.tolist(), torch.cumsum(counts, 0) - counts
        if len(set(lengths)) <= 1:
            return cls(len(group), (len(lengths), lengths[0] if lengths else 0))
        by_size: dict[int, list[int]] = {}
        for number, length in enumerate(lengths):
            by_size.setdefault(max(SMALLEST_BUCKET, 1 << (length - 1).bit_length()), []).append(number)
        buckets = []
        for size in sorted(by_size):
            own = [lengths[number] for number in by_size[size]]
            rows = torch.tensor(by_size[size], device=group.device)
            steps = torch.arange(max(own), device=group.device)
            inside = steps < counts[rows, None]
            token = starts[rows, None] + torch.where(inside, steps, 0)
            bias = torch.zeros(inside.shape, device=group.device).masked_fill(~inside, float("-inf"))[:, None, None]
            buckets.append(Bucket(token, inside, bias if min(own) < max(own) else None))
        return cls(len(group), None, tuple(buckets))

    def heads(self, h: int) -> Whole | Bucketed:
        """How attention of h heads gets sequences side by side, and its answers packed again."""
        if self.whole is not None:
            return Whole((self.whole[0], h, self.whole[1]))
        device = self.buckets[0].token.device
        head, which = torch.arange(h, device=device)[:, None], torch.arange(3, device=device)[:, None]
        row = torch.cat([(b.token[:, None] * h + head).flatten() for b in self.buckets])  # (t) of the rows (n h)
        inside = torch.cat([b.inside[:, None].expand(-1, h, -1).flatten() for b in self.buckets])
        filled = torch.nonzero(inside).flatten()
        leave = torch.empty(self.tokens * h, dtype=torch.int64, device=device)
        leave[row[filled]] = filled
        return Bucketed(
            tuple((b.token.shape[0], h, b.token.shape[1]) for b in self.buckets),
            tuple(b.bias for b in self.buckets),
            ((row // h * 3 + which) * h + row % h).flatten(),
            leave,
        )


def counts(patient: Tensor, patients: int) -> Tensor:
    """(b,) tokens of each patient."""
    return torch.bincount(patient, minlength=patients)


def select(tokens: Tokens, keep: Tensor) -> Tokens:
    """The tokens where keep (n,) is True."""
    return Tokens(
        tokens.values[keep], tokens.patient[keep], tokens.modality[keep], tokens.record[keep], tokens.position[keep],
        tokens.time_h[keep], counts(tokens.patient[keep], len(tokens.lengths)),
    )  # fmt: skip


def with_values(tokens: Tokens, values: Tensor) -> Tokens:
    """The same tokens with other values (n d')."""
    return replace(tokens, values=values)


def join(parts: Sequence[Tokens]) -> Tokens:
    """The tokens of several modalities as one bag a patient: sorted by patient, records numbered apart.

    The order within a patient is by part, so that the same parts give the same bits.
    """
    if len(parts) == 1:
        return parts[0]
    patient = torch.cat([p.patient for p in parts])
    order = torch.argsort(patient, stable=True)
    offset, records = 0, []
    for part in parts:
        records.append(part.record + offset)
        offset += int(part.record.max()) + 1 if len(part.record) else 0
    take = lambda name: torch.cat([getattr(p, name) for p in parts])[order]
    return Tokens(
        take("values"), patient[order], take("modality"), torch.cat(records)[order], take("position"), take("time_h"),
        torch.stack([p.lengths for p in parts]).sum(0),
    )  # fmt: skip
