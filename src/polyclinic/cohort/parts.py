"""How the catalogue lies on the disk.

    cohort.json                       format version
    parts/000000/records.parquet      id, patient, time, modality, kind, uri, root, site, device, attributes (JSON) ...
    parts/000000/rejected.parquet     uri, root, found, expected, remedy ...
    parts/000000/sources.parquet      which files were read whole, what they looked like then, and when that was
    parts/000000/events.parquet       the events of health records, in the MEDS schema
    parts/000000/people.parquet       whose events those are, summed up

Parts are only ever added, each written whole and then renamed into place: a killed process leaves nothing half done.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..records import events
from ..records.grid import parted
from ..records.naming import MASK_FOLDERS, case_words, telling
from ..records.source import split_uri
from ..records.tables import FILE_COLUMNS, plain
from ..schema import Events, Modality, PolyclinicError, Record, Rejected

RECORDS = ("id", "patient", "time", "modality", "kind", "uri", "root", "site", "device", "attributes")
REJECTED = ("uri", "root", "found", "expected", "remedy")

_ALONE = ("encounter", "article", "source_uid")
"""What a record says that stands for itself: a text of nobody whom something else would have to name, a mask whose image may come."""

_TEXT, _TIME = pa.string(), pa.timestamp("us")
_READ = [("root", _TEXT), ("unit", _TEXT), ("version", _TEXT), ("turn", pa.int64())]
_TYPES = {"time": _TIME}
_LINKING = [
    ("mask", pa.bool_()), ("stem", _TEXT), ("accession", _TEXT), ("series", _TEXT), ("file", _TEXT), ("telling", pa.list_(_TEXT)),
    ("about_file", _TEXT), ("alone", pa.bool_()), ("shape", _TEXT), ("corners", pa.list_(pa.float64())), ("near", pa.float64()),
    ("places", pa.list_(pa.struct([("folder", _TEXT), ("words", pa.list_(_TEXT))]))),
]  # fmt: skip
_typed = lambda names: [(name, _TYPES.get(name, _TEXT)) for name in names if name != "root"]
_STORED = {"unit": "ucum"}
"""What a part calls an event's column: its `unit` is what was read together."""
PARTS = {
    "records": pa.schema([*_typed(RECORDS), *_READ, *_LINKING]),
    "rejected": pa.schema([*_typed(REJECTED), *_READ]),
    "sources": pa.schema([("uri", _TEXT), ("stamp", _TEXT), ("read_at", _TIME), *_READ]),
    "events": pa.schema([*(f.with_name(_STORED.get(f.name, f.name)) for f in events.SCHEMA), *map(pa.field, *zip(*_READ, strict=True))]),
    "people": pa.schema([*events.PEOPLE, *map(pa.field, *zip(*_READ, strict=True))]),
}  # fmt: skip


_BY_ROW = ("records", "rejected", "sources")
EVENTS_A_ROW = 100
"""So many events weigh as much as a record, when it is counted what a part may hold."""
ROW_GROUP = 20_000


class CohortError(PolyclinicError):
    """A catalogue that is not one, or a query that it does not understand."""


def no_room(error: OSError, what: str) -> Exception:
    """A full disk in the project's words; any other error as it is."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if not (full or "No space" in str(error) or "too large" in str(error)):
        return error
    return CohortError(
        f"no room on the disk for {what}", "space; what was already finished is intact", "free some and run the same command again"
    )  # fmt: skip


def write_whole(path: Path, table: pa.Table) -> None:
    """Write a Parquet file beside its place and rename it there; on a full disk nothing of it remains.

    Raises:
        CohortError: the disk is full.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(table, beside, compression="zstd")
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise no_room(error, f"{path.parent.name}/{path.name}") from error


def place_name(root: Path) -> str:
    """A folder as it stands in the catalogue."""
    return str(root.resolve())


