"""The elements of a plain DICOM file by their places: what nobody asks for is not made a value.

A series is a thousand headers of a hundred elements, of which a dozen are asked for, and most say what the last slice said.
`pydicom` makes an object of each; here they are only found, `pydicom` turns the dozen into values, and what is said again is
not turned again. A file with anything unusual is left to `pydicom` whole: another byte order, a VR that the standard does
not have, tags that do not ascend, an element that does not end where it says.
Source: DICOM PS3.5 7.1 (elements), 7.5 (sequences), A.4 (packed pixels); PS3.10 7.1 (file meta information).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from .source import quiet

Places = dict[int, tuple[str | None, int, int]]
"""Tag → VR (None where it is not written), and where the value begins and ends."""

_SHORT = b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # a length of four bytes, PS3.5 7.1.2
_VR = {vr: vr.decode() for vr in (*_SHORT, *_LONG)}
_ITEM, _ITEM_ENDS, _SEQUENCE_ENDS = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_FIRST_ITEM = b"\xfe\xff\x00\xe0"
_ALL, _NO_LENGTH = 0xFFFFFFFF, 0xFFFFFFFF
_META_ENDS, _SYNTAX, _CHARSET, _PIXELS = 0x0002FFFF, 0x00020010, 0x00080005, 0x7FE00010
_IMPLICIT = b"1.2.840.10008.1.2"
_PLAIN = re.compile(rb"1\.2\.840\.10008\.1\.2(\.1|\.5|\.4\.(5|6|7|8|9(?!5)|10)\d|\.4\.20[1-3])?")
"""Little endian and not deflated: uncompressed, RLE, JPEG and its kin (PS3.5 annex A)."""

_CHARSETS = re.compile(rb"[A-Z0-9_ \\]*\0?")
"""Names as PS3.3 C.12.1.1.2 has them."""

_tag_length = struct.Struct("<HHL").unpack_from
_tag_vr_length = struct.Struct("<HH2sH").unpack_from
_long_length = struct.Struct("<L").unpack_from


class _UnusualError(Exception):
    """For pydicom to judge."""


@dataclass(frozen=True, slots=True)
class Elements:
    """A header that is asked as a pydicom dataset is: `get`, `in`, attributes.

    What depends on other elements, or has some within, raises LookupError: pydicom is to be asked.

    Args:
        data: the file, or its beginning.
        places: where the elements are.
        charset: what (0008,0005) says.
        file_meta: those of its file meta information.
    """

    data: bytes
    places: Places
    charset: bytes = b""
    file_meta: Elements | None = None

    def get(self, keyword: str, default: Any = None) -> Any:
        """The value of an element, or the default where it is absent; pixels that are not packed as a view."""
        tag = _tag_of(keyword)
        place = self.places.get(tag)
        if place is None:
            return default
        vr, start, end = place
        if tag != _PIXELS:
            return _value(tag, vr, self.data[start:end], self.charset)
        view = memoryview(self.data)[start:end]
        return bytes(view) if view[:4] == _FIRST_ITEM else view

    def group(self, number: int) -> tuple[tuple[int, str | None, bytes], ...]:
        """The elements of a group as they are written."""
        return tuple((tag, vr, self.data[a:b]) for tag, (vr, a, b) in self.places.items() if tag >> 16 == number)

    def __contains__(self, keyword: str) -> bool:
        return _tag_of(keyword) in self.places

    def __getattr__(self, keyword: str) -> Any:
        if keyword not in self:
            raise AttributeError(keyword)
        return self.get(keyword)


@lru_cache(maxsize=1024)
def _tag_of(keyword: str) -> int:
    from pydicom.datadict import tag_for_keyword

    return tag_for_keyword(keyword) or -1


@lru_cache(maxsize=4096)
@quiet("pydicom")
def _value(tag: int, vr: str | None, data: bytes, charset: bytes) -> Any:
    """What pydicom makes of an element, in a dataset of nothing else."""
    from pydicom.datadict import dictionary_VR
    from pydicom.dataelem import RawDataElement, empty_value_for_VR
    from pydicom.dataset import Dataset
    from pydicom.tag import BaseTag

    if " or " in (vr or dictionary_VR(tag)):
        raise LookupError(tag)  # PixelRepresentation says which
    held = {}
    for place, of, value in ((_CHARSET, vr and "CS", charset), (tag, vr, data)):
        said = value or empty_value_for_VR(of, raw=True)
        held[BaseTag(place)] = RawDataElement(BaseTag(place), of, len(value), said, 0, vr is None, True)  # type: ignore[arg-type]
    element = Dataset(held)[BaseTag(tag)]
    if element.VR in ("SQ", "UN"):
        raise LookupError(tag)
    return element.value


def elements(data: bytes, until: int = _ALL) -> Elements | None:
    """The elements of a file; None where it is not plain.

    Args:
        data: the whole file, or so much of it that there is a tag beyond `until`.
        until: the last tag that is wanted.
    """
    if data[128:132] != b"DICM":
        return None
    meta: Places = {}
    found: Places = {}
    try:
        place = _walk(data, 132, len(data), False, meta, _META_ENDS)
        _, start, end = meta[_SYNTAX]
        syntax = data[start:end].rstrip(b"\0 ")
        implicit = syntax == _IMPLICIT
        vr = data[place + 4 : place + 6]
        if min(meta) >> 16 != 2 or not _PLAIN.fullmatch(syntax) or (vr.isalpha() and vr.isupper()) == implicit:
            return None
        if data[place : place + 2] == b"\0\0":  # a command set, PS3.7 6.3
            return None
        place = _walk(data, place, len(data), implicit, found, until)
    except (_UnusualError, struct.error, KeyError, RecursionError):
        return None
    whole = until == _ALL or place < len(data)
    if not found or not whole:
        return None
    _, start, end = found.get(_CHARSET, (None, 0, 0))
    return Elements(data, found, data[start:end], Elements(data, meta))


def _walk(data: bytes, place: int, end: int, implicit: bool, found: Places, until: int) -> int:
    """Find the elements from a place on, to the first beyond `until` or to the end exactly; where that is."""
    last = -1
    while place < end:
        if implicit:
            group, number, length = _tag_length(data, place)
            vr, start = None, place + 8
        else:
            group, number, code, length = _tag_vr_length(data, place)
            vr, start = _VR.get(code), place + 8
            if code in _LONG:
                length, start = _long_length(data, start)[0], place + 12
        tag = group << 16 | number
        if tag > until:
            return place
        if tag <= last or group == 0xFFFE or (vr is None and not implicit):
            raise _UnusualError
        last = tag
        if length != _NO_LENGTH:
            place = stop = start + length
        else:
            stop = _items(data, start, end, None if tag == _PIXELS and vr else _within(tag, vr))
            place = stop + 8
        if place > end:
            raise _UnusualError
        if tag == _CHARSET and not (vr in (None, "CS") and _CHARSETS.fullmatch(data, start, stop)):
            raise _UnusualError
        found[tag] = vr, start, stop
    return place


def _within(tag: int, vr: str | None) -> bool:
    """Whether the items of a sequence are of implicit VR, as the sequence is."""
    if vr is None:
        from pydicom.datadict import dictionary_VR

        try:
            vr = dictionary_VR(tag)
        except KeyError:  # of a private one pydicom, too, sees by what follows that it is a sequence
            return True
        if vr == "SQ":
            return True
    elif vr == "SQ":
        return False
    raise _UnusualError


def _items(data: bytes, place: int, end: int, implicit: bool | None) -> int:
    """Where the items that begin at a place are delimited; their elements are walked through, but for the fragments of pixels (None)."""
    while True:
        group, number, length = _tag_length(data, place)
        tag = group << 16 | number
        if tag == _SEQUENCE_ENDS and not length:
            return place
        place += 8
        if tag != _ITEM:
            raise _UnusualError
        if length != _NO_LENGTH:
            stop = place + length
            if stop > end or (implicit is not None and _walk(data, place, stop, implicit, {}, _ALL) != stop):
                raise _UnusualError
            place = stop
        elif implicit is None:
            raise _UnusualError
        else:
            place = _walk(data, place, end, implicit, {}, _ITEM_ENDS - 1)
            if data[place : place + 8] != b"\xfe\xff\x0d\xe0\0\0\0\0":
                raise _UnusualError
            place += 8
