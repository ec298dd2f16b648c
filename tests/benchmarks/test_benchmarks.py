"""Every benchmark runs, and says what it found in the form that `make bench` reads. No test asserts a time."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
NAMES = sorted(p.stem for p in (REPOSITORY / "benchmarks").glob("*.py") if not p.stem.startswith("_"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_benchmark_runs_and_reports(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--quick"],
        cwd=REPOSITORY, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    *table, last = done.stdout.strip().splitlines()
    assert len(table) > 2
    figure = json.loads(last)
    assert {"name", "ours", "peer", "unit", "ratio", "n", "equal_output"} <= figure.keys()
    assert figure["name"] == name
    assert figure["n"] >= 1
    assert all(math.isfinite(figure[key]) and figure[key] > 0 for key in ("ours", "peer", "ratio"))
    assert len(figure["equal_output"]) > 20
