from __future__ import annotations

import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from polyclinic.cohort import Cohort
from polyclinic.schema import Figure
from polyclinic.tasks import Predictions
from polyclinic.training import Recipe
from polyclinic.training.budget import Budget, BudgetError
from polyclinic.trust import EvidenceError, Factorial, factorial, judged
from polyclinic.trust.comparisons.factorial_plot import plot

RECIPE = """
name: compare
cohort: {split: {by: patient, test: 0.4, seed: 0, stratify: finding}}
encoders:
  text: {kind: bert, words: 24, vocabulary: 128, width: 16, depth: 1, heads: 2}
  table: {kind: events, width: 16, depth: 1, heads: 2, fewest: 2}
model: {kind: two_tower, width: 16, embedding: 16, fusion: {kind: intermediate, depth: 1, heads: 2}}
tasks:
  finding: {kind: classification, column: finding, positive: [COVID-19]}
stages: [{name: align, steps: 4, batch: 6, warmup: 1, objective: {kind: contrastive}}]
precision: fp32
"""


def answers(outputs: np.ndarray, targets: np.ndarray, names: list[str] | None = None) -> Predictions:
    who = tuple(names or [f"p{n:03d}" for n in range(len(targets))])
    return Predictions("t", who, outputs, targets.astype(float), np.ones(len(who), dtype=bool))


def width(figure: Figure) -> float:
    return figure.high - figure.low


@pytest.fixture
def truth() -> np.ndarray:
    return np.tile([0, 1], 60)


def test_the_perfect_beats_chance_and_the_interval_shows_it(truth: np.ndarray) -> None:
    random = np.random.default_rng(0)
    guess = [answers(random.random(120), truth) for _ in range(3)]
    figures, each, behind = judged("auroc", {"guess": guess, "perfect": [answers(truth * 1.0, truth)] * 3}, "s")
    assert figures["perfect"].value == 1
    assert each["perfect"] == (1, 1, 1)
    assert figures["guess"].value == pytest.approx(np.mean(each["guess"]))
    assert set(behind) == {"guess"}
    assert behind["guess"].value == pytest.approx(1 - figures["guess"].value)
    assert 0 < behind["guess"].low < behind["guess"].value < behind["guess"].high
    assert "120 patients and 3 seeds" in figures["guess"].note


def test_equal_answers_differ_by_nothing(truth: np.ndarray) -> None:
    one = [answers(np.random.default_rng(n).random(120), truth) for n in range(3)]
    _, _, behind = judged("auroc", {"a": one, "b": one}, "s")
    (figure,) = behind.values()
    assert (figure.value, figure.low, figure.high) == (0, 0, 0)  # paired by patient and by seed


def test_pairing_is_by_patient_and_by_seed_and_both_chances_count(truth: np.ndarray) -> None:
    random = np.random.default_rng(1)
    shared, noise = random.normal(size=(4, 120)), random.normal(size=(2, 4, 120)) * 0.1
    a, b = ([answers(truth * 0.7 + shared[s] + noise[g, s], truth) for s in range(4)] for g in range(2))
    figures, _, behind = judged("auroc", {"a": a, "b": b}, "s")
    (difference,) = behind.values()
    assert width(difference) < 0.5 * min(width(f) for f in figures.values())
    # Seeds that disagree make the interval wider than that of patients alone, of which one seed has no other.
    steady = judged("auroc", {"a": [a[0]] * 4}, "s")[0]["a"]
    varied = [answers(truth * lift + shared[0], truth) for lift in (0.1, 0.5, 1.0, 2.0)]
    assert width(judged("auroc", {"a": varied}, "s")[0]["a"]) > 1.3 * width(steady)
    one = judged("auroc", {"a": a[:1]}, "s")[0]["a"]
    assert "one seed" in one.note
    assert width(one) == pytest.approx(width(steady))


def test_only_patients_whom_all_answered_count_whatever_their_order(truth: np.ndarray) -> None:
    outputs = np.random.default_rng(2).random(120)
    names = [f"p{n:03d}" for n in range(120)]
    back = answers(outputs[::-1].copy(), truth[::-1].copy(), names[::-1])
    fewer = answers(outputs[:90], truth[:90], names[:90])
    figures, _, behind = judged("auroc", {"a": [back], "b": [fewer]}, "s")
    assert figures["a"].n == 90
    assert [f.value for f in behind.values()] == [0]
    with pytest.raises(EvidenceError, match="0 test patients"):
        judged("auroc", {"a": [fewer], "b": [answers(outputs[:90], truth[:90], [f"q{n}" for n in range(90)])]}, "s")
    with pytest.raises(EvidenceError, match="another truth"):
        judged("auroc", {"a": [fewer], "b": [answers(outputs[:90], 1 - truth[:90], names[:90])]}, "s")
    some = [answers(outputs[:90:2], truth[:90:2], names[:90:2])]
    with pytest.raises(EvidenceError, match="45 test patients about whom all answered, of one class"):
        judged("auroc", {"a": some, "b": some}, "s")


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> list[Recipe]:
    path = tmp_path_factory.mktemp("recipes") / "compare.yaml"
    path.write_text(RECIPE)
    other = ["name=masked", "stages.0.objective={kind: masked}", "stages.0.batch=4"]
    return [Recipe.load(path), Recipe.load(path, other)]


