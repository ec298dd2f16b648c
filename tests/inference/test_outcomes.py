"""Which of two events comes first and when, from visits along a patient's timeline: adapted, asked at landmarks, and examined."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from polyclinic.adaptation import AdaptError, adapt, open_adapted
from polyclinic.clinic import Desk
from polyclinic.cohort import Cohort, ingest
from polyclinic.inference import answer_cohort, predict, predict_files
from polyclinic.records import RecordError
from polyclinic.tasks import Hazards, HazardsTask, Incidence, TaskError
from polyclinic.training import Run, pretrain
from polyclinic.trust import Evidence, compare, evaluate

RECIPE = """
name: outcomes
cohort: {split: {by: patient, test: 0.4, seed: 0}}
encoders: {table: {kind: events, width: 16, depth: 1, heads: 2, fewest: 2}}
model: {kind: two_tower, width: 16, embedding: 16, fusion: {kind: early, depth: 1, heads: 2}}
tasks:
  outcome:
    {kind: hazards, time: months, event: cause, events: {disease: [cancer], other: [heart]}, censored: [alive], horizons: [6, 12],
     intervals: 4, landmarks: [0, 6]}
  late: {kind: hazards, time: months, event: cause, events: {disease: [cancer]}, landmarks: [0, 900]}
stages: [{name: first, steps: 4, batch: 8, lr: 1.0e-3, warmup: 1, objective: {kind: masked, modalities: [table], ratio: 0.5}}]
precision: fp32
"""
BEGIN = date(2020, 1, 1)


def written(folder: Path, patients: int = 160) -> None:
    """A marker that tells how soon the disease comes; what it is after six months tells more. Later visits tell all: they name the end."""
    draws, visits, ends = np.random.default_rng(0), ["patient_id,date,marker,oracle"], ["patient_id,months,cause"]
    for number in range(patients):
        level = draws.normal()
        hazards = np.array([0.03 * np.exp(1.2 * level), 0.02])
        came, until = draws.exponential(1 / hazards), draws.uniform(8, 60)
        months = min(came.min(), until)
        cause = ("cancer", "heart")[came.argmin()] if came.min() <= until else "alive"
        ends.append(f"P{number:03d},{months:.2f},{cause}")
        for month in (0, 5, 12):
            marker, oracle = 5 + 2 * level + draws.normal(), "none" if month <= 6 else f"died of {cause}"
            day = BEGIN + timedelta(days=30 * month + number)
            visits.append(f"P{number:03d},{day},{marker:.2f},{oracle}")
    (folder / "visits.csv").write_text("\n".join(visits))
    (folder / "ends.csv").write_text("\n".join(ends))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder = tmp_path_factory.mktemp("outcomes")
    written(folder)
    return ingest(folder, tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def run(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("runs")
    (place / "outcomes.yaml").write_text(RECIPE)
    return pretrain(place / "outcomes.yaml", cohort, into=place)


@pytest.fixture(scope="module")
def adapted(run: Run, cohort: Cohort) -> Run:
    return adapt(run, "outcome", "probe", cohort=cohort)


def test_risks_and_the_chance_of_none_add_up_to_one_at_each_landmark(adapted: Run, cohort: Cohort) -> None:
    for landmark in (0.0, 6.0):
        told = predict(adapted, cohort, landmark=landmark)
        assert isinstance(told.baseline, Incidence)
        assert told.baseline.landmark == landmark
        assert told.outputs.shape[1:] == (2, 4)
        assert (told.outputs.sum(1) < 1).all()
        assert (np.diff(told.outputs, axis=2) > 0).all()
        known = told.labelled()
        assert (known.targets[:, 0] > 0).all()
        assert set(known.targets[:, 2]) == {[0.0, 6.0].index(landmark)}
    by_default = predict(adapted, cohort).baseline
    assert isinstance(by_default, Incidence)
    assert by_default.landmark == 0


def test_who_had_it_before_a_landmark_takes_no_part_there(adapted: Run, cohort: Cohort) -> None:
    first, later = (predict(adapted, cohort, landmark=at).labelled() for at in (0.0, 6.0))
    time = dict(zip(first.patients, first.targets[:, 0], strict=True))
    assert set(later.patients) == {p for p, t in time.items() if t > 6}
    for patient, target in zip(later.patients, later.targets, strict=True):
        assert target[0] == pytest.approx(time[patient] - 6, abs=1e-5)


def test_no_record_after_a_landmark_changes_an_answer_there(adapted: Run, cohort: Cohort, tmp_path: Path) -> None:
    """The same run asked of a cohort whose visits end at the landmark: the very same answers, from the very same records."""
    folder = tmp_path / "cut"
    folder.mkdir()
    written(folder)
    rows = (folder / "visits.csv").read_text().split("\n")
    (folder / "visits.csv").write_text("\n".join([rows[0], *(r for r in rows[1:] if r.endswith(",none"))]))
    cut = ingest(folder, tmp_path / "cohort")
    for landmark, visits in ((0.0, 1), (6.0, 2)):
        whole, less = (predict(adapted, c, landmark=landmark) for c in (cohort, cut))
        assert whole.patients == less.patients
        np.testing.assert_array_equal(whole.outputs, less.outputs)
        assert {len(ids) for ids in whole.records} == {visits}
    assert not np.array_equal(
        predict(adapted, cohort, landmark=0).outputs, predict(adapted, cohort, landmark=6).outputs
    )


def test_answers_of_a_catalogue_are_those_at_the_landmark(adapted: Run, cohort: Cohort, tmp_path: Path) -> None:
    told = predict(adapted, cohort, landmark=6)
    assert isinstance(told.baseline, Incidence)
    who = told.patients[:3]
    place = answer_cohort(adapted, cohort, patients=who, into=tmp_path, landmark=6)
    rows = pq.read_table(place / "answers-00000.parquet").to_pylist()
    assert [row["patient"] for row in rows] == sorted(who)
    outputs = dict(zip(told.patients, told.outputs, strict=True))
    risks = dict(zip(told.patients, told.baseline.risk(told.outputs, np.array([12.0])), strict=True))
    for row in rows:
        mine = risks[row["patient"]]
        np.testing.assert_allclose(row["outputs"], outputs[row["patient"]].ravel(), atol=1e-6)
        assert float(dict(row["values"])["risk_of_disease_at_12_months"]) == pytest.approx(mine[0, 0], abs=1e-3)
        assert "still at risk at 6 months" in row["headline"]
        assert len(row["records"]) == 2


def test_a_person_gives_files_of_until_then(adapted: Run, tmp_path: Path) -> None:
    now, later = tmp_path / "now.csv", tmp_path / "later.csv"
    now.write_text("patient_id,date,marker\nQ1,2021-01-01,9.0\nQ1,2021-05-01,8.0\n")
    later.write_text("patient_id,date,marker\nQ1,2021-12-01,9.0\n")
    ready = open_adapted(adapted)
    answer = predict_files(ready.at(6), [now])
    assert answer.headline.startswith("of one still at risk at 6 months")
    assert "risk_of_other_at_6_months" in answer.values
    with pytest.raises(RecordError, match="dated after the landmark of 6 months"):
        predict_files(ready.at(6), [now, later])
    with pytest.raises(RecordError, match="dated after the landmark of 0 months"):
        predict_files(ready, [now])
    with pytest.raises(TaskError, match="one of 0, 6 months"):
        ready.at(3)


def test_the_evidence_has_each_event_at_each_landmark(adapted: Run, cohort: Cohort) -> None:
    found = evaluate(adapted, cohort, draws=60)
    named = {f.name: f for f in found.figures}
    first, later = (predict(adapted, cohort, landmark=at).labelled() for at in (0.0, 6.0))
    assert found.figures[0].name == "macro_concordance"
    assert named["disease: concordance"].value > 0.6  # the marker tells
    assert named["from 6 months, disease: concordance"].n == len(later.patients) < len(first.patients)
    assert f"{len(later.patients)} at risk at 6 months" in named["from 6 months, disease: brier_at_12_months"].note
    assert named["disease: brier_explained_to_12_months"].value > 0
    assert {(r.event, r.landmark) for r in found.risks} == {(e, a) for e in ("disease", "other") for a in (0.0, 6.0)}
    again = Evidence.open(adapted.path)
    assert again.risks == found.risks
    card = (adapted.path / "card.md").read_text()
    assert "predicted risk of disease by 12 months from 6 months on" in card
    assert "observed (Aalen–Johansen, 95% interval)" in card
    desk = Desk(adapted, landmark=6)
    assert desk.measured is not None
    assert desk.measured.figures[0] == replace(named["from 6 months, macro_concordance"], name="macro_concordance")


def test_a_head_travels_in_its_file(adapted: Run) -> None:
    task = open_adapted(adapted.path).task
    assert isinstance(task, HazardsTask)
    assert isinstance(task.spec, Hazards)
    reads = task.at(6).incidence()
    assert reads.until > 0
    assert reads.horizons.tolist() == [6, 12]
    assert (reads.null(np.array([12.0])) > 0).all()


def test_a_landmark_at_which_nobody_is_left_is_refused(run: Run, cohort: Cohort, adapted: Run) -> None:
    with pytest.raises(AdaptError, match="still at risk at the landmark of 900 months"):
        adapt(run, "late", "probe", cohort=cohort)


def test_a_backbone_learns_at_every_landmark(run: Run, cohort: Cohort, tmp_path: Path) -> None:
    """Fine-tuning takes the landmarks in turn; what it learns differs from the probe's, and repeats to the bit."""
    places = [adapt(run, "outcome", "lora", cohort=cohort, steps=4, into=tmp_path / name) for name in "ab"]
    first, again = (predict(place, cohort, landmark=6) for place in places)
    np.testing.assert_array_equal(first.outputs, again.outputs)
    probed = predict(adapt(run, "outcome", "probe", cohort=cohort, into=tmp_path / "c"), cohort, landmark=6)
    assert not np.allclose(first.outputs, probed.outputs, atol=1e-6)
    assert np.isfinite(first.outputs).all()


def test_it_is_compared_with_cox_and_with_nobody_s_risk_from_what_was_known_then(run: Run, cohort: Cohort) -> None:
    found = compare(
        run, cohort, tasks=["outcome"], counts={"outcome": [None]}, arms=("probe", "baseline", "null"), draws=100
    )
    assert not found.skipped
    rows = {r.arm: r for r in found.rows}
    assert len({(r.figure.name, r.figure.n) for r in found.rows}) == 1
    # The marker tells something of one of two events; what later visits name would tell all.
    assert 0.52 < rows["baseline"].figure.value < 0.8
    assert rows["null"].figure.value == pytest.approx(0.5)
    assert rows["probe"].over_baseline is not None
