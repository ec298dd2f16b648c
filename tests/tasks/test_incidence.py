from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import AalenJohansenFitter, KaplanMeierFitter

from polyclinic.tasks.baseline import GRID
from polyclinic.tasks.incidence import Incidence, aalen_johansen, ends_of, on_grid

ROWS = st.lists(st.tuples(st.integers(1, 8), st.integers(0, 2)), min_size=1, max_size=20)


def test_it_is_lifelines_aalen_johansen_where_no_times_are_tied() -> None:
    draws = np.random.default_rng(0)
    time, event = draws.exponential(size=80), draws.integers(0, 3, 80)
    at, shares = aalen_johansen(time, event, 2)
    for cause in (1, 2):
        peer = AalenJohansenFitter(calculate_variance=False).fit(time, event, cause).cumulative_density_
        np.testing.assert_allclose(shares[cause - 1], np.interp(at, peer.index, peer.iloc[:, 0]), atol=1e-9)


def test_by_hand_with_ties_and_censoring() -> None:
    """Of six: at 1 one of each event, at 2 a censoring, at 3 one of the second, of the two left at 4 one of the first."""
    time, event = np.array([1.0, 1, 2, 3, 4, 5]), np.array([1, 2, 0, 2, 1, 0])
    at, shares = aalen_johansen(time, event, 2)
    np.testing.assert_array_equal(at, [1, 3, 4])
    np.testing.assert_allclose(shares[0], [1 / 6, 1 / 6, 1 / 6 + 4 / 6 * 2 / 3 / 2])
    np.testing.assert_allclose(shares[1], [1 / 6, 1 / 6 + 4 / 6 / 3, 1 / 6 + 4 / 6 / 3])


@settings(max_examples=50, deadline=None)
@given(ROWS)
def test_all_events_and_none_add_up_to_kaplan_meier(rows: list[tuple[int, int]]) -> None:
    time, event = np.array(rows, float).T
    at, shares = aalen_johansen(time, event, 2)
    free = KaplanMeierFitter().fit(time, event > 0)
    np.testing.assert_allclose(1 - shares.sum(0), [float(np.asarray(free.predict(t))) for t in at], atol=1e-12)
    assert (np.diff(shares, prepend=0) >= -1e-12).all()
    grid, kept = on_grid(time, event, 2)
    assert kept.shape == (2, GRID)
    if len(at):
        assert set(at) == set(grid)  # so few times all have a place
        np.testing.assert_allclose(kept[:, -1], shares[:, -1])


@settings(max_examples=50, deadline=None)
@given(ROWS, st.integers(1, 12))
def test_the_intervals_ascend_to_the_longest_follow_up(rows: list[tuple[int, int]], intervals: int) -> None:
    time, event = np.array(rows, float).T
    ends = ends_of(time, event, intervals)
    assert len(ends) == intervals
    assert (np.diff(ends, prepend=0) > 0).all()
    assert ends[-1] == time.max()


def test_each_interval_has_as_many_events() -> None:
    time, event = np.random.default_rng(0).exponential(size=400), np.ones(400)
    event[::2] = 0
    ends = ends_of(time, event, 8)
    counts = np.bincount(np.searchsorted(ends, time[event > 0]), minlength=8)
    assert counts.min() == counts.max() == 25


def test_a_risk_grows_evenly_within_an_interval_and_ends_with_the_follow_up() -> None:
    known = Incidence(
        np.array([2.0, 6]),
        ("a", "b"),
        np.array([1.0, 5]),
        np.array([[0.1, 0.1], [0.0, 0.3]]),
        np.array([2.0]),
        "months",
    )
    outputs = np.array([[[0.2, 0.4], [0.1, 0.2]]])
    found = known.risk(outputs, np.array([0.0, 1, 2, 4, 6, 7]))
    np.testing.assert_allclose(found[0, 0], [0, 0.1, 0.2, 0.3, 0.4, np.nan])
    np.testing.assert_allclose(found[0, 1], [0, 0.05, 0.1, 0.15, 0.2, np.nan])
    np.testing.assert_allclose(known.null(np.array([0.5, 1, 5.5, 7])), [[0, 0.1, 0.1, np.nan], [0, 0, 0.3, np.nan]])
    nobody = Incidence(np.zeros(0), ("a", "b"), np.zeros(0), np.zeros((2, 0)), np.zeros(0), "months")
    assert nobody.until == 0
    assert np.isnan(nobody.risk(outputs, np.array([1.0]))).all()


def test_the_step_is_at_the_events_time() -> None:
    at, shares = aalen_johansen(np.array([3.0, 4]), np.array([1.0, 0]), 1)
    known = Incidence(np.array([4.0]), ("a",), at, shares, np.array([3.0]), "months")
    assert known.null(np.array([2.99, 3.0]))[0].tolist() == [0.0, pytest.approx(0.5)]
