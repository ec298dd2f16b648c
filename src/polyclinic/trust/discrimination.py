"""Discrimination: how well answers order patients, with intervals by bootstrap over patients.

A resample of patients is a row of weights (how often each was drawn), so that a metric of all resamples is one
matrix operation, and two models are compared on the very same resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ..schema import Figure, PolyclinicError
from ..tasks import Predictions
from ..tasks.classes import among
from ..tasks.hazards import mean_risk, of_event
from ..tasks.tree import called

DRAWS = 2000
AT_ONCE = 1 << 24
"""Weights of resamples held at a time, that the memory does not grow with the cohort."""
MOST_LEFT_OUT = 4000
"""Patients up to whom each is left out in turn for the BCa interval; beyond, the percentile interval is as good."""
FEW = 10
"""Below so many patients in the rarer class an interval by bootstrap is known to be too narrow; the note says so."""

Metric = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""outputs (n ...), targets (n ...), weights (r n) → (r,)."""


class EvidenceError(PolyclinicError):
    """Predictions from which nothing can be said, or which cannot be compared."""


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
    "accuracy": accuracy, "f1": f1, "sensitivity": sensitivity, "specificity": specificity,
    "macro_concordance": macro_concordance, "hierarchical_f1": micro_f1,
    "macro_auroc": macro(auroc), "macro_average_precision": macro(average_precision), "macro_f1": macro(f1),
}  # fmt: skip
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
UNBOUNDED = ("quadratic_kappa", "mean_absolute_error")
"""Which do not lie between 0 and 1."""
PRIMARY = {"classification": "auroc", "classes": "accuracy", "findings": "macro_auroc", "grade": "quadratic_kappa",
           "survival": "concordance", "hazards": "macro_concordance", "segmentation": "dice", "detection": "froc",
           "keypoints": "pck_10", "retrieval": "recall_at_1", "report": "finding_f1"}  # fmt: skip
"""The metric on which the arms of a task are compared."""
CHANCE = {"auroc": 0.5, "concordance": 0.5, "quadratic_kappa": 0.0, "macro_auroc": 0.5, "macro_concordance": 0.5}


def strata_of(metric: str, targets: np.ndarray) -> np.ndarray:
    """(n,) what a resample must keep the share of: the class or grade, or which event was seen."""
    if not len(targets):
        return np.zeros(0, dtype=int)
    if metric in OF_CLASSES:
        return targets.astype(int)
    if metric in ("concordance", "macro_concordance"):
        return targets[:, 1].astype(int)
    return np.zeros(len(targets), dtype=int)


def rarer_of(metric: str, targets: np.ndarray) -> tuple[int, str]:
    """How many patients (or events) an interval rests on, and what they are."""
    if metric in ("auroc", "average_precision", "f1"):
        return int(min((targets == k).sum() for k in (0, 1))), "patients of the rarer class"
    if metric in ("concordance", "macro_concordance") and len(targets):
        counts = [int((targets[:, 1] == k).sum()) for k in np.unique(targets[:, 1]) if k > 0]
        return min(counts, default=0), "events" if len(counts) < 2 else "events of the rarest kind"
    if metric in OF_CLASSES and len(targets):
        return int(np.unique(targets, return_counts=True)[1].min()), "patients of the rarest grade"
    return len(targets), "patients"


