from __future__ import annotations

import csv
import gzip
import io
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyclinic import records
from polyclinic.records import tables
from polyclinic.records.source import LONGEST_ROW
from polyclinic.schema import Events, Modality, Record, Rejected


def read(path: Path, text: str | bytes) -> list[Record | Rejected]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [item for item in records.read(path) if not isinstance(item, Events)]


def rows(items: list[Record | Rejected]) -> list[Record]:
    return [i for i in items if isinstance(i, Record)]


def reasons(items: list[Record | Rejected]) -> list[str]:
    return [i.found for i in items if isinstance(i, Rejected)]


def test_a_row_is_a_record_with_typed_cells(tmp_path: Path) -> None:
    (record,) = rows(
        read(
            tmp_path / "visits.csv",
            "Patient ID,age,finding,date,site,note,empty\n P7 ,64,COVID-19,2020-01-31,3.0,12_34,\n",
        )
    )
    assert (record.patient, record.modality, record.kind, record.site) == ("P7", Modality.TABLE, "table visits", "3")
    assert record.time == datetime(2020, 1, 31)
    assert dict(record.attributes) == {
        "age": 64.0, "finding": "COVID-19", "date": "2020-01-31", "site": 3.0, "note": "12_34", "empty": None,
    }  # fmt: skip
    assert record.uri == "visits.csv#row=1"


@pytest.mark.parametrize(
    "cell", ["", "?", "NA", "n/a", "Unknown", "Would have been stated", " todo ", "-", "nan", "inf", "NULL"]
)
def test_not_knowing_is_neither_zero_nor_no(cell: str) -> None:
    assert tables.typed(cell) is None


@pytest.mark.parametrize(
    ("cell", "value"),
    [("0", 0.0), ("N", "N"), ("-1.5e3", -1500.0), ("No Finding", "No Finding"), ("1,5", "1,5"), ("007", 7.0)],
)
def test_what_is_known_is_kept(cell: str, value: object) -> None:
    assert tables.typed(cell) == value


@pytest.mark.parametrize(
    "name",
    [
        "patient_id",
        "PatientID",
        "patientid",
        "subject_id",
        "case_id",
        "MRN",
        "person_id",
        "Patient",
        "patientunitstayid",
    ],
)
def test_the_patient_is_found_however_it_is_spelt(tmp_path: Path, name: str) -> None:
    (record,) = rows(read(tmp_path / "a.csv", f"x,{name}\n1,12.0\n"))
    assert record.patient == "12"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cells=st.lists(
        st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), min_size=2, max_size=2),
        min_size=1,
        max_size=5,
    )
)
def test_whatever_csv_can_write_is_read_back(tmp_path: Path, cells: list[list[str]]) -> None:
    out = io.StringIO(newline="")
    csv.writer(out).writerows([["patient_id", "a", "b"], *(["P1", *row] for row in cells)])
    path = tmp_path / "a.csv"
    path.write_bytes(out.getvalue().encode())
    with tables.table(path) as (names, found):
        assert names == ["patient_id", "a", "b"]
        assert [row for _, row in found] == [["P1", *row] for row in cells]


def test_the_same_table_packed_in_other_encodings_and_separators(tmp_path: Path) -> None:
    text = "patient_id,größe,finding\nP1,1.5,Müller\nP2,,\n"
    expected = [dict(r.attributes) for r in rows(read(tmp_path / "a.csv", text))]
    assert expected == [{"größe": 1.5, "finding": "Müller"}, {"größe": None, "finding": None}]
    other = {
        "b.csv": text.encode("utf-8-sig"), "c.csv": text.encode("cp1252"), "d.csv": text.encode("utf-16"),
        "e.csv.gz": gzip.compress(text.encode()), "f.tsv": text.replace(",", "\t").encode(), "g.csv": text.replace("\n", "\r\n").encode(),
        "h.csv": text.replace(",", ";").replace("1.5", "1,5").encode(),
        "i.csv": ("## made by\n## a program\n" + text).encode(),
    }  # fmt: skip
    for name, data in other.items():
        assert [dict(r.attributes) for r in rows(read(tmp_path / name, data))] == expected, name


