from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from polyclinic.cohort import Cohort, EmptyCohortError, watch


def late(path: Path, words: str, age_s: float = 60.0) -> None:
    """Write a file that nobody has touched for so long."""
    path.write_text(words)
    then = time.time() - age_s
    os.utime(path, (then, then))


def test_what_comes_is_taken_and_what_is_still_written_waits(tmp_path: Path) -> None:
    source = tmp_path / "s"
    source.mkdir()
    late(source / "a.csv", "patient,x\nA,1\n")
    rounds = watch(source, tmp_path / "c", every_s=0.05, settled_s=1.0)
    assert next(rounds).patients() == ["A"]
    late(source / "b.csv", "patient,x\nB,1\n")
    (source / "half.csv").write_text("patient,x\nC,1\n")  # written now: not yet
    assert next(rounds).patients() == ["A", "B"]
    seen = ["A", "B"]
    until = time.monotonic() + 30
    while "C" not in seen and time.monotonic() < until:
        seen = next(rounds).patients()
    assert seen == ["A", "B", "C"]
    (source / "a.csv").unlink()
    assert next(rounds).patients() == ["B", "C"]


def test_an_empty_folder_is_waited_for_and_one_that_is_not_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(EmptyCohortError):
        next(watch(tmp_path / "nowhere", tmp_path / "c"))
    (tmp_path / "s").mkdir()
    code = (
        "import sys, itertools; from polyclinic.cohort import watch\n"
        "print(next(watch(sys.argv[1], sys.argv[2], every_s=0.05, settled_s=0)).patients())"
    )
    asked = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "s"), str(tmp_path / "c")], stdout=subprocess.PIPE, text=True
    )
    time.sleep(1.0)
    assert asked.poll() is None
    late(tmp_path / "s/a.csv", "patient,x\nA,1\n")
    assert asked.communicate(timeout=60)[0] == "['A']\n"


@pytest.mark.slow
def test_the_command_follows_a_folder_until_it_is_stopped(tmp_path: Path, hospital: Path) -> None:
    source = tmp_path / "s"
    shutil.copytree(hospital / "radiology/CXR-0234", source)
    tool = Path(sys.executable).with_name("polyclinic")
    command = [str(tool), "ingest", str(source), "--into", str(tmp_path / "c"), "--watch", "--every", "0.1", "--json"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stderr is not None
    first = run.stderr.readline()
    assert "records (+" in first
    shutil.copytree(hospital / "radiology/CXR-0222", source / "second", copy_function=shutil.copy2)
    assert "records (+" in run.stderr.readline()
    run.send_signal(signal.SIGINT)
    told, _ = run.communicate(timeout=60)
    assert run.returncode == 0
    assert '"patients": 2' in told
    assert Cohort.open(tmp_path / "c").patients() == ["CXR-0222", "CXR-0234"]
