"""CSV tables: one TABLE record a row, its cells typed; also gzipped, or one in a zip.

What makes a row a record is here for every format of tables: Parquet and workbooks give their cells as the text that a CSV
of the same table would have.
"""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path

import numpy as np

from ..schema import Modality, Payload, Record, Rejected, Scalar
from .source import Lines, RecordError, content_id, encoding_of, open_text, parse_time, place_id, place_of

PATIENT_COLUMNS = (
    "patientid", "patient", "subjectid", "subject", "caseid", "mrn", "personid", "patientunitstayid", "participantid", "usubjid",
)  # fmt: skip
TIME_COLUMNS = ("time", "datetime", "date", "studydate", "admittime", "charttime", "visitdate")
SITE_COLUMNS = ("site", "hospital", "location")
UNKNOWN = frozenset(
    {
        "", "?", "-", "--", "na", "n/a", "nan", "null", "none", "unknown", "not known", "not available", "not stated",
        "would have been stated", "todo", "tbd", "unlabelled", "unlabeled",
    }
)  # fmt: skip
"""Spellings of not knowing: the cell is absent, which is neither zero nor no."""

_DECIMAL_COMMA = re.compile(r"^\s*([+-]?\d+),(\d+)\s*$")
_SUFFIXES = tuple(f".{kind}{packed}" for kind in ("csv", "tsv") for packed in ("", ".gz", ".zip"))


def plain(name: str) -> str:
    """A column's name without case and separators: `Patient ID` → `patientid`."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def recognises(path: Path, head: bytes) -> bool:
    """Whether the name says CSV or TSV (also packed)."""
    return path.name.lower().endswith(_SUFFIXES) and (
        b"\x00" not in head or path.suffix.lower() in {".gz", ".zip"} or encoding_of(head) == "utf-16"
    )


@contextmanager
def table(path: Path) -> Iterator[tuple[list[str], Iterator[tuple[int, list[str]]]]]:
    """A table's column names, and its rows as (number, cells): the first below the header is 1, and empty rows are passed over.

    Columns are parted by tabs in a TSV, else by commas, or, as some countries' spreadsheets export, by semicolons with a
    comma in the numbers.

    Raises:
        RecordError: no header, or a name stands twice in it; while it is read, a row that is not one.
    """
    with open_text(path) as stream:
        lines = Lines(stream)
        first = next((line for line in lines if not line.startswith("##")), "")
        delimiter = "\t" if ".tsv" in path.name.lower() else ";" if first.count(";") > first.count(",") else ","
        reader = csv.reader(chain([first], lines), delimiter=delimiter)
        yield header(next(reader, [])), _rows(reader, lines, delimiter == ";")


def header(cells: Sequence[str]) -> list[str]:
    """The names of a table's columns.

    Raises:
        RecordError: fewer than two, or a name stands twice.
    """
    names = [name.strip() for name in cells]
    if len(names) < 2:
        raise RecordError("a table without a header", "a first row of column names", "add it")
    twice = sorted(name for name, n in Counter(filter(None, names)).items() if n > 1)
    if twice:
        raise RecordError(f"the column name {twice[0]!r} twice", "every name once", "rename one of them")
    return names


def _rows(reader: Iterator[list[str]], lines: Lines, decimal_comma: bool) -> Iterator[tuple[int, list[str]]]:
    for number in count(1):
        lines.fed = 0
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise RecordError(
                f"row {number}, which is no CSV ({error})", "a table", "check it for an unclosed quote"
            ) from error
        if cells is None:
            return
        if cells:
            yield number, [_DECIMAL_COMMA.sub(r"\1.\2", cell) for cell in cells] if decimal_comma else cells


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
    if "_" in text:  # Python's own digit separator, not a number of a table
        return text
    return number if math.isfinite(number) else None


def identifier(cell: str) -> str:
    """A name of a patient or a site as text; what a spreadsheet made a float of loses its `.0`."""
    text = cell.strip()
    return text[:-2] if re.fullmatch(r"\d+\.0", text) else text


def patient_column(names: Sequence[str]) -> int:
    """Which column names the patient.

    Raises:
        RecordError: none does.
    """
    found = find(names, PATIENT_COLUMNS)
    if found is None:
        raise RecordError(
            f"a table with the columns {', '.join(names[:12])}", "one that names the patient: " + ", ".join(PATIENT_COLUMNS),
            "rename that column",
        )  # fmt: skip
    return names.index(found)


def wrong(cells: Sequence[str], names: Sequence[str], patient: int, uri: str, number: int) -> Rejected | None:
    """Why a row cannot be taken; None where it can."""
    if any(cell.strip() for cell in cells[len(names) :]):
        return Rejected(
            uri, f"row {number} of {len(cells)} cells", f"{len(names)} cells, as the header has", "quote the cells that hold a comma"
        )  # fmt: skip
    if len(cells) <= patient or not identifier(cells[patient]):
        return Rejected(uri, f"row {number} without a patient", f"a value in {names[patient]!r}", "fill it in")
    return None


def read(path: Path, root: Path) -> Iterator[Record | Rejected]:
    """One record a row; a row without a patient, or with more cells than columns, is set aside with its number."""
    with table(path) as (names, rows):
        yield from take(names, rows, content_id(path), place_of(path, root), f"table {path.name.split('.')[0]}")


def take(
    names: Sequence[str],
    rows: Iterable[tuple[int, Sequence[str]]],
    source: str,
    place: str,
    kind: str,
    sheet: str = "",
    about: Mapping[str, Scalar] | None = None,
) -> Iterator[Record | Rejected]:
    """The records of a table's rows, whatever file it stands in.

    Args:
        names: of the columns, as `header` gives them.
        rows: their numbers and cells.
        source: the file's own id.
        place: where the file lies.
        kind: the records'.
        sheet: of several tables in a file, which: `sheet=Labs&`.
        about: what holds of every row.
    Raises:
        RecordError: no column names the patient.
    """
    patient, when, where = patient_column(names), find(names, TIME_COLUMNS), find(names, SITE_COLUMNS)
    for number, cells in rows:
        uri = f"{place}#{sheet}row={number}"
        if reason := wrong(cells, names, patient, uri, number):
            yield reason
            continue
        row = {name: cell for name, cell in zip(names, cells, strict=False) if name}
        values = {name: typed(cell) for name, cell in row.items() if name != names[patient]}
        yield Record(
            id=place_id(source, f"{sheet}row={number}"),
            patient=identifier(cells[patient]),
            time=parse_time(row.get(when, "")) if when else None,
            modality=Modality.TABLE,
            kind=kind,
            uri=uri,
            site=identifier(row[where]) if where and values.get(where) is not None else None,
            attributes={**values, **(about or {})},
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
