"""DICOM objects of several frames: enhanced images as volumes, put together by geometry; frames without a place are a clip.

Source: DICOM PS3.3 C.7.6.16 (functional groups), C.8.13.5 (MR functional groups).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..schema import Modality, Payload, Record, Rejected, Scalar
from . import dicom_clip, dicom_pages, dicom_pixels, stack
from .dicom_header import MEASURED, first, frames, plane_of, record_of, spacing_of, text, windows_of
from .raster import channels_first
from .source import RecordError, content_id, part_number

_NOT_HERE = {"SEG", "SM", "RTDOSE", "RTPLAN", "RTSTRUCT", "SR"}


def mine(dataset: Any) -> bool:
    """Whether it has several frames, or one in functional groups."""
    several = "SharedFunctionalGroupsSequence" in dataset or frames(dataset) > 1 or dicom_clip.coded(dataset)
    return several and text(dataset, "Modality") not in _NOT_HERE


class Groups:
    """The functional groups of a dataset's frames: what is said of one frame stands before what is said of all."""

    def __init__(self, dataset: Any) -> None:
        self.measured = text(dataset, "Modality") in MEASURED
        self.shared = first(dataset, "SharedFunctionalGroupsSequence")
        self.each = dataset.get("PerFrameFunctionalGroupsSequence") or []
        if len(self.each) not in (0, frames(dataset)):
            raise RecordError(
                f"{frames(dataset)} frames with functional groups for {len(self.each)}", "one item a frame (PS3.3 C.7.6.16)",
                "export it again",
            )  # fmt: skip

    def item(self, frame: int, sequence: str) -> Any:
        """The first item of a functional group; an empty one where the frame has none."""
        own = self.each[frame].get(sequence) if self.each else None
        return ((own or self.shared.get(sequence)) or [{}])[0]

    def plane(self, frame: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Position (3,) mm and cosines (2 3), as `dicom_header.plane_of`."""
        place = {"ImagePositionPatient": self.item(frame, "PlanePositionSequence").get("ImagePositionPatient")}
        turn = self.item(frame, "PlaneOrientationSequence").get("ImageOrientationPatient")
        return plane_of(place | {"ImageOrientationPatient": turn})

    def spacing(self, frame: int) -> tuple[float, float] | None:
        """mm between rows and between columns."""
        return spacing_of(self.item(frame, "PixelMeasuresSequence"))

    def windows(self, frame: int) -> dict[str, Scalar]:
        """At which windows the frame is to be seen, in its units; nothing of what measures nothing."""
        return windows_of(self.item(frame, "FrameVOILUTSequence")) if self.measured else {}

    def rescale(self, frame: int) -> tuple[float, float]:
        """Slope and intercept of the frame's values."""
        item = self.item(frame, "PixelValueTransformationSequence")
        slope, intercept = item.get("RescaleSlope"), item.get("RescaleIntercept")
        return float(1 if slope is None else slope), float(intercept or 0)


def _direction(groups: Groups, frame: int) -> str | None:
    item = first(groups.item(frame, "MRDiffusionSequence"), "DiffusionGradientDirectionSequence")
    vector = item.get("DiffusionGradientOrientation")
    return " ".join(f"{float(v):.4f}" for v in vector) if vector else None


def _frame_type(groups: Groups, frame: int) -> str | None:
    kinds = ("CT", "MR", "PET", "XAXRF", "XRay3D")
    found = [groups.item(frame, f"{kind}ImageFrameTypeSequence").get("FrameType") for kind in kinds]
    return next(("\\".join(map(str, value)) for value in found if value), None)


def _of(sequence: str, keyword: str) -> Callable[[Groups, int], Scalar]:
    def value(groups: Groups, frame: int) -> Scalar:
        found = groups.item(frame, sequence).get(keyword)
        return None if found is None else float(found)

    return value


_APART: dict[str, Callable[[Groups, int], Scalar]] = {
    "frame_type": _frame_type,
    "temporal_position": _of("FrameContentSequence", "TemporalPositionIndex"),
    "b_value": _of("MRDiffusionSequence", "DiffusionBValue"),
    "gradient_direction": _direction,
    "echo_time_ms": _of("MREchoSequence", "EffectiveEchoTime"),
    "cardiac_phase_percent": _of("CardiacSynchronizationSequence", "NominalPercentageOfCardiacPhase"),
    "cardiac_delay_ms": _of("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    "respiratory_phase_percent": _of("RespiratorySynchronizationSequence", "NominalPercentageOfRespiratoryPhase"),
}
"""What tells apart images at one place, the more usual first."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Frames that make up one image or volume, and what they have apart from the object's other stacks, or of their own."""

    slices: tuple[stack.Slice, ...]
    apart: dict[str, Scalar]


def _slices(dataset: Any, groups: Groups, path: Path) -> list[stack.Slice] | None:
    """Each frame's plane; None where no frame has one."""
    planes = [groups.plane(frame) for frame in range(frames(dataset))]
    if not any(planes):
        return None
    size, found = (int(dataset.Rows), int(dataset.Columns)), []
    for frame, plane in enumerate(planes):
        spacing = groups.spacing(frame)
        if plane is None or spacing is None:
            raise RecordError(
                f"frame {frame + 1} without spacing, position or orientation",
                "the plane and pixel measures of each frame (PS3.3 C.7.6.16.2)", "export it again",
            )  # fmt: skip
        found.append(stack.Slice(path, size, spacing, *plane, frame=frame))
    return found


def _stacks(slices: Sequence[stack.Slice], groups: Groups) -> list[Stack]:
    """The stacks, in the order of the first frame of each: by StackID, then by what tells apart images at one place."""
    names = [str(groups.item(s.frame, "FrameContentSequence").get("StackID") or "") for s in slices]
    keys: list[tuple[Scalar, ...]] = [(name,) for name in names]
    told = ["stack"] if len(set(names)) > 1 else []
    place = [(*np.round(s.position, 2), *np.round(s.cosines.reshape(-1), 3)) for s in slices]
    for name, value in _APART.items():
        crowds: dict[tuple[Any, ...], set[Scalar]] = {}
        values = [value(groups, s.frame) for s in slices]
        for where, key, one in zip(place, keys, values, strict=True):
            crowds.setdefault((where, key), set()).add(one)
        if any(len(crowd) > 1 for crowd in crowds.values()):
            keys = [(*key, one) for key, one in zip(keys, values, strict=True)]
            told.append(name)
    members: dict[tuple[Scalar, ...], list[stack.Slice]] = {}
    for one, key in zip(slices, keys, strict=True):
        members.setdefault(key, []).append(one)
    start = 0 if "stack" in told else 1
    return [
        Stack(tuple(m), dict(zip(told, key[start:], strict=True)) | groups.windows(m[len(m) // 2].frame))
        for key, m in members.items()
    ]


def read(dataset: Any, path: Path, root: Path) -> Iterator[Record | Rejected]:
    """One record a stack (a phase, an echo, a b-value), in the order of its first frame; a clip is one video, a captured page an image.

    Frames that repeat a place or lie unlike most are set aside; where frames are missing, each unbroken run is a volume. A
    stack of slices askew or of several images at each place is set aside.
    """
    if dicom_clip.coded(dataset):
        yield from dicom_clip.read(dataset, path, root)
        return
    dicom_pixels.check(dataset)
    groups = Groups(dataset)
    dicom_pixels.check_frames(dataset)  # a header may promise any number of them
    slices = _slices(dataset, groups, path)
    if slices is None:
        yield from _placeless(dataset).read(dataset, path, root)
        return
    for _ in dicom_pixels.each(dataset):  # a truncated file shows itself now
        pass
    yield from placed(_stacks(slices, groups), record_of(dataset, path, root), path)


def _placeless(dataset: Any) -> ModuleType:
    return dicom_pages if dicom_pages.mine(dataset) else dicom_clip


def placed(stacks: Sequence[Stack], whole: Record, path: Path) -> Iterator[Record | Rejected]:
    """The records of stacks, an unbroken run each, and what is none of any.

    Args:
        whole: what the object says of all of them.
        path: the file.
    """
    for number, one in enumerate(stacks, start=1):
        several = len(stacks) > 1
        named, place = f"stack {number} of {len(stacks)}: " if several else "", [f"stack={number}"] if several else []
        try:
            runs, aside, gap = _runs(one)
        except RecordError as error:
            yield Rejected(whole.uri, named + error.found, error.expected, error.remedy)
            continue
        for left, error in aside:
            yield Rejected(whole.uri, f"frame {left.frame + 1}: {error.found}", error.expected, error.remedy)
        if gap:
            yield Rejected(whole.uri, named + gap.found, gap.expected, f"{gap.remedy}; its unbroken runs are taken")
        for run, ordered in enumerate(runs, start=1):
            more: dict[str, Scalar] = {"run": run, "runs": len(runs)} if len(runs) > 1 else {}
            fragment = "&".join([*place, f"run={run}"] if more else place)
            yield replace(
                whole,
                id=content_id(path, fragment),
                modality=Modality.VOLUME if len(ordered) > 1 else Modality.IMAGE,
                uri=f"{whole.uri}#{fragment}" if fragment else whole.uri,
                attributes={**whole.attributes, **_grid(ordered), **one.apart, **more},
            )


def _grid(ordered: Sequence[stack.Slice]) -> dict[str, Scalar]:
    first = ordered[0]
    rows: dict[str, Scalar] = {"spacing_y_mm": first.spacing[0], "spacing_x_mm": first.spacing[1]}
    if len(ordered) > 1:
        rows |= {"slices": len(ordered), "spacing_z_mm": float(np.linalg.norm(stack.step(ordered)))}
        rows |= {"tilt_deg": tilt} if (tilt := stack.tilt_deg(ordered)) else {}
        rows |= {"grid": stack.grid(ordered)}
    return rows


def _runs(one: Stack) -> tuple[list[list[stack.Slice]], stack.Aside, RecordError | None]:
    return stack.runs(one.slices) if len(one.slices) > 1 else ([list(one.slices)], [], None)


def chosen(stacks: Sequence[Stack], record: Record) -> list[stack.Slice]:
    """The slices of a record that `placed` made."""
    runs = _runs(stacks[(part_number(record.uri, "stack") or 1) - 1])[0]
    return runs[(part_number(record.uri, "run") or 1) - 1]


def load(dataset: Any, record: Record) -> Payload:
    """Of a stack array (1 z y x), of one plane (c y x) float32, to_world → mm; CT, MR and PET keep their units.

    A clip as `dicom_clip` has it, a page as `dicom_pages`.
    """
    if dicom_clip.coded(dataset):
        return dicom_clip.load(dataset)
    dicom_pixels.check(dataset)
    groups = Groups(dataset)
    slices = _slices(dataset, groups, Path(record.uri))
    if slices is None:
        return dicom_pages.load(dataset, record) if dicom_pages.mine(dataset) else dicom_clip.load(dataset)
    in_units = lambda values, frame: _in_units(values, dataset, groups, frame)
    return assembled(dataset, chosen(_stacks(slices, groups), record), in_units)


def assembled(
    dataset: Any, ordered: Sequence[stack.Slice], in_units: Callable[[np.ndarray, int], np.ndarray]
) -> Payload:
    """The payload of slices: array (1 z y x), of one (c y x), float32.

    Args:
        ordered: along the normal.
        in_units: of a frame's stored values and its number from 0, the values.
    """
    numbers = [s.frame for s in ordered]
    stored = text(dataset, "PhotometricInterpretation") != "PALETTE COLOR"
    seen = zip(numbers, dicom_pixels.each(dataset, numbers, stored), strict=True)
    if len(ordered) == 1:
        ((frame, pixels),), only = seen, ordered[0]
        image = in_units(channels_first(pixels), frame)
        return Payload(image, to_world=stack.plane(only.spacing, only.position, only.cosines))
    array = np.empty((1, len(ordered), int(dataset.Rows), int(dataset.Columns)), np.float32)
    for place, (frame, pixels) in enumerate(seen):
        array[0, place] = in_units(dicom_pixels.grey(pixels.astype(np.float32)), frame)
    return Payload(array, to_world=stack.to_world(ordered))


def _in_units(values: np.ndarray, dataset: Any, groups: Groups, frame: int) -> np.ndarray:
    slope, intercept = groups.rescale(frame)
    return dicom_pixels.upright(values, dataset) * slope + intercept
