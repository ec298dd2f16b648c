"""Who cannot be read is set aside by name, with the reason; everything else is as if they had not been asked about."""

from __future__ import annotations

import gzip
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from polyclinic.adaptation import adapt
from polyclinic.cohort import Cohort, ingest
from polyclinic.harmonise.unread import NEARLY_ALL, Unread, UnreadError
from polyclinic.inference import predict
from polyclinic.schema import Modality, Record
from polyclinic.training import Run
from polyclinic.trust import Evidence, evaluate
from polyclinic.trust.comparisons.comparison import Cell, Comparison, compare
from polyclinic.trust.comparisons.label_curve import LabelCurve, label_curve
from polyclinic.trust.pages.inputs import ReportInputs
from polyclinic.trust.pages.overlays import overlays
from polyclinic.trust.pages.report import write_report


def path_of(record: Record, folder: Path) -> Path:
    return folder / record.uri.split("#")[0]


def cut(path: Path) -> None:
    """End a file in its middle."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def cut_inside(path: Path) -> None:
    """A packed volume whose header and packing are whole, and whose array ends early."""
    data = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(data[: len(data) * 2 // 3]))


def unmarked(path: Path) -> None:
    """Text as UTF-16 that does not say so."""
    path.write_bytes(path.read_text().encode("utf-16-le"))


DAMAGE: dict[str, tuple[Modality, Callable[[Path], object]]] = {
    "an image cut short": (Modality.IMAGE, cut),
    "a file that vanished": (Modality.IMAGE, Path.unlink),
    "another thing under its name": (Modality.IMAGE, lambda path: path.write_bytes(b"lost")),
    "a text in an encoding that it does not say": (Modality.TEXT, unmarked),
}


@pytest.fixture
def place(small_hospital: Path, tmp_path: Path) -> Path:
    """The hospital's files, to be damaged."""
    shutil.copytree(small_hospital, tmp_path / "in")
    return tmp_path / "in"


@pytest.fixture
def cohort(place: Path, tmp_path: Path) -> Cohort:
    return ingest(place, tmp_path / "cohort")


@pytest.fixture
def run(tiny_run: Run, tmp_path: Path) -> Run:
    """The backbone, which has not harmonised anything yet: what it has it need not read."""
    shutil.copytree(tiny_run.path, tmp_path / "run", ignore=shutil.ignore_patterns("adapted", "cache"))
    return Run.open(tmp_path / "run")


def of(cohort: Cohort, patients: tuple[str, ...], modality: Modality) -> Record:
    mine = [r for r in cohort.records() if r.patient in patients and r.modality is modality]
    return next(r for r in mine if not r.attributes.get("mask") and not r.uri.endswith(".csv"))


