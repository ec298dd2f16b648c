"""DICOM segmentations (binary, fractional, label map) as masks that the catalogue links to the image they were drawn on.

One of a slide lies in the slide's total pixel matrix, tile by tile; of a matrix larger than `LARGEST_SIDE` every so-manieth pixel
is read, and `sampled_every` says how many. The image may come later, or never: the mask is a record of its own, and `source_uid`
says of what.

Source: DICOM PS3.3 C.8.20 (segmentation), C.7.6.16.2.1 (pixel measures), C.7.6.17.3 (the order of tiled frames), C.8.12.6.1 (a
tile's place), A.51.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import Modality, Payload, Record, Rejected, Scalar
from . import dicom_pixels, dicom_slide_header, stack
from .dicom_header import frames, record_of, text
from .dicom_multiframe import Groups
from .grid import grid_of
from .source import RecordError, check_size, content_id, part_number, place_of

_SLICES = {"1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.128"}
"""CT, MR and PET images of one frame (PS3.4 B.5): their series is the image."""
_VOLUMES = {
    "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2", "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.4",
    "1.2.840.10008.5.1.4.1.1.128.1", "1.2.840.10008.5.1.4.1.1.130", "1.2.840.10008.5.1.4.1.1.13.1.3",
}  # fmt: skip
"""The enhanced ones, and tomosynthesis: one instance is a volume."""
_NUCLEAR = {"1.2.840.10008.5.1.4.1.1.20"}
"""A reconstruction is a volume, and what is planar is not."""
_SLIDES = {"1.2.840.10008.5.1.4.1.1.77.1.6"}
_LONGEST_KIND = 200
LARGEST_SIDE = 4096
"""Pixels of a slide's mask along its longer side."""


def mine(dataset: Any) -> bool:
    """Whether it has segments."""
    return "SegmentSequence" in dataset


