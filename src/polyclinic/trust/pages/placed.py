"""Boxes and points beside what people drew, on pictures of the test patients who came out best, in the middle and worst."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ...adaptation import Adapted, open_adapted
from ...cohort import Cohort
from ...harmonise.geometry import nearest_axes, spacing_of
from ...harmonise.shapes import overlaps
from ...harmonise.unread import UnreadRecordError, noted, reading
from ...inference.places import Beside, beside, names_of
from ...records.raster import luminance
from ...schema import Modality, Payload
from ...tasks import DetectionTask, KeypointsTask, Thing
from ...tasks.matching import FALSE, HIT, by_place
from ...training import Run
from ..measures.intervals import EvidenceError
from .overlays import upright

Rank = Literal["best", "middle", "worst"]
RANKS: tuple[Rank, ...] = ("best", "middle", "worst")


@dataclass(frozen=True, slots=True)
class Mark:
    """A box or a point on a picture.

    Args:
        label: of its name, from 1.
        low, high: corners (x y) in the picture's pixels, 0 being its first corner; of a point the same twice.
        score: of what was told; 1 of what was drawn.
        alarm: nothing of its name was drawn there.
        here: it is on this slice; of boxes the others are left out.
    """

    label: int
    low: tuple[float, float]
    high: tuple[float, float]
    score: float = 1.0
    alarm: bool = False
    here: bool = True


@dataclass(frozen=True, slots=True)
class Placed:
    """A test patient's picture with what was told and what was drawn.

    Args:
        task, kind: of the run, `detection` or `keypoints`.
        patient: whose.
        rank: how this patient came out among the annotated test patients.
        of: how many those are.
        picture: (y x) grey in 0..1.
        names: of labels 1, 2 …
        told, drawn: on the picture.
        found, missed, alarms: of the whole record: drawn boxes that are found and that are not, and answers where nothing was drawn.
        apart: of points, their mean distance from where they were drawn; NaN of boxes.
        unit: of `apart`.
        slice: which from the feet, from 1, of how many.
        aspect: height of a pixel over its width.
        split: the split's hash.
        edges: what the picture's left, right, top and bottom are of the patient; empty where the file does not say.
    """

    task: str
    kind: str
    patient: str
    rank: Rank
    of: int
    picture: np.ndarray
    names: tuple[str, ...]
    told: tuple[Mark, ...]
    drawn: tuple[Mark, ...]
    found: int
    missed: int
    alarms: int
    apart: float
    unit: str
    slice: tuple[int, int]
    aspect: float
    split: str
    edges: tuple[str, ...] = ()


def placed_pictures(
    run: Adapted | Run | str | Path, cohort: Cohort | None = None, *, patients: Sequence[str] | None = None
) -> tuple[Placed, ...]:
    """The test patients who came out best, in the middle and worst, of whom there is something to find or something was told.

    Boxes are ranked by their F1 and then by how far the found ones overlap, points by their mean distance. Of a patient with several
    annotated records the first counts. For one whose file can no longer be read the next one is shown.

    Args:
        run: adapted to a detection or to keypoints.
        cohort: where it lies now.
        patients: who; by default the test side.
    Raises:
        EvidenceError: the run is of another task.
    """
    adapted = run if isinstance(run, Adapted) else open_adapted(run)
    if not isinstance(adapted.task, DetectionTask | KeypointsTask):
        raise EvidenceError(
            f"boxes or points of the task {adapted.name!r}, which places none", "a detection or keypoints",
            "give a run adapted to one",
        )  # fmt: skip
    catalogue = cohort or adapted.run.cohort()
    first: dict[str, Beside] = {}
    for one in beside(adapted, catalogue, sorted(patients if patients is not None else adapted.run.split.test)):
        if one.told or one.drawn:
            first.setdefault(one.record.patient, one)
    names, boxes = names_of(adapted.task), isinstance(adapted.task, DetectionTask)
    worth = _of_boxes if boxes else _of_points
    order = sorted(first.values(), key=lambda one: (*worth(one), one.record.patient))
    of = len(order)
    while order:
        chosen = dict.fromkeys([0, len(order) // 2, len(order) - 1])
        ranks = RANKS if len(order) > 2 else (RANKS[0], RANKS[2])
        each = zip((order[at] for at in chosen), ranks, strict=False)
        try:
            return tuple(_placed(adapted, catalogue, one, rank, of, names) for one, rank in each)
        except UnreadRecordError as error:
            noted(adapted.run.unread, error.aside)
            order = [one for one in order if one.record.id != error.aside.record]
    return ()


def judged(one: Beside) -> tuple[np.ndarray, int]:
    """Of each told box what it is, as the free-response curve counts, and how many drawn ones are not found."""
    out, missed = np.full(len(one.told), FALSE), 0
    for name in {t.name for t in (*one.told, *one.drawn)}:
        mine = [n for n, t in enumerate(one.told) if t.name == name]
        said, true = _corners([one.told[n] for n in mine]), _corners([t for t in one.drawn if t.name == name])
        if len(true) and len(said):  # else there is no second axis
            out[mine] = by_place(said, true)
        missed += len(true) - int((out[mine] == HIT).sum())
    return out, missed


def _corners(things: Sequence[Thing]) -> np.ndarray:
    """(n 2d)"""
    return np.array([[*t.low, *t.high] for t in things])


def _of_boxes(one: Beside) -> tuple[float, ...]:
    """What ranks boxes, the best first."""
    each, missed = judged(one)
    hits, alarms = int((each == HIT).sum()), int((each == FALSE).sum())
    found = [
        max(float(overlaps(_corners([t]), _corners([d]))[0, 0]) for d in one.drawn if d.name == t.name)
        for t, is_ in zip(one.told, each, strict=True)
        if is_ == HIT
    ]
    return -2 * hits / (2 * hits + alarms + missed), -float(np.mean(found)) if found else 0.0, float(alarms)


def _of_points(one: Beside) -> tuple[float, ...]:
    """What ranks points, the best first: their distance in shares of the drawn ones' extent, as PCK counts; of one point in samples."""
    drawn = {d.name: np.array(d.low) for d in one.drawn}
    apart = [float(np.linalg.norm(np.array(t.low) - drawn[t.name])) for t in one.told if t.name in drawn]
    span = float(np.ptp(list(drawn.values()), axis=0).max()) if len(drawn) > 1 else 1.0
    return (float(np.mean(apart)) / max(span, 1e-6) if apart else np.inf,)


