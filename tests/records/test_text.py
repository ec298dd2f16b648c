from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from polyclinic import records
from polyclinic.schema import Events, Modality, Record, Rejected


def read(path: Path, data: str | bytes) -> Record | Rejected:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    (item,) = records.read(path)
    assert not isinstance(item, Events)
    return item


def test_a_head_says_whose_and_when(tmp_path: Path) -> None:
    item = read(
        tmp_path / "x_1.txt",
        "Patient: P7\nDate: 2020-01-31\nTime: 14:30\nType: radiology note\nSite: A\n\nLungs clear.\n\nType: not a head.\n",
    )
    assert isinstance(item, Record)
    assert (item.patient, item.time, item.kind, item.site) == (
        "P7",
        datetime(2020, 1, 31, 14, 30),
        "radiology note",
        "A",
    )
    assert item.modality is Modality.TEXT
    assert item.attributes["words"] == 6
    assert records.load(item, tmp_path).text == "Lungs clear.\n\nType: not a head."


def test_without_a_head_the_name_does(tmp_path: Path) -> None:
    item = read(tmp_path / "MTS-0001_2.txt", "He coughs.\nDate: none.")
    assert isinstance(item, Record)
    assert (item.patient, item.kind, item.time) == ("MTS-0001", "note", None)
    assert records.load(item, tmp_path).text == "He coughs.\nDate: none."


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_in_every_encoding_the_words_are_the_same(tmp_path: Path, encoding: str) -> None:
    item = read(tmp_path / "a.txt", "Patient: P1\n\nFièvre à 39° – “zyanotisch”.".encode(encoding))
    assert isinstance(item, Record)
    assert item.patient == "P1"
    assert records.load(item, tmp_path).text == "Fièvre à 39° – “zyanotisch”."


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"Patient: P1\n\n  \n", "a note without words"),
        (b"\n\n", "a note without words"),
        (b"word " * 1_700_000, "a note of over 8 MiB"),
        (b"\x00\x01binary", "a file of unknown format (.txt)"),
    ],
)
def test_what_is_no_note_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    item = read(tmp_path / "a.txt", data)
    assert isinstance(item, Rejected)
    assert item.found == reason
