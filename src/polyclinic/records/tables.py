"""CSV tables: one TABLE record a row, its cells typed, and a TEXT record a cell of a column of words; also gzipped, or one in a zip.

What makes a row a record is here for every format of tables: Parquet and workbooks give their cells as the text that a CSV
of the same table would have. A row is a patient's; or, where no column names one, that of the file which it names; or, where it
names neither but has columns of words, it is an encounter of a patient whom nobody names.
"""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path

import numpy as np

from ..schema import Modality, Payload, Record, Rejected, Scalar
from . import prose
from .naming import fold_of
from .source import Lines, RecordError, content_id, encoding_of, open_text, parse_time, place_id, place_of

PATIENT_COLUMNS = (
    "patientid", "patient", "subjectid", "subject", "caseid", "mrn", "personid", "patientunitstayid", "participantid", "usubjid",
)  # fmt: skip
TIME_COLUMNS = ("time", "datetime", "date", "studydate", "admittime", "charttime", "visitdate")
SITE_COLUMNS = ("site", "hospital", "location")
FILE_COLUMNS = ("filename", "file", "filepath", "image", "imagefile", "imagename", "imagepath")
"""Which file a row is about."""
ABOUT = "about_record"
"""The attribute in which the catalogue keeps the id of the record that a row of a file is about."""
_NUMBER_COLUMNS = ("id", "uid", "rowid", "sampleid", "encounterid", "visitid", "noteid", "dialogueid", "index")
"""What a row is called in a table that names no patient."""
UNKNOWN = frozenset(
    {
        "", "?", "-", "--", "na", "n/a", "nan", "null", "none", "unknown", "not known", "not available", "not stated",
        "would have been stated", "todo", "tbd", "unlabelled", "unlabeled",
    }
)  # fmt: skip
"""Spellings of not knowing: the cell is absent, which is neither zero nor no."""
_BLANK = frozenset({"", "-", "--", "na", "n/a", "nan", "null", "none"})
AS_WRITTEN = " as written"
"""Beside a cell that says in words that it does not know: `?` and `would have been stated` are not the same as nothing."""

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
            "rename that column; where the table is about nobody, keep it where it is",
        )  # fmt: skip
    return names.index(found)


def wrong(cells: Sequence[str], names: Sequence[str], patient: int | None, uri: str, number: int) -> Rejected | None:
    """Why a row cannot be taken; None where it can.

    Args:
        patient: the column that says whose it is; None where none has to.
    """
    if any(cell.strip() for cell in cells[len(names) :]):
        return Rejected(
            uri, f"row {number} of {len(cells)} cells", f"{len(names)} cells, as the header has", "quote the cells that hold a comma"
        )  # fmt: skip
    if patient is not None and (len(cells) <= patient or not identifier(cells[patient])):
        return Rejected(uri, f"row {number} without a patient", f"a value in {names[patient]!r}", "fill it in")
    return None


def read(path: Path, root: Path) -> Iterator[Record | Rejected]:
    """One record a row; a row without a patient, or with more cells than columns, is set aside with its number."""
    with table(path) as (names, rows):
        yield from take(names, rows, content_id(path), place_of(path, root), f"table {path.name.split('.')[0]}")


@dataclass(frozen=True, slots=True)
class _Whose:
    """How a table says whose a row is.

    Args:
        column: that names the patient, or the file; None where a row is an encounter of nobody's.
        file: whether it names the file.
    """

    column: int | None
    file: bool = False