@pytest.fixture(scope="module")
def compared(
    recipes: list[Recipe], tiny_cohort: Cohort, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Factorial, Path]:
    place = tmp_path_factory.mktemp("compared")
    budget = Budget("flops", 2e8)
    return factorial(recipes, tiny_cohort, "finding", into=place, seeds=2, budget=budget, draws=200), place


def test_budgets_are_equal_and_the_best_stands_first(compared: tuple[Factorial, Path]) -> None:
    made, _ = compared
    assert {arm.recipe for arm in made.arms} == {"compare", "masked"}
    assert made.seeds == (0, 1)
    for arm in made.arms:
        assert 2e8 * (1 - 1 / arm.steps) - 1 < arm.flops <= 2e8  # no whole step is left
        assert arm.figure.value == pytest.approx(np.mean(arm.each))
        assert len(arm.each) == 2
    assert made.arms[0].steps != made.arms[1].steps
    assert made.arms[0].figure.value >= made.arms[1].figure.value
    assert made.arms[0].behind is None
    assert made.margin is not None
    assert made.margin is made.arms[1].behind
    assert made.margin.value == pytest.approx(made.arms[0].figure.value - made.arms[1].figure.value)
    assert f"of {len(made.seeds)} seeds" in made.verdict()


def test_what_is_written_is_what_was_found(compared: tuple[Factorial, Path]) -> None:
    made, place = compared
    assert Factorial.open(place) == made
    table = (place / "comparison.md").read_text()
    for arm in made.arms:
        assert f"| {arm.recipe} | {arm.place} | {arm.steps} |" in table
        assert f"{arm.figure.value:.3f} ({arm.figure.low:.3f} to {arm.figure.high:.3f})" in table
    picture = ElementTree.parse(place / "comparison.svg").getroot()
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    words = [e.text for e in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"compare", "masked"} <= set(words)


def test_what_is_finished_is_not_made_again_and_what_is_not_is(
    recipes: list[Recipe], compared: tuple[Factorial, Path], tiny_cohort: Cohort, tmp_path: Path
) -> None:
    made, place = compared
    again = tmp_path / "again"
    shutil.copytree(place, again)
    shutil.rmtree(again / "runs")
    lost = next((again / "answers").glob("masked-1-*.json"))
    lost.unlink()
    same = factorial(recipes, tiny_cohort, "finding", into=again, seeds=2, budget=made.budget, draws=200)
    assert [p.name for p in (again / "runs").iterdir()] == ["masked-1"]
    assert lost.exists()
    assert [(a.recipe, a.each, a.figure, a.behind) for a in same.arms] == [
        (a.recipe, a.each, a.figure, a.behind) for a in made.arms
    ]


def test_what_cannot_be_compared_is_refused(recipes: list[Recipe], tiny_cohort: Cohort, tmp_path: Path) -> None:
    one, other = recipes
    ask = lambda some, task="finding", **more: factorial(some, tiny_cohort, task, into=tmp_path, **more)
    with pytest.raises(EvidenceError, match="no task 'survival'"):
        ask([one, other], "survival")
    with pytest.raises(EvidenceError, match="two recipes called 'compare'"):
        ask([one, one])
    with pytest.raises(EvidenceError, match="different seeds"):
        ask([one, other.model_copy(update={"seed": 3})])
    tasks = {"finding": one.tasks["finding"].model_copy(update={"positive": ("SARS",)})}
    with pytest.raises(EvidenceError, match="is another than that of 'compare'"):
        ask([one, other.model_copy(update={"tasks": tasks})])
    with pytest.raises(EvidenceError, match="0 seeds"):
        ask([one], seeds=0)
    with pytest.raises(BudgetError, match="does not pay"):
        ask([one], budget=Budget("tokens", 1))
    assert not (tmp_path / "runs").exists()


def test_the_picture_escapes_names() -> None:
    figure = Figure("auroc", 0.7, 0.6, 0.8, 20, "s")
    picture = ElementTree.fromstring(plot([("a<b&c", figure, (0.65, float("nan")))], "t & u"))
    assert "a<b&c" in [e.text for e in picture.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("metric", ["macro_auroc", "quadratic_kappa"])
def test_grades_and_findings_of_which_some_are_unknown_are_judged_too(metric: str) -> None:
    random, n = np.random.default_rng(0), 60
    names, known = tuple(f"p{i:02}" for i in range(n)), np.ones(n, dtype=bool)
    if metric == "macro_auroc":
        truth = random.integers(0, 2, (n, 2)).astype(float)
        good, poor = truth + 0.1 * random.normal(size=(n, 2)), random.normal(size=(n, 2))
        truth[::5, 0] = np.nan
    else:
        truth = random.integers(0, 3, n).astype(float)
        good, poor = np.eye(3)[truth.astype(int)], random.uniform(size=(n, 3))
    made = lambda outputs: [Predictions("t", names, outputs, truth, known)] * 2
    figures, _, behind = judged(metric, {"good": made(good), "poor": made(poor)}, "s", draws=100)
    assert figures["good"].value > 0.99
    assert behind["poor"].low > 0.3
    assert figures["good"].n == n
