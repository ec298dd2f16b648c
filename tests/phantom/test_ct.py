"""The scanner against its definitions: water is 0 and air -1000, an edge is the integral of the point spread, noise is the device's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from polyclinic.phantom.ct import scan, to_world
from polyclinic.phantom.sites import SITES


def _half_water(size: int = 64) -> np.ndarray:
    hu = np.full((2 * size, size, 2 * size), -1000.0, np.float32)
    hu[:, :, size:] = 0
    return hu


@pytest.mark.parametrize("site", SITES, ids=lambda s: s.name)
def test_water_air_and_noise(site) -> None:
    volume = scan(_half_water(), site, np.random.default_rng(0)).astype(float)
    water, air = volume[:, :, 40:], volume[:, :, :24]
    margin = 4 * site.ct_noise_hu / np.sqrt(water.size / 8)  # neighbours' noise is alike
    assert water.mean() == pytest.approx(0, abs=margin)
    assert water.std() == pytest.approx(site.ct_noise_hu, rel=0.03)
    assert air.mean() == pytest.approx(-1000, abs=3 * margin + site.ct_noise_hu)  # what is under -1024 is cut off
    assert volume.min() >= -1024


def test_an_edge_is_the_integral_of_the_point_spread() -> None:
    site = replace(SITES[0], ct_noise_hu=0.0, ct_psf_mm=12.0)
    edge = scan(_half_water(), site, np.random.default_rng(0))[5, 30].astype(float)
    at = (np.arange(64) - 31.5) * 400 / 64
    np.testing.assert_allclose(edge, -1000 + 1000 * norm.cdf(at / 12.0), atol=25)  # of a voxel's width


def test_a_softer_beam_brightens_bone_alone() -> None:
    hu = np.full((32, 16, 32), 40.0, np.float32)
    hu[:, :, 16:] = 600
    quiet = [replace(s, ct_noise_hu=0.0, ct_psf_mm=0.1, kvp=kvp) for s, kvp in ((SITES[0], 120), (SITES[0], 100))]
    hard, soft = (scan(hu, site, np.random.default_rng(0)) for site in quiet)
    assert (hard[:, :, :7] == soft[:, :, :7]).all()
    assert (soft[:, :, 9:] > hard[:, :, 9:]).all()


def test_the_field_is_centred() -> None:
    matrix = to_world(64)
    np.testing.assert_allclose(matrix @ [31.5, 31.5, 31.5, 1], [0, 0, 0, 1], atol=1e-9)
    assert matrix[0, 0] == 6.25
