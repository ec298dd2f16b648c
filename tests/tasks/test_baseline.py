from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import CoxPHFitter, KaplanMeierFitter

from polyclinic.tasks.baseline import GRID, breslow, customary, fit_baseline, kaplan_meier

Frame = pd.DataFrame


def sample(n: int, seed: int, ties: bool) -> Frame:
    draws = np.random.default_rng(seed)
    frame = pd.DataFrame({"x": draws.normal(size=n), "z": draws.normal(size=n)})
    time, censored = draws.exponential(np.exp(-frame["x"])), draws.exponential(2, size=n)
    frame["time"] = np.minimum(time, censored) * 10
    frame["time"] = np.ceil(frame["time"]) if ties else frame["time"]
    frame["event"] = (time <= censored).astype(float)
    return frame


@pytest.mark.parametrize(("n", "ties"), [(80, False), (150, True), (900, False)])
def test_risks_are_lifelines_breslow(n: int, ties: bool) -> None:
    frame = sample(n, n, ties)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = CoxPHFitter(baseline_estimation_method="breslow").fit(frame, "time", "event")
    hazard = (frame[["x", "z"]] @ peer.params_).to_numpy()
    time, event = frame["time"].to_numpy(), frame["event"].to_numpy()
    early, late = np.quantile(time, [0.3, 0.7], method="inverted_cdf")  # lifelines interpolates between times
    ours = fit_baseline(hazard, time, event, (early, late), float(np.median(hazard)), "months")
    at = np.sort(time) if event.sum() <= GRID else np.array([early, late, time.max()])
    wanted = 1 - peer.predict_survival_function(frame, times=at).to_numpy().T
    np.testing.assert_allclose(ours.risk(hazard, at), wanted, rtol=1e-6, atol=1e-9)


def test_by_hand() -> None:
    """Hazards 1, 2 and 4 fall at 1, 2 and 3; the second is censored: 1/7, and then 1/4."""
    at, hazard = breslow(np.log([1.0, 2, 4]), np.array([1.0, 2, 3]), np.array([1, 0, 1]))
    assert at.tolist() == [1, 3]
    np.testing.assert_allclose(hazard, [1 / 7, 1 / 7 + 1 / 4])
    at, hazard = breslow(np.zeros(4), np.array([2.0, 2, 2, 5]), np.array([1, 1, 0, 1]))  # ties: two of four, one of one
    np.testing.assert_allclose(hazard, [2 / 4, 2 / 4 + 1])


@given(
    st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=1, max_size=20).filter(
        lambda rows: any(e for _, e in rows)
    )
)
@settings(max_examples=40, deadline=None)
def test_the_null_is_lifelines_kaplan_meier(rows: list[tuple[int, bool]]) -> None:
    time, event = np.array([t for t, _ in rows], float), np.array([e for _, e in rows], float)
    peer = KaplanMeierFitter().fit(time, event)
    at, survival = kaplan_meier(time, event)
    np.testing.assert_allclose(survival, np.asarray(peer.predict(at), float).reshape(-1), atol=1e-12)
    ours = fit_baseline(np.zeros(len(time)), time, event, (2.0,), 0.0, "months")
    every = np.arange(0, time.max() + 1)
    np.testing.assert_allclose(ours.null(every), 1 - np.asarray(peer.predict(every), float).reshape(-1), atol=1e-12)


@given(st.integers(0, 99), st.floats(-60, 60))
@settings(max_examples=30, deadline=None)
def test_an_offset_of_all_hazards_changes_no_risk(seed: int, offset: float) -> None:
    frame = sample(40, seed, True)
    hazard, time, event = frame["x"].to_numpy(), frame["time"].to_numpy(), frame["event"].to_numpy()
    at = np.array([1.0, 4.0, time.max()])
    made = lambda h: fit_baseline(h, time, event, (4.0,), float(np.median(h)), "months").risk(h, at)
    np.testing.assert_allclose(made(hazard), made(hazard + offset), atol=1e-9)


def test_more_event_times_than_the_grid_are_exact_at_the_horizons_and_near_between() -> None:
    frame = sample(3000, 0, False)
    hazard, time, event = frame["x"].to_numpy(), frame["time"].to_numpy(), frame["event"].to_numpy()
    ours = fit_baseline(hazard, time, event, (3.3, 7.7), 0.0, "months")
    at, whole = breslow(hazard, time, event)
    assert len(ours.times) == GRID + 3 < len(at)
    exact = lambda t: np.r_[0.0, whole][np.searchsorted(at, t, side="right")]
    np.testing.assert_allclose(ours.risk(np.zeros(1), np.array([3.3, 7.7]))[0], 1 - np.exp(-exact([3.3, 7.7])))
    between = np.linspace(0.1, float(np.quantile(time, 0.95)), 500)
    assert np.abs(ours.risk(np.zeros(1), between)[0] - (1 - np.exp(-exact(between)))).max() < 0.02


def test_nothing_is_told_beyond_the_follow_up() -> None:
    ours = fit_baseline(np.zeros(3), np.array([1.0, 2, 5]), np.array([1, 1, 0]), (4.0, 9.0), 0.0, "months")
    risk = ours.risk(np.array([0.0, 900.0, -900.0]), np.array([0.5, 4, 5, 5.1]))
    assert ours.until == 5
    assert np.isnan(risk[:, 3]).all()
    assert np.isnan(ours.null(np.array([5.1]))).all()
    assert (risk[:, 0] == 0).all()
    assert risk[1:, 2] == pytest.approx([1, 0])
    assert ours.horizons.tolist() == [4, 9]


@pytest.mark.parametrize(
    ("scale", "unit", "expected"),
    [(1, "months", (12, 24)), (30, "days", (365, 730)), (1 / 12, "years", (1, 2)), (1, "cycles", (11, 21))],
)
def test_horizons_are_those_that_people_speak_of(scale: float, unit: str, expected: tuple[float, ...]) -> None:
    time = np.arange(1.0, 32) * scale
    assert customary(time, np.ones(31), unit) == expected
    event = np.r_[np.ones(9), np.zeros(22)]
    assert max(customary(time, event, unit)) <= time.max()
