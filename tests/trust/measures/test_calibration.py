from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from polyclinic.tasks import Predictions
from polyclinic.trust import calibration, figure
from polyclinic.trust.measures.calibration import bin_numbers, calibrations, ece, of_classes, recalibration, wilson

few = settings(max_examples=40, deadline=None)


def predictions(outputs: np.ndarray, targets: np.ndarray) -> Predictions:
    names = tuple(f"p{i}" for i in range(len(outputs)))
    return Predictions("finding", names, outputs, np.asarray(targets, float), np.ones(len(outputs), dtype=bool))


def simulated(n: int, seed: int, slope: float = 1.0, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Answers whose logits are `slope` times the true ones, plus `shift`; and what happened."""
    random = np.random.default_rng(seed)
    logit = random.normal(-0.5, 1.2, n)
    happened = (random.random(n) < 1 / (1 + np.exp(-logit))).astype(float)
    return 1 / (1 + np.exp(-(slope * logit + shift))), happened


@few
@given(st.integers(1, 300), st.data())
def test_the_interval_of_a_share_is_wilson_s(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    peer = scipy.stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson(successes, n) == pytest.approx((peer.low, peer.high), abs=1e-6)


def test_answers_that_come_true_as_often_as_they_say() -> None:
    outputs, targets = simulated(20_000, seed=0)
    found = calibration(predictions(outputs, targets), "s", draws=100)
    named = {f.name: f for f in found.figures}
    assert named["ece"].value < 0.015
    assert named["slope"].value == pytest.approx(1, abs=0.06)
    assert named["intercept"].value == pytest.approx(0, abs=0.06)
    assert named["slope"].low < 1 < named["slope"].high
    assert (
        all(b.low <= b.predicted <= b.high for b in found.bins)
        or sum(b.low <= b.predicted <= b.high for b in found.bins) >= 8
    )


def test_answers_that_are_too_extreme_and_too_high() -> None:
    """Logits doubled and raised by one: the slope that mends them is a half."""
    outputs, targets = simulated(20_000, seed=1, slope=2.0)
    assert recalibration(outputs, targets)[0] == pytest.approx(0.5, abs=0.03)
    outputs, targets = simulated(20_000, seed=1, shift=1.0)
    slope, intercept = recalibration(outputs, targets)
    assert slope == pytest.approx(1, abs=0.06)
    assert intercept == pytest.approx(-1, abs=0.06)
    found = calibration(predictions(outputs, targets), "s", draws=50)
    assert found.figures[0].value > 0.1


@few
@given(st.integers(0, 2**31))
def test_the_recalibration_is_logistic_regression_without_penalty(seed: int) -> None:
    outputs, targets = simulated(150, seed, slope=1.4, shift=0.3)
    logits = np.log(outputs / (1 - outputs))
    slope, intercept = recalibration(outputs, targets)
    peer = LogisticRegression(C=np.inf, tol=1e-10, max_iter=5000).fit(logits[:, None], targets)
    assert slope == pytest.approx(float(peer.coef_[0, 0]), abs=1e-3)
    # With the slope held at one the fitted answers add up to what happened: the likelihood's own equation.
    assert (1 / (1 + np.exp(-(logits + intercept)))).sum() == pytest.approx(targets.sum(), abs=1e-6)


@pytest.mark.parametrize(("outputs", "targets"), [
    (np.linspace(0.1, 0.9, 20), np.ones(20)),
    (np.linspace(0.1, 0.9, 20), (np.linspace(0.1, 0.9, 20) > 0.5).astype(float)),
    (np.full(20, 0.5), np.arange(20) % 2.0),
])  # fmt: skip
def test_what_cannot_be_recalibrated_has_no_slope(outputs: np.ndarray, targets: np.ndarray) -> None:
    assert math.isnan(recalibration(outputs, targets)[0])


def test_answers_of_zero_and_one_are_no_infinity() -> None:
    targets = np.arange(40) % 2.0
    outputs = np.where(np.arange(40) < 4, 1 - targets, targets)  # wrong of four, and certain of all
    slope, intercept = recalibration(outputs, targets)
    assert 0 < slope < 0.5
    assert math.isfinite(intercept)


@few
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=200), st.integers(1, 12))
def test_bins_hold_enough_and_keep_the_order(answers: list[float], fewest: int) -> None:
    p = np.array(answers)
    numbers = bin_numbers(p, fewest=fewest)
    assert numbers.min() == 0
    assert set(numbers) == set(range(numbers.max() + 1))
    order = np.argsort(p, kind="stable")
    assert (np.diff(numbers[order]) >= 0).all()
    for value in np.unique(p):
        assert len(set(numbers[p == value])) == 1
    if len(np.unique(p)) == len(p) and len(p) >= fewest:
        assert np.bincount(numbers).min() >= fewest - 1


@few
@given(st.integers(0, 2**31))
def test_the_expected_calibration_error_by_hand(seed: int) -> None:
    random = np.random.default_rng(seed)
    p, y = random.uniform(size=30), random.integers(0, 2, 30).astype(float)
    numbers = bin_numbers(p)
    each = [
        (np.mean(numbers == k), abs(p[numbers == k].mean() - y[numbers == k].mean())) for k in range(numbers.max() + 1)
    ]
    assert ece(p, y, numbers, np.ones((1, 30)))[0] == pytest.approx(sum(share * gap for share, gap in each))
    twice = np.concatenate([p, p]), np.concatenate([y, y]), np.concatenate([numbers, numbers])
    assert ece(*twice, np.ones((1, 60)))[0] == pytest.approx(ece(p, y, numbers, np.full((1, 30), 2.0))[0])


@pytest.mark.parametrize("seed", range(12))
def test_the_interval_of_the_error_holds_the_error(seed: int) -> None:
    """The error of a resample is nearly always larger than the sample's: a plain percentile interval may lie above it."""
    p = np.random.default_rng(seed).uniform(size=300)
    y = (np.random.default_rng(seed + 100).random(300) < p).astype(float)
    found = calibration(predictions(p, y), "s", draws=300).figures[0]
    assert found.low <= found.value <= found.high


def test_the_figures_carry_n_split_and_note() -> None:
    outputs, targets = simulated(60, seed=2)
    found = calibration(predictions(outputs, targets), "hash", draws=200)
    assert [f.name for f in found.figures] == ["ece", "brier", "slope", "intercept"]
    for one in found.figures:
        assert (one.n, one.split) == (60, "hash")
        assert one.note.startswith("95% interval")
    assert found.figures[1] == figure(
        "brier", predictions(outputs, targets), "hash", draws=200
    )  # one score, one interval
    assert "impression" in found.note
    assert sum(b.n for b in found.bins) == 60


def test_few_of_a_class_are_not_recalibrated() -> None:
    targets = np.array([1.0] * 4 + [0.0] * 30)
    found = calibration(predictions(np.linspace(0.1, 0.9, 34), targets), "s", draws=50)
    slope = found.figures[2]
    assert math.isnan(slope.value)
    assert slope.note == "not defined: 4 patients of the rarer class, 5 wanted"


@pytest.mark.parametrize(("outputs", "why"), [
    (np.r_[np.linspace(0.6, 0.9, 10), np.linspace(0.1, 0.4, 10)], "separated"), (np.full(20, 0.4), "alike"),
])  # fmt: skip
def test_why_there_is_no_slope(outputs: np.ndarray, why: str) -> None:
    found = calibration(predictions(outputs, np.array([1.0] * 10 + [0.0] * 10)), "s", draws=50)
    assert why in found.figures[2].note


def test_nobody_to_look_at() -> None:
    found = calibration(predictions(np.zeros(0), np.zeros(0)), "s")
    assert found.n == 0
    assert found.bins == ()
    assert math.isnan(found.figures[0].value)


def test_each_finding_and_each_threshold_of_a_grade_has_its_own_curve() -> None:
    random = np.random.default_rng(0)
    p = random.uniform(size=(400, 2))
    truth = (random.uniform(size=(400, 2)) < p).astype(float)
    truth[::4, 1] = np.nan
    names = tuple(f"p{i}" for i in range(400))
    said = Predictions("signs", names, p, truth, np.ones(400, dtype=bool))
    one, other = calibrations("findings", said, "s", ("large", "grown"), draws=50)
    assert (one.name, one.n, other.name, other.n) == ("large", 400, "grown", 300)
    alone = Predictions("signs", names, p[:, 0], truth[:, 0], np.ones(400, dtype=bool))
    assert replace(calibration(alone, "s", draws=50), name="large") == one
    grades = np.stack([1 - p.max(1), p.max(1) - p.min(1), p.min(1)], axis=1)
    ranks = (random.uniform(size=400)[:, None] > grades.cumsum(1)[:, :2]).sum(1)
    said = Predictions("stage", names, grades, ranks.astype(float), np.ones(400, dtype=bool))
    found = calibrations("grade", said, "s", ("I", "II", "III"), draws=50)
    assert [c.name for c in found] == ["II", "III"]
    for each, cut in zip(found, (1, 2), strict=True):
        shown = sum(b.observed * b.n for b in each.bins)
        assert shown == pytest.approx((ranks >= cut).sum())
        slope = next(f for f in each.figures if f.name == "slope")
        assert slope.low < 1 < slope.high  # the ranks were drawn by these very probabilities
    assert calibrations("segmentation", said, "s", ()) == ()
    nobody = said.where(np.zeros(400, dtype=bool))
    assert [c.n for c in calibrations("grade", nobody, "s", ("I", "II", "III"))] == [0, 0]


def sorts(n: int, seed: int = 0, sharpness: float = 1.0) -> Predictions:
    """Patients of four classes, drawn by probabilities that are told sharpened."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1.5, (n, 4))
    truth = (logits + random.gumbel(size=(n, 4))).argmax(1)
    told = np.exp(sharpness * logits)
    return predictions(told / told.sum(1, keepdims=True), truth)


def test_the_errors_of_classes_are_those_of_other_programs() -> None:
    import torch
    from sklearn.metrics import brier_score_loss
    from torchmetrics.classification import MulticlassCalibrationError

    said = sorts(500, sharpness=2.0)
    p, truth = said.outputs, said.targets.astype(int)
    found = {f.name: f for f in of_classes(said, "s", draws=50).figures}
    brier = brier_score_loss(truth, p, scale_by_half=False)  # pyright: ignore[reportArgumentType]  # its stubs say otherwise
    assert found["multiclass_brier"].value == pytest.approx(brier)
    # Theirs are bins of as wide probabilities, ours of as many patients; of their bins our error is theirs.
    theirs = float(MulticlassCalibrationError(4, n_bins=15)(torch.from_numpy(p), torch.from_numpy(truth)))
    wide = np.ceil(p.max(1) * 15).astype(int) - 1
    ours = ece(p.max(1), (p.argmax(1) == truth).astype(float), wide, np.ones((1, 500)))[0]
    assert ours == pytest.approx(theirs, abs=1e-6)
    # Of our bins by hand: the tenths of the patients in the order of their probability.
    by_hand = lambda q, y: sum(
        len(part) / len(q) * abs(q[part].mean() - y[part].mean()) for part in np.array_split(np.argsort(q), 10)
    )
    assert found["top_label_ece"].value == pytest.approx(by_hand(p.max(1), p.argmax(1) == truth), abs=1e-9)
    each = [by_hand(p[:, k], truth == k) for k in range(4)]
    assert found["classwise_ece"].value == pytest.approx(np.mean(each), abs=1e-9)


def test_probabilities_that_classes_were_drawn_by_are_calibrated_and_sharper_ones_are_not() -> None:
    right, sharp = (of_classes(sorts(3000, 1, sharpness), "s", draws=50) for sharpness in (1.0, 3.0))
    value = lambda found, name: next(f.value for f in found.figures if f.name == name)
    for name in ("top_label_ece", "classwise_ece"):
        assert value(right, name) < 0.03
        assert value(sharp, name) > 2 * value(right, name)
    assert value(right, "multiclass_brier") < value(sharp, "multiclass_brier")
    assert all(b.low <= b.observed <= b.high for b in right.bins)
    assert sum(b.predicted > b.observed for b in sharp.bins) >= 8, "too sure"


def test_of_classes_the_whole_comes_first_and_each_against_the_rest() -> None:
    said, names = sorts(400), ("a", "b", "c", "d")
    first, *each = calibrations("classes", said, "s", names, draws=50)
    assert first == of_classes(said, "s", draws=50)
    assert [c.name for c in each] == list(names)
    alone = predictions(said.outputs[:, 1], said.targets == 1)
    assert replace(calibration(alone, "s", draws=50), name="b") == each[1]
    nobody = calibrations("classes", said.where(np.zeros(400, dtype=bool)), "s", names)
    assert [c.n for c in nobody] == [0] * 5
