"""Prognosis: are risks by a time right, where some patients were not followed until then?

Who was censored is stood for by the alike who were not: each patient known at a time weighs one over the chance of being
followed for that long (Kaplan–Meier's of the censoring, of the same patients). That is right where censoring has nothing to do with
the risk. Every resample has weights of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ..schema import Figure
from ..tasks import Baseline, Predictions
from .calibration import Bin, bin_numbers, wilson
from .discrimination import DRAWS, auroc, bootstrap, usable

STEPS = 64
"""Times between 0 and the last horizon at which the Brier score is taken for its integral."""
GROUPS, FEWEST = 5, 10
"""Groups of predicted risk, and the fewest patients in each."""
AT_ONCE = 1 << 21
"""Weights of resamples worked on at a time."""


@dataclass(frozen=True, slots=True)
class Reliability:
    """Patients grouped by predicted risk, and in how many of each group the event came by a horizon.

    Args:
        horizon: the time.
        unit: of it.
        bins: of each group the mean predicted risk and Kaplan–Meier's observed one, with its 95% interval (Greenwood's variance on
            the scale of log(−log), Kalbfleisch & Prentice).
    """

    horizon: float
    unit: str
    bins: tuple[Bin, ...]


class Followed:
    """Times of patients, and how long each of many resamples of them was followed.

    Args:
        targets: (n 2) time and event.
    """

    def __init__(self, targets: np.ndarray) -> None:
        self.time, self.event = targets[:, 0], targets[:, 1] > 0
        self.order = np.argsort(self.time, kind="stable")
        ordered = self.time[self.order]
        self.starts = np.flatnonzero(np.r_[True, np.diff(ordered) != 0])
        self.at = ordered[self.starts]

    def _by_time(self, weights: np.ndarray) -> np.ndarray:
        return np.add.reduceat(weights[:, self.order], self.starts, axis=1)

    def _estimate(self, leave: np.ndarray, at_risk: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            stay = np.where(at_risk > 0, 1 - leave / at_risk, 1.0)
        return np.concatenate([np.ones((len(leave), 1)), np.cumprod(np.clip(stay, 0, 1), axis=1)], axis=1)

    def free_of_event(self, weights: np.ndarray) -> np.ndarray:
        """(r n) → (r 1+u) Kaplan–Meier's share without the event, before and after each of the u different times."""
        everyone, seen = self._by_time(weights), self._by_time(weights * self.event)
        return self._estimate(seen, np.cumsum(everyone[:, ::-1], axis=1)[:, ::-1])

    def under_observation(self, weights: np.ndarray) -> np.ndarray:
        """(r n) → (r 1+u) the share not yet censored; of those who leave at one time, the event comes before the censoring."""
        everyone, seen = self._by_time(weights), self._by_time(weights * self.event)
        at_risk = np.cumsum(everyone[:, ::-1], axis=1)[:, ::-1] - seen
        return self._estimate(everyone - seen, at_risk)

    def place(self, times: np.ndarray) -> np.ndarray:
        """Where the estimates just after (t,) times stand."""
        return np.searchsorted(self.at, times, side="right")

    def weighted(self, weights: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What one observation stands for: (r n) of an event at its time, (r t) of who is seen beyond each time."""
        still = self.under_observation(weights)
        before = still[:, np.searchsorted(self.at, self.time, side="left")]  # just before the own time
        with np.errstate(divide="ignore"):
            return np.where(before > 0, 1 / before, 0.0), 1 / still[:, self.place(times)]


def timed_auroc(outputs: np.ndarray, targets: np.ndarray, at: float, weights: np.ndarray) -> np.ndarray:
    """The chance that of one with the event by a time and one without until then, the first has the higher hazard.

    Args:
        outputs: (n,) log hazards or risks.
        targets: (n 2) time and event.
        at: the time.
        weights: (r n).
    Returns:
        (r,) NaN where nobody is on one side.
    Source:
        cumulative sensitivity, dynamic specificity: Uno et al. 2007, equation 2.3 and below; ties count half.
    """
    followed = Followed(targets)
    case, control = (followed.time <= at) & followed.event, followed.time > at
    each = np.where(case, followed.weighted(weights, np.array([at]))[0] * weights, weights * control)
    return auroc(outputs, case.astype(float), each)


def brier_at(risks: np.ndarray, targets: np.ndarray, times: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean squared distance of a risk by a time from what happened by then.

    Args:
        risks: (n t) or, of all alike, (1 t).
        targets: (n 2) time and event.
        times: (t,).
        weights: (r n).
    Returns:
        (r t) NaN at a time that nobody was followed to.
    Source:
        Graf et al. 1999, equation 10.
    """
    followed = Followed(targets)
    early, late = followed.weighted(weights, times)
    case = (followed.time[:, None] <= times) & followed.event[:, None]
    control = followed.time[:, None] > times
    total = (weights * early) @ (case * (1 - risks) ** 2)
    with np.errstate(invalid="ignore"):  # 0 of infinite weight, where the last one who was followed is censored
        return (total + (weights @ (control * risks**2)) * late) / weights.sum(1, keepdims=True)


def integrated(risks: np.ndarray, targets: np.ndarray, times: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(r,) the mean of the Brier score over evenly spaced times; arguments as `brier_at`'s. Source: Graf et al. 1999, equation 12."""
    return brier_at(risks, targets, times, weights).mean(1)


def observed(targets: np.ndarray, at: float, weights: np.ndarray) -> np.ndarray:
    """(r,) Kaplan–Meier's share with the event by a time, of (n 2) times and events and weights (r n)."""
    followed = Followed(targets)
    return 1 - followed.free_of_event(weights)[:, followed.place(np.array([at]))[0]]


def calibration_error(
    risk: np.ndarray, targets: np.ndarray, at: float, groups: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """The groups' distance of the mean predicted risk from the observed one, weighted by their size.

    A group that was followed less long is observed until its last time.

    Args:
        risk: (n,) by the time.
        targets: (n 2).
        at: the time.
        groups: (n,) numbers from 0.
        weights: (r n).
    Returns:
        (r,)
    """
    total = np.zeros(len(weights))
    for k in range(groups.max() + 1):
        mine = weights[:, groups == k]
        size = mine.sum(1)
        predicted = mine @ risk[groups == k] / np.maximum(size, 1e-12)
        total += size * np.abs(predicted - observed(targets[groups == k], at, mine))
    return total / weights.sum(1)


def reliability(risk: np.ndarray, targets: np.ndarray, at: float, unit: str) -> Reliability:
    """Observed against predicted risk by a time, in groups of equal size; without those of which nobody was followed so long."""
    groups, bins = bin_numbers(risk, GROUPS, FEWEST), []
    for k in range(groups.max() + 1):
        mine = groups == k
        if (targets[mine, 0] < at).all() and not targets[mine, 1].all():
            continue
        bins.append(Bin(float(risk[mine].mean()), *observed_interval(targets[mine], at), int(mine.sum())))
    return Reliability(at, unit, tuple(bins))


def observed_interval(targets: np.ndarray, at: float) -> tuple[float, float, float]:
    """Kaplan–Meier's share with the event by a time, and its 95% interval.

    Where it is 0 or 1 and has no variance, the interval is Wilson's of those whose state by then is known.
    """
    time, event = targets[:, 0], targets[:, 1] > 0
    when = np.unique(time[event & (time <= at)])
    dead = np.array([(event & (time == t)).sum() for t in when])
    at_risk = np.array([(time >= t).sum() for t in when])
    survival = float(np.prod(1 - dead / at_risk)) if len(when) else 1.0
    if not 0 < survival < 1:
        known = int(((event & (time <= at)) | (time >= at)).sum())
        return 1 - survival, *(wilson(round((1 - survival) * known), known) if known else (0.0, 1.0))
    spread = np.sqrt((dead / (at_risk * (at_risk - dead))).sum()) / abs(np.log(survival))
    low, high = (survival ** np.exp(sign * 1.959964 * spread) for sign in (-1, 1))
    return 1 - survival, 1 - float(low), 1 - float(high)


def prognosis(
    predictions: Predictions, split: str, *, draws: int = DRAWS, seed: int = 0
) -> tuple[tuple[Figure, ...], tuple[Reliability, ...]]:
    """The figures of a survival's risks by each horizon, and the observed ones beside them.

    Args:
        predictions: log hazards with the head's baseline; without it there is none.
        split: the split's hash.
        draws: resamples.
        seed: of them.
    Returns:
        by each horizon the time-dependent AUROC, the Brier score, the calibration error and the observed over the expected
        events; over all time to the last horizon the integrated Brier score, that of the null model (the training patients'
        Kaplan–Meier), and which share of that one is explained (Kattan & Gerds 2018). NaN with the reason where not defined.
    """
    if predictions.baseline is None:
        return (), ()
    asked = _Asked(usable(predictions), predictions.baseline, split, draws, seed)
    figures, curves = list[Figure](), list[Reliability]()
    for at in map(float, predictions.baseline.horizons):
        figures += _at_horizon(asked, at)
        if not asked.why_not(at):
            curves.append(reliability(asked.risk(at), asked.known.targets, at, asked.baseline.unit))
    return (*figures, *_over_time(asked)), tuple(curves)


@dataclass(frozen=True, slots=True)
class _Asked:
    """Of whom figures are made, and how."""

    known: Predictions
    baseline: Baseline
    split: str
    draws: int
    seed: int

    def risk(self, at: float) -> np.ndarray:
        """(n,) by a time."""
        return self.baseline.risk(self.known.outputs, np.array([at]))[:, 0]

    def why_not(self, at: float, risks: bool = True) -> str:
        """Why nothing can be said of a time; empty where it can."""
        when, until = f"{at:g} {self.baseline.unit}", self.baseline.until
        if not len(self.known.patients):
            return "no labelled patient"
        cases, beyond = self.counts(at)
        if not cases:
            return f"no event by {when}"
        if not beyond:
            return f"nobody was followed beyond {when}"
        return f"the training patients were followed for {until:.3g} {self.baseline.unit} only" if risks and at > until else ""  # fmt: skip

    def counts(self, at: float) -> tuple[int, int]:
        """How many had the event by a time, and how many were followed beyond."""
        time, event = self.known.targets[:, 0], self.known.targets[:, 1] > 0
        return int((event & (time <= at)).sum()), int((time > at).sum())

    def figure(
        self, name: str, statistic: Callable[[np.ndarray], np.ndarray], at: float, *, ranks: bool = False, bounded: bool = True,
        method: Literal["bca", "percentile"] = "bca",
    ) -> Figure:  # fmt: skip
        """A figure with its interval and the events that it rests on, or why there is none.

        Args:
            name: its.
            statistic: weights (r n) → (r,).
            at: the time until which it looks.
            ranks: it reads the order of patients alone; then resamples keep the share of events, which risks are to tell.
            bounded, method: as `bootstrap`'s.
        """
        why = self.why_not(at, not ranks)
        if why:
            nan = float("nan")
            return Figure(name, nan, nan, nan, len(self.known.patients), self.split, f"not defined: {why}")
        (cases, beyond), when = self.counts(at), f"{at:g} {self.baseline.unit}"
        rarer = (cases, f"events by {when}") if cases <= beyond else (beyond, f"patients followed beyond {when}")

        def in_parts(weights: np.ndarray) -> np.ndarray:
            size = max(1, AT_ONCE // weights.shape[1])
            return np.concatenate([statistic(weights[i : i + size]) for i in range(0, len(weights), size)])

        strata = (self.known.targets[:, 1] > 0).astype(int) * ranks
        made = bootstrap(
            in_parts, strata, name=name, split=self.split, draws=self.draws, seed=self.seed,
            method=method, bounded=bounded, rarer=rarer,
        )  # fmt: skip
        return replace(made, note=f"{made.note}; {cases} events by {when}, {beyond} followed beyond")


def _at_horizon(asked: _Asked, at: float) -> list[Figure]:
    """The four figures of one horizon."""
    targets, risk, when = asked.known.targets, asked.risk(at), f"at_{at:g}_{asked.baseline.unit}"
    groups = bin_numbers(np.nan_to_num(risk), GROUPS, FEWEST) if len(risk) else np.zeros(0, dtype=int)
    error = lambda w: calibration_error(risk, targets, at, groups, w)

    def ratio(w: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return observed(targets, at, w) / (w @ risk / w.sum(1))

    return [
        asked.figure(f"auroc_{when}", lambda w: timed_auroc(asked.known.outputs, targets, at, w), at, ranks=True),
        asked.figure(f"brier_{when}", lambda w: brier_at(risk[:, None], targets, np.array([at]), w)[:, 0], at),
        asked.figure(f"calibration_error_{when}", error, at, method="percentile"),
        asked.figure(f"observed_over_expected_{when}", ratio, at, method="percentile", bounded=False),
    ]


def _over_time(asked: _Asked) -> list[Figure]:
    """The integrated Brier score, the null model's, and what is gained."""
    horizons = list(map(float, asked.baseline.horizons))
    last = max((t for t in horizons if not asked.why_not(t)), default=min(horizons, default=0.0))
    if last == 0:
        return []
    times, to = (np.arange(STEPS) + 0.5) * last / STEPS, f"to_{last:g}_{asked.baseline.unit}"
    risks, null, targets = (
        asked.baseline.risk(asked.known.outputs, times),
        asked.baseline.null(times),
        asked.known.targets,
    )
    mine = lambda w: integrated(risks, targets, times, w)
    nobody = lambda w: integrated(null[None], targets, times, w)
    return [
        asked.figure(f"integrated_brier_{to}", mine, last),
        asked.figure(f"integrated_brier_null_{to}", nobody, last),
        asked.figure(f"brier_explained_{to}", lambda w: 1 - mine(w) / nobody(w), last, bounded=False),
    ]
