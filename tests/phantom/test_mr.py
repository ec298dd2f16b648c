"""Magnetic resonance against the limits of the spin-echo equation and the moments of Rayleigh's and Rice's laws."""

from __future__ import annotations

import numpy as np
import pytest

from polyclinic.phantom.mr import CONTRASTS, MASK, TISSUES, head, mask, receive_field, rician, scan, spin_echo
from polyclinic.phantom.people import person
from polyclinic.phantom.sites import SITES


@pytest.mark.parametrize("tissue", TISSUES)
def test_limits_of_the_spin_echo(tissue: str) -> None:
    t1, t2, density = TISSUES[tissue]
    assert spin_echo(tissue, 1e9, 0) == pytest.approx(density)
    assert spin_echo(tissue, t1 * np.log(2), 0) == pytest.approx(density / 2)  # half has grown back
    assert spin_echo(tissue, 1e9, t2) == pytest.approx(density / np.e)


def test_contrasts_are_what_they_are_called() -> None:
    signal = {c: {t: spin_echo(t, *times) for t in TISSUES} for c, times in CONTRASTS.items()}
    assert signal["T1w"]["fat"] > signal["T1w"]["white"] > signal["T1w"]["grey"] > signal["T1w"]["fluid"]
    assert signal["T2w"]["fluid"] > signal["T2w"]["infarct"] > signal["T2w"]["grey"] > signal["T2w"]["white"]
    assert signal["PDw"]["grey"] > signal["PDw"]["white"] > signal["PDw"]["bone"]


def test_noise_without_signal_is_rayleigh() -> None:
    noise = rician(np.zeros(200_000, np.float32), 3.0, np.random.default_rng(0))
    assert noise.mean() == pytest.approx(3 * np.sqrt(np.pi / 2), rel=0.005)
    assert noise.var() == pytest.approx((2 - np.pi / 2) * 9, rel=0.02)


@pytest.mark.parametrize("amplitude", [0.0, 2.0, 30.0])
def test_the_second_moment_of_rice(amplitude: float) -> None:
    """E[M²] = A² + 2σ², at any signal."""
    noise = rician(np.full(200_000, amplitude, np.float32), 2.0, np.random.default_rng(1)).astype(float)
    assert (noise**2).mean() == pytest.approx(amplitude**2 + 8, rel=0.01)


def test_tissues_fill_every_voxel() -> None:
    found = head(person(0, 0) | {"infarct": 1}, 32, np.random.default_rng(0))
    np.testing.assert_allclose(sum(found.tissue.values()), 1, atol=1e-5)
    assert min(t.min() for t in found.tissue.values()) > -1e-6
    labels = mask(found)
    assert set(np.unique(labels)) == {0, *MASK.values()}
    spot = labels == MASK["infarct"]
    t2 = scan(found, "T2w", SITES[1], np.random.default_rng(1)).astype(float)
    assert t2[spot].mean() > 1.15 * t2[labels == MASK["brain"]].mean()


def test_ventricles_widen_with_age() -> None:
    fluid = lambda age: (
        head(person(0, 0) | {"age": age, "infarct": 0}, 48, np.random.default_rng(0)).tissue["fluid"].sum()
    )
    assert fluid(85.0) > fluid(60.0) > fluid(35.0)


def test_the_receive_field_is_smooth_and_as_strong_as_told() -> None:
    grid = head(person(0, 0), 48, np.random.default_rng(0)).grid
    log = np.log(receive_field(grid, 0.2, np.random.default_rng(2)))
    assert log.std() == pytest.approx(0.2, rel=1e-3)
    assert log.mean() == pytest.approx(0, abs=1e-3)
    assert (
        max(np.abs(np.diff(log, n=3, axis=a)).max() for a in range(3)) < 1e-4
    )  # a polynomial of the second degree has no third difference
