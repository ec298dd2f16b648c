"""Events of health records in the MEDS schema: their columns, whose they are, and one person's as a payload.

Source: the Medical Event Data Standard 0.4, `DataSchema`; subjects are named as the hospital names them, and numbered when exported.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from ..schema import Modality, Payload, Record
from .source import RecordError

pc: Any = pyarrow.compute  # its functions are made when it is imported, and no type checker knows them

KIND = "EHR events"
BIRTH, DEATH = "MEDS_BIRTH", "MEDS_DEATH"
SEX = "GENDER//"
"""The code of a person's sex, followed by F or M; it has no time."""

_TEXT, _TIME = pa.string(), pa.timestamp("us")
_COLUMNS = {
    "patient": _TEXT, "time": _TIME, "code": _TEXT, "numeric_value": pa.float32(), "text_value": _TEXT, "unit": _TEXT,
    "source_value": pa.float64(), "source_unit": _TEXT, "encounter": _TEXT, "site": _TEXT,
}  # fmt: skip
SCHEMA = pa.schema(list(_COLUMNS.items()))
_OF_ONE = {
    "patient": _TEXT, "first": _TIME, "last": _TIME, "events": pa.int64(), "born": _TIME, "died": _TIME, "sex": _TEXT,
    "site": _TEXT, "digest": _TEXT,
}  # fmt: skip
PEOPLE = pa.schema(list(_OF_ONE.items()))


def whole(table: pa.Table) -> pa.Table:
    """A reader's events with every column of `SCHEMA`, in the order of patient and time.

    Raises:
        RecordError: a column that is not of the schema, or an event without a patient or a code.
    """
    strange = [name for name in table.column_names if name not in SCHEMA.names]
    if strange or not {"patient", "code"} <= set(table.column_names):
        raise RecordError(
            f"events with the columns {', '.join(table.column_names)}", f"those of {', '.join(SCHEMA.names)}"
        )
    if table["patient"].null_count or table["code"].null_count:
        raise RecordError("an event without a patient or a code", "both in every event", "see the reader")
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in SCHEMA
    ]
    return pa.table(columns, schema=SCHEMA).sort_by(
        [("patient", "ascending"), ("time", "ascending"), ("code", "ascending")]
    )


def people(table: pa.Table) -> pa.Table:
    """Whose the events are: a row a patient, with what identifies its events whatever their order.

    Args:
        table: as `whole` gives it.
    """
    if not len(table):
        return PEOPLE.empty_table()
    who = table["patient"].combine_chunks()
    starts = [
        0,
        *(np.flatnonzero(pc.not_equal(who[1:], who[:-1]).to_numpy(zero_copy_only=False)) + 1).tolist(),
        len(table),
    ]
    told = _told(table)
    return pa.Table.from_pylist([_person(table.slice(a, b - a), told[a:b]) for a, b in pairwise(starts)], PEOPLE)


def _told(table: pa.Table) -> list[str]:
    """Each event in one line."""
    texts = [pc.fill_null(pc.cast(table[name], pa.string()), "") for name in SCHEMA.names]
    return pc.binary_join_element_wise(*texts, "\x1f").to_pylist()


def _person(rows: pa.Table, told: list[str]) -> dict[str, Any]:
    code = rows["code"]
    moment = lambda which: pc.min(rows["time"].filter(pc.equal(code, which))).as_py()
    lived = rows["time"].filter(pc.invert(pc.is_in(code, pa.array([BIRTH, DEATH])))).drop_null()
    sex = next((c.removeprefix(SEX) for c in code.filter(pc.starts_with(code, SEX)).to_pylist()), None)
    return {
        "patient": rows["patient"][0].as_py(),
        "first": pc.min(lived).as_py(),
        "last": pc.max(lived).as_py(),
        "events": len(lived),
        "born": moment(BIRTH),
        "died": moment(DEATH),
        "sex": sex,
        "site": next(iter(rows["site"].drop_null().unique().to_pylist()), None),
        "digest": hashlib.blake2b("\n".join(sorted(told)).encode(), digest_size=16).hexdigest(),
    }


def record(person: dict[str, Any], uri: str) -> Record:
    """The one record that stands for a patient's events.

    Args:
        person: a row of `people`; of several sources, all of them taken together.
        uri: where the events lie.
    """
    born: datetime | None = person["born"]
    last: datetime | None = person["last"] or person["died"]
    age = round((last - born).days / 365.25, 1) if born and last else None
    return Record(
        id=person["digest"], patient=person["patient"], time=person["first"], modality=Modality.TABLE, kind=KIND, uri=uri,
        site=person["site"], attributes={"sex": person["sex"], "age": age, "events": person["events"], "dead": person["died"] is not None},
    )  # fmt: skip


def of(table: pa.Table, patient: str) -> pa.Table:
    """One patient's events."""
    return table.filter(pc.equal(table["patient"], patient))


def payload(table: pa.Table) -> Payload:
    """One patient's events: array (e 2) value and hours since the first; names the codes with their unit, as in `LOINC 2160-0 [mg/dL]`.

    An event without a number counts 1. Birth is an age and death an answer, and neither is among them; what has no time (sex)
    stands at the beginning.

    Args:
        table: in the columns of `SCHEMA`.
    """
    table = whole(table)
    table = table.filter(pc.invert(pc.is_in(table["code"], pa.array([BIRTH, DEATH]))))
    unit = table["unit"]
    names = pc.if_else(
        pc.is_valid(unit),
        pc.binary_join_element_wise(table["code"], " [", pc.fill_null(unit, ""), "]", ""),
        table["code"],
    )
    words = table["text_value"]
    spoken = pc.and_(pc.is_valid(words), pc.is_null(table["numeric_value"]))
    names = pc.if_else(spoken, pc.binary_join_element_wise(table["code"], pc.fill_null(words, ""), "="), names)
    value = pc.fill_null(table["numeric_value"], 1.0).to_numpy()
    stamps = table["time"].cast(pa.int64()).to_numpy(zero_copy_only=False).astype(np.float64)  # NaN where there is none
    hours = (stamps - (np.nanmin(stamps) if np.isfinite(stamps).any() else 0.0)) / 3.6e9
    order = np.argsort(np.nan_to_num(hours, nan=-1.0), kind="stable")
    array = np.stack([value.astype(np.float64), np.nan_to_num(hours)], axis=1)[order]
    return Payload(array, names=tuple(names.take(pa.array(order)).to_pylist()))
