"""Pyramids in TIFF, plain or OME (`tifffile`): their levels, tile by tile.

Source: TIFF 6.0; the OME-TIFF specification 6.0 (pyramids in SubIFDs). Pages are judged by themselves; what OME's XML says of
other files is not followed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import Scalar
from .packed import frame_size
from .pyramid import LARGEST_TILE, Level, Pyramid, grid, of_tiles
from .source import RecordError, check_size

MAGIC = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
"""TIFF and BigTIFF, in either byte order."""
_MOST_PAGES = 64
MOST_PIXELS = 2 * 89_478_485
"""Of a picture, as pillow has it; a larger one that is tiled is read as a slide."""
_JPEG, CODESTREAMS = {6, 7}, {7, 33003, 33004, 33005, 34712}
PACKED = {1, 5, 8, 32773, 32946, 50000} | CODESTREAMS
"""None, LZW, Deflate, PackBits, Zstandard, JPEG and JPEG 2000: what is decoded into no more than a tile's own size."""
UNITS = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}
COARSEST_MPP = 20.0
"""µm a pixel of level 0; 72 dots an inch, which is 353, is a printer's number and no microscope's."""


@contextmanager
def pages(path: Path) -> Iterator[Any]:
    """The open `TiffFile`.

    Raises:
        RecordError: it is none, or not whole.
    """
    from tifffile import TiffFile

    try:
        file = TiffFile(path, is_ome=False)
    except Exception as error:  # whatever a hostile one makes the library say
        raise _broken(error) from error
    with file:
        try:
            _ = file.pages.first.imagewidth
        except Exception as error:
            raise _broken(error) from error
        yield file


def _broken(error: Exception) -> RecordError:
    return RecordError(f"a TIFF that does not open ({type(error).__name__})", "a whole TIFF", "copy it again")


def levels(file: Any) -> list[Any]:
    """The pages that show one picture at falling resolutions, the finest first.

    They are the first page's SubIFDs, or pages after it of the same sort and aspect; thumbnails and labels are of another.
    """
    first = file.pages.first
    others = list(islice(file.pages, 1, _MOST_PAGES)) if not first.subifds else list(islice(first.pages, _MOST_PAGES))
    found = [first]
    for page in others:
        alike = page.tags.get(256) and (page.dtype, page.samplesperpixel) == (first.dtype, first.samplesperpixel)
        if not alike or page.is_tiled != first.is_tiled or page.imagewidth >= found[-1].imagewidth:
            continue
        x, y = first.imagewidth / page.imagewidth, first.imagelength / page.imagelength
        # A level's size is rounded to a pixel; a label's aspect is another.
        if abs(x - y) <= 1.5 * max(x / page.imagewidth, y / page.imagelength) and x > 1.3:
            found.append(page)
    return found


def every(file: Any) -> list[Any]:
    """Its pages that show something, of a chain without end the first."""
    return [page for page in islice(file.pages, _MOST_PAGES) if page.tags.get(256) and page.tags.get(257)]


def planes(file: Any) -> int:
    """How many pages have the first one's size: channels, focal planes or times, where it is more than one."""
    first = file.pages.first
    size = lambda page: (page.tags.get(256) and page.imagewidth, page.tags.get(257) and page.imagelength)
    return sum(size(page) == size(first) for page in islice(file.pages, _MOST_PAGES))


