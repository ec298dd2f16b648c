"""The cache of harmonised voxels and signals: one Zarr array a record, keyed by record and standard; a memory in front."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from ..schema import Payload, Step

_ON_DISK = {"image", "volume", "signal"}


class Cache:
    """Harmonised payloads, kept.

    Two processes may share the folder: an array is written beside its place and renamed into it, and whoever comes second
    keeps the first's.

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
        what = hashlib.blake2b((standard.model_dump_json() + extra).encode(), digest_size=12).hexdigest()
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
    array = zarr.create_array(beside, shape=payload.array.shape, dtype=payload.array.dtype, chunks=payload.array.shape)
    array[...] = payload.array
    steps = [
        {"name": s.name, "shape": list(s.shape), "to_world": s.to_world, "parameters": dict(s.parameters)}
        for s in payload.history
    ]
    world = None if payload.to_world is None else payload.to_world.tolist()
    array.attrs.update({"to_world": world, "nominal": payload.nominal, "names": list(payload.names), "history": steps})
    try:
        os.rename(beside, place)
    except OSError:  # another process was first
        shutil.rmtree(beside, ignore_errors=True)


def _read(place: Path) -> Payload | None:
    import zarr

    if not place.exists():
        return None
    array = zarr.open_array(place, mode="r")
    about: dict = dict(array.attrs)
    history = tuple(
        Step(s["name"], tuple(s["shape"]), s["to_world"] and tuple(map(tuple, s["to_world"])), s["parameters"])
        for s in about["history"]
    )
    world = None if about["to_world"] is None else np.array(about["to_world"])
    return Payload(np.asarray(array[...]), world, history, bool(about["nominal"]), tuple(about["names"]))
