"""What pretraining taught of classes, grades and findings is answered without adapting: pretrain → ask → evaluate."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

import polyclinic as pc
from polyclinic.adaptation import AdaptError
from polyclinic.cli import app
from polyclinic.cohort import Cohort, ingest
from polyclinic.inference import taught
from polyclinic.inference.ask import as_table, labels_seen
from polyclinic.objectives import SupervisedObjective
from polyclinic.objectives.outcomes import log_probabilities
from polyclinic.tasks import LinearTask, Predictions
from polyclinic.training import Recipe, Run, pretrain
from polyclinic.trust import evaluate

RECIPE = """
name: several
cohort: {split: {by: patient, test: 0.4, seed: 0}}
encoders: {table: {kind: events, width: 16, depth: 1, heads: 2, fewest: 2}}
model: {kind: two_tower, width: 16, embedding: 16, fusion: {kind: early, depth: 1, heads: 2}}
tasks:
  stage: {kind: grade, column: stage, grades: [[I], [II], [III]]}
  ward: {kind: classes, column: ward, classes: [[medicine], [surgery], [eyes]], balance: 0.5}
  signs: {kind: findings, findings: {large: {column: large, positive: [Y], negative: [N]}, grown: {column: grown, positive: ["1"]}}}
stages:
  - name: together
    steps: 120
    batch: 24
    lr: 5.0e-3
    warmup: 4
    objective: {kind: supervised, tasks: [stage, ward, signs]}
precision: fp32
"""


def row_of(number: int, random: np.random.Generator) -> str:
    """Two columns tell the stage and the signs, one the ward; a tenth of each is not known."""
    severity, size = random.normal(), random.normal()
    stage = ("I", "II", "III")[int(np.searchsorted([-0.3, 0.8], severity))]
    ward = ("medicine", "surgery", "eyes")[int(np.searchsorted([0.3, 1.2], size))]
    unless = lambda turn, said: "" if number % 10 == turn else said
    told = (unless(0, stage), unless(1, ward), unless(2, "NY"[severity > 0.5]), unless(3, "01"[size > 0]))
    return f"P{number:03d},{20 + 6 * severity:.2f},{5 + 2 * size:.2f},{','.join(told)}"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder, random = tmp_path_factory.mktemp("several"), np.random.default_rng(0)
    head = "patient_id,size_mm,marker,stage,ward,large,grown"
    (folder / "tumours.csv").write_text("\n".join([head, *(row_of(n, random) for n in range(160))]))
    return ingest(folder, tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def run(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("runs")
    (place / "several.yaml").write_text(RECIPE)
    return pretrain(place / "several.yaml", cohort, into=place)


@pytest.fixture(scope="module")
def found(run: Run, cohort: Cohort) -> dict[str, Predictions]:
    return {task: pc.ask(run, task, cohort=cohort) for task in run.recipe.tasks}


def test_each_is_learned_and_answered(run: Run, found: dict[str, Predictions]) -> None:
    assert taught(run) == dict.fromkeys(("stage", "ward", "signs"), "supervised")
    least = {"stage": ("quadratic_kappa", 0.5), "ward": ("macro_auroc", 0.8), "signs": ("macro_auroc", 0.85)}
    for task, (metric, wanted) in least.items():
        answers, head = found[task], run.recipe.tasks[task].build(task, run.model())
        assert isinstance(head, LinearTask)
        assert head.score(answers)[metric] > wanted, task
        assert ((answers.outputs >= 0) & (answers.outputs <= 1)).all()
        if task != "signs":
            np.testing.assert_allclose(answers.outputs.sum(1), 1, atol=1e-5)


def test_how_common_each_is_is_given_back(run: Run, cohort: Cohort, found: dict[str, Predictions]) -> None:
    """The losses weigh the classes alike: Bayes's rule, by the shares of the training patients."""
    model = run.model()
    heads = run.objective(model)
    assert isinstance(heads, SupervisedObjective)
    seen = {task: np.array(list(labels_seen(run, cohort, task).values())) for task in found}
    for task, turn in (("stage", 0), ("ward", 1), ("signs", None)):
        assert len(seen[task]) == sum(int(p[1:]) % 10 != turn for p in run.split.train)
    shares = {task: np.bincount(seen[task], minlength=3) / len(seen[task]) for task in ("stage", "ward")}
    large, grown = np.nanmean(seen["signs"], 0)
    with torch.no_grad():
        (batch,) = run.loader(cohort, run.split.test, ("stage",)).each(200)
        pooled = model(batch).pooled
        told = {task: heads.told(task, pooled).double().numpy() for task in found}
    at = [batch.patients.index(p) for p in found["stage"].patients]
    wanted = {
        "stage": np.exp(log_probabilities(torch.from_numpy(told["stage"])).numpy()) * shares["stage"],
        "ward": np.exp(told["ward"]) * shares["ward"],
        "signs": 1 / (1 + np.exp(-told["signs"]) * [(1 - large) / large, (1 - grown) / grown]),
    }
    for task, each in wanted.items():
        each = each if task == "signs" else each / each.sum(1, keepdims=True)
        np.testing.assert_allclose(found[task].outputs, each[at], atol=1e-5)


