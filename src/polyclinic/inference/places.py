"""Boxes and points: beside what people drew, and on the grid of the file that they are about, in pixels and mm."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from ..adaptation.adapted import Adapted
from ..cohort import Cohort
from ..harmonise import points_back
from ..harmonise.geometry import spacing_of
from ..harmonise.loader import Loader
from ..schema import Batch, Modality, Payload, Record
from ..tasks import Answer, Detection, DetectionTask, Keypoints, KeypointsTask, Predictions, Thing

LINE = 1 / 256
"""How thick an outline is, of the longest side of the file's plane; a pixel at least."""


Find = Callable[[Batch], list[np.ndarray]]
"""A batch → of each of its records what is found in it on the standard grid, as of `DetectionTask.found`."""


def placed(adapted: Adapted, loader: Loader, patients: Sequence[str], reads: Sequence[Modality]) -> Predictions:
    """What is found in the annotated images of each patient, beside what people drew there; see the task for the arrays."""
    task = adapted.task
    assert isinstance(task, DetectionTask | KeypointsTask)
    return placed_by(
        lambda batch: task.found(adapted.model, batch),
        adapted.name,
        task.spec,
        loader,
        patients,
        reads,
        adapted.together(8),
    )


def placed_by(
    find: Find, name: str, spec: Detection | Keypoints, loader: Loader, patients: Sequence[str], reads: Sequence[Modality],
    together: int = 8,
) -> Predictions:  # fmt: skip
    """`placed`, by whatever finds.

    Args:
        find: what is found in the records of a batch.
        name, spec: of the task.
        loader: of the patients, with the task's boxes or points.
        patients: who.
        reads: the modalities that may be seen.
        together: patients a batch.
    """
    modality, about = Modality(spec.modality), _boxes if isinstance(spec, Detection) else _errors
    there = [p for p in patients if modality in loader.by_patient[p]] if modality in reads else []
    said, true, ids = ({p: [] for p in there} for _ in range(3))
    has: dict[str, tuple[Modality, ...]] = {}  # who could be read
    for batch in loader.each(together, there, reads, whole=True):
        owners = {m: set(r.patient.tolist()) for m, r in batch.payloads.items()}
        has |= {p: tuple(m for m in owners if n in owners[m]) for n, p in enumerate(batch.patients)}
        for record, one, drawn in annotated(find, name, spec, loader, batch):
            patient = record.patient
            answer, truth = about(one, drawn, loader.payload(record), len(ids[patient]))
            said[patient].append(answer)
            true[patient].append(truth)
            ids[patient].append(record.id)
    there = list(has)
    d = 2 if modality is Modality.IMAGE else 3
    widths = (3 + 2 * d, 2 + 2 * d) if isinstance(spec, Detection) else (len(spec.points), 2)
    outputs, targets = (
        _rows([np.concatenate([np.zeros((0, width)), *each[p]]) for p in there])
        for width, each in zip(widths, (said, true), strict=True)
    )
    return Predictions(
        name, tuple(there), outputs, targets, np.array([bool(ids[p]) for p in there], bool),
        tuple(has[p] for p in there), tuple(tuple(ids[p]) for p in there),
    )  # fmt: skip


def annotated(
    find: Find, name: str, spec: Detection | Keypoints, loader: Loader, batch: Batch
) -> Iterator[tuple[Record, np.ndarray, np.ndarray]]:
    """The annotated records of a batch: each with what is found in it and what was drawn, on the standard grid."""
    modality = Modality(spec.modality)
    target, ragged = batch.targets[name], batch.payloads[modality]
    records = {r.id: r for p in batch.patients for r in loader.by_patient[p][modality]}
    for number, one in enumerate(find(batch)):
        drawn = target.values[number].double().numpy()
        if not bool(target.mask[number]) or (isinstance(spec, Keypoints) and not np.isfinite(drawn).any()):
            continue
        yield records[ragged.ids[number]], one, drawn


