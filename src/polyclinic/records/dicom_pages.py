"""Frames of a DICOM object that are pictures by themselves, an image each: scanned pages, secondary captures.

Source: DICOM PS3.3 A.8.2 to A.8.5 (multi-frame secondary capture), C.8.6.3 (its vectors).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import Modality, Payload, Record, Scalar
from . import dicom_clip, dicom_pixels
from .dicom_header import frames, record_of, spacing_of, text
from .raster import channels_first
from .source import RecordError, content_id, part_number, place_of

CAPTURES = {f"1.2.840.10008.5.1.4.1.1.{number}" for number in ("7", "7.1", "7.2", "7.3", "7.4")}
"""Secondary captures, of one frame and of several (PS3.4 B.5)."""

_PAGES = 0x00182001
"""PageNumberVector, where frames follow each other as pages do."""


def mine(dataset: Any) -> bool:
    """Whether it was captured, page by page or at no times."""
    paged = dataset.get("FrameIncrementPointer") == _PAGES
    return text(dataset, "SOPClassUID") in CAPTURES and (paged or dicom_clip.times(dataset) is None)


def listed(dataset: Any, keyword: str) -> list[Any]:
    """The values of a vector; none where it is absent, or has not one for each frame."""
    value = dataset.get(keyword)
    values = list(value) if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str) else [value]
    return values if len(values) == frames(dataset) and None not in values else []


def read(dataset: Any, path: Path, root: Path) -> Iterator[Record]:
    """One image a page, `page` its number by PageNumberVector, or else in the file."""
    numbers, labels = (listed(dataset, f"{name}Vector") for name in ("PageNumber", "FrameLabel"))
    count = frames(dataset)
    about: list[dict[str, Scalar]] = [
        {"page": int(numbers[i]) if numbers else i + 1, "pages": count, "frame_label": str(labels[i]) if labels else None}
        for i in range(count)
    ]  # fmt: skip
    yield from apart(dataset, path, root, about)


def apart(dataset: Any, path: Path, root: Path, about: Sequence[dict[str, Scalar]]) -> Iterator[Record]:
    """An image a frame.

    Args:
        about: what is said of each frame besides.
    """
    channels = [len(channels_first(p)) for p in dicom_pixels.each(dataset)]  # a truncated file shows itself now
    whole, file = record_of(dataset, path, root), content_id(path)
    for number, (said, depth) in enumerate(zip(about, channels, strict=True), start=1):
        yield replace(
            whole,
            id=content_id(file.encode(), f"frame={number}"),
            modality=Modality.IMAGE,
            uri=f"{place_of(path, root)}#frame={number}",
            attributes={**whole.attributes, **said, "channels": depth},
        )


def load(dataset: Any, record: Record) -> Payload:
    """array (c y x) float32 of a frame as it is meant to be seen; to_world where it has a scale."""
    number, spacing = part_number(record.uri, "frame") or 1, spacing_of(dataset)
    if number > frames(dataset):
        raise RecordError(f"no frame {number}", "the file as ingested", "ingest it again")
    (seen,) = dicom_pixels.each(dataset, [number - 1])
    to_world = np.diag([spacing[1], spacing[0], 1.0, 1.0]) if spacing else None
    return Payload(channels_first(seen.astype(np.float32)), to_world=to_world)
