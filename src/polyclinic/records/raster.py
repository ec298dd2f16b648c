"""PNG, JPEG and TIFF images (`pillow`); they have no physical scale, and none is made up here."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..schema import Modality, Payload, Record, Rejected
from .nifti import is_mask
from .source import RecordError, check_size, content_id

_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*")
LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""ITU-R BT.601, as DICOM PS3.3 C.7.6.3.1.2 has it for YBR_FULL."""


def recognises(path: Path, head: bytes) -> bool:
    """Whether the file starts as a PNG, JPEG or TIFF does."""
    return head.startswith(_MAGIC)


def _mask(path: Path) -> bool:
    return is_mask(path) or path.parent.name.lower() == "lung_masks"


def stem(path: Path) -> str:
    """The name without its ending and a mask's suffix."""
    return re.sub(r"_(seg|mask|label|segmentation)$", "", path.stem, flags=re.IGNORECASE)


def read(path: Path) -> Iterator[Record | Rejected]:
    """One record an image; the patient is the folder's name where it holds one patient, else the name up to `_`."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path) as image:
            check_size((image.height, image.width, len(image.getbands())), 4)
            try:
                image.load()
            except OSError as error:
                raise RecordError("an image that was cut short", "a whole image", "copy it again") from error
            width, height, frames = image.width, image.height, getattr(image, "n_frames", 1)
    if frames > 1:
        raise RecordError(f"an image of {frames} frames", "one frame", "give a video or a volume in its own format")
    mask = _mask(path)
    yield Record(
        id=content_id(path),
        patient=stem(path).split("_")[0],
        time=None,
        modality=Modality.IMAGE,
        kind="MASK image" if mask else "image",
        uri=str(path),
        attributes={"mask": mask, "stem": stem(path), "rows": height, "columns": width},
    )


def load(record: Record) -> Payload:
    """array (1 y x) float32 luminance; a mask keeps its label numbers; no to_world."""
    from PIL import Image

    with Image.open(Path(record.uri)) as image:
        check_size((image.height, image.width, len(image.getbands())), 4)
        if record.attributes.get("mask"):
            grey = np.asarray(image.convert("L"), dtype=np.float32)
            levels = np.unique(grey)
            grey = (grey > 127).astype(np.float32) if len(levels) > 16 or levels.max() == 255 else grey
            return Payload(grey[None])
        if image.mode in {"I;16", "I", "F", "L"}:
            return Payload(np.asarray(image, dtype=np.float32)[None])
        return Payload((np.asarray(image.convert("RGB"), dtype=np.float32) @ LUMINANCE)[None])
