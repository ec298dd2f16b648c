from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyedflib
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyclinic import records
from polyclinic.cohort.ingest import ingest
from polyclinic.schema import Modality, Record, Rejected
from reading import refused, taken

RANDOM = np.random.default_rng(5)
EEG = RANDOM.uniform(-90, 90, (2, 1000))
SPO2 = np.linspace(90, 99, 10)
FILETYPES = {
    "a.edf": pyedflib.FILETYPE_EDF, "b.edf": pyedflib.FILETYPE_EDFPLUS,
    "c.bdf": pyedflib.FILETYPE_BDF, "d.bdf": pyedflib.FILETYPE_BDFPLUS,
}  # fmt: skip


def write(path: Path, labels: tuple[str, ...] = ("EEG Fpz-Cz", "SpO2", "EEG Pz-Oz"), **header: Any) -> None:
    """Ten seconds at 100 Hz, one signal at 1 Hz, and two notes where the format has them."""
    kind = FILETYPES[path.name]
    with pyedflib.EdfWriter(str(path), len(labels), file_type=kind) as writer:
        about = {"patientcode": "P7", "patientname": "Jane", "sex": 0, "startdate": datetime(2020, 1, 2, 3, 4, 5),
                 "birthdate": "01 jan 1950", "equipment": "amplifier", "technician": "", "admincode": "",
                 "patient_additional": "", "recording_additional": ""}  # fmt: skip
        writer.setHeader(about | header)
        most = 8388607 if kind in (pyedflib.FILETYPE_BDF, pyedflib.FILETYPE_BDFPLUS) else 32767
        for i, label in enumerate(labels):
            about = {"dimension": "%" if label == "SpO2" else "uV", "sample_frequency": 1 if label == "SpO2" else 100}
            bounds = {"physical_max": 100, "physical_min": -100, "digital_max": most, "digital_min": -most - 1}
            writer.setSignalHeader(i, {"label": label, "transducer": "", "prefilter": "", **about, **bounds})
        eeg = iter(EEG)
        writer.writeSamples([SPO2 if label == "SpO2" else next(eeg) for label in labels])
        if path.name in ("b.edf", "d.bdf"):
            writer.writeAnnotation(1.5, 2.0, "Sleep stage W")
            writer.writeAnnotation(4, -1, "Schlafspindel, größer")


@pytest.mark.parametrize("name", list(FILETYPES))
def test_signals_of_one_rate_are_a_record_in_their_unit(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    eeg, slow = taken(tmp_path / name)
    assert (eeg.kind, slow.kind) == ("EEG 2-channel", "signal spo2")
    assert eeg.modality is slow.modality is Modality.SIGNAL
    assert (eeg.time, eeg.id != slow.id) == (datetime(2020, 1, 2, 3, 4, 5), True)
    said = [[r.attributes[k] for k in ("rate_hz", "channels", "seconds", "unit")] for r in (eeg, slow)]
    assert said == [[100, 2, 10, "uV"], [1, 1, 10, "%"]]
    step = 200 / (2**24 if name.endswith("bdf") else 2**16)
    payload = records.load(eeg, tmp_path)
    assert payload.names == ("EEG Fpz-Cz", "EEG Pz-Oz")
    assert payload.array.dtype == np.float32
    assert np.abs(payload.array - EEG).max() < step + 1e-5
    assert payload.to_world is not None
    assert payload.to_world[0, 0] == pytest.approx(0.01)
    assert np.abs(records.load(slow, tmp_path).array[0] - SPO2).max() < step + 1e-5


def test_edf_plus_says_whose_it_is_and_what_was_noted(tmp_path: Path) -> None:
    write(tmp_path / "b.edf")
    first, second = taken(tmp_path / "b.edf")
    assert (first.patient, first.device, first.attributes["anonymous"]) == ("P7", "amplifier", False)
    assert first.attributes["sex"] == "F"
    assert first.attributes["age"] == pytest.approx(70, abs=0.01)
    noted = json.loads(str(first.attributes["annotations"]))
    assert noted == [[1.5, 2, "Sleep stage W"], [4, -1, "Schlafspindel, größer"]]
    assert "annotations" not in second.attributes
    assert "Jane" not in str(first) + str(second)


def test_one_that_says_nothing_is_named_by_its_place(tmp_path: Path) -> None:
    (tmp_path / "sub-03").mkdir()
    write(tmp_path / "sub-03/a.edf", patientcode="", patientname="")
    found = [item for item in records.read(tmp_path / "sub-03/a.edf", tmp_path) if isinstance(item, Record)]
    assert [r.patient for r in found] == ["sub-03", "sub-03"]
    assert found[0].attributes["anonymous"] is True
    write(tmp_path / "b.edf", patientcode="X", startdate=datetime(1985, 1, 1))
    assert [(r.patient, r.time, r.attributes["age"]) for r in taken(tmp_path / "b.edf")] == [("b", None, None)] * 2


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8"])
@pytest.mark.parametrize("name", list(FILETYPES))
def test_letters_outside_ascii_are_read_as_they_were_meant(tmp_path: Path, name: str, encoding: str) -> None:
    write(tmp_path / name)
    plain = [(r, records.load(r, tmp_path).array) for r in taken(tmp_path / name)]
    data = bytearray((tmp_path / name).read_bytes())
    count = int(data[252:256])
    fields = {
        256: (16, "EEG Fpz-Cz é"), 256 + 16 * count: (80, "Elektrode, größer"), 256 + 96 * count: (8, "µV"),
        256 + 96 * count + 16: (8, "µV"),
    }  # fmt: skip
    if name in ("b.edf", "d.bdf"):
        fields[8] = (80, "Grün7 F 01-JAN-1950 Jane")
    for at, (width, words) in fields.items():
        data[at : at + width] = words.encode(encoding).ljust(width)
    (tmp_path / name).write_bytes(data)
    found = taken(tmp_path / name)
    assert [r.attributes["unit"] for r in found] == ["uV", "%"]
    assert {r.patient for r in found} == {"Grün7" if name in ("b.edf", "d.bdf") else plain[0][0].patient}
    payloads = [records.load(r, tmp_path) for r in found]
    assert payloads[0].names == ("EEG Fpz-Cz é", "EEG Pz-Oz")
    for payload, (_, array) in zip(payloads, plain, strict=True):
        assert np.array_equal(payload.array, array)


def test_one_rate_is_the_whole_file(tmp_path: Path) -> None:
    write(tmp_path / "a.edf", labels=("ECG I", "ECG II"))
    (record,) = taken(tmp_path / "a.edf")
    assert (record.uri, record.kind) == ("a.edf", "ECG 2-lead")
    assert records.load(record, tmp_path).array.shape == (2, 1000)


@pytest.mark.parametrize("name", list(FILETYPES))
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.99])
def test_one_that_was_cut_short_is_refused(tmp_path: Path, name: str, share: float) -> None:
    write(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * share)])
    assert refused(tmp_path / name).startswith(
        ("an EDF file that was cut short", "an EDF header that does not parse", "a file of unknown format")
    )


