"""The curves of labels: the page has every arm at every number, says where curves cross, and what is done is not done again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.results.label_curves import TASKS, crossings, page, recipe

from polyclinic.schema import Figure
from polyclinic.trust import LabelCurve
from polyclinic.trust.comparisons.label_curve import Point

REPOSITORY = Path(__file__).parents[2]
NUMBERS = (10, 100, 1000)
MEANS = {
    "pretrained": (0.6, 0.7, 0.8),
    "scratch": (0.5, 0.7, 0.9),
    "plain": (0.5, 0.6, 0.7),
    "text alone": (0.5, 0.8, 0.9),
}


def figure(value: float) -> Figure:
    return Figure("auroc", value, value - 0.1, value + 0.1, 40, "abc")


def curve() -> LabelCurve:
    points = tuple(
        Point(arm, n, n, figure(at), (at,), None if arm == "pretrained" else figure(first - at))
        for arm, means in MEANS.items() for n, at, first in zip(NUMBERS, means, MEANS["pretrained"], strict=True)
    )  # fmt: skip
    return LabelCurve("r", "survival", "auroc", "lora", ("text",), (0, 1), points, (), (), "abc")


def test_where_the_means_cross() -> None:
    scratch, plain, alone = crossings(curve())
    assert scratch == "scratch: level at 100 labels; ahead at 10; behind at 1000"
    assert plain == "plain: ahead at every number"
    assert alone == "text alone: falls behind between 10 and 100 labels (at about 32); ahead at 10; behind at 100, 1000"


def test_the_page_has_every_arm_at_every_number(tmp_path: Path) -> None:
    curve().write(tmp_path / "bladder/curve")
    told = page(tmp_path)
    assert "## Survival of bladder cancer" in told
    assert "## Pneumonia" not in told  # it was not run
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in told.splitlines() if line.startswith("|")]
    at = {r[0]: [c.split()[0] for c in r[1:]] for r in rows}
    assert at["pretrained"] == ["0.600", "0.700", "0.800"]
    assert at["*pretrained − scratch*"] == ["+0.100", "+0.000", "−0.100"]
    assert at[""] == ["10", "100", "1000"]


@pytest.mark.parametrize("of", sorted(TASKS))
def test_the_recipe_has_the_task(of: str) -> None:
    assert TASKS[of] in recipe(of, small=False).tasks


@pytest.mark.slow
def test_it_runs_and_goes_on(tmp_path: Path) -> None:
    again = lambda: subprocess.run(
        [sys.executable, "-m", "benchmarks.results.label_curves", "--quick", "--out", str(tmp_path)],
        cwd=REPOSITORY, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    done = again()
    assert done.returncode == 0, done.stderr[-2000:]
    made = (tmp_path / "label-curves.md").read_text()
    assert made in done.stdout
    answers = sorted((tmp_path / "phantom/curve/answers").iterdir())
    before = [place.stat().st_mtime_ns for place in answers]
    assert again().returncode == 0
    assert [place.stat().st_mtime_ns for place in answers] == before
