"""DICOM bulk annotations of slides (ANN): points and outlines drawn on a slide, or found on it, a record a group.

What was measured of each shape comes with it. A record is an answer and never a model's input. The catalogue links it to its
slide, whichever came first.
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


def _measured(group: Any, shapes: int) -> Iterator[tuple[str, np.ndarray | RecordError]]:
    """What was measured and in which unit, `Area [um2]`, and (shapes,) float32, NaN of what it was not measured of; or why it is none."""
    for item in group.get("MeasurementsSequence") or ():
        concept, unit = first(item, "ConceptNameCodeSequence"), first(item, "MeasurementUnitsCodeSequence")
        name = f"{text(concept, 'CodeMeaning') or 'measurement'} [{text(unit, 'CodeValue') or '1'}]"
        held = first(item, "MeasurementValuesSequence")
        data, which = held.get("FloatingPointValues") or b"", held.get("AnnotationIndexList")
        values = np.frombuffer(data[: len(data) // 4 * 4], "<f4")
        index = (
            np.arange(shapes)
            if which is None
            else np.frombuffer(which[: len(which) // 4 * 4], "<u4").astype(np.int64) - 1
        )
        if (
            len(values) != len(index)
            or len(set(index.tolist())) < len(index)
            or not ((index >= 0) & (index < shapes)).all()
        ):
            yield name, RecordError(
                f"{len(values)} values of {len(index)} of {shapes} shapes", "one a shape that is listed (PS3.3 C.37.1.2)",
                "export it again",
            )  # fmt: skip
            continue
        found = np.full(shapes, np.nan, np.float32)
        found[index] = values
        yield name, found


def _whole(group: Any, in_mm: bool) -> tuple[np.ndarray, tuple[str, ...]]:
    """The shapes, with a column more a measurement, and what those are called."""
    shapes = _shapes(group, in_mm)
    number = shapes[:, -1].astype(np.int64)
    sound = [(name, v) for name, v in _measured(group, int(number[-1]) + 1) if isinstance(v, np.ndarray)]
    check_size((len(shapes), shapes.shape[1] + len(sound)), 4)
    return np.column_stack([shapes, *(v[number] for _, v in sound)]), tuple(name for name, _ in sound)


def measurements(payload: Payload) -> dict[str, np.ndarray]:
    """What was measured of the shapes of a record: name with its unit, `Area [um2]` → (shapes,) float32, NaN where it was not.

    Of several of one name, the last is called `Area [um2] 2` and so on.
    """
    names = payload.names[1:]
    number, values = payload.array[:, -1 - len(names)], payload.array[:, payload.array.shape[1] - len(names) :]
    _, begins = np.unique(number, return_index=True)
    found: dict[str, np.ndarray] = {}
    for column, name in enumerate(names):
        again = sum(other == name for other in names[:column])
        found[f"{name} {again + 1}" if again else name] = values[begins, column]
    return found


def read(dataset: Any, path: Path, root: Path) -> Iterator[Record | Rejected]:
    """A record a group; a group that is none is set aside by its number."""
    check_whole(dataset)
    stem, in_mm, whole, place = _slide(dataset), _in_mm(dataset), record_of(dataset, path, root), place_of(path, root)
    groups = dataset.get("AnnotationGroupSequence") or ()
    if not groups:
        raise RecordError("annotations without a group", "at least one", "leave it out")
    for number, group in enumerate(groups, start=1):
        try:
            shapes, measured = _whole(group, in_mm)
        except RecordError as error:
            yield Rejected(place, f"group {number}: {error.found}", error.expected, error.remedy)
            continue
        count = int(shapes[-1, -1 - len(measured)]) + 1
        for name, found in _measured(group, count):
            if isinstance(found, RecordError):
                yield Rejected(f"{place}#group={number}", f"{name}: {found.found}", found.expected, found.remedy)
        kind, label = text(group, "GraphicType").lower(), text(group, "AnnotationGroupLabel")
        meaning = text(first(group, "AnnotationPropertyTypeCodeSequence"), "CodeMeaning")
        about: dict[str, Scalar] = {
            "mask": True, "stem": stem, "source_uid": stem, "annotation": kind, "shapes": count, "labels": label,
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
            attributes=keep | about | {f"measurement_{i}": name for i, name in enumerate(measured, start=1)},
        )


def load(dataset: Any, record: Record) -> Payload:
    """array (p 3 + m) or, in mm, (p 4 + m): `_shapes`, and of each point the m measurements of its shape, which `measurements` has by name.

    names are the group's label, and of each measurement what it is and its unit. An ellipse is the ends of its axes, the longer first.
    """
    groups = dataset.get("AnnotationGroupSequence") or ()
    number = part_number(record.uri, "group") or 1
    if number > len(groups):
        raise RecordError(f"no group {number}", "the file as ingested", "ingest it again")
    group = groups[number - 1]
    array, measured = _whole(group, _in_mm(dataset))
    return Payload(array, names=(text(group, "AnnotationGroupLabel"), *measured))