@dataclass(frozen=True, slots=True)
class Beside:
    """What is told of an annotated record and what people drew there, both on the grid of its file.

    Args:
        record: which.
        told: of boxes those above their class's threshold, the surest first; of points each one's place.
        drawn: whose score says nothing.
    """

    record: Record
    told: tuple[Thing, ...]
    drawn: tuple[Thing, ...]


def beside(adapted: Adapted, cohort: Cohort, patients: Sequence[str]) -> Iterator[Beside]:
    """What is told of each annotated record of some patients, beside what people drew there.

    Args:
        adapted: to a detection or to keypoints.
        cohort: where it lies now.
        patients: who.
    """
    task, modality = adapted.task, Modality(adapted.task.spec.modality)
    assert isinstance(task, DetectionTask | KeypointsTask)
    loader = adapted.run.loader(cohort, tuple(patients), (adapted.name,))
    there = [p for p in loader.patients if modality in loader.by_patient[p]]
    find = lambda batch: task.found(adapted.model, batch)
    for batch in loader.each(adapted.together(8), there, adapted.inputs, whole=True):
        for record, one, drawn in annotated(find, adapted.name, task.spec, loader, batch):
            payload = loader.payload(record)
            if isinstance(task, KeypointsTask):
                rows = [(n, row, row) for n, row in enumerate(drawn) if np.isfinite(row).all()]
            else:
                rows = [(int(r[0]), r[1 : 1 + task.d], r[1 + task.d :]) for r in drawn]
            true = [thing_of(names_of(task)[kind], 1.0, low, high, payload) for kind, low, high in rows]
            yield Beside(record, tuple(things(task, one, payload)), tuple(t for t in true if t is not None))


