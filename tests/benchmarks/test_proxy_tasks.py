"""The comparison of the four proxy tasks runs from a simulated hospital to its page."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_page_has_every_proxy_task_and_every_number_of_labels(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/results/proxy_tasks.py", "--quick", "--out", str(tmp_path)],
        cwd=REPOSITORY, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    page = (tmp_path / "proxy-tasks-phantom.md").read_text()
    assert page in done.stdout
    head, _, *rows = [line for line in page.splitlines() if line.startswith("|")]
    columns = [cell.strip() for cell in head.strip("|").split("|")]
    assert columns == ["pretraining", "steps", "tokens", "zero-shot", "1-shot", "5-shot", "20-shot", "linear probe"]
    assert [row.split("|")[1].strip() for row in rows] == [
        "segmentation", "generative", "contrastive", "hybrid", "untrained", "pixels",
    ]  # fmt: skip
    for row in rows:
        cells = row.split("|")[4:9]
        for cell in cells[1:] if "pixels" in row else cells:
            value, low, _, high = cell.replace("(", "").replace(")", "").split()
            assert 0 <= float(low) <= float(value) <= float(high) <= 1
