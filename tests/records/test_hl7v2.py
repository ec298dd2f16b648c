from __future__ import annotations

import base64
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyclinic import records
from polyclinic.records import hl7v2
from polyclinic.schema import Events, Modality, Record, Rejected

HEAD = "MSH|^~\\&|LAB|NORTH|EHR|NORTH|20200101120000||ORU^R01|1|P|2.5.1"
PID = "PID|1||555^^^NORTH^PI~123456^^^NORTH^MR||Doe^Jane||19500601|F||2106-3^White^HL70005"
OBR = "OBR|1|||24323-8^Metabolic panel^LN|||20200101103000+0100"


def message(*segments: str, head: str = HEAD, pid: str = PID) -> str:
    return "\r".join([head, pid, *segments]) + "\r"


def take(path: Path) -> tuple[list[dict[str, Any]], list[Record], list[str]]:
    with path.open("rb") as file:
        assert hl7v2.recognises(path, file.read(4096))
    found = list(hl7v2.read(path, path.parent))
    rows = [row for item in found if isinstance(item, Events) for row in item.table.to_pylist()]
    return rows, [r for r in found if isinstance(r, Record)], [r.found for r in found if isinstance(r, Rejected)]


def results(path: Path, *segments: str) -> list[tuple[Any, ...]]:
    path.write_bytes(message(OBR, *segments).encode())
    rows, _, _ = take(path)
    who = {"MEDS_BIRTH", "GENDER//F", "RACE//White"}
    return [(r["code"], r["numeric_value"], r["unit"], r["text_value"]) for r in rows if r["code"] not in who]


def words(record: Record, folder: Path) -> str | None:
    from dataclasses import replace

    return hl7v2.load(replace(record, uri=str(folder / record.uri))).text


def test_who_and_what_and_when(tmp_path: Path) -> None:
    (tmp_path / "a.hl7").write_bytes(
        message(
            "PV1|1|I|W^389^1||||||||||||||||V77", OBR, "OBX|1|NM|2160-0^Creatinine^LN^CREA^Krea^L||106.08|umol/L^^UCUM|||||F",
            "OBX|2|NM|CREA^Krea^L^2160-0^Creatinine^LN||1.3|mg/dl|||||F|||202001020915",
        ).encode()
    )  # fmt: skip
    rows, made, aside = take(tmp_path / "a.hl7")
    assert not made
    assert not aside
    assert {(r["patient"], r["site"]) for r in rows} == {("123456", "NORTH")}
    assert [(r["time"], r["code"]) for r in rows] == [
        (datetime(1950, 6, 1), "MEDS_BIRTH"), (None, "GENDER//F"), (None, "RACE//White"),
        (datetime(2020, 1, 1, 10, 30), "LOINC 2160-0"), (datetime(2020, 1, 2, 9, 15), "LOINC 2160-0"),
    ]  # fmt: skip
    assert (rows[3]["numeric_value"], rows[3]["unit"], rows[3]["encounter"]) == (
        pytest.approx(1.2, rel=1e-3),
        "mg/dL",
        "V77",
    )