def _rows(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """(p,) of arrays, which may be as long as each other."""
    out = np.empty(len(arrays), object)
    for number, array in enumerate(arrays):
        out[number] = array
    return out


def _boxes(found: np.ndarray, drawn: np.ndarray, payload: Payload, image: int) -> tuple[np.ndarray, np.ndarray]:
    """Answers (n 3+2d) and truth (t 2+2d) of an image, in mm along the standard grid's axes."""
    mm = np.tile(_steps_mm(payload), 2)
    return _numbered(image, found[:, :2], found[:, 2:] * mm), _numbered(image, drawn[:, :1], drawn[:, 1:] * mm)


def _errors(found: np.ndarray, drawn: np.ndarray, payload: Payload, image: int) -> tuple[np.ndarray, np.ndarray]:
    """Errors (1 k) of an image in mm; (1 2) the extent of the drawn points in mm, and 1 where mm are known, else NaN."""
    mm = _steps_mm(payload)
    known = (drawn * mm)[np.isfinite(drawn).all(1)]
    longest = float(np.ptp(known, axis=0).max()) if len(known) > 1 else 0.0
    told = [longest if longest > 0 else np.nan, np.nan if payload.nominal else 1.0]
    return np.linalg.norm((found[:, 1:] - drawn) * mm, axis=1)[None], np.array([told])


def _numbered(image: int, about: np.ndarray, corners: np.ndarray) -> np.ndarray:
    return np.concatenate([np.full((len(about), 1), float(image)), about, corners], axis=1)


def _steps_mm(payload: Payload) -> np.ndarray:
    """(d,) mm a sample of the standard grid along (z y x) or (y x)."""
    assert payload.to_world is not None
    return spacing_of(payload.to_world)[: payload.array.ndim - 1][::-1]


def names_of(task: DetectionTask | KeypointsTask) -> tuple[str, ...]:
    """What its boxes or points are called."""
    return task.spec.points if isinstance(task, KeypointsTask) else task.spec.classes


def things(task: DetectionTask | KeypointsTask, found: np.ndarray, payload: Payload) -> list[Thing]:
    """What was found in a record, on the grid of its file: of boxes those above their class's threshold, the surest first.

    Args:
        task: that found it.
        found: of `task.found`, on the standard grid.
        payload: harmonised, which knows the way back.
    """
    if isinstance(task, KeypointsTask):
        rows = [(n, row[0], row[1:], row[1:]) for n, row in enumerate(found)]
    else:
        cuts, d = task.cuts.tolist(), task.d
        rows = [(int(r[0]), r[1], r[2 : 2 + d], r[2 + d :]) for r in found if r[1] >= cuts[int(r[0])]]
    names = names_of(task)
    each = [thing_of(names[kind], score, low, high, payload) for kind, score, low, high in rows]
    return [thing for thing in each if thing is not None]


def thing_of(name: str, score: float, low: np.ndarray, high: np.ndarray, payload: Payload) -> Thing | None:
    """A box or point (z y x) of the standard grid on its file's; None where it lies beyond that."""
    source, d = payload.history[0], len(low)
    corner = np.array([[(low, high)[side][axis] for axis, side in enumerate(c)] for c in product((0, 1), repeat=d)])
    flat = np.zeros((len(corner), 3))
    flat[:, :d] = corner[:, ::-1]
    back, size = points_back(flat, payload.history)[:, :d] + 0.5, np.array(source.shape[::-1][:d])
    first, last = np.clip(back.min(0), 0, size), np.clip(back.max(0), 0, size)
    point = bool((low == high).all())
    if not point and (last - first).min() <= 0:
        return None
    world = None if payload.nominal or source.to_world is None else np.array(source.to_world)
    sides = None if world is None or point else tuple(((last - first) * spacing_of(world)[:d]).tolist())
    centre = None
    if world is not None and d == 3:
        centre = tuple((world @ np.append((first + last) / 2 - 0.5, 1.0))[:3].tolist())
    return Thing(name, float(score), tuple(first.tolist()), tuple(last.tolist()), sides, centre)


def present(
    task: DetectionTask | KeypointsTask, found: np.ndarray, payload: Payload, used: tuple[Modality, ...]
) -> Answer:
    """What is told of a record, with outlines on its file's grid.

    `extra` has `things`, and `structures`, how many there are of each name.
    """
    told = things(task, found, payload)
    names = names_of(task)
    counts = {f"{name}_found": sum(t.name == name for t in told) for name in names}
    answer = task.present(told, used)
    overlay = outlines(told, names, payload.history[0].shape)
    return Answer(answer.headline, answer.values, used, overlay, {"things": told, "structures": counts})


def outlines(told: Sequence[Thing], names: Sequence[str], shape: Sequence[int]) -> np.ndarray:
    """(z y x) or (y x) label numbers: the edges of boxes in each plane that they cross, and crosses on points; the surest on top."""
    out = np.zeros(tuple(shape), np.int64)
    thick = max(1, round(LINE * max(shape[-2:])))
    for thing in reversed(told):
        number = names.index(thing.name) + 1
        if thing.low == thing.high:
            middle = [min(max(int(c), 0), n - 1) for c, n in zip(thing.low[::-1], shape, strict=True)]
            arm = 3 * thick
            for axis in (-1, -2):  # in its plane
                spans = [slice(max(0, m - (thick - 1) // 2), m + thick // 2 + 1) for m in middle]
                spans[: len(shape) - 2] = [slice(m, m + 1) for m in middle[: len(shape) - 2]]
                spans[axis] = slice(max(0, middle[axis] - arm), middle[axis] + arm + 1)
                out[tuple(spans)] = number
            continue
        low = [int(np.floor(c)) for c in thing.low[::-1]]
        high = [max(a + 1, int(np.ceil(c))) for a, c in zip(low, thing.high[::-1], strict=True)]
        part = out[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        part[..., :thick, :], part[..., -thick:, :] = number, number
        part[..., :thick], part[..., -thick:] = number, number
    return out


def numbers(told: Sequence[Thing], names: Sequence[str]) -> list[float]:
    """Things as one row of numbers: of each its name's place from 0, the score, and both corners x, y (, z) in pixels or voxels."""
    return [float(v) for t in told for v in (names.index(t.name), t.score, *t.low, *t.high)]
