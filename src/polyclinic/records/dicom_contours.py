"""DICOM structure sets: each region of interest as a mask on the planes of the image that it was drawn on.

A structure set is read by itself: the catalogue links its masks to their series, whichever came first. The contours are
filled when a mask is loaded, on the image's own grid, which is looked for in the folder and beside it.

Source: DICOM PS3.3 C.8.8.5 (structure set), C.8.8.6 (ROI contour: geometric types, keyholes).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import Modality, Payload, Record, Rejected
from . import stack
from .dicom_header import MEASURED, check_whole, frames, opened, plane_of, record_of, spacing_of, text
from .source import RecordError, check_size, content_id, part_number, place_of

MOST_POINTS = 10**7
MOST_CROSSINGS = 2**24
"""Of one contour with the rows of its plane."""
MOST_FILES = 20_000
"""Files that are looked at for the image."""
_FILLED = {"CLOSED_PLANAR", "CLOSED_PLANAR_XOR"}


def mine(dataset: Any) -> bool:
    """Whether it is a structure set."""
    return text(dataset, "Modality") == "RTSTRUCT"


def _points(contour: Any) -> np.ndarray:
    """(n 3) mm in LPS."""
    element = contour.get_item("ContourData")
    value = element.value if element is not None else None
    try:  # a hundred thousand decimal strings are read at once, not made an object each
        numbers = np.array(value.split(b"\\") if isinstance(value, bytes) else list(value or ()), float)
        points = numbers.reshape(-1, 3)
    except (TypeError, ValueError) as error:
        raise RecordError("contour data that are no points", "x, y and z of each in mm", "export it again") from error
    if len(points) > MOST_POINTS or not np.isfinite(points).all():
        raise RecordError(f"a contour of {len(points)} points", "fewer, and finite", "export it again")
    return points


def _regions(dataset: Any) -> dict[int, tuple[str, list[Any]]]:
    """Number → name and contours of each region of interest."""
    names = {int(r.ROINumber): text(r, "ROIName") for r in dataset.get("StructureSetROISequence") or ()}
    drawn = {
        int(item.ReferencedROINumber): list(item.get("ContourSequence") or ())
        for item in dataset.get("ROIContourSequence") or ()
    }
    return {number: (name or f"region {number}", drawn.get(number, [])) for number, name in names.items()}


def _polygons(contours: Sequence[Any]) -> list[np.ndarray]:
    """The contours of one region.

    Raises:
        RecordError: there are none, or one that encloses nothing.
    """
    kinds = {text(contour, "ContourGeometricType") for contour in contours}
    if not contours:
        raise RecordError("a region without contours", "at least one", "leave it out")
    if kinds - _FILLED:
        raise RecordError(
            f"a region of type {', '.join(sorted(kinds - _FILLED))}, which encloses nothing", "closed planar contours", "leave it out"
        )  # fmt: skip
    polygons = [_points(contour) for contour in contours]
    if min(map(len, polygons)) < 3:
        polygons = [polygon for polygon in polygons if len(polygon) >= 3]
    if not polygons:
        raise RecordError("a region whose contours have fewer than three points", "three or more", "leave it out")
    return polygons


def _source(dataset: Any) -> tuple[str, Modality]:
    """The series that was drawn on, and whether it is of several slices.

    Raises:
        RecordError: it names none, or several.
    """
    series = [
        item
        for frame in dataset.get("ReferencedFrameOfReferenceSequence") or ()
        for study in frame.get("RTReferencedStudySequence") or ()
        for item in study.get("RTReferencedSeriesSequence") or ()
    ]
    named = {text(item, "SeriesInstanceUID") for item in series} - {""}
    if len(named) != 1:
        raise RecordError(
            f"a structure set that names {len(named)} series", "the one that it was drawn on", "export it with its reference"
        )  # fmt: skip
    images = sum(len(item.get("ContourImageSequence") or ()) for item in series)
    return named.pop(), Modality.IMAGE if images == 1 else Modality.VOLUME


def read(dataset: Any, path: Path, root: Path) -> Iterator[Record | Rejected]:
    """One mask a region; `stem` is the series it was drawn on. Points, open contours and empty regions are set aside."""
    check_whole(dataset)
    stem, modality = _source(dataset)
    regions = _regions(dataset)
    if not regions:
        raise RecordError("a structure set without a region", "at least one", "leave it out")
    observed = {int(o.get("ReferencedROINumber") or -1): o for o in dataset.get("RTROIObservationsSequence") or ()}
    whole, place, file = record_of(dataset, path, root), place_of(path, root), content_id(path)
    person = {k: whole.attributes.get(k) for k in ("sex", "age", "study", "accession", "anonymous")}
    for number, (name, contours) in sorted(regions.items()):
        try:
            polygons = _polygons(contours)
        except RecordError as error:
            yield Rejected(place, f"region {number} of {len(regions)}: {error.found}", error.expected, error.remedy)
            continue
        interpreted = text(observed.get(number, {}), "RTROIInterpretedType").lower()
        yield replace(
            whole,
            id=content_id(file.encode(), f"roi={number}"),
            modality=modality,
            kind=f"MASK {name.lower()}"[:200],
            uri=f"{place}#roi={number}",
            attributes={
                **person, "mask": True, "stem": stem, "segmentation": "contours", "contours": len(polygons),
                "interpreted": interpreted or None, "segment_1": name,
            },
        )  # fmt: skip


def _near(path: Path) -> Iterator[Path]:
    """The files in the folder of a structure set and below, then those in the folders beside it."""
    looked = 0
    for top in (path.parent, path.parent.parent):
        for folder, below, names in os.walk(top):
            below.sort()
            if top != path.parent and Path(folder) == path.parent:
                below.clear()
                continue
            for name in sorted(names):
                looked += 1
                if looked > MOST_FILES:
                    return
                yield Path(folder, name)


@lru_cache(maxsize=16)
def _grid(path: Path, series: str, changed: int) -> tuple[tuple[int, int, int], np.ndarray]:
    """(z y x) and (x y z 1) → mm of the series, put together as `dicom.read_series` does.

    Raises:
        RecordError: it is not near, or makes up no volume.
    """
    slices: dict[Path, list[stack.Slice]] = {}
    for file in _near(path):
        found = _slice(file, series)
        if found is not None:
            slices.setdefault(file.parent, []).append(found)
        elif slices and file.parent not in slices:
            break  # the folder of the series is through
    if not slices:
        raise RecordError(
            "contours whose image is not near them", "the series in the folder of the structure set, or in one beside it",
            "put both into one folder",
        )  # fmt: skip
    mine = next(iter(slices.values()))
    if len(mine) == 1:
        return (1, *mine[0].shape), stack.plane(mine[0].spacing, mine[0].position, mine[0].cosines)
    ordered, _ = stack.ordered(mine)
    return (len(ordered), *ordered[0].shape), stack.to_world(ordered)


def _slice(file: Path, series: str) -> stack.Slice | None:
    """A slice of the series; None for any other file, most of which are told by their first bytes."""
    try:
        with file.open("rb") as stream:
            head = stream.read(1 << 14)
        if head[128:132] != b"DICM" or series.encode() not in head:
            return None
        dataset = opened(file, pixels=False)
        spacing, plane = spacing_of(dataset), plane_of(dataset)
    except (OSError, RecordError):
        return None
    whole = (
        text(dataset, "Modality") in MEASURED and text(dataset, "SeriesInstanceUID") == series and frames(dataset) == 1
    )
    if not whole or spacing is None or plane is None:
        return None
    return stack.Slice(file, (int(dataset.Rows), int(dataset.Columns)), spacing, *plane)


def filled(polygons: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """(y x) bool: the pixels whose centre lies within an odd number of the polygons.

    So an inner contour is a hole, whether drawn apart or joined to the outer one by a keyhole (C.8.8.6.3).

    Args:
        polygons: (n 2) column and row of each corner; the last is joined to the first.
        shape: rows and columns.
    Raises:
        RecordError: more crossings than an outline has.
    """
    toggles = np.zeros((shape[0], shape[1] + 1), np.int64)
    for polygon in polygons:
        x, y = polygon.T
        x_next, y_next = np.roll(x, -1), np.roll(y, -1)
        # A row is crossed by an edge that has one end on or above its centre line and the other below.
        low = np.clip(np.ceil(np.minimum(y, y_next)), 0, shape[0]).astype(int)
        high = np.clip(np.ceil(np.maximum(y, y_next)), 0, shape[0]).astype(int)
        if int((high - low).sum()) > MOST_CROSSINGS:
            raise RecordError("a contour that crosses the image's rows too often", "a drawn outline", "export it again")
        edge = np.repeat(np.arange(len(x)), high - low)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(high - low) - (high - low), high - low) + low[edge]
        crossing = x[edge] + (row - y[edge]) * (x_next - x)[edge] / (y_next - y)[edge]
        np.add.at(toggles, (row, np.clip(np.ceil(crossing), 0, shape[1]).astype(int)), 1)
    return (np.cumsum(toggles, axis=1) % 2).astype(bool)[:, :-1]


def _mask(polygons: Sequence[np.ndarray], shape: tuple[int, int, int], to_world: np.ndarray) -> np.ndarray:
    """(z y x) bool. Each contour counts for the plane that it lies on, within half a step.

    Raises:
        RecordError: contours that lie across the planes, or none of which lies on one.
    """
    back = np.linalg.inv(to_world)
    planes: dict[int, dict[float, list[np.ndarray]]] = {}
    for polygon in polygons:
        index = polygon @ back[:3, :3].T + back[:3, 3]
        z = float(index[:, 2].mean())
        if np.abs(index[:, 2] - z).max() > 0.1:
            raise RecordError(
                "contours that lie across the image's planes", "contours on its planes", "export it again"
            )
        if -0.5 <= z < shape[0] - 0.5:
            planes.setdefault(round(z), {}).setdefault(round(z, 2), []).append(index[:, :2])
    if not planes:
        raise RecordError(
            "contours none of which lies on the image", "contours on its planes", "check its frame of reference"
        )
    mask = np.zeros(shape, bool)
    for number, levels in planes.items():  # of contours between two planes, those that lie nearest
        mask[number] = filled(levels[min(levels, key=lambda z: abs(z - number))], shape[1:])
    return mask


def load(dataset: Any, record: Record) -> Payload:
    """array (1 z y x), or (1 y x) of a single image, float32 0 or 1; to_world → mm of the image that was drawn on."""
    path = Path(str(dataset.filename))
    shape, to_world = _grid(path, _source(dataset)[0], path.parent.stat().st_mtime_ns)
    check_size(shape, 4)
    _, contours = _regions(dataset)[part_number(record.uri, "roi") or 0]
    mask = _mask(_polygons(contours), shape, to_world).astype(np.float32)
    return Payload(mask if record.modality is Modality.IMAGE else mask[None], to_world)
