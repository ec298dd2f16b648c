"""What was noted along a WFDB signal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import wfdb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reading import only, parted

RATE = 100


@pytest.fixture
def ecg(tmp_path: Path) -> Path:
    """Ten seconds of one lead."""
    wave = np.sin(np.arange(10 * RATE) / 7)[:, None]
    wfdb.wrsamp("e", fs=RATE, units=["mV"], sig_name=["II"], p_signal=wave, fmt=["16"], write_dir=str(tmp_path))
    return tmp_path / "e.hea"


def note(ecg: Path, ending: str, samples: list[int], codes: list[str], rate: int = RATE) -> None:
    wfdb.wrann("e", ending, np.array(samples), symbol=codes, fs=rate, write_dir=str(ecg.parent))


def test_the_reference_stands_before_what_a_program_noted(ecg: Path) -> None:
    note(ecg, "atr", [50, 150, 420], ["N", "V", "N"])
    note(ecg, "qrs", [51, 149], ["N", "N"])
    said = only(ecg).attributes
    assert (said["annotators"], said["annotator"], said["annotation_count"]) == ("atr qrs", "atr", 3)
    assert said["annotation_codes"] == "N 2, V 1"
    assert json.loads(str(said["annotations"])) == [[0.5, 0.0, "N"], [1.5, 0.0, "V"], [4.2, 0.0, "N"]]


def test_times_are_in_the_annotations_own_rate(ecg: Path) -> None:
    note(ecg, "qrs", [500, 1500], ["N", "N"], rate=1000)
    assert json.loads(str(only(ecg).attributes["annotations"])) == [[0.5, 0.0, "N"], [1.5, 0.0, "N"]]


def test_the_beats_of_a_real_record_are_those_of_its_directory(shared_data: Path) -> None:
    """MIT-BIH Arrhythmia Database Directory, record 100: 2239 normal beats, 33 atrial premature, 1 premature ventricular."""
    said = only(shared_data / "wfdb-samples/100.hea").attributes
    assert said["annotation_codes"] == "N 2239, A 33, + 1, V 1"  # + is the change of rhythm, to normal sinus
    assert json.loads(str(said["annotations"]))[0] == [0.05, 0.0, "+ (N"]


def test_annotations_that_are_none_are_set_aside_and_the_signal_is_taken(ecg: Path) -> None:
    note(ecg, "atr", [50, 5000], ["N", "N"])
    (ecg.parent / "e.qrs").write_bytes(b"")
    (ecg.parent / "e.xyz").write_bytes(b"no annotations at all")
    (record,), reasons = parted(ecg)
    assert "annotations" not in record.attributes
    assert len(reasons) == 3
    assert reasons[0] == "annotations that lie outside their signal"
    assert all(reason.startswith("annotations that ") for reason in reasons)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=400))
def test_random_annotations_never_stop_a_signal(ecg: Path, data: bytes) -> None:
    (ecg.parent / "e.atr").write_bytes(data)
    (record,), _ = parted(ecg)
    assert record.attributes["channels"] == 1
