from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from polyclinic.objectives import ObjectiveError
from polyclinic.objectives.autoencoder import Autoencoder, divergence, draw, halves


@pytest.mark.parametrize(("dims", "inputs", "factor"), [(2, 3, 4), (2, 1, 8), (3, 1, 4)])
def test_shapes(dims: int, inputs: int, factor: int) -> None:
    net, x = Autoencoder(dims, inputs, factor, 4, 2), torch.randn(2, inputs, *[2 * factor] * dims)
    mean, spread = net.encode(x)
    assert mean.shape == spread.shape == (2, 2, *halves(x.shape, factor)) == (2, 2, *[2] * dims)
    assert net.decode(mean).shape == x.shape
    with pytest.raises(ObjectiveError, match=f"5 x 8 samples, which places of {factor} along"):
        halves(torch.Size((1, 1, 5, 8)), factor)


def test_the_divergence_is_of_two_normals() -> None:
    mean, spread = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0))
    expected = kl_divergence(Normal(mean, (spread / 2).exp()), Normal(torch.zeros(2, 3), torch.ones(2, 3))).mean()
    torch.testing.assert_close(divergence(mean, spread), expected)
    drawn = draw(mean.expand(20000, 2, 3), spread.expand(20000, 2, 3), torch.randn(20000, 2, 3))
    torch.testing.assert_close(drawn.std(0), (spread / 2).exp(), atol=0.03, rtol=0.03)


def test_it_keeps_the_level_of_what_is_flat() -> None:
    """What an instance norm takes away: pictures that differ in nothing but their brightness."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Autoencoder(2, 1, 4, 8, 2)
    adam, draws = torch.optim.AdamW(net.parameters(), 3e-3, fused=True), torch.Generator().manual_seed(0)
    flat = lambda: (4 * torch.rand(16, 1, 1, 1, generator=draws) - 2).expand(-1, 1, 8, 8)

    def loss(x: Tensor) -> Tensor:
        return (net.decode(net.encode(x)[0]) - x).abs().mean()

    for _ in range(60):
        adam.zero_grad()
        loss(flat()).backward()
        adam.step()
    assert float(loss(flat()).detach()) < 0.25  # a flat guess is 1 off
