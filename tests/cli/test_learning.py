"""`continual`, and `adapt` with several numbers of labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from polyclinic.cli import app
from polyclinic.cli.learning import label_counts, whole
from polyclinic.training import Run


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(w) for w in words], env={"COLUMNS": "200"})


@pytest.mark.parametrize(("words", "counts"), [
    (None, None), ("all", None), ("ALL", None), ("20", 20),
    ("10,50,200,all", [10, 50, 200, None]), ("10, 50", [10, 50]), ("5,All", [5, None]),
])  # fmt: skip
def test_numbers_of_labels(words: str | None, counts: Any) -> None:
    assert label_counts(words) == counts


@pytest.mark.parametrize("words", ["", "ten", "10,", "0", "-3", "10,,20", "1.5", "0,10"])
def test_what_is_no_number_of_labels(words: str) -> None:
    with pytest.raises(typer.BadParameter, match="--labels"):
        label_counts(words)


def test_seeds_are_whole_numbers() -> None:
    assert whole("0, 1,2", "--seeds") == [0, 1, 2]
    with pytest.raises(typer.BadParameter, match="--seeds '0,x'"):
        whole("0,x", "--seeds")


@pytest.mark.parametrize(("words", "found"), [
    (("adapt", "r", "--task", "t", "--labels", "10", "--seeds", "3"), "go with several numbers of labels"),
    (("adapt", "r", "--task", "t", "--baselines", "scratch"), "go with several numbers of labels"),
    (("adapt", "r", "--task", "t", "--labels", "10,20", "--after", "x"), "--after and --leave-out go with one number"),
    (("adapt", "r", "--task", "t", "--labels", "some"), "is no number of patients"),
    (("continual", "r", "--tasks", "a,,b"), "--tasks"),
    (("continual", "r"), "--tasks"),
])  # fmt: skip
def test_wrong_usage_is_said_before_anything_is_read(words: tuple[str, ...], found: str) -> None:
    done = run(*words)
    assert done.exit_code == 2, done.output
    assert found in done.output


def test_a_run_that_is_not_there() -> None:
    for words in (("continual", "nowhere", "--tasks", "a,b"), ("adapt", "nowhere", "--task", "a", "--labels", "2,4")):
        done = run(*words)
        assert done.exit_code == 1
        assert "no run in nowhere" in done.stderr


def test_a_curve_on_the_screen_and_as_json(tiny_run: Run, tmp_path: Path) -> None:
    words = (
        "adapt",
        tiny_run.path,
        "--task",
        "finding",
        "--method",
        "probe",
        "--labels",
        "4,all",
        "--seeds",
        1,
        "--into",
        tmp_path,
    )
    done = run(*words, "--baselines", "plain")
    assert done.exit_code == 0, done.stderr
    assert "pretrained" in done.stdout
    assert "The pretrained against plain" in done.stdout
    assert {p.name for p in tmp_path.iterdir()} == {"answers", "labels.json", "labels.html"}
    told = json.loads(run(*words, "--baselines", "plain", "--json").stdout)
    first = told["curve"]["points"][0]
    assert (first["arm"], first["labels"]) == ("pretrained", 4)
    refused = run(*words[:-4], "--into", tmp_path, "--baselines", "oracle")
    assert (refused.exit_code, "no baseline 'oracle'" in refused.stderr) == (1, True)


def test_a_sequence_on_the_screen_and_as_json(tiny_run: Run, tmp_path: Path) -> None:
    words = (
        "continual",
        tiny_run.path,
        "--tasks",
        "finding,survival",
        "--method",
        "probe",
        "--seeds",
        "0",
        "--into",
        tmp_path,
    )
    done = run(*words)
    assert done.exit_code == 0, done.stderr
    assert "finding (auroc)" in done.stdout
    assert "No forgetting is shown" in done.stdout
    told = json.loads(run(*words, "--json").stdout)
    assert told["ways"][0]["measures"]["forgetting"]["value"] == 0
    refused = run(*words, "--protect", "ewc")
    assert (refused.exit_code, "the protection 'ewc' of probe" in refused.stderr) == (1, True)
