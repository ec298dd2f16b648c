"""Calibration: does a probability of 0.3 come true three times in ten?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...schema import Figure
from ...tasks import Predictions
from .figures import figure, rarer_of, usable
from .intervals import DRAWS, bootstrap

FEWEST, REFITS = 5, 300
"""Patients of the rarer class below which a recalibration is not fitted; resamples on which it is fitted anew."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Patients of about one probability.

    Args:
        predicted: their mean probability.
        observed: the share in whom it came true.
        low, high: its 95% interval (Wilson 1927).
        n: how many they are.
    """

    predicted: float
    observed: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """The reliability curve and its figures: ece, brier, slope, intercept; of several classes together `top_label_ece`,
    `classwise_ece` and `multiclass_brier`.

    Args:
        bins, figures, n, note: of them.
        name: of several, the finding, the class, or the grade from which on yes is said; "" of all classes, each patient by the
            likeliest one.
    """

    bins: tuple[Bin, ...]
    figures: tuple[Figure, ...]
    n: int
    note: str
    name: str = ""


def bin_numbers(probabilities: np.ndarray, bins: int = 10, fewest: int = 5) -> np.ndarray:
    """(n,) which bin each falls into: equal counts, at least `fewest` in each, equal probabilities together."""
    count = int(np.clip(len(probabilities) // fewest, 1, bins))
    edges = np.unique(np.quantile(probabilities, np.linspace(0, 1, count + 1)[1:-1]))
    return np.unique(np.searchsorted(edges, probabilities, side="left"), return_inverse=True)[1]


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95% interval of a share."""
    z = 1.959964
    share, scale = successes / n, 1 + z**2 / n
    centre = (share + z**2 / (2 * n)) / scale
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / scale
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def ece(probabilities: np.ndarray, targets: np.ndarray, numbers: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The expected calibration error: the bins' distance of predicted from observed, weighted by their size.

    Args:
        probabilities, targets: (n,).
        numbers: (n,) the bins.
        weights: (r n).
    Returns:
        (r,)
    Source: Naeini et al. 2015; equal-mass bins as in Nixon et al. 2019.
    """
    member = numbers[:, None] == np.arange(numbers.max() + 1)[None]
    gap = weights @ (member * (probabilities - targets)[:, None])
    return np.abs(gap).sum(1) / weights.sum(1)


def recalibration(probabilities: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    """The logistic recalibration's slope, and the intercept with the slope held at 1 (Van Calster et al. 2019).

    Returns:
        slope (1 is ideal; below 1 the answers are too extreme), intercept (0 is ideal; below 0 they are too high);
        NaN where a class is missing, the classes are separated, or (the slope) all answers are alike.
    """
    logits = np.log(np.clip(probabilities, 1e-6, 1 - 1e-6) / np.clip(1 - probabilities, 1e-6, 1))
    both = np.stack([np.ones_like(logits), logits], 1)
    slope = _newton(both, targets, np.zeros_like(logits))[1] if np.ptp(logits) > 1e-9 else float("nan")
    (intercept,) = _newton(np.ones((len(logits), 1)), targets, logits)
    return float(slope), float(intercept)


def _newton(design: np.ndarray, targets: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Logistic regression without penalty; NaN where it does not converge (separated classes)."""
    nothing = np.full(design.shape[1], np.nan)
    if len(np.unique(targets)) < 2:
        return nothing
    beta = np.zeros(design.shape[1])
    for _ in range(60):
        probability = 1 / (1 + np.exp(-np.clip(design @ beta + offset, -500, 500)))
        spread = design * (probability * (1 - probability))[:, None]
        try:
            step = np.linalg.solve(
                design.T @ spread + 1e-12 * np.eye(design.shape[1]), design.T @ (targets - probability)
            )
        except np.linalg.LinAlgError:
            return nothing
        # A long step is shortened: far from the answer Newton's overshoots.
        beta = beta + step * min(1.0, 4.0 / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-9:
            return beta if np.abs(beta).max() < 50 else nothing
    return nothing


def calibration(predictions: Predictions, split: str, *, draws: int = DRAWS, seed: int = 0) -> Calibration:
    """The calibration of a classification's probabilities.

    Args:
        predictions: with probabilities.
        split: the split's hash.
    """
    known = usable(predictions)
    p, y, n = known.outputs.astype(float), known.targets.astype(float), len(known.patients)
    if n == 0:
        nan = float("nan")
        return Calibration(
            (), (Figure("ece", nan, nan, nan, 0, split, "not defined: no labelled patient"),), 0, "no labelled patient"
        )
    numbers = bin_numbers(p)
    statistic = lambda w: ece(p, y, numbers, w)
    whole = np.zeros(n, dtype=int)
    found = [
        bootstrap(statistic, whole, name="ece", split=split, draws=draws, seed=seed, method="percentile"),
        figure("brier", known, split, draws=draws, seed=seed),
        *_recalibration_figures(p, y, split, draws, seed),
    ]
    rarer = int(min(y.sum(), n - y.sum()))
    note = "ECE is biased upwards in small samples." + (
        f" With {rarer} patients in the rarer class a calibration curve is an impression, not a measurement."
        if rarer < 30
        else ""
    )
    return Calibration(binned(p, y, numbers), tuple(found), n, note)


def binned(p: np.ndarray, y: np.ndarray, numbers: np.ndarray) -> tuple[Bin, ...]:
    """The bins of probabilities p (n,), of what happened y (n,), by their numbers (n,)."""
    bins = list[Bin]()
    for k in range(numbers.max() + 1):
        mine = numbers == k
        hits, many = int(y[mine].sum()), int(mine.sum())
        bins.append(Bin(float(p[mine].mean()), hits / many, *wilson(hits, many), many))
    return tuple(bins)


def of_classes(predictions: Predictions, split: str, *, draws: int = DRAWS, seed: int = 0) -> Calibration:
    """The calibration of the probabilities of several classes, of which a patient has one.

    The curve is of the likeliest class: how sure it is against how often it is right. `top_label_ece` is its error (Guo et al. 2017);
    `classwise_ece` the mean over the classes of each one's against the rest (Kull et al. 2019, equation 3); both in bins of as many
    patients each.

    Args:
        predictions: with probabilities (n k).
        split: the split's hash.
    """
    known = usable(predictions)
    if not known.patients:
        nan = float("nan")
        none = Figure("top_label_ece", nan, nan, nan, 0, split, "not defined: no labelled patient")
        return Calibration((), (none,), 0, "no labelled patient")
    p, truth = known.outputs.astype(float), known.targets.astype(int)
    sure, right = p.max(1), (p.argmax(1) == truth).astype(float)
    numbers = bin_numbers(sure)
    each = [(p[:, k], (truth == k).astype(float), bin_numbers(p[:, k])) for k in range(p.shape[1])]
    measured = {
        "top_label_ece": lambda w: ece(sure, right, numbers, w),
        "classwise_ece": lambda w: np.mean([ece(*one, w) for one in each], axis=0),
    }
    strata = np.zeros(len(truth), dtype=int)
    found = [
        bootstrap(of, strata, name=name, split=split, draws=draws, seed=seed, method="percentile")
        for name, of in measured.items()
    ]
    found.append(figure("multiclass_brier", known, split, draws=draws, seed=seed))
    note = "Of each patient the likeliest class, and whether it was right. Both errors are biased upwards in small samples."
    return Calibration(binned(sure, right, numbers), tuple(found), len(truth), note)


def calibrations(
    kind: str, predictions: Predictions, split: str, names: Sequence[str], *, draws: int = DRAWS, seed: int = 0
) -> tuple[Calibration, ...]:
    """The calibration of each finding, over those of whom it is known, or of each grade or a higher one, or of classes; none of others.

    Of classes `of_classes` comes first, then each one against the rest.

    Args:
        kind: of the task.
        predictions: with probabilities (n k).
        split: the split's hash.
        names: of the findings, the grades or the classes.
    """
    if kind not in ("findings", "grade", "classes"):
        return ()
    known, found = usable(predictions), list[Calibration]()
    if kind == "classes":
        found.append(of_classes(known, split, draws=draws, seed=seed))
    for number, name in enumerate(names):
        if kind == "classes":
            outputs = known.outputs[:, number] if known.patients else np.zeros(0)
            mine = replace(known, outputs=outputs, targets=(known.targets == number).astype(float))
        elif kind == "grade":
            if not number:
                continue  # everybody has the lowest or a higher one
            outputs = known.outputs[:, number:].sum(1) if known.patients else np.zeros(0)
            mine = replace(known, outputs=np.clip(outputs, 0, 1), targets=(known.targets >= number).astype(float))
        else:
            there = np.isfinite(known.targets[:, number]) if known.patients else np.zeros(0, dtype=bool)
            mine = known.where(there)
            column = (lambda v, number=number: v[:, number]) if mine.patients else (lambda v: np.zeros(0))
            mine = replace(mine, outputs=column(mine.outputs), targets=column(mine.targets))
        found.append(replace(calibration(mine, split, draws=draws, seed=seed), name=name))
    return tuple(found)


def _recalibration_figures(p: np.ndarray, y: np.ndarray, split: str, draws: int, seed: int) -> list[Figure]:
    """Slope and intercept, each with its interval; NaN with the reason where there is too little to fit."""
    n, rarer = len(p), rarer_of("auroc", y)
    nothing = lambda name, why: Figure(name, float("nan"), float("nan"), float("nan"), n, split, f"not defined: {why}")
    if rarer[0] < FEWEST:
        return [nothing(name, f"{rarer[0]} {rarer[1]}, {FEWEST} wanted") for name in ("slope", "intercept")]
    if not np.isfinite(recalibration(p, y)).all():
        why = "the classes are separated" if np.ptp(p) > 1e-9 else "all answers are alike"
        return [nothing(name, why) for name in ("slope", "intercept")]

    def fit(weights: np.ndarray) -> np.ndarray:
        return np.array([recalibration(np.repeat(p, w), np.repeat(y, w)) for w in weights.astype(int)])

    return [
        bootstrap(
            lambda w, place=place: fit(w)[:, place], y.astype(int), name=name, split=split, draws=min(draws, REFITS), seed=seed,
            method="percentile", bounded=False, rarer=rarer,
        )
        for place, name in enumerate(("slope", "intercept"))
    ]  # fmt: skip
