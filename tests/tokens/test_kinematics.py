from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from polyclinic.schema import Ragged
from polyclinic.tokens import MotionVit, phantom
from polyclinic.tokens.kinematics import of_arms

CHANNELS = ("left x", "left y", "right x", "gripper", "left angle")
SPEC = MotionVit(rate_hz=10, seconds=2, window=5, channels=CHANNELS, arms=("left", "right"), width=16, depth=1, heads=2)


def recordings(m: int = 1) -> Ragged:
    values = torch.randn(m, len(CHANNELS), 20, generator=torch.Generator().manual_seed(0))
    spacing = torch.full((m, 1), 0.1)
    return Ragged(values, torch.arange(m), torch.zeros(m), spacing, m, [str(i) for i in range(m)])


def test_the_arms_of_jigsaws_have_nineteen_channels_each() -> None:
    """Gao et al. 2014: four manipulators of position, rotation, two velocities and a gripper."""
    spec = MotionVit()
    assert of_arms(spec.channels, spec.arms) == [list(range(start, start + 19)) for start in (0, 19, 38, 57)]
    assert of_arms(CHANNELS, ("Right", "left", "third")) == [[2], [0, 1, 4], [3]]


def test_a_window_of_an_arm_is_a_token_of_its_channels_and_its_seconds() -> None:
    encoder, ragged = SPEC.build(phantom.fingerprint()), recordings()
    tokens = encoder.embed(ragged)
    assert tokens.position[:, 0].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert tokens.position[:, 3].tolist() == pytest.approx([0.25, 0.75, 1.25, 1.75] * 3)
    assert isinstance(ragged.values, torch.Tensor)
    place = encoder.position(tokens.position, tokens.time_h)
    for arm, channels in enumerate(([0, 1, 4], [2], [3])):
        for number in range(4):
            piece = ragged.values[0, channels, 5 * number : 5 * number + 5].flatten()
            expected = piece @ encoder.weight[arm, : len(piece)] + encoder.arm[arm]
            found = tokens.values[4 * arm + number] - place[4 * arm + number]
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_what_was_not_measured_is_no_token_and_adds_nothing() -> None:
    encoder, ragged = SPEC.build(phantom.fingerprint()), recordings()
    assert isinstance(ragged.values, torch.Tensor)
    whole = encoder.embed(ragged).values
    ragged.values[0, 2] = torch.nan  # the right arm
    ragged.values[0, :, 15:] = torch.nan  # what the recording lacks of the length
    ragged.values[0, 1, :5] = torch.nan  # one of the left arm's three channels, for a while
    tokens = encoder.embed(ragged)
    assert tokens.position[:, 0].tolist() == [0, 0, 0, 2, 2, 2]
    torch.testing.assert_close(tokens.values[1:3], whole[1:3])
    torch.testing.assert_close(tokens.values[3:], whole[8:11])
    piece = ragged.values[0, [0, 4], :5]
    expected = (piece[0] @ encoder.weight[0, :5] + piece[1] @ encoder.weight[0, 10:15]) * (3 / 2) ** 0.5 + encoder.arm[
        0
    ]
    found = tokens.values[0] - encoder.position(tokens.position, tokens.time_h)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    wanted = encoder.answer(ragged)
    assert torch.equal(wanted[0].isfinite(), torch.tensor([True] * 5 + [False] * 5 + [True] * 5))
    assert torch.equal(
        wanted[1], ragged.values[0, [0, 1, 4], 5:10].flatten()
    )  # as it is, and not standardised by itself
    assert torch.equal(wanted[3].isfinite(), torch.tensor([True] * 5 + [False] * 10))


def test_the_standard_has_the_channels_in_their_order() -> None:
    standard = SPEC.standard()
    assert (standard.channels, standard.rate_hz, standard.seconds) == (CHANNELS, 10, 2)


def test_windows_that_do_not_fill_the_length_are_refused() -> None:
    with pytest.raises(ValidationError, match="do not fill"):
        MotionVit(window=7)
