"""Radiography against Beer and Lambert, and its likelihood ratio against what every likelihood ratio obeys."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from polyclinic.phantom.anatomy import MASK, Grid, Lesions, Solid, coverage
from polyclinic.phantom.sites import SITES
from polyclinic.phantom.xray import MU_WATER, SCALE, attenuation, expected, expose, line_integrals, shadow

GRID = Grid((48, 40, 48), (4.0, 5.0, 4.0))
_SPOT = Solid("", (0, 0, 0), (4, 4, 4), 0)
_BOX, _FILLED = coverage(GRID, _SPOT)
NONE = Lesions(_SPOT, (_BOX, 0 * _FILLED), None, None)


def test_the_definition_of_hounsfield_units_turned_round() -> None:
    np.testing.assert_allclose(
        attenuation(np.array([-1024.0, -1000.0, 0.0, 1000.0])), [0, 0, MU_WATER, 2 * MU_WATER], rtol=1e-6
    )


@pytest.mark.parametrize("thickness_mm", [0, 50, 200])
def test_beer_and_lambert(thickness_mm: int) -> None:
    hu = np.full(GRID.shape, -1000.0, np.float32)
    hu[:, : thickness_mm // 5] = 0
    photons = expected(line_integrals(hu, GRID), GRID, SITES[0])
    np.testing.assert_allclose(photons, SITES[0].photons * 16 * np.exp(-MU_WATER * thickness_mm), rtol=1e-5)


def test_line_integrals_of_a_ball_of_water_are_its_chords() -> None:
    ball = Solid("", (0, 0, 0), (80.0, 80.0, 80.0), 0)
    where, filled = coverage(GRID, ball)
    hu = np.full(GRID.shape, -1000.0, np.float32)
    hu[where] += 1000 * filled
    inside = 1 - (GRID.axis(0)[:, None] / 80) ** 2 - (GRID.axis(2)[None, :] / 80) ** 2
    exact = MU_WATER * 160 * np.sqrt(np.maximum(inside, 0))
    found = line_integrals(hu, GRID)
    assert np.abs(found - exact)[np.abs(inside) > 0.15].max() < MU_WATER * 1.5
    assert found.sum() == pytest.approx(exact.sum(), rel=0.005)


def test_counts_are_poisson_and_the_head_is_on_top() -> None:
    hu = np.full(GRID.shape, -1000.0, np.float32)
    hu[:, 10:30] = 0
    hu[40:, 10:30] = 1000  # towards the head
    shown = expose(hu, NONE, False, GRID, SITES[0], np.random.default_rng(0))
    assert shown.pixels[:8].mean() > shown.pixels[-30:].mean() + 0.9 * SCALE * MU_WATER * 100
    counts = np.exp(-shown.pixels[-30:].astype(float) / SCALE) * SITES[0].photons * 16
    assert counts.var() / counts.mean() == pytest.approx(1, abs=0.12)


@pytest.fixture(scope="module")
def faint() -> tuple[np.ndarray, Lesions]:
    """A nodule of 6 mm in a lung."""
    hu = np.full(GRID.shape, 40.0, np.float32)
    hu[:, 8:32] = -850
    solid = Solid("nodule", (3.0, 0.0, -7.0), (3.0, 3.0, 3.0), 30)
    return hu, Lesions(solid, coverage(GRID, solid, samples=6), None, None)


def test_the_likelihood_ratio_is_one(faint: tuple[np.ndarray, Lesions]) -> None:
    """Under "none", E[Λ] = 1 for any likelihood ratio Λ; under "nodule", E[1/Λ] = 1; and ln Λ differs by about d'² between them."""
    hu, found = faint
    site = replace(SITES[0], photons=150.0)
    rng = np.random.default_rng(1)
    without = [expose(hu, found, False, GRID, site, rng) for _ in range(800)]
    present = [expose(hu, found, True, GRID, site, rng) for _ in range(800)]
    log_0, log_1 = (np.array([r.log_likelihood_ratio for r in some]) for some in (without, present))
    d = without[0].detectability
    assert 0.3 < d < 1.5
    for ratio in (np.exp(log_0), np.exp(-log_1)):
        assert ratio.mean() == pytest.approx(1, abs=4 * ratio.std() / np.sqrt(len(ratio)))
    assert log_1.mean() - log_0.mean() == pytest.approx(d**2, abs=4 * d / np.sqrt(400))


def test_the_shadow_lies_where_the_nodule_is(faint: tuple[np.ndarray, Lesions]) -> None:
    hu, found = faint
    lung = (hu < -500).astype(np.float32)
    marked = np.argwhere(shadow(lung, found, True, GRID) == MASK["nodule"])
    row, column = marked.mean(axis=0)
    assert row == pytest.approx(23.5 - 3.0 / 4, abs=0.6)  # the head is row 0
    assert column == pytest.approx(23.5 - 7.0 / 4, abs=0.6)
    assert (shadow(lung, found, False, GRID) == MASK["lung"]).all()  # the beam meets 120 mm of it everywhere
