"""DICOM segmentations (binary, fractional, label map) as masks that the catalogue links to the image they were drawn on.

Source: DICOM PS3.3 C.8.20 (segmentation), C.7.6.16.2.1 (pixel measures), A.51.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import Modality, Payload, Record, Rejected, Scalar
from . import dicom_pixels, stack
from .dicom_header import frames, record_of, text
from .dicom_multiframe import Groups
from .source import RecordError, check_size, content_id, part_number, place_of

_SLICES = {"1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.128"}
"""CT, MR and PET images of one frame (PS3.4 B.5): their series is the image."""
_VOLUMES = {
    "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2", "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.4",
    "1.2.840.10008.5.1.4.1.1.128.1", "1.2.840.10008.5.1.4.1.1.130", "1.2.840.10008.5.1.4.1.1.13.1.3",
}  # fmt: skip
"""The enhanced ones, and tomosynthesis: one instance is a volume."""
_LONGEST_KIND = 200


def mine(dataset: Any) -> bool:
    """Whether it has segments."""
    return "SegmentSequence" in dataset


@dataclass(frozen=True, slots=True)
class _Grid:
    """The planes of a segmentation; those without a frame are empty.

    Args:
        shape: (z y x).
        where: frame → its plane.
        to_world: (x y z 1) → mm in LPS; None where the frames have no place.
        step_mm: from plane to plane.
    """

    shape: tuple[int, int, int]
    where: tuple[int, ...]
    to_world: np.ndarray | None
    step_mm: float | None


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
    """What the image is called by, as `dicom_header.stem_of` calls it, and whether it is an image or a volume.

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
    if kinds and kinds <= _SLICES:
        series = {uid for _, _, uid in named}
        if len(series) == 1 and "" not in series:
            return series.pop(), Modality.VOLUME if len(instances) > 1 else Modality.IMAGE
    elif len(instances) == 1:
        return instances.pop(), Modality.VOLUME if kinds <= _VOLUMES else Modality.IMAGE
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


def _segments(dataset: Any, groups: Groups, names: Mapping[int, str]) -> tuple[int | None, ...]:
    """The segment of each frame; None for each of a label map, whose values are the segments' numbers."""
    if text(dataset, "SegmentationType") == "LABELMAP":
        return (None,) * frames(dataset)
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
    for frame, pixels in zip(which, dicom_pixels.each(dataset, which, stored=True), strict=True):
        plane, segment = labels[grid.where[frame]], segments[frame]
        if segment is None:
            plane[:] = pixels
            continue
        inside = 2 * pixels.astype(np.int64) >= most
        overlap |= bool(plane[inside].any())
        plane[inside] = segment if only is None else 1
    return labels, overlap


def _checked(dataset: Any) -> tuple[Groups, _Grid, tuple[int | None, ...]]:
    dicom_pixels.check(dataset)
    if "TotalPixelMatrixRows" in dataset:
        raise RecordError("a segmentation of a slide's tiles", "one of an image or a volume", "leave it out")
    if int(dataset.get("SamplesPerPixel") or 1) != 1:
        raise RecordError("a segmentation in colours", "one number a pixel", "export it again")
    groups = Groups(dataset)
    return groups, _grid(dataset, groups), _segments(dataset, groups, _names(dataset))


def read(dataset: Any, path: Path, root: Path) -> Iterator[Record | Rejected]:
    """One mask; one a segment where segments overlap. `stem` is what its image is called by, `segment_N` what N means."""
    groups, grid, segments = _checked(dataset)
    stem, modality = _source(dataset, groups)
    if modality is Modality.IMAGE and grid.shape[0] > 1:
        raise RecordError(
            f"a segmentation of {grid.shape[0]} planes that names one image of one", "as many as its image", "export it again"
        )  # fmt: skip
    _, overlap = _labels(dataset, grid, segments, None)
    whole, names = record_of(dataset, path, root), _names(dataset)
    about: dict[str, Scalar] = {**whole.attributes, "mask": True, "stem": stem, "segmentation": _kind(dataset)}
    if spacing := groups.spacing(0):
        about |= {"spacing_y_mm": spacing[0], "spacing_x_mm": spacing[1]}
    if modality is Modality.VOLUME:
        about |= {"slices": grid.shape[0], "spacing_z_mm": grid.step_mm}
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
    """array (1 z y x), or (1 y x) of an image's mask, float32: segment numbers, or 1 where segments are a record each."""
    _, grid, segments = _checked(dataset)
    labels = _labels(dataset, grid, segments, part_number(record.uri, "segment"))[0].astype(np.float32)
    return Payload(labels if record.modality is Modality.IMAGE else labels[None], to_world=grid.to_world)
