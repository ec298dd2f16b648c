from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.harmonise import stain

RUIFROK = np.array([[0.644, 0.717, 0.267], [0.093, 0.954, 0.283]])
"""Hematoxylin and eosin as Ruifrok and Johnston measured them (2001)."""
OTHERS = np.array([[0.56, 0.70, 0.44], [0.25, 0.87, 0.42]])
LIGHT = np.full(3, 240.0)


def tissue(stains: np.ndarray, n: int = 20_000, light: np.ndarray = LIGHT, strength: float = 1.0) -> np.ndarray:
    """(n 3) uint8 by Beer and Lambert's law: nuclei that take hematoxylin, cytoplasm that takes eosin, and what has both."""
    random = np.random.default_rng(0)
    amounts = np.zeros((n, 2))
    amounts[: n // 3, 0] = random.uniform(0.6, 1.8, n // 3)
    amounts[n // 3 : 2 * n // 3, 1] = random.uniform(0.6, 1.2, 2 * n // 3 - n // 3)
    amounts[2 * n // 3 :] = random.uniform(0.2, 0.9, (n - 2 * n // 3, 2))
    unit = stains / np.linalg.norm(stains, axis=1, keepdims=True)
    return np.rint((light + 1) * np.exp(-strength * amounts @ unit) - 1).clip(0, 255).astype(np.uint8)


def degrees(one: np.ndarray, other: np.ndarray) -> float:
    cosine = np.sum(one * other, axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))).max())


@pytest.mark.parametrize("stains", [OTHERS, stain.REFERENCE_STAINS])
def test_the_stains_that_made_it_are_found(stains: np.ndarray) -> None:
    found = stain.stains_of(tissue(stains))
    assert found is not None
    assert degrees(found, stains) < 3
    assert np.linalg.norm(found, axis=1) == pytest.approx(1)


def test_two_laboratories_come_out_alike() -> None:
    light = np.array([215.0, 205.0, 220.0])
    one, other = tissue(OTHERS), tissue(stain.REFERENCE_STAINS, light=light, strength=0.8)
    apart = np.abs(one.astype(float) - other).mean()
    alike = np.abs(stain.macenko(one)(one).astype(float) - stain.macenko(other, light)(other)).mean()
    assert alike < 0.35 * apart


def test_a_dimmer_lamp_changes_nothing() -> None:
    one = tissue(OTHERS)
    dim = np.rint(one * 0.8).astype(np.uint8)
    light = LIGHT * 0.8
    for method in (stain.macenko, stain.reinhard):
        assert np.abs(method(one)(one).astype(float) - method(dim, light)(dim)).mean() < 1.5


def test_macenko_gives_the_reference_its_own_stains() -> None:
    seen = tissue(OTHERS)
    found = stain.stains_of(stain.macenko(seen)(seen))
    assert found is not None
    assert degrees(found, stain.REFERENCE_STAINS) < 3


def test_reinhard_gives_the_reference_its_mean_and_spread() -> None:
    seen = tissue(OTHERS)
    lab = stain.lab_of(stain.reinhard(seen)(seen))
    assert lab.mean(axis=0) == pytest.approx(stain.REFERENCE_LAB[0], abs=0.03)
    assert lab.std(axis=0) == pytest.approx(stain.REFERENCE_LAB[1], abs=0.05)


def test_white_is_without_a_colour_in_ruderman_s_space() -> None:
    # Reinhard et al. 2001: the matrix takes an equal-energy white to equal cone responses, so α and β are nought.
    assert stain.lab_of(np.array([[200, 200, 200]])) == pytest.approx(
        np.array([[3**0.5 * np.log(200), 0, 0]]), abs=3e-3
    )


@pytest.mark.parametrize("method", [stain.macenko, stain.reinhard])
def test_glass_takes_the_references_light(method: Callable[..., stain.Recolour]) -> None:
    light = np.array([180.0, 178.0, 181.0])
    recolour = method(tissue(OTHERS, light=light), light)
    assert np.abs(recolour(np.rint(light).astype(np.uint8)[None]).astype(float) - 240).max() <= 3


@settings(max_examples=25, deadline=None)
@given(colour=st.tuples(*[st.integers(0, 255)] * 3), n=st.sampled_from([0, 10, 5000]))
def test_what_shows_no_two_stains_stays_as_it_was(colour: tuple[int, int, int], n: int) -> None:
    flat = np.full((n, 3), colour, np.uint8)
    assert np.array_equal(stain.macenko(flat)(flat), flat)