def test_a_row_that_cannot_be_taken_does_not_stop_the_rest(tmp_path: Path) -> None:
    items = read(tmp_path / "a.csv", "patient_id,x\nP1,1\n,2\nP3,3,4\n\nP5\nP6,6\n")
    assert [(r.patient, r.attributes.get("x")) for r in rows(items)] == [("P1", 1.0), ("P5", None), ("P6", 6.0)]
    assert reasons(items) == ["row 2 without a patient", "row 3 of 3 cells"]
    assert [i.uri for i in items if isinstance(i, Rejected)] == ["a.csv#row=2", "a.csv#row=3"]
    assert rows(items)[-1].uri == "a.csv#row=6"  # counted as a spreadsheet does


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name,age\nA,1\n", "a table with the columns name, age"),
        ("patient_id,x,x\nP1,1,2\n", "the column name 'x' twice"),
        ("patient_id\nP1\n", "a table without a header"),
        ("\n\n", "a table without a header"),
        ('patient_id,x\nP1,"' + "open " * 50_000, "row 1, which is no CSV"),
        ("patient_id,x\nP1," + "x" * (LONGEST_ROW + 1), "a row of over 17 million characters"),
        ('patient_id,x\nP1,"' + '","\n' * (LONGEST_ROW // 4 + 9), "a row of over 17 million characters"),
    ],
    ids=["no patient", "twice", "one column", "blank", "unclosed quote", "one enormous line", "one enormous row"],
)
def test_what_is_no_table_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    items = read(tmp_path / "a.csv", text)
    assert not rows(items)
    assert reasons(items)[0].startswith(reason)


def test_rows_before_a_break_are_kept(tmp_path: Path) -> None:
    text = "patient_id,x\n" + "".join(f"P{i},{i * 7919}\n" for i in range(50_000))
    items = read(tmp_path / "a.csv.gz", gzip.compress(text.encode())[:-1000])
    assert len(rows(items)) > 10_000
    assert reasons(items) == ["a broken gzip file (EOFError)"]


def test_a_binary_file_named_csv_is_none(tmp_path: Path) -> None:
    assert reasons(read(tmp_path / "a.csv", bytes(100))) == ["a file of unknown format (.csv)"]


def test_events_are_numbers_and_words(tmp_path: Path) -> None:
    (record,) = rows(read(tmp_path / "a.csv", "patient_id,age,sex,x\nP1,64,M,?\n"))
    payload = records.load(record, tmp_path)
    assert payload.names == ("age", "sex=M")
    assert np.array_equal(payload.array, [[64, 0], [1, 0]])


SENTENCES = (
    "No fever since the day before yesterday, she says.",
    "He coughs at night and has lost four kilos in a month.",
)


def test_words_of_a_patient_are_texts_beside_the_row(tmp_path: Path) -> None:
    text = f'patient_id,date,age,story\nP1,2020-01-31,64,"{SENTENCES[0]}"\nP2,2020-02-28,7,\nP3,,8,"{SENTENCES[1]}"\n'
    found = rows(read(tmp_path / "visits.csv", text))
    assert [(r.patient, r.modality.value, r.kind) for r in found] == [
        ("P1", "table", "table visits"), ("P1", "text", "story"), ("P2", "table", "table visits"), ("P3", "table", "table visits"),
        ("P3", "text", "story"),
    ]  # fmt: skip
    texts = [r for r in found if r.modality is Modality.TEXT]
    assert texts[0].time == datetime(2020, 1, 31)
    assert texts[0].uri == "visits.csv#column=story&row=1"
    assert [records.load(r, tmp_path).text for r in texts] == list(SENTENCES)
    assert "age" not in texts[0].attributes


def test_a_table_without_patients_is_encounters_where_it_has_words(tmp_path: Path) -> None:
    text = "ID,header,told,written\n" + "".join(
        f'{7 + i},GENHX,"Doctor: and then?\nPatient: {a}","{b}"\n'
        for i, (a, b) in enumerate([SENTENCES, SENTENCES[::-1]])
    )
    found = rows(read(tmp_path / "TrainingSet.csv", text))
    assert [(r.patient, r.kind) for r in found] == [
        ("TrainingSet 7", "told"), ("TrainingSet 7", "written"), ("TrainingSet 8", "told"), ("TrainingSet 8", "written"),
    ]  # fmt: skip
    assert {r.modality for r in found} == {Modality.TEXT}
    assert {(r.attributes["fold"], r.attributes["header"]) for r in found} == {("train", "GENHX")}
    assert records.load(found[2], tmp_path).text == f"Doctor: and then?\nPatient: {SENTENCES[1]}"


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        (["Tumour suppressor", "Protein kinase"], "too few words"),
        ([SENTENCES[0]] * 4, "always the same"),
        (["Great Hospital of the Valley, Room 7, Old Town, Valley"], "a long address, alone"),
        (["", " "], "nothing"),
    ],
)
def test_a_column_of_codes_is_none_of_words(tmp_path: Path, cells: list[str], why: str) -> None:
    text = "ID,x\n" + "".join(f'{i},"{cell}"\n' for i, cell in enumerate(cells))
    assert reasons(read(tmp_path / "a.csv", text)) == ["a table with the columns ID, x"], why


