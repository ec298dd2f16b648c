from __future__ import annotations

import torch

from polyclinic.fusion import Late
from polyclinic.fusion.pooling import balanced, by_modality
from polyclinic.schema import Modality, Tokens

WIDTH = 4


def bag() -> Tokens:
    """Two patients with an image of two tokens and a word, and one with nothing."""
    patient = torch.tensor([0, 0, 0, 1, 1, 1])
    modality = torch.tensor([Modality.IMAGE.number, Modality.IMAGE.number, Modality.TEXT.number] * 2)
    values = torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(0))
    return Tokens(values, patient, modality, patient, torch.zeros(6, 4), torch.zeros(6), torch.tensor([3, 3, 0]))


def test_the_mean_counts_each_modality_once() -> None:
    fused = Late().build(WIDTH)(bag())
    torch.testing.assert_close(fused.pooled, balanced(bag()))
    torch.testing.assert_close(fused.pooled[0], (bag().values[:2].mean(0) + bag().values[2]) / 2)


def test_a_gate_that_says_nothing_is_the_mean() -> None:
    fusion = Late(style="gated").build(WIDTH)
    assert fusion.gate is not None
    fusion.gate.weight.data.zero_()
    torch.testing.assert_close(fusion(bag()).pooled, balanced(bag()))


def test_the_gate_weighs_the_modalities_that_are_there() -> None:
    """By hand: a softmax over the two scores, and no share for the seven that are not there."""
    fusion = Late(style="gated").build(WIDTH)
    assert fusion.gate is not None
    means = by_modality(bag())[0][:, [Modality.IMAGE.number, Modality.TEXT.number]]
    share = torch.softmax(means @ fusion.gate.weight[0] + fusion.gate.bias, 1)
    expected = (share[:, :, None] * means).sum(1)
    fused = fusion(bag())
    torch.testing.assert_close(fused.pooled[:2], expected[:2])
    assert not fused.pooled[2].any()


def test_tokens_go_through_unchanged() -> None:
    tokens = bag()
    assert Late().build(WIDTH)(tokens).tokens is tokens
