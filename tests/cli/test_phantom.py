"""`polyclinic phantom`: what it prints, as JSON and for a person, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from polyclinic.cli import app


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["phantom", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_json(tmp_path: Path) -> None:
    code, out, _ = run("--patients", "3", "--out", str(tmp_path / "p"), "--modalities", "report, ecg", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["patients"] == 3
    assert told["records"]["table"] == 6
    assert set(told["records"]) <= {"table", "text", "signal"}
    assert Path(told["hospital"], "outcomes.csv").exists()
    assert Path(told["truth"], "README.md").exists()


def test_for_a_person(tmp_path: Path) -> None:
    code, out, _ = run("--patients", "2", "--out", str(tmp_path / "p"), "--modalities", "report")
    assert code == 0
    assert "Nothing learned from it is clinical evidence." in out


def test_what_cannot_be_done_says_so(tmp_path: Path) -> None:
    code, out, _ = run("--out", str(tmp_path / "p"), "--modalities", "xray,pet", "--json")
    assert code == 1
    assert "pet" in json.loads(out)["error"]["found"]
    assert run("--patients", "5")[0] == 2
    assert not list(tmp_path.iterdir())
