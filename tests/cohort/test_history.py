"""Events of health records in the catalogue: one record a patient, whatever the number of files that speak of it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from polyclinic.cohort import Cohort
from polyclinic.cohort.parts import Rows
from polyclinic.records import events
from polyclinic.schema import Events, Modality

DAY = lambda d: datetime(2020, 1, d)


def told(*rows: tuple[str, datetime | None, str, float | None]) -> Events:
    patient, time, code, value = zip(*rows, strict=True)
    columns = {"patient": patient, "time": time, "code": code, "numeric_value": value}
    return Events(pa.table({k: pa.array(v, events.SCHEMA.field(k).type) for k, v in columns.items()}))


def take(cohort: Cohort, unit: str, *items: Any, version: str = "1") -> None:
    rows = Rows(Path("/source"))
    rows.take(items, unit, version)
    rows.finish({unit: version}, unit, version)
    cohort.commit(rows)


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    made = Cohort.create(tmp_path / "c")
    take(
        made,
        "labs.csv",
        told(("A", DAY(1), "LOINC 1", 5.0), ("B", DAY(4), "LOINC 1", 6.0), ("A", None, "GENDER//F", None)),
    )
    take(made, "births.csv", told(("A", datetime(1960, 1, 1), "MEDS_BIRTH", None), ("A", DAY(6), "ICD10 J18", None)))
    return made


def test_a_person_is_one_record_of_all_its_files(cohort: Cohort) -> None:
    a, b = sorted(cohort.records(), key=lambda r: r.patient)
    assert (a.patient, a.modality, a.kind, a.time) == ("A", Modality.TABLE, events.KIND, DAY(1))
    assert a.attributes == {"age": 60.0, "dead": False, "events": 2, "sex": "F"}
    assert b.attributes == {"age": None, "dead": False, "events": 1, "sex": None}
    payload = cohort.load(a)
    assert payload.names == ("GENDER//F", "LOINC 1", "ICD10 J18")
    assert payload.array.tolist() == [[1, 0], [5, 0], [1, 120]]
    assert cohort.events("B")["numeric_value"].to_pylist() == [6.0]
    assert cohort.query("select count(*) as n from events")["n"].to_pylist() == [5]


def test_a_file_that_changed_is_a_new_version_and_the_old_one_stays(cohort: Cohort) -> None:
    before = {r.patient: r.id for r in cohort.records()}
    take(cohort, "labs.csv", told(("A", DAY(1), "LOINC 1", 7.0), ("B", DAY(4), "LOINC 1", 6.0)), version="2")
    after = {r.patient: r for r in cohort.records()}
    assert before["A"] != after["A"].id
    assert before["B"] == after["B"].id  # another file, the same facts
    assert cohort.load(after["A"]).array.tolist() == [[7, 0], [1, 120]]
    stored = cohort.query(
        "select numeric_value from stored_events where patient = 'A' and code = 'LOINC 1' order by turn"
    )
    assert stored["numeric_value"].to_pylist() == [5.0, 7.0]


def test_what_a_half_read_file_said_does_not_count(cohort: Cohort) -> None:
    rows = Rows(Path("/source"))
    rows.take([told(("C", DAY(1), "LOINC 1", 1.0))], "cut.csv", "1")
    cohort.commit(rows)
    assert cohort.patients() == ["A", "B"]
    assert "C" not in cohort.events()["patient"].to_pylist()


def test_a_patients_name_is_no_sql(cohort: Cohort) -> None:
    take(cohort, "odd.csv", told(("O'Neill", DAY(1), "LOINC 1", 1.0)))
    assert cohort.events("O'Neill")["numeric_value"].to_pylist() == [1.0]
    assert len(cohort.events("x' or 'a' = 'a")) == 0
