"""LoRA and DoRA beside `peft`, which puts its own on a copy of the same trunk: one answer, one gradient, one folded weight."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from polyclinic.models.adapters import Dora, Lora, fold, put
from polyclinic.tokens import Layout, Transformer

peft = pytest.importorskip("peft")
LAYERS = ("attention.qkv", "attention.out", "up", "down")


def said(trunk: torch.nn.Module) -> Tensor:
    x = torch.randn(12, 16, generator=torch.Generator().manual_seed(1))
    return trunk(x, Layout.of(torch.tensor([0] * 5 + [1] * 7)))


def layers(trunk: torch.nn.Module) -> Iterator[Any]:
    """Every linear layer of the blocks, in one order."""
    yield from (trunk.get_submodule(f"blocks.{number}.{name}") for number in range(2) for name in LAYERS)


def pair(spec: Lora | Dora) -> tuple[Transformer, Transformer]:
    """The same trunk with ours and with theirs, after the same made-up learning."""
    torch.manual_seed(0)
    ours = Transformer(16, depth=2, heads=2)
    theirs = copy.deepcopy(ours)
    config = peft.LoraConfig(
        r=spec.rank, lora_alpha=spec.alpha, lora_dropout=0.0, target_modules=list(LAYERS), use_dora=spec.kind == "dora"
    )
    peft.inject_adapter_in_model(config, theirs)
    put(ours, [spec], 0)
    for layer, host in zip(layers(ours), layers(theirs), strict=True):
        own = getattr(layer, spec.kind)
        with torch.no_grad():
            own.b.normal_(std=0.3)
            host.lora_A["default"].weight.copy_(own.a)
            host.lora_B["default"].weight.copy_(own.b)
            if spec.kind == "dora":
                own.m.mul_(torch.empty_like(own.m).uniform_(0.5, 2))
                host.lora_magnitude_vector["default"].weight.copy_(own.m)
    return ours, theirs


@pytest.mark.parametrize("spec", [Lora(rank=4, alpha=8.0), Dora(rank=4, alpha=8.0)], ids=["lora", "dora"])
def test_answers_and_gradients_are_those_of_peft(spec: Lora | Dora) -> None:
    ours, theirs = pair(spec)
    one, other = said(ours), said(theirs)
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    one.square().sum().backward()
    other.square().sum().backward()
    compared = 0
    for layer, host in zip(layers(ours), layers(theirs), strict=True):
        own = getattr(layer, spec.kind)
        parts = [(own.a, host.lora_A["default"].weight), (own.b, host.lora_B["default"].weight)]
        if spec.kind == "dora":
            parts.append((own.m, host.lora_magnitude_vector["default"].weight))
        for mine, its in parts:
            torch.testing.assert_close(mine.grad, its.grad, rtol=1e-4, atol=1e-4)
            compared += 1
    assert compared == 8 * (3 if spec.kind == "dora" else 2)


@pytest.mark.parametrize("spec", [Lora(rank=4, alpha=8.0), Dora(rank=4, alpha=8.0)], ids=["lora", "dora"])
def test_folded_weights_are_those_that_peft_merges(spec: Lora | Dora) -> None:
    ours, theirs = pair(spec)
    fold(ours)
    for layer, host in zip(layers(ours), layers(theirs), strict=True):
        host.merge()
        torch.testing.assert_close(layer.weight, host.base_layer.weight, rtol=1e-5, atol=1e-6)
