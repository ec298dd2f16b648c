from __future__ import annotations

import math

import pytest
import torch

from polyclinic.objectives.dit import Denoiser, TimedBlock, cut, uncut, waves
from polyclinic.schema import Tokens
from polyclinic.tokens import Layout
from polyclinic.tokens.attention import Sight


@pytest.mark.parametrize(("grid", "p"), [((4, 6), 2), ((4, 6), 1), ((2, 4, 6), 2)])
def test_boxes_are_put_together_again(grid: tuple[int, ...], p: int) -> None:
    x = torch.arange(6 * math.prod(grid)).view(2, 3, *grid)
    pieces = cut(x, p)
    assert torch.equal(uncut(pieces, grid, p), x)
    corner = x[0, :, :p, :p] if len(grid) == 2 else x[0, :, :p, :p, :p]
    assert torch.equal(pieces[0, 0], corner.flatten())
    # The next token is the next along the last axis, as `grid_positions` counts.
    assert int(pieces[0, 1, 0]) == p


def known(patients: list[int], of: int) -> Tokens:
    n = len(patients)
    values = torch.randn(n, 8, generator=torch.Generator().manual_seed(1))
    who, zero = torch.tensor(patients), torch.zeros(n)
    return Tokens(values, who, who * 0, who, torch.zeros(n, 4), zero, torch.bincount(who, minlength=of))


def denoiser(context: int | None = 8) -> Denoiser:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Denoiser(2, 3, 2, 4, 16, 2, 2, context, (1.0, 1.0, 1.0, 1.0))


def awake(net: Denoiser) -> Denoiser:
    """As if it had learned: nothing stands at zero."""
    with torch.no_grad():
        for number, p in enumerate(net.parameters()):
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(number)))
    return net


def test_it_begins_as_nothing_and_a_block_as_the_identity() -> None:
    z, who = torch.randn(2, 3, 4, 4), torch.tensor([0, 1])
    found = denoiser()(z, torch.tensor([5.0, 900.0]), torch.ones(2, 2), who, torch.zeros(2), known([0, 1], 2))
    assert found.shape == z.shape
    assert not found.any()
    x, layout = torch.randn(6, 16), Layout.of(torch.tensor([0, 0, 0, 1, 1, 1]))
    sight = Sight(layout.seats(6), layout.seats(2), [b.bias for b in layout.buckets])
    assert torch.equal(TimedBlock(16, 2, False)(x, torch.randn(6, 16), sight, None), x)


def test_each_record_knows_its_own_noise_place_and_patient() -> None:
    net = awake(denoiser())
    z, time, mm, who = (
        torch.randn(3, 3, 4, 4),
        torch.tensor([5.0, 900.0, 5.0]),
        torch.ones(3, 2),
        torch.tensor([0, 0, 1]),
    )
    hours = torch.zeros(3)
    seen = known([0, 0, 1], 2)
    found = net(z, time, mm, who, hours, seen)
    for row in range(3):
        alone = net(z[[row]], time[[row]], mm[[row]], who[[row]], hours[[row]], seen)
        torch.testing.assert_close(alone[0], found[row], atol=1e-5, rtol=1e-5)
    for other in (
        net(z, time + torch.tensor([0, 50, 0]), mm, who, hours, seen),
        net(z, time, mm * torch.tensor([[1.0], [3.0], [1.0]]), who, hours, seen),
        net(z + torch.tensor([0, 1.0, 0]).view(3, 1, 1, 1), time, mm, who, hours, seen),
    ):
        changed = [not torch.allclose(a, b, atol=1e-4) for a, b in zip(other, found, strict=True)]
        assert changed == [False, True, False]


def test_who_has_nothing_to_look_at_is_as_if_nothing_were_known_of_anyone() -> None:
    net = awake(denoiser())
    z, time, mm, who = torch.randn(2, 3, 4, 4), torch.tensor([5.0, 900.0]), torch.ones(2, 2), torch.tensor([0, 1])
    some, none = (net(z, time, mm, who, torch.zeros(2), seen) for seen in (known([0, 0], 2), None))
    assert not torch.allclose(some[0], none[0], atol=1e-4)
    torch.testing.assert_close(some[1], none[1], atol=1e-5, rtol=1e-5)
    alone = awake(denoiser(None))
    assert torch.equal(*(alone(z, time, mm, who, torch.zeros(2), seen) for seen in (known([0, 0], 2), None)))


def test_times_are_told_apart() -> None:
    found = waves(torch.arange(1000))
    assert found.shape == (1000, 128)
    assert float((found[1:] - found[:-1]).norm(dim=1).min()) > 1
