"""Speckle against Rayleigh's law, and the beating ring against its ejection fraction."""

from __future__ import annotations

import numpy as np
import pytest

from polyclinic.phantom.people import person
from polyclinic.phantom.sites import SITES
from polyclinic.phantom.ultrasound import FRAMES, PIXELS, RANGE_DB, clip, compressed, envelope, radii


@pytest.mark.parametrize("site", SITES, ids=lambda s: s.name)
def test_fully_developed_speckle_has_a_ratio_of_1_91(site) -> None:
    """Mean over deviation sqrt(π/(4 - π)) (Wagner et al. 1983)."""
    rng = np.random.default_rng(0)
    field = rng.standard_normal((600, 600)) + 1j * rng.standard_normal((600, 600))
    received = envelope(field, site, 1.0)
    assert received.mean() / received.std() == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), abs=0.06)
    intensity = received**2
    assert intensity.mean() / intensity.std() == pytest.approx(1, abs=0.06)  # exponential


def test_a_higher_frequency_has_a_finer_grain() -> None:
    rng = np.random.default_rng(0)
    field = rng.standard_normal((300, 300)) + 1j * rng.standard_normal((300, 300))
    alike = [
        np.corrcoef((e := envelope(field, site, 1.0))[:, :-2].ravel(), e[:, 2:].ravel())[0, 1]
        for site in (SITES[2], SITES[1])
    ]
    assert SITES[2].us_mhz < SITES[1].us_mhz
    assert alike[0] > alike[1] + 0.05


def test_decibels() -> None:
    grey = compressed(np.array([1.0, 0.5, 0.1, 1e-4, 2.0]), 1.0).astype(float)
    assert grey.tolist() == [
        255,
        round(255 * (1 - 20 * np.log10(2) / RANGE_DB)),
        round(255 * (1 - 20 / RANGE_DB)),
        0,
        255,
    ]


@pytest.mark.parametrize("ejection", [0.25, 0.65])
def test_the_ring_ejects_its_fraction_and_keeps_its_muscle(ejection: float) -> None:
    cavity, muscle = radii(person(0, 0) | {"ejection": ejection})
    assert len(cavity) == FRAMES
    assert 1 - (cavity.min() / cavity.max()) ** 2 == pytest.approx(ejection, rel=0.03)  # no frame falls on the very end
    np.testing.assert_allclose(muscle**2 - cavity**2, muscle[0] ** 2 - cavity[0] ** 2)


def test_failure_beats_less() -> None:
    """The dark cavity's area, counted in the pictures."""
    change = []
    for failure, ejection in ((0, 0.65), (1, 0.28)):
        frames = clip(
            person(0, 0) | {"heart_failure": failure, "ejection": ejection}, SITES[1], np.random.default_rng(1)
        )
        assert frames.shape == (FRAMES, PIXELS, PIXELS)
        middle = frames[:, 20:76, 20:76]
        dark = (middle < 120).sum(axis=(1, 2)).astype(float)
        change.append(1 - dark.min() / dark.max())
    assert change[0] > change[1] + 0.15
