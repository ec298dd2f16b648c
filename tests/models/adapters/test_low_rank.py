from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polyclinic.models.adapters import AdapterError, Dora, Lora, additions, fold, learned, merged, put, restore, settle
from polyclinic.models.adapters.low_rank import DoraLinear, LoraLinear, LowRank
from polyclinic.tokens import Layout, Transformer, frozen

every = pytest.mark.parametrize("spec", [Lora(rank=4, alpha=8.0), Dora(rank=4, alpha=8.0)], ids=["lora", "dora"])


@pytest.fixture
def trunk() -> Transformer:
    torch.manual_seed(0)
    return Transformer(16, depth=2, heads=2)


def said(trunk: Transformer) -> Tensor:
    x = torch.randn(12, 16, generator=torch.Generator().manual_seed(1))
    return trunk(x, Layout.of(torch.tensor([0] * 5 + [1] * 7)))


def learn(trunk: nn.Module) -> None:
    for module in trunk.modules():
        if isinstance(module, LowRank):
            nn.init.normal_(module.b, std=0.3)
        if isinstance(module, DoraLinear):
            module.m.data.mul_(torch.empty_like(module.m).uniform_(0.5, 2))


@every
def test_nothing_changes_at_the_start(spec: Any, trunk: Transformer) -> None:
    before = said(trunk)
    put(trunk, [spec], 0)
    assert torch.equal(said(trunk), before)


@every
def test_every_linear_layer_of_every_block_gets_one_and_nothing_else_is_trained(spec: Any, trunk: Transformer) -> None:
    linear = {name for name, m in trunk.named_modules() if isinstance(m, nn.Linear)}
    put(trunk, [spec], 0)
    assert {name for name, _, _ in additions(trunk)} == linear
    assert len(linear) == 8
    trained = {name for name, p in trunk.named_parameters() if p.requires_grad}
    own = ("a", "b") if spec.kind == "lora" else ("a", "b", "m")
    assert trained == {f"{layer}.{spec.kind}.{f}" for layer in linear for f in own}


def hosted(bias: bool) -> nn.Linear:
    """A layer with both kinds' parts, which a test puts on it one at a time."""
    torch.manual_seed(0)
    return nn.Linear(6, 9, bias)


@pytest.mark.parametrize("bias", [True, False])
def test_lora_is_what_its_authors_define(bias: bool) -> None:
    """W x + b + (alpha / r) B A x (Hu et al. 2022, section 4.1)."""
    layer, a, b = hosted(bias), torch.randn(4, 6), torch.randn(9, 4)
    wanted = F.linear(torch.ones(3, 6), layer.weight + (8.0 / 4) * b @ a, layer.bias)
    LoraLinear(layer, a, b, 8.0).attach(layer)
    torch.testing.assert_close(layer(torch.ones(3, 6)), wanted, atol=1e-5, rtol=1e-5)
    assert torch.linalg.matrix_rank(b @ a) == 4


@pytest.mark.parametrize("bias", [True, False])
def test_dora_is_what_its_authors_define(bias: bool) -> None:
    """m V / |V| x + b of V = W + (alpha / r) B A, with |V| of each of its rows (Liu et al. 2024, equation 5), whose gradient takes |V|
    as given (equation 11). The reference is differentiated by itself."""
    layer, x = hosted(bias), torch.randn(3, 6)
    a, b, m = (torch.randn(*shape, requires_grad=True) for shape in ((4, 6), (9, 4), (9,)))
    turned = layer.weight.detach() + (8.0 / 4) * b @ a
    wanted = F.linear(x, m[:, None] * turned / turned.norm(dim=1, keepdim=True).detach(), layer.bias)
    gradients = torch.autograd.grad(wanted.square().sum(), [a, b, m])
    made = DoraLinear(layer, a.detach().clone(), b.detach().clone(), 8.0)
    torch.testing.assert_close(made.m.detach(), turned.norm(dim=1).detach())
    made.m.data.copy_(m)
    made.attach(layer)
    answer = layer(x)
    torch.testing.assert_close(answer, wanted, atol=1e-5, rtol=1e-5)
    own = torch.autograd.grad(answer.square().sum(), [made.a, made.b, made.m])
    for found, reference in zip(own, gradients, strict=True):
        torch.testing.assert_close(found, reference, atol=1e-3, rtol=1e-4)


@every
def test_folded_is_unfolded(spec: Any, trunk: Transformer) -> None:
    put(trunk, [spec], 0)
    learn(trunk)
    before = said(trunk)
    fold(trunk)
    assert not list(additions(trunk))
    torch.testing.assert_close(said(trunk), before, atol=1e-5, rtol=1e-5)


@every
def test_weights_laid_out_for_the_cpu_have_their_additions_still(spec: Any, trunk: Transformer) -> None:
    """A decoder that writes calls its layers so."""
    before = said(trunk)
    put(trunk, [spec], 0)
    learn(trunk)
    wanted = said(trunk)
    assert not torch.allclose(wanted, before, atol=1e-2)
    with torch.no_grad(), frozen(trunk):
        torch.testing.assert_close(said(trunk), wanted, atol=1e-5, rtol=1e-5)


@every
def test_layers_that_learned_nothing_are_not_kept(spec: Any, trunk: Transformer) -> None:
    put(trunk, [spec], 0)
    names = [name for name, _, _ in additions(trunk)]
    layer = trunk.get_submodule(f"{names[2]}.{spec.kind}")
    assert isinstance(layer, LowRank)
    nn.init.ones_(layer.b)
    settle(trunk)
    assert {n.rpartition(".")[0] for n in learned(trunk)} == {f"{names[2]}.{spec.kind}"}


@pytest.mark.parametrize("name", ["blocks.7.attention.qkv", "norm"])
def test_factors_of_another_network(trunk: Transformer, name: str) -> None:
    with pytest.raises(AdapterError, match=f"of no adapter here, the first {name}"):
        restore(trunk, [Lora()], {f"{name}.lora.a": torch.ones(2, 16), f"{name}.lora.b": torch.ones(16, 2)})


def test_weights_are_merged_as_the_module_is(trunk: Transformer) -> None:
    plain = set(trunk.state_dict())
    put(trunk, [Lora(rank=4, alpha=6.0)], 0)
    learn(trunk)
    found = merged(trunk.state_dict(), 6.0)
    fold(trunk)
    assert found.keys() == plain
    assert all(torch.equal(tensor, found[name]) for name, tensor in trunk.state_dict().items())