@pytest.mark.parametrize(
    ("obx", "expected"),
    [
        ("OBX|1|NM|1^a^LN||-1.5e2||||||F", [("LOINC 1", -150.0, None, None)]),
        ("OBX|1|NM|1^a^LN||<5|mg/L|||||F", [("LOINC 1", 5.0, "mg/L", "<")]),
        ("OBX|1|NM|1^a^LN||hemolysed|mg/L|||||F", []),
        ("OBX|1|SN|1^a^LN||<^5|mg/L|||||F", [("LOINC 1", 5.0, "mg/L", "<")]),
        ("OBX|1|SN|1^a^LN||^1^:^128||||||F", [("LOINC 1", None, None, "1:128")]),
        ("OBX|1|SN|1^a^LN||^3^-^5|/HPF|||||F", [("LOINC 1", None, "/HPF", "3-5")]),
        ("OBX|1|CE|1^a^LN||260385009^Negative^SCT||||||F", [("LOINC 1", None, None, "SNOMED 260385009")]),
        ("OBX|1|CWE|1^a^LN||NEG^Negative^99LAB^260385009^Negative^SCT||||||F", [("LOINC 1", None, None, "SNOMED 260385009")]),
        ("OBX|1|CWE|1^a^LN||^Not seen||||||F", [("LOINC 1", None, None, "Not seen")]),
        ("OBX|1|ST|1^a^LN||0.01|ng/mL|||||F", [("LOINC 1", pytest.approx(0.01), "ng/mL", None)]),
        ("OBX|1|ST|1^a^LN||12||||||F", [("LOINC 1", None, None, "12")]),
        ("OBX|1|ST|1^a^LN||O Rh\\T\\D pos \\H\\now\\N\\ \\X41\\\\E\\\\F\\||||||F", [("LOINC 1", None, None, "O Rh&D pos now A\\|")]),
        ("OBX|1|NM|1^a^LN||1~2~3||||||F", [("LOINC 1", float(n), None, None) for n in (1, 2, 3)]),
        ('OBX|1|ST|1^a^LN||""||||||F', []),
        ("OBX|1|ST|^House test||pos||||||F", [("local House test", None, None, "pos")]),
        ("OBX|1|ST|HT^House test^99LAB||pos||||||F", [("99LAB HT", None, None, "pos")]),
        *((f"OBX|1|NM|1^a^LN||1||||||{status}", []) for status in "DWXNIO"),
        *((f"OBX|1|NM|1^a^LN||1||||||{status}", [("LOINC 1", 1.0, None, None)]) for status in "CFPRU"),
        ("OBX|1|NM", []), ("OBX", []), ("OBX|1||||", []),
    ],
)  # fmt: skip
def test_every_kind_of_result(tmp_path: Path, obx: str, expected: list[tuple[Any, ...]]) -> None:
    assert results(tmp_path / "a.hl7", obx) == expected


def test_lines_are_one_report_with_its_headings(tmp_path: Path) -> None:
    (tmp_path / "a.hl7").write_bytes(
        message(
            "OBR|1|||71260^CT chest^C4|||20200101103000", "OBX|1|TX|71260&GDT^CT chest||No embolism.||||||F",
            "OBX|2|TX|71260&GDT^CT chest||Lungs\\.br\\clear.~No effusion.||||||F", "OBX|3|FT|71260&IMP^CT chest||Normal.||||||F",
            "OBX|4|TX|71260&IMP^CT chest||Taken back.||||||D", "OBR|2|||X^Second^L|||20200102", "OBX|1|TX|1^a^L||Other.||||||F",
        ).encode()
    )  # fmt: skip
    _, (first, second), aside = take(tmp_path / "a.hl7")
    assert not aside
    assert (first.patient, first.modality, first.kind, first.time) == (
        "123456",
        Modality.TEXT,
        "report CT chest",
        datetime(2020, 1, 1, 10, 30),
    )
    assert words(first, tmp_path) == "FINDINGS:\nNo embolism.\nLungs\nclear.\nNo effusion.\nIMPRESSION:\nNormal."
    assert words(second, tmp_path) == "Other."
    assert first.id != second.id


def test_documents_inside_a_message(tmp_path: Path) -> None:
    page = base64.b64encode(b"<html><body><p>No mass.</p></body></html>").decode()
    (tmp_path / "a.hl7").write_bytes(
        message(
            "TXA|1|DS^Discharge summary|TX|20200105", f"OBX|1|ED|1^a^LN||^TEXT^HTML^Base64^{page}||||||F",
            "OBX|2|ED|1^a^LN||^AP^PDF^Base64^JVBERi0=||||||F", "OBX|3|RP|1^a^LN||http://pacs/1||||||F",
        ).encode()
    )  # fmt: skip
    _, (document,), aside = take(tmp_path / "a.hl7")
    assert (words(document, tmp_path), document.kind, document.time) == (
        "No mass.",
        "report Discharge summary",
        datetime(2020, 1, 5),
    )
    assert aside == ["1 documents behind an address", "1 documents of application/pdf"]


