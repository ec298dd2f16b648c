"""Bounds on what a DICOM file's own compression may unpack to: its header is not what the decoder goes by."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

from .source import RecordError

MOST_INFLATED = 2**29
MOST_ITEMS = 400_000
"""Of a file's sequences, more than any honest one has: eight bytes each, they become an object each."""
_ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")  # (FFFE,E000), PS3.5 7.5, in either byte order
_DEFLATED = "1.2.840.10008.1.2.1.99"


def deflated(path: Path) -> bool:
    """Whether its file meta information says that what follows is deflated."""
    from pydicom.filereader import read_file_meta_info

    with path.open("rb") as file:
        if _DEFLATED.encode() not in file.read(4096):
            return False
    return str(read_file_meta_info(path).get("TransferSyntaxUID")) == _DEFLATED


def check_deflated(path: Path) -> None:
    """Refuse a deflated file (PS3.5 A.5) that inflates beyond bound; pydicom would inflate it in one piece.

    Raises:
        RecordError: over half a GiB, or too many sequence items.
    """
    if not deflated(path):
        return
    with path.open("rb") as file:
        file.seek(_end_of_meta(path))
        inflate, count, items = zlib.decompressobj(-zlib.MAX_WBITS), 0, 0
        while packed := inflate.unconsumed_tail or file.read(1 << 16):
            block = inflate.decompress(packed, 1 << 20)
            count, items = count + len(block), items + _items(block)
            _few(items)
            if count > MOST_INFLATED:
                raise RecordError(
                    f"a deflated DICOM file of over {MOST_INFLATED >> 20} MiB", "less", "decompress it on the PACS"
                )


def check_items(path: Path) -> None:
    """Refuse a file of too many sequence items.

    Raises:
        RecordError: with how many.
    """
    if path.stat().st_size < 8 * MOST_ITEMS:
        return
    with path.open("rb") as file:
        items = 0
        while block := file.read(1 << 22):
            items += _items(block)
    _few(items)


def _items(block: bytes) -> int:
    return sum(block.count(tag) for tag in _ITEMS)


def _few(items: int) -> None:
    if items > MOST_ITEMS:
        raise RecordError(
            f"a DICOM file of {items} sequence items", f"at most {MOST_ITEMS}", "check where it comes from"
        )


def _end_of_meta(path: Path) -> int:
    """Where the file meta information ends: (0002,0000) counts what follows it (PS3.10 7.1)."""
    with path.open("rb") as file:
        file.seek(132)
        head = file.read(12)
    return 132 + 12 + struct.unpack("<L", head[8:12])[0]


def check_codestream(dataset: Any) -> None:
    """Refuse a JPEG or JPEG 2000 frame of another size than Rows and Columns say.

    Raises:
        RecordError: with both sizes.
    """
    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return
    from pydicom.encaps import generate_frames

    size = frame_size(next(generate_frames(dataset.PixelData, number_of_frames=1)))
    if size is not None and size != (int(dataset.Rows), int(dataset.Columns)):
        raise RecordError(
            f"a frame of {size[0]} × {size[1]} pixels under a header of {dataset.Rows} × {dataset.Columns}", "one size",
            "send it again from the PACS",
        )  # fmt: skip


def frame_size(frame: bytes) -> tuple[int, int] | None:
    """Rows and columns in the header of a JPEG, JPEG-LS or JPEG 2000 codestream; None for another (RLE)."""
    if (place := frame.find(b"\xff\x4f\xff\x51")) >= 0 and place < 4096:  # SOC, SIZ: ISO 15444-1 A.5.1
        right, bottom, left, top = struct.unpack(">4L", frame[place + 8 : place + 24])
        return bottom - top, right - left
    if frame[:2] != b"\xff\xd8":
        return None
    place = 2
    while place + 9 <= len(frame) and frame[place] == 0xFF:  # ISO 10918-1 B.2.2: SOFn; 14495-1: SOF55
        marker, length = frame[place + 1], struct.unpack(">H", frame[place + 2 : place + 4])[0]
        if marker in (0xF7, *range(0xC0, 0xD0)) and marker not in (0xC4, 0xC8, 0xCC):
            return struct.unpack(">HH", frame[place + 5 : place + 9])
        place += 1 if marker == 0xFF else 2 + length
    return None
