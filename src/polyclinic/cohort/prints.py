"""Fingerprints of images and notes, kept beside the catalogue: a record is read once to be compared, whoever asks again.

    fingerprints/images-HASH.parquet      id, hash (32 bytes), thumbnail (1024 float16)
    fingerprints/notes-HASH.parquet       id, shingles (uint64)

A record's id is the hash of its content: what is kept of it stays right. Each asking adds one file of what was not there yet; a file
that cannot be read is made anew, and where nothing can be written nothing is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..schema import Payload, PolyclinicError, Record
from .catalogue import Cohort
from .parts import write_whole

FOLDER = "fingerprints"
Load = Callable[[Record], Payload]


def kept(
    what: str, records: Sequence[Record], load: Load, make: Callable[[Payload], Mapping[str, Any]], schema: pa.Schema
) -> pa.Table:
    """What `make` gives of each record, in their order, in the schema's columns; read where it was kept.

    Args:
        what: the files' name.
        records: whose; ids may repeat.
        load: record → payload. A catalogue's own keeps what is made in its folder.
        make: payload → a row.
        schema: of the rows, without the id.
    """
    owner = getattr(load, "__self__", None)
    folder = owner.path / FOLDER if isinstance(owner, Cohort) else None
    whole = pa.schema([("id", pa.string()), *schema])
    found = _read(folder, what, whole, {r.id for r in records}) if folder else whole.empty_table()
    known = set(found["id"].to_pylist())
    missing = list({r.id: r for r in records if r.id not in known}.values())
    if missing:
        made = pa.Table.from_pylist([{"id": r.id, **make(load(r))} for r in missing], schema=whole)
        if folder:
            _write(folder, what, made)
        found = pa.concat_tables([found, made])
    place = {name: n for n, name in enumerate(found["id"].to_pylist())}
    return found.take(pa.array([place[r.id] for r in records], pa.int64())).select(schema.names)


def _read(folder: Path, what: str, schema: pa.Schema, wanted: set[str]) -> pa.Table:
    tables = []
    for file in sorted(folder.glob(f"{what}-*.parquet")):
        with suppress(OSError, pa.ArrowException, ValueError):  # a damaged one is made anew
            table = pq.read_table(file, schema=schema)
            new = [n for n, name in enumerate(table["id"].to_pylist()) if name in wanted]
            wanted = wanted - {table["id"][n].as_py() for n in new}
            tables.append(table.take(pa.array(new, pa.int64())))
    return pa.concat_tables([schema.empty_table(), *tables])


def _write(folder: Path, what: str, made: pa.Table) -> None:
    names = hashlib.blake2b("\n".join(sorted(made["id"].to_pylist())).encode(), digest_size=8).hexdigest()
    with suppress(OSError, PolyclinicError):
        folder.mkdir(exist_ok=True)
        write_whole(folder / f"{what}-{names}.parquet", made)
