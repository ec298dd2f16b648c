"""Workbooks (.xlsx .xlsm .xls .xlsb .ods): every sheet as a table, written anew as .xlsx with nothing but its cells.

Titles above a table, notes beside it, comments, names of cells, properties of the document, pictures, macros and formulas do not come
along; a hidden sheet is cleaned as the others are. Dates stay dates and numbers numbers.

Source: ECMA-376 part 1, 18.2 (workbook), 18.3 (worksheet), 18.8 (styles).
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from xml.sax.saxutils import escape

from .. import excel
from .. import tables as tables_reader
from ..source import RecordError
from . import tables
from .cleaning import Cleaning
from .known import Known

_MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml"
_HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_STYLES = (
    f'{_HEAD}<styleSheet {_MAIN}><fonts count="1"><font/></fonts><fills count="1"><fill/></fills><borders count="1"><border/></borders>'
    '<cellStyleXfs count="1"><xf/></cellStyleXfs><cellXfs count="3"><xf/><xf numFmtId="14" applyNumberFormat="1"/>'
    '<xf numFmtId="22" applyNumberFormat="1"/></cellXfs></styleSheet>'
)
"""Cells of style 1 are dates, of style 2 dates with an hour (18.8.30)."""
_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,14})(?:\.\d{1,17})?(?:[eE][-+]?\d{1,3})?")
_DATE = re.compile(r"\d{4}-\d\d-\d\d(?: \d\d:\d\d:\d\d)?")
_ILLEGAL = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
Sheet = tuple[str, list[str], list[tuple[int, list[str]]]]


def _sheets(path: Path) -> Iterator[Sheet | None]:
    """Of each sheet its name, its columns' names and its rows; None for one without a table."""
    for name, _, merged, rows in excel.sheets(path):
        try:
            found = excel.table(rows, merged)
        except RecordError:  # no header, or one that stands twice
            yield None
            continue
        yield (name, found[0], list(found[1])) if found else None


def _opened(sheet: Sheet) -> tables.Opened:
    @contextmanager
    def opening() -> Iterator[tuple[list[str], Iterator[tuple[int, list[str]]]]]:
        yield sheet[1], iter(sheet[2])

    return opening


def survey(path: Path, place: str, known: Known) -> str:
    """As of any table, sheet by sheet."""
    excel.check(path)
    for sheet in filter(None, _sheets(path)):
        tables.look(_opened(sheet), known)
    return ""


def deidentify(path: Path, to: Path, cleaning: Cleaning) -> None:
    """Write the workbook anew.

    Raises:
        RecordError: it is locked, broken, or has no table.
    """
    excel.check(path)
    names: list[str] = []
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as archive:
        put = lambda name, text: archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
        for number, sheet in enumerate(_sheets(path), 1):
            if sheet is None:
                cleaning.did(f"sheet {number}", "X: no table")
                continue
            cleaner = tables.Cleaner.of(cleaning, opened=_opened(sheet), part=f"sheet {number} ")
            headings = [heading for heading, _ in cleaner.plan()]
            rows = "".join(_row(n, cells) for n, cells in enumerate([headings, *cleaner.rows()], 1))
            names.append(_sheet_name(cleaning.namer.word(sheet[0]), names))
            put(
                f"xl/worksheets/sheet{len(names)}.xml",
                f"{_HEAD}<worksheet {_MAIN}><sheetData>{rows}</sheetData></worksheet>",
            )
        if not names:
            raise RecordError(
                "a workbook without a table", "at least one sheet with a header", "check what was exported"
            )
        for name, text in _parts(names).items():
            put(name, text)


def _sheet_name(name: str, taken: list[str]) -> str:
    """At most 31 characters, and no two alike (18.2.19)."""
    short = name[:31]
    return short if short.casefold() not in map(str.casefold, taken) else f"{short[:26]} ({len(taken) + 1})"


def _parts(names: list[str]) -> dict[str, str]:
    """The package around the sheets."""
    numbers = range(1, len(names) + 1)
    kinds = "".join(
        f'<Override PartName="/xl/worksheets/sheet{n}.xml" ContentType="{_TYPE}.worksheet+xml"/>' for n in numbers
    )
    links = "".join(
        f'<Relationship Id="r{n}" Type="{_OFFICE}/worksheet" Target="worksheets/sheet{n}.xml"/>' for n in numbers
    )
    sheets = "".join(
        f'<sheet name="{escape(name, {chr(34): "&quot;"})}" sheetId="{n}" r:id="r{n}"/>'
        for n, name in enumerate(names, 1)
    )
    return {
        "[Content_Types].xml": f'{_HEAD}<Types xmlns="{_PACKAGE}/content-types"><Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Override PartName="/xl/workbook.xml" '
        f'ContentType="{_TYPE}.sheet.main+xml"/><Override PartName="/xl/styles.xml" ContentType="{_TYPE}.styles+xml"/>{kinds}</Types>',
        "_rels/.rels": f'{_HEAD}<Relationships xmlns="{_PACKAGE}/relationships"><Relationship Id="r1" Type="{_OFFICE}/officeDocument" '
        'Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'{_HEAD}<workbook {_MAIN} xmlns:r="{_OFFICE}"><sheets>{sheets}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'{_HEAD}<Relationships xmlns="{_PACKAGE}/relationships">{links}'
        f'<Relationship Id="r{len(names) + 1}" Type="{_OFFICE}/styles" Target="styles.xml"/></Relationships>',
        "xl/styles.xml": _STYLES,
    }


def _row(number: int, cells: list[str]) -> str:
    return f'<row r="{number}">{"".join(_cell(cell, f"{_column(i)}{number}") for i, cell in enumerate(cells))}</row>'


def _column(number: int) -> str:
    letters = ""
    while number >= 0:
        number, letter = divmod(number, 26)
        letters, number = chr(65 + letter) + letters, number - 1
    return letters


def _cell(cell: str, place: str) -> str:
    """A number, a date, or words."""
    if not cell:
        return ""
    if _NUMBER.fullmatch(cell) and isinstance(tables_reader.typed(cell), float):
        return f'<c r="{place}"><v>{cell}</v></c>'
    if _DATE.fullmatch(cell) and (serial := _serial(cell)) is not None:
        return f'<c r="{place}" s="{2 if ":" in cell else 1}"><v>{serial!r}</v></c>'
    words = escape(_ILLEGAL.sub("", cell))
    return f'<c r="{place}" t="inlineStr"><is><t xml:space="preserve">{words}</t></is></c>'


def _serial(text: str) -> float | None:
    """Days since 1899-12-30, as spreadsheets count from March 1900 on (18.17.4.1)."""
    try:
        since = datetime.fromisoformat(text) - datetime(1899, 12, 30)
    except ValueError:
        return None
    return since.days + since.seconds / 86400 if since.days > 60 else None