@pytest.mark.parametrize(
    ("at", "text", "reason"),
    [
        (236, b"99999999", "an EDF file that was cut short"),
        (236, b"-1      ", "an EDF recording that was not finished"),
        (236, b"many    ", "an EDF header that does not parse"),
        (252, b"9999", "an EDF header that contradicts itself"),
        (252, b"0   ", "an EDF header that contradicts itself"),
        (244, b"nan     ", "an EDF file without a signal"),
        (244, b"0       ", "an EDF file without a signal"),
        (256 + 216 * 4, b"99999999", "an EDF file that was cut short"),
        (256 + 216 * 4, b"0       ", "an EDF header that contradicts itself"),
        (256 + 104 * 4, b"        ", "an EDF file that does not open (physical minimum)"),
        (168, b"99.99.99", "an EDF file that does not open (the startdate is incorrect)"),
    ],
)
def test_a_hostile_header_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], at: int, text: bytes, reason: str
) -> None:
    write(tmp_path / "b.edf")
    data = bytearray((tmp_path / "b.edf").read_bytes())
    data[at : at + len(text)] = text
    (tmp_path / "b.edf").write_bytes(data)
    capfd.readouterr()
    assert refused(tmp_path / "b.edf").lower().startswith(reason.lower())
    assert capfd.readouterr() == ("", "")  # edflib would print


def test_more_after_the_end_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.edf")
    with (tmp_path / "a.edf").open("ab") as file:
        file.write(b"12")
    assert refused(tmp_path / "a.edf").startswith("an EDF file of another length than its header says")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 255)), min_size=1, max_size=4))
def test_any_changed_byte_is_taken_or_refused(tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    if not (tmp_path / "b.edf").exists():
        write(tmp_path / "b.edf")
    data = bytearray((tmp_path / "b.edf").read_bytes())
    for at, value in changes:
        data[at] = value
    (tmp_path / "e.edf").write_bytes(data)
    for item in records.read(tmp_path / "e.edf"):
        if isinstance(item, Record):
            assert records.load(item, tmp_path).array.shape[0] == item.attributes["channels"]
        else:
            assert isinstance(item, Rejected)
            assert item.found
    os.unlink(tmp_path / "e.edf")


def test_a_catalogue_holds_both_rates(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "in/b.edf")
    cohort = ingest(tmp_path / "in", tmp_path / "out")
    assert sorted(cohort.load(r).array.shape for r in cohort.records()) == [(1, 10), (2, 1000)]
