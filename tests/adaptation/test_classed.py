"""Which of several classes, from end to end: a table of made-up patients, and folds of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from polyclinic.adaptation import AdaptError, adapt, open_adapted
from polyclinic.cohort import Cohort, ingest
from polyclinic.inference import predict, predict_files
from polyclinic.tasks import ClassesTask
from polyclinic.training import Run, pretrain
from polyclinic.trust import card, evaluate

RECIPE = """
name: classed
cohort: {split: {by: fold, column: part, tests: [held]}}
encoders: {table: {kind: events, width: 16, depth: 1, heads: 2, fewest: 2, exclude: [part]}}
model: {kind: two_tower, width: 16, embedding: 16, fusion: {kind: early, depth: 1, heads: 2}}
tasks:
  ward: {kind: classes, column: ward, classes: [[medicine], [surgery, theatre], [eyes], [skin]], top: 2}
stages: [{name: first, steps: 4, batch: 8, lr: 1.0e-3, warmup: 1, objective: {kind: masked, modalities: [table], ratio: 0.5}}]
precision: fp32
"""
HEAD = "patient_id,size_mm,marker,noise,ward,part"


def row_of(number: int, random: np.random.Generator) -> str:
    kind = int(random.choice(3, p=[0.6, 0.3, 0.1]))
    ward = ("medicine", "surgery" if number % 2 else "theatre", "eyes")[kind]
    size, marker = random.normal() + 3 * (kind == 1), random.normal() + 3 * (kind == 2)
    said, part = "" if number % 10 == 0 else ward, "held" if number % 3 == 0 else "dev" if number % 11 == 0 else "own"
    return f"P{number:03d},{size:.2f},{marker:.2f},{random.normal():.2f},{said},{part}"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder, random = tmp_path_factory.mktemp("classed"), np.random.default_rng(0)
    (folder / "wards.csv").write_text("\n".join([HEAD, *(row_of(n, random) for n in range(180))]))
    return ingest(folder, tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def run(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("runs")
    (place / "classed.yaml").write_text(RECIPE)
    return pretrain(place / "classed.yaml", cohort, into=place)


def test_the_part_that_somebody_else_made_is_what_tests(run: Run) -> None:
    assert run.split.test == tuple(f"P{n:03d}" for n in range(0, 180, 3))


@pytest.mark.parametrize("method", ["probe", {"kind": "probe", "penalty": "directions"}, "lora"])
def test_it_is_learned_and_measured_with_intervals(run: Run, cohort: Cohort, method: object, tmp_path: Path) -> None:
    adapted = adapt(run, "ward", method, steps=6, into=tmp_path / "it")  # type: ignore[arg-type]
    found, answers = evaluate(adapted, cohort, draws=200), predict(adapted, cohort)
    np.testing.assert_allclose(answers.outputs.sum(1), 1, atol=1e-5)
    assert answers.outputs[:, 3].max() < 1e-6, "nobody was on that ward"
    task = open_adapted(adapted).task
    assert isinstance(task, ClassesTask)
    score = task.score(answers)
    assert {name: found.figure(name).value for name in score} == {
        name: pytest.approx(value) for name, value in score.items()
    }
    names = [
        "accuracy",
        "macro_f1",
        "top_2_accuracy",
        "macro_auroc",
        *(f"auroc_{n}" for n in ("medicine", "surgery", "eyes", "skin")),
    ]
    assert [f.name for f in found.figures] == names
    assert found.figure("accuracy").n == int(answers.mask.sum()) == 54  # a blank cell is no ward
    assert found.figure("macro_auroc").low > 0.7, "two columns tell the ward"
    assert "not defined" in found.figure("auroc_skin").note
    assert "accuracy" in card(adapted, cohort, [found])


def test_a_file_is_answered(run: Run, cohort: Cohort, tmp_path: Path) -> None:
    adapted = adapt(run, "ward", "probe", into=tmp_path / "probe")
    (tmp_path / "one.csv").write_text("patient_id,size_mm,marker,noise\nP900,0.1,4.0,0.2\n")
    answer = predict_files(adapted, [tmp_path / "one.csv"])
    assert answer.values["class"] in ("medicine", "eyes")
    assert answer.headline.startswith("ward: ")
    assert sum(v for k, v in answer.values.items() if k.startswith("probability")) == pytest.approx(1, abs=1e-3)  # type: ignore[misc]


def test_one_class_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(AdaptError, match="1 labelled patients of one class of 'ward'"):
        adapt(run, "ward", "probe", labels=1, into=tmp_path / "one")
    with pytest.raises(AdaptError, match="zero_shot on a model that reads no text"):
        adapt(run, "ward", "zero_shot")


def test_a_run_of_which_some_were_left_out_goes_on(cohort: Cohort, tmp_path: Path) -> None:
    """Who neither trains nor tests is of the cohort all the same."""
    (tmp_path / "left.yaml").write_text(
        RECIPE.replace("tests: [held]", "tests: [held], leave: [dev]").replace("classed", "left")
    )
    first = pretrain(tmp_path / "left.yaml", cohort, into=tmp_path)
    assert len(first.split.train) + len(first.split.test) < 180
    assert pretrain(tmp_path / "left.yaml", cohort, into=tmp_path).split == first.split
