"""Figures of detection and keypoints, with intervals by bootstrap over patients.

In two dimensions the average precisions are pycocotools' own; what every resample and three dimensions need is ours, and the
same (`tasks.matching`).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...schema import Figure, MissingExtraError, Modality
from ...tasks import Detection, Keypoints, Predictions
from ...tasks import keypoints as points
from ...tasks.matching import MOST, STRICT, measures
from .intervals import DRAWS, bootstrap

COCO = {"map_10": (0.1,), "map_50": (0.5,), "map_50_95": STRICT}
"""Name → the overlaps of which pycocotools is asked."""


def placed_figures(
    spec: Detection | Keypoints, predictions: Predictions, split: str, *, draws: int = DRAWS, seed: int = 0
) -> tuple[Figure, ...]:
    """All figures of boxes or points, over the annotated images of the labelled patients.

    Args:
        spec: what was asked.
        predictions: a model's answers.
        split: the split's hash.
    Raises:
        MissingExtraError: boxes of images need pycocotools.
    """
    known = predictions.labelled()
    if isinstance(spec, Keypoints):
        told = f"{sum(int(np.isfinite(e).sum()) for e in known.outputs)} points"
        each = points.measures(known, spec.points)
        return tuple(_figure(name, of, known, split, told, draws, seed) for name, of in each.items())
    images = sum(len(r) for r in known.records)
    told = f"{sum(len(t) for t in known.targets)} things in {images} annotated images"
    found = [_figure(n, of, known, split, told, draws, seed) for n, of in measures(known, spec.classes).items()]
    if spec.modality == Modality.IMAGE and len(known.patients):
        theirs = {name: coco(known, len(spec.classes), overlaps) for name, overlaps in COCO.items()}
        found = [replace(f, value=theirs[f.name]) if f.name in theirs else f for f in found]
    return tuple(found)


def primary(
    spec: Detection | Keypoints, predictions: Predictions, split: str, *, draws: int = DRAWS, seed: int = 0
) -> Figure:
    """The one figure by which subsets of the inputs are compared: the first of `placed_figures`."""
    known = predictions.labelled()
    each = points.measures(known, spec.points) if isinstance(spec, Keypoints) else measures(known, spec.classes)
    name, of = next(iter(each.items()))
    return _figure(name, of, known, split, "", draws, seed)


def _figure(
    name: str, of: Callable[[np.ndarray], np.ndarray], known: Predictions, split: str, told: str, draws: int, seed: int
) -> Figure:
    # A trial of an exact bound is a patient and not a thing, of which one patient may have many.
    trials = sum(bool(np.size(t)) for t in known.targets), "patients with something to find"
    made = bootstrap(
        of, np.zeros(len(known.patients), int), name=name, split=split, draws=draws, seed=seed, method="percentile",
        bounded=not name.startswith("mre_mm"), rarer=trials,
    )  # fmt: skip
    if len(known.patients) and np.isnan(made.value):
        made = replace(made, note="not defined: there is none to find")
    return replace(made, note=f"{told}; {made.note}" if told else made.note)


def coco(predictions: Predictions, classes: int, overlaps: Sequence[float] = STRICT) -> float:
    """The mean average precision of boxes in two dimensions by pycocotools; NaN where there is none to find.

    Args:
        predictions: of the labelled patients.
        classes: how many.
        overlaps: least intersections over unions, of whose average precisions it is the mean.
    Raises:
        MissingExtraError: pycocotools is not installed.
    """
    try:
        from pycocotools.coco import COCO as Set  # noqa: N811
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise MissingExtraError("pycocotools", "detection") from error
    images, truth, said = 0, list[Any](), list[Any]()
    for number, names in enumerate(predictions.records):
        for image in range(len(names)):
            images += 1
            for row in (r for r in predictions.targets[number] if r[0] == image):
                box = _box(row[2:])
                truth.append({"id": len(truth) + 1, "image_id": images, "category_id": int(row[1]), "bbox": box,
                              "area": box[2] * box[3], "iscrowd": 0})  # fmt: skip
            for row in (r for r in predictions.outputs[number] if r[0] == image):
                box = {"image_id": images, "category_id": int(row[1]), "bbox": _box(row[3:]), "score": float(row[2])}
                said.append(box)
    if not truth:
        return float("nan")
    if not said:
        return 0.0
    with contextlib.redirect_stdout(io.StringIO()):  # it talks of every step
        true: Any = Set()  # its stubs know files only
        true.dataset = {
            "images": [{"id": n + 1} for n in range(images)], "annotations": truth,
            "categories": [{"id": n} for n in range(classes)],
        }  # fmt: skip
        true.createIndex()
        made = COCOeval(true, true.loadRes(said), "bbox")
        made.params.iouThrs, made.params.maxDets = np.array(overlaps), [MOST]
        made.params.areaRng, made.params.areaRngLbl = [[0, 1e15]], ["all"]
        made.evaluate()
        made.accumulate()
    precision = made.eval["precision"]
    return float(precision[precision > -1].mean())


def _box(corners: np.ndarray) -> list[float]:
    """y, x, y, x → x, y, width, height."""
    top, left, bottom, right = corners.tolist()
    return [left, top, right - left, bottom - top]
