"""Which answer found which truth, and what that is worth: average precision and the free-response curve, of any weights of patients.

Boxes are along any axes, in two dimensions or three; a class finds its own things only. Two ways to find a thing:

- by overlap, for average precision: the truth of its class that it overlaps most, if enough; each truth once, and whoever comes
  second is a false alarm (COCO; Lin et al. 2014);
- by place, for the free-response curve: its middle lies in the true box; who finds it again is neither a hit nor a false alarm
  (LUNA16, Setio et al. 2017, 2.3; CAMELYON16, Ehteshami Bejnordi et al. 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..harmonise.shapes import overlaps
from .task import Predictions

RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False alarms an image at which LUNA16 asks for the sensitivity; their mean is its score."""
MOST = 100
"""Answers of a class and an image that count, the surest first (COCO's maxDets)."""
RECALLS = np.linspace(0, 1, 101)
STRICT = tuple(round(0.5 + 0.05 * n, 2) for n in range(10))
"""COCO's overlaps: from 0.5 to 0.95."""
OVERLAPS = (0.1, *STRICT)
"""And the one of 3-D detection (Baumgartner et al. 2021, nnDetection)."""
AT_ONCE = 1 << 22
"""Numbers of resamples times answers that are held at a time."""
FALSE, HIT, AGAIN = 0, 1, -1


@dataclass(frozen=True, slots=True)
class Matched:
    """All answers about all labelled patients, and what each found.

    Args:
        patient, kind, score: (n,) of each answer; in the order of the patients and their images.
        overlap: (n o) bool, whether it found a thing at each of `OVERLAPS`.
        place: (n,) `HIT`, `FALSE`, or `AGAIN` where another had found it before.
        things: (p k) how many of each class each patient has.
        images: (p,) how many of a patient's images are annotated.
    """

    patient: np.ndarray
    kind: np.ndarray
    score: np.ndarray
    overlap: np.ndarray
    place: np.ndarray
    things: np.ndarray
    images: np.ndarray


def matched(predictions: Predictions, classes: int) -> Matched:
    """What the answers about labelled patients found.

    Args:
        predictions: of a detection; see `DetectionTask`.
        classes: k.
    """
    known = predictions.labelled()
    rows: list[tuple[np.ndarray, ...]] = []
    things, images = np.zeros((len(known.patients), classes)), np.array([len(r) for r in known.records], float)
    for number, (said, true) in enumerate(zip(known.outputs, known.targets, strict=True)):
        for image in range(len(known.records[number])):
            for kind in range(classes):
                mine, theirs = said[(said[:, :2] == (image, kind)).all(1)], true[(true[:, :2] == (image, kind)).all(1)]
                mine = mine[np.argsort(-mine[:, 2], kind="stable")][:MOST]
                things[number, kind] += len(theirs)
                overlap, place = by_overlap(mine[:, 3:], theirs[:, 2:]), by_place(mine[:, 3:], theirs[:, 2:])
                whose = np.full((len(mine), 2), (number, kind))
                rows.append((whose[:, 0], whose[:, 1], mine[:, 2], overlap, place))
    empty = (np.zeros(0, int), np.zeros(0, int), np.zeros(0), np.zeros((0, len(OVERLAPS)), bool), np.zeros(0, int))
    patient, kind, score, overlap, place = (np.concatenate(parts) for parts in zip(empty, *rows, strict=True))
    return Matched(patient, kind, score, overlap, place, things, images)


def by_overlap(found: np.ndarray, truth: np.ndarray, least: Sequence[float] = OVERLAPS) -> np.ndarray:
    """Whether each answer (n 2d), the surest first, finds a truth (m 2d) at each least overlap: (n o) bool."""
    hit, each = np.zeros((len(found), len(least)), bool), overlaps(found, truth)
    for column, enough in enumerate(least):
        free = np.ones(len(truth), bool)
        for row, shared in enumerate(each):
            there = np.where(free, shared, -1.0)
            if len(there) and there.max() >= enough:
                best = len(there) - 1 - int(there[::-1].argmax())  # of as large overlaps the last, as COCO's
                free[best], hit[row, column] = False, True
    return hit


