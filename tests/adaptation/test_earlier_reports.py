"""Earlier records in a report's making, from files to figures: the phantom's earlier study is shown, and the report itself never is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.results.phantom_reports import ARMS, again, answers, usual

import polyclinic as pc
from polyclinic.adaptation import open_adapted
from polyclinic.adaptation.adapt import AdaptError
from polyclinic.adaptation.report import reports_of
from polyclinic.cohort import Cohort
from polyclinic.inference import answer_cohort, predict, predict_files
from polyclinic.phantom import simulate
from polyclinic.records.findings import read_findings
from polyclinic.schema import Modality
from polyclinic.tasks import ReportTask
from polyclinic.tasks.correctness import correctness
from polyclinic.training import Recipe, Run

RECIPE: dict[str, Any] = {
    "name": "earlier",
    "cohort": {"where": "kind in ('DX chest PA', 'EHR events') or modality = 'text'", "split": {"test": 0.4}},
    "encoders": {
        "image": {"kind": "vit", "size": 16, "patch": 8, "width": 16, "depth": 1, "heads": 2},
        "text": {"kind": "bert", "words": 40, "vocabulary": 256, "languages": ["en", "es"], "width": 16, "depth": 1, "heads": 2},
        "table": {"kind": "events", "width": 16, "depth": 1, "heads": 2},
    },
    "model": {"kind": "two_tower", "width": 16, "embedding": 16, "fusion": {"kind": "late"}},
    "tasks": {"report": {"kind": "report", "inputs": ["image", "text", "table"], "words": 30}},
    "stages": [{
        "name": "write", "steps": 12, "batch": 8, "lr": 3e-3,
        "objective": {"kind": "caption", "modalities": ["image", "table"], "earlier": ["image", "text"],
                      "width": 16, "depth": 1, "heads": 2},
    }],
    "precision": "fp32",
}  # fmt: skip


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("made") / "phantom"
    return simulate(made, 40, seed=5, size=16, modalities=["xray", "report", "earlier_report", "ehr"]).hospital


@pytest.fixture(scope="module")
def cohort(hospital: Path, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return pc.ingest(hospital, tmp_path_factory.mktemp("earlier-cohort"))


@pytest.fixture(scope="module")
def run(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return pc.pretrain(Recipe.model_validate(RECIPE), cohort, into=tmp_path_factory.mktemp("earlier-run"))


@pytest.fixture(scope="module")
def adapted(run: Run, cohort: Cohort) -> Run:
    return pc.adapt(run, "report", method="probe", steps=2, cohort=cohort)


def with_earlier_note(cohort: Cohort) -> list[str]:
    notes = [r.patient for r in cohort.records("modality = 'text'")]
    return sorted(p for p in set(notes) if notes.count(p) == 2)


def test_what_is_shown_is_the_study_and_the_earlier_one(adapted: Run, cohort: Cohort) -> None:
    opened, patients = open_adapted(adapted), with_earlier_note(cohort)
    assert len(patients) >= 8
    task, loader = opened.task, adapted.loader(cohort, tuple(patients))
    assert isinstance(task, ReportTask)
    batch = loader.of(patients)
    asked, own = reports_of(loader, batch.patients, None)
    told = task.told(opened.model, batch, asked)
    by_id = {r.id: r for p in patients for by in loader.by_patient[p].values() for r in by}
    shown = told.payloads[Modality.TEXT]
    assert shown.patient.tolist() == list(range(len(patients)))  # of each one, and one alone
    for name, p in zip(shown.ids, shown.patient.tolist(), strict=True):
        mine = own[p]
        assert mine is not None
        assert mine.time is not None
        note = by_id[name]
        assert note.uri != mine.uri
        assert note.uri.endswith("_0.txt")
        assert (mine.time - note.time).days > 80  # type: ignore[operator]
    hours = told.payloads[Modality.IMAGE].time_h
    assert bool((hours <= 0).all())
    assert int((hours < -24).sum()) == len(patients)
    events = told.payloads[Modality.TABLE]
    last = max(float((h + v[:, 2]).max()) for h, v in zip(events.time_h, events.values, strict=True))
    assert last <= 0


def test_the_report_itself_changes_nothing_and_is_no_input(
    adapted: Run, cohort: Cohort, hospital: Path, tmp_path: Path
) -> None:
    """Other words in every report, at its own time: what is written stays what it was."""
    copy = tmp_path / "copy"
    shutil.copytree(hospital, copy)
    for note in copy.rglob("*_1.txt"):
        head, _, _ = note.read_text().partition("\n\n")
        note.write_text(
            f"{head}\n\nFindings: There is a pneumothorax on the left, new since the prior study of {note.stem}.\n"
        )
    other = pc.ingest(copy, tmp_path / "other")
    one, two = predict(adapted, cohort), predict(adapted, other)
    assert one.patients == two.patients
    assert one.outputs.tolist() == two.outputs.tolist()
    both = one.mask & two.mask
    assert both.any()
    assert all(a != b for a, b in zip(one.targets[both], two.targets[both], strict=True))


def test_files_with_and_without_the_earlier_study(adapted: Run, cohort: Cohort, hospital: Path) -> None:
    opened, patient = open_adapted(adapted), with_earlier_note(cohort)[0]
    file = lambda pattern: next(hospital.rglob(pattern))
    now, before, own = file(f"XR{patient[1:]}.dcm"), file(f"{patient}_0.txt"), file(f"{patient}_1.txt")
    alone = predict_files(opened, [now])
    assert alone.used == (Modality.IMAGE,)
    assert len(alone.extra["shown"]) == 1
    whole = predict_files(opened, [now, file(f"XP{patient[1:]}.dcm"), before])
    assert whole.used == (Modality.IMAGE, Modality.TEXT)
    assert len(whole.extra["shown"]) == 3
    # The report of this very study, which may lie beside it, is not read.
    given = predict_files(opened, [now, own])
    assert given.used == (Modality.IMAGE,)
    assert given.extra["shown"] == alone.extra["shown"]
    assert given.headline == alone.headline
    with pytest.raises(AdaptError, match="of the study, dated"):
        predict_files(opened, [own])


def test_a_cohort_s_lineage_names_what_was_shown(adapted: Run, cohort: Cohort, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    patients = with_earlier_note(cohort)[:3]
    place = answer_cohort(adapted, cohort, patients=patients, into=tmp_path / "answers")
    kinds = {r.id: (r.modality, Path(r.uri).name) for r in cohort.records()}
    for row in pq.read_table(place / "answers-00000.parquet").to_pylist():
        notes = [name for modality, name in (kinds[i] for i in row["records"]) if modality is Modality.TEXT]
        assert notes == [f"{row['patient']}_0.txt"]
        assert "text" in row["modalities"]


def test_the_figures_tell_of_comparisons(adapted: Run, cohort: Cohort) -> None:
    evidence = pc.evaluate(adapted, cohort, draws=20)
    missed, made_up = evidence.figure("prior_missed"), evidence.figure("prior_made_up")
    assert missed.n > 0
    assert made_up.n > 0
    assert evidence.figure("change_f1").n == int(evidence.figure("finding_f1").n)
    alone = evidence.figure("of the study alone, prior_missed")
    assert alone.n == missed.n
    written = predict(adapted, cohort, earlier=False)
    assert "text" not in {m.value for has in written.modalities for m in has}
    shown = {s.modalities for s in evidence.subsets}
    assert ("image",) in shown
    assert ("image", "text", "table") in shown
    assert not np.isnan(missed.value)


def test_a_decoder_that_was_shown_no_earlier_report_is_given_none(cohort: Cohort, tmp_path: Path) -> None:
    stage = {**RECIPE["stages"][0], "steps": 1}
    stage["objective"] = {**stage["objective"], "earlier": ["image"]}
    other = pc.pretrain(Recipe.model_validate({**RECIPE, "stages": [stage]}), cohort, into=tmp_path)
    with pytest.raises(AdaptError, match=r"was shown no earlier report(.|\n)*`earlier: \[text\]`"):
        pc.adapt(other, "report", method="probe", steps=0, cohort=cohort)


def test_the_phantom_s_earlier_report_is_of_the_earlier_study(hospital: Path, cohort: Cohort) -> None:
    records = {(r.patient, Path(r.uri).name): r for r in cohort.records("modality in ('image', 'text')")}
    for patient in with_earlier_note(cohort):
        note = records[patient, f"{patient}_0.txt"]
        image = records[patient, f"XP{patient[1:]}.dcm"]
        assert (note.time - image.time).total_seconds() == pytest.approx(7200, abs=60)  # type: ignore[operator]
        text = cohort.load(note).text or ""
        assert not read_findings(text, str(note.attributes["language"])).compared
    assert not list(hospital.parent.joinpath("truth").rglob("*_0*"))


def test_the_page_shows_no_more_than_it_says(cohort: Cohort, adapted: Run) -> None:
    """The commonest report is one of them; what is said anew says the same; each arm is shown what it is called by."""
    texts = {
        "a": "No nodule.", "b": "There is a nodule.", "c": "No effusion. No nodule.", "d": "Nodule, unchanged since the prior study.",
    }  # fmt: skip
    assert usual(texts) == "No nodule."
    same = [correctness(again(f"P{i:06d}", 5, False), again(f"P{i:06d}", 5, False)) for i in range(3)]
    assert all(c.said[:, 1:].sum() == 0 for c in same)
    opened, patients = open_adapted(adapted), with_earlier_note(cohort)[:4]
    for study, earlier in ARMS.values():
        made = answers(opened, cohort, patients, study, earlier)
        seen = {m for has in made.modalities for m in has}
        assert seen == {*study} | ({Modality.TEXT} if earlier else set())
