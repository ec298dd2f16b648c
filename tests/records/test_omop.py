from __future__ import annotations

import gzip
import zipfile
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyclinic.records import omop
from polyclinic.records.source import RecordError
from polyclinic.schema import Events, Modality, Record, Rejected
from reading import by

CONCEPTS = """concept_id,concept_name,vocabulary_id,concept_code
3016723,Creatinine,LOINC,2160-0
8840,milligram per deciliter,UCUM,mg/dL
8749,micromole per liter,UCUM,umol/L
201826,Type 2 diabetes mellitus,SNOMED,44054006
9201,Inpatient Visit,Visit,IP
45884084,Positive,LOINC,LA6576-8
"""
MEASUREMENTS = """MEASUREMENT_ID,PERSON_ID,MEASUREMENT_CONCEPT_ID,MEASUREMENT_DATE,MEASUREMENT_DATETIME,OPERATOR_CONCEPT_ID,\
VALUE_AS_NUMBER,VALUE_AS_CONCEPT_ID,UNIT_CONCEPT_ID,UNIT_SOURCE_VALUE,MEASUREMENT_SOURCE_VALUE,VALUE_SOURCE_VALUE,VISIT_OCCURRENCE_ID
1,7,3016723,2020-01-01,2020-01-01 10:30:00,4171756,88.4,0,8749,,CREA,88.4,5
2,7,3016723,2020-01-02,,0,1.1,0,0,mg/dl,CREA,1.1,
3,8,0,2020-01-02,,0,,45884084,0,,NITRITE,pos,
4,8,0,2020-01-02,,0,,0,0,,NITRITE,trace,
5,8,999,2020-01-02,,0,3,0,0,,,3,
6,,3016723,2020-01-02,,0,3,0,0,,,3,
7,8,3016723,,,0,3,0,0,,,3,
"""


read = partial(by, omop)


def rows(path: Path) -> list[dict[str, Any]]:
    return [row for item in read(path) if isinstance(item, Events) for row in item.table.to_pylist()]


def reasons(path: Path) -> list[str]:
    return [item.found for item in read(path) if isinstance(item, Rejected)]


def test_concepts_beside_it_name_codes_units_and_answers(tmp_path: Path) -> None:
    (tmp_path / "MEASUREMENT.csv").write_text(MEASUREMENTS)
    (tmp_path / "CONCEPT.csv").write_text(CONCEPTS)
    found = rows(tmp_path / "MEASUREMENT.csv")
    assert [(r["patient"], r["code"], r["unit"], r["text_value"]) for r in found] == [
        ("7", "LOINC 2160-0", "mg/dL", "<"), ("7", "LOINC 2160-0", "mg/dL", None), ("8", "source NITRITE", None, "LOINC LA6576-8"),
        ("8", "source NITRITE", None, "trace"), ("8", "OMOP 999", None, None),
    ]  # fmt: skip
    assert [r["numeric_value"] for r in found[:2]] == pytest.approx([1.0, 1.1], rel=1e-3)
    assert (found[0]["source_value"], found[0]["source_unit"], found[0]["encounter"]) == (88.4, "umol/L", "5")
    assert [r["time"] for r in found[:2]] == [datetime(2020, 1, 1, 10, 30), datetime(2020, 1, 2)]
    assert reasons(tmp_path / "MEASUREMENT.csv") == ["1 rows without a patient or a code", "1 rows without a time"]


def test_without_concepts_the_source_code_or_the_concepts_number_stays(tmp_path: Path) -> None:
    (tmp_path / "measurement.csv").write_text(MEASUREMENTS)
    assert [r["code"] for r in rows(tmp_path / "measurement.csv")] == [
        "source CREA", "source CREA", "source NITRITE", "source NITRITE", "OMOP 999",
    ]  # fmt: skip


def test_packed_or_as_parquet_it_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "concept.csv").write_text(CONCEPTS)
    (tmp_path / "measurement.csv").write_text(MEASUREMENTS)
    plain = rows(tmp_path / "measurement.csv")
    (tmp_path / "b").mkdir()
    with gzip.open(tmp_path / "b/measurement.csv.gz", "wt") as file:
        file.write(MEASUREMENTS)
    with gzip.open(tmp_path / "b/concept.csv.gz", "wt") as file:
        file.write(CONCEPTS)
    assert rows(tmp_path / "b/measurement.csv.gz") == plain
    (tmp_path / "c").mkdir()
    for name, text in (("measurement", MEASUREMENTS), ("concept", CONCEPTS)):
        head, *lines = [line.split(",") for line in text.splitlines()]
        table = pa.table({h.lower(): [line[i] or None for line in lines] for i, h in enumerate(head)})
        pq.write_table(table, tmp_path / f"c/{name}.parquet")
    assert rows(tmp_path / "c/measurement.parquet") == plain


