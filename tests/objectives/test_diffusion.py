"""The arithmetic of diffusion: published figures, identities, and a sampler whose perfect denoiser is known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from polyclinic.objectives.diffusion import cosine, ddim, noised, parted, roots, velocity

LEFT = cosine(1000)


def test_the_share_that_is_left_falls_along_a_squared_cosine() -> None:
    assert (LEFT.diff() < 0).all()
    assert float(LEFT[0]) > 0.9999
    assert 0 < float(LEFT[-1]) < 1e-4
    # Nichol & Dhariwal 2021, equation 17; the clip at 0.999 touches the very last step alone.
    for step in (1, 250, 500, 999):
        f = [math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in (step, 0)]
        assert float(LEFT[step - 1]) == pytest.approx(f[0] / f[1], rel=1e-9)
    assert float(LEFT[-1] / LEFT[-2]) == pytest.approx(1 - 0.999)


@given(st.integers(0, 999), st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_noise_record_and_velocity_say_the_same(time: int, seed: int) -> None:
    x, noise = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    left = LEFT[time].expand(3)
    z, v = noised(x, noise, left), velocity(x, noise, left)
    found = parted(z, v, left)
    torch.testing.assert_close(found[0], x)
    torch.testing.assert_close(found[1], noise)
    a, b = roots(left, x)
    torch.testing.assert_close(a.square() + b.square(), torch.ones_like(a))
    # z and v are x and e turned by an angle, and v is how z moves as it turns (Salimans & Ho 2022, appendix D).
    torch.testing.assert_close(z.square() + v.square(), x.square() + noise.square())


MEAN, SPREAD = 3.0, 0.5


def perfect(z: Tensor, time: Tensor) -> Tensor:
    """v of the best denoiser of a normal of MEAN and SPREAD: what x is expected to be is linear in z."""
    a, b = roots(LEFT[time], z)
    x = MEAN + a * SPREAD**2 / (a**2 * SPREAD**2 + b**2) * (z - a * MEAN)
    return velocity(x, (z - a * x) / b, LEFT[time])


@pytest.mark.parametrize(("steps", "close"), [(10, 0.2), (50, 0.03), (1000, 0.003)])
def test_with_a_perfect_denoiser_the_distribution_comes_back(steps: int, close: float) -> None:
    """A perfect denoiser of a normal makes DDIM an affine map of the noise: two numbers say what distribution comes out."""
    ends = ddim(perfect, torch.tensor([[0.0], [1.0]], dtype=torch.float64), LEFT, steps).flatten()
    assert float(ends[0]) == pytest.approx(MEAN, abs=close)
    assert float(ends[1] - ends[0]) == pytest.approx(SPREAD, abs=close)


def test_with_noise_on_the_way_too() -> None:
    draws = torch.Generator().manual_seed(0)
    found = ddim(perfect, torch.randn(20000, 1, generator=draws), LEFT, 500, 1.0, draws)
    assert float(found.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(found.std()) == pytest.approx(SPREAD, abs=0.02)
    z = torch.randn(2, 1, generator=draws)
    assert torch.equal(ddim(perfect, z, LEFT, 20), ddim(perfect, z, LEFT, 20))


@pytest.mark.parametrize("steps", [0, 1001])
def test_steps_that_cannot_be_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match="from 1 to all"):
        ddim(perfect, torch.zeros(1, 1), LEFT, steps)
