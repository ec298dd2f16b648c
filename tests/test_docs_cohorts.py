"""The commands of docs/cohorts.md are run, in their order, on a small part of the embedded hospital."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from polyclinic.cli import app
from polyclinic.cohort import ingest

PAGE = Path(__file__).parents[1] / "docs/cohorts.md"


def test_the_commands_about_cohorts_run(small_hospital: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest(small_hospital, tmp_path / "cohort")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) >= 8
    for line in lines:
        done = CliRunner().invoke(app, shlex.split(line)[1:])
        assert done.exit_code == 0, (line, done.output)
    assert "0 records came" in CliRunner().invoke(app, ["cohort", "diff", "cohort", "chest", "1", "2"]).output
    assert (tmp_path / "cohort.html").stat().st_size > 10_000
