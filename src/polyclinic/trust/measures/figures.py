"""Figures: the metrics of a task's answers, each with its interval, and differences of two models' answers about the same patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from ...schema import Figure
from ...tasks import Predictions
from ...tasks.classes import among
from ...tasks.hazards import mean_risk, of_event
from ...tasks.tree import called
from .intervals import DRAWS, EvidenceError, bootstrap
from .metrics import (
    OF_CLASSES,
    PLACED,
    UNBOUNDED,
    mean,
    same_truth,
    statistic,
)


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
    if metric in PLACED:  # a trial of an exact bound is a patient and not a thing, of which one patient may have many
        return sum(bool(np.size(t)) for t in targets), "patients with something to find"
    if metric in OF_CLASSES and len(targets):
        return int(np.unique(targets, return_counts=True)[1].min()), "patients of the rarest grade"
    return len(targets), "patients"


def usable(predictions: Predictions) -> Predictions:
    """The labelled patients whose answer is a number (boxes and points are, however many)."""
    known = predictions.labelled()
    if known.outputs.dtype == object:
        return known
    each = known.outputs.reshape(len(known.patients), -1) if known.patients else np.zeros((0, 1))
    return known.where(np.isfinite(each).sum(axis=1) == each.shape[1])


def figure(
    metric: str, predictions: Predictions | Sequence[Predictions], split: str, *, draws: int = DRAWS, seed: int = 0
) -> Figure:
    """One metric of predictions, over the labelled patients.

    Args:
        metric: a name in `COMPARED`.
        predictions: a model's, or several seeds' of the same patients (their mean is the value).
        split: the split's hash.
    """
    each = [usable(p) for p in ([predictions] if isinstance(predictions, Predictions) else predictions)]
    _same_patients(each)
    targets = each[0].targets
    of = [statistic(metric, replace(p, targets=targets)) for p in each]
    return bootstrap(
        lambda w: np.mean([one(w) for one in of], axis=0),
        strata_of(metric, targets),
        name=metric,
        split=split,
        draws=draws,
        seed=seed,
        method="percentile" if metric in PLACED else "bca",
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
        of = lambda w, k=k: mean(known.outputs[:, k], known.targets, w)
        strata = np.zeros(len(known.patients), dtype=int)
        out.append(bootstrap(of, strata, name=f"dice_{name}", split=split, draws=draws, seed=seed))
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
    return bootstrap(
        statistic(metric, predictions), classes.astype(int), name=metric, split=split, draws=draws, seed=seed
    )


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
    targets = mine[0].targets
    sides = [[statistic(metric, replace(p, targets=targets)) for p in group] for group in (mine, theirs)]
    average = lambda group, w: np.mean([of(w) for of in group], axis=0)
    return bootstrap(
        lambda w: average(sides[0], w) - average(sides[1], w),
        strata_of(metric, targets),
        name=f"{metric}_difference",
        split=split,
        draws=draws,
        seed=seed,
        method="percentile" if metric in PLACED else "bca",
        bounded=False,
        rarer=rarer_of(metric, targets),
    )


def _same_patients(each: Sequence[Predictions]) -> None:
    for other in each[1:]:
        if other.patients != each[0].patients or not same_truth(other.targets, each[0].targets):
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
