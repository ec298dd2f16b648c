"""Answers about a cohort are the predictions; what cannot be answered says why; an interruption loses nothing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from polyclinic.adaptation import AdaptError
from polyclinic.cohort import Cohort, ingest
from polyclinic.harmonise.loader import Loader
from polyclinic.inference import answer_cohort, predict, predict_masks
from polyclinic.schema import Modality
from polyclinic.training import Run

MODULE = import_module("polyclinic.inference.answers")


def rows_of(place: Path) -> list[dict[str, Any]]:
    return [row for part in sorted(place.glob("answers-*.parquet")) for row in pq.read_table(part).to_pylist()]


def test_the_answers_are_the_predictions(tiny_finding_run: Run, tiny_cohort: Cohort, tmp_path: Path) -> None:
    place = answer_cohort(tiny_finding_run, tiny_cohort, into=tmp_path / "a")
    rows = {row["patient"]: row for row in rows_of(place)}
    assert sorted(rows) == tiny_cohort.patients()
    wanted = predict(tiny_finding_run, tiny_cohort)
    compared = 0
    for patient, output in zip(wanted.patients, wanted.outputs, strict=True):
        if rows[patient]["output"] is not None:
            assert rows[patient]["output"] == pytest.approx(float(output), abs=1e-5)
            assert f"{output:.2f}" in rows[patient]["headline"]
            compared += 1
    assert compared >= 5
    by_id = {r.id: r for r in tiny_cohort.records()}
    for row in rows.values():
        assert (row["output"] is None) == (row["why_not"] is not None)
        assert {by_id[i].patient for i in row["records"]} <= {row["patient"]}
        assert {by_id[i].modality.value for i in row["records"]} == set(row["modalities"])
    assert "nothing that the run reads" in {row["why_not"] and row["why_not"].split(":")[0] for row in rows.values()}
    lineage = json.loads((place / "lineage.json").read_text())
    assert lineage["split"] == tiny_finding_run.split.hash
    assert lineage["task"] == "finding"


def test_a_patient_who_cannot_be_read_says_so(tiny_finding_run: Run, small_hospital: Path, tmp_path: Path) -> None:
    shutil.copytree(small_hospital, tmp_path / "in")
    cohort = ingest(tmp_path / "in", tmp_path / "cohort")
    whole = {row["patient"]: row for row in rows_of(answer_cohort(tiny_finding_run, cohort, into=tmp_path / "whole"))}
    broken = next(
        r for r in cohort.records() if r.modality is Modality.IMAGE and whole[r.patient]["output"] is not None
    )
    (tmp_path / "in" / broken.uri.split("#")[0]).write_bytes(b"lost")
    found = {row["patient"]: row for row in rows_of(answer_cohort(tiny_finding_run, cohort, into=tmp_path / "now"))}
    assert found.keys() == whole.keys()
    assert found[broken.patient]["output"] is None
    assert found[broken.patient]["why_not"]
    for patient in found.keys() - {broken.patient}:
        assert found[patient]["output"] == pytest.approx(whole[patient]["output"], abs=1e-6)


def test_interrupted_it_goes_on(
    tiny_finding_run: Run, tiny_cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MODULE, "CHUNK", 16)
    place = tmp_path / "a"

    def stop(done: int, total: int, what: str) -> None:
        if done >= 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer_cohort(tiny_finding_run, tiny_cohort, into=place, progress=stop)
    kept = {p: p.stat().st_mtime_ns for p in place.glob("answers-*.parquet")}
    assert len(kept) == 2
    answer_cohort(tiny_finding_run, tiny_cohort, into=place)
    assert all(p.stat().st_mtime_ns == at for p, at in kept.items())
    assert [row["patient"] for row in rows_of(place)] == tiny_cohort.patients()
    answer_cohort(tiny_finding_run, tiny_cohort, modalities=["image"], into=place)  # another question: all anew
    assert all(row["modalities"] in ([], ["image"]) for row in rows_of(place))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_workers_answer_alike(
    tiny_finding_run: Run, tiny_cohort: Cohort, tmp_path: Path, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    monkeypatch.setattr(MODULE, "CHUNK", 40)
    one = rows_of(answer_cohort(tiny_finding_run, tiny_cohort, into=tmp_path / "one"))
    two = rows_of(answer_cohort(tiny_finding_run, tiny_cohort, into=tmp_path / "two", engine=engine, workers=2))
    assert [r["patient"] for r in one] == [r["patient"] for r in two]
    assert [r["output"] for r in one] == pytest.approx([r["output"] for r in two], abs=1e-5, nan_ok=True)


def test_a_segmentation_gives_sizes(tiny_segmentation_run: Run, tiny_cohort: Cohort, tmp_path: Path) -> None:
    rows = rows_of(answer_cohort(tiny_segmentation_run, tiny_cohort, into=tmp_path / "a"))
    told = {row["record"]: dict(row["values"]) for row in rows if row["record"]}
    some = tiny_segmentation_run.split.test[:3]
    for mask in predict_masks(tiny_segmentation_run, tiny_cohort, patients=some):
        source = tiny_cohort.load(mask.record)
        assert source.to_world is not None
        ml = (mask.on_source == 1).sum() * abs(np.linalg.det(source.to_world[:3, :3])) / 1000
        assert float(told[mask.record.id]["anterior_ml"]) == pytest.approx(ml, abs=1e-3)
    assert any(row["why_not"] for row in rows)


def test_what_cannot_be_asked_is_refused(tiny_run: Run, tiny_finding_run: Run, tmp_path: Path) -> None:
    with pytest.raises(AdaptError, match="not adapted to a task"):
        answer_cohort(tiny_run, into=tmp_path / "a")
    with pytest.raises(AdaptError, match="which this run does not read"):
        answer_cohort(tiny_finding_run, modalities=["slide"], into=tmp_path / "a")


def test_a_volume_without_a_scale_is_told_in_voxels(
    tiny_segmentation_run: Run, tiny_cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `predict_files` tells it: the scale that the harmoniser took is none of the file's."""
    own = Loader.payload
    monkeypatch.setattr(Loader, "payload", lambda self, record: replace(own(self, record), nominal=True))
    rows = [
        r for r in rows_of(answer_cohort(tiny_segmentation_run, tiny_cohort, into=tmp_path / "a")) if not r["why_not"]
    ]
    assert rows
    assert all("pixels" in row["headline"] and "mL" not in row["headline"] for row in rows)
