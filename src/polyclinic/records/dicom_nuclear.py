"""Nuclear medicine of several frames: reconstructions as volumes, planar images as images, dynamic and gated ones as videos.

Which frame is which stands in vectors, a number a frame; where the first slice lies, in the detector's information.
Source: DICOM PS3.3 C.8.4.8 (multi-frame), C.8.4.9 (image types), C.8.4.11 (detector), C.8.4.12 to C.8.4.15 (gating, phases,
reconstruction).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import Modality, Payload, Record, Rejected, Scalar
from . import dicom_clip, dicom_multiframe, dicom_pages, dicom_pixels, stack
from .dicom_header import first, frames, plane_of, record_of, spacing_of, text
from .dicom_multiframe import Stack
from .source import RecordError, content_id, part_number

_VECTORS = {
    "energy_window": "EnergyWindowVector", "detector": "DetectorVector", "rr_interval": "RRIntervalVector",
    "time_slot": "TimeSlotVector",
}  # fmt: skip
"""What tells apart images of one acquisition (C.8.4.8.1)."""
_MOVING = {"DYNAMIC", "GATED"}
_PLANAR = {"STATIC", "WHOLE BODY"}
_RECONSTRUCTED = {"RECON TOMO", "RECON GATED TOMO"}


def mine(dataset: Any) -> bool:
    """Whether it is nuclear medicine of several frames, and says nothing of them in functional groups."""
    alone = text(dataset, "Modality") == "NM" and text(dataset, "SOPClassUID") not in dicom_pages.CAPTURES
    return alone and frames(dataset) > 1 and "SharedFunctionalGroupsSequence" not in dataset


def _kind(dataset: Any) -> str:
    """The third value of the image's type (C.8.4.9.1.1)."""
    kinds = dataset.get("ImageType") or ()
    return str(kinds[2]).strip() if not isinstance(kinds, str) and len(kinds) > 2 else ""


def _vector(dataset: Any, keyword: str) -> np.ndarray:
    """(n,) the number of each frame, from 1; 1 of all where it is absent.

    Raises:
        RecordError: there are not as many as frames.
    """
    if keyword not in dataset or dataset.get(keyword) is None:
        return np.ones(frames(dataset), int)
    values = dicom_pages.listed(dataset, keyword)
    if not values:
        raise RecordError(
            f"{frames(dataset)} frames whose {keyword} has not as many numbers", "one a frame (PS3.3 C.8.4.8)", "export it again"
        )  # fmt: skip
    return np.array(values, int)


def _apart(dataset: Any, names: Sequence[str]) -> list[tuple[dict[str, Scalar], list[int]]]:
    """The frames (numbers from 0) of each image, with what tells it from the others, in the order of its first frame."""
    columns = {name: _vector(dataset, _VECTORS[name]) for name in names}
    told = [name for name, column in columns.items() if len(np.unique(column)) > 1]
    found: dict[tuple[int, ...], list[int]] = {}
    for frame in range(frames(dataset)):
        found.setdefault(tuple(int(columns[name][frame]) for name in told), []).append(frame)
    return [(dict(zip(told, key, strict=True)), members) for key, members in found.items()]


def _stacks(dataset: Any, path: Path) -> list[Stack]:
    """Slices of each reconstruction, along the normal from the first (C.8.4.15: a negative spacing, against it).

    Raises:
        RecordError: it is not said where they lie.
    """
    spacing, between = spacing_of(dataset), float(dataset.get("SpacingBetweenSlices") or 0)
    told = dataset.get("DetectorInformationSequence") or ()
    planes = [plane_of(detector) for detector in told]
    which, slices = _vector(dataset, "DetectorVector"), _vector(dataset, "SliceVector")
    if "SliceVector" not in dataset or spacing is None or not between or not any(planes):
        raise RecordError(
            "a reconstruction that does not say where its slices lie",
            "SliceVector, PixelSpacing, SpacingBetweenSlices, and position and orientation in the detector's information",
            "export it again, or as enhanced or single slices",
        )  # fmt: skip
    size = int(dataset.Rows), int(dataset.Columns)
    found = []
    for said, members in _apart(dataset, list(_VECTORS)):
        these = []
        for frame in members:
            number = int(which[frame]) - 1
            plane = planes[number] if 0 <= number < len(planes) else None
            position, cosines = plane or next(p for p in planes if p)
            position = position + (int(slices[frame]) - 1) * between * np.cross(*cosines)
            these.append(stack.Slice(path, size, spacing, position, cosines, frame=frame))
        found.append(Stack(tuple(these), said))
    return found


@dataclass(frozen=True, slots=True)
class _Clip:
    """Frames that were taken one after the other.

    Args:
        apart: what tells it from the object's others.
        frames: numbers from 0, in the order of time.
        times_s: (n,) seconds of each, from the first.
        last_s: how long the last one took.
    """

    apart: dict[str, Scalar]
    frames: list[int]
    times_s: np.ndarray
    last_s: float


def _clips(dataset: Any) -> list[_Clip]:
    """The videos, one a detector and energy window, of a gated image also one an R-R interval.

    Raises:
        RecordError: it is not said when the frames were taken.
    """
    gated = _kind(dataset) == "GATED"
    names = [name for name in _VECTORS if name != "time_slot" and (gated or name != "rr_interval")]
    found = []
    for said, members in _apart(dataset, names):
        times, ends = (_slots if gated else _phases)(dataset, members)
        if len(np.unique(times)) < len(times):
            raise RecordError("several frames at one time", "one a detector, energy window and time", "export it again")
        order = np.argsort(times)
        start = float(times[order[0]])
        last = int(order[-1])
        found.append(_Clip(said, [members[i] for i in order], times[order] - start, float(ends[last] - times[last])))
    return found


