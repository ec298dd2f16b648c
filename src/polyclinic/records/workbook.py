"""The decoder of workbooks (`python_calamine`), which `apart.py` runs: cells as the text that a CSV of the same table would have."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

LOCKED = ("a workbook locked with a password", "an open one", "remove the password and save it again")
LONGEST_ROW, MOST_MERGED = 2**24, 100_000
ERRORS = frozenset({"#N/A", "#DIV/0!", "#REF!", "#NAME?", "#NULL!", "#NUM!", "#VALUE!", "#GETTING_DATA"})
"""ECMA-376 part 1, 18.17.3: what a formula gave that failed; it is not known."""


def text(cell: object) -> str:
    """One cell; a date is a date, without an hour where it has none."""
    match cell:
        case bool():
            return str(cell).lower()
        case dt.datetime():
            return cell.date().isoformat() if cell.time() == dt.time() else cell.isoformat(" ")
        case dt.date() | dt.time():
            return cell.isoformat()
        case _:
            return "" if cell in ERRORS else str(cell)


def cells(file: str) -> Iterator[tuple[Any, ...]]:
    """Every sheet and its rows.

    Args:
        file: the workbook's path.
    Yields:
        of a sheet (number, its name, whether it is hidden, merged cells as (row, column, last row) where they stand for several
        rows), then of each row that is not empty (the sheet's number, the row's as the spreadsheet shows it, cells).
    Raises:
        ValueError: it is locked, or a row is beyond bounds: what was found, what was expected and what to do.
    """
    from python_calamine import CalamineWorkbook, PasswordError, SheetTypeEnum, SheetVisibleEnum

    try:
        book = CalamineWorkbook.from_path(file)
    except PasswordError as error:
        raise ValueError(*LOCKED) from error
    for number, about in enumerate(book.sheets_metadata):
        if about.typ != SheetTypeEnum.WorkSheet:
            continue
        sheet = book.get_sheet_by_name(about.name)
        merged = (sheet.merged_cell_ranges or [])[:MOST_MERGED]
        spans = [(top[0] + 1, top[1], last[0] + 1) for top, last in merged if last[0] > top[0]]
        yield number, about.name, about.visible != SheetVisibleEnum.Visible, spans
        if sheet.start is None:
            continue
        top, left = sheet.start
        for row, line in enumerate(sheet.to_python(skip_empty_area=True), top + 1):
            texts = [""] * left + [text(cell) for cell in line]
            if sum(map(len, texts)) > LONGEST_ROW:
                raise ValueError("a row of over 17 million characters", "a table", "check what was exported")
            if any(texts):
                yield number, row, texts
