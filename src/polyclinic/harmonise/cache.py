"""The cache of harmonised voxels and signals: Zarr v3 shards, keyed by record and standard; a memory in front.

    cache/<standard and what else decides>/<the shard's records>.zarr    (n …) one chunk a record, one shard file
                                                                         attributes: each row's record and geometry

A record's id is its content's hash, so a changed file is another entry. A shard is written whole beside its place and renamed
into it; nothing is ever added to one. Any Zarr reader opens it.
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
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from ..schema import Payload, Step
from . import shard
from .shard import Shard

_ON_DISK = {"image", "volume", "signal", "slide", "video", "kinematics"}
_VERSION = "5"
"""Goes up whenever a standard's code makes other numbers of the same record, or a shard is encoded otherwise."""
SHARD_BYTES, SHARD_ROWS, SHARD_SECONDS = 64 * 2**20, 256, 30.0
"""A shard is written when one of them is reached, and with what there is when the cache is flushed or let go."""


class Cache:
    """Harmonised payloads, kept.

    Several processes may share the folder: each writes shards of its own and reads everybody's. What cannot be read back is
    made again; what cannot be written (a full disk) is kept in memory. What waits to become a shard is written when the cache is
    let go and when the program ends, wherever that happens; whoever wants others to read it before calls `flush`. Only what a killed
    process had not yet written is made again.

    Args:
        folder: on the disk; None keeps them in memory only.
        most_bytes: of the memory in front; the least recently used go first.
    """

    def __init__(self, folder: Path | None = None, most_bytes: int = 2 * 2**30) -> None:
        self.folder, self.most_bytes = folder, most_bytes
        self._kept: OrderedDict[tuple[str, str], Payload] = OrderedDict()
        self._bytes = 0
        self._shelves: dict[str, _Shelf] = {}
        # The garbage collector calls it in any thread and between any two lines: a shard is written with files alone.
        weakref.finalize(self, _flush, self._shelves)

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
        for place in sorted(self.folder.glob("[!.]*.zarr")):
            if place in self.known:
                continue
            self.known.add(place)
            for number, record_id in enumerate(_records(place)):
                self.rows.setdefault(record_id, []).append((place, number))

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
    name = hashlib.blake2b("\n".join(record_id for record_id, _ in rows).encode(), digest_size=12).hexdigest()
    beside, place = folder / f".{name}.{os.getpid()}", folder / f"{name}.zarr"
    try:
        _sweep(folder)
        shutil.rmtree(beside, ignore_errors=True)
        shard.write(beside, [payload.array for _, payload in rows], [_about(*row) for row in rows])
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


@lru_cache(maxsize=512)
def _opened(place: Path, changed: int) -> Shard:
    return shard.opened(place)


def _shard(place: Path) -> Shard:
    return _opened(place, os.stat(f"{place}/zarr.json").st_mtime_ns)


def _records(place: Path) -> list[str]:
    """Whose rows a shard has; one that cannot be opened is removed."""
    try:
        return [str(json.loads(row)["record"]) for row in _shard(place).rows]
    except Exception:  # whatever a damaged file makes a codec say
        shutil.rmtree(place, ignore_errors=True)
        return []


def _row(place: Path, number: int) -> Payload | None:
    try:
        opened = _shard(place)
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
