"""The cross-validation of the hippocampus: every patient tests once, what was done is not done again, and the page says what is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks.results.hippocampus import ATLAS, LESS, PRETRAINED, SCRATCH, Cell, Sizes, cells, page

REPOSITORY = Path(__file__).parents[2]


def written(out: Path, fold: int, labels: int | None, arm: str, dice: float) -> None:
    """A fold's answers as a training leaves them: ten patients, the posterior part a tenth worse."""
    rows = dice + np.linspace(-0.02, 0.02, 10)
    found = {
        "fold": fold, "labels": labels, "arm": arm, "seed": 0, "steps": 0 if arm == ATLAS else 600, "learned": labels or 40, "seconds": 9,
        "split": "abc", "patients": [f"{fold}-{n}" for n in range(10)], "dice": np.stack([rows, rows - 0.1], 1).tolist(),
    }  # fmt: skip
    (out / "answers").mkdir(exist_ok=True)
    (out / "answers" / f"{Cell(fold, labels, arm).name}.json").write_text(json.dumps(found))


def test_the_most_wanted_is_done_first() -> None:
    todo = cells(range(5), range(2), (5, 10))
    assert [(c.fold, c.arm) for c in todo[:10]] == [(f, a) for f in range(5) for a in (ATLAS, SCRATCH)]
    assert {(c.fold, c.labels, c.arm) for c in todo[10:]} == {
        *((f, n, a) for f in (0, 1) for n in (5, 10) for a in (SCRATCH, PRETRAINED)), (0, None, PRETRAINED), (1, None, PRETRAINED),
        *((0, None, a) for a in LESS),
    }  # fmt: skip
    assert len({c.name for c in todo}) == len(todo)


def test_the_page_pools_the_folds_and_compares_what_both_arms_answered(tmp_path: Path) -> None:
    for fold, dice in ((0, 0.9), (1, 0.8)):
        written(tmp_path, fold, None, SCRATCH, dice)
        written(tmp_path, fold, 5, SCRATCH, dice - 0.2)
    written(tmp_path, 0, None, ATLAS, 0.5)
    written(tmp_path, 0, None, next(iter(LESS)), 0.85)
    written(tmp_path, 0, 5, PRETRAINED, 0.75)
    told = page(tmp_path, Sizes(), draws=200)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in told.splitlines() if line.startswith("|")]
    scratch = next(row for row in rows if row[0] == SCRATCH and len(row) == 8)
    assert scratch[1:5] == ["2", "20", "40", "600"]
    assert [cell.split()[0] for cell in scratch[5:]] == ["0.800", "0.850", "0.750"]
    atlas = next(row for row in rows if row[0] == ATLAS)
    assert [atlas[4], atlas[5].split()[0]] == ["–", "0.450"]
    (less,) = (row for row in rows if row[0] == next(iter(LESS)))
    assert [cell.split()[0] for cell in less[1:]] == ["1", "10", "0.800", "−0.050"]
    (few,) = (row for row in rows if row[0] == "5")
    assert few[1:4] == ["1", "10", "600"]  # the one fold in which both were run
    assert [cell.split()[0] for cell in few[4:]] == ["0.650", "0.700", "+0.050"]


@pytest.mark.slow
def test_it_runs_and_goes_on(tmp_path: Path) -> None:
    data = REPOSITORY / "examples/hospital/data/neurology/hippocampus"
    again = lambda: subprocess.run(
        [sys.executable, "benchmarks/results/hippocampus.py", "--data", str(data), "--quick", "--out", str(tmp_path)],
        cwd=REPOSITORY, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    done = again()
    assert done.returncode == 0, done.stderr[-2000:]
    made = (tmp_path / "hippocampus.md").read_text()
    assert made in done.stdout
    answers = sorted((tmp_path / "answers").iterdir())
    assert len(answers) == 7
    before = [place.stat().st_mtime_ns for place in answers]
    assert again().returncode == 0
    assert [place.stat().st_mtime_ns for place in answers] == before
