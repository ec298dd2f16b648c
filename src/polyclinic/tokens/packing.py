"""Packing: tokens of many sequences in one array (n d); which of them see each other.

Linear layers, norms and activations work on the packed array; only attention needs sequences side by side. Sequences of
similar length share a bucket, so that a patient with three tokens is not padded to one with a thousand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..schema import Tokens


@dataclass(frozen=True, slots=True)
class Bucket:
    """s sequences of at most l tokens.

    Args:
        place: (s l) int64, where each token stands in the packed array; padding repeats the sequence's first.
        bias: (s 1 1 l) float32, 0 for a token and -inf for padding; None where nothing is padded.
        lengths: s true lengths.
    """

    place: Tensor
    bias: Tensor | None
    inside: Tensor | None


@dataclass(frozen=True, slots=True)
class Layout:
    """Which packed tokens form a sequence.

    Args:
        buckets: of sequences of similar length.
        whole: (s, l) when all sequences have one length and stand one after the other: packing is then a view.
    """

    buckets: tuple[Bucket, ...]
    whole: tuple[int, int] | None

    @classmethod
    def of(cls, group: Tensor) -> Layout:
        """The layout of ascending group numbers (n,): tokens of one number see each other and no other."""
        _, counts = torch.unique_consecutive(group, return_counts=True)
        lengths = counts.tolist()
        if len(set(lengths)) <= 1:
            return cls((), (len(lengths), lengths[0] if lengths else 0))
        starts = torch.cumsum(counts, 0) - counts
        by_size: dict[int, list[int]] = {}
        for number, length in enumerate(lengths):
            by_size.setdefault(max(8, 1 << (length - 1).bit_length()), []).append(number)
        buckets = []
        for size in sorted(by_size):
            rows = torch.tensor(by_size[size], device=group.device)
            count = counts[rows]
            steps = torch.arange(int(count.max()), device=group.device)
            inside = steps < count[:, None]
            place = starts[rows][:, None] + torch.where(inside, steps, 0)
            if bool(inside.all()):
                buckets.append(Bucket(place, None, None))
            else:
                bias = torch.zeros(inside.shape, device=group.device).masked_fill(~inside, float("-inf"))
                buckets.append(Bucket(place, bias[:, None, None, :], inside))
        return cls(tuple(buckets), None)


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