def _placed(adapted: Adapted, cohort: Cohort, one: Beside, rank: Rank, of: int, names: tuple[str, ...]) -> Placed:
    volume = adapted.task.spec.modality == Modality.VOLUME
    with reading(one.record):
        source = cohort.load(one.record)
    shown = source.array[0] if volume else luminance(source.array)
    grey, aspect, edges = upright(shown, source.to_world, volume)
    told, drawn = ([turned(t, source, volume) for t in things] for things in (one.told, one.drawn))
    surest = told[int(np.argmax([t.score for t in one.told]))] if told else None
    at = _slice(surest, drawn, len(grey))
    boxes = isinstance(adapted.task, DetectionTask)
    each, missed = judged(one) if boxes else (np.full(len(told), HIT), 0)
    low, high = np.percentile(np.nan_to_num(grey), [1, 99])
    apart, unit = (np.nan, "") if boxes else _apart(one, source)
    label = lambda thing: names.index(thing.name) + 1
    return Placed(
        adapted.name, adapted.task.spec.kind, one.record.patient, rank, of,
        np.clip((np.nan_to_num(grey[at]) - low) / max(float(high - low), 1e-6), 0, 1), names,
        _on(at, [(label(t), t.score, is_ == FALSE, where) for t, is_, where in zip(one.told, each, told, strict=True)], boxes),
        _on(at, [(label(t), 1.0, False, where) for t, where in zip(one.drawn, drawn, strict=True)], boxes),
        int((each == HIT).sum()) if boxes else 0, missed, int((each == FALSE).sum()), apart, unit,
        (at + 1, len(grey)), aspect, adapted.run.split.hash, edges,
    )  # fmt: skip


def turned(thing: Thing, source: Payload, volume: bool) -> np.ndarray:
    """(2 3) both corners x, y and slice of a thing on the picture that `upright` makes of its file."""
    corners = np.zeros((2, 3))
    corners[:, : len(thing.low)] = thing.low, thing.high
    if not volume or source.to_world is None:
        return corners
    order, sign = nearest_axes(source.to_world)
    size = np.array(source.array[0].shape[::-1])[list(order)]
    there = corners[:, list(order)]
    flipped = np.where(np.array(sign) > 0, there, size - there)
    return np.sort(flipped, axis=0)


def _slice(surest: np.ndarray | None, drawn: Sequence[np.ndarray], slices: int) -> int:
    """The slice through the most likely thing; where nothing was told through the largest drawn one."""
    best = surest if surest is not None else max(drawn, key=lambda c: float(np.diff(c, axis=0).prod()))
    return min(int(best[:, 2].mean()), slices - 1)


def _on(at: int, things: Sequence[tuple[int, float, bool, np.ndarray]], boxes: bool) -> tuple[Mark, ...]:
    """What is drawn on slice `at`: the boxes that it crosses, and all points."""
    marks = []
    for label, score, alarm, ((x0, y0, z0), (x1, y1, z1)) in things:
        here = bool(z0 < at + 1 and z1 > at) or z0 == z1 == 0 or (z0 == z1 and int(z0) == at)
        if here or not boxes:
            marks.append(Mark(label, (float(x0), float(y0)), (float(x1), float(y1)), float(score), bool(alarm), here))
    return tuple(marks)


def _apart(one: Beside, source: Payload) -> tuple[float, str]:
    """The mean distance of points from where they were drawn: in mm where the file has a scale, else in its samples."""
    scaled = source.to_world is not None and not source.nominal
    drawn = {d.name: np.array(d.low) for d in one.drawn}
    steps = spacing_of(source.to_world)[: len(one.told[0].low)] if scaled and source.to_world is not None else 1.0
    each = [float(np.linalg.norm((np.array(t.low) - drawn[t.name]) * steps)) for t in one.told if t.name in drawn]
    return (float(np.mean(each)) if each else np.nan), "mm" if scaled else "px" if len(
        one.told[0].low
    ) == 2 else "voxels"
