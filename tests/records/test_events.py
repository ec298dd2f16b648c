from __future__ import annotations

import random
from datetime import datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.records import RecordError, events

DAY = lambda d: datetime(2020, 1, d)
ROWS = [
    {"patient": "B", "time": DAY(2), "code": "LOINC 2160-0", "numeric_value": 1.1, "unit": "mg/dL"},
    {"patient": "A", "time": DAY(3), "code": "ICD10 J18.9"},
    {"patient": "A", "time": DAY(1), "code": "LOINC 2160-0", "numeric_value": 0.9, "unit": "mg/dL", "site": "North"},
    {"patient": "A", "time": datetime(1950, 1, 1), "code": "MEDS_BIRTH"},
    {"patient": "A", "time": DAY(9), "code": "MEDS_DEATH"},
    {"patient": "A", "time": None, "code": "GENDER//F"},
    {"patient": "A", "time": DAY(2), "code": "LOINC 882-1", "text_value": "A positive"},
]


def table(rows: list[dict[str, object]]) -> pa.Table:
    columns = sorted({key for row in rows for key in row})
    return pa.table({c: pa.array([row.get(c) for row in rows], events.SCHEMA.field(c).type) for c in columns})


def test_whose_the_events_are_is_summed_up() -> None:
    a, b = events.people(events.whole(table(ROWS))).to_pylist()
    assert {k: a[k] for k in ("patient", "first", "last", "events", "born", "died", "sex", "site")} == {
        "patient": "A", "first": DAY(1), "last": DAY(3), "events": 3, "born": datetime(1950, 1, 1), "died": DAY(9), "sex": "F",
        "site": "North",
    }  # fmt: skip
    assert (b["patient"], b["events"], b["born"], b["sex"]) == ("B", 1, None, None)
    record = events.record(a, "x.json#item=0")
    assert record.attributes == {"sex": "F", "age": 70.0, "events": 3, "dead": True}
    assert events.record(b, "").attributes["age"] is None


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_the_order_in_which_they_come_does_not_matter(seed: int) -> None:
    rows = ROWS * 1
    random.Random(seed).shuffle(rows)
    assert events.people(events.whole(table(rows))) == events.people(events.whole(table(ROWS)))
    one, other = (events.payload(events.of(events.whole(table(r)), "A")) for r in (rows, ROWS))
    assert one.names == other.names
    assert np.array_equal(one.array, other.array)


def test_another_value_is_another_content() -> None:
    digest = lambda rows: {p["patient"]: p["digest"] for p in events.people(events.whole(table(rows))).to_pylist()}
    before = digest(ROWS)
    after = digest([ROWS[0] | {"numeric_value": 1.2}, *ROWS[1:]])
    assert before["A"] == after["A"]
    assert before["B"] != after["B"]


def test_neither_birth_nor_death_is_among_what_a_model_reads() -> None:
    payload = events.payload(events.of(events.whole(table(ROWS)), "A"))
    assert payload.names == ("GENDER//F", "LOINC 2160-0 [mg/dL]", "LOINC 882-1=A positive", "ICD10 J18.9")
    assert np.allclose(payload.array, [[1, 0], [0.9, 0], [1, 24], [1, 48]])


def test_a_person_of_whom_only_the_sex_is_known() -> None:
    payload = events.payload(table([{"patient": "A", "time": None, "code": "GENDER//M"}]))
    assert payload.array.tolist() == [[1.0, 0.0]]
    assert events.payload(events.SCHEMA.empty_table()).array.shape == (0, 2)
    assert len(events.people(events.SCHEMA.empty_table())) == 0


@pytest.mark.parametrize(
    "rows", [[{"patient": None, "code": "x"}], [{"patient": "A", "code": None}]], ids=["no patient", "no code"]
)
def test_an_event_of_nobody_or_nothing_is_refused(rows: list[dict[str, object]]) -> None:
    with pytest.raises(RecordError):
        events.whole(table(rows))


def test_a_column_that_the_schema_has_not_is_named() -> None:
    with pytest.raises(RecordError, match="dose"):
        events.whole(pa.table({"patient": ["A"], "code": ["x"], "dose": [1]}))