def resamples(strata: np.ndarray, draws: int, seed: int) -> Iterator[np.ndarray]:
    """Weights (r n), draws in all, as many at a time as fit: each stratum is drawn with replacement among its own.

    Every resample then has every class. The same strata, draws and seed give the same resamples.
    """
    n, random = len(strata), np.random.default_rng([seed, len(strata)])
    members = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    at_once = max(1, AT_ONCE // n)
    for start in range(0, draws, at_once):
        rows = min(at_once, draws - start)
        weights = np.zeros((rows, n))
        for mine in members:
            weights[:, mine] = random.multinomial(len(mine), np.full(len(mine), 1 / len(mine)), size=rows)
        yield weights


@dataclass(frozen=True, slots=True)
class Interval:
    """95% of the resamples, and how it was made."""

    low: float
    high: float
    note: str


def percentile(value: float, drawn: np.ndarray) -> Interval:
    """The 2.5th and 97.5th percentile of the resamples (Efron 1979), widened to hold the estimate.

    A statistic that grows with noise, as a calibration error does, is larger in nearly every resample than in the sample.
    """
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(min(float(low), value), max(float(high), value), "95% interval, percentile bootstrap over patients")


def bca(value: float, drawn: np.ndarray, left_out: np.ndarray, strata: np.ndarray) -> Interval | None:
    """The bias-corrected and accelerated interval, for a stratified sample.

    Args:
        value: the estimate.
        drawn: (r,) of the resamples.
        left_out: (n,) with each patient left out.
        strata: (n,).
    Returns:
        None where the correction is not defined (all resamples on one side).
    Source:
        Efron 1987; strata as in Davison & Hinkley 1997, section 5.3.2.
    """
    from scipy.stats import norm

    below = (drawn < value).mean() + 0.5 * (drawn == value).mean()
    if not 0 < below < 1:
        return None
    bias = norm.ppf(below)
    cubes = squares = 0.0
    for stratum in np.unique(strata):
        mine = left_out[strata == stratum]
        if len(mine) < 2 or not np.isfinite(mine).all():
            return None
        influence = (len(mine) - 1) * (mine.mean() - mine)
        cubes += (influence**3).sum() / len(mine) ** 3
        squares += (influence**2).sum() / len(mine) ** 2
    if squares <= 0:
        return None
    acceleration = cubes / (6 * squares**1.5)
    z = norm.ppf(np.array([0.025, 0.975])) + bias
    at = norm.cdf(bias + z / np.clip(1 - acceleration * z, 1e-3, None))
    low, high = np.quantile(drawn, at)
    return Interval(float(low), float(high), "95% interval, BCa bootstrap over patients")


def exact(value: float, trials: int, what: str) -> Interval:
    """The exact binomial bound of a perfect or a wholly failed score, of which every resample is the same.

    Source: Clopper & Pearson 1934, with the rarer class as the trials (conservative: a trial is a patient, not a pair).
    """
    bound = 0.025 ** (1 / max(trials, 1))
    low, high = (bound, 1.0) if value > 0.5 else (0.0, 1 - bound)
    return Interval(low, high, f"95% interval, exact binomial over the {trials} {what} (every resample is the same)")


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray],
    strata: np.ndarray,
    *,
    name: str,
    split: str,
    draws: int = DRAWS,
    seed: int = 0,
    method: Literal["bca", "percentile"] = "bca",
    bounded: bool = True,
    rarer: tuple[int, str] | None = None,
) -> Figure:
    """A figure with its interval.

    Args:
        statistic: weights (r n) → (r,).
        strata: (n,) what each resample keeps the share of.
        name: the figure's.
        split: the split's hash.
        draws: resamples.
        seed: of them: the same patients and seed give the same resamples.
        method: of the interval.
        bounded: the statistic lies in 0..1, so that 0 and 1 get an exact bound.
        rarer: how many patients (or events) the interval rests on, and what they are; by default all.
    Returns:
        NaN with the reason in `note` where the statistic is not defined.
    """
    n = len(strata)
    if n == 0:
        return _without(name, n, split, "not defined: no labelled patient")
    value = float(statistic(np.ones((1, n)))[0])
    if not np.isfinite(value):
        return _without(name, n, split, _reason(strata))
    if n == 1:
        return _without(name, n, split, "no interval: one patient", value)
    drawn = np.concatenate([statistic(weights) for weights in resamples(strata, draws, seed)])
    lost = int((~np.isfinite(drawn)).sum())
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < draws / 2:
        return _without(name, n, split, "no interval: most resamples have no pair to compare", value)
    few, what = rarer or (n, "patients")
    if few < 2:
        return _without(name, n, split, f"no interval: {few} of the {what}", value)
    if np.ptp(drawn) < 1e-12:
        if not bounded or 1e-12 < value < 1 - 1e-12:
            return _without(name, n, split, "no interval: every resample of these few patients is the same", value)
        interval = exact(value, few, what)
    else:
        corrected = None
        if method == "bca" and n <= MOST_LEFT_OUT:
            corrected = bca(value, drawn, statistic(np.ones((n, n)) - np.eye(n)), strata)
        interval = corrected or percentile(value, drawn)
    by_resamples = "bootstrap" in interval.note
    note = interval.note + (f"; too narrow at {few} {what}" if few < FEW and by_resamples else "")
    note += f"; {lost} resamples without a value" if lost else ""
    return Figure(name, value, interval.low, interval.high, n, split, note)


def _without(name: str, n: int, split: str, note: str, value: float = float("nan")) -> Figure:
    """A figure without an interval, and why."""
    return Figure(name, value, float("nan"), float("nan"), n, split, note)


def _reason(strata: np.ndarray) -> str:
    if len(np.unique(strata)) < 2:
        return f"not defined: all {len(strata)} patients are of one class"
    return "not defined: no pair of patients can be compared"


def usable(predictions: Predictions) -> Predictions:
    """The labelled patients whose answer is a number."""
    known = predictions.labelled()
    each = known.outputs.reshape(len(known.patients), -1) if known.patients else np.zeros((0, 1))
    return known.where(np.isfinite(each).sum(axis=1) == each.shape[1])


