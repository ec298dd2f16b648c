from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.tokens.position import LONGEST, SHORTEST, PhysicalPosition

MM = st.floats(-400, 400, width=32)


def features(position: torch.Tensor, time_h: torch.Tensor) -> torch.Tensor:
    """(n 97): the place before its map to d."""
    module = PhysicalPosition(97)
    with torch.no_grad():
        module.project.weight.copy_(torch.eye(97))
        return module(position, time_h)


def test_features_are_sines_and_cosines_by_hand() -> None:
    found = features(torch.tensor([[0.5, 0.0, 0.0, 0.0]]), torch.tensor([math.e - 1]))[0]
    sines, cosines, hour = found[:48].view(4, 12), found[48:96].view(4, 12), found[96]
    assert float(sines[0, 0]) == math.sin(2 * math.pi * 0.5 / SHORTEST) == 1.0
    assert abs(float(sines[0, -1]) - math.sin(2 * math.pi * 0.5 / LONGEST)) < 1e-6
    assert not sines[1:].any()
    assert abs(float(cosines[0, 0]) - (math.cos(2 * math.pi * 0.5 / SHORTEST) - 1)) < 1e-6
    assert not cosines[1:].any(), "an axis that is not there adds nothing"
    assert abs(float(hour) - 0.1) < 1e-6


@given(MM, MM, MM, MM)
@settings(deadline=None, max_examples=40)
def test_a_shift_turns_every_place_alike(x: float, y: float, s: float, shift: float) -> None:
    """Fourier features: how far apart two places are depends on what lies between them and not on where they are."""
    here, there = torch.tensor([[x, y, 0, s]]), torch.tensor([[y, x, 1, s]])
    moved = torch.tensor([[shift, 2 * shift, 0, 0]])
    zero = torch.zeros(1)
    one = (features(here, zero) - features(there, zero)).norm()
    other = (features(here + moved, zero) - features(there + moved, zero)).norm()
    torch.testing.assert_close(one, other, atol=2e-2, rtol=0)  # float32 angles of hundreds of turns


def test_the_scale_is_a_unit() -> None:
    one, other = PhysicalPosition(16), PhysicalPosition(16, (1.0, 1.0, 1.0, 0.05))
    other.load_state_dict(one.state_dict())
    place = torch.tensor([[3.0, 4.0, 5.0, 0.6]])
    torch.testing.assert_close(other(place, torch.zeros(1)), one(place / torch.tensor([1, 1, 1, 0.05]), torch.zeros(1)))


def test_minutes_and_decades_are_told_apart() -> None:
    hours = torch.tensor([-876_000.0, -1.0, 0.0, 1 / 60, 1.0, 24.0, 8760.0, 876_000.0])
    found = features(torch.zeros(len(hours), 4), hours)[:, 96]
    assert (found.diff() > 1e-3).all()
    assert float(found.abs().max()) < 2
