"""Metrics of answers, of all resamples of the patients at once: (r n) weights, how often each patient was drawn, give (r,) values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...tasks import Predictions
from ...tasks.hazards import mean_risk, of_event
from ...tasks.keypoints import SHARES, share_within
from ...tasks.matching import matched
from ...tasks.matching import sensitivity as free_response

Metric = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""outputs (n ...), targets (n ...), weights (r n) → (r,)."""


def auroc(outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The chance that a positive stands above a negative, ties counting half (Hanley & McNeil 1982).

    Args:
        outputs: (n,) scores.
        targets: (n,) 0 or 1.
        weights: (r n) how often each patient counts.
    Returns:
        (r,) NaN where a resample has one class.
    """
    order = np.argsort(outputs, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(outputs[order]) != 0])
    sums = lambda w: np.add.reduceat(w[:, order], starts, axis=1)
    positive, negative = sums(weights * (targets == 1)), sums(weights * (targets == 0))
    below = np.cumsum(negative, axis=1) - negative
    pairs = positive.sum(1) * negative.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, (positive * (below + 0.5 * negative)).sum(1) / pairs, np.nan)


def average_precision(outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The precision at each threshold, weighted by the recall gained there; (r,), arguments as `auroc`."""
    order = np.argsort(-outputs, kind="stable")
    ends = np.flatnonzero(np.r_[np.diff(outputs[order]) != 0, True])
    true = np.cumsum((weights * (targets == 1))[:, order], axis=1)[:, ends]
    every = np.cumsum(weights[:, order], axis=1)[:, ends]
    total = true[:, -1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(every > 0, true / every, 0.0)
        gained = np.diff(true, axis=1, prepend=0.0) / total
        return np.where(total[:, 0] > 0, (precision * gained).sum(1), np.nan)


def concordance(outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Harrell's concordance: of the pairs whose order of events is known, the share that the risk orders so.

    Args:
        outputs: (n,) log hazards; more is sooner.
        targets: (n 2) time and event.
        weights: (r n).
    Returns:
        (r,) NaN where no pair can be compared.
    """
    time, event = targets[:, 0], targets[:, 1] > 0
    right, known = np.zeros(len(weights)), np.zeros(len(weights))
    for start in range(0, len(time), 512):  # rows at a time: the pairs of ten thousand patients do not fit
        i = slice(start, start + 512)
        later = (time[None] > time[i, None]) | ((time[None] == time[i, None]) & ~event[None])
        comparable = (event[i, None] & later).astype(np.float64)
        ordered = comparable * ((outputs[i, None] > outputs[None]) + 0.5 * (outputs[i, None] == outputs[None]))
        right += ((weights[:, i] @ ordered) * weights).sum(1)
        known += ((weights[:, i] @ comparable) * weights).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known > 0, right / known, np.nan)


def mean(outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean of (n,) values, or of (n k) values over both; (r,)."""
    each = outputs if outputs.ndim == 1 else outputs.mean(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return weights @ each / weights.sum(1)


def brier(outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean squared distance of a probability from what happened (Brier 1950); (r,)."""
    return mean((outputs - targets) ** 2, targets, weights)


def quadratic_kappa(outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """How far the likeliest grade agrees with the true one beyond chance, a grade's distance counting squared (Cohen 1968).

    Args:
        outputs: (n k) probability of each grade.
        targets: (n,) grades from 0.
        weights: (r n).
    Returns:
        (r,) 1 where all agree, 0 where it is as by chance; NaN where truth and answers are one grade.
    """
    told, grades = outputs.argmax(1), np.arange(outputs.shape[1])
    apart = (grades[:, None] - grades[None]) ** 2
    by = lambda of: weights @ (of[:, None] == grades[None])
    seen = (weights @ (told - targets) ** 2) * weights.sum(1)
    chance = ((by(told) @ apart) * by(targets)).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(chance > 0, 1 - seen / chance, np.nan)


def mean_absolute_error(outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """How many grades the likeliest one is from the true one, on average; (r,), arguments as `quadratic_kappa`."""
    return mean(np.abs(outputs.argmax(1) - targets).astype(float), targets, weights)


def accuracy(outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """How often the likeliest of (n k) is the true class (n,); (r,)."""
    return mean((outputs.argmax(1) == targets).astype(float), targets, weights)


def multiclass_brier(outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean over patients of the squared distances of (n k) probabilities from what happened, summed over the classes; (r,) in 0..2.

    Args:
        outputs: (n k).
        targets: (n,) classes.
        weights: (r n).
    Source: Brier 1950, equation 2.
    """
    happened = targets[:, None] == np.arange(outputs.shape[1])
    return mean(((outputs - happened) ** 2).sum(1), targets, weights)


def f1(outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The harmonic mean of precision and sensitivity of answers (n,) that are 0 or 1; (r,), NaN where there is no yes in either."""
    hits, said, there = (weights @ v for v in (outputs * targets, outputs, targets))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(said + there > 0, 2 * hits / (said + there), np.nan)


def sensitivity(outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of those who have it, the share of whom yes (1) was said; (r,), NaN where nobody has it."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return weights @ (outputs * targets) / (weights @ targets)


def specificity(outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of those who do not have it, the share of whom no (0) was said; (r,), NaN where everybody has it."""
    return sensitivity(1 - outputs, 1 - targets, weights)


def macro(metric: Metric) -> Metric:
    """The mean of a metric over findings (n k), each over those of whom it is known; NaN in a resample where one is not defined.

    A finding of which these patients have one class is in no mean.
    """

    def of(outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
        known = np.isfinite(targets)
        both = [k for k in range(targets.shape[1]) if len(np.unique(targets[known[:, k], k])) == 2]
        each = [metric(outputs[known[:, k], k], targets[known[:, k], k], weights[:, known[:, k]]) for k in both]
        return np.mean(each, axis=0) if both else np.full(len(weights), np.nan)

    return of


def macro_concordance(outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean over events of each one's concordance, in which who had another never has it (Wolbers et al. 2009).

    Args:
        outputs: (n k j) cumulative incidences.
        targets: (n 3) time, which event or 0, landmark.
        weights: (r n).
    Returns:
        (r,) NaN where an event has no pair; an event that none of these patients had is in no mean.
    """
    came = [k for k in range(1, outputs.shape[1] + 1) if (targets[:, 1] == k).any()]
    each = [concordance(mean_risk(outputs, k), of_event(targets, k), weights) for k in came]
    return np.mean(each, axis=0) if came else np.full(len(weights), np.nan)


def micro_f1(outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """F1 of all findings (n k) together, called or not, each over those of whom it is known (targets NaN where not); (r,)."""
    known = np.isfinite(targets)
    said, there = np.where(known, outputs, 0.0), np.where(known, targets, 0.0)
    hits, said, there = (weights @ v.sum(1) for v in (said * there, said, there))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(said + there > 0, 2 * hits / (said + there), np.nan)


METRICS: dict[str, Metric] = {
    "auroc": auroc, "average_precision": average_precision, "concordance": concordance, "dice": mean, "brier": brier,
    "quadratic_kappa": quadratic_kappa, "mean_absolute_error": mean_absolute_error,
    "multiclass_brier": multiclass_brier,
    "accuracy": accuracy, "f1": f1, "sensitivity": sensitivity, "specificity": specificity,
    "macro_concordance": macro_concordance, "hierarchical_f1": micro_f1,
    "macro_auroc": macro(auroc), "macro_average_precision": macro(average_precision), "macro_f1": macro(f1),
}  # fmt: skip
PLACED = ("froc", "pck_10")
"""Metrics of boxes and points, whose answers are arrays of any length: `statistic` knows them."""
COMPARED = (*METRICS, *PLACED)
"""What models can be compared on."""
OF_CLASSES = (
    "auroc",
    "average_precision",
    "f1",
    "sensitivity",
    "specificity",
    "quadratic_kappa",
    "mean_absolute_error",
)
"""Of which each resample keeps the share of each class or grade."""
UNBOUNDED = ("quadratic_kappa", "mean_absolute_error", "multiclass_brier")
"""Which do not lie between 0 and 1."""
PRIMARY = {"classification": "auroc", "classes": "accuracy", "findings": "macro_auroc", "grade": "quadratic_kappa",
           "survival": "concordance", "hazards": "macro_concordance", "segmentation": "dice", "detection": "froc",
           "keypoints": "pck_10", "retrieval": "recall_at_1", "report": "finding_f1"}  # fmt: skip
"""The metric on which the arms of a task are compared."""
CHANCE = {"auroc": 0.5, "concordance": 0.5, "quadratic_kappa": 0.0, "macro_auroc": 0.5, "macro_concordance": 0.5}


def statistic(metric: str, told: Predictions) -> Callable[[np.ndarray], np.ndarray]:
    """A metric of answers about labelled patients.

    Args:
        metric: a name in `COMPARED`.
        told: of n labelled patients.
    Returns:
        weights (r n), how often each patient was drawn → (r,).
    """
    if metric == "froc":
        kinds = [column for rows in (*told.outputs, *told.targets) for column in rows[:, 1]]
        found = free_response(matched(told, 1 + int(max(kinds, default=0))))
        return lambda weights: found(weights).mean(1)
    if metric == "pck_10":
        points = max((np.shape(errors)[1] for errors in told.outputs), default=1)
        within = share_within(told, points, SHARES[:1])
        return lambda weights: within(weights)[:, 0]
    return lambda weights: METRICS[metric](told.outputs, told.targets, weights)


def same_truth(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether the targets of the same patients are the same; a model's went through float32, a baseline's did not."""
    if one.dtype == object:
        pairs = zip(one, other, strict=True)
        return all(a.shape == b.shape and np.allclose(a, b, rtol=1e-5, atol=1e-3, equal_nan=True) for a, b in pairs)
    return np.allclose(one, other, rtol=1e-6, atol=0, equal_nan=True)
