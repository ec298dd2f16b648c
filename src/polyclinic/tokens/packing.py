"""Packing: tokens of many patients in one bag, sorted by patient; bags are joined and cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..schema import Tokens


def counts(patient: Tensor, patients: int) -> Tensor:
    """(b,) tokens of each patient."""
    return torch.bincount(patient, minlength=patients)


def select(tokens: Tokens, keep: Tensor) -> Tokens:
    """The tokens where keep (n,) is True."""
    # Found once, and taken by rows, whose gradient is cheaper than that of brackets.
    rows = torch.nonzero(keep).flatten()
    take = lambda values: values.index_select(0, rows)
    patient = take(tokens.patient)
    return Tokens(
        take(tokens.values), patient, take(tokens.modality), take(tokens.record), take(tokens.position), take(tokens.time_h),
        counts(patient, len(tokens.lengths)),
    )  # fmt: skip


def copies(tokens: Tokens, who: Tensor) -> Tokens:
    """The tokens of some patients, of each as often as it is named: (s,) which patient each of s new ones is, -1 for one without any.

    No two of the new ones have a record in common.
    """
    if not len(who):
        return select(replace(tokens, lengths=tokens.lengths[:0]), torch.zeros_like(tokens.patient, dtype=torch.bool))
    starts = torch.cumsum(tokens.lengths, 0) - tokens.lengths
    lengths = torch.where(who >= 0, tokens.lengths[who], 0)
    seat = torch.arange(len(who), device=who.device).repeat_interleave(lengths)
    within = torch.arange(len(seat), device=who.device) - (torch.cumsum(lengths, 0) - lengths)[seat]
    rows = starts[who[seat]] + within
    records = int(tokens.record.max()) + 1 if len(tokens.record) else 0
    return Tokens(
        tokens.values[rows], seat, tokens.modality[rows], tokens.record[rows] + seat * records, tokens.position[rows],
        tokens.time_h[rows], lengths,
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