def test_words_are_found_again_in_any_block_and_any_format(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"patient_id": [f"P{i}" for i in range(700)], "note": [f"{SENTENCES[0]} ({i})" for i in range(700)]}
    )
    table.to_csv(tmp_path / "a.csv", index=False)
    table.to_csv(tmp_path / "b.csv.gz", index=False)
    table.to_parquet(tmp_path / "c.parquet")
    for name in ("a.csv", "b.csv.gz", "c.parquet"):
        texts = [r for r in records.read(tmp_path / name) if isinstance(r, Record) and r.modality is Modality.TEXT]
        assert len(texts) == 700
        for number in (699, 0, 255, 256, 511, 512):
            assert records.load(texts[number], tmp_path).text == f"{SENTENCES[0]} ({number})"


def test_a_row_that_names_a_file_and_nobody_is_about_the_file(tmp_path: Path) -> None:
    (record,) = rows(read(tmp_path / "scores.csv", "filename,extent\nimages/scan_1.png,2.7\n"))
    assert (record.patient, record.attributes["extent"], record.attributes["anonymous"]) == ("scan_1", 2.7, True)
    assert records.load(record, tmp_path).names == ("filename=images/scan_1.png", "extent")
    (text,) = rows(read(tmp_path / "told.csv", f'image,report\nscan_1.png,"{SENTENCES[0]}"\n'))[1:]
    assert (text.modality, text.attributes["about_file"]) == (Modality.TEXT, "scan_1.png")


def test_ways_of_not_knowing_are_kept_apart_and_are_no_event(tmp_path: Path) -> None:
    text = "patient_id,icu,alive,tube\nP1,Would have been stated,?,\n"
    (record,) = rows(read(tmp_path / "a.csv", text))
    assert dict(record.attributes) == {
        "icu": None, "icu as written": "would have been stated", "alive": None, "alive as written": "?", "tube": None,
    }  # fmt: skip
    assert records.load(record, tmp_path).names == ()


def test_the_real_chest_table_keeps_its_three_ways_of_not_knowing_apart_from_no(shared_data: Path) -> None:
    every = [r for r in records.read(shared_data / "covid-chestxray/metadata.csv") if isinstance(r, Record)]
    found = [r for r in every if r.modality is Modality.TABLE]
    with (shared_data / "covid-chestxray/metadata.csv").open(newline="") as file:
        source = list(csv.DictReader(file))
    assert len(found) == len(source)
    for column in ("survival", "finding", "went_icu"):
        told = {s[column] for s in source} - {"", "?", "Would have been stated", "todo"}
        assert {r.attributes[column] for r in found} - {None} == told
    assert sum(r.attributes["finding"] is None for r in found) == sum(s["finding"] == "todo" for s in source) > 0
    notes = [r for r in every if r.kind == "clinical notes"]
    assert len(notes) == sum(bool(s["clinical_notes"]) for s in source) == 291
    for spelling in ("?", "Would have been stated"):
        said = sum(cell == spelling for s in source for cell in s.values())
        kept = sum(
            v == spelling.lower() for r in found for k, v in r.attributes.items() if k.endswith(tables.AS_WRITTEN)
        )
        assert kept == said


def test_real_conversations_come_in_with_the_section_written_from_them(shared_data: Path) -> None:
    folds = {
        "TrainingSet": ("train", 1201),
        "ValidationSet": ("validation", 100),
        "TestSet-1-MEDIQA-Chat-2023": ("test", 200),
    }
    for name, (fold, n) in folds.items():
        path = shared_data / f"mts-dialog/MTS-Dialog-{name}.csv"
        found = [r for r in records.read(path) if isinstance(r, Record)]
        with path.open(newline="") as file:
            source = list(csv.DictReader(file))
        for kind, column in (("dialogue", "dialogue"), ("section text", "section_text")):
            mine = [r for r in found if r.kind == kind]
            assert len(mine) == len(source) == n
            assert {r.attributes["fold"] for r in mine} == {fold}
            assert [r.attributes["section_header"] for r in mine] == [s["section_header"] for s in source]
            for i in (0, n // 2, n - 1):
                assert (records.load(mine[i], path.parent).text or "").split() == source[i][column].split()
