"""The screen and the JSON name who could not be read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from polyclinic.cli import app
from polyclinic.cohort import Cohort, ingest
from polyclinic.schema import Modality
from polyclinic.training import Run


@pytest.fixture
def cohort(small_hospital: Path, tmp_path: Path) -> Cohort:
    shutil.copytree(small_hospital, tmp_path / "in")
    return ingest(tmp_path / "in", tmp_path / "cohort")


def test_adapt_and_evaluate_name_them(tiny_run: Run, cohort: Cohort, tmp_path: Path) -> None:
    shutil.copytree(tiny_run.path, tmp_path / "run", ignore=shutil.ignore_patterns("adapted", "cache"))
    run, broken = tmp_path / "run", []
    for side in (tiny_run.split.train, tiny_run.split.test):
        record = next(r for r in cohort.records() if r.patient in side and r.modality is Modality.IMAGE)
        (tmp_path / "in" / record.uri).unlink()
        broken.append(record)
    learned = ["adapt", run, "--task", "finding", "--method", "probe", "--into", tmp_path / "a"]
    asked = ["evaluate", tmp_path / "a"]
    for words, record, file in ((learned, broken[0], "adapter.json"), (asked, broken[1], "evidence.json")):
        words = [str(w) for w in (*words, "--cohort", cohort.path)]
        done = CliRunner().invoke(app, words, env={"COLUMNS": "400"})
        assert done.exit_code == 0, done.output
        assert f"set aside, cannot be read: {record.patient}: no file at {record.uri}" in done.stdout
        told = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
        assert [(one["patient"], one["record"]) for one in told["unread"]] == [(record.patient, record.id)]
        place = tmp_path / "a" / ("" if words[0] == "adapt" else "evidence") / file
        assert json.loads(place.read_text())["unread"] == told["unread"]
    assert "1 of them could not be read, and no figure counts them" in (tmp_path / "a/card.md").read_text()
