"""PNG, JPEG and TIFF: everything but the picture is left out, without decoding it: EXIF, comments, text, thumbnails, what follows its end.

Source: PNG (ISO/IEC 15948) 5.6, JPEG (ITU-T T.81) B.1, TIFF 6.0.
"""

from __future__ import annotations

import struct
from pathlib import Path

from ..source import RecordError

_PNG = b"\x89PNG\r\n\x1a\n"
_CHUNKS = frozenset(
    {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"bKGD", b"pHYs", b"cICP"}
)
_TAGS = frozenset(
    {
        254,
        256,
        257,
        258,
        259,
        262,
        266,
        273,
        274,
        277,
        278,
        279,
        280,
        281,
        282,
        283,
        284,
        290,
        291,
        296,
        301,
        317,
        318,
        319,
        320,
        322,
        323,
        324,
        325,
        338,
        339,
        340,
        341,
        347,
        529,
        530,
        531,
        532,
    }
)
_SIZES = {1: 1, 3: 2, 4: 4, 5: 8, 6: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_LARGEST = 2**31


def deidentify(path: Path, to: Path) -> list[tuple[str, str]]:
    """Write the picture alone; gives what was done, as (place, action).

    Raises:
        RecordError: it is cut short or of a form that this does not know.
    """
    if path.stat().st_size > _LARGEST:
        raise RecordError("a picture of over 2 GiB", "less", "tile it")
    data = path.read_bytes()
    if data.startswith(_PNG):
        new, done = _png(data)
    elif data.startswith(b"\xff\xd8\xff"):
        new, done = jpeg(data)
    else:
        new, done = _tiff(data)
    to.write_bytes(new)
    return done


def _cut(kind: str) -> RecordError:
    return RecordError(f"a {kind} that was cut short", "a whole picture", "copy it again")


def _png(data: bytes) -> tuple[bytes, list[tuple[str, str]]]:
    out, done, at = [_PNG], [], 8
    while True:
        if at + 12 > len(data):
            raise _cut("PNG")
        length, kind = struct.unpack_from(">I4s", data, at)
        stop = at + 12 + length
        if stop > len(data):
            raise _cut("PNG")
        if kind in _CHUNKS:
            out.append(data[at:stop])
        else:
            done.append((f"chunk {kind.decode('latin-1') if kind.isalpha() else '?'}", "X"))
        at = stop
        if kind == b"IEND":
            break
    if at < len(data):
        done.append(("after the end", "X"))
    return b"".join(out), done


def jpeg(data: bytes) -> tuple[bytes, list[tuple[str, str]]]:
    """A JPEG without comments and application segments, and what was done; also one that leaves its tables to others (T.81 B.5)."""
    out, done, at = [b"\xff\xd8"], [], 2
    while True:
        while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] == b"\xff":
            at += 1
        if at + 2 > len(data) or data[at] != 0xFF:
            raise _cut("JPEG")
        marker = data[at + 1]
        if marker == 0xD9:
            out.append(b"\xff\xd9")
            at += 2
            break
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:
            at += 2
            continue
        if at + 4 > len(data):
            raise _cut("JPEG")
        stop = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        body = data[at + 4 : stop]
        if stop > len(data):
            raise _cut("JPEG")
        if marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14:
            out.append(b"\xff\xe0\x00\x10" + body[:12] + b"\0\0")  # without its thumbnail
        elif marker == 0xEE and body.startswith(b"Adobe"):
            out.append(b"\xff\xee\x00\x0e" + body[:12])  # says how colours are coded
        elif 0xE0 <= marker <= 0xEF or marker == 0xFE:
            done.append((f"segment {marker:02X}", "X"))
        else:
            out.append(data[at:stop])
        at = stop
        if marker == 0xDA:
            stop = _scan_end(data, at)
            out.append(data[at:stop])
            at = stop
    if at < len(data):
        done.append(("after the end", "X"))
    return b"".join(out), done


def _scan_end(data: bytes, at: int) -> int:
    """Where the coded samples end: at a marker that is neither a stuffed zero nor a restart."""
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            raise _cut("JPEG")
        following = data[at + 1]
        if following == 0xFF:
            at += 1
        elif following == 0 or 0xD0 <= following <= 0xD7:
            at += 2
        else:
            return at


def _tiff(data: bytes) -> tuple[bytes, list[tuple[str, str]]]:
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        raise RecordError("a picture of another kind (BigTIFF?)", "PNG, JPEG or classic TIFF", "convert it")
    out, done = bytearray(data[:4] + bytes(4)), []
    at, link, seen = struct.unpack_from(order + "I", data, 4)[0], 4, set()
    while at:
        if at in seen or at + 2 > len(data):
            raise _cut("TIFF")
        seen.add(at)
        entries, following = _entries(data, at, order)
        done += [(f"tag {tag}", "X") for tag in entries if tag not in _TAGS]
        link = _write_directory(data, out, {t: e for t, e in entries.items() if t in _TAGS}, order, link)
        at = following
    return bytes(out), done


def _entries(data: bytes, at: int, order: str) -> tuple[dict[int, tuple[int, int, bytes]], int]:
    """Tag → (type, count, value's bytes) of one directory, and the place of the next."""
    try:
        count = struct.unpack_from(order + "H", data, at)[0]
        entries = {}
        for number in range(count):
            tag, kind, n, _ = struct.unpack_from(order + "HHI4s", data, at + 2 + 12 * number)
            size = _SIZES.get(kind, 1) * n
            place = (
                at + 10 + 12 * number if size <= 4 else struct.unpack_from(order + "I", data, at + 10 + 12 * number)[0]
            )
            if place + size > len(data):
                raise _cut("TIFF")
            entries[tag] = (kind, n, data[place : place + size])
        return entries, struct.unpack_from(order + "I", data, at + 2 + 12 * count)[0]
    except struct.error as error:
        raise _cut("TIFF") from error


def _write_directory(
    data: bytes, out: bytearray, entries: dict[int, tuple[int, int, bytes]], order: str, link: int
) -> int:
    """Append the samples and their directory; gives where the next directory's place is to be written."""
    for places, sizes in ((273, 279), (324, 325)):
        if places in entries:
            if sizes not in entries:
                raise RecordError("a TIFF that does not say how long its strips are", "tag 279 or 325", "save it again")
            new = []
            for start, size in zip(_integers(entries[places], order), _integers(entries[sizes], order), strict=True):
                if start + size > len(data):
                    raise _cut("TIFF")
                out.extend(bytes(len(out) % 2))
                new.append(len(out))
                out.extend(data[start : start + size])
            entries[places] = (4, len(new), struct.pack(f"{order}{len(new)}I", *new))
    if not {273, 324} & set(entries):
        raise RecordError("a TIFF without samples", "strips or tiles", "save it again")
    values = {}
    for tag, (_, _, value) in sorted(entries.items()):
        if len(value) > 4:
            out.extend(bytes(len(out) % 2))
            values[tag] = struct.pack(order + "I", len(out))
            out.extend(value)
        else:
            values[tag] = value.ljust(4, b"\0")
    out.extend(bytes(len(out) % 2))
    struct.pack_into(order + "I", out, link, len(out))
    out.extend(struct.pack(order + "H", len(entries)))
    for tag, (kind, n, _) in sorted(entries.items()):
        out.extend(struct.pack(order + "HHI", tag, kind, n) + values[tag])
    out.extend(bytes(4))
    return len(out) - 4


def _integers(entry: tuple[int, int, bytes], order: str) -> list[int]:
    kind, n, value = entry
    return list(struct.unpack(f"{order}{n}{'H' if kind == 3 else 'I'}", value))
