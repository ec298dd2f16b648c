"""The screen and the JSON name who could not be read."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from damaged import of, path_of
from polyclinic.cli import app
from polyclinic.cohort import Cohort
from polyclinic.schema import Modality
from polyclinic.training import Run


def test_adapt_and_evaluate_name_them(own_run: Run, own_cohort: Cohort, own_hospital: Path, tmp_path: Path) -> None:
    broken = [of(own_cohort, side, Modality.IMAGE) for side in (own_run.split.train, own_run.split.test)]
    for record in broken:
        path_of(record, own_hospital).unlink()
    learned = ["adapt", own_run.path, "--task", "finding", "--method", "probe", "--into", tmp_path / "a"]
    asked = ["evaluate", tmp_path / "a"]
    for words, record, file in ((learned, broken[0], "adapter.json"), (asked, broken[1], "evidence.json")):
        words = [str(w) for w in (*words, "--cohort", own_cohort.path)]
        done = CliRunner().invoke(app, words, env={"COLUMNS": "400"})
        assert done.exit_code == 0, done.output
        assert f"set aside, cannot be read: {record.patient}: no file at {record.uri}" in done.stdout
        told = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
        assert [(one["patient"], one["record"]) for one in told["unread"]] == [(record.patient, record.id)]
        place = tmp_path / "a" / ("" if words[0] == "adapt" else "evidence") / file
        assert json.loads(place.read_text())["unread"] == told["unread"]
    assert "1 of them could not be read, and no figure counts them" in (tmp_path / "a/card.md").read_text()
