"""The cache of harmonised voxels and signals: one Zarr array a record, keyed by record and standard; a memory in front."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from ..schema import Payload, Step

_ON_DISK = {"image", "volume", "signal"}
_VERSION = "2"
"""Goes up whenever a standard's code makes other numbers of the same record."""


class Cache:
    """Harmonised payloads, kept.

    Two processes may share the folder: an array is written beside its place and renamed into it, and whoever comes second
    keeps the first's. What cannot be read back is made again; what cannot be written (a full disk) is kept in memory.

    Args:
        folder: on the disk; None keeps them in memory only.
        most_bytes: of the memory in front; the least recently used go first.
    """

    def __init__(self, folder: Path | None = None, most_bytes: int = 2 * 2**30) -> None:
        self.folder, self.most_bytes = folder, most_bytes
        self._kept: OrderedDict[tuple[str, str], Payload] = OrderedDict()
        self._bytes = 0

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
        on_disk = self.folder is not None and getattr(standard, "kind", "") in _ON_DISK
        place = self.folder / what / record_id if on_disk and self.folder else None
        payload = _read(place) if place is not None else None
        if payload is None:
            payload = make()
            if place is not None:
                _write(place, payload)
        self._kept[key] = payload
        self._bytes += payload.array.nbytes
        while self._bytes > self.most_bytes and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].array.nbytes
        return payload


def _write(place: Path, payload: Payload) -> None:
    import zarr

    beside = place.with_name(f".{place.name}.{os.getpid()}")
    steps = [
        {"name": s.name, "shape": list(s.shape), "to_world": s.to_world, "parameters": dict(s.parameters)}
        for s in payload.history
    ]
    world = None if payload.to_world is None else payload.to_world.tolist()
    about: dict[str, Any] = {
        "to_world": world,
        "nominal": payload.nominal,
        "names": list(payload.names),
        "history": steps,
        "digest": _digest(payload.array),
    }
    try:
        shutil.rmtree(beside, ignore_errors=True)
        shape = payload.array.shape
        array = zarr.create_array(beside, shape=shape, dtype=payload.array.dtype, chunks=shape, attributes=about)
        array[...] = payload.array
        os.rename(beside, place)
    except OSError:  # another process was first, or the disk is full: a cache is nobody's only copy
        shutil.rmtree(beside, ignore_errors=True)


def _digest(array: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=12).hexdigest()


def _read(place: Path) -> Payload | None:
    import zarr

    if not place.exists():
        return None
    try:
        array = zarr.open_array(place, mode="r")
        about: dict = dict(array.attrs)
        history = tuple(
            Step(s["name"], tuple(s["shape"]), s["to_world"] and tuple(map(tuple, s["to_world"])), s["parameters"])
            for s in about["history"]
        )
        world = None if about["to_world"] is None else np.array(about["to_world"])
        values = np.asarray(array[...])
        if _digest(values) != about["digest"]:  # Zarr reads a chunk that is gone as zeros
            raise ValueError
        return Payload(values, world, history, bool(about["nominal"]), tuple(about["names"]))
    except Exception:  # whatever a damaged file makes Zarr or a codec say
        shutil.rmtree(place, ignore_errors=True)
        return None
