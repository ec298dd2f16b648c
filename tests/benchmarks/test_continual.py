"""The sequences of tasks: the page has every protection of every hospital that was taught, and what is done is not done again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.results.continual import HOSPITALS, page, recipe

from polyclinic.schema import Figure
from polyclinic.trust.comparisons.continual_figures import Continual, Way
from polyclinic.trust.measures.transfer import MEASURES

REPOSITORY = Path(__file__).parents[2]


def figure(value: float) -> Figure:
    return Figure("auroc", value, value - 0.1, value + 0.1, 40, "abc")


def taught() -> Continual:
    """Two tasks; without protection the first falls from 0.9 to 0.7, with replay it stays."""
    measures = dict.fromkeys(MEASURES, figure(0.0))
    measures |= {"average": figure(0.75), "learned": figure(0.85), "forgetting": figure(0.2)}
    over = dict.fromkeys(MEASURES, figure(0.0)) | {"average": figure(0.1), "forgetting": figure(-0.2)}

    def way(protect: str, last: float, lost: float, ahead: dict[str, Figure]) -> Way:
        rows = ((0.6, 0.6), (0.9, 0.6), (last, 0.8))
        pretraining = {"masked": ((0.25, 0.25), (0.25, 0.25), (lost, 2 * lost))}
        return Way(protect, tuple(tuple(map(figure, row)) for row in rows), (rows, rows), measures, ahead, pretraining)

    none, kept = way("none", 0.7, 1.0, {}), way("replay", 0.9, 0.2, over)
    return Continual(
        "r",
        ("one", "two"),
        ("auroc", "auroc"),
        "full",
        None,
        (0, 1),
        tuple(map(figure, (0.5, 0.5))),
        (none, kept),
        "abc",
    )


def rows(told: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in told.splitlines() if line.startswith("|")]


def test_the_page_says_what_was_forgotten_and_what_each_way_is_ahead(tmp_path: Path) -> None:
    taught().write(tmp_path / "phantom/taught")
    told = page(tmp_path)
    found = rows(told)
    assert "## A simulated hospital" in told
    assert "## Public records" not in told  # it was not run
    (none,) = (r for r in found if r[0] == "none" and len(r) == 7)
    (kept,) = (r for r in found if r[0] == "replay" and len(r) == 7)
    assert none[3].startswith("+0.200 (+0.100 to +0.300)")
    assert none[5:] == ["–", "–"]
    assert [c.split()[0] for c in kept[5:]] == ["+0.100", "−0.200"]
    after = {(r[0], r[1]): [c.split()[0] for c in r[2:]] for r in found if len(r) == 4}
    assert after["–", "pretraining"] == ["[0.600", "[0.600"]
    assert after["none", "one"] == ["0.900", "[0.600"]
    assert after["none", "two"] == ["0.700", "0.800"]
    assert after["replay", "two"] == ["0.900", "0.800"]
    assert ["none", "0.250 → 1.500"] in found
    assert ["replay", "0.250 → 0.300"] in found


@pytest.mark.parametrize("of", sorted(HOSPITALS))
def test_what_is_taught_is_among_the_recipe_s_tasks_and_encoders(of: str) -> None:
    made = recipe(of, small=False)
    for name in HOSPITALS[of].tasks:
        assert set(made.tasks[name].inputs or ()) <= set(made.encoders)


@pytest.mark.slow
def test_it_runs_and_goes_on(tmp_path: Path) -> None:
    again = lambda: subprocess.run(
        [sys.executable, "benchmarks/results/continual.py", "--quick", "--out", str(tmp_path)],
        cwd=REPOSITORY, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    done = again()
    assert done.returncode == 0, done.stderr[-2000:]
    made = (tmp_path / "continual.md").read_text()
    assert made in done.stdout
    answers = sorted((tmp_path / "phantom/taught/answers").iterdir())
    before = [place.stat().st_mtime_ns for place in answers]
    assert again().returncode == 0
    assert [place.stat().st_mtime_ns for place in answers] == before
