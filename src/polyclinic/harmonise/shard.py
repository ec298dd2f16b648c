"""A Zarr v3 array of like rows in one shard file, written and read without Zarr: any Zarr reader opens it.

    zarr.json    shape (n …), one chunk a row, one shard of all; attributes: what is said of each row
    c/0/0/…      the rows' chunks one after another, then where each lies and how long it is

Zarr's own way leads through an event loop in a thread, whose turns take longer than reading and decoding a row, and which cannot be
asked for anything from within itself (where the garbage collector may run) nor when the program ends.

Source: Zarr core specification 3.1 and its codecs `sharding_indexed`, `bytes`, `blosc` and `crc32c` (zarr-specs.readthedocs.io).
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

THREADED = 2**22
"""Bytes from which a second thread pays: what is smaller is unpacked before it has woken, and on a busy machine long before."""
_LARGEST = 2**31 - 64
"""Bytes that Blosc takes at once; a larger row is not compressed."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard's file, where its rows lie in it, and what is said of each.

    Args:
        rows: JSON, which is a fraction of what Python makes of it.
        index: (n 2) uint64, offset and bytes.
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

            with _one_thread() if found.nbytes < THREADED else nullcontext():
                Blosc().decode(stored, found)
        else:
            found.reshape(-1).view(np.uint8)[:] = np.frombuffer(stored, np.uint8)
        return found


@contextmanager
def _one_thread() -> Iterator[None]:
    """Blosc without its pool. It asks a global for that; in other threads than the main one it does without anyway."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    from numcodecs import blosc  # type: ignore[attr-defined]

    before = blosc.use_threads
    blosc.use_threads = False
    try:
        yield
    finally:
        blosc.use_threads = before


def write(folder: Path, arrays: Sequence[np.ndarray], about: Sequence[Mapping[str, Any]]) -> None:
    """Write rows into a new folder.

    Args:
        arrays: of numbers, all of one shape and type.
        about: JSON objects, one a row.
    Raises:
        OSError: it cannot be written whole.
    """
    first = arrays[0]
    dtype, packed = first.dtype.newbyteorder("<"), first.nbytes < _LARGEST
    chunk = folder.joinpath("c", *["0"] * (first.ndim + 1))
    chunk.parent.mkdir(parents=True)
    if first.size:
        index = np.zeros((len(arrays), 2), "<u8")
        with chunk.open("wb") as file:
            for number, array in enumerate(arrays):
                encoded = _encoded(np.ascontiguousarray(array, dtype), packed)
                index[number] = file.tell(), len(encoded)
                file.write(encoded)
            file.write(_with_sum(index.tobytes()))
    told = json.dumps({**_metadata(len(arrays), first, packed), "attributes": {"rows": list(about)}})
    (folder / "zarr.json").write_text(told, encoding="utf-8")


def opened(folder: Path) -> Shard:
    """A shard's place and index.

    Raises:
        Exception: whatever a damaged file makes of it.
    """
    about = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))
    count, *shape = about["shape"]
    file = folder.joinpath("c", *["0"] * len(about["shape"]))
    index = np.zeros((0, 2), np.uint64)
    if count * np.prod(shape, dtype=int):
        with file.open("rb") as stored:
            stored.seek(-(16 * count + 4), os.SEEK_END)
            index = np.frombuffer(_checked(stored.read()), "<u8").reshape(-1, 2)
    inner = [codec["name"] for codec in about["codecs"][0]["configuration"]["codecs"]]
    rows = [json.dumps(row).encode() for row in about["attributes"]["rows"]]
    return Shard(file, tuple(shape), np.dtype(about["data_type"]), "blosc" in inner, rows, index)


def _metadata(count: int, first: np.ndarray, packed: bool) -> dict[str, Any]:
    """The array's metadata document, all but its attributes."""
    row = [max(n, 1) for n in first.shape]
    raw: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
    # Of floats the bytes of like weight lie together; seven times as fast to read as Zarr's own choice, and smaller.
    blosc = {
        "typesize": first.itemsize, "cname": "lz4", "clevel": 1, "shuffle": "shuffle", "blocksize": 0,
    }  # fmt: skip
    inner = [raw, *([{"name": "blosc", "configuration": blosc}] if packed else []), {"name": "crc32c"}]
    sharding = {
        "chunk_shape": [1, *row], "codecs": inner, "index_codecs": [raw, {"name": "crc32c"}], "index_location": "end",
    }  # fmt: skip
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [count, *first.shape],
        "data_type": first.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [count, *row]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": first.dtype.type(0).item(),
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "storage_transformers": [],
    }


def _encoded(array: np.ndarray, packed: bool) -> bytes:
    if not packed:
        return _with_sum(array.tobytes())
    from numcodecs import Blosc

    return _with_sum(bytes(Blosc("lz4", 1, Blosc.SHUFFLE).encode(array)))


def _with_sum(stored: bytes) -> bytes:
    """With its CRC-32C (RFC 3720, appendix B.4) behind it, as the codec `crc32c` has it."""
    import google_crc32c

    return stored + int(google_crc32c.value(stored)).to_bytes(4, "little")


def _checked(stored: bytes) -> bytes:
    """What stands before its CRC-32C.

    Raises:
        ValueError: they do not agree.
    """
    import google_crc32c

    if google_crc32c.value(stored[:-4]) != int.from_bytes(stored[-4:], "little"):
        raise ValueError("a damaged chunk")
    return stored[:-4]
