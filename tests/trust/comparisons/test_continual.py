from __future__ import annotations

import re
import shutil
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyclinic.adaptation import Adapted, open_adapted
from polyclinic.adaptation.forgetting import Pretraining
from polyclinic.cohort import Cohort
from polyclinic.inference import predict
from polyclinic.schema import Figure
from polyclinic.training import InterruptedRunError, Recipe, Run, pretrain
from polyclinic.training.methods import Full, Lora
from polyclinic.trust import Continual, EvidenceError, continual
from polyclinic.trust.comparisons.continual import STRENGTHS, protected
from polyclinic.trust.comparisons.continual_page import PROTECTS, against, html, sentence, verdict
from polyclinic.trust.measures.figures import usable
from polyclinic.trust.measures.metrics import METRICS
from polyclinic.trust.measures.written import unsigned

RECIPE = """
name: sequence
cohort: {split: {by: patient, test: 0.4, seed: 0, stratify: finding}}
encoders:
  text: {kind: bert, words: 24, vocabulary: 128, width: 16, depth: 1, heads: 2}
  table: {kind: events, width: 16, depth: 1, heads: 2, fewest: 2}
model: {kind: two_tower, width: 16, embedding: 16, fusion: {kind: intermediate, depth: 1, heads: 2}}
tasks:
  finding: {kind: classification, column: finding, positive: [COVID-19]}
  survival: {kind: survival, time: survival_months, event: censorship, event_value: 0, inputs: [table]}
  note: {kind: retrieval, query: table, answer: text}
stages: [{name: align, steps: 2, batch: 6, warmup: 1, objective: {kind: masked}}]
precision: fp32
"""
FAST = {"kind": "full", "lr": 1e-2}


