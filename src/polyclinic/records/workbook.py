"""A program of its own, `python workbook.py FILE`: a workbook's cells as lines of JSON, read with bounded memory and time.

The library that decodes workbooks (`python_calamine`) lays a sheet out whole, and one cell in its last row and column makes
it end the process. So it works in a process that may end: `excel.py` starts this file and says what became of it.

Lines: `{"sheets": [[name, hidden], ...]}`, then for each sheet `[sheet, 0, merged]`, merged being [row, column, last row] of cells
that stand for several rows, and `[sheet, row, cells]` a row, counted from 1 as the spreadsheet shows it; last
`{"end": true}`, or `{"error": "PasswordError"}`.
"""

from __future__ import annotations

import datetime as dt
import json
import sys

MOST_MEMORY, MOST_SECONDS = 3 * 2**30, 600
LONGEST_ROW, MOST_MERGED = 2**24, 100_000


def text(cell: object) -> str:
    """A cell as a CSV of the same table would have it; a date is a date, an error of a formula is not known."""
    match cell:
        case bool():
            return str(cell).lower()
        case dt.datetime():
            return cell.date().isoformat() if cell.time() == dt.time() else cell.isoformat(" ")
        case dt.date() | dt.time():
            return cell.isoformat()
        case str() if cell.startswith("#") and cell.strip("#/!?").replace("/", "").isalnum() and cell.isupper():
            return "" if cell.strip("#!?") in {"N/A", "DIV/0", "REF", "NAME", "NULL", "NUM", "VALUE", "DATA"} else cell
        case _:
            return str(cell)


def write(file: str) -> None:
    """The lines of a workbook.

    Args:
        file: its path.
    """
    from python_calamine import CalamineWorkbook, SheetTypeEnum, SheetVisibleEnum

    book = CalamineWorkbook.from_path(file)
    sheets = [s for s in book.sheets_metadata if s.typ == SheetTypeEnum.WorkSheet]
    say({"sheets": [[s.name, s.visible != SheetVisibleEnum.Visible] for s in sheets]})
    for number, about in enumerate(sheets):
        sheet = book.get_sheet_by_name(about.name)
        merged = sheet.merged_cell_ranges or []
        say([number, 0, [[a[0] + 1, a[1], b[0] + 1] for a, b in merged[:MOST_MERGED] if b[0] > a[0]]])
        if sheet.start is None:
            continue
        top, left = sheet.start
        for row, cells in enumerate(sheet.to_python(skip_empty_area=True), top + 1):
            line = [""] * left + [text(cell) for cell in cells]
            if sum(map(len, line)) > LONGEST_ROW:
                raise ValueError("a row beyond bound")
            if any(line):
                say([number, row, line])
    say({"end": True})


def say(message: object) -> None:
    """One line."""
    sys.stdout.write(json.dumps(message) + "\n")


if __name__ == "__main__":
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS))
    except ImportError:  # Windows has no such limits; a process that ends still ends alone
        pass
    try:
        write(sys.argv[1])
    except Exception as error:
        say({"error": type(error).__name__})
