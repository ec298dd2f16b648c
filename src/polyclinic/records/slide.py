"""Whole slides and other pictures too large for memory: the scanners' own formats (`openslide`), pyramids in TIFF (`tifffile`).

Which library reads a file: OpenSlide what it knows as a scanner's (Aperio SVS, Hamamatsu NDPI, Leica SCN, Ventana BIF,
3DHISTECH MRXS, Zeiss CZI …), because it alone knows how their tiles overlap and where they lie; tifffile every other pyramid,
OME's too, because it also reads 16 bits, tiles that are not there, and compressions that libtiff has not. DICOM slides are
`dicom_slide`'s, the tissue images of Visium sections `visium`'s. A single-level TIFF is `tiff`'s, unless it is tiled and larger
than that takes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import MissingExtraError, Modality, Payload, Record, Rejected, Scalar
from . import dicom_slide, slide_tiff, visium
from .naming import is_mask, patient_of, without_mask
from .pyramid import LARGEST_TILE, Level, Pyramid, attributes_of, overview_of
from .slide_tiff import MAGIC, MOST_PIXELS
from .source import RecordError, check_size, content_id, place_id, place_of, quiet, split_uri

_ENDINGS = {".svs", ".svslide", ".ndpi", ".scn", ".bif", ".mrxs", ".czi"}
_PNG = b"\x89PNG\r\n\x1a\n"
_HEADS = (*MAGIC, b"\xff\xd8\xff", b"ZISRAWFILE")
"""A TIFF; the JPEG that an .mrxs is; a CZI."""
_BARCODE = re.compile(r"(TCGA-\w{2}-\w{4}|P\d{15})-")
"""Of the Genomic Data Commons: project, tissue source site, participant; the sample and the slide follow. Or a pseudonym of that."""
silent = quiet("tifffile")


def recognises(path: Path, head: bytes) -> bool:
    """Whether it is a scanner's format by name and first bytes, a TIFF that is a pyramid or huge, or a Visium section's picture."""
    if visium.beside(path) or head.startswith(_PNG):
        return bool(visium.beside(path)) or visium.mine(path)
    if not head.startswith(_HEADS):
        return False
    if path.suffix.lower() in _ENDINGS:
        return True
    return head.startswith(MAGIC) and _slide_in_tiff(path)


@silent
def _slide_in_tiff(path: Path) -> bool:
    try:
        with slide_tiff.pages(path) as file:
            first = file.pages.first
            huge = first.is_tiled and first.imagewidth * first.imagelength > MOST_PIXELS
            return huge or _vendor_in(file) or len(slide_tiff.levels(file)) > 1
    except ImportError:
        return False  # a core without the extra: pillow may still take it
    except Exception:
        return False  # what is wrong with it is for `tiff` to say


def _vendor_in(file: Any) -> bool:
    return any(getattr(file, f"is_{name}", False) for name in ("svs", "ndpi", "scn", "bif", "philips"))


def companions(path: Path) -> list[Path]:
    """The files that an .mrxs is nothing without: those of the folder of its name."""
    folder = path.with_suffix("")
    return (
        sorted(p for p in folder.iterdir() if p.is_file()) if path.suffix.lower() == ".mrxs" and folder.is_dir() else []
    )


def header_of(path: Path) -> Path | None:
    """The .mrxs whose folder a file lies in; None for any other."""
    header = path.parent.with_name(path.parent.name + ".mrxs")
    return header if header.is_file() else None


@contextmanager
def opened(source: str, labels: bool = False) -> Iterator[Pyramid]:
    """A slide, open, for as many patches as one likes.

    Args:
        source: its path, or `folder#series=UID` of a DICOM slide, as a record's `uri` has it.
        labels: whether it is a mask.
    Raises:
        RecordError: it does not open.
    """
    place, fragment = split_uri(source)
    if fragment.startswith("series=") or dicom_slide.mine(Path(place)):
        with dicom_slide.opened(Path(place), fragment.removeprefix("series=")) as found:
            yield found
        return
    with _opened(Path(place), labels) as (found, _):
        yield found


@contextmanager
def _opened(path: Path, labels: bool) -> Iterator[tuple[Pyramid, dict[str, Scalar]]]:
    """The slide and what its file says of it."""
    if visium.mine(path):
        yield visium.pyramid(path), {"vendor": "10x Genomics"} | visium.spots(path)
        return
    try:
        if vendor := _vendor_of(path):
            with _scanners(path) as slide:
                yield _of_openslide(slide), {"vendor": vendor} | _said(slide)
        else:
            with slide_tiff.pages(path) as file:
                yield slide_tiff.pyramid(file, labels), {"vendor": None, "associated": None} | slide_tiff.about(file)
    except ImportError as error:
        raise MissingExtraError(str(error.name), "slides") from error


def _vendor_of(path: Path) -> str | None:
    """Whose scanner's format OpenSlide takes it for; None for a plain TIFF."""
    from openslide import OpenSlide

    vendor = OpenSlide.detect_format(path)
    if vendor is None and path.suffix.lower() in _ENDINGS and not _is_tiff(path):
        raise RecordError(
            f"a {path.suffix} that OpenSlide does not know", "a whole slide", "copy it again, with its folder"
        )
    return None if vendor in (None, "generic-tiff") else str(vendor)


