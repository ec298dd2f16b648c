"""A column that gives the answer away: it is named, it can be left out, and what is left out is read by no one."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from polyclinic.adaptation import adapt, open_adapted
from polyclinic.cohort import Cohort, ingest
from polyclinic.cohort.labels import LabelError
from polyclinic.inference import predict
from polyclinic.training import Run, pretrain
from polyclinic.trust import Evidence, card, evaluate

RECIPE = """
name: given
cohort: {split: {by: patient, test: 0.3, seed: 0, stratify: stage}}
encoders: {table: {kind: events, width: 16, depth: 1, heads: 2, fewest: 2}}
model: {kind: two_tower, width: 16, embedding: 16, fusion: {kind: early, depth: 1, heads: 2}}
tasks:
  ill: {kind: classification, column: ill, positive: ["yes"]}
  stage: {kind: grade, column: stage, grades: [[low], [middle], [high]]}
stages: [{name: first, steps: 4, batch: 8, lr: 1.0e-3, warmup: 1, objective: {kind: masked, modalities: [table], ratio: 0.5}}]
precision: fp32
"""


def rows(code: bool = True) -> str:
    random = np.random.default_rng(0)
    lines = ["patient_id,marker,billed,noise,ill,stage"]
    for n in range(90):
        ill = n % 2
        billed = f"{(4 * ill if code else 2) + random.normal(0, 0.2):.2f}"
        stage = ("low", "middle", "high")[n % 3]
        lines.append(
            f"P{n:03},{random.normal(ill):.2f},{billed},{random.normal():.2f},{'yes' if ill else 'no'},{stage}"
        )
    return "\n".join(lines)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder = tmp_path_factory.mktemp("given")
    (folder / "visits.csv").write_text(rows())
    return ingest(folder, tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def run(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("runs")
    (place / "given.yaml").write_text(RECIPE)
    return pretrain(place / "given.yaml", cohort, into=place)


def test_it_is_named_with_figure_and_n_and_what_to_do(
    run: Run, cohort: Cohort, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "polyclinic.adaptation"):
        made = adapt(run, "ill", "probe", cohort=cohort)
    (one,) = made.adapter["giveaways"]
    labels = made.adapter["labels"]
    assert (one["kind"], one["name"], one["n"]) == ("column", "billed", labels)
    assert one["right"] > 0.99
    assert one["low"] > 0.5
    (warned,) = [r.getMessage() for r in caplog.records]
    assert "'billed'" in warned
    assert "leave it out" in warned
    assert f"n = {labels}" in warned
    assert "P0" not in warned  # nobody's name, nobody's cell
    found = evaluate(made, cohort, draws=50)
    assert found.giveaways == (one["told"],)
    assert "billed" in card(made, cohort, [found])
    assert "billed" in str(found)
    assert Evidence.open(made.path).giveaways == found.giveaways


def test_what_is_left_out_decides_nothing_and_is_no_warning(run: Run, cohort: Cohort, tmp_path: Path) -> None:
    made = adapt(run, "ill", "probe", cohort=cohort, leave_out=["billed"])
    assert made.adapter["leave_out"] == ["billed"]
    assert made.adapter["giveaways"] == []
    assert made.path.name.endswith("-without-billed")
    (tmp_path / "visits").mkdir()
    (tmp_path / "visits/visits.csv").write_text(rows(code=False))
    other = ingest(tmp_path / "visits", tmp_path / "cohort")
    again = Run.open(made.path)
    assert np.array_equal(predict(again, cohort).outputs, predict(again, other).outputs)  # whatever was billed
    reads_it = adapt(run, "ill", "probe", cohort=cohort)
    assert not np.array_equal(predict(reads_it, cohort).outputs, predict(reads_it, other).outputs)
    assert "billed" in open_adapted(made).run.recipe.excluded()
    assert "billed" not in run.recipe.excluded()


def test_a_column_that_is_not_there_cannot_be_left_out(run: Run, cohort: Cohort) -> None:
    with pytest.raises(LabelError, match="did you mean 'billed'"):
        adapt(run, "ill", "probe", cohort=cohort, leave_out=["biled"])


def test_the_adapters_file_has_no_cell_of_a_patient(run: Run, cohort: Cohort) -> None:
    made = adapt(run, "ill", "probe", cohort=cohort)
    told = json.dumps(json.loads((made.path / "adapter.json").read_text())["giveaways"])
    assert not any(line.split(",")[2] in told for line in rows().splitlines()[1:])


def test_the_split_deals_the_grades_evenly(run: Run, cohort: Cohort) -> None:
    stage = {r.patient: r.attributes["stage"] for r in cohort.records()}
    for side, wanted in ((run.split.train, 63), (run.split.test, 27)):
        counts = [sum(stage[p] == grade for p in side) for grade in ("low", "middle", "high")]
        assert max(counts) - min(counts) <= 1
        assert abs(sum(counts) - wanted) <= 2