@pytest.fixture(scope="module")
def run(tiny_cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("recipe") / "sequence.yaml"
    path.write_text(RECIPE)
    return pretrain(Recipe.load(path), tiny_cohort, into=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def taught(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Continual, Path]:
    place = tmp_path_factory.mktemp("taught")
    ways = ["none", "replay+ewc=10"]
    made = continual(run, ["survival", "finding"], FAST, protect=ways, seeds=(0, 1), steps=3, into=place, draws=100)
    return made, place


def test_each_cell_is_the_task_s_own_head_on_the_model_of_that_time(
    taught: tuple[Continual, Path], run: Run, tiny_cohort: Cohort
) -> None:
    made, place = taught
    assert (made.tasks, made.metrics, made.seeds) == (("survival", "finding"), ("concordance", "auroc"), (0, 1))
    one, two = (next((place / "runs").glob(f"none-1-{n}-*")) for n in (1, 2))
    head, model = open_adapted(one), open_adapted(two)
    asked = usable(predict(Adapted(head.run, "survival", model.model, head.task, head.inputs), tiny_cohort))
    value = METRICS["concordance"](asked.outputs, asked.targets, np.ones((1, len(asked.patients))))
    assert made.ways[0].each[1][2][0] == pytest.approx(float(value[0]), abs=1e-6)
    own = usable(predict(head, tiny_cohort))
    first = METRICS["concordance"](own.outputs, own.targets, np.ones((1, len(own.patients))))
    assert made.ways[0].each[1][1][0] == pytest.approx(float(first[0]), abs=1e-6)


def test_measures_are_means_of_the_seeds_and_paired(taught: tuple[Continual, Path]) -> None:
    made, _ = taught
    for way in made.ways:
        each = np.array(way.each)  # (S T+1 T)
        assert np.array([[f.value for f in row] for row in way.results]) == pytest.approx(each.mean(0))
        assert way.measures["average"].value == pytest.approx(each[:, -1].mean())
        assert way.measures["backward_transfer"].value == pytest.approx((each[:, 2, 0] - each[:, 1, 0]).mean())
        assert way.measures["forgetting"].value == pytest.approx((each[:, 1, 0] - each[:, 2, 0]).mean())
        assert way.measures["forward_over_pretrained"].value == pytest.approx((each[:, 1, 1] - each[:, 0, 1]).mean())
        assert way.measures["forward_transfer"].value == pytest.approx(each[:, 1, 1].mean() - made.fresh[1].value)
        assert all(f.split == made.split and f.n > 0 for f in way.measures.values())
    none, held = made.ways
    assert none.results[0] == held.results[0]  # before all tasks they are one
    assert not none.over_first
    for name, figure in held.over_first.items():
        assert figure.value == pytest.approx(held.measures[name].value - none.measures[name].value)


def test_what_pretraining_lost_begins_with_what_it_had(taught: tuple[Continual, Path]) -> None:
    made, _ = taught
    for way in made.ways:
        assert way.pretraining
        for rows in way.pretraining.values():
            assert [len(row) for row in rows] == [2, 2, 2]
            assert rows[0][0] == rows[0][1]
    assert made.ways[0].pretraining.keys() == made.ways[1].pretraining.keys()
    before = [rows[0] for rows in made.ways[0].pretraining.values()]
    after = [rows[-1] for rows in made.ways[0].pretraining.values()]
    assert before != after


def test_what_is_written_is_what_was_found(taught: tuple[Continual, Path]) -> None:
    made, place = taught
    again = Continual.open(place)
    page = (place / "continual.html").read_text()
    assert html(again) == html(made) == page
    assert again.ways[0].each == made.ways[0].each
    words = set(re.findall(r"<text[^>]*>([^<]*)</text>", page))
    assert {"Concordance", "AUROC", "none", "replay+ewc=10", "after learning", "learned", "guessing"} <= words
    for figure in (f for way in made.ways for row in way.results for f in row):
        assert unsigned(figure) in page
    assert all(escape(told, quote=False) in page for told in verdict(made))


def test_the_page_says_how_it_was_made(taught: tuple[Continual, Path]) -> None:
    made, place = taught
    page = (place / "continual.html").read_text()
    assert "default-src 'none'" in page
    assert not re.search(r"<script|<img|(?:src|href)=\"(?!#)", page)  # it is whole by itself
    assert "0, 1: of the labels that are drawn" in page
    assert PROTECTS["replay"] in page
    assert PROTECTS["ewc"] in page
    assert PROTECTS["distil"] not in page  # which was not tried
    for way in made.ways:
        for last in (each[-1] for each in way.each):
            assert all(f"{value:.3f}" in page for value in last)
    assert set(PROTECTS) == {"none", *STRENGTHS}


def test_what_is_finished_is_not_made_again(taught: tuple[Continual, Path], run: Run) -> None:
    made, place = taught
    shutil.rmtree(next((place / "runs").glob("none-1-2-*")))
    for answer in (place / "answers").glob("none-1-2-*"):
        answer.unlink()
    kept = {p: p.stat().st_mtime_ns for p in place.rglob("*") if p.is_file() and p.parent != place}
    ways = [w.protect for w in made.ways]
    same = continual(run, made.tasks, FAST, protect=ways, seeds=made.seeds, steps=3, into=place, draws=100)
    assert same == made
    now = {p: p.stat().st_mtime_ns for p in place.rglob("*") if p.is_file() and p.parent != place}
    assert {p: now[p] for p in kept} == kept
    assert {p.relative_to(place).parts[1].split("-finding-")[0] for p in now.keys() - kept.keys()} == {"none-1-2"}


def test_who_waits_is_told_what_is_done_and_a_first_step_alike_is_made_once(run: Run, tmp_path: Path) -> None:
    said: list[tuple[int, int, str]] = []
    ways = ["none", "replay"]
    continual(
        run, ["finding", "survival"], FAST, protect=ways, seeds=(0,), steps=2, into=tmp_path, draws=50,
        progress=lambda done, total, what: said.append((done, total, what)),
    )  # fmt: skip
    assert [done for done, _, _ in said] == sorted(done for done, _, _ in said)
    assert {total for _, total, _ in said} == {5}
    words = [what for _, _, what in said]
    assert (said[0][0], words[0], said[-1]) == (0, "before all tasks, seed 0", (5, 5, "learned"))
    assert "before all tasks, seed 0: a probe for survival" in words
    assert [w for w in words if "step" in w] == [
        f"{task}, {way}, seed 0: step {n} of 2"
        for task, way in (("finding", "none"), ("survival", "none"), ("survival", "replay")) for n in (1, 2)
    ]  # fmt: skip
    assert sorted(p.name.rsplit("-", 1)[0] for p in (tmp_path / "runs").iterdir()) == [
        "none-0-1-finding", "none-0-2-survival", "replay-0-2-survival",
    ]  # fmt: skip


def test_when_the_time_is_over_what_is_finished_is_told_and_gone_on_with(run: Run, tmp_path: Path) -> None:
    asked: dict[str, Any] = {
        "tasks": ["finding", "survival"],
        "method": FAST,
        "steps": 1,
        "into": tmp_path,
        "draws": 50,
    }
    with pytest.raises(InterruptedRunError, match="0 minutes were over after 0 of 6"):
        continual(run, **asked, seeds=(0, 1), minutes=0)
    made = continual(run, **asked, seeds=(0,))
    runs = sorted(p.name for p in (tmp_path / "runs").iterdir())
    clock = iter([0.0, 1.0, 2.0, 3.0, 61.0])  # when it starts, at the first seed's three, and at the second's first
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("polyclinic.trust.comparisons.sequence.monotonic", lambda: next(clock))
        same = continual(run, **asked, seeds=(0, 1), minutes=1)
    assert same == made  # of seed 0 alone
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == runs
    assert continual(run, **asked, seeds=(0, 1), minutes=60).seeds == (0, 1)


def test_what_pretraining_lost_is_asked_once_of_the_same_weights(run: Run, tiny_cohort: Cohort, tmp_path: Path) -> None:
    made = continual(run, ["finding", "survival"], FAST, seeds=(0,), steps=2, into=tmp_path, draws=50)
    one, two = (open_adapted(next((tmp_path / "runs").glob(f"none-0-{n}-*")), folded=False) for n in (1, 2))
    told = Pretraining(run, tiny_cohort, train=False).losses
    for number, adapted in enumerate((one, two), start=1):
        again = told(adapted.model.requires_grad_(True))
        assert again == {term: rows[number][0] for term, rows in made.ways[0].pretraining.items()}
    assert two.run.adapter["forgetting"]["before"] == one.run.adapter["forgetting"]["after"]


def test_a_probe_forgets_nothing(run: Run, tmp_path: Path) -> None:
    made = continual(run, ["finding", "survival"], "probe", seeds=(0,), into=tmp_path, draws=50)
    (way,) = made.ways
    rows = np.array(way.each[0])
    assert rows == pytest.approx(np.tile(rows[:1], (3, 1)))
    assert (way.measures["forgetting"].value, way.measures["backward_transfer"].value) == (0, 0)
    for name, (before, *after) in way.pretraining.items():
        assert all(row == pytest.approx(before, rel=1e-5) for row in after), name
    assert "No forgetting is shown" in sentence(way)


def test_adapters_go_through_a_sequence(run: Run, tmp_path: Path) -> None:
    made = continual(run, ["finding", "survival"], "lora", labels=6, seeds=(0,), steps=2, into=tmp_path, draws=50)
    assert np.isfinite(np.array(made.ways[0].each)).all()
    assert made.labels == 6


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"tasks": ["finding"]}, "a sequence of 1 task"),
    ({"tasks": ["finding", "finding"]}, "the task 'finding' twice"),
    ({"tasks": ["finding", "note"]}, "no task 'note'"),
    ({"seeds": ()}, "0 seeds"),
    ({"seeds": (1, 1)}, "the seed 1 twice"),
    ({"method": "scratch"}, "a sequence by scratch"),
    ({"method": "prototype"}, "a sequence by prototype"),
    ({"method": "lora", "protect": ["ewc"]}, "the protection 'ewc' of lora"),
    ({"protect": ["sleep"]}, "no protection 'sleep'"),
    ({"protect": ["ewc=much"]}, "the protection 'ewc=much'"),
    ({"protect": ["interpolate=2"]}, "the protection 'interpolate=2'"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "found"), REFUSED)
