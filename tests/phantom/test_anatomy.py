"""Solids against the formulas of their volumes and chords; lesions where and as large as the graph says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.phantom.anatomy import (
    MASK,
    Grid,
    Solid,
    body,
    coarse,
    coverage,
    earlier,
    grid_of,
    lesions,
    mask,
    painted,
)
from polyclinic.phantom.people import people, person

HALF = st.tuples(*[st.floats(20, 60)] * 3)
CENTRE = st.tuples(*[st.floats(-40, 40)] * 3)


@settings(max_examples=15, deadline=None)
@given(HALF, CENTRE)
def test_volume_of_an_ellipsoid(half: tuple[float, float, float], centre: tuple[float, float, float]) -> None:
    grid = Grid((64, 48, 64), (3.2, 4.3, 3.1))
    _, filled = coverage(grid, Solid("", centre, half, 0))
    voxel, volume = np.prod(grid.spacing_mm), 4 / 3 * np.pi * np.prod(half)
    blurred = (
        sum(grid.spacing_mm) / 3**0.5 / 2 / min(half)
    ) ** 2  # the second order, which the surface's distance leaves out
    assert filled.sum(dtype=float) * voxel == pytest.approx(volume, rel=0.005 + blurred)


@pytest.mark.parametrize("radius", [2.0, 3.0, 6.0, 16.0])
def test_volume_of_what_is_smaller_than_a_voxel(radius: float) -> None:
    _, filled = coverage(grid_of(64), Solid("", (10.3, -7.7, 2.9), (radius, radius, radius), 0), samples=8)
    assert filled.sum(dtype=float) * 400**3 / (128 * 64 * 128) == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.03)


def test_chord_of_an_ellipsoid() -> None:
    """Along y it is 2 b sqrt(1 - (x/a)² - (z/c)²)."""
    grid, (c, b, a) = Grid((80, 60, 80), (2.5, 4.0, 2.5)), (70.0, 90.0, 60.0)
    where, filled = coverage(grid, Solid("", (0, 0, 0), (c, b, a), 0))
    chords = np.zeros((80, 80))
    chords[where[0], where[2]] = filled.sum(axis=1) * grid.spacing_mm[1]
    inside = 1 - (grid.axis(0)[:, None] / c) ** 2 - (grid.axis(2)[None, :] / a) ** 2
    exact = 2 * b * np.sqrt(np.maximum(inside, 0))
    far = np.abs(inside) > 0.1  # at the rim the chord's slope is infinite
    assert np.abs(chords - exact)[far].max() < 0.25 * 4.0  # a quarter of a voxel
    assert chords.sum() == pytest.approx(exact.sum(), rel=0.003)


def test_a_cylinder_is_one() -> None:
    grid = Grid((16, 64, 64), (5.0, 2.0, 2.0))
    where, filled = coverage(grid, Solid("", (0, 0, 0), (float("inf"), 30, 40), 0))
    assert where[0] == slice(0, 16)
    assert filled.sum(dtype=float) * 20 == pytest.approx(np.pi * 30 * 40 * 80, rel=0.005)


def _patient(**wanted: float) -> dict:
    drawn = people(3, range(400))
    index = next(i for i in range(400) if all(drawn[k][i] == v for k, v in wanted.items()))
    return person(3, index)


def test_air_is_air_and_lungs_hold_lesions() -> None:
    who = _patient(pneumonia=1, nodule=1, effusion=1) | {"nodule_mm": 30.0}
    grid, rng = grid_of(32), np.random.default_rng(0)
    chest = body(who, grid, rng)
    found = lesions(who, chest, grid, rng)
    assert chest.hu.min() >= -1000
    assert (chest.hu[:, 0, 0] == -1000).all()  # the corner of the field
    assert chest.lung.min() >= 0 <= chest.lung.max() <= 1
    for filled in (found.consolidation, found.effusion):
        assert filled is not None
        assert (filled <= chest.lung + 1e-6).all()
        assert filled.max() > 0.5
    hu, clear = painted(chest, found, True), painted(chest, found, False)
    where = found.nodule[0]
    outside = np.ones(hu.shape, bool)
    outside[where] = False
    np.testing.assert_array_equal(hu[outside], clear[outside])
    labels = mask(chest, found, grid, True)
    assert set(np.unique(labels)) == {0, *MASK.values()}
    assert (coarse(chest.hu)[labels == MASK["lung"]] < -350).mean() > 0.95
    z, y, x = (round((c / s) + (n - 1) / 2) for c, s, n in zip(found.solid.centre, (12.5,) * 3, (32,) * 3, strict=True))
    assert MASK["nodule"] in labels[z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2]


@pytest.mark.parametrize("doubling_days", [60.88, 304.4])
def test_a_nodule_grows_by_its_doubling_time(doubling_days: float) -> None:
    who = _patient(nodule=1) | {"doubling_days": doubling_days, "nodule_mm": 24.0}
    grid, rng = grid_of(64), np.random.default_rng(0)
    chest = body(who, grid, rng)
    now = lesions(who, chest, grid, rng)
    before = earlier(who, grid, now, doubling_days / 30.44)
    assert before.nodule[1].sum() / now.nodule[1].sum() == pytest.approx(0.5, rel=0.03)
    assert before.solid.centre == now.solid.centre


def test_disease_shows_in_the_body() -> None:
    grid = grid_of(32)
    volume = lambda who: body(who, grid, np.random.default_rng(0)).lung.sum()
    who = _patient(emphysema=0, heart_failure=0)
    assert volume(who | {"emphysema": 1}) > 1.05 * volume(who)
    assert volume(who | {"heart_failure": 1}) < volume(who)
    air = lambda who: np.median((b := body(who, grid, np.random.default_rng(0))).hu[b.lung > 0.99])
    assert air(who | {"emphysema": 1}) < air(who) - 40
