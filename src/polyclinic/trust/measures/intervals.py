"""Intervals by bootstrap over patients. Two models are compared on the very same resamples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...schema import Figure, PolyclinicError

DRAWS = 2000
AT_ONCE = 1 << 24
"""Weights of resamples held at a time, that the memory does not grow with the cohort."""
MOST_LEFT_OUT = 4000
"""Patients up to whom each is left out in turn for the BCa interval; beyond, the percentile interval is as good."""
FEW = 10
"""Below so many patients in the rarer class an interval by bootstrap is known to be too narrow; the note says so."""


class EvidenceError(PolyclinicError):
    """Predictions from which nothing can be said, or which cannot be compared."""


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
        return without(name, n, split, "not defined: no labelled patient")
    value = float(statistic(np.ones((1, n)))[0])
    if not np.isfinite(value):
        return without(name, n, split, reason_of(strata))
    if n == 1:
        return without(name, n, split, "no interval: one patient", value)
    drawn = np.concatenate([statistic(weights) for weights in resamples(strata, draws, seed)])
    lost = int((~np.isfinite(drawn)).sum())
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < draws / 2:
        return without(name, n, split, "no interval: most resamples have no pair to compare", value)
    few, what = rarer or (n, "patients")
    if few < 2:
        return without(name, n, split, f"no interval: {few} of the {what}", value)
    if np.ptp(drawn) < 1e-12:
        if not bounded or 1e-12 < value < 1 - 1e-12:
            return without(name, n, split, "no interval: every resample of these few patients is the same", value)
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


def without(name: str, n: int, split: str, note: str, value: float = float("nan")) -> Figure:
    """A figure without an interval, and why."""
    return Figure(name, value, float("nan"), float("nan"), n, split, note)


def reason_of(strata: np.ndarray) -> str:
    """Why a statistic is not defined."""
    if len(np.unique(strata)) < 2:
        return f"not defined: all {len(strata)} patients are of one class"
    return "not defined: no pair of patients can be compared"