def check_whole(file: Any, page: Any) -> None:
    """Refuse a page whose tiles are not all there, or whose header promises more than a tile may have.

    Raises:
        RecordError: with what is wrong.
    """
    wide, tall = tile_of(page)
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    check_size((page.imagelength, page.imagewidth), 0)
    check_size((tall, wide, samples), 1)
    if (
        tall * wide * samples * max(1, page.bitspersample if isinstance(page.bitspersample, int) else 64) // 8
        > LARGEST_TILE
    ):
        raise RecordError(
            f"tiles of {wide} × {tall} pixels", f"at most {LARGEST_TILE >> 20} MiB a tile", "tile it smaller"
        )
    count = ceil(page.imagewidth / wide) * ceil(page.imagelength / tall) * (page.samplesperpixel // samples)
    starts, lengths = page.dataoffsets, page.databytecounts
    if len(starts) != count or len(lengths) != count:
        raise RecordError(f"a TIFF with {len(starts)} of {count} tiles", "as many as its size says", "copy it again")
    check_there(file, page)


def check_there(file: Any, page: Any) -> None:
    """Refuse a page whose tiles or strips lie beyond the file's end.

    Raises:
        RecordError: they do.
    """
    count = min(len(page.dataoffsets), len(page.databytecounts))
    ends = np.asarray(page.dataoffsets[:count], np.float64) + np.asarray(page.databytecounts[:count], np.float64)
    if count and ends.max() > file.filehandle.size:
        raise RecordError("a TIFF that was cut short", "a whole TIFF", "copy it again")


def tile_of(page: Any) -> tuple[int, int]:
    """Width and height of a tile, or of a strip."""
    if page.is_tiled:
        return page.tilewidth, page.tilelength
    return page.imagewidth, max(1, min(page.rowsperstrip, page.imagelength))


def pyramid(file: Any, labels: bool = False) -> Pyramid:
    """The slide of a TIFF's first picture.

    Args:
        file: as `pages` gives it.
        labels: whether it is a mask.
    Raises:
        RecordError: its channels, its compression or its colours are none that can be read as a slide.
    """
    first = file.pages.first
    if (count := planes(file)) > 1:
        raise RecordError(
            f"a pyramid of {count} planes or channels", "one plane in colours, or one channel", "export the plane that you need"
        )  # fmt: skip
    inverted, channels = first.photometric == 0, 1 if first.samplesperpixel == 1 else 3
    plain = first.photometric in (0, 1, 2) or (first.photometric == 6 and first.compression == 7)
    if not plain or first.samplesperpixel not in (1, 3, 4) or (channels == 3 and first.planarconfig != 1):
        raise RecordError(
            f"a pyramid of {first.samplesperpixel} samples a pixel, photometric {int(first.photometric)}", "RGB or grey",
            "write it again in RGB",
        )  # fmt: skip
    kind = np.dtype(first.dtype) if first.dtype is not None else None
    if kind is None or kind.kind not in "uif" or kind.itemsize > 4:
        raise RecordError(f"a pyramid of {first.bitspersample}-bit pixels", "8, 16 or 32 bits", "write it with 8 bits")
    light = channels == 3 or inverted
    background = 255 if light and kind == np.uint8 else np.iinfo(kind).max if light and kind.kind != "f" else 0
    empty = np.full(channels, background, kind)
    found = tuple(_level(file, page, empty, inverted) for page in levels(file))
    mpp = mpp_of(file)
    to_world = None if mpp is None else np.diag([mpp[0] / 1000, mpp[1] / 1000, 1.0, 1.0])
    return Pyramid(found, to_world, channels, kind, int(background), labels)


def _level(file: Any, page: Any, empty: np.ndarray, inverted: bool) -> Level:
    check_whole(file, page)
    if page.compression not in PACKED:
        raise RecordError(
            f"a TIFF of compression {int(page.compression)}", "JPEG, JPEG 2000, Deflate, LZW, Zstandard or none", "write it again"
        )  # fmt: skip
    tile = tile_of(page)
    tables = page.jpegtables if page.compression == 7 else None
    extra = {"jpegtables": tables, "jpegheader": page.jpegheader} if page.compression in _JPEG else {}

    def decode(number: int) -> np.ndarray | None:
        start, length = page.dataoffsets[number], page.databytecounts[number]
        if not start or not length:
            return None  # a sparse file's
        file.filehandle.seek(start)
        data = file.filehandle.read(length)
        if page.compression in CODESTREAMS:
            own = frame_size(data)
            if own is None or own[0] > tile[1] or own[1] > tile[0]:
                raise RecordError(f"a tile of {own} pixels under a header of {tile[::-1]}", "one size", "copy it again")
        try:
            pixels = np.asarray(page.decode(data, number, **extra)[0])[0]
        except Exception as error:
            raise RecordError(
                f"a tile that does not decode ({type(error).__name__})", "a whole TIFF", "copy it again"
            ) from error
        pixels = pixels[..., : len(empty)]
        return np.iinfo(pixels.dtype).max - pixels if inverted and pixels.dtype.kind == "u" else pixels

    return of_tiles(page.imagewidth, page.imagelength, grid(page.imagewidth, page.imagelength, tile), decode, empty)


def mpp_of(file: Any) -> tuple[float, float] | None:
    """µm a pixel along x and y, by OME's PhysicalSize or by the resolution tags; None where neither is a microscope's."""
    page = file.pages.first
    described = said(page)
    sizes = [ome_size(described, axis) for axis in "XY"]
    if not all(sizes):
        unit = page.tags.valueof(296)
        per = {2: 25400.0, 3: 10000.0}.get(int(unit) if unit else 0)
        sizes = [resolved(page.tags.valueof(tag), per) if per else None for tag in (282, 283)]
    x, y = sizes
    return (x, y) if x and y and 0 < x <= COARSEST_MPP and 0 < y <= COARSEST_MPP else None


def said(page: Any) -> str:
    """Its ImageDescription; empty where there is none."""
    value = page.tags.valueof(270, "")
    return value if isinstance(value, str) else value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


def ome_size(described: str, axis: str) -> float | None:
    """µm a pixel along an axis, by OME's PhysicalSize; None where it says none, or in no unit of length."""
    found = re.search(rf'\bPhysicalSize{axis}="([0-9.eE+-]{{1,30}})"', described) if "<OME" in described else None
    unit = re.search(rf'\bPhysicalSize{axis}Unit="([^"]{{1,10}})"', described)
    scale = UNITS.get(unit[1] if unit else "µm")
    try:
        return float(found[1]) * scale if found and scale else None
    except ValueError:
        return None


def resolved(value: Any, per: float) -> float | None:
    """µm a pixel of a RATIONAL, pixels a unit of `per` µm."""
    try:
        pixels = value[0] / value[1]
        return per / pixels if pixels > 0 else None
    except (TypeError, ZeroDivisionError, IndexError):
        return None


def about(file: Any) -> dict[str, Scalar]:
    """What a plain pyramid says of itself: the objective's magnification, where OME's XML has it."""
    found = re.search(r'\bNominalMagnification="([0-9.]{1,8})"', said(file.pages.first))
    try:
        return {"magnification": float(found[1]) if found else None}
    except ValueError:
        return {"magnification": None}
