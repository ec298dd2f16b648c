"""Segmentation overlays: the predicted and the true mask on the grid of the file that they are about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..adaptation import Adapted, open_adapted, predict_masks
from ..cohort import Cohort
from ..tasks import SegmentationTask
from ..tasks.segmentation import dice
from ..training import Run
from .discrimination import EvidenceError


@dataclass(frozen=True, slots=True)
class Overlay:
    """One slice of a test patient's image, on the source's grid.

    Args:
        patient: whose.
        picture: (y x) grey in 0..1.
        predicted, truth: (y x) labels; truth None where nobody drew it.
        classes: names of labels 1, 2 …
        dice: of each class, over the whole source volume; empty without a truth.
        slice: which along the first axis, of how many.
        aspect: height of a pixel over its width.
        split: the split's hash.
    """

    patient: str
    picture: np.ndarray
    predicted: np.ndarray
    truth: np.ndarray | None
    classes: tuple[str, ...]
    dice: tuple[float, ...]
    slice: tuple[int, int]
    aspect: float
    split: str


def overlays(
    run: Adapted | Run | str | Path,
    cohort: Cohort | None = None,
    *,
    patients: Sequence[str] | None = None,
    count: int = 3,
) -> tuple[Overlay, ...]:
    """Overlays of test patients: the first by name who have a mask, not the best ones.

    Args:
        run: adapted to a segmentation.
        cohort: where it lies now.
        patients: who; by default the test side.
        count: how many.
    Raises:
        EvidenceError: the run is not a segmentation.
    """
    adapted = run if isinstance(run, Adapted) else open_adapted(run)
    if not isinstance(adapted.task, SegmentationTask):
        raise EvidenceError(
            f"overlays of the task {adapted.name!r}, which draws no mask", "a segmentation", "give a run adapted to one"
        )
    catalogue = cohort or adapted.run.cohort()
    masks = {str(r.attributes["mask_of"]): r for r in catalogue.records() if r.attributes.get("mask_of")}
    images = [r for r in catalogue.records() if r.id in masks]
    allowed = set(patients) if patients is not None else set(adapted.run.split.test)
    chosen = sorted({r.patient for r in images} & allowed)[:count]
    classes = adapted.task.spec.classes
    found = []
    for answer in predict_masks(adapted, catalogue, patients=chosen) if chosen else []:
        source = catalogue.load(answer.record)
        array = source.array[0] if source.array.ndim == 4 else source.array
        predicted = answer.on_source if answer.on_source.ndim == 3 else answer.on_source[None]
        mask = masks.get(answer.record.id)
        truth = None if mask is None else np.rint(catalogue.load(mask).array[0]).astype(int).reshape(predicted.shape)
        at = int(((truth if truth is not None else predicted) > 0).sum(axis=(1, 2)).argmax())
        low, high = np.percentile(array, [1, 99])
        # Pixels between the slice's axes: their heights differ from their widths where the spacing does.
        own = np.linalg.norm(source.to_world[:3, :3], axis=0) if source.to_world is not None else np.ones(3)
        scores = () if truth is None else tuple(float(d) for d in dice(predicted, truth, len(classes) + 1))
        found.append(
            Overlay(
                answer.record.patient,
                np.clip((array[at] - low) / max(float(high - low), 1e-6), 0, 1),
                predicted[at],
                None if truth is None else truth[at],
                tuple(classes),
                scores,
                (at, len(array)),
                float(own[1] / own[0]),
                adapted.run.split.hash,
            )
        )
    return tuple(found)
