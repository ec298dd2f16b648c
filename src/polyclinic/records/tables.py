"""CSV tables: one TABLE record a row, its cells typed; also gzipped, or one in a zip."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..schema import Modality, Payload, Record, Rejected, Scalar
from .source import RecordError, content_id, open_text, parse_time, place_id

PATIENT_COLUMNS = (
    "patientid", "patient", "subjectid", "subject", "caseid", "mrn", "personid", "patientunitstayid", "participantid",
)  # fmt: skip
TIME_COLUMNS = ("time", "datetime", "date", "studydate", "admittime", "charttime", "visitdate")
UNKNOWN = frozenset({"", "?", "na", "n/a", "nan", "null", "none", "unknown", "todo", "would have been stated"})
"""Spellings of not knowing: the cell is absent, which is neither zero nor no."""

_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".csv.zip")


def plain(name: str) -> str:
    """A column's name without case and separators: `Patient ID` → `patientid`."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def recognises(path: Path, head: bytes) -> bool:
    """Whether the name says CSV or TSV (also packed)."""
    return path.name.lower().endswith(_SUFFIXES) and (b"\x00" not in head or path.suffix.lower() in {".gz", ".zip"})


def rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The row's number (the first below the header is 1) and its cells.

    Raises:
        RecordError: no header, or a name stands twice in it.
    """
    csv.field_size_limit(1 << 24)
    with open_text(path) as stream:
        delimiter = "\t" if ".tsv" in path.name.lower() else ","
        lines = (line for line in stream if not line.startswith("##"))
        reader = csv.reader(lines, delimiter=delimiter)
        header = next(reader, None)
        if not header or len(header) < 2:
            if header and ";" in header[0]:
                raise RecordError("a header separated by ';'", "a comma or a tab", "export the table with commas")
            raise RecordError("a table without a header", "a first row of column names", "add it")
        names = [name.strip().lstrip("\ufeff") for name in header]
        twice = {n for n in names if n and names.count(n) > 1} if len(names) < 500 else set()
        if twice:
            raise RecordError(f"the column name {sorted(twice)[0]!r} twice", "every name once", "rename one of them")
        for number, cells in enumerate(reader, start=1):
            if cells:
                yield number, dict(zip(names, cells, strict=False))


def find(columns: Sequence[str], wanted: Sequence[str]) -> str | None:
    """The first of `wanted` (plain names) among the columns, in the wanted order."""
    by_plain = {plain(c): c for c in reversed(columns) if c}
    return next((by_plain[w] for w in wanted if w in by_plain), None)


def typed(cell: str) -> Scalar:
    """A cell's value: a number where it is one, None where it says that it does not know, else the words."""
    text = cell.strip()
    if text.lower() in UNKNOWN:
        return None
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else None


def patient_name(cell: str) -> str:
    """A patient's identifier as text; what a spreadsheet made a float of loses its `.0`."""
    text = cell.strip()
    return text[:-2] if re.fullmatch(r"\d+\.0", text) else text


def read(path: Path) -> Iterator[Record | Rejected]:
    """One record a row; a row without a patient is set aside with its number."""
    source, stem = content_id(path), path.name.split(".")[0]
    patient_column = time_column = None
    first = True
    for number, row in rows(path):
        if first:
            patient_column, time_column = find(list(row), PATIENT_COLUMNS), find(list(row), TIME_COLUMNS)
            first = False
            if patient_column is None:
                raise RecordError(
                    f"a table with the columns {', '.join(list(row)[:12])}",
                    "one that names the patient: " + ", ".join(PATIENT_COLUMNS),
                    "rename that column",
                )
        assert patient_column is not None
        patient = patient_name(row.get(patient_column, ""))
        uri = f"{path}#row={number}"
        if not patient:
            yield Rejected(uri, f"row {number} without a patient", f"a value in {patient_column!r}", "fill it in")
            continue
        values = {c: typed(v) for c, v in row.items() if c and c != patient_column}
        site = next(
            (str(values[c]) for c in values if plain(c) in {"site", "hospital", "location"} and values[c]), None
        )
        yield Record(
            id=place_id(source, f"row={number}"),
            patient=patient,
            time=parse_time(row.get(time_column, "")) if time_column else None,
            modality=Modality.TABLE,
            kind=f"table {stem}",
            uri=uri,
            site=site,
            attributes=values,
        )


def events(cells: Mapping[str, Scalar]) -> tuple[list[str], list[float]]:
    """A row as events: a number is `column` and its value, a word is `column=word` and 1."""
    names, values = [], []
    for column, value in cells.items():
        if value is None:
            continue
        if isinstance(value, str):
            names.append(f"{column}={value}")
            values.append(1.0)
        else:
            names.append(column)
            values.append(float(value))
    return names, values


def load(record: Record) -> Payload:
    """The row's events: array (e 2) value and hours (0: a row has one time), names the codes."""
    names, values = events(record.attributes)
    array = np.stack([np.asarray(values, dtype=np.float64), np.zeros(len(values))], axis=1)
    return Payload(array, names=tuple(names))