def _untimed(what: str, expected: str) -> RecordError:
    return RecordError(
        f"a {what} acquisition that does not say when its frames were taken", expected, "export it again"
    )


def _phases(dataset: Any, members: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(n,) seconds when each frame begins and ends (C.8.4.14): a phase's frames follow each other after a delay, with a pause between."""
    phases: Sequence[Any] = dataset.get("PhaseInformationSequence") or [dataset]
    phase, number = _vector(dataset, "PhaseVector")[members], _vector(dataset, "TimeSliceVector")[members]
    if "TimeSliceVector" not in dataset:
        number = np.arange(len(members))
    begins, ends, now_ms = np.zeros(len(members)), np.zeros(len(members)), 0.0
    for which in np.unique(phase).tolist():
        about: Any = phases[which - 1] if 0 < which <= len(phases) else {}
        duration, pause, delay = (
            float(about.get(k) or 0) for k in ("ActualFrameDuration", "PauseBetweenFrames", "PhaseDelay")
        )
        if not (0 < duration < 1e9 and 0 <= pause < 1e9 and 0 <= delay < 1e9):
            raise _untimed("dynamic", "ActualFrameDuration in the phase information sequence")
        mine = np.flatnonzero(phase == which)
        slices, rank = np.unique(number[mine], return_inverse=True)
        begins[mine] = now_ms + delay + rank * (duration + pause)
        ends[mine] = begins[mine] + duration
        now_ms += delay + len(slices) * (duration + pause) - pause
    return begins / 1000, ends / 1000


def _slots(dataset: Any, members: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(n,) seconds from the trigger when each time slot begins and ends (C.8.4.12)."""
    data = first(dataset, "GatedInformationSequence").get("DataInformationSequence") or ()
    intervals, slots = _vector(dataset, "RRIntervalVector")[members], _vector(dataset, "TimeSlotVector")[members]
    which = int(intervals[0])
    long_ms = float((data[which - 1] if 0 < which <= len(data) else {}).get("FrameTime") or 0)
    if not 0 < long_ms < 1e6 or "TimeSlotVector" not in dataset:
        raise _untimed("gated", "TimeSlotVector, and FrameTime in the data information sequence")
    return (slots - 1) * long_ms / 1000, slots * long_ms / 1000


def read(dataset: Any, path: Path, root: Path) -> Iterator[Record | Rejected]:
    """A volume a reconstruction, an image a planar frame, a video a dynamic or gated acquisition of a detector and energy window."""
    dicom_pixels.check(dataset)
    dicom_pixels.check_frames(dataset)  # a header may promise any number of them
    kind = _kind(dataset)
    whole = record_of(dataset, path, root)
    whole = replace(whole, attributes={**whole.attributes, "acquisition": kind.lower()})
    if kind in _RECONSTRUCTED:
        stacks = _stacks(dataset, path)
        _check_pixels(dataset)
        yield from dicom_multiframe.placed(stacks, whole, path)
    elif kind in _MOVING:
        clips = _clips(dataset)
        _check_pixels(dataset)
        for number, clip in enumerate(clips, start=1):
            fragment = f"stack={number}" if len(clips) > 1 else ""
            timing = dicom_clip.timing(clip.times_s)
            if len(clip.frames) == 1:
                timing |= {"rate_hz": 1 / clip.last_s, "seconds": clip.last_s}
            yield replace(
                whole,
                id=content_id(path, fragment),
                modality=Modality.VIDEO,
                uri=f"{whole.uri}#{fragment}" if fragment else whole.uri,
                attributes={**whole.attributes, **clip.apart, **timing, "frames": len(clip.frames), "colour": False},
            )
    elif kind in _PLANAR:
        columns = {name: _vector(dataset, _VECTORS[name]).tolist() for name in ("energy_window", "detector")}
        about = [{name: column[i] for name, column in columns.items()} for i in range(frames(dataset))]
        for record in dicom_pages.apart(dataset, path, root, about):
            yield replace(record, attributes={**record.attributes, "acquisition": kind.lower()})
    else:
        projections = kind in ("TOMO", "GATED TOMO")
        raise RecordError(
            f"{frames(dataset)} projections of a tomography" if projections else f"nuclear medicine of type {kind or 'unknown'}",
            ", ".join(sorted(_MOVING | _PLANAR | _RECONSTRUCTED)), "export its reconstruction" if projections else "export it again",
        )  # fmt: skip


def _check_pixels(dataset: Any) -> None:
    for _ in dicom_pixels.each(dataset):  # a truncated file shows itself now
        pass


def load(dataset: Any, record: Record) -> Payload:
    """Of a reconstruction array (1 z y x) float32 in its units (counts, or as rescaled), to_world → mm.

    Of a video as `dicom_clip`, of an image as `dicom_pages` has it.
    """
    dicom_pixels.check(dataset)
    if record.modality is Modality.IMAGE and part_number(record.uri, "frame"):
        return dicom_pages.load(dataset, record)
    if record.modality is Modality.VIDEO:
        clip = _clips(dataset)[(part_number(record.uri, "stack") or 1) - 1]
        return dicom_clip.payload(dataset, clip.frames, clip.times_s)
    slope = float(1 if dataset.get("RescaleSlope") is None else dataset.RescaleSlope)
    intercept = float(dataset.get("RescaleIntercept") or 0)
    ordered = dicom_multiframe.chosen(_stacks(dataset, Path(record.uri)), record)
    return dicom_multiframe.assembled(dataset, ordered, lambda values, _: values * slope + intercept)
