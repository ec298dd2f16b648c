"""The cache of harmonised voxels and signals: Zarr v3 shards, keyed by record and standard; a memory in front.

    cache/<standard and what else decides>/<the shard's records>.zarr    (n …) one chunk a record, one shard file
                                                                         attributes: each row's record and geometry

A record's id is its content's hash, so a changed file is another entry. A shard is written whole beside its place and renamed
into it; nothing is ever added to one. Any Zarr reader opens it. A single row is read here by its place in the shard's index, without
Zarr's way through an event loop, which takes longer than reading and decoding together.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from ..schema import Payload, Step

_ON_DISK = {"image", "volume", "signal", "slide", "video", "kinematics"}
_VERSION = "5"
"""Goes up whenever a standard's code makes other numbers of the same record, or a shard is encoded otherwise."""
_LARGEST = 2**31 - 64
"""Bytes that Blosc takes at once; a larger row is not compressed."""
SHARD_BYTES, SHARD_ROWS, SHARD_SECONDS = 64 * 2**20, 256, 30.0
"""A shard is written when one of them is reached, and with what there is when the cache is flushed or let go."""


class Cache:
    """Harmonised payloads, kept.

    Several processes may share the folder: each writes shards of its own and reads everybody's. What cannot be read back is
    made again; what cannot be written (a full disk) is kept in memory; what a process that ended had not yet written is made
    again: whoever has asked for the last of many calls `flush`.

    Args:
        folder: on the disk; None keeps them in memory only.
        most_bytes: of the memory in front; the least recently used go first.
    """

    def __init__(self, folder: Path | None = None, most_bytes: int = 2 * 2**30) -> None:
        self.folder, self.most_bytes = folder, most_bytes
        self._kept: OrderedDict[tuple[str, str], Payload] = OrderedDict()
        self._bytes = 0
        self._shelves: dict[str, _Shelf] = {}
        # Not when the program ends: Zarr's threads are gone by then.
        weakref.finalize(self, _flush, self._shelves).atexit = False

    def get(self, record_id: str, standard: BaseModel, extra: str, make: Callable[[], Payload]) -> Payload:
        """The payload of a record, made if it is not here.

        Args:
            record_id: the record's id, which is its content's hash.
            standard: the standard it is harmonised to.
            extra: whatever else decides the result (the fingerprint's hash where it does).
            make: harmonises it.
        """
        told = "\x00".join((_VERSION, standard.model_dump_json(), extra))
        what = hashlib.blake2b(told.encode(), digest_size=12).hexdigest()
        key = (record_id, what)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        shelf = None
        if self.folder is not None and getattr(standard, "kind", "") in _ON_DISK:
            shelf = self._shelves.setdefault(what, _Shelf(self.folder / what))
        payload = shelf.read(record_id) if shelf is not None else None
        if payload is None:
            payload = make()
            if shelf is not None:
                shelf.add(record_id, payload)
        self._kept[key] = payload
        self._bytes += payload.array.nbytes
        while self._bytes > self.most_bytes and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].array.nbytes
        return payload

    def flush(self) -> None:
        """Write what is still only in memory: another process may then read it."""
        _flush(self._shelves)


def _flush(shelves: dict[str, _Shelf]) -> None:
    for shelf in shelves.values():
        shelf.flush()


class _Shelf:
    """Records harmonised alike: the shards of one folder, and the rows that wait to become one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: dict[str, list[tuple[Path, int]]] = {}
        self.known: set[Path] = set()
        self.looked = -1
        self.waiting: dict[str, Payload] = {}
        self.written = time.monotonic()
        self.lock = threading.RLock()

    def read(self, record_id: str) -> Payload | None:
        """The record's payload; None where no shard has it whole."""
        with self.lock:
            if record_id in self.waiting:
                return self.waiting[record_id]
            if record_id not in self.rows:
                self._look()
            places = self.rows.get(record_id, [])
            while places:
                if (payload := _row(*places[-1])) is not None:
                    return payload
                places.pop()
            return None

    def _look(self) -> None:
        """Find the shards that have come."""
        try:
            changed = self.folder.stat().st_mtime_ns
        except OSError:
            return
        if changed == self.looked:
            return
        self.looked = changed
        for shard in sorted(self.folder.glob("[!.]*.zarr")):
            if shard in self.known:
                continue
            self.known.add(shard)
            for number, record_id in enumerate(_records(shard)):
                self.rows.setdefault(record_id, []).append((shard, number))

    def add(self, record_id: str, payload: Payload) -> None:
        """Keep a payload; now and then a shard is written."""
        with self.lock:
            self.waiting[record_id] = payload
            if len(self.waiting) >= SHARD_ROWS or sum(p.array.nbytes for p in self.waiting.values()) >= SHARD_BYTES:
                self.flush()

    def flush(self) -> None:
        """Write what waits, a shard for each shape."""
        with self.lock:
            alike: dict[tuple[Any, ...], list[tuple[str, Payload]]] = {}
            for record_id, payload in self.waiting.items():
                places = None if payload.places is None else payload.places.shape
                alike.setdefault((payload.array.shape, payload.array.dtype.str, places), []).append(
                    (record_id, payload)
                )
            for rows in alike.values():
                _write(self.folder, rows)
            self.waiting, self.written = {}, time.monotonic()


