from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyedflib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic import records
from polyclinic.cohort.ingest import ingest
from polyclinic.records.edf_gaps import MOST_RUNS, runs
from polyclinic.schema import Rejected
from reading import refused, taken
from recordings import with_gaps

START = datetime(2020, 1, 2, 3, 4, 5)
TYPES = {".edf": pyedflib.FILETYPE_EDFPLUS, ".bdf": pyedflib.FILETYPE_BDFPLUS}
NOTES = ((0.5, -1, "eyes open"), (62.25, 1.5, "spike"), (64.0, -1, "paused"), (3600.0, -1, "end"))


def write(path: Path, seconds: int = 10, labels: tuple[str, ...] = ("EEG Fz", "SpO2")) -> np.ndarray:
    """(2 t) a ramp at 100 Hz, in a file with one-second data records and with notes; and one of a sample a second."""
    most = 8388607 if path.suffix == ".bdf" else 32767
    fast, slow = np.linspace(-90, 90, 100 * seconds), np.linspace(80, 99, seconds)
    with pyedflib.EdfWriter(str(path), len(labels), file_type=TYPES[path.suffix]) as writer:
        writer.setPatientCode("P7")
        writer.setStartdatetime(START)
        for i, label in enumerate(labels):
            bounds = {"physical_max": 100, "physical_min": -100, "digital_max": most, "digital_min": -most - 1}
            rate = 1 if label == "SpO2" else 100
            told = {"label": label, "dimension": "uV", "sample_frequency": rate, "transducer": "", "prefilter": ""}
            writer.setSignalHeader(i, told | bounds)
        writer.writeSamples([slow if label == "SpO2" else fast for label in labels])
        for note in NOTES:
            writer.writeAnnotation(*note)
    return fast


