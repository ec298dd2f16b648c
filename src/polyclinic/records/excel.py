"""Workbooks (.xlsx .xlsm .xls .xlsb .ods): every sheet is a table, wherever in it the header stands.

The decoding is `workbook.py`'s, in a process of its own.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from urllib.parse import quote

from ..schema import MissingExtraError, Payload, Record, Rejected
from . import apart, tables, workbook
from .source import EXPANDED_FREELY, LARGEST_BYTES, MOST_EXPANDED, RecordError, content_id, place_of

Rows = Iterator[tuple[int, list[str]]]
Merged = list[tuple[int, int, int]]
ENDINGS = (".xlsx", ".xlsm", ".xls", ".xlsb", ".ods")
ZIP, OLE = b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
ENCRYPTED = "EncryptedPackage".encode("utf-16-le")  # [MS-OFFCRYPTO] 2.3.4.4: the stream that a locked .xlsx is
FILE_PASS = re.compile(rb"\x09\x08\x10\x00\x00\x06\x05\x00.{12}(?:\x86\x00\x00\x00)?\x2f\x00", re.DOTALL)
"""[MS-XLS] 2.1.7.20.3: a locked .xls says so behind its BOF record (WriteProtect may stand between), which is not locked."""
HEADER_WITHIN = 50
"""Rows from the top among which the header is looked for: below a title, a logo, a date of export."""


def recognises(path: Path, head: bytes) -> bool:
    """Whether the name says workbook."""
    return path.name.lower().endswith(ENDINGS)


def check(path: Path) -> None:
    """Refuse what is no workbook, is locked, or declares that it unpacks beyond bound.

    Raises:
        RecordError: with which of them.
    """
    with path.open("rb") as file:
        head = file.read(8)
        start = file.read(2**24) if head == OLE else b""
        if ENCRYPTED in start or FILE_PASS.search(start):
            raise RecordError(*workbook.LOCKED)
    if head != OLE and not head.startswith(ZIP):
        raise RecordError(
            f"a file named {path.suffix.lower()} that is no workbook", "one that a spreadsheet program saved",
            "name it .csv or .tsv if it is text, or save it again",
        )  # fmt: skip
    if not head.startswith(ZIP):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        raise RecordError(
            f"a workbook that does not open ({type(error).__name__})", "a whole file", "copy it again"
        ) from error
    most = min(LARGEST_BYTES, max(EXPANDED_FREELY, MOST_EXPANDED * path.stat().st_size))
    if size > most:
        raise RecordError(
            f"a workbook that unpacks to {size >> 20} MiB", f"at most {most >> 20} MiB", "check where it comes from"
        )


def sheets(path: Path) -> Iterator[tuple[str, bool, Merged, Rows]]:
    """Every sheet's name, whether it is hidden, its merged cells and its rows.

    Raises:
        RecordError: it is locked, or does not open within bounds.
    """
    with apart.decoded("workbook", "cells", str(path.resolve())) as items:
        for _, rows in groupby(items, key=itemgetter(0)):
            _, name, hidden, merged = next(rows)
            yield name, hidden, merged, map(itemgetter(1, 2), rows)  # noqa: B031 (what is left of it)


def table(rows: Rows, merged: Merged) -> tuple[list[str], Rows] | None:
    """A sheet's column names and the rows below them; None where the sheet is empty.

    The header is the first row that names a patient's column among the first fifty, else the first with two cells. A cell
    that was merged over several rows below it holds for each of them.
    """
    seen: list[tuple[int, list[str]]] = []
    at = None
    for number, cells in rows:
        seen.append((number, cells))
        if sum(map(bool, cells)) >= 2 and tables.find(cells, tables.PATIENT_COLUMNS):
            at = len(seen) - 1
            break
        if len(seen) == HEADER_WITHIN:
            break
    if not seen:
        return None
    if at is None:
        at = next((i for i, (_, cells) in enumerate(seen) if sum(map(bool, cells)) >= 2), 0)
    top, names = seen[at][0], list(seen[at][1])
    while names and not names[-1].strip():
        names.pop()
    below = chain(seen[at + 1 :], rows)
    return tables.header(names), _filled(below, {(r, c): last for r, c, last in merged if r > top}, len(names))


def _filled(rows: Iterable[tuple[int, list[str]]], merged: dict[tuple[int, int], int], width: int) -> Rows:
    """Rows as wide as the header (what stands beside the table is no part of it), merged cells filled downwards."""
    columns = {c for _, c in merged if c < width}
    held: dict[int, tuple[int, str]] = {}
    for number, cells in rows:
        cells = [*cells[:width], *[""] * (width - len(cells))]
        for c in columns:
            if last := merged.get((number, c)):
                held[c] = (last, cells[c])
            elif c in held and number <= held[c][0]:
                cells[c] = held[c][1]
        if any(cell.strip() for cell in cells):
            yield number, cells


def read(path: Path, root: Path) -> Iterator[Record | Rejected]:
    """One record a row of every sheet, `#sheet=Labs&row=17`, the row as the spreadsheet numbers it; a hidden sheet's say so."""
    try:
        import python_calamine  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("python-calamine", "ehr") from error
    check(path)
    source, place, stem = content_id(path), place_of(path, root), path.name.split(".")[0]
    empty = True
    for name, hidden, merged, rows in sheets(path):
        mark = f"sheet={quote(name)}&"
        try:
            found, about = table(rows, merged), {"hidden_sheet": True} if hidden else None
            items = tables.take(*found, source, place, f"table {stem} {name}", mark, about) if found else iter(())
        except RecordError as reason:  # the sheet's own: the others are read
            empty = False
            yield Rejected(f"{place}#{mark}row=1", reason.found, reason.expected, reason.remedy)
            continue
        empty &= not found
        yield from items
    if empty:
        raise RecordError("a workbook without a row", "at least one sheet with a table", "check what was exported")


def load(record: Record) -> Payload:
    """The row's events or the cell's words, as of any table."""
    return tables.load(record, _sheet)


@contextmanager
def _sheet(path: Path, wanted: str) -> Iterator[tuple[list[str], Rows]]:
    """As `tables.table`, of the sheet of that name."""
    check(path)
    for name, _, merged, rows in sheets(path):
        if name == wanted and (found := table(rows, merged)):
            yield found
            return
    raise RecordError("a workbook without the sheet that it had", "the file as ingested", "ingest it again")
