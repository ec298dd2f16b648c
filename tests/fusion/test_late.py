from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from polyclinic.fusion import Fusion, Late
from polyclinic.fusion.pooling import balanced
from polyclinic.schema import Modality, Tokens

WIDTH = 4
IMAGE, TEXT, OMICS = Modality.IMAGE, Modality.TEXT, Modality.OMICS


def built(style: Any) -> Fusion:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Late(style=style).build(WIDTH, (IMAGE, TEXT, OMICS))


def bag() -> Tokens:
    """A patient with an image of two tokens and a word, one with genes besides, one with a word, and one with nothing."""
    patient = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2])
    modality = torch.tensor([m.number for m in (IMAGE, IMAGE, TEXT, IMAGE, IMAGE, TEXT, OMICS, TEXT)])
    values = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(0))
    return Tokens(values, patient, modality, patient, torch.zeros(8, 4), torch.zeros(8), torch.tensor([3, 4, 1, 0]))


def vectors() -> list[dict[Modality, Tensor]]:
    """Each patient's mean of each modality, by hand."""
    x = bag().values
    return [{IMAGE: x[:2].mean(0), TEXT: x[2]}, {IMAGE: x[3:5].mean(0), TEXT: x[5], OMICS: x[6]}, {TEXT: x[7]}]


def test_the_mean_counts_each_modality_once() -> None:
    fused = built("mean")(bag())
    torch.testing.assert_close(fused.pooled, balanced(bag()))
    torch.testing.assert_close(fused.pooled[0], (bag().values[:2].mean(0) + bag().values[2]) / 2)


def test_a_gate_that_says_nothing_is_the_mean() -> None:
    fusion: Any = built("gated")
    fusion.gate.weight.data.zero_()
    torch.testing.assert_close(fusion(bag()).pooled, balanced(bag()))


def test_the_gate_weighs_the_modalities_that_are_there() -> None:
    """By hand: a softmax over the scores of what the patient has."""
    fusion: Any = built("gated")
    fused = fusion(bag())
    for pooled, own in zip(fused.pooled, vectors(), strict=False):
        x = torch.stack([*own.values()])
        share = torch.softmax(x @ fusion.gate.weight[0] + fusion.gate.bias, 0)
        torch.testing.assert_close(pooled, share @ x)
    assert not fused.pooled[3].any()


def test_the_product_is_the_mean_of_the_product_of_densities() -> None:
    """By integration: the densities of the prior and of the patient's modalities, multiplied point by point."""
    fusion: Any = built("product")
    fused = fusion(bag())
    z = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    for pooled, own in zip(fused.pooled, vectors(), strict=False):
        log_density = -0.5 * z.expand(WIDTH, -1) ** 2
        for m, x in own.items():
            mean, log_variance = fusion.experts[m.value](x).double().view(2, WIDTH, 1)
            log_density = log_density - 0.5 * (z - mean) ** 2 / log_variance.exp()
        density = torch.softmax(log_density, 1)
        torch.testing.assert_close(pooled.double(), (density * z).sum(1), atol=1e-5, rtol=1e-5)
    assert not fused.pooled[3].any()


def test_an_expert_that_is_sure_is_believed_and_one_that_knows_nothing_is_not() -> None:
    fusion: Any = built("product")
    for expert in fusion.experts.values():
        expert.weight.data.zero_()
    means = {"image": 3.0, "text": -1.0, "omics": 5.0}
    for log_variances, expected in (
        ({"image": 0.0, "text": 0.0, "omics": 0.0}, [2 / 3, 7 / 4, -1 / 2]),  # each as precise as the prior
        ({"image": -200.0, "text": 0.0, "omics": 200.0}, [3.0, 3.0, -1 / 2]),
        ({"image": 200.0, "text": 200.0, "omics": 200.0}, [0.0, 0.0, 0.0]),  # the prior alone
    ):
        for name, expert in fusion.experts.items():
            expert.bias.data[:WIDTH], expert.bias.data[WIDTH:] = means[name], log_variances[name]
        pooled = fusion(bag()).pooled
        torch.testing.assert_close(pooled[:3], torch.tensor(expected)[:, None].expand(3, WIDTH))
        pooled.square().sum().backward()
        assert all(p.grad.isfinite().all() for p in fusion.parameters())


def test_stacking_weighs_predictors_over_those_that_are_there() -> None:
    """By hand; the same weights for every patient but for what one lacks."""
    fusion: Any = built("stacking")
    torch.testing.assert_close(
        fusion(bag()).pooled[2], fusion.predictors["text"](bag().values[7])
    )  # a patient's only modality
    worth = {IMAGE: 0.5, TEXT: -1.0, OMICS: 2.0}
    for m, value in worth.items():
        fusion.worth.data[m.number] = value
    fused = fusion(bag())
    for pooled, own in zip(fused.pooled, vectors(), strict=False):
        total = sum(torch.tensor(worth[m]).exp() for m in own)
        expected = sum(torch.tensor(worth[m]).exp() / total * fusion.predictors[m.value](x) for m, x in own.items())
        torch.testing.assert_close(pooled, expected)
    assert not fused.pooled[3].any()


def test_stacked_vectors_are_stacked_logits() -> None:
    """What a linear head says of the stacked vector is the same weighted mean of what it says of each predictor's."""
    fusion: Any = built("stacking")
    head = torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))
    said = {m: fusion.predictors[m.value](x) @ head for m, x in vectors()[1].items()}
    torch.testing.assert_close(fusion(bag()).pooled[1] @ head, torch.stack([*said.values()]).mean())


def test_stacking_learns_which_modality_is_worth_more() -> None:
    """Of two modalities of which one holds the answer and the other is noise."""
    fusion: Any = built("stacking")
    draws = torch.Generator().manual_seed(2)
    owner = torch.arange(200).repeat_interleave(2)
    modality = torch.tensor([IMAGE.number, TEXT.number]).repeat(200)
    values = torch.randn(400, WIDTH, generator=draws)
    tokens = Tokens(values, owner, modality, owner, torch.zeros(400, 4), torch.zeros(400), torch.full((200,), 2))
    answer = values[::2, 0]
    adam = torch.optim.Adam(fusion.parameters(), 0.05)
    for _ in range(100):
        F.mse_loss(fusion(tokens).pooled[:, 0], answer).backward()
        adam.step()
        adam.zero_grad()
    assert fusion.worth[IMAGE.number] > fusion.worth[TEXT.number] + 1


@pytest.mark.parametrize("style", ["mean", "gated", "product", "stacking"])
def test_tokens_go_through_unchanged(style: str) -> None:
    tokens = bag()
    assert built(style)(tokens).tokens is tokens
