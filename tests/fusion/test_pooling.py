from __future__ import annotations

from collections.abc import Sequence

import torch

from polyclinic.fusion.pooling import balanced, by_modality
from polyclinic.schema import Modality, Tokens


def bag(
    values: Sequence[float],
    patient: list[int],
    modality: list[Modality],
    patients: int,
    dtype: torch.dtype = torch.float32,
) -> Tokens:
    owners = torch.tensor(patient)
    return Tokens(
        torch.tensor(values, dtype=dtype)[:, None], owners, torch.tensor([m.number for m in modality]), torch.zeros_like(owners),
        torch.zeros(len(values), 4), torch.zeros(len(values)), torch.bincount(owners, minlength=patients),
    )  # fmt: skip


IMAGE, TEXT = Modality.IMAGE, Modality.TEXT


def test_means_by_hand() -> None:
    means, there = by_modality(bag([1, 3, 10, 7], [0, 0, 0, 2], [IMAGE, IMAGE, TEXT, TEXT], 3))
    assert means[..., 0][:, [IMAGE.number, TEXT.number]].tolist() == [[2, 10], [0, 0], [0, 7]]
    assert there[:, [IMAGE.number, TEXT.number]].tolist() == [[True, True], [False, False], [False, True]]
    assert there.sum() == 3


def test_each_modality_counts_once() -> None:
    """A thousand patches do not drown a word."""
    found = balanced(bag([1] * 1000 + [3], [0] * 1001, [IMAGE] * 1000 + [TEXT], 2))
    assert found[:, 0].tolist() == [2, 0]


def test_bfloat16_tokens_are_summed_in_float32() -> None:
    """In bfloat16 256 + 1 is 256: a sum of ones would stand still there."""
    found = balanced(bag([1] * 1000, [0] * 1000, [IMAGE] * 1000, 1, torch.bfloat16))
    assert found.tolist() == [[1.0]]
    assert found.dtype == torch.float32
