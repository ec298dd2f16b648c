"""Pictures and stacks in TIFF (`tifffile`): every depth and colour, BigTIFF, and stacks whose file states their spacing.

A pyramid is `slide`'s. Without the extra, `raster` takes what pillow reads. Source: TIFF 6.0; ImageJ's and OME's metadata.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import Payload, Record, Rejected
from . import raster, slide_tiff
from .packed import frame_size
from .source import RecordError, check_size, quiet

_TURNED = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.swapaxes(a[::-1], 0, 1),
    7: lambda a: np.swapaxes(a[::-1, ::-1], 0, 1),
    8: lambda a: np.swapaxes(a, 0, 1)[::-1],
}
"""Tag 274, Orientation: what takes the stored rows and columns to the seen ones."""

silent = quiet("tifffile")


def recognises(path: Path, head: bytes) -> bool:
    """Whether it starts as a TIFF or a BigTIFF does."""
    return head.startswith(slide_tiff.MAGIC) and find_spec("tifffile") is not None


def read(path: Path, root: Path) -> Iterator[Record | Rejected]:
    """One record a picture, or a stack; it is decoded once: a broken one shows itself now."""
    yield _read(path, root)


@silent
def _read(path: Path, root: Path) -> Record:
    with slide_tiff.pages(path) as file:
        pixels, spacing = _pixels(file)
    record = raster.record_of(path, root, pixels.shape[-2], pixels.shape[-1], len(pixels))
    if spacing is None:
        return record
    told = dict(zip(("spacing_z_mm", "spacing_y_mm", "spacing_x_mm"), spacing, strict=True))
    return raster.as_volume(record, {"slices": pixels.shape[1], **told})


@silent
def load(record: Record) -> Payload:
    """Of a picture array (c y x) float32 in the file's own depth, c 3 where it is in colours; of a stack luminance (1 z y x) and to_world.

    A mask keeps its label numbers, which are a palette's indices where it has one.
    """
    mask = bool(record.attributes.get("mask"))
    with slide_tiff.pages(Path(record.uri)) as file:
        pixels, spacing = _pixels(file, mask)
    if mask and spacing is None:
        return Payload(raster.labels_of(pixels[0])[None])
    return Payload(pixels, None if spacing is None else np.diag([*spacing[::-1], 1.0]))


def _pixels(file: Any, mask: bool = False) -> tuple[np.ndarray, tuple[float, float, float] | None]:
    """(c y x) float32; or of a stack (1 z y x), and its mm along z, y and x."""
    count = len(file.pages)
    spacing = _spacing(file) if count > 1 else None
    if count > 1 and spacing is None:
        raise RecordError(
            f"an image of {count} frames", "one frame, or the spacing of a stack (ImageJ's, OME's)",
            "give a video or a volume in its own format",
        )  # fmt: skip
    first = file.pages.first
    if first.imagewidth * first.imagelength > slide_tiff.MOST_PIXELS:
        raise RecordError("a header that promises more pixels than a picture has", "an image", "tile it")
    check_size((count, first.imagelength, first.imagewidth, first.samplesperpixel), 4)
    planes = [_plane(file, page, mask) for page in file.pages]
    if len({plane.shape for plane in planes}) > 1:
        raise RecordError(f"a stack of {count} planes of several sizes", "one size", "export it again")
    if spacing is None:
        return raster.channels_first(planes[0]), None
    return np.stack([p if p.ndim == 2 else p @ raster.LUMINANCE for p in planes])[None], spacing


def _plane(file: Any, page: Any, mask: bool) -> np.ndarray:
    """(y x) or (y x 3) float32 of one page, seen the right way round, white bright."""
    slide_tiff.check_there(file, page)
    wide, tall = slide_tiff.tile_of(page)
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    check_size((tall, wide, samples), 4)
    segments = -(-page.imagewidth // wide) * -(-page.imagelength // tall) * (page.samplesperpixel // samples)
    if len(page.dataoffsets) != segments or len(page.databytecounts) != segments:
        raise RecordError(
            f"a TIFF with {len(page.dataoffsets)} of {segments} strips or tiles", "all of them", "copy it again"
        )
    if page.compression not in slide_tiff.PACKED:
        raise RecordError(f"a TIFF of compression {int(page.compression)}", "a usual one", "write it again, as PNG say")
    if page.compression in slide_tiff.CODESTREAMS:
        for start, length in zip(page.dataoffsets, page.databytecounts, strict=True):
            file.filehandle.seek(start)
            own = frame_size(file.filehandle.read(min(length, 1 << 16)))
            if own is None or own[0] > tall or own[1] > wide:
                raise RecordError(
                    f"a strip of {own} pixels under a header of {tall} × {wide}", "one size", "copy it again"
                )
    try:
        array = np.asarray(page.asarray(maxworkers=1))
    except Exception as error:
        raise RecordError(
            f"a TIFF that does not decode ({type(error).__name__})", "a whole TIFF", "copy it again"
        ) from error
    if page.planarconfig == 2 and array.ndim == 3:
        array = np.moveaxis(array, 0, 2)
    if array.shape[:2] != (page.imagelength, page.imagewidth) or array.ndim > 3 or array.dtype.kind not in "buif":
        raise RecordError(
            f"a TIFF of {array.ndim} dimensions, {array.dtype}", "rows and columns of numbers", "write it again"
        )
    turned = _TURNED.get(int(page.tags.valueof(274) or 1), lambda a: a)
    return np.ascontiguousarray(turned(_seen(array, page, mask)), dtype=np.float32)


def _seen(array: np.ndarray, page: Any, mask: bool) -> np.ndarray:
    """(y x) of grey, (y x 3) of palette, RGB or CMYK, in the file's own depth; more samples are transparency."""
    kind, samples = int(page.photometric), 1 if array.ndim == 2 else array.shape[2]
    plain = array if array.ndim == 2 else array[..., 0]
    if kind in (0, 1) and samples in (1, 2):
        most = 1 if array.dtype.kind == "b" else 2.0 ** int(page.bitspersample) - 1
        turned = kind == 0 and array.dtype.kind in "bu"
        return most - plain.astype(np.float64) if turned else plain
    if kind == 3 and samples == 1 and page.colormap is not None:
        if mask:
            return plain
        return np.moveaxis(np.asarray(page.colormap) >> 8, 0, 1)[plain]
    if kind in (2, 6) and samples in (3, 4) and (kind == 2 or page.compression == 7):
        return array[..., :3]
    if kind == 5 and samples in (4, 5) and array.dtype == np.uint8:
        left = 255.0 - array.astype(np.float32)
        return np.rint(left[..., :3] * left[..., 3:4] / 255)
    raise RecordError(
        f"a TIFF of {samples} samples a pixel, photometric {kind}", "grey, palette, RGB or CMYK", "write it again in RGB"
    )  # fmt: skip


def _spacing(file: Any) -> tuple[float, float, float] | None:
    """mm along z, y and x of a stack; None where the file does not say, or has channels or times beside its planes."""
    count, said = len(file.pages), slide_tiff.said(file.pages.first)
    if "<OME" in said:
        size = {
            axis: int(found[1]) if (found := re.search(rf'\bSize{axis}="(\d{{1,6}})"', said)) else 1 for axis in "ZCT"
        }
        steps = [slide_tiff.ome_size(said, axis) for axis in "ZYX"]
        if size != {"Z": count, "C": 1, "T": 1}:
            return None
    elif file.is_imagej:
        told = file.imagej_metadata or {}
        unit = slide_tiff.UNITS.get(str(told.get("unit", "")).replace("\\u00B5", "µ"))
        if told.get("slices") != count or told.get("channels", 1) != 1 or told.get("frames", 1) != 1 or unit is None:
            return None
        tags = file.pages.first.tags
        steps = [
            float(told.get("spacing") or 0) * unit,
            *(slide_tiff.resolved(tags.valueof(tag), unit) for tag in (283, 282)),
        ]
    else:
        return None
    z, y, x = steps
    return (z / 1000, y / 1000, x / 1000) if z and y and x and min(z, y, x) > 0 else None
