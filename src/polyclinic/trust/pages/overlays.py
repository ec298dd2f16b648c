"""Segmentation overlays: the predicted and the true mask on the grid of the file that they are about, as a radiologist looks at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...adaptation import Adapted, open_adapted
from ...cohort import Cohort, labels_of
from ...harmonise.geometry import nearest_axes, spacing_of
from ...harmonise.unread import UnreadError
from ...inference import predict_masks
from ...records import RecordError
from ...records.raster import luminance
from ...schema import Modality, Payload, Record
from ...tasks import Segmentation, SegmentationTask
from ...tasks.segmentation import dice
from ...training import Run
from ..measures.intervals import EvidenceError


@dataclass(frozen=True, slots=True)
class Overlay:
    """One slice of a test patient's image, on the source's grid.

    Args:
        patient: whose.
        picture: (y x) grey in 0..1.
        predicted, truth: (y x) labels; truth None where nobody drew it.
        classes: names of labels 1, 2 …
        dice: of each class, over the whole source volume; empty without a truth.
        slice: which from the feet, from 1, of how many.
        aspect: height of a pixel over its width.
        split: the split's hash.
        edges: what the picture's left, right, top and bottom are of the patient; empty where the file does not say.
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
    edges: tuple[str, ...] = ()


def overlays(
    run: Adapted | Run | str | Path,
    cohort: Cohort | None = None,
    *,
    patients: Sequence[str] | None = None,
    count: int = 3,
) -> tuple[Overlay, ...]:
    """Overlays of test patients: the first by name who have a mask and can be read, not the best ones.

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
    spec = adapted.task.spec
    masks = labels_of(catalogue.records(adapted.run.recipe.cohort.where), spec.label(adapted.name))
    allowed = set(patients) if patients is not None else set(adapted.run.split.test)
    found = list[Overlay]()
    for patient in sorted({mask.patient for mask in masks.values()} & allowed):
        if len(found) >= count:
            break
        with suppress(RecordError, UnreadError):  # the next one, then
            found += _of(adapted, catalogue, patient, masks)
    return tuple(found[:count])


def _of(adapted: Adapted, catalogue: Cohort, patient: str, masks: Mapping[str, Record]) -> list[Overlay]:
    """Of each masked record of a patient."""
    spec, found = adapted.run.recipe.tasks[adapted.name], list[Overlay]()
    assert isinstance(spec, Segmentation)
    for answer in predict_masks(adapted, catalogue, patients=[patient]):
        mask = masks.get(answer.record.id)
        if mask is None:
            continue
        source = catalogue.load(answer.record)
        drawn = np.rint(catalogue.load(mask).array[0]).astype(int)
        # A mask of an image may be at another resolution than the image; a volume's is on its grid (else it was refused).
        if drawn.shape != answer.on_source.shape:
            drawn = nearest(drawn, answer.on_source.shape)
        volume = spec.modality is Modality.VOLUME
        found.append(
            _overlay(answer.record.patient, source, answer.on_source, drawn, spec.classes, volume, adapted.run)
        )
    return found


def _overlay(
    patient: str,
    source: Payload,
    predicted: np.ndarray,
    truth: np.ndarray,
    classes: tuple[str, ...],
    volume: bool,
    run: Run,
) -> Overlay:
    """The slice with most of the true mask."""
    scores = tuple(float(d) for d in dice(predicted, truth, len(classes) + 1))
    shown = source.array[0] if volume else luminance(source.array)
    grey, aspect, edges = upright(shown, source.to_world, volume)
    answer, drawn = (upright(labels, source.to_world, volume)[0] for labels in (predicted, truth))
    at = int((drawn > 0).sum(axis=(1, 2)).argmax())
    low, high = np.percentile(np.nan_to_num(grey), [1, 99])
    picture = np.clip((np.nan_to_num(grey[at]) - low) / max(float(high - low), 1e-6), 0, 1)
    return Overlay(
        patient, picture, answer[at], drawn[at], classes, scores, (at + 1, len(grey)), aspect, run.split.hash, edges
    )


def upright(array: np.ndarray, to_world: np.ndarray | None, volume: bool) -> tuple[np.ndarray, float, tuple[str, ...]]:
    """A volume (z y x) as axial slices from feet to head, the patient's right on the left; an image (y x) as one slice, as it is.

    Returns:
        (n y x); the height of a pixel over its width; what left, right, top and bottom are.
    """
    own = spacing_of(to_world) if to_world is not None else np.ones(3)
    if not volume or to_world is None:
        return (array if array.ndim == 3 else array[None]), float(own[1] / own[0]), ()
    order, sign = nearest_axes(to_world)
    turned = array.transpose(2 - order[2], 2 - order[1], 2 - order[0])[:: sign[2], :: sign[1], :: sign[0]]
    return turned, float(own[order[1]] / own[order[0]]), ("R", "L", "A", "P")


def nearest(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Labels at another resolution, each sample the nearest one."""
    places = [np.arange(n) * m // n for n, m in zip(shape, labels.shape, strict=True)]
    return labels[np.ix_(*places)]
