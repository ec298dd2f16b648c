"""What pretraining taught is answered without adapting: in words, or by a head."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import polyclinic as pc
from polyclinic.adaptation.adapt import AdaptError
from polyclinic.cohort import Cohort
from polyclinic.inference import taught
from polyclinic.inference.ask import as_table
from polyclinic.objectives import ObjectiveError, cox_loss
from polyclinic.schema import Modality
from polyclinic.training import Recipe, Run
from polyclinic.training.repeatable import generator
from polyclinic.training.run import file_hash


def test_what_a_run_was_taught(tiny_asked_run: Run, tiny_run: Run) -> None:
    """`icu` was asked of nobody, but its answer is of a kind that the run has."""
    assert taught(tiny_asked_run) == {"finding": "question", "survival": "supervised", "icu": "question"}
    assert taught(tiny_run) == {}


def test_a_head_answers_as_it_did_in_training(tiny_asked_run: Run, tiny_cohort: Cohort) -> None:
    run = tiny_asked_run
    found = pc.ask(run, "survival", cohort=tiny_cohort)
    model = run.model()
    heads = run.objective(model)
    batch = next(run.loader(tiny_cohort, run.split.test, ("survival",)).each(len(run.split.test)))
    with torch.no_grad():
        losses = heads(model, batch, generator(0))
    time, event = torch.from_numpy(found.targets[found.mask]).T
    again = cox_loss(torch.from_numpy(found.outputs[found.mask]), time, event)
    assert again is not None
    assert float(again) == pytest.approx(float(losses.terms["supervised/survival"]), abs=1e-5)
    assert np.ptp(found.outputs) > 0


def test_an_answer_knows_the_records_it_was_read_from(tiny_asked_run: Run, tiny_cohort: Cohort) -> None:
    found = pc.ask(tiny_asked_run, "finding", cohort=tiny_cohort, inputs=["image", "table"])
    records = {r.id: r for r in tiny_cohort.records()}
    for patient, ids, has in zip(found.patients, found.records, found.modalities, strict=True):
        assert {records[i].patient for i in ids} == {patient}
        assert {records[i].modality for i in ids} == set(has) <= {Modality.IMAGE, Modality.TABLE}
        images = [i for i, r in records.items() if r.patient == patient and r.modality is Modality.IMAGE]
        assert set(images) <= set(ids)
    some = found.where(np.arange(len(found.patients)) == 1)
    assert some.records == found.records[1:2]


def test_answers_as_a_table(tiny_asked_run: Run, tiny_cohort: Cohort) -> None:
    run = tiny_asked_run
    who = [run.split.test[0], *run.split.train]
    found = pc.ask(run, "finding", "Is there COVID-19?", cohort=tiny_cohort, patients=who)
    table = as_table(run, found)
    rows = table.to_pylist()
    assert {r["patient"]: r["side"] for r in rows} == {p: "test" if p == who[0] else "train" for p in found.patients}
    assert [r["truth"] for r in rows] == [t if k else None for t, k in zip(found.targets, found.mask, strict=True)]
    np.testing.assert_allclose([r["output"] for r in rows], found.outputs)
    told = {k.decode(): v.decode() for k, v in table.schema.metadata.items()}
    assert told["backbone"] == file_hash(run.weights)
    assert told["objective"] == file_hash(run.objective_weights)
    assert (told["task"], told["split"]) == ("finding", run.split.hash)
    survival = as_table(run, pc.ask(run, "survival", cohort=tiny_cohort))
    assert survival.column_names[2:5] == ["output", "time", "event"]
    assert as_table(run, found.where(np.zeros(len(who), dtype=bool)[: len(found.patients)])).num_rows == 0


@pytest.mark.parametrize(
    ("question", "found"),
    [
        ("", "a question without words"),
        (" \n", "a question without words"),
        ("肺炎", "of which the run knows no word"),
        ("Is there COVID-19? " * 20, "word pieces"),
    ],
)
def test_a_question_that_would_not_be_heard(
    question: str, found: str, tiny_asked_run: Run, tiny_cohort: Cohort
) -> None:
    with pytest.raises(AdaptError, match=found):
        pc.ask(tiny_asked_run, "finding", question, cohort=tiny_cohort)


def test_what_cannot_be_asked(tiny_asked_run: Run, tiny_run: Run, tiny_cohort: Cohort) -> None:
    with pytest.raises(AdaptError, match="did not learn to answer"):
        pc.ask(tiny_run, "finding", cohort=tiny_cohort)
    with pytest.raises(AdaptError, match="grade or survival 'findng'"):
        pc.ask(tiny_asked_run, "findng", cohort=tiny_cohort)
    with pytest.raises(ObjectiveError, match="of kind 'survival'"):  # it has a head, which hears no words
        pc.ask(tiny_asked_run, "survival", "How soon?", cohort=tiny_cohort)
    patient = tiny_asked_run.split.test[0]
    with pytest.raises(AdaptError, match=f"no record of a patient '{patient}x'") as caught:
        pc.ask(tiny_asked_run, "finding", cohort=tiny_cohort, patients=[patient, f"{patient}x"])
    assert caught.value.remedy == f"did you mean {patient!r}?"
    scanned = next(r.patient for r in tiny_cohort.records("modality = 'volume'"))  # there is no encoder of volumes
    assert pc.ask(tiny_asked_run, "finding", cohort=tiny_cohort, patients=[scanned]).patients == ()


PUBMEDQA = {
    "name": "pubmedqa", "precision": "fp32",
    # The long answer says the short one: only the questions may be read.
    "cohort": {"where": "kind = 'question'", "split": {"test": 0.3, "stratify": "pubmedqa"}},
    "encoders": {"text": {"kind": "bert", "words": 48, "vocabulary": 512, "width": 32, "depth": 1, "heads": 2}},
    "model": {"kind": "two_tower", "width": 32, "embedding": 32, "fusion": {"kind": "intermediate", "depth": 1, "heads": 2}},
    # YAML reads `positive: [yes]` so.
    "tasks": {"pubmedqa": {"kind": "classification", "column": "answer", "positive": [True], "negative": [False]}},
    "stages": [{"name": "ask", "steps": 8, "batch": 16, "objective": {"kind": "question", "tasks": ["pubmedqa"]}}],
}  # fmt: skip


@pytest.mark.slow
def test_pubmedqa_s_short_answers_are_labels(shared_data: Path, tmp_path: Path) -> None:
    shutil.copytree(shared_data / "pubmedqa", tmp_path / "in")
    cohort = pc.ingest(tmp_path / "in", tmp_path / "cohort")
    run = pc.pretrain(Recipe.model_validate(PUBMEDQA), cohort, into=tmp_path / "runs")
    answers = {r.patient: str(r.attributes["answer"]) for r in cohort.records("kind = 'question'")}
    found = pc.ask(run, "pubmedqa", cohort=cohort)
    assert len(found.patients) == len(run.split.test) == 300
    truth = dict(zip(found.patients, np.where(found.mask, found.targets, np.nan), strict=True))
    meant = {"yes": 1.0, "no": 0.0}
    assert all(truth[p] == meant[answers[p]] for p in truth if answers[p] in meant)
    assert all(np.isnan(truth[p]) for p in truth if answers[p] == "maybe")
    shares = [Counter(answers[p] for p in side)["yes"] / len(side) for side in (run.split.train, run.split.test)]
    assert shares == pytest.approx([0.552, 0.552], abs=0.03)  # Jin et al., table 1
    assert {len(ids) for ids in found.records} == {1}  # the long answer is not read
    evidence = pc.evaluate(run, cohort)
    assert evidence.figure("auroc").n == int(found.mask.sum())
    adapted = pc.adapt(run, "pubmedqa", "probe", cohort=cohort)
    assert adapted.adapter["labels"] == sum(answers[p] in meant for p in run.split.train)