def _whose(names: Sequence[str], words: bool) -> _Whose:
    if find(names, PATIENT_COLUMNS) is None:
        if file := find(names, FILE_COLUMNS):
            return _Whose(names.index(file), file=True)
        if words:
            return _Whose(None)
    return _Whose(patient_column(names))


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
        RecordError: no column names the patient or a file, and none is of words.
    """
    words, rows = prose.columns(names, rows)
    whose = _whose(names, bool(words))
    words = tuple(i for i in words if i != whose.column)
    return _taken(names, rows, whose, words, (source, place, kind, sheet), about or {})


def _taken(
    names: Sequence[str],
    rows: Iterable[tuple[int, Sequence[str]]],
    whose: _Whose,
    words: tuple[int, ...],
    said: tuple[str, str, str, str],
    about: Mapping[str, Scalar],
) -> Iterator[Record | Rejected]:
    source, place, kind, sheet = said
    when, where = find(names, TIME_COLUMNS), find(names, SITE_COLUMNS)
    for number, cells in rows:
        uri = f"{place}#{sheet}row={number}"
        if reason := wrong(cells, names, whose.column, uri, number):
            yield reason
            continue
        row = {name: cell for name, cell in zip(names, cells, strict=False) if name}
        patient, told = _named(row, names, whose, place, number)
        kept = set(names) - {names[i] for i in words if whose.column is None}
        if whose.column is not None and not whose.file:
            kept.discard(names[whose.column])
        values = {**_values({name: cell for name, cell in row.items() if name in kept}), **about}
        record = Record(
            id=place_id(source, f"{sheet}row={number}"),
            patient=patient,
            time=parse_time(row.get(when, "")) if when else None,
            modality=Modality.TABLE,
            kind=kind,
            uri=uri,
            site=identifier(row[where]) if where and values.get(where) is not None else None,
            attributes={**values, **({"anonymous": True} if whose.file else {})},
        )
        if whose.column is not None:
            yield record
        texts = [(i, cells[i].strip()) for i in words if i < len(cells) and cells[i].strip().lower() not in UNKNOWN]
        if whose.column is None and not texts:
            yield Rejected(uri, f"row {number} without words", f"some in {names[words[0]]!r}", "fill it in")
        for column, text in texts:
            part = prose.place(names[column], number, sheet)
            about_it = {"words": len(text.split()), "column": names[column], **told}
            yield replace(
                record,
                id=place_id(source, part),
                modality=Modality.TEXT,
                kind=re.sub(r"[\s_]+", " ", names[column]).strip().lower()[:100],
                uri=f"{place}#{part}",
                attributes={**values, **about_it} if whose.column is None else about_it,
            )


def _named(
    row: Mapping[str, str], names: Sequence[str], whose: _Whose, place: str, number: int
) -> tuple[str, dict[str, Scalar]]:
    """What a row's patient is called, and what its texts say of that."""
    if whose.column is None:
        called = find(names, _NUMBER_COLUMNS)
        own = identifier(row.get(called, "")) if called else ""
        encounter = f"{re.sub(r'(?<=[^/])[.][^/]*$', '', place)} {own or number}".strip()
        return encounter, {"anonymous": True, "encounter": encounter, "fold": fold_of(place)}
    cell = identifier(row[names[whose.column]])
    if not whose.file:
        return cell, {"anonymous": False}
    file = cell.replace("\\", "/").rsplit("/", 1)[-1]
    return file.split(".")[0].strip() or cell, {"anonymous": True, "about_file": file}


def _values(row: Mapping[str, str]) -> dict[str, Scalar]:
    """The cells typed; beside one that is not known, what it said instead of nothing."""
    values: dict[str, Scalar] = {}
    for name, cell in row.items():
        values[name] = typed(cell)
        plain_cell = cell.strip().lower()
        if values[name] is None and plain_cell in UNKNOWN - _BLANK:
            values[name + AS_WRITTEN] = plain_cell
    return values


def events(cells: Mapping[str, Scalar]) -> tuple[list[str], list[float]]:
    """A row as events: a number is `column` and its value, a word is `column=word` and 1. What is about the file is no event."""
    names, values = [], []
    for column, value in cells.items():
        if value is None or isinstance(value, bool) or column.endswith(AS_WRITTEN) or column == ABOUT:
            continue
        if isinstance(value, str):
            names.append(f"{column}={value}")
            values.append(1.0)
        else:
            names.append(column)
            values.append(float(value))
    return names, values


def opened(path: Path, sheet: str) -> AbstractContextManager[tuple[list[str], Iterator[tuple[int, list[str]]]]]:
    """As `table`; a CSV has no sheets."""
    return table(path)


def load(record: Record, opened: prose.Opened = opened) -> Payload:
    """The row's events: array (e 2) value and hours (0: a row has one time), names the codes. A TEXT record's words, as `prose` has them.

    Args:
        record: with its file's path in the uri.
        opened: opens the table where it is no CSV.
    """
    if record.modality is Modality.TEXT:
        return prose.load(record, opened)
    names, values = events(record.attributes)
    array = np.stack([np.asarray(values, dtype=np.float64), np.zeros(len(values))], axis=1)
    return Payload(array, names=tuple(names))
