"""Who cannot be read is set aside by name, with the reason; everything else is as if they had not been asked about."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from damaged import cut, cut_inside, of, path_of, unmarked
from polyclinic.adaptation import adapt
from polyclinic.cohort import Cohort
from polyclinic.harmonise.unread import GONE, NEARLY_ALL, Unread, UnreadError
from polyclinic.inference import predict
from polyclinic.schema import Modality
from polyclinic.training import Run
from polyclinic.trust import Continual, Evidence, continual, evaluate, retrieval_examples
from polyclinic.trust.comparisons.cells import Cell
from polyclinic.trust.comparisons.compare import compare
from polyclinic.trust.comparisons.comparison import Comparison
from polyclinic.trust.comparisons.label_curve import LabelCurve, label_curve
from polyclinic.trust.pages.inputs import ReportInputs
from polyclinic.trust.pages.overlays import overlays
from polyclinic.trust.pages.report import write_report

DAMAGE: dict[str, tuple[Modality, Callable[[Path], object]]] = {
    "an image cut short": (Modality.IMAGE, cut),
    "a file that vanished": (Modality.IMAGE, Path.unlink),
    "another thing under its name": (Modality.IMAGE, lambda path: path.write_bytes(b"lost")),
    "a text in an encoding that it does not say": (Modality.TEXT, unmarked),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_an_evaluation_goes_on_without_one(
    what: str, own_run: Run, own_cohort: Cohort, own_hospital: Path, tiny_cohort: Cohort, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:  # fmt: skip
    adapted = adapt(own_run, "finding", "probe", cohort=tiny_cohort, into=tmp_path / "adapted")
    whole = predict(adapted, tiny_cohort)
    modality, damage = DAMAGE[what]
    broken = of(own_cohort, tuple(p for p in whole.labelled().patients), modality)
    damage(path_of(broken, own_hospital))
    with caplog.at_level(logging.WARNING, "polyclinic"):
        shutil.rmtree(own_run.path / "cache", ignore_errors=True)
        found = evaluate(Run.open(adapted.path), own_cohort, draws=20)
    assert [(one.patient, one.record) for one in found.unread] == [(broken.patient, broken.id)]
    assert found.unread[0].why.count("; expected ") == 1
    assert found.figures[0].n == len(whole.labelled().patients) - 1
    assert {s.figure.n for s in found.subsets} <= set(range(found.figures[0].n + 1))
    assert Evidence.open(adapted.path).unread == found.unread
    assert f"set aside, cannot be read: {broken.patient}: {found.unread[0].why}" in str(found)
    said = [r.getMessage() for r in caplog.records if r.name == "polyclinic.harmonise"]
    assert said == [f"set aside a patient of whom the record {broken.id} cannot be read"]
    left = predict(Run.open(adapted.path), own_cohort)
    kept = np.array([p != broken.patient for p in whole.patients])
    assert left.patients == tuple(np.array(whole.patients)[kept])
    np.testing.assert_allclose(left.outputs, whole.outputs[kept], atol=1e-6)


@pytest.mark.parametrize("which", ["images", "labels"])
def test_a_segmentation_goes_on_without_a_volume_or_a_mask(
    which: str, own_run: Run, own_cohort: Cohort, own_hospital: Path, tiny_cohort: Cohort, tmp_path: Path
) -> None:
    adapted = adapt(own_run, "hippocampus", "probe", steps=1, cohort=tiny_cohort, into=tmp_path / "adapted")
    whole = predict(adapted, tiny_cohort).labelled()
    mine = [r for r in own_cohort.records() if r.patient == whole.patients[0] and f"/{which}/" in r.uri]
    cut_inside(path_of(mine[0], own_hospital))
    shutil.rmtree(own_run.path / "cache", ignore_errors=True)
    found = evaluate(Run.open(adapted.path), own_cohort, draws=20)
    assert [(one.patient, one.record) for one in found.unread] == [(whole.patients[0], mine[0].id)]
    assert "cut short" in found.unread[0].why
    assert {f.n for f in found.figures if f.name.startswith("dice")} == {len(whole.patients) - 1}
    assert {f.n for f in found.figures if f.name.startswith("missed")} <= {len(whole.patients) - 1}


def test_where_nobody_is_left_it_stops(
    own_run: Run, own_cohort: Cohort, own_hospital: Path, tiny_cohort: Cohort, tmp_path: Path
) -> None:
    adapted = adapt(own_run, "finding", "probe", cohort=tiny_cohort, into=tmp_path / "adapted")
    shutil.rmtree(own_hospital)
    with pytest.raises(UnreadError, match="12 of 12 patients who cannot be read, the first for no file at") as told:
        evaluate(Run.open(adapted.path), own_cohort, draws=20)
    assert f"{1 - NEARLY_ALL:.0%}" in told.value.expected
    assert not (adapted.path / "evidence").exists()


def test_an_adaptation_learns_from_the_others(
    own_run: Run, own_cohort: Cohort, own_hospital: Path, tmp_path: Path
) -> None:
    broken = of(own_cohort, own_run.split.train, Modality.IMAGE)
    path_of(broken, own_hospital).unlink()
    adapted = adapt(own_run, "finding", "probe", cohort=own_cohort, into=tmp_path / "adapted")
    assert adapted.adapter["unread"][0]["patient"] == broken.patient
    assert broken.patient not in adapted.adapter["labelled"]
    again = adapt(
        own_run, "finding", "probe", adapted.adapter["labelled"], cohort=own_cohort, into=tmp_path / "again"
    )  # fmt: skip
    assert "unread" not in again.adapter
    assert (tmp_path / "adapted/adapter.safetensors").read_bytes() == (
        tmp_path / "again/adapter.safetensors"
    ).read_bytes()


def test_a_comparison_names_them_and_pairs_the_others(own_run: Run, own_cohort: Cohort, own_hospital: Path) -> None:
    learns, asked = (of(own_cohort, side, Modality.IMAGE) for side in (own_run.split.train, own_run.split.test))
    for record in (learns, asked):
        cut(path_of(record, own_hospital))
    cells = [Cell("finding", (Modality.IMAGE, Modality.TEXT), None)]
    found = compare(own_run, own_cohort, cells=cells, arms=("probe", "baseline"), draws=20)
    assert {one.patient for one in found.unread} == {learns.patient, asked.patient}
    assert len({row.figure.n for row in found.rows}) == len({row.labels for row in found.rows}) == 1
    assert not found.skipped
    assert f"set aside, cannot be read: {asked.patient}: " in str(found)
    assert Comparison.open(own_run.path / "evidence/comparison.json").unread == found.unread
    alone = compare(own_run, own_cohort, cells=cells, arms=("baseline",), draws=20)
    told = lambda rows: [(r.labels, r.figure.value, r.figure.n) for r in rows if r.arm == "baseline"]
    assert told(alone.rows) == told(found.rows)
    assert alone.unread == found.unread


def test_a_curve_counts_the_others(own_run: Run, own_cohort: Cohort, own_hospital: Path) -> None:
    learns, asked = (of(own_cohort, side, Modality.IMAGE) for side in (own_run.split.train, own_run.split.test))
    whole = len(own_run.loader(own_cohort, own_run.split.train, ("finding",)).labelled("finding"))
    for record in (learns, asked):
        path_of(record, own_hospital).unlink()
    ask = lambda: label_curve(
        Run.open(own_run.path),
        "finding",
        [4, None],
        "probe",
        baselines=("plain",),
        seeds=(0,),
        cohort=own_cohort,
        draws=20,
    )
    found = ask()
    assert {p.labels for p in found.points} == {4, whole - 1}
    assert {one.patient for one in found.unread} == {learns.patient, asked.patient}
    assert ask().unread == found.unread  # also where the answers are only read again
    assert LabelCurve.open(own_run.path / "labels/finding-probe").unread == found.unread
    assert asked.patient in (own_run.path / "labels/finding-probe/labels.html").read_text()


def test_a_sequence_names_them(own_run: Run, own_cohort: Cohort, own_hospital: Path, tmp_path: Path) -> None:
    learns, asked = (of(own_cohort, side, Modality.IMAGE) for side in (own_run.split.train, own_run.split.test))
    for record in (learns, asked):
        path_of(record, own_hospital).unlink()
    teach = lambda: continual(
        Run.open(own_run.path), ["finding", "survival"], "probe", seeds=(0,), cohort=own_cohort, into=tmp_path, draws=20
    )
    found = teach()
    assert {one.patient for one in found.unread} == {learns.patient, asked.patient}
    assert Continual.open(tmp_path).unread == found.unread
    page = (tmp_path / "continual.html").read_text()
    assert all(word in page for one in found.unread for word in (one.patient, one.record))
    assert set(teach().unread) == set(found.unread)  # also where the answers are only read again


def test_a_baseline_reads_the_sources_that_the_run_no_longer_needs(
    own_run: Run, own_cohort: Cohort, own_hospital: Path
) -> None:
    cells = [Cell("finding", (Modality.IMAGE,), None)]
    whole = compare(own_run, own_cohort, cells=cells, arms=("probe",), draws=20).rows[0].figure.n
    own_run.cache.flush()
    asked = of(own_cohort, own_run.split.test, Modality.IMAGE)
    path_of(asked, own_hospital).unlink()
    found = compare(Run.open(own_run.path), own_cohort, cells=cells, arms=("probe", "baseline"), draws=20)
    assert {row.arm: row.figure.n for row in found.rows} == {"probe": whole - 1, "baseline": whole - 1}
    assert not found.skipped
    assert {one.patient for one in found.unread} == {asked.patient}


def test_the_report_draws_the_next_one(own_run: Run, own_cohort: Cohort, own_hospital: Path, tmp_path: Path) -> None:
    adapted = adapt(own_run, "hippocampus", "probe", steps=1, cohort=own_cohort, into=tmp_path / "adapted")
    whole = overlays(adapted, own_cohort, count=1)
    gone = next(r for r in own_cohort.records() if r.patient == whole[0].patient and "/images/" in r.uri)
    path_of(gone, own_hospital).unlink()
    left = overlays(Run.open(adapted.path), own_cohort, count=1)
    assert len(left) == 1
    assert left[0].patient > whole[0].patient


def test_the_report_shows_what_is_left_of_a_gallery(own_run: Run, own_cohort: Cohort, own_hospital: Path) -> None:
    examples = lambda run: retrieval_examples(run, own_cohort, Modality.IMAGE, Modality.TEXT)
    whole = examples(own_run)
    own_run.cache.flush()
    gone = next(r for r in own_cohort.records() if r.patient == whole[0].patient and r.modality is Modality.IMAGE)
    path_of(gone, own_hospital).unlink()
    left = examples(own_run)
    assert [(e.patient, e.rank) for e in left] == [(e.patient, e.rank) for e in whole]
    assert (left[0].words, left[0].image) == (GONE, None)
    assert all(a.words and a.words != GONE for a in left[0].answers)


def test_the_report_names_them(tmp_path: Path) -> None:
    who = (Unread("P-7", "r7", "no file at notes/seven.txt; expected the source where it was ingested"),)
    evidence = Evidence("run", "finding", "classification", "probe", ("image",), 3, "s", "w", (), unread=who)
    page = write_report(tmp_path / "report.html", ReportInputs("Title", "run", "s", {}, (3, 4), evidence=(evidence,)))
    text = page.read_text()
    assert "Who could not be read" in text
    assert all(word in text for word in ("P-7", "r7", "notes/seven.txt"))
    sound = replace(evidence, unread=())
    page = write_report(tmp_path / "report.html", ReportInputs("Title", "run", "s", {}, (3, 4), evidence=(sound,)))
    assert "Who could not be read" not in page.read_text()


def test_the_file_says_who(tmp_path: Path) -> None:
    who = tuple(Unread(f"p{n}", f"r{n}", "no file; expected one") for n in range(7))
    evidence = Evidence("run", "t", "classification", "probe", (), 0, "", "", (), unread=who)
    evidence.write(tmp_path)
    assert Evidence.open(tmp_path / "evidence.json").unread == who
    assert str(evidence).count("cannot be read: p") == 5
    assert "and 2 more, see evidence.json" in str(evidence)
    old = json.loads((tmp_path / "evidence.json").read_text())
    del old["unread"]
    (tmp_path / "evidence.json").write_text(json.dumps(old))
    assert Evidence.open(tmp_path / "evidence.json").unread == ()