def test_they_are_measured_as_an_adapted_run_s_are(run: Run, cohort: Cohort, found: dict[str, Predictions]) -> None:
    evidence = evaluate(run, cohort, draws=100)
    for task, name in (("stage", "quadratic_kappa"), ("ward", "accuracy"), ("signs", "macro_f1")):
        one = evidence.of(task)
        assert (one.method, one.labels) == ("supervised", len(labels_seen(run, cohort, task)))
        head = run.recipe.tasks[task].build(task, run.model())
        assert isinstance(head, LinearTask)
        assert one.figure(name).value == pytest.approx(head.score(found[task])[name])
        assert one.figure(name).low <= one.figure(name).value <= one.figure(name).high


def test_several_answers_stand_in_a_table(run: Run, found: dict[str, Predictions]) -> None:
    for task, answers in found.items():
        table = as_table(run, answers)
        rows = table.to_pylist()
        np.testing.assert_allclose([row["output"] for row in rows], answers.outputs)
        names = run.recipe.tasks[task].names()  # type: ignore[union-attr]
        assert (table.schema.metadata or {})[b"names"].decode() == ", ".join(names)
        for row, truth, known in zip(rows, answers.targets, answers.mask, strict=True):
            if task == "signs":
                assert row["truth"] == [None if np.isnan(v) or not known else v for v in truth]
            else:
                assert row["truth"] == (truth if known else None)


def test_what_is_no_question_is_refused(run: Run, cohort: Cohort) -> None:
    with pytest.raises(AdaptError, match="a question of 'stage', 3 grade") as refused:
        pc.ask(run, "stage", "Which stage?", cohort=cohort)
    assert "polyclinic adapt" in refused.value.remedy
    with pytest.raises(AdaptError, match="a question of 'signs', 2 findings") as refused:
        pc.ask(run, "signs", "Is it large?", cohort=cohort)
    assert refused.value.remedy == "leave the question out: each finding is asked its own"


def test_findings_are_each_asked_in_words(tiny_cohort: Cohort, tiny_recipe: Path, tmp_path: Path) -> None:
    """By the question that the recipe has of it, as a classification of the same words is answered."""
    recipe = yaml.safe_load(tiny_recipe.read_text())
    recipe["encoders"] = {m: recipe["encoders"][m] for m in ("image", "text")}
    covid = {"column": "finding", "positive": ["COVID-19"]}
    recipe["tasks"] = {
        "signs": {"kind": "findings", "findings": {
            "covid": {**covid, "questions": ["Is there COVID-19?"]}, "icu": {"column": "went_icu", "positive": ["Y"], "negative": ["N"]},
        }},
        "finding": {"kind": "classification", **covid, "questions": ["Is there COVID-19?"]},
    }  # fmt: skip
    parts = [{"kind": "question", "tasks": ["signs"]}]
    recipe["stages"] = [{"name": "asked", "steps": 6, "batch": 12, "objective": {"kind": "hybrid", "parts": parts}}]
    run = pretrain(Recipe.model_validate(recipe | {"name": "asked"}), tiny_cohort, into=tmp_path)
    assert taught(run) == {"signs": "question", "finding": "question"}
    terms = {row["name"] for row in run.metrics().to_pylist()}
    assert terms >= {"question/signs/covid", "question/signs/icu"}
    answers, alone = (pc.ask(run, task, cohort=tiny_cohort) for task in ("signs", "finding"))
    assert answers.outputs.shape == (len(answers.patients), 2)
    np.testing.assert_allclose(answers.outputs[:, 0], alone.outputs, atol=1e-5)
    assert np.isnan(answers.targets).any(), "of some nobody knows whether they went to intensive care"
    evidence = evaluate(run, tiny_cohort, draws=50)
    assert {f.name for f in evidence.of("signs").figures} >= {"macro_auroc", "auroc_covid", "f1_icu"}
    assert (evidence.of("signs").labels, evidence.of("finding").labels) == (
        len(labels_seen(run, tiny_cohort, "signs")),
        0,
    )


def test_the_command_tells_each_by_its_name(run: Run, found: dict[str, Predictions]) -> None:
    ask = lambda task, *more: CliRunner().invoke(
        app, ["ask", str(run.path), "--task", task, *more], env={"COLUMNS": "200"}
    )
    shown = ask("ward")
    assert shown.exit_code == 0, shown.output
    first = next(line for line in shown.output.splitlines() if "P000" in line)
    for name, share in zip(("medicine", "surgery", "eyes"), found["ward"].outputs[0], strict=True):
        assert f"{name} {share:.3f}" in first
    told = json.loads(ask("signs", "--json").stdout)["answers"]
    np.testing.assert_allclose([row["output"] for row in told], found["signs"].outputs)
    assert "not known" in ask("stage").output
    assert "large, grown" in ask("signs").output
