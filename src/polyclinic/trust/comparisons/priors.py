"""The simple baseline of boxes and points: where they lie in the training patients, laid on every record alike, as an atlas is.

Places are shares of a record's standard grid, so that records of other sizes are answered too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...harmonise.loader import Loader
from ...harmonise.shapes import overlaps
from ...inference.places import annotated, placed_by
from ...schema import Batch, Modality
from ...tasks import Detection, Keypoints, Predictions
from ...tasks.detection import SAME
from ..measures.intervals import EvidenceError


def prior(
    loader: Loader, task: str, spec: Detection | Keypoints, train: Sequence[str], test: Sequence[str]
) -> Predictions:
    """Mean boxes at their frequency, or mean points, of the training patients.

    Boxes: of the drawn ones of a class, the one that most training records have one like (an overlap above 0.3); the mean of these
    is an answer, whose score is the share of records that have one; and so on with those that are left.

    Args:
        loader: of both sides, with the task's boxes or points.
        task, spec: its name and what it asks.
        train: the patients whose boxes or points may be seen.
        test: who is asked about.
    Returns:
        as of a model.
    Raises:
        EvidenceError: nothing was drawn on the training patients' records.
    """
    modality = Modality(spec.modality)
    seen = _drawn(loader, task, spec, train)
    told = mean_boxes(seen, len(spec.classes)) if isinstance(spec, Detection) else mean_points(seen, len(spec.points))
    if not len(told):
        raise EvidenceError(
            f"a position prior for {task!r} without anything drawn on a training patient", "at least one", "label more"
        )

    def find(batch: Batch) -> list[np.ndarray]:
        return [_scaled(told, spec, shape) for shape in _shapes(batch, modality)]

    return placed_by(find, task, spec, loader, test, (modality,))


def mean_boxes(seen: Sequence[np.ndarray], classes: int) -> np.ndarray:
    """(n 2+2d) class, frequency and corners of the mean boxes, the most frequent first.

    Args:
        seen: of each record its boxes (m 1+2d): class and corners.
        classes: how many there are.
    """
    found = list[np.ndarray]()
    for kind in range(classes):
        each = [(n, row[1:]) for n, rows in enumerate(seen) for row in rows if row[0] == kind]
        owner, boxes = np.array([n for n, _ in each], int), np.array([b for _, b in each])
        while len(boxes):
            alike = overlaps(boxes, boxes) > SAME
            many = [len(np.unique(owner[row])) for row in alike]
            mine = alike[int(np.argmax(many))]
            found.append(np.r_[float(kind), max(many) / len(seen), boxes[mine].mean(0)])
            owner, boxes = owner[~mine], boxes[~mine]
    order = sorted(found, key=lambda row: -row[1])
    return np.array(order)


def mean_points(seen: Sequence[np.ndarray], points: int) -> np.ndarray:
    """(k 1+d) of each point the share of records on which it was drawn and its mean place; in the middle where it never was.

    Args:
        seen: of each record its points (k d), NaN where not drawn.
        points: k.
    """
    if not len(seen):
        return np.zeros((0, 0))
    stacked = np.stack(seen)
    found = list[np.ndarray]()
    for number in range(points):
        mine = stacked[:, number]
        known = mine[np.isfinite(mine).all(axis=1)]
        found.append(np.r_[len(known) / len(mine), known.mean(0) if len(known) else np.full(mine.shape[1], 0.5)])
    return np.array(found)


def _drawn(loader: Loader, task: str, spec: Detection | Keypoints, train: Sequence[str]) -> list[np.ndarray]:
    """Of each annotated training record what was drawn, in shares of its grid."""
    modality, found = Modality(spec.modality), list[np.ndarray]()
    there = [p for p in train if modality in loader.by_patient[p]]
    sizes = lambda batch: [np.array(shape, float) for shape in _shapes(batch, modality)]
    boxes = isinstance(spec, Detection)
    for batch in loader.each(8, there, (modality,), whole=True):
        for _, size, drawn in annotated(sizes, task, spec, loader, batch):
            head, sides = (1, np.tile(size, 2)) if boxes else (0, size)
            found.append(np.concatenate([drawn[:, :head], (drawn[:, head:] + 0.5) / sides], axis=1))
    return found


def _shapes(batch: Batch, modality: Modality) -> list[tuple[int, ...]]:
    """The grid (z y x) or (y x) of each record of a batch."""
    return [tuple(values.shape[1:]) for values in batch.payloads[modality].values]


def _scaled(told: np.ndarray, spec: Detection | Keypoints, shape: tuple[int, ...]) -> np.ndarray:
    """Answers in shares of a grid, in its samples."""
    head, times = (2, 2) if isinstance(spec, Detection) else (1, 1)
    return np.concatenate([told[:, :head], told[:, head:] * np.tile(shape, times) - 0.5], axis=1)