@pytest.mark.parametrize("suffix", [".edf", ".bdf"])
def test_each_unbroken_run_is_a_record_with_its_own_time_and_notes(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    ramp = write(path)
    with_gaps(path, [0, 1, 2, 60.5, 61.5, 62.5, 63.5, 3600, 3601, 3602])
    found = taken(path)
    assert [r.uri.partition("#")[2] for r in found] == [f"group={g}&run={n}" for n in (1, 2, 3) for g in (1, 2)]
    assert len({r.id for r in found}) == 6
    fast, slow = found[::2], found[1::2]
    seconds = [0, 60.5, 3600]
    assert [r.time for r in fast] == [r.time for r in slow] == [START + timedelta(seconds=s) for s in seconds]
    assert [(r.attributes["run"], r.attributes["runs"], r.attributes["onset_s"]) for r in fast] == [
        (n, 3, s) for n, s in enumerate(seconds, start=1)
    ]
    assert [r.attributes["seconds"] for r in fast] == [3, 4, 3]
    step = 200 / (2**24 if suffix == ".bdf" else 2**16)
    for record, part in zip(fast, (ramp[:300], ramp[300:700], ramp[700:]), strict=True):
        payload = records.load(record, tmp_path)
        assert payload.array.shape == (1, len(part))
        assert np.abs(payload.array[0] - part).max() < step + 1e-5
    assert [records.load(r, tmp_path).array.shape for r in slow] == [(1, 3), (1, 4), (1, 3)]
    # A note in a gap belongs to the run before it; onsets count from the run's begin.
    notes = [json.loads(str(r.attributes.get("annotations", "[]"))) for r in fast]
    assert notes == [[[0.5, -1, "eyes open"]], [[1.75, 1.5, "spike"], [3.5, -1, "paused"]], [[0, -1, "end"]]]
    assert all("annotations" not in r.attributes for r in slow)


@pytest.mark.parametrize("suffix", [".edf", ".bdf"])
def test_one_that_may_have_gaps_and_has_none_is_as_one_without(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write(path)
    before = [(r, records.load(r, tmp_path)) for r in taken(path)]
    with_gaps(path, range(10))
    after = [(r, records.load(r, tmp_path)) for r in taken(path)]
    for (one, its), (other, others) in zip(before, after, strict=True):
        assert (one.uri, one.kind, one.patient, one.time) == (other.uri, other.kind, other.patient, other.time)
        assert one.attributes == other.attributes
        assert np.array_equal(its.array, others.array)


def test_samples_are_those_that_edflib_reads(tmp_path: Path) -> None:
    """The same data records, cut by hand into files without gaps, through the library."""
    path = tmp_path / "a.edf"
    write(path, labels=("EEG Fz",))
    whole = path.read_bytes()
    with pyedflib.EdfReader(str(path)) as reader:
        theirs = reader.readSignal(0).astype(np.float32)
    with_gaps(path, [0, 1, 2, 3, 4, 6, 7, 8, 9, 10])
    ours = [records.load(r, tmp_path).array[0] for r in taken(path)]
    assert len(whole) == path.stat().st_size
    np.testing.assert_allclose(np.concatenate(ours), theirs, rtol=0, atol=1e-5)


def blank(data: bytes) -> bytes:
    return data.replace(b"+60.5\x14\x14", b"\0\0\0\0\0\0\0")


@pytest.mark.parametrize(
    ("starts", "change", "reason"),
    [
        ([0, 1, 2, 60.5, 61.5, 5, 63, 64, 65, 66], bytes, "an EDF+D recording whose data record 6 begins before"),
        ([0, 1, 1.5, 60.5, 62, 63, 64, 65, 66, 67], bytes, "an EDF+D recording whose data record 3 begins before"),
        ([0, 1, 2, 60.5, 62, 63, 64, 65, 66, 67], blank, "an EDF+D recording whose data record 4 does not say when"),
        (range(10), lambda d: d.replace(b"+3\x14\x14", b"x3\x14\x14"), "a note in data record 4"),
        (range(10), lambda d: d.replace(b"EDF Annotations", b"EDF annotations"), "an EDF+D recording without a signal"),
    ],
)
def test_times_that_contradict_each_other_are_refused(
    tmp_path: Path, starts: list[float], change: Callable[[bytes], bytes], reason: str
) -> None:
    path = tmp_path / "a.edf"
    write(path)
    with_gaps(path, starts)
    path.write_bytes(change(path.read_bytes()))
    assert refused(path).startswith(reason)


def test_a_list_of_moments_is_set_aside_with_the_bound(tmp_path: Path) -> None:
    path = tmp_path / "a.edf"
    write(path, seconds=MOST_RUNS + 1)
    with_gaps(path, [3 * n for n in range(MOST_RUNS + 1)])
    (item,) = records.read(path)
    assert isinstance(item, Rejected)
    assert (item.found, item.expected) == ("an EDF+D recording in 257 unbroken runs", "at most 256")
    write(path, seconds=MOST_RUNS + 1)
    with_gaps(path, [*(3 * n for n in range(MOST_RUNS)), 3 * MOST_RUNS - 2])
    assert len(taken(path)) == 2 * MOST_RUNS


def times(starts: list[float]) -> list[np.ndarray]:
    lists = [f"+{start:.3f}\x14\x14\0".encode().ljust(24, b"\0") for start in starts]
    return [np.frombuffer(b"".join(lists), np.uint8).reshape(len(lists), -1)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_runs_part_the_recording_wherever_time_was_left_out(pauses: list[int]) -> None:
    starts = (np.cumsum(pauses) + 0.5 * np.arange(len(pauses))).tolist()
    found = runs(times(starts), 0.5, 100)
    assert [n for run in found for n in range(run.first, run.first + run.records)] == list(range(len(starts)))
    assert [run.onset_s for run in found] == [s for n, s in enumerate(starts) if n == 0 or pauses[n]]


def test_a_clock_written_in_milliseconds_breaks_no_run() -> None:
    starts = [round(n / 3, 3) for n in range(100)]
    assert len(runs(times(starts), 1 / 3, 100)) == 1


def test_a_catalogue_holds_every_run(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "in/a.edf")
    with_gaps(tmp_path / "in/a.edf", [0, 1, 2, 60.5, 61.5, 62.5, 63.5, 3600, 3601, 3602])
    cohort = ingest(tmp_path / "in", tmp_path / "out")
    shapes = sorted(cohort.load(r).array.shape for r in cohort.records())
    assert shapes == [(1, 3), (1, 3), (1, 4), (1, 300), (1, 300), (1, 400)]