@dataclass(slots=True)
class Rows:
    """What is to become a part.

    Args:
        root: the folder that was ingested.
        tables: rows by table.
        histories: tables of events and of whose they are; a row of theirs is a small part of one.
    """

    root: Path
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {name: [] for name in _BY_ROW})
    histories: dict[str, list[pa.Table]] = field(default_factory=lambda: {"events": [], "people": []})

    def __len__(self) -> int:
        return sum(map(len, self.tables.values())) + sum(len(t) for t in self.histories["events"]) // EVENTS_A_ROW

    def take(self, items: Iterable[Record | Rejected | Events], unit: str, version: str) -> None:
        """Items of a unit: a file, or files that are read together. They count once `finish` says that it was read whole."""
        read = {"root": place_name(self.root), "unit": unit, "version": version}
        for item in items:
            if isinstance(item, Events):
                table = events.whole(item.table)
                stored = table.rename_columns([_STORED.get(name, name) for name in table.column_names])
                for name, rows in (("events", stored), ("people", events.people(table))):
                    for column, value in read.items():
                        rows = rows.append_column(column, pa.repeat(value, len(rows)).cast(_TEXT))
                    self.histories[name].append(rows)
            elif isinstance(item, Rejected):
                row = {"uri": item.uri, "found": item.found, "expected": item.expected, "remedy": item.remedy}
                self.tables["rejected"].append(row | read)
            else:
                self.tables["records"].append(_row(item) | read)

    def finish(self, stamps: Mapping[str, str], unit: str, version: str) -> None:
        """The unit was read whole: its files (place → what it looks like)."""
        read = {"root": place_name(self.root), "unit": unit, "version": version}
        now = datetime.now(UTC).replace(tzinfo=None)
        self.tables["sources"] += [{"uri": uri, "stamp": stamp, "read_at": now} | read for uri, stamp in stamps.items()]

    def table(self, name: str, turn: int) -> pa.Table:
        """One of the part's tables, whole."""
        schema = PARTS[name]
        if name in self.tables:
            return pa.Table.from_pylist([row | {"turn": turn} for row in self.tables[name]], schema=schema)
        if not self.histories[name]:
            return schema.empty_table()
        rows = pa.concat_tables(self.histories[name])
        rows = rows.append_column("turn", pa.repeat(turn, len(rows)).cast(pa.int64())).select(schema.names).cast(schema)
        return rows.sort_by("patient")


def _row(record: Record) -> dict[str, Any]:
    cells = record.attributes
    named = record.modality is Modality.TABLE and next(
        (v for k, v in cells.items() if plain(k) in FILE_COLUMNS and v), None
    )
    file = str(named).replace("\\", "/").rsplit("/", 1)[-1] if named else None
    follows = cells.get("anonymous") is True  # a row that names a file and no patient
    picture = record.modality not in (Modality.TABLE, Modality.OMICS)  # a table's column may be called mask
    linking = cells if picture else {}
    grid = linking.get("grid") if record.modality is Modality.VOLUME else None
    shape, corners, near = parted(str(grid)) if grid else (None, None, None)
    return {
        "id": record.id, "patient": record.patient, "time": record.time, "modality": record.modality.value, "kind": record.kind,
        "uri": record.uri, "site": record.site, "device": record.device, "attributes": json.dumps(dict(cells), sort_keys=True),
        "mask": bool(linking.get("mask")), "stem": linking.get("stem"), "accession": linking.get("accession"),
        "series": linking.get("series") if record.modality is Modality.SLIDE else None,
        "file": None if follows else file, "about_file": linking.get("about_file") if picture else file if follows else None,
        "telling": telling(str(linking.get("image_file") or record.uri)),
        "alone": any(linking.get(name) is not None for name in _ALONE),
        "shape": shape, "corners": corners, "near": near, "places": _places(record.uri) if grid and not linking.get("source_uid") else None,
    }  # fmt: skip


def _places(uri: str) -> list[dict[str, Any]]:
    """The folders in which a volume's mask may lie, and what in its name tells there whose it is.

    A series of slices is its folder, for what lies beside that; for what lies in it, it has no name. A folder of masks lies in its image's.
    """
    place, fragment = split_uri(uri)
    folder, _, name = place.rpartition("/")
    inside = [{"folder": place, "words": []}] if fragment.startswith("series=") else []
    above, _, last = folder.rpartition("/")
    beside = [{"folder": above, "words": case_words(name)}] if last.lower() in MASK_FOLDERS else []
    return [{"folder": folder, "words": case_words(name)}, *beside, *inside]


def commit(folder: Path, rows: Rows) -> None:
    """Add one part to the catalogue in `folder`, whole or not at all.

    Raises:
        CohortError: the disk is full.
    """
    parts = folder / "parts"
    beside = parts / f".{os.getpid()}"
    try:
        _sweep(parts)
        turn = 1 + max((int(p.name) for p in parts.glob("[0-9]*")), default=-1)
        beside.mkdir(exist_ok=True)
        for name in PARTS:
            pq.write_table(
                rows.table(name, turn), beside / f"{name}.parquet", compression="zstd", row_group_size=ROW_GROUP
            )
        while True:
            try:
                os.rename(beside, parts / f"{turn:06d}")
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                turn += 1  # another process was first
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise no_room(error, f"the catalogue {folder}") from error


def _sweep(parts: Path) -> None:
    """Remove what killed processes had begun: after a day it is nobody's."""
    for left in parts.glob(".[0-9]*"):
        if time.time() - left.stat().st_mtime > 86400:
            shutil.rmtree(left, ignore_errors=True)
