from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from polyclinic.training.schedule import Average, optimiser, schedule


def test_cosine() -> None:
    assert schedule(0, 100, 10) == pytest.approx(0.1)
    assert schedule(9, 100, 10) == pytest.approx(1.0)
    assert schedule(10, 100, 10) == pytest.approx(1.0)
    assert schedule(55, 100, 10) == pytest.approx(0.55)
    assert schedule(100, 100, 10) == pytest.approx(0.1)
    assert schedule(0, 1, 0) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant", "wsd"])
def test_all_rise_alike_and_none_rises_after(kind: Any) -> None:
    assert [schedule(step, 100, 10, kind) for step in range(10)] == pytest.approx([(n + 1) / 10 for n in range(10)])
    rest = [schedule(step, 100, 10, kind) for step in range(10, 101)]
    assert rest[0] == pytest.approx(1.0)
    assert all(one >= other for one, other in pairwise(rest))
    assert rest[-1] == pytest.approx(1.0 if kind == "constant" else 0.1)


def test_linear_is_a_line_and_wsd_stays_until_its_last_fifth() -> None:
    assert schedule(60, 110, 10, "linear") == pytest.approx(0.55)
    assert [schedule(s, 110, 10, "wsd") for s in (50, 90)] == pytest.approx([1.0, 1.0])
    assert schedule(100, 110, 10, "wsd") == pytest.approx(0.55)
    assert schedule(40, 1100, 10, "wsd") == schedule(40, 110, 10, "wsd")  # a longer run begins alike


def test_weight_decay_is_for_matrices_and_betas_are_passed() -> None:
    layer = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    layer[1].weight.requires_grad_(False)
    adam = optimiser(layer, 1e-3, 0.1, (0.8, 0.99))
    decayed, plain = adam.param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(2, 3)]
    assert decayed["weight_decay"] == 0.1
    assert [tuple(p.shape) for p in plain["params"]] == [(2,), (2,)]
    assert plain["weight_decay"] == 0.0
    assert plain["betas"] == (0.8, 0.99)


def test_the_average_is_the_exponential_one() -> None:
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(0.0)
    average = Average(layer, 0.9)
    expected = 0.0
    for step in range(200):
        layer.weight.data.fill_(float(step))
        average.update(layer, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert float(average.tensors["weight"]) == pytest.approx(expected, rel=1e-5)
    assert expected == pytest.approx(199 - 0.9 / 0.1, rel=1e-3)  # of a ramp, the mean lags by d / (1 - d)
    average.give(layer)
    assert float(layer.weight.detach()) == pytest.approx(expected, rel=1e-5)


def test_running_means_are_averaged_too_and_counts_are_not() -> None:
    norm = nn.BatchNorm1d(2)
    norm(torch.randn(8, 2))
    assert set(Average(norm, 0.9).tensors) == {"weight", "bias", "running_mean", "running_var"}
