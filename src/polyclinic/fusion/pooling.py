"""One vector a patient from its tokens: each modality counts once, however many tokens it has."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..schema import Modality, Tokens

KINDS = len(Modality)


@dataclass(frozen=True, slots=True)
class Tower:
    """One modality's vectors of the patients who have it.

    Args:
        vectors: (p e), of unit length.
        patient: (p,) int64, ascending.
    """

    vectors: Tensor
    patient: Tensor


def by_modality(tokens: Tokens) -> tuple[Tensor, Tensor]:
    """The mean of each patient's tokens of each modality.

    Returns:
        (b 9 d) means, zeros where there is none; (b 9) bool, where there is one.
    """
    b, d = len(tokens.lengths), tokens.values.shape[1]
    cell = tokens.patient * KINDS + tokens.modality
    # At least float32: a thousand tokens do not sum up in bfloat16.
    values = tokens.values.to(torch.promote_types(tokens.values.dtype, torch.float32))
    total = values.new_zeros(b * KINDS, d).index_add(0, cell, values)
    count = torch.bincount(cell, minlength=b * KINDS)
    return (total / count.clamp(min=1)[:, None]).view(b, KINDS, d), (count > 0).view(b, KINDS)


def balanced(tokens: Tokens) -> Tensor:
    """(b d) the mean over a patient's modalities of each one's mean; zeros for a patient without tokens."""
    means, there = by_modality(tokens)
    return means.sum(1) / there.sum(1, keepdim=True).clamp(min=1)
