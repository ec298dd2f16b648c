"""Tables of notes, a row a note (OMOP's `note`, MIMIC's NOTEEVENTS, discharge and radiology): one TEXT record a row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..schema import Modality, Payload, Record, Rejected
from .documents import tidy
from .relational import Layout, opened
from .source import RecordError, content_id, parse_time, part_number, place_id


def read(path: Path, layout: Layout, tables: Mapping[str, str], place: str) -> Iterator[Record | Rejected]:
    """One record a note.

    Args:
        path: the table's file.
        layout: its query gives patient, time, title and words, in that order, a row a row.
        tables: as for `relational.opened`.
        place: what the records' uris begin with.
    """
    source, number = content_id(path), 0
    with opened(path, layout, tables) as connection:
        rows = connection.execute(layout.query)
        while (row := rows.fetchone()) is not None:
            number += 1
            patient, when, title, words = row
            uri = f"{place}#row={number}"
            if not patient or not words:
                yield Rejected(uri, f"row {number} without a patient or words", "both", "fill them in")
                continue
            yield Record(
                id=place_id(source, f"row={number}"), patient=patient, time=parse_time(when or ""), modality=Modality.TEXT,
                kind=f"note {title}"[:100] if title else "note", uri=uri, attributes={"words": len(words.split())},
            )  # fmt: skip
    if not number:
        yield Rejected(place, "a table without rows", "rows", "nothing, where the hospital's own has none")


def load(record: Record, path: Path, layout: Layout, tables: Mapping[str, str]) -> Payload:
    """A note's words in `Payload.text`. The table is read up to its row.

    Raises:
        RecordError: the row is not there any more, or has no words.
    """
    number = part_number(record.uri, "row") or 1
    words = _words(path, path.stat().st_mtime_ns, layout, tuple(tables.items()), number)
    if not words:
        raise RecordError("a table without the note that it had", "the table as ingested", "ingest it again")
    return Payload(np.empty(0, dtype=np.int64), text=tidy(words))


@lru_cache(maxsize=64)
def _words(path: Path, changed: int, layout: Layout, tables: tuple[tuple[str, str], ...], number: int) -> str | None:
    with opened(path, layout, dict(tables)) as connection:
        row = connection.execute(f"{layout.query} limit 1 offset {number - 1:d}").fetchone()
    return row[3] if row else None
