from __future__ import annotations

import json
import math
import re
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.cohort import Cohort
from polyclinic.inference import predict
from polyclinic.schema import Figure
from polyclinic.training import InterruptedRunError, Recipe, Run, pretrain
from polyclinic.trust import EvidenceError, LabelCurve, label_curve
from polyclinic.trust.comparisons.label_arms import nested
from polyclinic.trust.comparisons.label_curve import Saved, needed
from polyclinic.trust.comparisons.label_page import html, sentence, verdict
from polyclinic.trust.measures.figures import usable
from polyclinic.trust.measures.metrics import METRICS
from polyclinic.trust.measures.written import signed, unsigned

RECIPE = """
name: curve
cohort: {split: {by: patient, test: 0.4, seed: 0, stratify: finding}}
encoders:
  text: {kind: bert, words: 24, vocabulary: 128, width: 16, depth: 1, heads: 2}
  table: {kind: events, width: 16, depth: 1, heads: 2, fewest: 2}
model: {kind: two_tower, width: 16, embedding: 16, fusion: {kind: intermediate, depth: 1, heads: 2}}
tasks:
  finding: {kind: classification, column: finding, positive: [COVID-19]}
  note: {kind: retrieval, query: table, answer: text}
stages: [{name: align, steps: 2, batch: 6, warmup: 1, objective: {kind: contrastive}}]
precision: fp32
"""


@pytest.fixture(scope="module")
def run(tiny_cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("recipe") / "curve.yaml"
    path.write_text(RECIPE)
    return pretrain(Recipe.load(path), tiny_cohort, into=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def found(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[LabelCurve, Path]:
    place = tmp_path_factory.mktemp("found")
    return label_curve(run, "finding", [2, 4, None], "probe", seeds=(0, 1), steps=3, into=place, draws=100), place


# --- reading two curves across


def test_where_a_curve_reaches_a_goal_by_hand() -> None:
    numbers, curve = [10, 100, 1000], [0.6, 0.7, 0.9]
    assert needed(numbers, curve, 0.5) == 10  # already with the fewest
    assert needed(numbers, curve, 0.7) == pytest.approx(100)
    assert needed(numbers, curve, 0.65) == pytest.approx(math.sqrt(10 * 100))  # halfway, by logarithms
    assert needed(numbers, curve, 0.8) == pytest.approx(math.sqrt(100 * 1000))
    assert needed(numbers, curve, 0.91) == math.inf
    assert needed([10, 50, 200], [0.5, 0.8, 0.6], 0.7) == pytest.approx(10 * 5 ** (2 / 3))  # the first time counts


@given(st.lists(st.floats(0, 1), min_size=2, max_size=5), st.floats(0, 1), st.floats(0, 0.2))
def test_more_to_reach_never_needs_fewer(curve: list[float], goal: float, more: float) -> None:
    numbers = [10 * 3**n for n in range(len(curve))]
    at = needed(numbers, curve, goal)
    assert at <= needed(numbers, curve, goal + more) * (1 + 1e-12)
    assert at == math.inf or numbers[0] <= at <= numbers[-1] * (1 + 1e-9)
    assert (at == math.inf) == (max(curve) < goal)


def test_labels_saved_are_told_only_where_they_were_reached() -> None:
    figure = lambda value, low, high: Figure("labels_needed", value, low, high, 40, "s")
    assert "with 90 (95% interval 30 to more than 200): 80 labels saved" in sentence(
        Saved(10, figure(90, 30, math.nan), False), 200
    )
    assert "does not reach with any number that was tried (up to 200)" in sentence(
        Saved(10, figure(math.nan, 60, math.nan), False), 200
    )
    assert "nothing is shown saved" in sentence(Saved(50, figure(10, 10, 40), True), 200)
    assert "20 labels lost" in sentence(Saved(50, figure(30, 12, 70), False), 200)


# --- whose labels


@settings(max_examples=8)
@given(seed=st.integers(0, 1000))
def test_fewer_labels_are_among_more_and_have_both_classes(seed: int, run: Run, tiny_cohort: Cohort) -> None:
    reads = tuple(run.recipe.encoders)
    numbers, chosen = nested(run, tiny_cohort, "finding", [2, 3, 5, None], [seed], reads)
    known = run.loader(tiny_cohort, run.split.train, ("finding",)).labelled("finding")
    sets = [set(chosen[seed, n]) for n in numbers]
    assert [len(s) for s in sets] == numbers
    assert all(a < b for a, b in pairwise(sets))
    assert all({known[p] for p in s} == {0, 1} for s in sets)
    assert sets[-1] == set(known)


def _count(run: Run, cohort: Cohort) -> int:
    return len(run.loader(cohort, run.split.train, ("finding",)).labelled("finding"))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"labels": [4, 2]}, "4, 2"),
    ({"labels": [2, 2, None]}, "2, 2, all"),
    ({"labels": [None, 2]}, "all, 2"),
    ({"labels": [0, 2]}, "0, 2"),
    ({"labels": []}, "none"),
    ({"labels": [2, 5000]}, "5000 labels of 'finding'"),
    ({"labels": [1, 4]}, "1 labels with seed 0 of one class"),
    ({"task": "note"}, "no task 'note'"),
    ({"method": "scratch"}, "method scratch"),
    ({"method": "zero_shot"}, "method zero_shot"),
    ({"baselines": ["oracle"]}, "no baseline 'oracle'"),
    ({"seeds": ()}, "the seeds []"),
    ({"seeds": (1, 1)}, "the seeds [1, 1]"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "found"), REFUSED)