def _is_tiff(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in MAGIC


@contextmanager
def _scanners(path: Path) -> Iterator[Any]:
    from openslide import OpenSlide, OpenSlideError

    if _is_tiff(path):  # OpenSlide takes a header at its word: it is checked before
        with slide_tiff.pages(path) as file:
            for page in slide_tiff.every(file):
                (slide_tiff.check_whole if page.is_tiled else slide_tiff.check_there)(file, page)
    try:
        slide = OpenSlide(path)
    except OpenSlideError as error:
        raise RecordError(
            "a slide that OpenSlide does not open", "a whole slide", "copy it again, with its folder"
        ) from error
    with slide:
        yield slide


def _of_openslide(slide: Any) -> Pyramid:
    for number, (width, height) in enumerate(slide.level_dimensions):
        check_size((width, height), 0)
        sides = [int(slide.properties.get(f"openslide.level[{number}].tile-{side}", 0)) for side in ("height", "width")]
        if 4 * sides[0] * sides[1] > LARGEST_TILE:
            raise RecordError(
                f"tiles of {sides[1]} × {sides[0]} pixels", f"at most {LARGEST_TILE >> 20} MiB a tile", "leave it out"
            )
    x, y = (_number(slide.properties.get(f"openslide.mpp-{axis}")) for axis in "xy")
    to_world = None
    if x and y and min(x, y) > 0 and max(x, y) <= slide_tiff.COARSEST_MPP:
        to_world = np.diag([x / 1000, y / 1000, 1.0, 1.0])
    levels = [_level(slide, number, *size) for number, size in enumerate(slide.level_dimensions)]
    return Pyramid(tuple(levels), to_world)


def _level(slide: Any, number: int, width: int, height: int) -> Level:
    from openslide import OpenSlideError

    factor = slide.level_downsamples[number]

    def read(left: int, top: int, wide: int, tall: int) -> np.ndarray | None:
        try:
            seen = np.asarray(slide.read_region((round(left * factor), round(top * factor)), number, (wide, tall)))
        except OpenSlideError as error:
            raise RecordError("a tile that OpenSlide does not decode", "a whole slide", "copy it again") from error
        alpha = seen[..., 3]
        if alpha.min() == 255:
            return np.ascontiguousarray(seen[..., :3])
        if alpha.max() == 0:
            return None
        share = alpha[..., None] / np.float32(255)
        return np.rint(seen[..., :3] * share + 255 * (1 - share)).astype(np.uint8)

    return Level(width, height, read)


def _said(slide: Any) -> dict[str, Scalar]:
    said = slide.properties
    stain = next(
        (v for k, v in said.items() if k.rsplit(".", 1)[-1].lower() in ("stain", "staining") and v.strip()), None
    )
    return {
        "magnification": _number(said.get("openslide.objective-power")),
        "stain": stain.strip()[:64] if stain else None,
        "associated": " ".join(sorted(slide.associated_images)) or None,
    }


def _number(value: str | None) -> float | None:
    try:
        number = float(value) if value else None
    except ValueError:
        return None
    return number if number is not None and np.isfinite(number) else None


def read(path: Path, root: Path) -> Iterator[Record | Rejected]:
    """One record a slide; its overview is read once: a broken one shows itself now. What a Visium section has beside it says so."""
    if what := visium.beside(path):
        raise RecordError(what, "its tissue image beside it, which is read with it", "keep it where it is")
    yield _read(path, root)


def whose(place: str, stem: str) -> str:
    """The patient of a slide, by its barcode, its folders or its name."""
    if barcode := _BARCODE.match(stem):
        return barcode[1]
    first = stem.split("_")[0]
    return patient_of(place, stem) or (first if re.search(r"\d", first) else stem)


@silent
def _read(path: Path, root: Path) -> Record:
    place = place_of(path, root)
    mask, stem = is_mask(place), without_mask(path.name.split(".")[0])
    section = visium.mine(path)
    if section and (larger := visium.copy_of(path)):
        raise RecordError(
            f"a smaller copy of {larger.name}", "one picture a section", "nothing: the larger one is taken"
        )
    with _opened(path, mask) as (slide, said):
        slide.overview()
        attributes = attributes_of(slide) | said
    ids = [content_id(p) for p in (path, *companions(path))]
    stain = said.get("stain")
    return Record(
        id=ids[0] if len(ids) == 1 else place_id("+".join(ids), "slide"),
        patient=visium.patient(place, stem) if section else whose(place, stem),
        time=None,
        modality=Modality.SLIDE,
        kind="MASK slide" if mask else " ".join(filter(None, ("SM slide", str(stain or "")))),
        uri=place,
        device=str(said["vendor"]) if said["vendor"] else None,
        attributes={**attributes, "mask": mask, "stem": stem, "anonymous": True},
    )


@silent
def load(record: Record) -> Payload:
    """The overview, array (3 y x) or, of one channel, (1 y x) float32; to_world (x y z 1) → mm, None without a scale.

    Its one step has the slide's own size, the way to its pixels, and, as `source`, where patches of it are to be read from.
    """
    with opened(record.uri, bool(record.attributes.get("mask"))) as slide:
        return overview_of(slide, record.uri)


@silent
def region(
    record: Record, x: float, y: float, size: tuple[int, int], level: int | None = None, mpp: float | None = None
) -> np.ndarray:
    """A part of a slide, (h w c) in the file's own depth, without the whole in memory; what lies beyond the slide is glass.

    Args:
        record: its `uri` is a path.
        x, y: the upper left corner, in pixels of level 0.
        size: width and height, in pixels of the result.
        level: one of the slide's; level 0 by default.
        mpp: or µm a pixel of the result, averaged from the next finer level.
    Raises:
        RecordError: there is no such level, or the slide has no scale.
    """
    with opened(record.uri, bool(record.attributes.get("mask"))) as slide:
        if mpp is not None:
            if slide.mpp is None:
                raise RecordError("a slide that does not say its µm a pixel", "its scale", "ask for a level")
            return slide.patch(x, y, size, mpp / slide.mpp)
        number = level or 0
        if not 0 <= number < len(slide.levels):
            raise RecordError(f"a slide of {len(slide.levels)} levels", f"level {number}", "ask for one that it has")
        return slide.patch(x, y, size, slide.factor(number), number)
