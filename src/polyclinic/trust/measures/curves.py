"""Curves of detection and keypoints as the field draws them: free-response, precision by recall, points within a distance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...schema import Modality
from ...tasks import Detection, Keypoints, Predictions
from ...tasks.keypoints import share_within
from ...tasks.matching import OVERLAPS, RECALLS, STRICT, Matched, matched, precision, sensitivity
from .intervals import DRAWS, resamples

AT_MOST = 1000
"""Resamples of a band."""
ALARMS = np.exp2(np.arange(-12, 13) / 4)
"""False alarms an image, from ⅛ to 8, at which a free-response curve is kept."""
SHARES = np.linspace(0, 0.2, 41)
"""Of the longest side of the box about an image's points: up to where a point counts as correct at all."""
DISTANCES_MM = np.linspace(0, 10, 41)
Axes = Literal["froc", "precision_recall", "pck", "within_mm"]


@dataclass(frozen=True, slots=True)
class Traced:
    """A curve with its band.

    Args:
        axes: which one: `froc` sensitivity by false alarms an image, `precision_recall` precision by recall, `pck` the share of points
            within a share of their extent, `within_mm` within so many mm.
        name: of the class or the point; "" of all together.
        x, y: (m,).
        low, high: (m,) 95% of the resamples of patients at each x; NaN where there is none.
        n: patients.
        note: what counts as found.
    """

    axes: Axes
    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n: int
    note: str = ""


def traced(
    spec: Detection | Keypoints, predictions: Predictions, *, draws: int = DRAWS, seed: int = 0
) -> tuple[Traced, ...]:
    """The curves of boxes or points over the annotated images of the labelled patients; none of what is not there to find.

    Of several classes or points each one's stand after the whole.

    Args:
        spec: what was asked.
        predictions: a model's answers.
        draws: resamples, of which `AT_MOST` are drawn.
        seed: of them.
    """
    known = predictions.labelled()
    if not known.patients:
        return ()
    each = _points(spec, known) if isinstance(spec, Keypoints) else _boxes(spec, matched(known, len(spec.classes)))
    made = [_traced(*one, len(known.patients), min(draws, AT_MOST), seed) for one in each]
    return tuple(one for one in made if one is not None)


Told = tuple[Axes, str, np.ndarray, Callable[[np.ndarray], np.ndarray], str]
"""Axes, name, x, weights (r p) → (r m), note."""


def _boxes(spec: Detection, of: Matched) -> list[Told]:
    """The free-response curves, and precision by recall at the overlap that is usual in so many dimensions."""
    overlap = STRICT[0] if spec.modality == Modality.IMAGE else OVERLAPS[0]
    place, shared = "the middle of the answer lies in the drawn box", f"an overlap of {overlap:g} or more"
    found: list[Told] = [("froc", "", ALARMS, sensitivity(of, None, ALARMS.tolist()), place)]
    for kind, name in enumerate(spec.classes):
        if len(spec.classes) > 1:
            found.append(("froc", name, ALARMS, sensitivity(of, kind, ALARMS.tolist()), place))
        found.append(("precision_recall", name, RECALLS, precision(of, kind, overlap), shared))
    return found


def _points(spec: Keypoints, known: Predictions) -> list[Told]:
    """The shares of points within a share of their extent, and within mm where the files have a scale."""
    found: list[Told] = []
    names: Sequence[str] = ("", *spec.points) if len(spec.points) > 1 else ("",)
    told: tuple[tuple[Axes, np.ndarray], ...] = (("pck", SHARES), ("within_mm", DISTANCES_MM))
    for axes, x in told:
        for place, name in enumerate(names):
            column = None if not name else place - 1
            of = share_within(known, len(spec.points), x.tolist(), column, mm=axes == "within_mm")
            found.append((axes, name, x, of, ""))
    return found


def _traced(
    axes: Axes, name: str, x: np.ndarray, of: Callable[[np.ndarray], np.ndarray], note: str, n: int, draws: int, seed: int
) -> Traced | None:  # fmt: skip
    """With its band; None where it is not defined of these patients."""
    y = of(np.ones((1, n)))[0]
    if not np.isfinite(y).all():
        return None
    low = high = np.full(len(x), np.nan)
    if n > 1:
        rows = np.concatenate([of(weights) for weights in resamples(np.zeros(n, int), draws, seed)])
        rows = rows[np.isfinite(rows).all(1)]
        if len(rows) >= draws / 2:
            low, high = np.quantile(rows, [0.025, 0.975], axis=0)
            low, high = np.minimum(low, y), np.maximum(high, y)
    told = lambda values: tuple(round(float(v), 6) for v in values)
    return Traced(axes, name, told(x), told(y), told(low), told(high), n, note)
