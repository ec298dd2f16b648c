"""Tables of intensive care (MIMIC-III and -IV, eICU), and any long table of patient, time, code and value: events.

A table is known by its columns; what else it takes to say whose a row is and when (admissions, stays) lies beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..schema import Events, Payload, Record, Rejected
from . import eicu, mimic, note_tables, relational
from .relational import Layout, columns, layout_of, opened, read_events
from .source import RecordError, place_of

_PATIENT = ("patient_id", "patientid", "patient", "subject_id", "subjectid", "subject", "person_id", "mrn")
_TIME = ("time", "datetime", "timestamp", "charttime", "date", "taken_at", "event_time", "collected", "result_time")
_CODE = (
    "code", "loinc", "loinc_code", "item", "itemid", "test", "test_name", "analyte", "parameter", "concept", "measurement", "lab", "event",
)  # fmt: skip
_VALUE = ("value", "result", "numeric_value", "valuenum", "test_result", "result_value")
_UNIT = ("unit", "units", "uom", "valueuom", "unit_of_measure")
_MOST = 12
"""Columns of a long table; a wider one has a record a row, and is `tables`' own."""

_TABLES = mimic.TABLES | eicu.TABLES
LAYOUTS = (*mimic.LAYOUTS, *mimic.NOTE_LAYOUTS, *eicu.LAYOUTS)


def _long(path: Path, head: bytes) -> Layout | None:
    """A long table: a column each for the patient, the time, the code and the value, and perhaps for the unit."""
    found = columns(path, head)
    names = [next((n for n in wanted if n in found), None) for wanted in (_PATIENT, _TIME, _CODE, _VALUE, _UNIT)]
    patient, time, code, value, unit = names
    if len(found) > _MOST or not (patient and time and code and value):
        return None
    called = f"'LOINC ' || t.{code}" if code.startswith("loinc") else f't."{code}"'
    query = f"""
        select name(t."{patient}") as patient, t."{time}" as time, {called} as code, num(t."{value}") as numeric_value,
            words(t."{value}") as text_value, {f't."{unit}"' if unit else "null"} as unit from long t"""
    return Layout("long", frozenset(n for n in names if n), query)


def _layout(path: Path, head: bytes) -> Layout | None:
    return layout_of(path, head, LAYOUTS) or _long(path, head)


def recognises(path: Path, head: bytes) -> bool:
    """Whether it has the columns of one of their tables, or is a long one."""
    return _layout(path, head) is not None


def _known(path: Path) -> Layout:
    with path.open("rb") as file:
        layout = _layout(path, file.read(4096))
    if layout is None:
        raise RecordError("a table of no known columns", "those of MIMIC or eICU", "export it again")
    return layout


def companions(path: Path) -> tuple[Path, ...]:
    """The files beside it that its rows are read with."""
    return relational.companions(path, _known(path))


def read(path: Path, root: Path) -> Iterator[Record | Rejected | Events]:
    """A table's events in chunks, or a note a row; a table that holds none is set aside, saying what it is for."""
    layout, place = _known(path), place_of(path, root)
    if layout.why:
        raise RecordError(f"a table ({layout.name}), {layout.why}", "a table of events", "keep it where it is")
    if layout in mimic.NOTE_LAYOUTS:
        yield from note_tables.read(path, layout, _TABLES, place)
        return
    with opened(path, layout, {**_TABLES, "long": " ".join(sorted(layout.key))}) as connection:
        yield from read_events(connection, layout.query, place)


def load(record: Record) -> Payload:
    """A note's words in `Payload.text`; events are loaded from the catalogue."""
    path = Path(record.uri.rsplit("#", 1)[0])
    return note_tables.load(record, path, _known(path), _TABLES)
