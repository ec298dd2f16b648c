from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from polyclinic import doctor

SOUND: dict[str, Any] = {
    "core": {"torch": "2"},
    "extras": {"demo": {"missing": []}},
    "cpu": {"usable": 2},
    "torch": {"threads": 2},
    "environment": {"OMP_WAIT_POLICY": "PASSIVE"},
    "memory": {"available_gib": 8.0},
    "disk": {"free_gib": 50.0},
    "chromium": "/usr/bin/chromium",
}


def test_it_says_what_this_machine_is() -> None:
    found = doctor.examine()
    assert found["polyclinic"] == version("polyclinic")
    assert found["core"]["numpy"] == version("numpy")
    assert found["torch"]["threads"] == torch.get_num_threads()
    assert found["cpu"]["cores"] == psutil.cpu_count()
    assert 1 <= found["cpu"]["usable"] <= psutil.cpu_count()
    assert found["memory"]["total_gib"] <= round(psutil.virtual_memory().total / 2**30, 1)
    assert 0 < found["disk"]["free_gib"] <= found["disk"]["total_gib"]


def test_the_extras_are_those_of_the_project() -> None:
    _, extras = doctor.packages()
    assert {"dicom", "volumes", "signals", "clinic", "demo", "causal"} <= set(extras)
    assert not set(extras) & {"dev", "docs"}
    assert extras["dicom"]["packages"]["pydicom"] == version("pydicom")
    assert extras["dicom"]["missing"] == []
    assert {"pydicom", "nibabel", "wfdb", "lifelines"} <= set(
        extras["demo"]["packages"]
    )  # an extra made of others is theirs
    assert extras["demo"]["install"] == "pip install 'polyclinic[demo]'"
    assert doctor.installed("no-such-package") is None


def test_the_cores_are_those_that_this_process_may_use() -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no affinity")
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {next(iter(before))})
        assert doctor.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"core": {"torch": None}}, "torch is missing from the core"),
        (
            {"extras": {"demo": {"missing": ["x"], "install": "pip install 'polyclinic[demo]'"}}},
            "pip install 'polyclinic[demo]'",
        ),
        ({"torch": {"threads": 8}}, "export OMP_NUM_THREADS=2"),
        ({"environment": {"OMP_WAIT_POLICY": None}}, "export OMP_WAIT_POLICY=PASSIVE"),
        ({"memory": {"available_gib": 1.5}}, "1.5 GiB of memory are free"),
        ({"disk": {"free_gib": 0.3}}, "0.3 GiB of disk are free here"),
        ({"chromium": None}, "apt-get install chromium"),
    ],
)
def test_the_advice_speaks_to_what_is_wrong_and_to_nothing_else(change: dict[str, Any], said: str) -> None:
    assert doctor.advice(SOUND) == []
    (line,) = doctor.advice(SOUND | change)
    assert said in line


def test_a_machine_without_proc_is_described_too(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.exists
    monkeypatch.setattr(Path, "exists", lambda self: False if str(self).startswith(("/proc", "/sys")) else real(self))
    assert doctor.memory() == {"total_gib": None, "available_gib": None}
    assert doctor.processor()["instructions"] == []
    assert doctor.advice(SOUND | {"memory": doctor.memory()}) == []
    assert "polyclinic.doctor" in sys.modules