def test_what_cannot_be_is_refused_before_anything_is_learned(
    asked: dict[str, Any], found: str, run: Run, tmp_path: Path
) -> None:
    wanted: dict[str, Any] = {"task": "finding", "labels": [2, 4], "method": "probe", "into": tmp_path, **asked}
    with pytest.raises(EvidenceError) as caught:
        label_curve(run, **wanted)
    assert found in caught.value.found
    assert caught.value.expected
    assert not list(tmp_path.iterdir())


def test_all_and_their_number_are_the_same(run: Run, tiny_cohort: Cohort, tmp_path: Path) -> None:
    count = _count(run, tiny_cohort)
    with pytest.raises(EvidenceError, match=rf"2, {count}, all \(all are {count}\)"):
        label_curve(run, "finding", [2, count, None], "probe", into=tmp_path)


# --- the curve


def test_each_arm_learns_from_the_same_labels(found: tuple[LabelCurve, Path], run: Run, tiny_cohort: Cohort) -> None:
    made, _ = found
    numbers = [2, 4, _count(run, tiny_cohort)]
    assert [a for a in made.arms if a != "text alone"] == ["pretrained", "scratch", "table alone", "plain"]
    for arm in ("pretrained", "scratch", "plain"):
        points = [p for p in made.points if p.arm == arm]
        assert [p.labels for p in points] == numbers
        assert [p.read for p in points] == numbers
        assert all(len(p.each) == 2 and p.figure.value == pytest.approx(np.mean(p.each)) for p in points)
    skipped = {s.what for s in made.skipped}
    for arm in ("text alone", "table alone"):
        there = {p.labels for p in made.points if p.arm == arm}
        assert there | {n for n in numbers if f"{arm}, {n} labels" in skipped} == set(numbers)
        assert all(p.read <= p.labels for p in made.points if p.arm == arm)
    table = [p for p in made.points if p.arm == "table alone"]
    assert table  # each has a row
    for point in made.points:
        assert (point.behind is None) == (point.arm == "pretrained")


def test_a_point_is_what_adapt_gives(
    found: tuple[LabelCurve, Path], run: Run, tiny_cohort: Cohort, tmp_path: Path
) -> None:
    from polyclinic.adaptation import adapt

    made, _ = found
    point = next(p for p in made.points if p.arm == "pretrained" and p.labels == 4)
    asked = usable(predict(adapt(run, "finding", "probe", 4, seed=1, into=tmp_path), tiny_cohort))
    value = METRICS["auroc"](asked.outputs, asked.targets, np.ones((1, len(asked.patients))))
    assert point.each[1] == pytest.approx(float(value[0]))


def test_what_is_written_is_what_was_found(found: tuple[LabelCurve, Path]) -> None:
    made, place = found
    again = LabelCurve.open(place)
    page = (place / "labels.html").read_text()
    assert html(again) == html(made) == page
    assert [p.each for p in again.points] == [p.each for p in made.points]
    assert [s.labels for s in again.saved] == sorted({p.labels for p in made.points})
    json.loads((place / "labels.json").read_text(), parse_constant=lambda word: pytest.fail(word))  # no NaN
    words = set(re.findall(r"<text[^>]*>([^<]*)</text>", page))
    assert {"pretrained", "scratch", "plain", "2", "4", "AUROC", "guessing", "labelled patients (logarithmic)"} <= words
    for point in made.points:  # every point of the plot stands in the table below it
        assert unsigned(point.figure) in page
        assert point.behind is None or signed(point.behind) in page
        assert ", ".join(f"{v:.3f}" for v in point.each) in page
    assert all(escape(told, quote=False) in page for told in verdict(made))
    assert not re.search(r"<script|<img|(?:src|href)=\"(?!#)", page)  # it is whole by itself


def test_what_is_finished_is_not_made_again(found: tuple[LabelCurve, Path], run: Run) -> None:
    made, place = found
    lost = next((place / "answers").glob("scratch-4-1-*"))
    before = lost.read_text()
    lost.unlink()
    kept = {p: p.stat().st_mtime_ns for p in (place / "answers").iterdir()}
    same = label_curve(run, "finding", [2, 4, None], "probe", seeds=(0, 1), steps=3, into=place, draws=100)
    assert html(same) == html(made)
    assert lost.read_text() == before
    assert {p: p.stat().st_mtime_ns for p in kept} == kept


def test_when_the_time_is_over_the_baselines_that_are_left_are_listed(
    run: Run, found: tuple[LabelCurve, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, place = found
    with pytest.raises(InterruptedRunError, match="0 minutes were over after 0 of"):
        label_curve(run, "finding", [2, 4, None], "probe", seeds=(0, 1), steps=3, into=place, draws=100, minutes=0)
    clock = iter([0.0] * 9)  # when it starts, and at the pretrained's six and scratch's two with the fewest labels
    monkeypatch.setattr("polyclinic.trust.comparisons.sequence.monotonic", lambda: next(clock, 61.0))
    said: list[tuple[int, int, str]] = []
    made = label_curve(
        run, "finding", [2, 4, None], "probe", seeds=(0, 1), steps=3, into=place, draws=100, minutes=1,
        progress=lambda done, total, what: said.append((done, total, what)),
    )  # fmt: skip
    assert made.arms == ["pretrained", "scratch"]
    assert list(made.points) == [
        p for p in whole.points if p.arm == "pretrained" or (p.arm, p.labels) == ("scratch", 2)
    ]
    assert made.saved == ()
    assert all("1 minutes were over after 8 of" in s.why for s in made.skipped)
    assert said[0][2] == "pretrained, 2 labels, seed 0"
    assert [done for done, _, _ in said] == [*range(8), said[-1][1]]
