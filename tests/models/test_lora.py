from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from polyclinic.models.lora import LoraLinear, factors, inject, merge, merged, restore
from polyclinic.tokens import Layout, Transformer


@pytest.fixture
def trunk() -> Transformer:
    torch.manual_seed(0)
    return Transformer(16, depth=2, heads=2)


def said(trunk: Transformer) -> Tensor:
    x = torch.randn(12, 16, generator=torch.Generator().manual_seed(1))
    return trunk(x, Layout.of(torch.tensor([0] * 5 + [1] * 7)))


def learn(trunk: Transformer) -> None:
    for module in trunk.modules():
        if isinstance(module, LoraLinear):
            nn.init.normal_(module.b, std=0.3)


def test_nothing_changes_at_the_start(trunk: Transformer) -> None:
    before = said(trunk)
    inject(trunk, rank=4, alpha=8.0, seed=0)
    assert torch.equal(said(trunk), before)


def test_every_linear_layer_of_every_block_gets_one_and_nothing_else_is_trained(trunk: Transformer) -> None:
    linear = {name for name, m in trunk.named_modules() if isinstance(m, nn.Linear)}
    assert set(inject(trunk, rank=4, alpha=8.0, seed=0)) == linear
    assert len(linear) == 8
    trained = {name for name, p in trunk.named_parameters() if p.requires_grad}
    assert trained == {f"{layer}.{f}" for layer in linear for f in ("a", "b")}


def test_the_definition(trunk: Transformer) -> None:
    """W x + b + (alpha / r) B A x (Hu et al. 2022, section 4.1)."""
    inject(trunk, rank=4, alpha=8.0, seed=0)
    learn(trunk)
    layer = next(m for m in trunk.modules() if isinstance(m, LoraLinear))
    x = torch.randn(3, layer.linear.in_features)
    wanted = x @ (layer.linear.weight + (8.0 / 4) * layer.b @ layer.a).T + layer.linear.bias
    torch.testing.assert_close(layer(x), wanted, atol=1e-5, rtol=1e-5)
    assert torch.linalg.matrix_rank(layer.b @ layer.a) == 4


def test_merged_is_unmerged(trunk: Transformer) -> None:
    inject(trunk, rank=4, alpha=8.0, seed=0)
    learn(trunk)
    before = said(trunk)
    merge(trunk)
    assert not any(isinstance(m, LoraLinear) for m in trunk.modules())
    torch.testing.assert_close(said(trunk), before, atol=1e-5, rtol=1e-5)


def test_factors_put_back_give_the_same_answers(trunk: Transformer) -> None:
    weights = {k: v.clone() for k, v in trunk.state_dict().items()}
    inject(trunk, rank=4, alpha=8.0, seed=0)
    learn(trunk)
    kept, before = factors(trunk), said(trunk)
    other = Transformer(16, depth=2, heads=2)
    other.load_state_dict(weights)
    restore(other, kept, alpha=8.0)
    assert torch.equal(said(other), before)


def test_layers_that_learned_nothing_are_not_kept(trunk: Transformer) -> None:
    names = inject(trunk, rank=4, alpha=8.0, seed=0)
    assert factors(trunk) == {}
    layer = trunk.get_submodule(names[2])
    assert isinstance(layer, LoraLinear)
    nn.init.ones_(layer.b)
    assert set(factors(trunk)) == {f"{names[2]}.a", f"{names[2]}.b"}


def test_the_same_seed_gives_the_same_factors_and_the_world_s_randomness_is_left_alone() -> None:
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(0)
        trunk = Transformer(16, depth=1, heads=2)
        state = torch.get_rng_state()
        names = inject(trunk, rank=2, alpha=4.0, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        layer = trunk.get_submodule(names[0])
        assert isinstance(layer, LoraLinear)
        found.append(layer.a.detach())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("name", ["blocks.7.attention.qkv", "norm"])
def test_factors_of_another_network(trunk: Transformer, name: str) -> None:
    with pytest.raises(AttributeError):
        restore(trunk, {f"{name}.a": torch.ones(2, 16), f"{name}.b": torch.ones(16, 2)}, alpha=4.0)


def test_weights_are_merged_as_the_module_is(trunk: Transformer) -> None:
    plain = set(trunk.state_dict())
    inject(trunk, rank=4, alpha=6.0, seed=0)
    learn(trunk)
    found = merged(trunk.state_dict(), 6.0)
    merge(trunk)
    assert found.keys() == plain
    assert all(torch.equal(tensor, found[name]) for name, tensor in trunk.state_dict().items())
