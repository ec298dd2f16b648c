"""Memorisation: a generator that hands out training records is caught, one that draws afresh is not, and neither by chance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from polyclinic.trust.measures.memorisation import (
    Threshold,
    authentic,
    copying,
    copying_by_cells,
    memorisation,
    nearest,
    own_copies,
)
from polyclinic.trust.measures.realism import Space

K = 8


def draw(seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, K))


TRAIN = draw(0, 300)


def space(drawn: np.ndarray, seed: int = 1) -> Space:
    return Space("pixels", TRAIN, draw(seed, 100), drawn)


def found(drawn: np.ndarray, seed: int = 1):
    whose = [str(n) for n in range(len(TRAIN))]
    made = memorisation(space(drawn, seed), whose, "s", draws=200)
    return made, {f.name.replace("_pixels", ""): f for f in made.figures}


def copies(share: float, noise: float = 0.05) -> np.ndarray:
    """Of 100 so many are training records with a little noise."""
    fresh, random = draw(2, 100), np.random.default_rng(3)
    n = round(100 * share)
    fresh[:n] = TRAIN[random.permutation(len(TRAIN))[:n]] + noise * random.normal(size=(n, K))
    return fresh


def test_a_copier_is_caught() -> None:
    made, told = found(copies(1.0))
    assert told["copying_z"].high < -3
    assert told["closer_than_held_out"].low > 0.95
    assert told["near_copies"].value == 1
    assert told["authenticity"].high < 0.1
    assert told["authenticity_held_out"].low > 0.3
    assert "p = 0;" in told["near_copies"].note or "e-" in told["near_copies"].note
    worst = made.worst(3)
    assert len(worst) == 3
    assert made.drawn.distance[worst].tolist() == sorted(made.drawn.distance)[:3]


def test_who_draws_afresh_is_not() -> None:
    _, told = found(draw(2, 100))
    assert -3 < told["copying_z"].value < 3
    assert told["closer_than_held_out"].low < 0.5 < told["closer_than_held_out"].high
    assert told["near_copies"].low < 0.05 < told["near_copies"].high + 0.05
    low, high = told["authenticity"].low, told["authenticity"].high
    assert low < told["authenticity_held_out"].value < high


def test_few_copies_among_many_are_seen_by_their_share_and_hardly_by_the_mean() -> None:
    """One in five copied: the pairs' share moves by a tenth, the near-copies fourfold."""
    made, told = found(copies(0.2))
    assert told["near_copies"].value == pytest.approx(0.2, abs=0.06)
    assert made.threshold.chance(20, 100) < 1e-3
    assert told["closer_than_held_out"].value < 0.7
    assert set(made.worst(10)) <= set(range(20))


def test_the_z_is_mann_and_whitneys() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=40), random.normal(size=55) + 0.3
    wanted = mannwhitneyu(a, b, alternative="two-sided", use_continuity=False, method="asymptotic")
    from scipy.stats import norm

    assert 2 * norm.sf(abs(copying(a, b))) == pytest.approx(float(wanted.pvalue), rel=1e-9)
    assert copying(a - 9, b) < -5
    assert copying(b, b) == 0


def test_the_z_is_standard_where_nothing_is_copied() -> None:
    told = [copying_by_cells(s := space(draw(50 + n, 100), 500 + n), *_of(s)).mean for n in range(30)]
    assert abs(np.mean(told)) < 0.7
    assert 0.5 < np.std(told) < 1.6


def _of(s: Space):
    return nearest(s.drawn, s.train), nearest(s.held, s.train)


def test_copies_in_one_place_are_seen_behind_what_is_far_off_in_another() -> None:
    """The case for cells (Meehan et al. 2020, figure 2): on the whole the drawn are further off than held-out records."""
    shift = np.zeros(K)
    shift[0] = 30
    train = np.concatenate([draw(0, 200), draw(1, 200) + shift])
    held = np.concatenate([draw(2, 100), draw(3, 100) + shift])
    drawn = np.concatenate([train[:100] + 1e-3, 3 * draw(4, 100) + shift])
    s = Space("features", train, held, drawn)
    near, of_held = nearest(s.drawn, s.train), nearest(s.held, s.train)
    assert copying(near.distance, of_held.distance) > -3
    found = copying_by_cells(s, near, of_held)
    assert found.cells >= 2
    assert found.error < 1
    assert found.lowest < -5 < found.mean


def test_the_threshold_lets_through_as_many_fresh_ones_as_it_says() -> None:
    """By exchangeability, whatever the distribution: held-out and fresh distances of a skewed one."""
    random = np.random.default_rng(0)
    limits = [Threshold.of(random.exponential(size=39)) for _ in range(1000)]
    below = [(random.exponential(size=5) < limit.distance).mean() for limit in limits]
    limit = limits[0]
    assert limit.expected == pytest.approx(2 / 40)
    assert np.mean(below) == pytest.approx(limit.expected, abs=0.008)


def test_the_chance_of_copies_is_that_of_the_draws() -> None:
    random = np.random.default_rng(0)
    limit, often = Threshold(0.0, 1, 19), 0
    for _ in range(4000):
        held, fresh = random.random(19), random.random(10)
        often += (fresh < held.min()).sum() >= 2
    assert limit.chance(2, 10) == pytest.approx(often / 4000, abs=0.02)
    assert limit.chance(0, 10) == pytest.approx(1)


def test_what_is_drawn_for_somebody_is_held_against_their_own_record() -> None:
    random = np.random.default_rng(5)
    whose = [str(n // 2) for n in range(len(TRAIN))]  # two records each: the nearer counts
    shown = [str(n) for n in range(40)]
    limit = Threshold.of(nearest(draw(1, 100), TRAIN).distance)
    close = np.stack([TRAIN[2 * n + n % 2] for n in range(40)]) + 0.01 * random.normal(size=(40, K))
    told = lambda drawn: own_copies("pixels", drawn, shown, TRAIN, whose, limit, "s", draws=50)
    assert told(close).value == 1
    assert told(np.roll(close, 1, axis=0)).value == 0  # copies, but of somebody else's
    half = np.where((np.arange(40) < 20)[:, None], close, draw(2, 40))
    assert told(half).value == pytest.approx(0.5, abs=0.06)
    assert (told(half).n, told(half).name) == (40, "own_copies_pixels")


def test_the_nearest_of_another_patient() -> None:
    train = np.array([[0.0], [1.0], [10.0], [30.0]])
    whose = np.array([0, 0, 1, 2])
    found = nearest(train, train, whose, whose)
    assert found.at.tolist() == [2, 2, 1, 2]
    assert found.distance.tolist() == [10, 9, 9, 20]
    plain = nearest(np.array([[1.0 + 1e-9]]), train)
    assert plain.at.tolist() == [1]
    assert plain.distance[0] == pytest.approx(1e-9, rel=1e-3)  # by difference, not by squares that cancel
    assert authentic(nearest(np.array([[2.0], [29.0]]), train), found.distance).tolist() == [False, False]
    assert authentic(nearest(np.array([[60.0]]), train), found.distance).tolist() == [True]