def test_what_cannot_be_is_refused_before_anything_is_learned(
    asked: dict[str, Any], found: str, run: Run, tmp_path: Path
) -> None:
    wanted: dict[str, Any] = {"tasks": ["finding", "survival"], "into": tmp_path, **asked}
    with pytest.raises(EvidenceError) as caught:
        continual(run, **wanted)
    assert found in caught.value.found
    assert caught.value.expected
    assert not list(tmp_path.iterdir())


def test_a_protection_is_fields_of_full() -> None:
    told = (Full(lr=1e-3),)
    assert protected(told, "none") is told
    (made,) = protected(told, "replay+ewc=7")
    assert (made.lr, made.replay, made.ewc, made.distil) == (1e-3, 1.0, 7.0, 0.0)
    assert protected((Lora(),), "none") == (Lora(),)


def test_sentences_say_what_intervals_show() -> None:
    from polyclinic.trust.comparisons.continual_figures import Way

    figure = lambda value, low, high: Figure("f", value, low, high, 50, "s")
    even, gone, back = figure(0.01, -0.02, 0.04), figure(0.1, 0.05, 0.2), figure(-0.1, -0.2, -0.05)
    way = lambda forgot, over=None: Way("w", (), (), {"forgetting": forgot, "average": even}, over or {}, {})
    assert "No forgetting is shown" in sentence(way(even))
    assert "were forgotten" in sentence(way(gone))
    assert "got better" in sentence(way(back))
    over = {"forgetting": back, "learned": back, "average": even}
    told = against(way(even, over), way(even))
    assert "forgetting is better by −0.100" in told
    assert "average when just learned is worse by −0.100" in told
    assert "average after all" not in told
    assert "no difference is shown" in against(way(even, dict.fromkeys(over, even)), way(even))
