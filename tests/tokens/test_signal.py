from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from polyclinic.harmonise import LEADS
from polyclinic.schema import Ragged
from polyclinic.tokens import SignalVit, phantom

SPEC = SignalVit(rate_hz=10, seconds=4, window=10, width=16, depth=1, heads=2)


def strip(*leads: int, spacing: float | None = 0.1) -> Ragged:
    values = torch.full((1, len(LEADS), 40), torch.nan)
    for lead in leads:
        values[0, lead] = torch.randn(40, generator=torch.Generator().manual_seed(lead))
    mm = None if spacing is None else torch.tensor([[spacing]])
    return Ragged(values, torch.tensor([0]), torch.zeros(1), mm, 1, ["a"])


def test_a_token_a_window_of_each_lead_that_is_there() -> None:
    encoder = SPEC.build(phantom.fingerprint())
    tokens = encoder.embed(strip(1, 5))
    assert tokens.lengths.tolist() == [8]
    assert tokens.position[:, 0].tolist() == [1] * 4 + [5] * 4
    assert tokens.position[:, 3].tolist() == pytest.approx([0.5, 1.5, 2.5, 3.5] * 2)  # centres, in seconds


@pytest.mark.parametrize("spacing", [None, torch.nan])
def test_a_strip_without_a_rate_is_at_the_recipes(spacing: float | None) -> None:
    position = SPEC.build(phantom.fingerprint())(strip(1, spacing=spacing)).position
    assert position[:, 3].tolist() == pytest.approx([0.5, 1.5, 2.5, 3.5])


def test_places_are_in_seconds_at_any_rate() -> None:
    """The same windows at half the rate lie twice as far apart."""
    position = SPEC.build(phantom.fingerprint())(strip(1, spacing=0.2)).position
    assert position[:, 3].tolist() == pytest.approx([1, 3, 5, 7])


def test_a_window_with_a_gap_is_no_token() -> None:
    ragged = strip(2)
    assert isinstance(ragged.values, torch.Tensor)
    ragged.values[0, 2, 13] = torch.nan
    tokens = SPEC.build(phantom.fingerprint())(ragged)
    assert tokens.position[:, 3].tolist() == pytest.approx([0.5, 2.5, 3.5])
    assert tokens.values.isfinite().all()


def test_the_lead_is_part_of_the_token() -> None:
    encoder, one, other = SPEC.build(phantom.fingerprint()), strip(1), strip(1)
    assert isinstance(other.values, torch.Tensor)
    other.values = other.values.roll(3, dims=1)
    assert (encoder(one).values - encoder(other).values).abs().max() > 1e-2


def test_a_lead_without_a_signal_gives_nothing_at_all() -> None:
    tokens = SPEC.build(phantom.fingerprint())(strip())
    assert tokens.lengths.tolist() == [0]
    tokens.values.sum().backward()


def test_windows_that_do_not_fill_the_strip_are_refused() -> None:
    with pytest.raises(ValidationError, match="do not fill"):
        SignalVit(rate_hz=100, seconds=10, window=33)


def test_a_window_that_was_not_recorded_whole_gives_no_token() -> None:
    encoder = SPEC.build(phantom.fingerprint())
    short = strip(1)
    assert isinstance(short.values, torch.Tensor)
    short.values[0, 1, 25:] = torch.nan  # two and a half windows
    assert encoder(short).lengths.tolist() == [2]
    short.values[0, 1, 5:] = torch.nan
    assert encoder(short).lengths.tolist() == [0]
