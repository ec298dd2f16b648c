from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import AalenJohansenFitter, KaplanMeierFitter
from sklearn.metrics import roc_auc_score

from polyclinic.tasks import Baseline, Incidence, Predictions
from polyclinic.tasks.baseline import fit_baseline
from polyclinic.tasks.incidence import aalen_johansen
from polyclinic.trust.measures.prognosis import (
    Followed,
    brier_at,
    calibration_error,
    integrated,
    observed,
    observed_interval,
    prognosis,
    reliability,
    timed_auroc,
)

few = settings(max_examples=50, deadline=None)
ROWS = st.lists(st.tuples(st.integers(1, 8), st.booleans(), st.integers(0, 4)), min_size=2, max_size=14)


def apart(rows: list[tuple[int, bool, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Times and events (n 2), in which censoring comes after the events of the same time, and scores (n,)."""
    targets = np.array([(t, e) for t, e, _ in rows], float)
    return targets, np.array([s for _, _, s in rows], float) / 4


def followed(targets: np.ndarray, at: float, before: bool) -> float:
    """lifelines' Kaplan–Meier of the censoring, at a time or just before it."""
    later = targets[:, 0] + 0.25 * (targets[:, 1] == 0)
    peer = KaplanMeierFitter().fit(later, targets[:, 1] == 0)
    # A censoring at time 3 lies at 3.25 here: it is over just after 3, and is not before 3.
    return float(np.asarray(peer.predict(at - 0.01 if before else at + 0.3)))


def repeated(values: np.ndarray, times: np.ndarray) -> np.ndarray:
    return np.repeat(values, times, axis=0)


def one(n: int) -> np.ndarray:
    return np.ones((1, n))


def uno(scores: np.ndarray, targets: np.ndarray, at: float) -> float:
    """Pair by pair, as it is written in Uno et al. 2007."""
    right = total = 0.0
    for i, (time, event) in enumerate(targets):
        if time > at or not event:
            continue
        for j in np.flatnonzero(targets[:, 0] > at):
            weight = 1 / followed(targets, time, before=True)
            right += weight * (1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0)
            total += weight
    return right / total if total else math.nan


def graf(risk: np.ndarray, targets: np.ndarray, at: float) -> float:
    """Patient by patient, as it is written in Graf et al. 1999."""
    total = 0.0
    for (time, event), r in zip(targets, risk, strict=True):
        if time <= at and event:
            total += (1 - r) ** 2 / followed(targets, time, before=True)
        elif time > at:
            total += r**2 / followed(targets, at, before=False)
    return total / len(targets)


@few
@given(ROWS, st.integers(1, 7), st.integers(0, 99))
def test_the_timed_auroc_is_unos_pair_by_pair(rows: list[tuple[int, bool, int]], at: int, seed: int) -> None:
    targets, scores = apart(rows)
    drawn = np.random.default_rng(seed).integers(0, 3, len(rows))
    found = timed_auroc(scores, targets, at, np.stack([np.ones(len(rows)), drawn]).astype(float))
    assert found[0] == pytest.approx(uno(scores, targets, at), nan_ok=True)
    if drawn.any():
        wanted = uno(repeated(scores, drawn), repeated(targets, drawn), at)
        assert found[1] == pytest.approx(wanted, nan_ok=True)


@few
@given(ROWS, st.integers(1, 7), st.integers(0, 99))
def test_the_brier_score_is_grafs_patient_by_patient(rows: list[tuple[int, bool, int]], at: int, seed: int) -> None:
    targets, risk = apart(rows)
    drawn = np.random.default_rng(seed).integers(0, 3, len(rows))
    drawn[targets[:, 0].argmax()] += 1
    found = brier_at(risk[:, None], targets, np.array([at]), np.stack([np.ones(len(rows)), drawn]).astype(float))
    for value, times in zip(found[:, 0], (np.ones(len(rows), dtype=int), drawn), strict=True):
        mine = repeated(targets, times)
        if (mine[:, 0] > at).any():
            assert value == pytest.approx(graf(repeated(risk, times), mine, at))


@few
@given(ROWS, st.integers(1, 7))
def test_weights_give_back_kaplan_meier(rows: list[tuple[int, bool, int]], at: int) -> None:
    """Weighed by the censoring, the share with the event is Kaplan–Meier's (Satten & Datta 2001), ties and all, so that the Brier
    score of Kaplan–Meier's own risk S is S (1 − S)."""
    targets, _ = apart(rows)
    peer = KaplanMeierFitter().fit(targets[:, 0], targets[:, 1])
    free = float(np.asarray(peer.predict(at)))
    assert observed(targets, at, one(len(rows)))[0] == pytest.approx(1 - free)
    if (targets[:, 0] > at).any():
        found = brier_at(np.array([[1 - free]]), targets, np.array([at]), one(len(rows)))[0, 0]
        assert found == pytest.approx(free * (1 - free), abs=1e-12)


def test_by_hand() -> None:
    """An event at 1, a censoring at 2, an event at 3, a censoring at 4, by time 3: the share observed is 1, 1, 2/3, 2/3 …"""
    targets = np.array([[1.0, 1], [2, 0], [3, 1], [4, 0]])
    followed = Followed(targets)
    np.testing.assert_allclose(followed.under_observation(one(4))[0], [1, 1, 2 / 3, 2 / 3, 0])
    np.testing.assert_allclose(followed.free_of_event(one(4))[0], [1, 3 / 4, 3 / 4, 3 / 8, 3 / 8])
    # … so that the event at 1 weighs 1, that at 3 and the one beyond 3/2.
    risk = np.array([0.8, 0.5, 0.4, 0.1])
    wanted = (0.2**2 + 1.5 * 0.6**2 + 1.5 * 0.1**2) / 4
    assert brier_at(risk[:, None], targets, np.array([3.0]), one(4))[0, 0] == pytest.approx(wanted)
    # Of the two events the first stands above the one beyond, the second below: 1 of 1 + 3/2.
    assert timed_auroc(np.array([3.0, 9, 1, 2]), targets, 3.0, one(4))[0] == pytest.approx(1 / 2.5)


def test_without_censoring_they_are_those_of_a_classification() -> None:
    draws = np.random.default_rng(0)
    score, time = draws.uniform(size=60), draws.exponential(size=60)
    targets = np.stack([time, np.ones(60)], 1)
    came = time <= 0.7
    assert timed_auroc(score, targets, 0.7, one(60))[0] == pytest.approx(roc_auc_score(came, score))
    found = brier_at(score[:, None], targets, np.array([0.7]), one(60))[0, 0]
    assert found == pytest.approx(np.mean((score - came) ** 2))


def test_censoring_changes_little_of_what_is_measured() -> None:
    """The same many patients, of whom half are censored: the figures stay, which without the weights they would not."""
    hazard, time, censored = people(20000, 0)
    whole = np.stack([time, np.ones(len(time))], 1)
    cut = np.stack([np.minimum(time, censored), time <= censored], 1)
    assert 0.4 < cut[:, 1].mean() < 0.6
    risk = 1 - np.exp(-20 / 20 * np.exp(hazard))
    for measure in (
        lambda t: timed_auroc(hazard, t, 20.0, one(len(t)))[0],
        lambda t: brier_at(risk[:, None], t, np.array([20.0]), one(len(t)))[0, 0],
    ):
        assert measure(cut) == pytest.approx(measure(whole), abs=0.01)
    known = (cut[:, 0] > 20) | (cut[:, 1] > 0)
    naive = np.mean((risk[known] - (cut[known, 0] <= 20)) ** 2)
    assert abs(naive - brier_at(risk[:, None], whole, np.array([20.0]), one(len(whole)))[0, 0]) > 0.01


def test_the_interval_of_what_was_observed_is_lifelines() -> None:
    draws = np.random.default_rng(1)
    targets = np.stack([np.ceil(draws.exponential(10, 50)), draws.random(50) < 0.7], 1)
    peer = KaplanMeierFitter().fit(targets[:, 0], targets[:, 1])
    bounds = peer.confidence_interval_.loc[8.0].to_numpy()
    share, low, high = observed_interval(targets, 8.0)
    assert share == pytest.approx(1 - float(np.asarray(peer.predict(8.0))))
    assert (low, high) == pytest.approx((1 - bounds.max(), 1 - bounds.min()), abs=1e-4)


def test_nobody_or_everybody_with_the_event_has_an_interval_too() -> None:
    alive, dead = np.array([[9.0, 0]] * 20), np.array([[1.0, 1]] * 20)
    share, low, high = observed_interval(alive, 5.0)
    assert (share, low) == (0, 0)
    assert 0 < high < 0.25
    share, low, high = observed_interval(dead, 5.0)
    assert (share, high) == (1, 1)
    assert 0.75 < low < 1
    assert observed_interval(np.array([[1.0, 0]] * 20), 5.0) == (0, 0, 1)


def people(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log hazards, exponential times of mean 20 e^-h, and times of censoring."""
    draws = np.random.default_rng(seed)
    hazard = draws.normal(size=n)
    return hazard, draws.exponential(20 * np.exp(-hazard)), draws.exponential(20, size=n)


def cohort(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    hazard, time, censored = people(n, seed)
    return hazard, np.stack([np.minimum(time, censored), time <= censored], 1)


def predictions(n: int = 200, horizons: tuple[float, ...] = (6.0, 18.0), seed: int = 1) -> Predictions:
    """Of a model that knows the true hazards, fitted to others."""
    train, known = cohort(400, 0)
    baseline = fit_baseline(train, known[:, 0], known[:, 1], horizons, 0.0, "months")
    hazard, targets = cohort(n, seed)
    names = tuple(f"p{i}" for i in range(n))
    return Predictions("risk", names, hazard, targets, np.ones(n, bool), baseline=baseline)


def test_risks_that_are_right_are_found_so() -> None:
    found, curves = prognosis(predictions(400), "hash", draws=200)
    by = {f.name: f for f in found}
    assert list(by) == [
        *(f"{m}_at_{t}_months" for t in (6, 18) for m in ("auroc", "brier", "calibration_error", "observed_over_expected")),
        *(f"{m}_to_18_months" for m in ("integrated_brier", "integrated_brier_null", "brier_explained")),
    ]  # fmt: skip
    for one in found:
        assert (one.n, one.split) == (400, "hash")
        assert one.low <= one.value <= one.high
        assert "bootstrap over patients" in one.note
        assert "events by" in one.note
    for t in (6, 18):
        assert by[f"auroc_at_{t}_months"].low > 0.65
        ratio = by[f"observed_over_expected_at_{t}_months"]
        assert ratio.low < 1 < ratio.high
        assert by[f"calibration_error_at_{t}_months"].value < 0.08
    assert by["brier_explained_to_18_months"].low > 0.05
    gained = 1 - by["integrated_brier_to_18_months"].value / by["integrated_brier_null_to_18_months"].value
    assert by["brier_explained_to_18_months"].value == pytest.approx(gained)
    assert [c.horizon for c in curves] == [6, 18]
    for curve in curves:
        assert sum(b.n for b in curve.bins) == 400
        assert sum(b.low - 0.02 <= b.predicted <= b.high + 0.02 for b in curve.bins) >= 4


def test_risks_that_are_too_high_are_found_so() -> None:
    true = predictions(400)
    assert isinstance(true.baseline, Baseline)
    doubled = replace(true, baseline=replace(true.baseline, hazard=2 * true.baseline.hazard))
    one, other = ({f.name: f for f in prognosis(p, "s", draws=100)[0]} for p in (true, doubled))
    assert other["auroc_at_6_months"] == one["auroc_at_6_months"]
    assert other["observed_over_expected_at_6_months"].high < 1
    assert other["calibration_error_at_6_months"].value > 2 * one["calibration_error_at_6_months"].value
    assert other["integrated_brier_to_18_months"].value > one["integrated_brier_to_18_months"].value
    assert other["integrated_brier_null_to_18_months"] == one["integrated_brier_null_to_18_months"]


def test_a_model_that_tells_nobody_apart_gains_nothing() -> None:
    same = predictions(300)
    hazard = same.targets[:, 0] * 0
    _, known = cohort(400, 0)
    baseline = fit_baseline(np.zeros(400), known[:, 0], known[:, 1], (18.0,), 0.0, "months")
    by = {f.name: f for f in prognosis(replace(same, outputs=hazard, baseline=baseline), "s", draws=100)[0]}
    assert by["auroc_at_18_months"].value == 0.5
    assert by["brier_explained_to_18_months"].value == pytest.approx(0, abs=2e-3)


@pytest.mark.parametrize(
    ("targets", "horizon", "why"),
    [
        ([[5.0, 1], [9, 0], [9, 1]], 3.0, "not defined: no event by 3 months"),
        ([[5.0, 1], [9, 0], [9, 1]], 9.0, "not defined: nobody was followed beyond 9 months"),
        ([[5.0, 1], [9999, 0], [9, 1]], 5000.0, "not defined: the training patients were followed for"),
        (np.zeros((0, 2)), 3.0, "not defined: no labelled patient"),
    ],
)
def test_what_is_not_defined_says_why(targets: list[list[float]], horizon: float, why: str) -> None:
    asked, n = predictions(3, (horizon,)), len(targets)
    known = np.array(targets, float)
    asked = replace(asked.where(np.arange(3) < n), targets=known)
    found, curves = prognosis(asked, "s", draws=50)
    assert curves == ()
    for one in found:
        if horizon < 5000 or not one.name.startswith("auroc"):
            assert one.note.startswith(why)
            assert math.isnan(one.value)
        else:
            assert one.value in (0, 0.5, 1)  # the order of patients is known for longer


def test_without_a_baseline_there_is_nothing() -> None:
    assert prognosis(replace(predictions(20), baseline=None), "s") == ((), ())
    empty = Baseline(np.zeros(0), np.zeros(0), np.zeros(0), 0.0, np.zeros(0), "months")
    assert prognosis(replace(predictions(20), baseline=empty), "s") == ((), ())


def test_the_unlabelled_touch_nothing() -> None:
    every = predictions(60)
    mask = np.arange(60) < 40
    masked, alone = replace(every, mask=mask), every.where(mask)
    assert prognosis(masked, "s", draws=50) == prognosis(alone, "s", draws=50)
    assert alone.baseline is every.baseline


def test_a_group_that_nobody_was_followed_in_is_left_out() -> None:
    risk = np.repeat([0.1, 0.9], 10)
    targets = np.array([[9.0, 0]] * 9 + [[2.0, 1]] + [[1.0, 0]] * 10)
    found = reliability(risk, targets, 5.0, "months")
    (only,) = found.bins
    assert (only.predicted, only.observed, only.n) == (pytest.approx(0.1), pytest.approx(0.1), 10)


def test_the_integral_is_the_mean_over_time() -> None:
    """All risks 1/2: the score is 1/4 at every time."""
    _, targets = cohort(50, 3)
    times = np.linspace(1, 10, 7)
    for one_of in integrated(np.full((1, 7), 0.5), targets, times, np.ones((3, 50))):
        assert one_of == pytest.approx(0.25 * np.mean([_mass(targets, t) for t in times]))


def _mass(targets: np.ndarray, at: float) -> float:
    """What all weights of a time add up to, a patient: 1 (Satten & Datta 2001)."""
    return (
        brier_at(np.ones((1, 1)), targets, np.array([at]), one(len(targets)))[0, 0]
        + brier_at(np.zeros((1, 1)), targets, np.array([at]), one(len(targets)))[0, 0]
    )


def test_groups_that_are_right_have_no_error() -> None:
    targets = np.array([[2.0, 1]] * 5 + [[9.0, 0]] * 5)
    groups = np.zeros(10, dtype=int)
    assert calibration_error(np.full(10, 0.5), targets, 5.0, groups, one(10))[0] == pytest.approx(0)
    assert calibration_error(np.full(10, 0.8), targets, 5.0, groups, one(10))[0] == pytest.approx(0.3)


# Of several events.

SEVERAL = st.lists(st.tuples(st.integers(1, 8), st.integers(0, 2), st.integers(0, 4)), min_size=2, max_size=14)


def blanche(scores: np.ndarray, targets: np.ndarray, at: float, cause: int) -> float:
    """Pair by pair, the second definition of Blanche et al. 2013: a control is whoever is known not to have had the event by then."""
    seen = np.stack([targets[:, 0], targets[:, 1] > 0], 1)
    right = total = 0.0
    for i, (time, which) in enumerate(targets):
        if time > at or which != cause:
            continue
        for j, (other, what) in enumerate(targets):
            if other <= at and what in (0, cause):
                continue
            stands_for = 1 / followed(seen, other, before=True) if other <= at else 1 / followed(seen, at, before=False)
            pair = stands_for / followed(seen, time, before=True)
            right += pair * (1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0)
            total += pair
    return right / total if total else math.nan


def schoop(risk: np.ndarray, targets: np.ndarray, at: float, cause: int) -> float:
    """Patient by patient, as it is written in Schoop et al. 2011."""
    seen = np.stack([targets[:, 0], targets[:, 1] > 0], 1)
    total = 0.0
    for (time, which), r in zip(targets, risk, strict=True):
        if time <= at and which:
            total += ((which == cause) - r) ** 2 / followed(seen, time, before=True)
        elif time > at:
            total += r**2 / followed(seen, at, before=False)
    return total / len(targets)


@settings(max_examples=25, deadline=None)
@given(SEVERAL, st.integers(1, 7), st.integers(1, 2))
def test_of_several_events_they_are_blanches_and_schoops(rows: list[tuple[int, int, int]], at: int, cause: int) -> None:
    targets, scores = np.array([r[:2] for r in rows], float), np.array([r[2] for r in rows]) / 4
    if not (targets[:, 0] > at).any():
        return
    found = timed_auroc(scores, targets, at, one(len(rows)), cause)[0]
    assert found == pytest.approx(blanche(scores, targets, at, cause), nan_ok=True)
    error = brier_at(scores[:, None], targets, np.array([at]), one(len(rows)), cause)[0, 0]
    assert error == pytest.approx(schoop(scores, targets, at, cause))


@settings(max_examples=25, deadline=None)
@given(SEVERAL, st.integers(1, 7), st.integers(0, 99))
def test_what_is_observed_is_aalen_johansen_in_every_resample(
    rows: list[tuple[int, int, int]], at: int, seed: int
) -> None:
    targets = np.array([r[:2] for r in rows], float)
    drawn = np.random.default_rng(seed).integers(0, 3, len(rows))
    drawn[0] += 1
    found = [observed(targets, at, np.stack([np.ones(len(rows)), drawn]).astype(float), cause) for cause in (1, 2)]
    for place, mine in ((0, targets), (1, repeated(targets, drawn))):
        times, shares = aalen_johansen(mine[:, 0], mine[:, 1], 2)
        wanted = np.concatenate([np.zeros((2, 1)), shares], 1)[:, np.searchsorted(times, at, side="right")]
        np.testing.assert_allclose([found[0][place], found[1][place]], wanted, atol=1e-12)
    # Weighed by the censoring, the share with the event is the same; so the Brier score of that share p is p (1 − p).
    if (targets[:, 0] > at).any():
        share = found[0][0]
        error = brier_at(np.array([[share]]), targets, np.array([at]), one(len(rows)), 1)[0, 0]
        assert error == pytest.approx(share * (1 - share), abs=1e-12)


def test_the_interval_of_an_incidence_is_lifelines() -> None:
    draws = np.random.default_rng(0)
    targets = np.stack([draws.exponential(size=150), draws.integers(0, 3, 150)], 1)
    for cause in (1, 2):
        peer = AalenJohansenFitter().fit(targets[:, 0], targets[:, 1], cause)
        value, low, high = observed_interval(targets, 1.0, cause)
        row = peer.cumulative_density_.index.searchsorted(1.0, side="right") - 1
        share = float(peer.cumulative_density_.iloc[row, 0])
        assert value == pytest.approx(share)
        # lifelines takes log(−log) of the incidence, we of what is left, as of a survival: the variances are to agree.
        spread = np.sqrt(float(np.ravel(peer.variance_)[row])) / ((1 - share) * abs(np.log1p(-share)))
        wanted = [1 - (1 - share) ** np.exp(sign * 1.959964 * spread) for sign in (-1, 1)]
        assert (low, high) == pytest.approx(tuple(wanted), rel=0.02)


def competing(n: int, seed: int) -> Predictions:
    """Constant hazards of two events, what is exactly true of each patient as the answers, and half of the patients censored."""
    draws = np.random.default_rng(seed)
    x = draws.normal(size=n)
    hazards = 0.05 * np.exp(np.stack([0.9 * x, -0.6 * x], 1))
    times, until = draws.exponential(1 / hazards), draws.uniform(0, 30, n)
    event = np.where(times.min(1) <= until, times.argmin(1) + 1, 0)
    ends = np.arange(1.0, 31)
    total = hazards.sum(1)[:, None, None]
    outputs = hazards[:, :, None] / total * (1 - np.exp(-total * ends))
    targets = np.stack([np.minimum(times.min(1), until), event, np.zeros(n)], 1)
    grid, shares = aalen_johansen(targets[:, 0], targets[:, 1], 2)
    known = Incidence(ends, ("disease", "other"), grid, shares, np.array([5.0, 15.0]), "months")
    return Predictions("outcome", tuple(map(str, range(n))), outputs, targets, np.ones(n, bool), baseline=known)


def test_what_is_true_is_found_calibrated_and_better_than_nothing() -> None:
    answers = competing(600, 0)
    figures, curves = prognosis(answers, "split", draws=40)
    by = {f.name: f for f in figures}
    for event in ("disease", "other"):
        for at in (5, 15):
            ratio = by[f"{event}: observed_over_expected_at_{at}_months"]
            assert ratio.value == pytest.approx(1, abs=0.2)
            assert ratio.low < ratio.value < ratio.high
            assert by[f"{event}: auroc_at_{at}_months"].value > 0.6
            assert "of others first" in ratio.note
        assert by[f"{event}: brier_explained_to_15_months"].low > 0
    assert {(c.event, c.horizon) for c in curves} == {(e, t) for e in ("disease", "other") for t in (5.0, 15.0)}
    assert curves[0].what == "risk of disease by 5 months"
    inside = [b.low <= b.predicted <= b.high for c in curves for b in c.bins]
    assert np.mean(inside) > 0.8
    swapped, _ = prognosis(replace(answers, outputs=answers.outputs[:, ::-1]), "split", draws=20)
    assert {f.name: f for f in swapped}["disease: brier_explained_to_15_months"].value < 0


def test_beyond_the_training_follow_up_no_cumulative_incidence_ranks_anyone() -> None:
    answers = competing(60, 1)
    assert isinstance(answers.baseline, Incidence)
    short = replace(
        answers, outputs=answers.outputs[:, :, :10], baseline=replace(answers.baseline, ends=np.arange(1.0, 11))
    )
    figures, curves = prognosis(short, "split", draws=10)
    far = [f for f in figures if "15" in f.name]
    assert far
    assert all(np.isnan(f.value) and "followed for 10 months only" in f.note for f in far)
    assert {c.horizon for c in curves} == {5.0}


def test_from_a_landmark_it_is_told_how_many_were_at_risk() -> None:
    answers = competing(80, 2)
    assert isinstance(answers.baseline, Incidence)
    later = replace(answers, baseline=replace(answers.baseline, landmark=6.0, horizons=np.array([5.0])))
    figures, curves = prognosis(later, "split", draws=10)
    assert "80 at risk at 6 months" in figures[0].note
    assert curves[0].what == "risk of disease by 5 months from 6 months on"
