"""What DICOM pixels may hold that no table of attributes knows: text burned in, overlays in unused bits, comments within JPEG."""

from __future__ import annotations

import re
from typing import Any

from ..source import RecordError
from . import profile
from .options import Options


def _word(value: Any) -> str:
    return str(value if value is not None else "").strip().strip("\0")


def _values(value: Any) -> list[str]:
    return [] if value is None else [str(value)] if isinstance(value, str) else [str(v) for v in value]


def refuse(dataset: Any, meta: Any, kind: str, options: Options) -> None:
    """Whether an object can be de-identified at all.

    Raises:
        RecordError: why not.
    """
    media = _word(meta.get("MediaStorageSOPClassUID"))
    for uid in (kind, media):
        if uid in profile.NOT_TAKEN:
            raise RecordError(
                profile.NOT_TAKEN[uid], "an object whose content can be checked", "look at it, and export what it holds"
            )
    if not kind.startswith("1.2.840.10008.") or not meta.get("TransferSyntaxUID"):
        raise RecordError(
            "a private or incomplete DICOM object",
            "a standard SOP class (PS3.15 E.1.1, note 6)",
            "leave it out",
        )
    if "LABEL" in _flavours(dataset):
        raise RecordError("the picture of a slide's label", "tissue", "leave it out")
    flagged = options.burned_in == "aside" and burned_in(dataset, kind)
    if flagged or (options.burned_in != "keep" and overlay_within(dataset)):  # no box of the image holds an overlay
        raise RecordError(
            "an image of a kind that often has the patient's name in its pixels", "pixels that a person has looked at",
            "look at it; clean it or, if nothing is burned in, run again with burned-in images kept",
        )  # fmt: skip


def _flavours(dataset: Any) -> list[str]:
    """Image Type (0008,0008): primary or secondary, and of a slide what it shows (PS3.3 C.8.12.4.1.1)."""
    return [str(v).upper() for v in _values(dataset.get("ImageType"))]


def burned_in(dataset: Any, kind: str) -> bool:
    """Whether text in the pixels is said or to be expected."""
    if not any(k in dataset for k in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        return False
    if _word(dataset.get("BurnedInAnnotation")).upper() == "YES":
        return True
    number = kind.removeprefix(profile.STORAGE)
    flavours = _flavours(dataset)
    modality = _word(dataset.get("Modality")).upper()
    return (
        modality in profile.BURNED_MODALITIES
        or any(number == c or number.startswith(c + ".") for c in profile.BURNED_CLASSES)
        or (modality == "XA" and "SECONDARY" in flavours)
        or (modality == "SM" and "OVERVIEW" in flavours)  # the whole glass, which may show the label
        or bool(_word(dataset.get("ConversionType")) and modality not in ("CR", "DX", "MG", "CT", "MR", "SEG", "SM"))
    )


def overlay_within(dataset: Any) -> bool:
    """Whether an overlay is kept in unused bits of the pixels (retired, PS3.5 8.1.2)."""
    for group in range(0x6000, 0x6020, 2):
        bit = dataset.get((group, 0x0102))
        if bit is not None and bit.value and (group, 0x3000) not in dataset:
            return True
    return False


def comment_within(dataset: Any, meta: Any) -> bool:
    """Whether a JPEG stream within holds EXIF or a comment, which stay with bit-identical pixels."""
    if "PixelData" not in dataset or not str(meta.get("TransferSyntaxUID", "")).startswith("1.2.840.10008.1.2.4"):
        return False
    head = bytes(dataset.PixelData[:65536])
    return b"Exif\0" in head or bool(
        re.search(rb"\xff\xd8(?:\xff[\xe0-\xef]..(?s:.){0,200}?)?\xff\xfe..[ -~]{4}", head, re.DOTALL)
    )
