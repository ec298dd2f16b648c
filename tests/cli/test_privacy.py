"""`polyclinic deidentify`: what it prints, as JSON and for a person, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from polyclinic.cli import app


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/visits.csv").write_text("patient_id,age,sex\nMRN55001,44,F\nMRN55002,45,M\n")
    (tmp_path / "in/MRN55001_1.txt").write_text("Patient: MRN55001\n\nSeen by Dr. Zebedee.\n")
    (tmp_path / "in/what.bin").write_bytes(b"\x00MRN55001")
    return tmp_path


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["deidentify", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_json(folder: Path) -> None:
    code, out, _ = run(
        str(folder / "in"), "--out", str(folder / "out"), "--key", str(folder / "key"), "--k", "2", "--json"
    )
    told = json.loads(out)
    assert code == 0
    assert len(told["files"]) == 2
    assert len(told["set_aside"]) == 1
    assert told["tables"]["visits.csv"]["k_after"] == 2
    assert "MRN55001" not in out
    assert "Zebedee" not in out


def test_for_a_person(folder: Path) -> None:
    code, out, err = run(str(folder / "in"), "--out", str(folder / "out"), "--key", str(folder / "key"))
    assert code == 0
    assert "2 files written, 1 set aside" in out
    assert "MRN55001" not in out + err


def test_what_cannot_be_done_says_so(folder: Path) -> None:
    code, out, _ = run(str(folder / "nowhere"), "--out", str(folder / "out"), "--key", str(folder / "key"), "--json")
    assert code == 1
    assert json.loads(out)["error"]["do"]
    assert run(str(folder / "in"))[0] == 2


def test_another_recogniser(folder: Path) -> None:
    wallet = "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq"
    (folder / "in/MRN55001_2.txt").write_text(f"Patient: MRN55001\n\npays from {wallet} monthly.\n")
    code, _, _ = run(
        str(folder / "in"), "--out", str(folder / "out"), "--key", str(folder / "key"), "--recogniser", "presidio"
    )
    assert code == 0
    assert not any(wallet in path.read_text() for path in (folder / "out").rglob("*.txt"))
