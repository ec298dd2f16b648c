from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from polyclinic.cohort import Cohort, CohortError, ingest
from polyclinic.cohort.engine import engine

PROGRAM = """
import sys
from polyclinic.cohort import ingest
from polyclinic.cohort.engine import engine

def root(x):
    if x < 0:
        raise ValueError("below zero")
    return x ** 0.5

if __name__ == "__main__":
    ingest(sys.argv[1], sys.argv[2], workers=2, engine="ray")
    with engine("ray", 2) as each:
        assert list(each(root, [4, 9, *range(100)])) == [2, 3, *(x ** 0.5 for x in range(100))]
        assert list(each(root, [])) == []
        try:
            list(each(root, [1, -1]))
        except ValueError as error:
            assert str(error) == "below zero"
        else:
            raise AssertionError
"""


def whole(cohort: Cohort) -> object:
    return cohort.records(), cohort.rejected()


@pytest.mark.slow
def test_two_workers_of_a_ray_cluster_make_the_same_catalogue(hospital: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    source = hospital / "radiology"
    answer = subprocess.run(
        [sys.executable, tmp_path / "program.py", source, tmp_path / "ray"], capture_output=True, text=True, timeout=300
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert whole(Cohort.open(tmp_path / "ray")) == whole(ingest(source, tmp_path / "here"))


def test_one_worker_is_this_process() -> None:
    with engine("processes", 1) as each:
        assert each is map


def test_a_killed_process_is_told_and_not_waited_for() -> None:
    code = (
        "import os, signal\nfrom polyclinic.cohort.engine import engine\nfrom polyclinic.cohort import CohortError\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        "        with engine('processes', 2) as each:\n"
        "            list(each(os._exit, [3, 3]))\n"
        "    except CohortError as error:\n"
        "        print(error.found)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert answer.stdout == "a reading process that was killed, perhaps for want of memory\n"
    assert issubclass(CohortError, Exception)