def _write(folder: Path, rows: Sequence[tuple[str, Payload]]) -> None:
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec

    name = hashlib.blake2b("\n".join(record_id for record_id, _ in rows).encode(), digest_size=12).hexdigest()
    beside, place = folder / f".{name}.{os.getpid()}", folder / f"{name}.zarr"
    first = rows[0][1].array
    row = tuple(max(n, 1) for n in first.shape)
    about: dict[str, Any] = {"rows": [_about(*row) for row in rows]}
    try:
        _sweep(folder)
        shutil.rmtree(beside, ignore_errors=True)
        array = zarr.create_array(
            beside, shape=(len(rows), *first.shape), dtype=first.dtype, chunks=(1, *row), shards=(len(rows), *row), attributes=about,
            # Of floats the bytes of like weight lie together; seven times as fast to read as Zarr's own choice, and smaller.
            compressors=[
                *([BloscCodec(typesize=first.itemsize, cname="lz4", clevel=1, shuffle="shuffle")] if first.nbytes < _LARGEST else []),
                Crc32cCodec(),
            ],
            config={"write_empty_chunks": True},  # a row of zeros is a row: one that the index lacks is lost
        )  # fmt: skip
        array[...] = np.stack([payload.array for _, payload in rows])
        if place.exists():  # the same records, of which one was damaged
            shutil.rmtree(place, ignore_errors=True)
        os.rename(beside, place)
    except OSError:  # another process was first, or the disk is full: a cache is nobody's only copy
        shutil.rmtree(beside, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what killed processes had begun: after a day it is nobody's."""
    for left in folder.glob(".*"):
        if time.time() - left.stat().st_mtime > 86400:
            shutil.rmtree(left, ignore_errors=True)


def _about(record_id: str, payload: Payload) -> dict[str, Any]:
    steps = [
        {"name": s.name, "shape": list(s.shape), "to_world": s.to_world, "parameters": dict(s.parameters)}
        for s in payload.history
    ]
    return {
        "record": record_id,
        "to_world": None if payload.to_world is None else payload.to_world.tolist(),
        "places": None if payload.places is None else payload.places.tolist(),
        "nominal": payload.nominal,
        "names": list(payload.names),
        "history": steps,
    }


@dataclass(frozen=True, slots=True)
class _Shard:
    """A shard's file, where its rows lie in it, and what its attributes say of each.

    Args:
        rows: JSON, which is a fraction of what Python makes of it.
        index: (n 2) uint64, offset and bytes, as the Zarr v3 specification's `sharding_indexed` codec has it.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    packed: bool
    rows: list[bytes]
    index: np.ndarray

    def values(self, number: int) -> np.ndarray:
        """A row's array.

        Raises:
            ValueError, OSError: it is not there whole.
        """
        found = np.empty(self.shape, self.dtype)
        if not found.size:
            return found
        offset, length = map(int, self.index[number])
        with self.file.open("rb", buffering=0) as file:
            stored = _checked(os.pread(file.fileno(), length, offset))
        if self.packed:
            from numcodecs import Blosc

            Blosc().decode(stored, found)
        else:
            found.reshape(-1).view(np.uint8)[:] = np.frombuffer(stored, np.uint8)
        return found


def _checked(stored: bytes) -> bytes:
    """What stands before its CRC-32C (RFC 3720, appendix B.4), as Zarr's codec `crc32c` puts it.

    Raises:
        ValueError: they do not agree.
    """
    import google_crc32c  # Zarr's own

    if google_crc32c.value(stored[:-4]) != int.from_bytes(stored[-4:], "little"):
        raise ValueError("a damaged chunk")
    return stored[:-4]


@lru_cache(maxsize=512)
def _opened(shard: Path, changed: int) -> _Shard:
    import zarr

    array: Any = zarr.open_array(shard, mode="r")
    rows = [json.dumps(row).encode() for row in array.attrs["rows"]]
    file = shard / array.metadata.encode_chunk_key((0,) * array.ndim)
    index = np.zeros((0, 2), np.uint64)
    if array.size:
        with file.open("rb") as stored:
            stored.seek(-(16 * len(rows) + 4), os.SEEK_END)
            index = np.frombuffer(_checked(stored.read()), "<u8").reshape(-1, 2)
    return _Shard(file, array.shape[1:], array.dtype, len(array.compressors) > 1, rows, index)


def _shard(shard: Path) -> _Shard:
    return _opened(shard, os.stat(f"{shard}/zarr.json").st_mtime_ns)


def _records(shard: Path) -> list[str]:
    """Whose rows a shard has; one that cannot be opened is removed."""
    try:
        return [str(json.loads(row)["record"]) for row in _shard(shard).rows]
    except Exception:  # whatever a damaged file makes Zarr or a codec say
        shutil.rmtree(shard, ignore_errors=True)
        return []


def _row(shard: Path, number: int) -> Payload | None:
    try:
        opened = _shard(shard)
        about, values = json.loads(opened.rows[number]), opened.values(number)
        history = tuple(
            Step(s["name"], tuple(s["shape"]), s["to_world"] and tuple(map(tuple, s["to_world"])), s["parameters"])
            for s in about["history"]
        )
        matrix = lambda value: None if value is None else np.array(value)
        return Payload(
            values, matrix(about["to_world"]), history, bool(about["nominal"]), tuple(about["names"]), places=matrix(about["places"])
        )  # fmt: skip
    except Exception:
        return None
