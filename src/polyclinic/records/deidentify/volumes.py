"""NIfTI-1 and -2: the header's free words are emptied, extensions and whatever follows the voxels are left out; the voxels stay.

The face in a head scan is not removed: that is a question of pixels (PS3.15 E.3.2), and a person's.
Source: nifti1.h and nifti2.h, the positions of the fields.
"""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path
from typing import IO, Any, cast

from ..source import LARGEST_BYTES, RecordError

_BLOCK = 1 << 20
_WORDS = {
    1: ((4, 10), (14, 18), (148, 80), (228, 24), (328, 16)),  # data_type, db_name, descrip, aux_file, intent_name
    2: ((240, 80), (320, 24), (508, 16), (525, 15)),  # descrip, aux_file, intent_name, unused_str
}


def recognises(path: Path, head: bytes) -> bool:
    """Whether it is a NIfTI in one file, also gzipped."""
    if head[:2] == b"\x1f\x8b":
        try:
            with gzip.open(path) as file:
                head = file.read(400)
        except (OSError, EOFError):
            return False
    return head[344:348] == b"n+1\x00" or head[4:8] == b"n+2\x00"


def deidentify(path: Path, to: Path) -> list[tuple[str, str]]:
    """Write the volume without words; gives what was done, as (place, action).

    Raises:
        RecordError: it is cut short or its header is no header.
    """
    packed = _starts(path) == b"\x1f\x8b"
    with cast(IO[bytes], gzip.open(path) if packed else path.open("rb")) as source, to.open("wb") as raw:
        head = bytearray(source.read(544))
        two = bytes(head[4:8]) == b"n+2\x00"
        size = 540 if two else 348
        if len(head) < size + 4:
            raise RecordError("a NIfTI header that was cut short", "a whole file", "copy it again")
        offset, count = _voxels(head, two)
        done = [(f"header byte {start}", "Z") for start, n in _WORDS[2 if two else 1] if any(head[start : start + n])]
        for start, length in _WORDS[2 if two else 1]:
            head[start : start + length] = bytes(length)
        if offset > size + 4:
            done.append(("extensions", "X"))
        _set_offset(head, two, size + 4)
        body = head[:size] + bytes(4)
        out: Any = gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=6) if packed else raw
        try:
            out.write(body)
            _copy(source, bytes(head[offset:]) if offset < len(head) else b"", max(0, offset - len(head)), count, out)
        finally:
            if packed:
                out.close()
    return done


def _starts(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(2)


def _voxels(head: bytearray, two: bool) -> tuple[int, int]:
    """Where the voxels begin, and their bytes."""
    first = struct.unpack_from("<i", head, 0)[0]
    order = "<" if first in (348, 540) else ">"
    if two:
        dims = struct.unpack_from(order + "8q", head, 16)
        bits, offset = struct.unpack_from(order + "h", head, 14)[0], struct.unpack_from(order + "q", head, 168)[0]
    else:
        dims = struct.unpack_from(order + "8h", head, 40)
        bits, offset = struct.unpack_from(order + "h", head, 72)[0], int(struct.unpack_from(order + "f", head, 108)[0])
    if not 1 <= dims[0] <= 7 or min(dims[1 : 1 + dims[0]]) < 1 or bits < 8 or offset < (544 if two else 352):
        raise RecordError("a NIfTI header that makes no sense", "dimensions, bits and an offset", "export it again")
    count = math.prod(dims[1 : 1 + dims[0]]) * bits // 8
    if count > LARGEST_BYTES * 8:
        raise RecordError("a NIfTI header that promises more voxels than any scanner", "less", "check the header")
    return offset, count


def _set_offset(head: bytearray, two: bool, offset: int) -> None:
    order = "<" if struct.unpack_from("<i", head, 0)[0] in (348, 540) else ">"
    struct.pack_into(order + "q", head, 168, offset) if two else struct.pack_into(order + "f", head, 108, float(offset))


def _copy(source: IO[bytes], begun: bytes, skip: int, count: int, out: Any) -> None:
    while skip > 0:
        block = source.read(min(skip, _BLOCK))
        if not block:
            raise RecordError("a NIfTI file that was cut short", "a whole file", "copy it again")
        skip -= len(block)
    out.write(begun[:count])
    left = count - len(begun[:count])
    while left > 0:
        try:
            block = source.read(min(left, _BLOCK))
        except (OSError, EOFError) as error:
            raise RecordError("a broken gzip file", "a whole file", "copy it again") from error
        if not block:
            raise RecordError("a NIfTI file that was cut short", "a whole file", "copy it again")
        out.write(block)
        left -= len(block)