def test_people_births_of_a_year_alone_deaths_and_stays(tmp_path: Path) -> None:
    (tmp_path / "person.csv").write_text(
        "person_id,gender_concept_id,year_of_birth,month_of_birth,day_of_birth,birth_datetime,race_source_value\n"
        "1,8532,1950,6,1,,white\n2,8507,1960,6,,,\n3,0,1970,,,,\n4,8507,,,,1980-01-01 03:00:00,\n"
    )
    assert sorted((r["patient"], r["code"], r["time"]) for r in rows(tmp_path / "person.csv") if r["time"]) == [
        ("1", "MEDS_BIRTH", datetime(1950, 6, 1)), ("2", "MEDS_BIRTH", datetime(1960, 6, 15)),
        ("3", "MEDS_BIRTH", datetime(1970, 7, 1)), ("4", "MEDS_BIRTH", datetime(1980, 1, 1, 3)),
    ]  # fmt: skip
    assert sorted((r["patient"], r["code"]) for r in rows(tmp_path / "person.csv") if not r["time"]) == [
        ("1", "GENDER//F"), ("1", "RACE//white"), ("2", "GENDER//M"), ("4", "GENDER//M"),
    ]  # fmt: skip
    (tmp_path / "death.csv").write_text("person_id,death_date,death_datetime\n1,2020-05-06,\n")
    assert [(r["code"], r["time"]) for r in rows(tmp_path / "death.csv")] == [("MEDS_DEATH", datetime(2020, 5, 6))]
    (tmp_path / "concept.csv").write_text(CONCEPTS)
    (tmp_path / "visit_occurrence.csv").write_text(
        "visit_occurrence_id,person_id,visit_concept_id,visit_start_date,visit_end_date\n5,1,9201,2020-01-01,2020-01-09\n"
        "6,1,9202,2020-02-01,2020-02-01\n"
    )
    assert sorted((r["time"], r["code"]) for r in rows(tmp_path / "visit_occurrence.csv")) == [
        (datetime(2020, 1, 1), "Visit IP"), (datetime(2020, 1, 9), "Visit IP end"), (datetime(2020, 2, 1), "OMOP 9202"),
    ]  # fmt: skip


def test_a_note_is_a_text_record(tmp_path: Path) -> None:
    (tmp_path / "note.csv").write_text(
        "note_id,person_id,note_date,note_title,note_text\n"
        '1,7,2020-01-01,Discharge,"No fever,\nno ""cough""."\n2,7,2020-01-02,,\n3,8,,,Well.\n'
    )
    first, empty, last = read(tmp_path / "note.csv")
    assert isinstance(first, Record)
    assert (first.patient, first.modality, first.kind, first.time) == (
        "7",
        Modality.TEXT,
        "note Discharge",
        datetime(2020, 1, 1),
    )
    assert isinstance(empty, Rejected)
    assert isinstance(last, Record)
    assert omop.load(replace(first, uri=str(tmp_path / first.uri))).text == 'No fever,\nno "cough".'
    assert omop.load(replace(last, uri=str(tmp_path / last.uri))).text == "Well."


def test_broken_rows_are_counted_and_the_others_read(tmp_path: Path) -> None:
    (tmp_path / "death.csv").write_text(
        "person_id,death_date\n1,2020-05-06\n2,2020-05-06,too,many\n3,2020-05-07\n4,2020-15-45\n"
    )
    assert [r["patient"] for r in rows(tmp_path / "death.csv")] == ["1", "3"]
    assert reasons(tmp_path / "death.csv") == ["1 rows without a time", "1 rows that are no rows of the table"]


def test_other_countries_files(tmp_path: Path) -> None:
    text = "person_id;condition_concept_id;condition_start_date;condition_source_value\n1;0;2020-05-06;Fièvre\n"
    for name, encoding in (("a", "utf-8-sig"), ("b", "cp1252"), ("c", "utf-16")):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "condition_occurrence.csv"
        path.write_bytes(text.encode(encoding))
        assert [(r["patient"], r["code"]) for r in rows(path)] == [("1", "source Fièvre")], encoding


def test_what_cannot_be_read_is_refused_without_a_word_of_it(tmp_path: Path) -> None:
    (tmp_path / "death.csv").write_bytes(b"person_id,death_date\nSmith\xff\xfe\x00,2020-05-06\n" * 3 + b"\x00" * 100)
    (tmp_path / "death.parquet").write_bytes(b"PAR1 Smith PAR1")
    for name in ("death.csv", "death.parquet"):
        try:
            told = (
                repr(reasons(tmp_path / name))
                if name.endswith("csv")
                else repr(list(omop.read(tmp_path / name, tmp_path)))
            )
        except RecordError as error:
            told = str(error)
        assert "Smith" not in told