@dataclass(frozen=True, slots=True)
class _Grid:
    """The planes of a segmentation; those without a frame are empty.

    Args:
        shape: (z y x).
        where: frame → its plane; of a slide, the column and the row, from 0, at which it begins.
        to_world: (x y z 1) → mm in LPS, or of the slide's coordinate system; None where the frames have no place.
        step_mm: from plane to plane.
        every: of a slide, every so-manieth pixel is read.
    """

    shape: tuple[int, int, int]
    where: tuple[int | tuple[int, int], ...]
    to_world: np.ndarray | None
    step_mm: float | None
    every: int = 1

    def part(self, labels: np.ndarray, frame: int, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What of the labels a frame covers, as a view, and its pixels there."""
        place = self.where[frame]
        if isinstance(place, int):
            return labels[place], pixels
        (left, top), every = place, self.every
        below, right = -top % every, -left % every  # its first pixels that are read
        pixels = pixels[below::every, right::every]
        row, column = (top + below) // every, (left + right) // every
        view = labels[0, row : row + pixels.shape[0], column : column + pixels.shape[1]]
        return view, pixels[: view.shape[0], : view.shape[1]]


def _grid(dataset: Any, groups: Groups) -> _Grid:
    size, count = (int(dataset.Rows), int(dataset.Columns)), frames(dataset)
    planes = [groups.plane(frame) for frame in range(count)]
    spacing = groups.spacing(0)
    if not any(planes):  # of a radiograph or a photograph: one plane
        flat = np.diag([spacing[1], spacing[0], 1.0, 1.0]) if spacing else None
        return _Grid((1, *size), (0,) * count, flat, None)
    if spacing is None or any(plane is None or groups.spacing(i) != spacing for i, plane in enumerate(planes)):
        raise RecordError(
            "a segmentation with frames without a place or of several spacings", "one grid", "export it again"
        )
    position = np.stack([plane[0] for plane in planes if plane is not None])
    cosines = np.stack([plane[1] for plane in planes if plane is not None])
    if np.abs(cosines - cosines[0]).max() > 1e-3:
        raise RecordError("a segmentation with frames of several orientations", "one grid", "export each apart")
    along = position @ np.cross(*cosines[0])
    measures = groups.item(0, "PixelMeasuresSequence")
    index, step_mm = _even(along, *(float(measures.get(k) or 0) for k in ("SpacingBetweenSlices", "SliceThickness")))
    planes_high = int(index.max()) + 1
    check_size((planes_high, *size), 4)
    first, last = int(index.argmin()), int(index.argmax())
    step = (position[last] - position[first]) / max(planes_high - 1, 1)
    step = step if planes_high > 1 else np.cross(*cosines[0]) * step_mm
    astray = np.linalg.norm(position - position[first] - index[:, None] * step, axis=1).max()
    if astray > max(0.1 * step_mm, 0.02) or np.linalg.norm(step) > step_mm * 1.0002:
        raise RecordError(
            f"frames of a segmentation up to {astray:.2g} mm off an even stack", "planes stacked along their normal",
            "resample it before export",
        )  # fmt: skip
    to_world = stack.plane(spacing, position[first], cosines[0])
    to_world[:3, 2] = step
    return _Grid((planes_high, *size), tuple(index.tolist()), to_world, step_mm)


def _tiles(dataset: Any, groups: Groups, path: Path) -> _Grid:
    """The grid of a slide's segmentation.

    Raises:
        RecordError: a frame without a place, or there are not as many as tiles.
    """
    head = dicom_slide_header.Instance(path, dataset)
    (width, height), tile, count = head.size, head.tile, frames(dataset)
    if min(width, height) <= 0:
        raise RecordError("a slide's segmentation without a size", "the total pixel matrix's", "export it again")
    every = 1
    while max(width, height) > LARGEST_SIDE * every:
        every *= 2
    if text(dataset, "DimensionOrganizationType") == "TILED_FULL":
        whole = (
            [(x, y) for y in range(0, height, tile[1]) for x in range(0, width, tile[0])] if _few(head, count) else []
        )
        if not whole or count % len(whole):
            raise RecordError(
                f"{count} frames of {tile[0]} × {tile[1]} for {width} × {height} pixels", "a frame a tile and segment",
                "send it again from the PACS",
            )  # fmt: skip
        where = whole * (count // len(whole))
    else:
        where = [_corner(groups.item(frame, "PlanePositionSlideSequence"), frame, head.size) for frame in range(count)]
    to_world = dicom_slide_header.to_world(head)
    if to_world is not None:
        to_world = to_world @ np.diag([every, every, 1.0, 1.0])
    return _Grid((1, -(-height // every), -(-width // every)), tuple(where), to_world, None, every)


def _few(head: dicom_slide_header.Instance, count: int) -> bool:
    """Whether there are frames for all tiles: a header may promise any size."""
    return -(-head.size[0] // head.tile[0]) * -(-head.size[1] // head.tile[1]) <= count


def _corner(place: Any, frame: int, size: tuple[int, int]) -> tuple[int, int]:
    found = [place.get(f"{axis}PositionInTotalImagePixelMatrix") for axis in ("Column", "Row")]
    if None in found:
        raise RecordError(
            f"frame {frame + 1} without a place", "Plane Position (Slide), PS3.3 C.8.12.6.1", "export it again"
        )
    x, y = (int(v) - 1 for v in found)
    if not (0 <= x < size[0] and 0 <= y < size[1]):
        raise RecordError(
            f"frame {frame + 1} outside its slide", "a place in the total pixel matrix", "export it again"
        )
    return x, y


def _even(along: np.ndarray, between_mm: float, thickness_mm: float) -> tuple[np.ndarray, float]:
    """(n,) the plane of each frame, counted from the lowest, and mm from plane to plane: empty ones are not stored."""
    gaps = np.diff(np.unique(np.round(along, 3)))
    gaps = gaps[gaps > 2e-3]
    if len(gaps) == 0:
        return np.zeros(len(along), int), between_mm or thickness_mm or 1.0
    small = float(np.median(gaps[gaps < 1.5 * gaps.min()]))
    for step in (between_mm, small):
        index = (along - along.min()) / step if step > 0 else np.full(len(along), 0.5)
        if np.abs(index - np.round(index)).max() < 0.1:
            return np.round(index).astype(int), step
    raise RecordError("a segmentation with frames at uneven distances", "one grid", "resample it before export")


def _source(dataset: Any, groups: Groups) -> tuple[str, Modality]:
    """What the image is called by, as `dicom_header.stem_of` calls it (a slide, by its series), and whether it is an image or a volume.

    Raises:
        RecordError: it names none, or several.
    """
    named = [
        (text(instance, "ReferencedSOPClassUID"), text(instance, "ReferencedSOPInstanceUID"), text(series, "SeriesInstanceUID"))
        for series in dataset.get("ReferencedSeriesSequence") or ()
        for instance in series.get("ReferencedInstanceSequence") or ()
    ] or [
        (text(instance, "ReferencedSOPClassUID"), text(instance, "ReferencedSOPInstanceUID"), "")
        for frame in range(frames(dataset))
        for instance in groups.item(frame, "DerivationImageSequence").get("SourceImageSequence") or ()
    ]  # fmt: skip
    instances, kinds = {uid for _, uid, _ in named}, {kind for kind, _, _ in named}
    series = {uid for _, _, uid in named}
    if kinds and kinds <= _SLIDES:
        if "" not in series and len(series) == 1:  # several instances are the slide's levels
            return series.pop(), Modality.SLIDE
        if len(instances) == 1:
            return instances.pop(), Modality.SLIDE
    elif kinds and kinds <= _SLICES:
        if len(series) == 1 and "" not in series:
            return series.pop(), Modality.VOLUME if len(instances) > 1 else Modality.IMAGE
    elif len(instances) == 1:
        placed = kinds <= _NUCLEAR and groups.plane(0) is not None
        return instances.pop(), Modality.VOLUME if kinds <= _VOLUMES or placed else Modality.IMAGE
    raise RecordError(
        f"a segmentation that names {len(instances)} images and no one series" if named else "a segmentation that names no image",
        "one image or series in the Referenced Series Sequence", "export it with its reference",
    )  # fmt: skip


def _names(dataset: Any) -> dict[int, str]:
    return {
        int(item.SegmentNumber): text(item, "SegmentLabel") or f"segment {int(item.SegmentNumber)}"
        for item in dataset.SegmentSequence
        if int(item.SegmentNumber) > 0  # a label map may describe its background
    }


def _segments(dataset: Any, groups: Groups, grid: _Grid, names: Mapping[int, str]) -> tuple[int | None, ...]:
    """The segment of each frame; None for each of a label map, whose values are the segments' numbers."""
    if text(dataset, "SegmentationType") == "LABELMAP":
        return (None,) * frames(dataset)
    if text(dataset, "DimensionOrganizationType") == "TILED_FULL" and "TotalPixelMatrixRows" in dataset:
        tiles = len(set(grid.where))  # all of a segment, then all of the next
        if frames(dataset) != tiles * len(names):
            raise RecordError(
                f"{frames(dataset)} frames of {tiles} tiles",
                f"{len(names)} times as many, one a segment",
                "export it again",
            )
        return tuple(number for number in names for _ in range(tiles))
    found = []
    for frame in range(frames(dataset)):
        number = groups.item(frame, "SegmentIdentificationSequence").get("ReferencedSegmentNumber")
        if number not in names:
            raise RecordError(
                f"frame {frame + 1} of a segment that is not described", "one of the Segment Sequence", "export it again"
            )  # fmt: skip
        found.append(int(number))
    return tuple(found)


def _labels(dataset: Any, grid: _Grid, segments: tuple[int | None, ...], only: int | None) -> tuple[np.ndarray, bool]:
    """(z y x) uint16 the segments' numbers, or 1 where the one segment is; and whether segments overlap.

    A fractional segment is where it is half or more.
    """
    if len(set(zip(grid.where, segments, strict=True))) < len(segments):
        raise RecordError(
            "a segment with several frames at one place", "one frame a segment and place", "export each phase apart"
        )
    most = int(dataset.get("MaximumFractionalValue") or 1) if text(dataset, "SegmentationType") == "FRACTIONAL" else 1
    which = [frame for frame, segment in enumerate(segments) if only in (None, segment)]
    labels, overlap = np.zeros(grid.shape, np.uint16), False
    for frame, decoded in zip(which, dicom_pixels.each(dataset, which, stored=True), strict=True):
        (plane, pixels), segment = grid.part(labels, frame, decoded), segments[frame]
        if segment is None:
            plane[:] = pixels
            continue
        inside = 2 * pixels.astype(np.int64) >= most
        overlap |= bool(plane[inside].any())
        plane[inside] = segment if only is None else 1
    return labels, overlap


def _checked(dataset: Any, path: Path) -> tuple[Groups, _Grid, tuple[int | None, ...]]:
    dicom_pixels.check(dataset)
    if int(dataset.get("SamplesPerPixel") or 1) != 1:
        raise RecordError("a segmentation in colours", "one number a pixel", "export it again")
    groups = Groups(dataset)
    dicom_pixels.check_frames(dataset)
    grid = _tiles(dataset, groups, path) if "TotalPixelMatrixRows" in dataset else _grid(dataset, groups)
    return groups, grid, _segments(dataset, groups, grid, _names(dataset))


def read(dataset: Any, path: Path, root: Path) -> Iterator[Record | Rejected]:
    """One mask; one a segment where segments overlap. `stem` is what its image is called by, `segment_N` what N means."""
    groups, grid, segments = _checked(dataset, path)
    stem, modality = _source(dataset, groups)
    if (modality is Modality.SLIDE) != ("TotalPixelMatrixRows" in dataset):
        raise RecordError(
            "a segmentation of tiles that names no slide, or of a slide without tiles",
            "both or neither",
            "export it again",
        )
    if modality is Modality.IMAGE and grid.shape[0] > 1:
        raise RecordError(
            f"a segmentation of {grid.shape[0]} planes that names one image of one", "as many as its image", "export it again"
        )  # fmt: skip
    _, overlap = _labels(dataset, grid, segments, None)
    whole, names = record_of(dataset, path, root), _names(dataset)
    about: dict[str, Scalar] = {
        **whole.attributes, "mask": True, "stem": stem, "source_uid": stem, "segmentation": _kind(dataset),
    }  # fmt: skip
    if spacing := groups.spacing(0):
        about |= {"spacing_y_mm": spacing[0], "spacing_x_mm": spacing[1]}
    if modality is Modality.VOLUME:
        about |= {"slices": grid.shape[0], "spacing_z_mm": grid.step_mm}
        deep, high, wide = grid.shape
        about |= {"grid": grid_of((wide, high, deep), grid.to_world)} if grid.to_world is not None else {}
    if modality is Modality.SLIDE:
        about |= {"rows": int(dataset.TotalPixelMatrixRows), "columns": int(dataset.TotalPixelMatrixColumns)}
        about |= {"sampled_every": grid.every}
    for number in sorted(names) if overlap else [None]:
        mine = names if number is None else {1: names[number]}
        fragment = "" if number is None else f"segment={number}"
        yield replace(
            whole,
            id=content_id(path, fragment),
            modality=modality,
            kind=f"MASK {', '.join(name.lower() for name in mine.values())}"[:_LONGEST_KIND],
            uri=place_of(path, root) + (f"#{fragment}" if fragment else ""),
            attributes=about | {f"segment_{n}": name for n, name in sorted(mine.items())},
        )


def _kind(dataset: Any) -> str:
    """`binary`, `fractional probability`, `labelmap` …"""
    return " ".join(
        filter(None, (text(dataset, k).lower() for k in ("SegmentationType", "SegmentationFractionalType")))
    )


def load(dataset: Any, record: Record) -> Payload:
    """array (1 z y x), or (1 y x) of an image's or a slide's, float32: segment numbers, or 1 where segments are a record each."""
    _, grid, segments = _checked(dataset, Path(record.uri))
    labels = _labels(dataset, grid, segments, part_number(record.uri, "segment"))[0].astype(np.float32)
    return Payload(labels[None] if record.modality is Modality.VOLUME else labels, to_world=grid.to_world)
