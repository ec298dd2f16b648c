"""PNG and JPEG images, and TIFF where `tiff` has not its library (`pillow`); they have no physical scale, and none is made up.

What a picture has of colour, whichever format it came in, is decided here too.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import Modality, Payload, Record, Rejected, Scalar
from .naming import is_mask, patient_of, without_mask
from .source import RecordError, check_size, content_id, place_of
from .synthetic import MARK, refuse

MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""ITU-R BT.601, as DICOM PS3.3 C.7.6.3.1.2 has it for YBR_FULL."""
TINT, TINTED = 1 / 16, 1 / 1000
"""A pixel is coloured if its channels lie further apart than this share of the range; a picture, if more than this share of its
pixels are. Rounding and JPEG leave less: chest X-rays with noise of ±2 in each of three channels, saved at any quality, are at most
9 of 255 apart, and of pydicom's SC_rgb_jpeg.dcm 3 pixels in 100,000 are more than 16 apart. Real colour is more: of pydicom's
ultrasound in YBR 2%, of its Doppler 5%. A film that yellowed is grey by this, and so is one on which somebody drew an arrow."""


def in_colours(rgb: np.ndarray) -> bool:
    """Whether a picture (y x 3) shows colours, or grey that is stored three times; see `TINT`.

    The range is the least 2ⁿ − 1 that holds the brightest sample, so that deep pictures are judged as they look.
    """
    return _differ(_planes(rgb))


def _planes(rgb: np.ndarray) -> np.ndarray:
    """(3 y x), each channel in one piece; one after the other, which is several times as fast as a transposition."""
    out = np.empty((3, *rgb.shape[:2]), rgb.dtype)
    for channel in range(3):
        out[channel] = rgb[..., channel]
    return out


def _differ(planes: np.ndarray) -> bool:
    highest, lowest = planes.max(axis=0), planes.min(axis=0)
    range_of = 2.0 ** np.ceil(np.log2(float(np.nanmax(highest, initial=0)) + 1)) - 1
    return bool(np.count_nonzero(highest - lowest > TINT * range_of) > TINTED * highest.size)


def channels_first(pixels: np.ndarray) -> np.ndarray:
    """(c y x) float32 of pixels as seen: (y x), or (y x 3) in RGB, of which grey ones become their luminance.

    Returns:
        c 3, red, green and blue, of a picture in colours; else c 1.
    """
    if pixels.ndim == 2:
        return np.asarray(pixels, np.float32)[None]
    if _differ(planes := _planes(pixels)):
        return planes.astype(np.float32, copy=False)
    return (pixels.astype(np.float32, copy=False) @ LUMINANCE)[None]


def luminance(array: np.ndarray) -> np.ndarray:
    """(y x) of an image (c y x): by `LUMINANCE` of one in colours, else the mean of its channels."""
    return np.moveaxis(array, 0, -1) @ LUMINANCE if len(array) == 3 else array.mean(axis=0)


def recognises(path: Path, head: bytes) -> bool:
    """Whether the file starts as a PNG, JPEG or TIFF does."""
    return head.startswith(MAGIC)


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a large image is ours to judge, below
            image = Image.open(path, formats=("PNG", "JPEG", "TIFF", "MPO"))
    except Image.DecompressionBombError as error:
        raise RecordError("a header that promises more pixels than pillow takes", "an image", "tile it") from error
    except Exception as error:
        raise RecordError(
            f"an image that does not open ({type(error).__name__})", "a whole PNG, JPEG or TIFF", "copy it again"
        ) from error
    with image:
        check_size((image.height, image.width, len(image.getbands())), 4)
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":  # an MPO's second frame is a camera's preview
            raise RecordError(f"an image of {frames} frames", "one frame", "give a video or a volume in its own format")
        try:
            image.load()
            image = ImageOps.exif_transpose(image)  # a photograph is stored as the camera was held
        except Exception as error:
            raise RecordError("an image that was cut short", "a whole image", "copy it again") from error
        yield image


def read(path: Path, root: Path) -> Iterator[Record | Rejected]:
    """One record an image, decoded once: a broken one shows itself now."""
    with _open(path) as image:
        refuse(MARK in image.info)
        rows, columns = image.height, image.width
        grey = image.mode[0] in "LIF1" or not in_colours(np.asarray(image.convert("RGB")))
    yield record_of(path, root, rows, columns, 1 if grey else 3)


def record_of(path: Path, root: Path, rows: int, columns: int, channels: int) -> Record:
    """The record of a picture that says nothing but its size and whether it is in colours."""
    place = place_of(path, root)
    mask, stem = is_mask(place), without_mask(path.stem)
    first = stem.split("_")[0]
    return Record(
        id=content_id(path, place if mask else ""),  # two images may have the same mask: none at all, say
        patient=patient_of(place, stem) or (first if re.search(r"\d", first) else stem),
        time=None,
        modality=Modality.IMAGE,
        kind="MASK image" if mask else "image",
        uri=place,
        attributes={
            "mask": mask,
            "stem": stem,
            "anonymous": True,
            "rows": rows,
            "columns": columns,
            "channels": 1 if mask else channels,
        },
    )


def as_volume(record: Record, told: Mapping[str, Scalar]) -> Record:
    """The record of a stack of pictures."""
    kind = record.kind.replace("image", "volume")
    return replace(record, modality=Modality.VOLUME, kind=kind, attributes={**record.attributes, **told})


def labels_of(grey: np.ndarray) -> np.ndarray:
    """(y x) label numbers of a mask; what was drawn in black and white, or went through JPEG, is 0 or 1."""
    levels = np.unique(grey)
    drawn = levels.max(initial=0) == 255 or (len(levels) > 16 and levels.max() <= 255)
    return (grey > 127).astype(np.float32) if drawn else grey.astype(np.float32)


def load(record: Record) -> Payload:
    """array (c y x) float32, c 3 of a picture in colours and else 1; a mask (1 y x) keeps its label numbers; no to_world."""
    with _open(Path(record.uri)) as image:
        deep = image.mode[0] in "IF"
        if record.attributes.get("mask"):
            colours = image.mode == "P" and not _grey_palette(
                image
            )  # a palette in colours is a legend: its index is the label
            return Payload(labels_of(np.asarray(image if deep or colours else image.convert("L")))[None])
        if image.mode == "L" or deep:  # 8 bits, 16 (in either byte order), 32 or float
            return Payload(np.asarray(image, dtype=np.float32)[None])
        return Payload(channels_first(np.asarray(image.convert("RGB"))))


def _grey_palette(image: Any) -> bool:
    colours = np.array(image.getpalette("RGB") or [0, 0, 0]).reshape(-1, 3)
    return bool((colours == colours[:, :1]).all())