def by_place(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """What each answer (n 2d), the surest first, is by its middle: (n,) `HIT`, `AGAIN` or `FALSE`.

    In several true boxes it finds the one that nobody had found, and of several such the one whose middle is nearest.
    """
    d = found.shape[1] // 2
    middle = lambda boxes: (boxes[:, :d] + boxes[:, d:]) / 2
    inside = ((middle(found)[:, None] >= truth[None, :, :d]) & (middle(found)[:, None] <= truth[None, :, d:])).all(-1)
    apart = ((middle(found)[:, None] - middle(truth)[None]) ** 2).sum(-1)
    out, free = np.full(len(found), FALSE), np.ones(len(truth), bool)
    for row in np.flatnonzero(inside.any(1)):
        mine = inside[row] & free
        out[row] = HIT if mine.any() else AGAIN
        if mine.any():
            free[int(np.where(mine, apart[row], np.inf).argmin())] = False
    return out


def precision(of: Matched, kind: int, overlap: float) -> Callable[[np.ndarray], np.ndarray]:
    """The best precision at each of `RECALLS` or higher, of a class, as COCO interpolates it.

    Args:
        of: all answers.
        kind: the class.
        overlap: one of `OVERLAPS`.
    Returns:
        weights (r p) of the patients → (r 101), NaN where they have no such thing.
    """
    mine = np.flatnonzero(of.kind == kind)
    order = mine[np.argsort(-of.score[mine], kind="stable")]
    hit, patient = of.overlap[order, OVERLAPS.index(overlap)].astype(float), of.patient[order]

    def curve(weights: np.ndarray) -> np.ndarray:
        things = weights @ of.things[:, kind]
        if not len(order):
            return np.where(things[:, None] > 0, 0.0, np.full((1, len(RECALLS)), np.nan))
        each = weights[:, patient]
        hits = np.cumsum(each * hit, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            recall, precise = hits / things[:, None], hits / (np.cumsum(each, axis=1) + np.spacing(1))
        best = np.maximum.accumulate(precise[:, ::-1], axis=1)[:, ::-1]
        best = np.concatenate([best, np.zeros((len(best), 1))], axis=1)
        at = [np.searchsorted(row, RECALLS, side="left") for row in recall]
        return np.where(things[:, None] > 0, np.take_along_axis(best, np.array(at), axis=1), np.nan)

    return _in_parts(curve, len(order))


def average_precision(of: Matched, kind: int, overlap: float) -> Callable[[np.ndarray], np.ndarray]:
    """The area under precision and recall of a class, as COCO has it: the mean of `precision`; (r,), NaN where there is no such thing."""
    curve = precision(of, kind, overlap)
    return lambda weights: curve(weights).mean(1)


def mean_average_precision(of: Matched, overlaps_: Sequence[float]) -> Callable[[np.ndarray], np.ndarray]:
    """The mean over the overlaps and over the classes of which there are things; as `average_precision`."""
    each = [average_precision(of, kind, o) for kind in range(of.things.shape[1]) for o in overlaps_]

    def mean(weights: np.ndarray) -> np.ndarray:
        found = np.array([one(weights) for one in each])
        there = np.isfinite(found)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(there, found, 0.0).sum(0) / there.sum(0)

    return mean


def sensitivity(
    of: Matched, kind: int | None = None, rates: Sequence[float] = RATES
) -> Callable[[np.ndarray], np.ndarray]:
    """How many of the things are found, at each of some rates of false alarms an image; between two thresholds on the line between them.

    Answers of one score are taken together; more alarms than there are change nothing.

    Args:
        of: all answers.
        kind: a class; None for all, of which the alarms are counted together.
        rates: m of them, ascending.
    Returns:
        weights (r p) of the patients → (r m), NaN where they have no such thing.
    """
    mine = np.flatnonzero((of.place != AGAIN) & ((of.kind == kind) if kind is not None else True))
    order = mine[np.argsort(-of.score[mine], kind="stable")]
    hit, patient, score = (of.place[order] == HIT).astype(float), of.patient[order], of.score[order]
    ends = np.flatnonzero(np.r_[np.diff(score) != 0, np.ones(min(1, len(score)), bool)])
    things = of.things.sum(1) if kind is None else of.things[:, kind]

    def curve(weights: np.ndarray) -> np.ndarray:
        each, first = weights[:, patient], np.zeros((len(weights), 1))
        with np.errstate(invalid="ignore", divide="ignore"):
            hits = np.cumsum(each * hit, axis=1)[:, ends] / (weights @ things)[:, None]
            alarms = np.cumsum(each * (1 - hit), axis=1)[:, ends] / (weights @ of.images)[:, None]
        hits, alarms = np.concatenate([first, hits], axis=1), np.concatenate([first, alarms], axis=1)
        found = np.array([_between(x, y, rates) for x, y in zip(alarms, hits, strict=True)]).reshape(-1, len(rates))
        return np.where((weights @ things > 0)[:, None], found, np.nan)

    return _in_parts(curve, len(order))


def measures(predictions: Predictions, classes: Sequence[str]) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Every figure of a detection by its name, each of weights (r p) of the labelled patients → (r,).

    `froc`, LUNA16's score; `sensitivity_at_…` so many false alarms an image; `map_10`, `map_50` and `map_50_95`, the mean average
    precision at an overlap of 0.1, of 0.5, and over COCO's; of several classes also each one's `froc_…` and `ap_50_…`.
    """
    of = matched(predictions, len(classes))
    whole = sensitivity(of)
    found: dict[str, Callable[[np.ndarray], np.ndarray]] = {"froc": lambda w: whole(w).mean(1)}
    for column, rate in enumerate(RATES):
        found[f"sensitivity_at_{rate:g}"] = lambda w, column=column: whole(w)[:, column]
    found |= {"map_10": mean_average_precision(of, OVERLAPS[:1]), "map_50": mean_average_precision(of, STRICT[:1])}
    found["map_50_95"] = mean_average_precision(of, STRICT)
    for kind, name in enumerate(classes) if len(classes) > 1 else ():
        own = sensitivity(of, kind)
        found |= {f"froc_{name}": lambda w, own=own: own(w).mean(1), f"ap_50_{name}": average_precision(of, kind, 0.5)}
    return found


def _between(alarms: np.ndarray, hits: np.ndarray, rates: Sequence[float]) -> np.ndarray:
    """The hits at each of the rates: on the line between the last point that has no more alarms and the next one."""
    before = np.searchsorted(alarms, rates, side="right") - 1
    after = np.minimum(before + 1, len(alarms) - 1)
    apart = alarms[after] - alarms[before]
    share = np.divide(np.array(rates) - alarms[before], apart, out=np.zeros(len(rates)), where=apart > 0)
    return hits[before] + np.minimum(share, 1.0) * (hits[after] - hits[before])


def _in_parts(of: Callable[[np.ndarray], np.ndarray], answers: int) -> Callable[[np.ndarray], np.ndarray]:
    """The same, some rows of weights at a time."""
    rows = max(1, AT_ONCE // max(1, answers))
    return lambda weights: np.concatenate([of(weights[i : i + rows]) for i in range(0, len(weights), rows)])
