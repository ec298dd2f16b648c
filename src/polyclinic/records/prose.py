"""Columns of words in a table: a note, a report or a conversation a cell, which becomes a TEXT record.

What makes a column one of words is what stands in it, not what it is called: sentences, and seldom the same twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np

from ..schema import Payload, Record
from .documents import tidy
from .source import RecordError, split_uri

Rows = Iterable[tuple[int, Sequence[str]]]
Opened = Callable[[Path, str], AbstractContextManager[tuple[Any, ...]]]
"""Opens the table of a sheet ("" where a file is one table): its columns' names, its rows, and perhaps more."""

LOOKED = 200
"""Rows by which it is told what a column holds."""
FEWEST_WORDS = 8
"""On average, a cell: a diagnosis or an address has fewer, the shortest of notes more."""
FEW = 10
"""Of fewer cells than these one address may be long: a sentence has to end in them, too."""
_ENDS = re.compile(r"\w{4,}[.!?](\s|$)")
"""The end of a sentence, and not "St. Mary" or "5th Ave."."""
_BLOCK = 256


def columns(names: Sequence[str], rows: Rows) -> tuple[tuple[int, ...], Rows]:
    """Which columns are of words, by the first rows; and all the rows, which are read once.

    Args:
        names: of the columns; one without a name is none.
        rows: numbers and cells.
    """
    source, looked, error = iter(rows), [], None
    try:
        for row in source:
            looked.append(row)
            if len(looked) == LOOKED:
                break
    except RecordError as reason:  # the rows before it are good
        error = reason

    def again() -> Iterator[tuple[int, Sequence[str]]]:
        yield from looked
        if error:
            raise error
        yield from source

    found = tuple(i for i, name in enumerate(names) if name and _of_words([c[i] for _, c in looked if i < len(c)]))
    return found, again()


def _of_words(cells: Sequence[str]) -> bool:
    filled = [cell for cell in map(str.strip, cells) if cell]
    words = sum(cell.count(" ") + 1 for cell in filled)
    if not filled or words < FEWEST_WORDS * len(filled) or 2 * len(set(filled)) <= len(filled):
        return False
    return len(filled) >= FEW or 2 * sum(bool(_ENDS.search(cell)) for cell in filled) > len(filled)


def place(column: str, number: int, sheet: str = "") -> str:
    """What part of the file a cell is: `column=dialogue&row=3`."""
    return f"{sheet}column={quote(column, safe='')}&row={number}"


def load(record: Record, opened: Opened) -> Payload:
    """The cell's words in `Payload.text`. The table is read up to its row, and so many rows kept.

    Raises:
        RecordError: the cell is not there any more, or has no words.
    """
    path, fragment = split_uri(record.uri)
    said = dict(part.split("=", 1) for part in fragment.split("&"))
    number, file = int(said["row"]), Path(path)
    block = _words(opened, file, file.stat().st_mtime_ns, said.get("sheet", ""), said["column"], number // _BLOCK)
    if not (text := block.get(number, "")):
        raise RecordError("a table without the words that it had", "the table as ingested", "ingest it again")
    return Payload(np.empty(0, dtype=np.int64), text=text)


@lru_cache(maxsize=64)
def _words(opened: Opened, path: Path, changed: int, sheet: str, column: str, block: int) -> Mapping[int, str]:
    """Number → words of the rows of one block."""
    found: dict[int, str] = {}
    with opened(path, unquote(sheet)) as (names, rows, *_):
        at = names.index(unquote(column)) if unquote(column) in names else len(names)
        for number, cells in rows:
            if number // _BLOCK > block:
                break
            if number // _BLOCK == block and at < len(cells):
                found[number] = tidy(cells[at])
    return found
