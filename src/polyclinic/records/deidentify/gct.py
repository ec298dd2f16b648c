"""Expression with a sample a column: GCT, and the tables of Xena, the GDC and GEO. Samples get new names; genes and values stay.

What a GCT 1.3 says of its samples is cleaned as a table with a sample a row; what it says of a gene stays where it is no one's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .. import gct as reader
from .. import tables as tables_reader
from . import samples, tables
from .cleaning import Cleaning
from .known import Known


def _is_gct(path: Path) -> bool:
    return not tables_reader.recognises(path, b"")


def _names(path: Path) -> list[str]:
    if _is_gct(path):
        lines = reader.gct_lines(path)
        _, _, beside, _ = map(int, next(lines))
        return [name.strip() for name in next(lines, [])[1 + beside :]]
    with tables_reader.table(path) as (names, _):
        return [names[i] for i in reader.sample_columns(names)]


def survey(path: Path, place: str, known: Known) -> str:
    """Note whose samples there are."""
    samples.note(_names(path), known)
    if _is_gct(path):
        lines = reader.gct_lines(path)
        _, _, beside, above = map(int, next(lines))
        next(lines, None)
        for _ in range(above):
            cells = next(lines, [""])
            if tables_reader.plain(cells[0]) in tables_reader.PATIENT_COLUMNS:
                samples.note(cells[1 + beside :], known)
    return ""


def deidentify(path: Path, to: Path, cleaning: Cleaning) -> None:
    """Write the table anew.

    Raises:
        RecordError: it is no GCT, or no table.
    """
    with tables.writer(to) as write:
        (_gct if _is_gct(path) else _table)(path, write, cleaning)


def _gct(path: Path, write: Callable[[Sequence[str]], None], cleaning: Cleaning) -> None:
    lines = reader.gct_lines(path)
    sizes = next(lines)
    beside, above = int(sizes[2]), int(sizes[3])
    first, header = 1 + beside, next(lines, [])
    names = header[first:]
    # Of a version 1.2 file, which says two sizes, the reader makes four; one of 1.3 with the same says no more.
    is_new = above > 0 or beside != 1
    about = [next(lines, []) for _ in range(above)]
    cleaned = _about(about, names, first, cleaning)
    write(["#1.3" if is_new else "#1.2"])
    write([*sizes[:2], *([str(beside), str(len(cleaned))] if is_new else [])])
    write([*(_harmless(cell, cleaning) for cell in header[:first]), *samples.renamed_all(names, cleaning)])
    for line in cleaned:
        write(line)
    _rows(lines, first, write, cleaning)


def _about(about: list[list[str]], names: Sequence[str], first: int, cleaning: Cleaning) -> list[list[str]]:
    """The lines above the genes, each a column of a table whose rows are the samples."""
    patient = next((line for line in about if tables_reader.plain(line[0]) in tables_reader.PATIENT_COLUMNS), None)
    people = [samples.person_of(name) for name in (patient[first:] if patient else names)]

    @contextmanager
    def opened() -> Iterator[tuple[list[str], Iterator[tuple[int, list[str]]]]]:
        rows = zip(people, *(line[first:] for line in about), strict=False)
        yield ["patient_id", *(f"{line[0]}" for line in about)], ((n, list(row)) for n, row in enumerate(rows, 1))

    if not about:
        return []
    cleaner = tables.Cleaner.of(cleaning, opened=opened, part="samples ")
    kept = cleaner.plan()
    columns = list(zip(*cleaner.rows(), strict=True))
    new = [[heading, *[""] * (first - 1), *cells] for (heading, _), cells in zip(kept, columns, strict=True)]
    return [line for line, (_, column) in zip(new, kept, strict=True) if column is not cleaner.columns[0]]


def _table(path: Path, write: Callable[[Sequence[str]], None], cleaning: Cleaning) -> None:
    with tables_reader.table(path) as (names, rows):
        columns = reader.sample_columns(names)
        new = iter(samples.renamed_all([names[i] for i in columns], cleaning))
        heading = [next(new) if i in set(columns) else _harmless(name, cleaning) for i, name in enumerate(names)]
        write(heading)
        mine = set(columns)
        for _, cells in rows:
            write([cell if i in mine and _number(cell) else _harmless(cell, cleaning) for i, cell in enumerate(cells)])
    cleaning.did(f"{len(columns)} samples", "D: pseudonym")


def _rows(lines: Iterator[list[str]], first: int, write: Callable[[Sequence[str]], None], cleaning: Cleaning) -> None:
    for cells in lines:
        if cells != [""]:
            beside = [_harmless(cell, cleaning) for cell in cells[:first]]
            write([*beside, *(cell if _number(cell) else "" for cell in cells[first:])])


def _number(cell: str) -> bool:
    value = tables_reader.typed(cell)
    return value is None or isinstance(value, float)


def _harmless(cell: str, cleaning: Cleaning) -> str:
    """A gene's name, or what is said of it: words that are no one's."""
    if re.fullmatch(r"[A-Za-z][\w.@-]{0,30}", cell) and not re.fullmatch(r"[A-Za-z]+", cell):
        parts = {cell.casefold(), *re.findall(r"[^\W_]+(?:-[^\W_]+)*", cell.casefold())}
        return (
            "" if parts & cleaning.known.ids or parts & cleaning.known.patients else cell
        )  # a gene's number is none of a person's
    cell = cell.replace('"', "'")
    if cell.casefold() in cleaning.known.parts:
        return ""
    if len(cell.split()) < 2:
        return cleaning.scrubbed(cell, light=True, kinds=frozenset({"EMAIL", "URL", "PHONE"})).text
    return cleaning.words(cell, "description")