def test_tables_about_codes_are_named_and_left(tmp_path: Path) -> None:
    (tmp_path / "concept.csv").write_text(CONCEPTS)
    assert reasons(tmp_path / "concept.csv") == [
        "an OMOP table (concept), which names the codes of the tables beside it"
    ]


@pytest.mark.parametrize("name", ["it's'); drop", "a*", "we[i]rd", "wh?t", "person_id=7", "code=x"])
def test_a_strange_name_is_a_name(tmp_path: Path, name: str) -> None:
    for other in (name, "aa", "weird"):
        (tmp_path / other).mkdir()
    (tmp_path / name / "death.csv").write_text("person_id,death_date\n1,2020-05-06\n")
    (tmp_path / "aa/death.csv").write_text("person_id,death_date\n2,2020-05-06\n")
    assert [r["patient"] for r in rows(tmp_path / name / "death.csv")] == ["1"]
    pq.write_table(pa.table({"person_id": ["1"], "death_date": ["2020-05-06"]}), tmp_path / name / "death.parquet")
    assert [r["patient"] for r in rows(tmp_path / name / "death.parquet")] == ["1"]


def test_what_a_table_is_read_with(tmp_path: Path) -> None:
    (tmp_path / "measurement.csv").write_text(MEASUREMENTS)
    assert omop.companions(tmp_path / "measurement.csv") == ()
    (tmp_path / "CONCEPT.csv").write_text(CONCEPTS)
    assert omop.companions(tmp_path / "measurement.csv") == (tmp_path / "CONCEPT.csv",)


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("omop") / "death.parquet"
    pq.write_table(pa.table({"person_id": list(range(50)), "death_date": ["2020-01-01"] * 50}), path)
    return path.read_bytes()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_parquet_never_crashes(parquet: bytes, tmp_path: Path, data: st.DataObject) -> None:
    damaged = bytearray(parquet[: data.draw(st.integers(0, len(parquet)))] if data.draw(st.booleans()) else parquet)
    for _ in range(data.draw(st.integers(0, 4))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "death.parquet"
    path.write_bytes(damaged)
    if not omop.recognises(path, bytes(damaged[:4096])):
        return
    with suppress(OSError, RecordError, pa.ArrowException):  # which `records.read` gives its reason
        list(omop.read(path, tmp_path))


def test_a_row_without_end_and_a_bomb_are_refused(tmp_path: Path) -> None:
    (tmp_path / "death.csv").write_text("person_id,death_date\n1," + "9" * 20_000_000)
    with suppress(RecordError):
        assert not rows(tmp_path / "death.csv")
    with gzip.open(tmp_path / "person.csv.gz", "wb") as file:
        file.write(b"person_id,gender_concept_id,year_of_birth\n" + b"0" * (1 << 25))
    with (tmp_path / "person.csv.gz").open("rb") as file:
        assert not omop.recognises(tmp_path / "person.csv.gz", file.read(4096)), "its second row unpacks beyond bound"


def test_one_row_repeated_without_end_is_refused(tmp_path: Path) -> None:
    one = pa.array(["1"]).dictionary_encode()
    many = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), 4_000_000), one.dictionary)
    pq.write_table(
        pa.table({"person_id": many, "death_date": many}), tmp_path / "death.parquet", row_group_size=4_000_000
    )
    assert (tmp_path / "death.parquet").stat().st_size < 40_000
    with pytest.raises(RecordError, match="rows a byte"):
        rows(tmp_path / "death.parquet")


def test_the_synthetic_hospital(shared_data: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(next((shared_data / "synthea-omop").glob("*.zip"))) as archive:
        archive.extractall(tmp_path, [n for n in archive.namelist() if "__MACOSX" not in n])
    found: dict[str, Counter[str]] = {}
    aside: dict[str, str] = {}
    for path in sorted(tmp_path.rglob("*.parquet")):
        with path.open("rb") as file:
            assert omop.recognises(path, file.read(4096)), path.name
        found[path.stem] = Counter(r["code"] for r in rows(path))
        aside[path.stem] = next(iter(reasons(path)), "")
    concepts = {
        c["concept_id"]: f"{c['vocabulary_id']} {c['concept_code']}"
        for c in pq.read_table(next(tmp_path.rglob("concept.parquet"))).to_pylist()
    }
    for name, what in (
        ("measurement", "measurement"),
        ("condition_occurrence", "condition"),
        ("drug_exposure", "drug"),
    ):
        table = pq.read_table(next(tmp_path.rglob(f"{name}.parquet")))
        expected = Counter(concepts.get(c) for c in table[f"{what}_concept_id"].to_pylist() if c)
        assert found[name].total() == len(table)
        assert all(found[name][code] == n for code, n in expected.items() if code)
    assert found["person"]["MEDS_BIRTH"] == 28
    assert found["death"] == {"MEDS_DEATH": 3}
    assert aside["note"] == "a table without rows"
    assert not aside["measurement"]