@pytest.mark.parametrize("what", DAMAGE)
def test_an_evaluation_goes_on_without_one(
    what: str, run: Run, cohort: Cohort, place: Path, tiny_cohort: Cohort, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:  # fmt: skip
    adapted = adapt(run, "finding", "probe", cohort=tiny_cohort, into=tmp_path / "adapted")
    whole = predict(adapted, tiny_cohort)
    modality, damage = DAMAGE[what]
    broken = of(cohort, tuple(p for p in whole.labelled().patients), modality)
    damage(path_of(broken, place))
    with caplog.at_level(logging.WARNING, "polyclinic"):
        shutil.rmtree(run.path / "cache", ignore_errors=True)
        found = evaluate(Run.open(adapted.path), cohort, draws=20)
    assert [(one.patient, one.record) for one in found.unread] == [(broken.patient, broken.id)]
    assert found.unread[0].why.count("; expected ") == 1
    assert found.figures[0].n == len(whole.labelled().patients) - 1
    assert {s.figure.n for s in found.subsets} <= set(range(found.figures[0].n + 1))
    assert Evidence.open(adapted.path).unread == found.unread
    assert f"set aside, cannot be read: {broken.patient}: {found.unread[0].why}" in str(found)
    said = [r.getMessage() for r in caplog.records if r.name == "polyclinic.harmonise"]
    assert said == [f"set aside a patient of whom the record {broken.id} cannot be read"]
    left = predict(Run.open(adapted.path), cohort)
    kept = np.array([p != broken.patient for p in whole.patients])
    assert left.patients == tuple(np.array(whole.patients)[kept])
    np.testing.assert_allclose(left.outputs, whole.outputs[kept], atol=1e-6)


@pytest.mark.parametrize("which", ["images", "labels"])
def test_a_segmentation_goes_on_without_a_volume_or_a_mask(
    which: str, run: Run, cohort: Cohort, place: Path, tiny_cohort: Cohort, tmp_path: Path
) -> None:
    adapted = adapt(run, "hippocampus", "probe", steps=1, cohort=tiny_cohort, into=tmp_path / "adapted")
    whole = predict(adapted, tiny_cohort).labelled()
    mine = [r for r in cohort.records() if r.patient == whole.patients[0] and f"/{which}/" in r.uri]
    cut_inside(path_of(mine[0], place))
    shutil.rmtree(run.path / "cache", ignore_errors=True)
    found = evaluate(Run.open(adapted.path), cohort, draws=20)
    assert [(one.patient, one.record) for one in found.unread] == [(whole.patients[0], mine[0].id)]
    assert "cut short" in found.unread[0].why
    assert {f.n for f in found.figures if f.name.startswith("dice")} == {len(whole.patients) - 1}
    assert {f.n for f in found.figures if f.name.startswith("missed")} <= {len(whole.patients) - 1}


def test_where_nobody_is_left_it_stops(
    run: Run, cohort: Cohort, place: Path, tiny_cohort: Cohort, tmp_path: Path
) -> None:
    adapted = adapt(run, "finding", "probe", cohort=tiny_cohort, into=tmp_path / "adapted")
    shutil.rmtree(place)
    with pytest.raises(UnreadError, match="12 of 12 patients who cannot be read, the first for no file at") as told:
        evaluate(Run.open(adapted.path), cohort, draws=20)
    assert f"{1 - NEARLY_ALL:.0%}" in told.value.expected
    assert not (adapted.path / "evidence").exists()


def test_an_adaptation_learns_from_the_others(run: Run, cohort: Cohort, place: Path, tmp_path: Path) -> None:
    broken = of(cohort, run.split.train, Modality.IMAGE)
    path_of(broken, place).unlink()
    adapted = adapt(run, "finding", "probe", cohort=cohort, into=tmp_path / "adapted")
    assert adapted.adapter["unread"][0]["patient"] == broken.patient
    assert broken.patient not in adapted.adapter["labelled"]
    again = adapt(
        run, "finding", "probe", adapted.adapter["labelled"], cohort=cohort, into=tmp_path / "again"
    )  # fmt: skip
    assert "unread" not in again.adapter
    assert (tmp_path / "adapted/adapter.safetensors").read_bytes() == (
        tmp_path / "again/adapter.safetensors"
    ).read_bytes()


def test_a_comparison_names_them_and_pairs_the_others(run: Run, cohort: Cohort, place: Path) -> None:
    learns, asked = (of(cohort, side, Modality.IMAGE) for side in (run.split.train, run.split.test))
    for record in (learns, asked):
        cut(path_of(record, place))
    cells = [Cell("finding", (Modality.IMAGE, Modality.TEXT), None)]
    found = compare(run, cohort, cells=cells, arms=("probe", "baseline"), draws=20)
    assert {one.patient for one in found.unread} == {learns.patient, asked.patient}
    assert len({row.figure.n for row in found.rows}) == len({row.labels for row in found.rows}) == 1
    assert not found.skipped
    assert f"set aside, cannot be read: {asked.patient}: " in str(found)
    assert Comparison.open(run.path / "evidence/comparison.json").unread == found.unread
    alone = compare(run, cohort, cells=cells, arms=("baseline",), draws=20)
    told = lambda rows: [(r.labels, r.figure.value, r.figure.n) for r in rows if r.arm == "baseline"]
    assert told(alone.rows) == told(found.rows)
    assert alone.unread == found.unread


def test_a_curve_counts_the_others(run: Run, cohort: Cohort, place: Path) -> None:
    learns, asked = (of(cohort, side, Modality.IMAGE) for side in (run.split.train, run.split.test))
    whole = len(run.loader(cohort, run.split.train, ("finding",)).labelled("finding"))
    for record in (learns, asked):
        path_of(record, place).unlink()
    ask = lambda: label_curve(
        Run.open(run.path), "finding", [4, None], "probe", baselines=("plain",), seeds=(0,), cohort=cohort, draws=20
    )
    found = ask()
    assert {p.labels for p in found.points} == {4, whole - 1}
    assert {one.patient for one in found.unread} == {learns.patient, asked.patient}
    assert ask().unread == found.unread  # also where the answers are only read again
    assert LabelCurve.open(run.path / "labels/finding-probe").unread == found.unread
    assert asked.patient in (run.path / "labels/finding-probe/labels.html").read_text()


def test_a_baseline_reads_the_sources_that_the_run_no_longer_needs(run: Run, cohort: Cohort, place: Path) -> None:
    cells = [Cell("finding", (Modality.IMAGE,), None)]
    whole = compare(run, cohort, cells=cells, arms=("probe",), draws=20).rows[0].figure.n
    run.cache.flush()
    asked = of(cohort, run.split.test, Modality.IMAGE)
    path_of(asked, place).unlink()
    found = compare(Run.open(run.path), cohort, cells=cells, arms=("probe", "baseline"), draws=20)
    assert {row.arm: row.figure.n for row in found.rows} == {"probe": whole - 1, "baseline": whole - 1}
    assert not found.skipped
    assert {one.patient for one in found.unread} == {asked.patient}


def test_the_report_draws_the_next_one(run: Run, cohort: Cohort, place: Path, tmp_path: Path) -> None:
    adapted = adapt(run, "hippocampus", "probe", steps=1, cohort=cohort, into=tmp_path / "adapted")
    whole = overlays(adapted, cohort, count=1)
    gone = next(r for r in cohort.records() if r.patient == whole[0].patient and "/images/" in r.uri)
    path_of(gone, place).unlink()
    left = overlays(Run.open(adapted.path), cohort, count=1)
    assert len(left) == 1
    assert left[0].patient > whole[0].patient


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
