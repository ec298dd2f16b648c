"""PNG, JPEG and TIFF images (`pillow`); they have no physical scale, and none is made up here."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import Modality, Payload, Record, Rejected
from .naming import is_mask, patient_of, without_mask
from .source import RecordError, check_size, content_id, place_of

MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*")
LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""ITU-R BT.601, as DICOM PS3.3 C.7.6.3.1.2 has it for YBR_FULL."""


def recognises(path: Path, head: bytes) -> bool:
    """Whether the file starts as a PNG, JPEG or TIFF does."""
    return head.startswith(MAGIC)


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    from PIL import Image

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
        except Exception as error:
            raise RecordError("an image that was cut short", "a whole image", "copy it again") from error
        yield image


def read(path: Path, root: Path) -> Iterator[Record | Rejected]:
    """One record an image, decoded once: a broken one shows itself now."""
    place = place_of(path, root)
    with _open(path) as image:
        width, height = image.width, image.height
    mask, stem = is_mask(place), without_mask(path.stem)
    first = stem.split("_")[0]
    yield Record(
        id=content_id(path),
        patient=patient_of(place, stem) or (first if re.search(r"\d", first) else stem),
        time=None,
        modality=Modality.IMAGE,
        kind="MASK image" if mask else "image",
        uri=place,
        attributes={"mask": mask, "stem": stem, "anonymous": True, "rows": height, "columns": width},
    )


def load(record: Record) -> Payload:
    """array (1 y x) float32 luminance; a mask keeps its label numbers; no to_world."""
    with _open(Path(record.uri)) as image:
        if record.attributes.get("mask"):
            grey = np.asarray(image.convert("L"), dtype=np.float32)
            levels = np.unique(grey)
            # What was drawn in black and white, or went through JPEG, is 0 or 1.
            grey = (grey > 127).astype(np.float32) if len(levels) > 16 or levels.max() == 255 else grey
            return Payload(grey[None])
        if image.mode == "L" or image.mode[0] in "IF":  # 8 bits, 16 (in either byte order), 32 or float
            return Payload(np.asarray(image, dtype=np.float32)[None])
        return Payload((np.asarray(image.convert("RGB"), dtype=np.float32) @ LUMINANCE)[None])