def figure(
    metric: str, predictions: Predictions | Sequence[Predictions], split: str, *, draws: int = DRAWS, seed: int = 0
) -> Figure:
    """One metric of predictions, over the labelled patients.

    Args:
        metric: a name in `METRICS`.
        predictions: a model's, or several seeds' of the same patients (their mean is the value).
        split: the split's hash.
    """
    each = [usable(p) for p in ([predictions] if isinstance(predictions, Predictions) else predictions)]
    _same_patients(each)
    targets = each[0].targets
    of = METRICS[metric]
    statistic = lambda w: np.mean([of(p.outputs, targets, w) for p in each], axis=0)
    return bootstrap(
        statistic,
        strata_of(metric, targets),
        name=metric,
        split=split,
        draws=draws,
        seed=seed,
        bounded=metric not in UNBOUNDED,
        rarer=rarer_of(metric, targets),
    )


def figures(
    kind: str,
    predictions: Predictions,
    split: str,
    classes: Sequence[str] = (),
    *,
    draws: int = DRAWS,
    seed: int = 0,
    thresholds: Sequence[float] = (),
    top: int = 3,
    parents: Sequence[int] = (),
) -> tuple[Figure, ...]:
    """All figures of a task's predictions.

    Args:
        kind: "classification", "classes", "findings", "grade", "hazards", "survival" or "segmentation".
        predictions: a model's answers.
        split: the split's hash.
        classes: names of a segmentation's structures, of the classes, of the grades, of the findings or of the events.
        thresholds: of the findings' probabilities, from which on one is called present; of a classification one, or none.
        top: of classes, among how many likeliest ones the true one is looked for.
        parents: of findings of which some are kinds of others, the place of what each is a kind of, or −1.
    """
    if kind == "findings":
        found = _found(predictions, split, classes, thresholds, draws, seed)
        if any(parent >= 0 for parent in parents):
            known = usable(predictions)
            said = called(known.outputs, thresholds, parents) if known.patients else np.zeros((0, len(classes)))
            found += (figure("hierarchical_f1", replace(known, outputs=said), split, draws=draws, seed=seed),)
        return found
    if kind == "classes":
        return _classed(predictions, split, classes, draws, seed, top)
    if kind == "grade":
        return _graded(predictions, split, classes, draws, seed)
    if kind == "hazards":
        return _timed(predictions, split, classes, draws, seed)
    if kind == "classification":
        scores = [
            figure(m, predictions, split, draws=draws, seed=seed) for m in ("auroc", "average_precision", "brier")
        ]
        return (*scores, *_called(predictions, split, thresholds, draws, seed))
    if kind == "survival":
        return (figure("concordance", predictions, split, draws=draws, seed=seed),)
    known = usable(predictions)
    out = [figure("dice", known, split, draws=draws, seed=seed)]
    for k, name in enumerate(classes):
        statistic = lambda w, k=k: mean(known.outputs[:, k], known.targets, w)
        strata = np.zeros(len(known.patients), dtype=int)
        out.append(bootstrap(statistic, strata, name=f"dice_{name}", split=split, draws=draws, seed=seed))
    return tuple(out)


def _called(predictions: Predictions, split: str, thresholds: Sequence[float], draws: int, seed: int) -> list[Figure]:
    """How right a classification is where it has to say yes or no."""
    found = []
    for cut in thresholds:
        said = replace(predictions, outputs=(predictions.outputs >= cut).astype(float))
        for metric in ("f1", "sensitivity", "specificity"):
            made = figure(metric, said, split, draws=draws, seed=seed)
            found.append(replace(made, note=f"{made.note}; yes from a score of {cut:.2f} on"))
    return found


def _each_kept(metric: str, predictions: Predictions, classes: np.ndarray, split: str, draws: int, seed: int) -> Figure:
    """A mean over classes (n,), of which every resample has each that these patients have: a rare one would be lost in most."""
    statistic = lambda w: METRICS[metric](predictions.outputs, predictions.targets, w)
    return bootstrap(statistic, classes.astype(int), name=metric, split=split, draws=draws, seed=seed)


def _classed(
    predictions: Predictions, split: str, names: Sequence[str], draws: int, seed: int, top: int
) -> tuple[Figure, ...]:
    """Accuracy, the means of F1 and AUROC over the classes that these patients have, each against the rest, and each class's AUROC."""
    known = usable(predictions)
    if not known.patients:
        known = replace(known, outputs=np.zeros((0, len(names))), targets=np.zeros(0))
    each = np.arange(len(names))
    one = lambda of: (of[:, None] == each).astype(float)
    against = replace(known, targets=one(known.targets))
    called = replace(against, outputs=one(known.outputs.argmax(1)))
    right = replace(known, outputs=among(known.outputs, known.targets, top).astype(float))
    found = [figure("accuracy", known, split, draws=draws, seed=seed)]
    found.append(_each_kept("macro_f1", called, known.targets, split, draws, seed))
    found.append(replace(figure("dice", right, split, draws=draws, seed=seed), name=f"top_{top}_accuracy"))
    found.append(_each_kept("macro_auroc", against, known.targets, split, draws, seed))
    for number, name in enumerate(names):
        own = replace(against, outputs=known.outputs[:, number], targets=against.targets[:, number])
        found.append(replace(figure("auroc", own, split, draws=draws, seed=seed), name=f"auroc_{name}"))
    return tuple(found)


