"""Whole slides in TIFF (Aperio SVS, plain and OME pyramids): the levels alone, tile by tile without decoding them.

Label, macro and thumbnail pages, every text but the magnification and the pixel's size, dates, colour profiles and whatever lies
between the tiles do not come along; comments within JPEG and JPEG 2000 tiles are cut out. Of the other scanners' formats the tiles
alone are no slide, and they are set aside with the reason (`_OTHERS`).

Source: TIFF 6.0; Aperio's description of SVS; ITU-T T.81 B.2.4; ITU-T T.800 A.9.2.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import slide, slide_tiff
from ..naming import patient_of, without_mask
from ..slide import silent
from ..source import RecordError
from . import pictures
from .cleaning import Cleaning
from .known import Known
from .naming import split_ending
from .samples import person_of

_BARCODE = re.compile(r"(TCGA-\w{2}-\w{4})-")
_SEGMENTS = re.compile(rb"\xff[\xe1-\xed\xef\xfe]")
_OTHERS = {
    "ndpi": "an NDPI slide, whose levels are each one JPEG with words within, too wide for a TIFF's tiles",
    "scn": "an SCN slide, whose label is in the same file, and of whose pages its words alone tell which is the slide",
    "bif": "a BIF slide, whose tiles overlap as its words alone tell, beside its label",
    "philips": "a Philips slide, whose label, barcode and levels its words alone tell apart",
    "mrxs": "an MRXS slide, whose label lies among the tiles in the data files beside it",
    "czi": "a CZI slide, whose label and metadata lie between the tiles",
}
_REMEDY = ("SVS or a pyramid in TIFF", "export the picture alone as a pyramid in TIFF, without label and metadata")
"""Why a scanner's own format is set aside: BIF and CZI by their makers' descriptions, the others as OpenSlide describes them."""
_COMMENT, _TILE, _DATA = 0xFF64, 0xFF90, b"\xff\x93"


def survey(path: Path, place: str, known: Known) -> str:
    """Whose it is, by its name."""
    stem = without_mask(split_ending(path.name)[0])
    found, first = _BARCODE.match(stem), stem.split("_")[0]
    return person_of(found[1]) if found else patient_of(place, stem) or (first if re.search(r"\d", first) else stem)


@silent
def deidentify(path: Path, to: Path, cleaning: Cleaning) -> None:
    """Write the levels as a pyramid.

    Raises:
        RecordError: it is no TIFF, another scanner's, broken, or would not read as a slide once it is clean.
    """
    from tifffile import TiffWriter

    with path.open("rb") as start:
        if start.read(4) not in slide_tiff.MAGIC:
            raise _other(path.suffix.lower().lstrip("."))
    with slide_tiff.pages(path) as file:
        if own := next(
            (name for name in _OTHERS if getattr(file, f"is_{name}", False) or path.suffix.lower() == f".{name}"), None
        ):
            raise _other(own)
        if (count := slide_tiff.planes(file)) > 1:
            raise RecordError(f"a pyramid of {count} planes or channels", "one plane", "export the plane that you need")
        levels = slide_tiff.levels(file)
        mpp, described = slide_tiff.mpp_of(file), _described(file)
        if described and (said := re.search(r"\|\s*MPP\s*=\s*([\d.]+)", described)):
            mpp = (float(said[1]), float(said[1]))
        big = path.stat().st_size > 2**31
        with TiffWriter(to, bigtiff=big, byteorder=file.byteorder, ome=False) as writer:
            for number, page in enumerate(levels):
                slide_tiff.check_whole(file, page)
                _write(writer, file, page, described if number == 0 else None, mpp if number == 0 else None, number > 0)
        left = sum(1 for _ in file.pages) - len(levels)
    if left > 0:
        cleaning.did(f"{left} pages that are no level (label, macro, thumbnail)", "X")
    cleaning.did("descriptions, dates, names of files", "X")
    if len({page.is_tiled for page in levels}) != 1:
        raise RecordError("a pyramid of tiles and strips", "one of them", "write it again")
    with slide.opened(str(to)) as found:
        if len(found.levels) != len(levels):
            raise RecordError(
                "a slide whose levels are not where they are expected", "a plain pyramid", "convert it (vips tiffsave)"
            )


def _other(kind: str) -> RecordError:
    return RecordError(_OTHERS.get(kind, "a slide in a scanner's own format"), *_REMEDY)


def refuse_data(path: Path, to: Path, cleaning: Cleaning) -> None:
    """What lies in the folder of an .mrxs goes where that goes.

    Raises:
        RecordError: always.
    """
    raise RecordError("a data file of an MRXS slide", *_REMEDY)


def _described(file: Any) -> str | None:
    """Of an Aperio description the words that say that it is one, the magnification and the size of a pixel."""
    if not file.is_svs:
        return None
    said = slide_tiff.said(file.pages.first)
    numbers = [
        f"{name} = {found[1]}"
        for name in ("AppMag", "MPP")
        if (found := re.search(rf"\|\s*{name}\s*=\s*([\d.]{{1,12}})", said))
    ]
    return "|".join(["Aperio Image Library", *numbers])


def _write(
    writer: Any, file: Any, page: Any, described: str | None, mpp: tuple[float, float] | None, reduced: bool
) -> None:
    """One level: the tags that say how its pixels lie, and its tiles as they are coded."""
    wide, tall = slide_tiff.tile_of(page)
    shape = (page.imagelength, page.imagewidth, *([page.samplesperpixel] if page.samplesperpixel > 1 else []))
    options: dict[str, Any] = {"tile": (tall, wide)} if page.is_tiled else {"rowsperstrip": tall}
    if page.compression == 7 and page.jpegtables is not None:
        options["jpegtables"] = page.jpegtables
    if page.photometric == 6:
        options["subsampling"] = page.subsampling
    if mpp:
        options |= {"resolution": (1e4 / mpp[0], 1e4 / mpp[1]), "resolutionunit": 3}
    if page.planarconfig != 1 or page.compression not in slide_tiff.PACKED:
        raise RecordError(
            "a slide whose tiles are coded in no way known here",
            "JPEG, JPEG 2000, Deflate, LZW or none",
            "write it again",
        )
    try:
        writer.write(
            _tiles(file, page), shape=shape, dtype=page.dtype, photometric=page.photometric, compression=page.compression,
            predictor=page.predictor if page.predictor != 1 else None, description=described, metadata=None, software=False,
            subfiletype=1 if reduced else 0, extrasamples=page.extrasamples or None, **options,
        )  # fmt: skip
    except RecordError:
        raise
    except Exception as error:
        raise RecordError(
            f"a slide that could not be written anew ({type(error).__name__})", "a plain pyramid", "convert it"
        ) from error


def _tiles(file: Any, page: Any) -> Iterator[bytes]:
    for start, length in zip(page.dataoffsets, page.databytecounts, strict=True):
        file.filehandle.seek(start)
        data = file.filehandle.read(length) if start and length else b""
        if page.compression == 7 and data:
            yield _jpeg(data)
        elif page.compression in slide_tiff.CODESTREAMS and data:
            yield _codestream(data)
        else:
            yield data


def _jpeg(data: bytes) -> bytes:
    """Without comments and application segments, and what follows its end."""
    end = data.rfind(b"\xff\xd9") + 2
    return pictures.jpeg(data)[0] if _SEGMENTS.search(data) or end != len(data) else data


def _codestream(data: bytes) -> bytes:
    """A JPEG 2000 codestream without the comments of its main header.

    Raises:
        RecordError: it is wrapped in boxes, or a tile's own header has a comment.
    """
    if not data.startswith(b"\xff\x4f"):
        raise RecordError("JPEG 2000 tiles in boxes", "plain codestreams", "write it again")
    out, at = bytearray(data[:2]), 2
    while True:
        if at + 4 > len(data):
            raise RecordError("a JPEG 2000 tile that was cut short", "a whole slide", "copy it again")
        marker, length = struct.unpack_from(">HH", data, at)
        if marker == _TILE:
            break
        if marker != _COMMENT:
            out += data[at : at + 2 + length]
        at += 2 + length
    if b"\xff\x64" in data[at : data.find(_DATA, at)]:
        raise RecordError("JPEG 2000 tiles with comments of their own", "plain codestreams", "write it again")
    return bytes(out) + data[at:]
