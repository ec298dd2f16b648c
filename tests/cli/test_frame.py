from __future__ import annotations

import errno
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from polyclinic.cli.frame import Reply, command, of_system, plain, progress, table
from polyclinic.schema import Figure, Modality, PolyclinicError


def app_of(function: Callable[..., Reply]) -> typer.Typer:
    app = typer.Typer()
    app.command()(command(function))
    return app


def raising(error: BaseException) -> typer.Typer:
    def work() -> Reply:
        raise error

    return app_of(work)


def test_anything_becomes_json() -> None:
    @dataclass
    class Thing:
        place: Path
        figure: Figure

    data = {
        "figure": Thing(Path("a/b"), Figure("auroc", math.nan, 0.1, math.inf, 3, "x")), "modality": Modality.IMAGE, "array": np.arange(3),
        "number": np.float32(0.5), "missing": np.nan, "flag": np.bool_(True), "when": datetime(2020, 1, 31, 14, 30), 7: {"a"},
        "none": None, "t": (1, "x"),
    }  # fmt: skip
    told = json.loads(json.dumps(plain(data), allow_nan=False))
    assert told["figure"]["place"] == "a/b"
    assert told["figure"]["figure"] | {"note": ""} == {
        "name": "auroc",
        "value": None,
        "low": 0.1,
        "high": None,
        "n": 3,
        "split": "x",
        "note": "",
    }
    assert (told["modality"], told["array"], told["number"], told["missing"]) == ("image", [0, 1, 2], 0.5, None)
    assert (told["flag"], told["when"], told["7"], told["none"], told["t"]) == (
        True,
        "2020-01-31T14:30:00",
        ["a"],
        None,
        [1, "x"],
    )


def test_a_reply_is_printed_or_given_as_one_object() -> None:
    def work() -> Reply:
        print("a library that prints")
        return Reply({"a": 1}, ["a [bold] line", table("t", ("name", "#n"), [("x", 1), (None, 2.5)])])

    shown = CliRunner().invoke(app_of(work), [])
    assert shown.stdout.startswith("a [bold] line\n")  # no markup is read out of data
    assert "a library that prints" in shown.stderr
    given = CliRunner().invoke(app_of(work), ["--json"])
    assert json.loads(given.stdout) == {"a": 1}


def test_an_error_of_ours_is_said_in_three_lines_and_is_one() -> None:
    app = raising(PolyclinicError("this", "that", "do so"))
    done = CliRunner().invoke(app, [])
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", "Found: this\nExpected: that\nDo: do so\n")
    told = json.loads(CliRunner().invoke(app, ["--json"]).stdout)
    assert told == {"error": {"found": "this", "expected": "that", "do": "do so"}, "exit": 1}


def test_ctrl_c_is_130() -> None:
    done = CliRunner().invoke(raising(KeyboardInterrupt()), [])
    assert done.exit_code == 130
    assert "run the same command again" in done.stderr


def test_a_run_that_was_interrupted_is_130_too() -> None:
    from polyclinic.training.loop import InterruptedRunError

    assert CliRunner().invoke(raising(InterruptedRunError("stopped at step 3")), []).exit_code == 130


def test_a_fault_of_ours_is_owned_and_its_traceback_kept() -> None:
    done = CliRunner().invoke(raising(KeyError("finding")), [])
    assert done.exit_code == 1
    assert "a fault in polyclinic itself (KeyError: 'finding')" in done.stderr
    kept = re.search(r"kept in (\S+)", done.stderr)
    assert kept is not None
    text = Path(kept[1]).read_text()
    Path(kept[1]).unlink()
    assert "raise error" in text
    debug = CliRunner().invoke(raising(KeyError("finding")), ["--debug"])
    assert "Traceback" in debug.stderr
    assert "kept in" not in debug.stderr


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (OSError(errno.ENOSPC, "No space left", "x.bin"), "no room on the disk (x.bin)"),
        (OSError(errno.EDQUOT, "quota", "x"), "no room on the disk"),
        (PermissionError(errno.EACCES, "denied", "x"), "a place that may not be used (x)"),
        (OSError(errno.EROFS, "read-only", "x"), "a place that may not be used"),
        (OSError(errno.EADDRINUSE, "in use"), "an address already in use"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), "no such file or directory (x)"),
    ],
)
def test_the_systems_refusals_are_said_in_our_words(error: OSError, found: str) -> None:
    assert of_system(error).found.startswith(found)
    done = CliRunner().invoke(raising(error), [])
    assert done.exit_code == 1
    assert "fault in polyclinic" not in done.stderr
    assert "Do: " in done.stderr


def test_progress_away_from_a_terminal_is_a_line_now_and_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("work") as report:
        for done in range(1, 1001):
            report(done, 1000, f"file {done}")
    captured: Any = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1] == "work: 1000/1000 file 1000"
    assert len(captured.err.splitlines()) < 20


def test_the_launcher_does_not_talk_between_lines_of_progress(caplog: pytest.LogCaptureFixture) -> None:
    from polyclinic.training.ranks import fabric_for

    def work() -> Reply:
        fabric_for("bf16")
        return Reply({}, ["done"])

    assert CliRunner().invoke(app_of(work), []).output == "done\n"
    assert not [told for told in caplog.messages if "Precision" in told]
