from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines.utils import concordance_index
from sklearn.metrics import average_precision_score, brier_score_loss, cohen_kappa_score, f1_score, roc_auc_score

from polyclinic.schema import Figure
from polyclinic.tasks import Predictions
from polyclinic.trust.measures import intervals
from polyclinic.trust.measures.figures import difference, figure, figures, shown, usable
from polyclinic.trust.measures.intervals import EvidenceError, bootstrap, exact, resamples
from polyclinic.trust.measures.metrics import (
    auroc,
    average_precision,
    brier,
    concordance,
    mean_absolute_error,
    quadratic_kappa,
)

few = settings(max_examples=40, deadline=None)


def predictions(outputs: np.ndarray, targets: np.ndarray, mask: np.ndarray | None = None) -> Predictions:
    names = tuple(f"p{i}" for i in range(len(outputs)))
    known = np.ones(len(outputs), dtype=bool) if mask is None else mask
    return Predictions("finding", names, np.asarray(outputs, float), np.asarray(targets, float), known)


@st.composite
def weighted(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with ties, both classes, and how often each patient counts, some not at all."""
    n = draw(st.integers(2, 30))
    scores = np.array(draw(st.lists(st.integers(0, 6), min_size=n, max_size=n))) / 6
    truth = np.array([1, 0, *draw(st.lists(st.integers(0, 1), min_size=n - 2, max_size=n - 2))])
    weights = np.array(draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)), float)
    weights[:2] = np.maximum(weights[:2], 1)
    return scores, truth, weights


@few
@given(weighted())
def test_classification_metrics_are_scikit_learn_s(case: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    scores, truth, weights = case
    both = np.stack([np.ones_like(weights), weights])
    for ours, peer in ((auroc, roc_auc_score), (average_precision, average_precision_score), (brier, brier_score_loss)):
        wanted = [peer(truth, scores), peer(truth, scores, sample_weight=weights)]
        np.testing.assert_allclose(ours(scores, truth.astype(float), both), wanted, atol=1e-9)


@few
@given(st.integers(2, 30), st.integers(2, 5), st.integers(0, 2**31))
def test_kappa_and_the_error_in_grades_are_scikit_learn_s(n: int, k: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    told, truth, weights = random.dirichlet(np.ones(k), n), random.integers(0, k, n), random.integers(0, 4, n)
    weights[0] += 1
    both = np.stack([np.ones(n), weights])
    kappa, error = quadratic_kappa(told, truth, both), mean_absolute_error(told, truth, both)
    for number, mine in enumerate((np.ones(n), weights)):
        said = told.argmax(1)
        np.testing.assert_allclose(error[number], np.average(np.abs(said - truth), weights=mine))
        if len(np.unique([*said[mine > 0], *truth[mine > 0]])) > 1:
            wanted = cohen_kappa_score(said, truth, labels=list(range(k)), weights="quadratic", sample_weight=mine)
            np.testing.assert_allclose(kappa[number], wanted, atol=1e-9)
        else:
            assert np.isnan(kappa[number])


def test_findings_are_measured_each_of_those_of_whom_it_is_known() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, (60, 3)).astype(float)
    said = np.clip(truth * 0.3 + random.random((60, 3)) * 0.7, 0, 1)
    truth[random.random((60, 3)) < 0.3] = np.nan
    truth[:, 2] = np.where(np.isfinite(truth[:, 2]), 0, np.nan)  # nobody has it: in no mean
    names = ("a", "b", "c")
    found = {
        f.name: f
        for f in figures("findings", predictions(said, truth), "s", names, draws=200, thresholds=(0.5, 0.6, 0.5))
    }
    for k, name in enumerate(names[:2]):
        known = np.isfinite(truth[:, k])
        y, p = truth[known, k], said[known, k]
        wanted = (roc_auc_score(y, p), average_precision_score(y, p), f1_score(y, p >= (0.5, 0.6)[k]))
        mine = [found[f"{m}_{name}"] for m in ("auroc", "average_precision", "f1")]
        assert [f.value for f in mine] == pytest.approx(wanted)
        assert all(f.n == known.sum() and f.low < f.value < f.high for f in mine)
    for metric in ("auroc", "average_precision", "f1"):
        mean = found[f"macro_{metric}"]
        assert mean.value == pytest.approx(np.mean([found[f"{metric}_{n}"].value for n in names[:2]]))
        assert mean.low < mean.value < mean.high
    assert np.isnan(found["auroc_c"].value)
    nobody = figures("findings", predictions(np.zeros(0), np.zeros(0)), "s", names, thresholds=(0.5,) * 3)
    assert all(np.isnan(f.value) and f.n == 0 for f in nobody)
    assert difference("macro_auroc", predictions(said, truth), predictions(said, truth), "s", draws=50).value == 0


def test_grades_have_intervals_and_an_auroc_at_each_cut() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, 80)
    told = np.exp(-((np.arange(3)[None] - (truth + random.normal(size=80) * 0.8)[:, None]) ** 2))
    found = figures("grade", predictions(told / told.sum(1, keepdims=True), truth), "s", ("a", "b", "c"), draws=200)
    assert [f.name for f in found] == ["quadratic_kappa", "mean_absolute_error", "auroc_from_b", "auroc_from_c"]
    assert all(f.low < f.value < f.high and f.n == 80 for f in found)
    nobody = figures("grade", predictions(np.zeros(0), np.zeros(0)), "s", ("a", "b", "c"))
    assert all(np.isnan(f.value) and f.n == 0 for f in nobody)
    perfect = figures("grade", predictions(np.eye(3)[truth], truth), "s", ("a", "b", "c"), draws=50)
    assert (perfect[0].value, perfect[1].value) == (1, 0)
    assert "no interval" in perfect[0].note  # a binomial bound is one of a share, and kappa is none
    one = figures("grade", predictions(told[truth == 1], truth[truth == 1]), "s", ("a", "b", "c"), draws=50)
    assert "one class" in one[2].note


@few
@given(st.integers(2, 40), st.integers(0, 2**31))
def test_concordance_is_lifelines_s(n: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    hazard, time = random.integers(0, 8, n) / 8, random.integers(1, 10, n).astype(float)
    event, weights = (random.random(n) < 0.6).astype(float), random.integers(0, 4, n)
    targets = np.stack([time, event], 1)
    rows = np.repeat(np.arange(n), weights)
    found = concordance(hazard, targets, np.stack([np.ones(n), weights]))
    for value, mine in zip(found, (np.arange(n), rows), strict=True):
        try:
            # A patient drawn twice makes pairs with themselves, which nobody can order: half of them count as right in both.
            wanted = concordance_index(time[mine], -hazard[mine], event[mine])
        except ZeroDivisionError:
            wanted = math.nan
        np.testing.assert_allclose(value, wanted, atol=1e-9)


def test_concordance_of_many_patients_goes_by_rows_at_a_time() -> None:
    random = np.random.default_rng(0)
    n = 1200
    time, hazard = random.exponential(size=n), random.normal(size=n)
    event = (random.random(n) < 0.5).astype(float)
    found = concordance(hazard, np.stack([time, event], 1), np.ones((1, n)))
    assert found[0] == pytest.approx(concordance_index(time, -hazard, event), abs=1e-12)


@few
@given(weighted(), st.integers(0, 2**31))
def test_auroc_does_not_see_a_rising_change_of_scores_nor_the_order_of_patients(
    case: tuple[np.ndarray, np.ndarray, np.ndarray], seed: int
) -> None:
    scores, truth, weights = case
    order = np.random.default_rng(seed).permutation(len(scores))
    first = auroc(scores, truth, weights[None])
    np.testing.assert_allclose(auroc(np.exp(3 * scores), truth, weights[None]), first, atol=1e-12)
    np.testing.assert_allclose(auroc(scores[order], truth[order], weights[None, order]), first, atol=1e-12)
    np.testing.assert_allclose(auroc(-scores, truth, weights[None]), 1 - first, atol=1e-12)


def test_resamples_keep_every_stratum_and_repeat_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    strata = np.array([0] * 20 + [1] * 3)
    whole = np.concatenate(list(resamples(strata, 500, seed=1)))
    assert whole.shape == (500, 23)
    assert (whole[:, :20].sum(1) == 20).all()
    assert (whole[:, 20:].sum(1) == 3).all()
    np.testing.assert_array_equal(whole, np.concatenate(list(resamples(strata, 500, seed=1))))
    assert (whole != np.concatenate(list(resamples(strata, 500, seed=2)))).any()
    np.testing.assert_allclose(whole.mean(0), 1, atol=0.2)
    monkeypatch.setattr(intervals, "AT_ONCE", 23 * 100)
    blocks = list(resamples(strata, 250, seed=1))
    assert [len(b) for b in blocks] == [100, 100, 50]


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_intervals_are_scipy_s_where_there_are_no_strata(method: Literal["bca", "percentile"]) -> None:
    """The mean of a skewed sample; scipy 1.17 draws its own resamples, so that the ends agree to their own noise."""
    values = np.random.default_rng(4).exponential(size=40)
    found = bootstrap(
        lambda w: w @ values / w.sum(1), np.zeros(40, dtype=int), name="mean", split="s", draws=20_000,
        method=method, bounded=False,
    )  # fmt: skip
    peer = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method={"bca": "BCa"}.get(method, method), rng=np.random.default_rng(5)
    ).confidence_interval
    width = peer.high - peer.low
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(peer.low, abs=0.04 * width)
    assert found.high == pytest.approx(peer.high, abs=0.04 * width)
    if method == "bca":  # a skewed sample has a skewed interval: the correction is not nothing
        plain = np.quantile(
            [values[np.random.default_rng(i).integers(0, 40, 40)].mean() for i in range(2000)], [0.025, 0.975]
        )
        assert found.low > plain[0]
        assert found.high > plain[1]


@pytest.mark.slow
def test_the_interval_of_auroc_covers_the_truth_as_often_as_it_says() -> None:
    """Two normal classes a standard deviation apart: AUROC is Φ(1/√2) (Hanley & McNeil 1982)."""
    truth, held, simulations = scipy.stats.norm.cdf(1 / math.sqrt(2)), 0, 200
    targets = np.array([1] * 30 + [0] * 30)
    for seed in range(simulations):
        scores = np.random.default_rng(seed).normal(size=60) + targets
        found = figure("auroc", predictions(scores, targets), "s", draws=400, seed=seed)
        held += found.low <= truth <= found.high
    assert 0.90 <= held / simulations <= 0.99


@pytest.mark.parametrize("n", [3, 8, 50])
def test_the_exact_interval_is_clopper_and_pearson_s(n: int) -> None:
    for successes, value in ((n, 1.0), (0, 0.0)):
        peer = scipy.stats.binomtest(successes, n).proportion_ci(method="exact")
        found = exact(value, n, "patients")
        assert (found.low, found.high) == pytest.approx((peer.low, peer.high), abs=1e-12)


def test_a_perfect_score_is_not_certain() -> None:
    targets = np.array([1] * 20 + [0] * 4)
    found = figure("auroc", predictions(targets + 0.0, targets), "s")
    assert found.value == 1
    assert found.high == 1
    assert found.low == pytest.approx(0.025 ** (1 / 4))
    assert "exact binomial over the 4 patients of the rarer class" in found.note
    assert "too narrow" not in found.note


def test_few_of_a_class_are_said_and_one_has_no_interval() -> None:
    random = np.random.default_rng(0)
    for negatives, words in (
        (5, "too narrow at 5 patients of the rarer class"),
        (1, "no interval: 1 of the patients of"),
    ):
        targets = np.array([1] * 30 + [0] * negatives)
        found = figure("auroc", predictions(targets + random.normal(size=len(targets)), targets), "s")
        assert words in found.note
        assert math.isfinite(found.low) is (negatives > 1)


def test_few_events_are_said_however_many_are_censored() -> None:
    random = np.random.default_rng(0)
    hazard = random.normal(size=60)
    targets = np.stack([random.exponential(size=60), (np.arange(60) < 4).astype(float)], 1)
    assert "too narrow at 4 events" in figure("concordance", predictions(hazard, targets), "s").note
    targets[:, 1] = np.arange(60) >= 4
    assert "narrow" not in figure("concordance", predictions(hazard, targets), "s").note


@pytest.mark.parametrize(("metric", "targets", "reason"), [
    ("auroc", np.ones(5), "not defined: all 5 patients are of one class"),
    ("average_precision", np.zeros(5), "not defined: all 5 patients are of one class"),
    ("concordance", np.stack([np.arange(5.0), np.zeros(5)], 1), "not defined: all 5 patients are of one class"),
    ("auroc", np.zeros(0), "not defined: no labelled patient"),
    ("concordance", np.zeros((0, 2)), "not defined: no labelled patient"),
    ("dice", np.zeros((0, 2)), "not defined: no labelled patient"),
])  # fmt: skip
def test_what_is_not_defined_is_said(metric: str, targets: np.ndarray, reason: str) -> None:
    found = figure(metric, predictions(np.linspace(0, 1, len(targets)), targets), "hash")
    assert math.isnan(found.value)
    assert math.isnan(found.low)
    assert found.note == reason
    assert found.n == len(targets)
    assert found.split == "hash"


def test_unlabelled_patients_do_not_count() -> None:
    """Whatever the model says of them and whatever stands in their place (invariant 5)."""
    random = np.random.default_rng(0)
    targets = random.integers(0, 2, 40)
    scores, mask = targets + random.normal(size=40), np.arange(40) < 30
    found = figure("auroc", predictions(scores, targets, mask), "s")
    assert found == figure("auroc", predictions(np.where(mask, scores, -9), np.where(mask, targets, 1), mask), "s")
    assert found.n == 30
    assert found.value == pytest.approx(roc_auc_score(targets[:30], scores[:30]))


def test_answers_that_are_no_numbers_are_left_out() -> None:
    outputs = np.array([[0.5, 0.6], [np.nan, 0.5], [0.7, 0.8]])
    known = usable(predictions(outputs, np.zeros((3, 2))))
    assert known.patients == ("p0", "p2")


def test_every_figure_carries_n_interval_split_and_note() -> None:
    """Invariant 8."""
    random = np.random.default_rng(1)
    binary = random.integers(0, 2, 50)
    survival = np.stack([random.exponential(size=50), random.integers(0, 2, 50)], 1)
    dice = random.uniform(0.5, 1, (50, 2))
    found = [
        *figures("classification", predictions(random.uniform(size=50), binary), "hash", draws=200),
        *figures("survival", predictions(random.normal(size=50), survival), "hash", draws=200),
        *figures("segmentation", predictions(dice, dice), "hash", ("anterior", "posterior"), draws=200),
    ]
    assert [f.name for f in found] == [
        "auroc", "average_precision", "brier", "concordance", "dice", "dice_anterior", "dice_posterior",
    ]  # fmt: skip
    for one in found:
        assert one.n == 50
        assert one.split == "hash"
        assert one.low <= one.value <= one.high
        assert one.note.startswith("95% interval")
    assert found[4].value == pytest.approx(dice.mean())
    assert found[5].value == pytest.approx(dice[:, 0].mean())


def test_several_seeds_are_their_mean() -> None:
    random = np.random.default_rng(2)
    targets = random.integers(0, 2, 60)
    seeds = [predictions(targets + random.normal(size=60), targets) for _ in range(3)]
    found = figure("auroc", seeds, "s", draws=300)
    assert found.value == pytest.approx(np.mean([roc_auc_score(targets, p.outputs) for p in seeds]))


@pytest.fixture
def two() -> tuple[Predictions, Predictions]:
    random = np.random.default_rng(3)
    targets = np.array([1] * 35 + [0] * 25)
    common = random.normal(size=60)
    return (
        predictions(common + 1.5 * targets + 0.3 * random.normal(size=60), targets),
        predictions(common + 0.5 * targets + 0.3 * random.normal(size=60), targets),
    )


def test_a_difference_is_paired_and_turns_its_sign(two: tuple[Predictions, Predictions]) -> None:
    good, poor = two
    forth, back = difference("auroc", good, poor, "s"), difference("auroc", poor, good, "s")
    assert forth.value == pytest.approx(figure("auroc", good, "s").value - figure("auroc", poor, "s").value)
    assert (back.value, back.low, back.high) == pytest.approx((-forth.value, -forth.high, -forth.low), abs=1e-9)
    assert forth.n == 60
    apart = sum((f.high - f.low) ** 2 for f in (figure("auroc", good, "s"), figure("auroc", poor, "s"))) ** 0.5
    assert forth.high - forth.low < apart  # the patients are the same: their noise is shared
    assert shown(forth) == "better"
    assert shown(back) == "worse"


def test_a_difference_with_itself_is_zero_and_shows_nothing(two: tuple[Predictions, Predictions]) -> None:
    found = difference("auroc", two[0], two[0], "s")
    assert found.value == 0
    assert "every resample" in found.note
    assert shown(found) == "unknown"


@pytest.mark.parametrize("change", [
    lambda p: replace(p, patients=tuple(reversed(p.patients))),
    lambda p: replace(p, targets=1 - p.targets),
    lambda p: p.where(np.arange(len(p.patients)) > 0),
])  # fmt: skip
def test_only_the_same_patients_with_the_same_truth_are_compared(
    change: Callable[[Predictions], Predictions], two: tuple[Predictions, Predictions]
) -> None:
    with pytest.raises(EvidenceError, match="who are not the same"):
        difference("auroc", two[0], change(two[1]), "s")


def test_a_truth_that_went_through_float32_is_the_same_truth() -> None:
    """A model's times are float32, a table's are not."""
    random = np.random.default_rng(0)
    targets = np.stack([random.exponential(size=40), random.integers(0, 2, 40)], 1)
    model, table = (
        predictions(random.normal(size=40), targets.astype(np.float32)),
        predictions(random.normal(size=40), targets),
    )
    assert (model.targets != table.targets).any()
    assert math.isfinite(difference("concordance", model, table, "s", draws=100).low)


@pytest.mark.parametrize(("low", "high", "says"), [
    (0.01, 0.2, "better"), (-0.2, -0.01, "worse"), (-0.1, 0.1, "none"), (0.0, 0.2, "none"), (math.nan, math.nan, "unknown"),
])  # fmt: skip
def test_what_an_interval_shows(low: float, high: float, says: str) -> None:
    assert shown(Figure("d", 0.1, low, high, 9, "s")) == says
