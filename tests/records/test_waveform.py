from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import wfdb

from polyclinic import records
from polyclinic.records.waveform import header_of
from polyclinic.schema import Modality, Record
from reading import only, refused


@pytest.fixture
def ecg(tmp_path: Path, hospital: Path) -> Path:
    for path in (hospital / "cardiology").glob("s0010_re.*"):
        shutil.copy(path, tmp_path)
    return tmp_path / "s0010_re.hea"


@pytest.mark.parametrize(
    ("name", "kind", "rate", "when"),
    [
        ("100", "ECG 2-lead", 360, None),
        ("s0010_re", "ECG 12-lead", 1000, None),
        ("a103l", "ECG 2-lead", 250, None),
        ("test01_00s", "ECG 4-lead", 500, None),
        ("03700181", "ECG 1-lead", 125, datetime(1994, 8, 15, 17, 27, 45)),
        ("p10143", "ECG 1-lead", 500, None),
        ("v102s", "ECG 2-lead", 250, None),
    ],
)
def test_real_signals_of_every_storage_format(
    shared_data: Path, name: str, kind: str, rate: float, when: datetime | None
) -> None:
    path = shared_data / "wfdb-samples" / f"{name}.hea"
    record = only(path)
    assert (record.kind, record.attributes["rate_hz"], record.time, record.modality) == (
        kind,
        rate,
        when,
        Modality.SIGNAL,
    )
    payload = records.load(record, path.parent)
    expected = wfdb.rdrecord(str(path.with_suffix("")))
    assert isinstance(expected, wfdb.Record)
    assert expected.p_signal is not None
    assert np.allclose(payload.array, expected.p_signal.T.astype(np.float32), equal_nan=True)
    assert payload.names == tuple(expected.sig_name or ())
    assert payload.to_world is not None
    assert payload.to_world[0, 0] == pytest.approx(1 / rate)


def test_age_and_sex_stand_in_the_comments(shared_data: Path) -> None:
    folder = shared_data / "wfdb-samples"
    assert [only(folder / "s0010_re.hea").attributes[k] for k in ("age", "sex")] == [81, "F"]
    assert [only(folder / "test01_00s.hea").attributes[k] for k in ("age", "sex")] == [25, "M"]
    assert [only(folder / "a103l.hea").attributes[k] for k in ("age", "sex")] == [None, None]


def test_a_patient_is_named_by_a_field_and_not_by_prose(ecg: Path) -> None:
    text = ecg.read_text().replace("patient:", "bed:")
    ecg.write_text(text + "# the patient was at rest\n")
    assert only(ecg).patient == "s0010_re"
    ecg.write_text(text + "# Patient ID: P7\n")
    assert only(ecg).patient == "P7"


def test_another_signal_is_another_record(ecg: Path) -> None:
    before = only(ecg).id
    data = bytearray((ecg.with_suffix(".dat")).read_bytes())
    data[100] ^= 1
    ecg.with_suffix(".dat").write_bytes(data)
    assert only(ecg).id != before


def test_a_header_without_its_signal_is_refused(hospital: Path) -> None:
    assert refused(hospital / "cardiology/12726.hea") == "a WFDB header whose signal file 12726.dat is not there"


def test_a_signal_that_was_cut_short_is_refused(ecg: Path) -> None:
    data = ecg.with_suffix(".dat").read_bytes()
    ecg.with_suffix(".dat").write_bytes(data[: len(data) // 2])
    assert refused(ecg).startswith("a WFDB signal that was cut short")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x 1 500 9999999999999\nx.dat 16 200 16 0 0 0 0 i\n", "a header that promises"),
        ("x 1 500 100000000\nx.dat 16 200 16 0 0 0 0 i\n", "a WFDB signal that was cut short"),
        ("x 1 500\nx.dat 16 200 16 0 0 0 0 i\n", "a WFDB header without a length"),
        ("x 0 500 100\n", "a WFDB header without a signal"),
        ("x/3 2 500 100\na 50\nb 50\nc 50\n", "a WFDB record of several segments"),
        (
            "x 1 500 10\n../secret.dat 16 200 16 0 0 0 0 i\n",
            "a WFDB header that does not parse",
        ),
        ("x 1 500 10\n/etc/passwd 16 200 16 0 0 0 0 i\n", "a WFDB header that does not parse"),
        ("nothing of the kind", "a WFDB header that does not parse"),
        ("#" * (1 << 20) + "#", "a WFDB header of over a megabyte"),
    ],
)
def test_a_hostile_header_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "secret.dat").write_bytes(bytes(1000))
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "x.dat").write_bytes(bytes(1000))
    (folder / "x.hea").write_text(text)
    assert refused(folder / "x.hea").startswith(reason)


def test_what_belongs_to_a_header_and_what_only_lies_beside_it(ecg: Path, hospital: Path) -> None:
    shutil.copy(hospital / "cardiology/12726.hea", ecg.parent)
    for name in ("s0010_re.atr", "s0010_re.txt", "s0010_re.csv", "other.dat", "LICENSE"):
        (ecg.parent / name).write_text("x")
    belongs = {p.name: header_of(p) for p in ecg.parent.iterdir()}
    assert {name for name, header in belongs.items() if header is not None} == {
        "s0010_re.dat",
        "s0010_re.xyz",
        "s0010_re.atr",
    } & set(belongs)
    assert belongs["s0010_re.dat"] == ecg


def test_a_header_cannot_swallow_a_table(tmp_path: Path) -> None:
    (tmp_path / "patients.csv").write_text("patient_id,x\nP1,1\n")
    (tmp_path / "evil.hea").write_text("evil 1 500 10\npatients.csv 16 200 16 0 0 0 0 i\n")
    found = [item for _, item in records.read_patient(sorted(tmp_path.iterdir()))]
    assert [r.patient for r in found if isinstance(r, Record) and r.modality is Modality.TABLE] == ["P1"]