def test_admissions_diagnoses_allergies_vaccines_and_death(tmp_path: Path) -> None:
    dead = PID + "|" * 19 + "20200109|Y"
    (tmp_path / "a.hl7").write_bytes(
        message(
            "PV1|1|I" + "|" * 42 + "20200101|20200109", "DG1|1||E11.9^Diabetes^I10C||20200102|A",
            "AL1|1|DA|7980^Penicillin^RXNORM|SV||20190101",
            "RXA|0|1|20180101||140^Influenza^CVX|1|||||||||||||||CP", "RXA|0|1|20180101||08^HepB^CVX|1||||||||||||||RE|",
            head=HEAD.replace("ORU^R01", "ADT^A03"), pid=dead,
        ).encode()
    )  # fmt: skip
    rows, _, _ = take(tmp_path / "a.hl7")
    assert {(r["code"], r["time"]) for r in rows} == {
        ("MEDS_BIRTH", datetime(1950, 6, 1)), ("GENDER//F", None), ("RACE//White", None), ("MEDS_DEATH", datetime(2020, 1, 9)),
        ("HOSPITAL_ADMISSION//I", datetime(2020, 1, 1)), ("HOSPITAL_DISCHARGE//I", datetime(2020, 1, 9)),
        ("ICD10CM E11.9", datetime(2020, 1, 2)), ("ALLERGY//RxNorm 7980", datetime(2019, 1, 1)), ("CVX 140", datetime(2018, 1, 1)),
    }  # fmt: skip


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
@pytest.mark.parametrize("frame", [("", ""), ("\x0b", "\x1c\r")])
def test_batches_frames_and_line_ends(tmp_path: Path, end: str, frame: tuple[str, str]) -> None:
    one = message(OBR, "OBX|1|NM|1^a^LN||1||||||F")
    other = message(OBR, "OBX|1|NM|1^a^LN||2||||||F", pid=PID.replace("123456", "777"))
    broken = "MSH|^~\\&\rPID\r"
    parts = "".join(frame[0] + text + frame[1] for text in (one, broken, other))
    (tmp_path / "a.txt").write_bytes(f"FHS|^~\\&|LAB\rBHS|^~\\&|LAB\r{parts}BTS|2\rFTS|1\r".replace("\r", end).encode())
    rows, _, _ = take(tmp_path / "a.txt")
    assert [(r["patient"], r["numeric_value"]) for r in rows if r["code"] == "LOINC 1"] == [
        ("123456", 1.0),
        ("777", 2.0),
    ]


@pytest.mark.parametrize(
    ("name", "codec"),
    [("UNICODE UTF-8", "utf-8"), ("8859/1", "latin-1"), ("8859/5", "iso8859-5"), ("", "utf-8"), ("", "cp1252")],
)
def test_the_character_set_of_the_message(tmp_path: Path, name: str, codec: str) -> None:
    text = "Не найдено" if codec == "iso8859-5" else "Fièvre à 39°"
    (tmp_path / "a.hl7").write_bytes(
        message(OBR, f"OBX|1|ST|1^a^LN||{text}||||||F", head=f"{HEAD}||||||{name}").encode(codec)
    )
    rows, _, _ = take(tmp_path / "a.hl7")
    assert rows[-1]["text_value"] == text


def test_other_separators(tmp_path: Path) -> None:
    text = message(OBR, "OBX|1|SN|1^a^LN||<^5|mg/L|||||F").translate(str.maketrans("|^~\\&", "#*!?%"))
    (tmp_path / "a.hl7").write_bytes(text.encode())
    rows, _, _ = take(tmp_path / "a.hl7")
    assert (rows[-1]["numeric_value"], rows[-1]["text_value"], rows[-1]["patient"]) == (5.0, "<", "123456")


def test_what_names_no_patient_or_no_day_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.hl7").write_bytes(message(OBR, "OBX|1|NM|1^a^LN||1||||||F", pid="PID|1").encode())
    assert take(tmp_path / "a.hl7")[2] == ["1 segments of no known patient"]
    (tmp_path / "b.hl7").write_bytes(message("OBR|1|||x", "OBX|1|NM|1^a^LN||1||||||F").encode())
    assert take(tmp_path / "b.hl7")[2] == ["1 results without a code or a day"]


def test_who_somebody_is_is_told_once_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.hl7").write_bytes((message(OBR) * 3).encode())
    assert len(take(tmp_path / "a.hl7")[0]) == 3


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_messages_never_crash(tmp_path: Path, data: st.DataObject) -> None:
    whole = message(
        OBR, "OBX|1|SN|1^a^LN||<^5|mg/L|||||F", "OBX|2|TX|1&IMP||x\\.br\\||||||F", "OBX|3|ED|1||^A^B^Base64^AA==||||||F"
    ).encode()
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else whole)
    for _ in range(data.draw(st.integers(0, 8))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "a.hl7").write_bytes(damaged)
    if hl7v2.recognises(tmp_path / "a.hl7", bytes(damaged)):
        found = [
            item for item in records.read_together(records.Group((tmp_path / "a.hl7",))) if isinstance(item, Record)
        ]
        assert all(isinstance(r.patient, str) for r in found)
