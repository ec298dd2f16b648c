"""DICOM bulk annotations of slides (ANN): points and outlines drawn on a slide, or found on it, a record a group.

A record is an answer and never a model's input. The catalogue links it to its slide, whichever came first.
Source: DICOM PS3.3 A.87 and C.37.1 (Microscopy Bulk Simple Annotations).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import Modality, Payload, Record, Rejected, Scalar
from .dicom_header import check_whole, first, record_of, text
from .source import RecordError, check_size, content_id, part_number, place_of

_CORNERS = {"POINT": 1, "ELLIPSE": 4, "RECTANGLE": 4}
"""Points of each shape; polygons and polylines say where each begins."""
_BROKEN = "points as PS3.3 C.37.1.2 has them"


def mine(dataset: Any) -> bool:
    """Whether it annotates a slide."""
    return text(dataset, "Modality") == "ANN"


def _slide(dataset: Any) -> str:
    """What the slide is called by: its series, or its instance where no series is named.

    Raises:
        RecordError: it names none, or several.
    """
    series = {text(s, "SeriesInstanceUID") for s in dataset.get("ReferencedSeriesSequence") or ()} - {""}
    named = series or {text(i, "ReferencedSOPInstanceUID") for i in dataset.get("ReferencedImageSequence") or ()} - {""}
    if len(named) != 1:
        raise RecordError(
            f"annotations of {len(named)} slides", "one series in the Referenced Series Sequence", "export each apart"
        )
    return named.pop()


def _in_mm(dataset: Any) -> bool:
    """Whether coordinates are mm on the glass (3D), and not pixels of the whole slide (2D)."""
    kind, origin = text(dataset, "AnnotationCoordinateType"), text(dataset, "PixelOriginInterpretation")
    if kind not in ("2D", "3D") or (kind == "2D" and origin == "FRAME"):
        raise RecordError(
            f"annotations whose coordinates are {kind or 'not said'} from {origin.lower() or 'no'} origin",
            "2D from the whole slide's corner, or 3D", "export them in coordinates of the slide",
        )  # fmt: skip
    return kind == "3D"


def _shapes(group: Any, in_mm: bool) -> np.ndarray:
    """(p 3) float32: x, y in pixels and the shape's number from 0; of coordinates in mm (p 4): x, y, z in mm and the number.

    Raises:
        RecordError: they are not as many as the group says, or are none.
    """
    double, single = group.get("DoublePointCoordinatesData"), group.get("PointCoordinatesData")
    data = np.frombuffer(double, "<f8") if double else np.frombuffer(single or b"", "<f4")
    check_size((max(len(data), 1), 4), 8)
    common = group.get("CommonZCoordinateValue")
    width = 2 if not in_mm or common is not None else 3
    if not len(data) or len(data) % width or not np.isfinite(data).all():
        raise RecordError(f"{len(data)} coordinates of points in {width} dimensions", _BROKEN, "export it again")
    points, kind = data.reshape(-1, width), text(group, "GraphicType")
    if kind in _CORNERS:
        starts = np.arange(0, len(points), _CORNERS[kind])
        whole = len(points) % _CORNERS[kind] == 0
    else:
        index = np.frombuffer(group.get("LongPrimitivePointIndexList") or b"", "<u4").astype(np.int64) - 1
        starts = index // width
        ends = np.append(index[1:], len(data))
        whole = len(index) > 0 and index[0] == 0 and not (index % width).any() and bool((ends > index).all())
    said = int(group.get("NumberOfAnnotations") or 0)
    if not whole or said != len(starts):
        raise RecordError(f"{len(starts)} shapes of {said} in {len(points)} points", _BROKEN, "export it again")
    if in_mm and common is not None:
        points = np.column_stack([points, np.full(len(points), float(common))])
    number = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(points))))
    return np.column_stack([points, number]).astype(np.float32)


def read(dataset: Any, path: Path, root: Path) -> Iterator[Record | Rejected]:
    """A record a group; a group that is none is set aside by its number."""
    check_whole(dataset)
    stem, in_mm, whole, place = _slide(dataset), _in_mm(dataset), record_of(dataset, path, root), place_of(path, root)
    groups = dataset.get("AnnotationGroupSequence") or ()
    if not groups:
        raise RecordError("annotations without a group", "at least one", "leave it out")
    for number, group in enumerate(groups, start=1):
        try:
            shapes = _shapes(group, in_mm)
        except RecordError as error:
            yield Rejected(place, f"group {number}: {error.found}", error.expected, error.remedy)
            continue
        kind, label = text(group, "GraphicType").lower(), text(group, "AnnotationGroupLabel")
        meaning = text(first(group, "AnnotationPropertyTypeCodeSequence"), "CodeMeaning")
        about: dict[str, Scalar] = {
            "mask": True, "stem": stem, "source_uid": stem, "annotation": kind, "shapes": int(shapes[-1, -1]) + 1, "labels": label,
            "meaning": meaning or None, "made": text(group, "AnnotationGroupGenerationType").lower() or None,
            "unit": "mm" if in_mm else "px",
        }  # fmt: skip
        keep = {k: v for k, v in whole.attributes.items() if k not in ("rows", "columns", "photometric", "series")}
        yield replace(
            whole,
            id=content_id(path, f"group={number}"),
            modality=Modality.SLIDE,
            kind=f"{kind.upper()}S {(label or meaning).lower()}".strip()[:200],
            uri=f"{place}#group={number}",
            attributes=keep | about,
        )


def load(dataset: Any, record: Record) -> Payload:
    """array (p 3) or, in mm, (p 4), as `_shapes` has it; names the group's label. An ellipse is the ends of its axes, the longer first."""
    groups = dataset.get("AnnotationGroupSequence") or ()
    number = part_number(record.uri, "group") or 1
    if number > len(groups):
        raise RecordError(f"no group {number}", "the file as ingested", "ingest it again")
    group = groups[number - 1]
    return Payload(_shapes(group, _in_mm(dataset)), names=(text(group, "AnnotationGroupLabel"),))