def _graded(predictions: Predictions, split: str, names: Sequence[str], draws: int, seed: int) -> tuple[Figure, ...]:
    """Kappa, the mean error in grades, and AUROC of each grade or a higher one."""
    known = usable(predictions)
    found = [figure(m, known, split, draws=draws, seed=seed) for m in ("quadratic_kappa", "mean_absolute_error")]
    for cut, name in enumerate(names):
        if cut:
            outputs = known.outputs[:, cut:].sum(1) if known.patients else np.zeros(0)
            above = replace(known, outputs=outputs, targets=(known.targets >= cut).astype(float))
            found.append(replace(figure("auroc", above, split, draws=draws, seed=seed), name=f"auroc_from_{name}"))
    return tuple(found)


def _timed(predictions: Predictions, split: str, names: Sequence[str], draws: int, seed: int) -> tuple[Figure, ...]:
    """The mean of the events' concordances, and where there are several each event's."""
    known = usable(predictions)
    found = [figure("macro_concordance", known, split, draws=draws, seed=seed)]
    for number, name in enumerate(names if len(names) > 1 else (), start=1):
        there = bool(known.patients)
        outputs = mean_risk(known.outputs, number) if there else np.zeros(0)
        own = replace(known, outputs=outputs, targets=of_event(known.targets, number) if there else np.zeros((0, 2)))
        found.append(replace(figure("concordance", own, split, draws=draws, seed=seed), name=f"{name}: concordance"))
    return tuple(found)


def _found(
    predictions: Predictions, split: str, names: Sequence[str], thresholds: Sequence[float], draws: int, seed: int
) -> tuple[Figure, ...]:
    """AUROC, average precision and F1, the means over the findings first, then each finding's own with its own n."""
    known = usable(predictions)
    if not known.patients:
        known = replace(known, outputs=np.zeros((0, len(names))), targets=np.zeros((0, len(names))))
    called = replace(known, outputs=(known.outputs >= np.array(thresholds)).astype(float))
    told = (("auroc", known), ("average_precision", known), ("f1", called))
    found = [figure(f"macro_{metric}", answers, split, draws=draws, seed=seed) for metric, answers in told]
    for metric, answers in told:
        for number, name in enumerate(names):
            own = answers.where(np.isfinite(answers.targets[:, number]))
            own = replace(own, outputs=own.outputs[:, number], targets=own.targets[:, number])
            found.append(replace(figure(metric, own, split, draws=draws, seed=seed), name=f"{metric}_{name}"))
    return tuple(found)


def difference(
    metric: str,
    one: Predictions | Sequence[Predictions],
    other: Predictions | Sequence[Predictions],
    split: str,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Figure:
    """One model's metric minus another's, paired: both on the same resamples of the same patients.

    Raises:
        EvidenceError: they answered about different patients or have different truths.
    """
    mine = [usable(p) for p in ([one] if isinstance(one, Predictions) else one)]
    theirs = [usable(p) for p in ([other] if isinstance(other, Predictions) else other)]
    _same_patients([*mine, *theirs])
    targets, of = mine[0].targets, METRICS[metric]
    average = lambda group, w: np.mean([of(p.outputs, targets, w) for p in group], axis=0)
    statistic = lambda w: average(mine, w) - average(theirs, w)
    return bootstrap(
        statistic,
        strata_of(metric, targets),
        name=f"{metric}_difference",
        split=split,
        draws=draws,
        seed=seed,
        bounded=False,
        rarer=rarer_of(metric, targets),
    )


def _same_patients(each: Sequence[Predictions]) -> None:
    for other in each[1:]:
        # A model's truth went through float32, a baseline's did not.
        if other.patients != each[0].patients or not np.allclose(
            other.targets, each[0].targets, rtol=1e-6, atol=0, equal_nan=True
        ):
            raise EvidenceError(
                f"predictions about {len(each[0].patients)} and about {len(other.patients)} patients, who are not the same",
                "the same labelled patients in the same order, with the same truth",
                "predict with both models for the same patients",
            )


def shown(difference: Figure) -> Literal["better", "worse", "none", "unknown"]:
    """What a difference's interval shows: better or worse only where it excludes zero."""
    if not np.isfinite([difference.low, difference.high]).all():
        return "unknown"
    return "better" if difference.low > 0 else "worse" if difference.high < 0 else "none"
