"""Labels of several tasks in a stage: who is labelled teaches, whoever tests does not."""

from __future__ import annotations

import csv
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyclinic.cohort import Cohort, ingest
from polyclinic.schema import Modality
from polyclinic.training import Recipe, RecipeError, Run, pretrain
from polyclinic.training.loop import _Training
from polyclinic.training.ranks import Ranks, fabric_for

PATIENTS = 40
RECIPE = """
name: multitask
cohort: {split: {by: patient, test: 0.3, seed: 0}}
encoders: {table: {kind: events, width: 16, depth: 1, heads: 2, fewest: 2}}
model: {kind: two_tower, width: 16, embedding: 16, fusion: {kind: intermediate, depth: 1, heads: 2}}
tasks:
  ill: {kind: classification, column: ill, positive: ["Y"], negative: ["N"]}
  old: {kind: classification, column: old, positive: ["Y"], negative: ["N"]}
  death: {kind: survival, time: months, event: dead, event_value: "1"}
stages:
  - {name: together, steps: 60, batch: 12, warmup: 2, lr: 5.0e-3, objective: {kind: hybrid, parts: [
      {kind: masked, modalities: [table], width: 16}, {kind: supervised, tasks: [ill, old, death]}]}}
precision: fp32
"""


def rows(flipped: Collection[str] = ()) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What is measured, and what is known of whom: of every other patient one finding, of every third the other, of each four months."""
    draws = np.random.default_rng(0)
    measured, told = [], []
    for number in range(PATIENTS):
        name, x, y = f"P{number:03d}", draws.normal(), draws.normal()
        measured.append({"patient_id": name, "x": round(x, 3), "y": round(y, 3)})
        turn = name in flipped
        told.append({
            "patient_id": name,
            "ill": "" if number % 2 else "NY"[(x > 0) != turn],
            "old": "" if number % 3 else "NY"[(y > 0) != turn],
            "months": "" if number % 4 == 3 else round(float(np.exp(-x)) + (50 if turn else 0), 2),
            "dead": "" if number % 4 == 3 else int(number % 5 > 0),
        })  # fmt: skip
    return measured, told


def cohort(at: Path, flipped: Collection[str] = ()) -> Cohort:
    (at / "files").mkdir(parents=True)
    for name, table in zip(("measured", "told"), rows(flipped), strict=True):
        with (at / f"files/{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, table[0])
            writer.writeheader()
            writer.writerows(table)
    return ingest(at / "files", at / "cohort")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "multitask.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def learned(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    at = tmp_path_factory.mktemp("learned")
    return pretrain(recipe, cohort(at), into=at / "runs")


def weights(run: Run) -> bytes:
    return run.weights.read_bytes() + run.weights.with_name("objective.safetensors").read_bytes()


def test_every_task_is_learned_beside_the_masks(learned: Run) -> None:
    found: dict[str, list[float]] = {}
    for row in learned.metrics().to_pylist():
        found.setdefault(row["name"], []).append(row["value"])
    assert found.keys() >= {"loss", "masked/table", "supervised/ill", "supervised/old", "supervised/death"}
    for name in ("supervised/ill", "supervised/old"):
        assert np.mean(found[name][:10]) > np.mean(found[name][-10:]) + 0.2
    assert np.mean(found["supervised/death"][:10]) > np.mean(found["supervised/death"][-10:])


def test_labels_of_test_patients_have_no_influence(learned: Run, recipe: Path, tmp_path: Path) -> None:
    """All of them turned round: the same bits. Those of one training patient turned round: others."""
    test, train = learned.split.test, learned.split.train
    assert any(int(p[1:]) % 2 == 0 for p in test)
    turned = pretrain(recipe, cohort(tmp_path / "test", test), into=tmp_path / "test/runs")
    assert turned.split.test == test
    assert weights(turned) == weights(learned)
    one = [next(p for p in train if int(p[1:]) % 6 == 0)]
    assert weights(pretrain(recipe, cohort(tmp_path / "train", one), into=tmp_path / "train/runs")) != weights(learned)


def test_the_loader_knows_whoever_is_labelled_and_trains(learned: Run, recipe: Path) -> None:
    training = _Training(learned, learned.cohort(), Ranks(fabric_for("fp32", "auto")), lambda: False, None, 60.0, False)
    loader = training._loader(learned.recipe.stages[0])
    number = {p: int(p[1:]) for p in learned.split.train}
    assert set(loader.answers["ill"]) == {p for p, n in number.items() if n % 2 == 0}
    assert set(loader.answers["old"]) == {p for p, n in number.items() if n % 3 == 0}
    assert set(loader.answers["death"]) == {p for p, n in number.items() if n % 4 != 3}
    (few,) = Recipe.load(recipe, ["stages.0.objective={kind: supervised, tasks: [ill, old, death], labels: 3}"]).stages
    assert {task: len(known) for task, known in training._loader(few).answers.items()} == {
        "ill": 3,
        "old": 3,
        "death": 3,
    }


@pytest.mark.parametrize(("change", "found"), [
    ("stages.0.objective={kind: supervised, tasks: [ild]}", "no classification, classes, findings, grade or survival 'ild'"),
    ("stages.0.objective={kind: supervised, tasks: []}", "at least 1 item"),
    ("stages.0.objective={kind: question, tasks: [ill]}", "names text, which has no encoder"),
    ("stages.0.accumulate=2", "the survival 'death' compares patients of one whole batch"),
])  # fmt: skip
def test_what_cannot_be_taught_is_refused(change: str, found: str, recipe: Path) -> None:
    with pytest.raises(RecipeError, match=found):
        Recipe.load(recipe, [change])


def test_hazards_teach_no_stage(recipe: Path) -> None:
    told = "tasks.first={kind: hazards, time: months, event: dead, events: {death: ['1']}}"
    with pytest.raises(RecipeError, match=r"grade or survival 'first' \(there are ill, old, death\)"):
        Recipe.load(recipe, [told, "stages.0.objective={kind: supervised, tasks: [first]}"])


@pytest.mark.parametrize("fusion", ["{kind: late}", "{kind: intermediate, style: perceiver}"])
def test_a_question_needs_tokens_that_hear_each_other(fusion: str, recipe: Path) -> None:
    changes = [
        f"encoders.{Modality.TEXT}={{kind: bert, width: 16, depth: 1, heads: 2}}",
        "stages.0.objective={kind: question, tasks: [ill]}", f"model.fusion={fusion}",
    ]  # fmt: skip
    with pytest.raises(RecipeError, match="no token hears another"):
        Recipe.load(recipe, changes)
    stage = "tasks.stage={kind: grade, column: stage, grades: [['1'], ['2']]}"
    with pytest.raises(RecipeError, match=r"no classification, survival or findings 'stage' .*`supervised` takes it"):
        Recipe.load(recipe, [changes[0], stage, changes[1].replace("ill", "stage")])
    assert Recipe.load(recipe, changes[:2]).tasks["ill"].asked() == ("Is there ill?",)  # type: ignore[union-attr]
