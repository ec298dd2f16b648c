"""Prognosis: are risks by a time right, where some patients were not followed until then?

Who was censored is stood for by the alike who were not: each patient known at a time weighs one over the chance of being
followed for that long (Kaplan–Meier's of the censoring, of the same patients). That is right where censoring has nothing to do with
the risk. Every resample has weights of its own.

Of several events the first that comes ends the others' chance: who had another is known never to have this one (Schoop et al. 2011,
Blanche et al. 2013). A target's second number says which event came, 0 where none was seen; of a survival there is only 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ...schema import Figure
from ...tasks import Incidence, Predictions
from .calibration import Bin, bin_numbers, wilson
from .figures import usable
from .intervals import DRAWS, bootstrap
from .metrics import auroc

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
        bins: of each group the mean predicted risk and the observed one, with its 95% interval on the scale of log(−log)
            (Kalbfleisch & Prentice): Kaplan–Meier's with Greenwood's variance, of several events Aalen–Johansen's.
        event: which of several.
        landmark: from which the time counts; None where from the beginning alone.
    """

    horizon: float
    unit: str
    bins: tuple[Bin, ...]
    event: str = ""
    landmark: float | None = None

    @property
    def what(self) -> str:
        """Whose risk, by when, in words: `risk of disease by 12 months from 6 months on`."""
        whose = f"risk of {self.event.replace('_', ' ')}" if self.event else "risk"
        since = f" from {self.landmark:g} {self.unit} on" if self.landmark is not None else ""
        return f"{whose} by {self.horizon:g} {self.unit}{since}"


class Followed:
    """Times of patients, and how long each of many resamples of them was followed.

    Args:
        targets: (n 2) time and which event, 0 where none was seen.
    """

    def __init__(self, targets: np.ndarray) -> None:
        self.time, self.which, self.event = targets[:, 0], targets[:, 1], targets[:, 1] > 0
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

    def incidence(self, weights: np.ndarray, cause: int) -> np.ndarray:
        """(r n) → (r 1+u) Aalen–Johansen's share with an event, before and after each of the u different times."""
        everyone, mine = self._by_time(weights), self._by_time(weights * (self.which == cause))
        at_risk = np.cumsum(everyone[:, ::-1], axis=1)[:, ::-1]
        with np.errstate(invalid="ignore", divide="ignore"):
            hazard = np.where(at_risk > 0, mine / at_risk, 0.0)
        share = np.cumsum(self.free_of_event(weights)[:, :-1] * hazard, axis=1)
        return np.concatenate([np.zeros((len(weights), 1)), share], axis=1)

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


def timed_auroc(outputs: np.ndarray, targets: np.ndarray, at: float, weights: np.ndarray, cause: int = 1) -> np.ndarray:
    """The chance that of one with the event by a time and one without until then, the first has the higher risk.

    Args:
        outputs: (n,) log hazards or risks.
        targets: (n 2) time and which event.
        at: the time.
        weights: (r n).
        cause: the event; who had another by then is without it.
    Returns:
        (r,) NaN where nobody is on one side.
    Source:
        cumulative sensitivity, dynamic specificity: Uno et al. 2007, equation 2.3 and below; of several events the second of Blanche
        et al. 2013's two definitions; ties count half.
    """
    followed = Followed(targets)
    early, late = followed.weighted(weights, np.array([at]))
    known, beyond = (followed.time <= at) & followed.event, followed.time > at
    late = np.where(
        np.isfinite(late), late, 0.0
    )  # a resample that follows nobody so far has nobody for whom it would stand
    stands_for = np.where(known, early, np.where(beyond, late, 0.0))
    return auroc(outputs, (known & (followed.which == cause)).astype(float), stands_for * weights)


def brier_at(
    risks: np.ndarray, targets: np.ndarray, times: np.ndarray, weights: np.ndarray, cause: int = 1
) -> np.ndarray:
    """The mean squared distance of a risk by a time from what happened by then.

    Args:
        risks: (n t) or, of all alike, (1 t).
        targets: (n 2) time and which event.
        times: (t,).
        weights: (r n).
        cause: the event; who had another is known to be without it.
    Returns:
        (r t) NaN at a time that nobody was followed to.
    Source:
        Graf et al. 1999, equation 10; of several events Schoop et al. 2011.
    """
    followed = Followed(targets)
    early, late = followed.weighted(weights, times)
    known = (followed.time[:, None] <= times) & followed.event[:, None]
    beyond = followed.time[:, None] > times
    came = (followed.which == cause)[:, None]
    total = (weights * early) @ (known * (came - risks) ** 2)
    with np.errstate(invalid="ignore"):  # 0 of infinite weight, where the last one who was followed is censored
        return (total + (weights @ (beyond * risks**2)) * late) / weights.sum(1, keepdims=True)


def integrated(
    risks: np.ndarray, targets: np.ndarray, times: np.ndarray, weights: np.ndarray, cause: int = 1
) -> np.ndarray:
    """(r,) the mean of the Brier score over evenly spaced times; arguments as `brier_at`'s. Source: Graf et al. 1999, equation 12."""
    return brier_at(risks, targets, times, weights, cause).mean(1)


def observed(targets: np.ndarray, at: float, weights: np.ndarray, cause: int = 1) -> np.ndarray:
    """(r,) the share with an event by a time, of (n 2) times and events and weights (r n): Kaplan–Meier's, of several Aalen–Johansen's."""
    followed = Followed(targets)
    return followed.incidence(weights, cause)[:, followed.place(np.array([at]))[0]]


def calibration_error(
    risk: np.ndarray, targets: np.ndarray, at: float, groups: np.ndarray, weights: np.ndarray, cause: int = 1
) -> np.ndarray:
    """The groups' distance of the mean predicted risk from the observed one, weighted by their size.

    A group that was followed less long is observed until its last time.

    Args:
        risk: (n,) by the time.
        targets: (n 2).
        at: the time.
        groups: (n,) numbers from 0.
        weights: (r n).
        cause: the event.
    Returns:
        (r,)
    """
    total = np.zeros(len(weights))
    for k in range(groups.max() + 1):
        mine = weights[:, groups == k]
        size = mine.sum(1)
        predicted = mine @ risk[groups == k] / np.maximum(size, 1e-12)
        total += size * np.abs(predicted - observed(targets[groups == k], at, mine, cause))
    return total / weights.sum(1)


def reliability(risk: np.ndarray, targets: np.ndarray, at: float, unit: str, cause: int = 1) -> Reliability:
    """Observed against predicted risk by a time, in groups of equal size; without those of which nobody was followed so long."""
    groups, bins = bin_numbers(risk, GROUPS, FEWEST), []
    for k in range(groups.max() + 1):
        mine = groups == k
        if (targets[mine, 0] < at).all() and not targets[mine, 1].all():
            continue
        bins.append(Bin(float(risk[mine].mean()), *observed_interval(targets[mine], at, cause), int(mine.sum())))
    return Reliability(at, unit, tuple(bins))


def observed_interval(targets: np.ndarray, at: float, cause: int = 1) -> tuple[float, float, float]:
    """The share with an event by a time, and its 95% interval.

    Where it is 0 or 1 and has no variance, the interval is Wilson's of those whose state by then is known.

    Source:
        Greenwood 1926 where there is one event; of several the delta method's variance of Aalen–Johansen's estimate (Marubini &
        Valsecchi 1995, section 10.2).
    """
    time, which = targets[:, 0], targets[:, 1]
    when = np.unique(time[(which > 0) & (time <= at)])
    ended = np.array([((which > 0) & (time == t)).sum() for t in when], float)
    mine = np.array([((which == cause) & (time == t)).sum() for t in when], float)
    at_risk = np.array([(time >= t).sum() for t in when], float)
    free = np.cumprod(1 - ended / at_risk)
    before = np.r_[1.0, free][:-1]
    share = np.cumsum(before * mine / at_risk)
    value = min(float(share[-1]), 1.0) if len(when) else 0.0
    if not 0 < value < 1 - 1e-12:
        known = int((((which > 0) & (time <= at)) | (time >= at)).sum())
        return value, *(wilson(round(value * known), known) if known else (0.0, 1.0))
    if (ended == mine).all():
        left = at_risk - ended
        variance = (1 - value) ** 2 * (ended / (at_risk * left)).sum()
    else:
        later = value - share
        left = np.where(at_risk > ended, at_risk - ended, np.inf)  # of the last ones of all nothing comes later
        variance = (later**2 * ended / (at_risk * left)).sum()
        variance += (before**2 * mine * (at_risk - mine) / at_risk**3).sum() - 2 * (
            later * before * mine / at_risk**2
        ).sum()
    spread = np.sqrt(max(variance, 0.0)) / ((1 - value) * abs(np.log1p(-value)))
    low, high = ((1 - value) ** np.exp(sign * 1.959964 * spread) for sign in (-1, 1))
    return value, 1 - float(low), 1 - float(high)


def prognosis(
    predictions: Predictions, split: str, *, draws: int = DRAWS, seed: int = 0
) -> tuple[tuple[Figure, ...], tuple[Reliability, ...]]:
    """The figures of the risks by each horizon, and the observed ones beside them.

    Args:
        predictions: log hazards with the head's baseline, or hazards' cumulative incidences; without what reads them there is none.
        split: the split's hash.
        draws: resamples.
        seed: of them.
    Returns:
        of each event, by each horizon the time-dependent AUROC, the Brier score, the calibration error and the observed over the expected
        events; over all time to the last horizon the integrated Brier score, that of the null model (the training patients'
        Kaplan–Meier or Aalen–Johansen), and which share of that one is explained (Kattan & Gerds 2018). NaN with the reason where
        not defined.
    """
    if predictions.baseline is None:
        return (), ()
    figures, curves = list[Figure](), list[Reliability]()
    for asked in _asked(usable(predictions), split, draws, seed):
        for at in map(float, asked.horizons):
            figures += _at_horizon(asked, at)
            if not asked.why_not(at):
                curve = reliability(asked.risk(np.array([at]))[:, 0], asked.known.targets, at, asked.unit, asked.cause)
                curves.append(replace(curve, event=asked.event, landmark=asked.landmark))
        figures += _over_time(asked)
    return tuple(figures), tuple(curves)


def _asked(known: Predictions, split: str, draws: int, seed: int) -> Iterator[_Asked]:
    """Each event of some predictions."""
    reads = known.baseline
    assert reads is not None
    about = (float(reads.until), reads.horizons, reads.unit, split, draws, seed)
    if not isinstance(reads, Incidence):
        yield _Asked(known, lambda t: reads.risk(known.outputs, t), reads.null, *about)
        return
    outputs = known.outputs if len(known.patients) else np.zeros((0, len(reads.causes), len(reads.ends)))
    for k, name in enumerate(reads.causes):
        event = name if len(reads.causes) > 1 else ""
        risk, null = lambda t, k=k: reads.risk(outputs, t)[:, k], lambda t, k=k: reads.null(t)[k]
        yield _Asked(known, risk, null, *about, k + 1, event, reads.landmark)


@dataclass(frozen=True, slots=True)
class _Asked:
    """Of whom figures are made, of what, and how.

    Args:
        known: the labelled patients' predictions.
        risk: (t,) times → (n t) by each.
        null: (t,) times → (t,) what is told of everybody alike.
        until: how long the training patients were followed.
        horizons: by which risks are told.
        cause, event: which event, by its number and, of several, by its name.
        landmark: from which the times count; None where from the beginning alone.
    """

    known: Predictions
    risk: Callable[[np.ndarray], np.ndarray]
    null: Callable[[np.ndarray], np.ndarray]
    until: float
    horizons: np.ndarray
    unit: str
    split: str
    draws: int
    seed: int
    cause: int = 1
    event: str = ""
    landmark: float | None = None

    def why_not(self, at: float, risks: bool = True) -> str:
        """Why nothing can be said of a time; empty where it can."""
        when = f"{at:g} {self.unit}"
        if not len(self.known.patients):
            return "no labelled patient"
        cases, beyond = self.counts(at)
        if not cases:
            return f"no event by {when}"
        if not beyond:
            return f"nobody was followed beyond {when}"
        if risks and at > self.until:
            return f"the training patients were followed for {self.until:.3g} {self.unit} only"
        return ""

    def counts(self, at: float) -> tuple[int, int]:
        """How many had the event by a time, and how many were followed beyond."""
        time, which = self.known.targets[:, 0], self.known.targets[:, 1]
        return int(((which == self.cause) & (time <= at)).sum()), int((time > at).sum())

    def figure(
        self, name: str, statistic: Callable[[np.ndarray], np.ndarray], at: float, *, ranks: bool = False, bounded: bool = True,
        method: Literal["bca", "percentile"] = "bca",
    ) -> Figure:  # fmt: skip
        """A figure with its interval and the events that it rests on, or why there is none.

        Args:
            name: its, without the event and the time.
            statistic: weights (r n) → (r,).
            at: the time until which it looks.
            ranks: it reads the order of patients alone; then resamples keep the share of events, which risks are to tell.
            bounded, method: as `bootstrap`'s.
        """
        name = f"{self.event}: " * bool(self.event) + f"{name}_{at:g}_{self.unit}"
        why = self.why_not(at, not (ranks and self.known.outputs.ndim == 1))  # a log hazard orders patients at any time
        if why:
            nan = float("nan")
            return Figure(name, nan, nan, nan, len(self.known.patients), self.split, f"not defined: {why}")
        (cases, beyond), when = self.counts(at), f"{at:g} {self.unit}"
        rarer = (cases, f"events by {when}") if cases <= beyond else (beyond, f"patients followed beyond {when}")

        def in_parts(weights: np.ndarray) -> np.ndarray:
            size = max(1, AT_ONCE // weights.shape[1])
            return np.concatenate([statistic(weights[i : i + size]) for i in range(0, len(weights), size)])

        strata = self.known.targets[:, 1].astype(int) * ranks
        made = bootstrap(
            in_parts, strata, name=name, split=self.split, draws=self.draws, seed=self.seed,
            method=method, bounded=bounded, rarer=rarer,
        )  # fmt: skip
        others = int(((self.known.targets[:, 1] > 0) & (self.known.targets[:, 0] <= at)).sum()) - cases
        told = f"{cases} events by {when}" + (f", {others} of others first" if others else "")
        since = (
            f"{len(self.known.patients)} at risk at {self.landmark:g} {self.unit}, "
            if self.landmark is not None
            else ""
        )
        return replace(made, note=f"{made.note}; {since}{told}, {beyond} followed beyond")


def _at_horizon(asked: _Asked, at: float) -> list[Figure]:
    """The four figures of one horizon."""
    targets, risk, cause = asked.known.targets, asked.risk(np.array([at]))[:, 0], asked.cause
    orders = asked.known.outputs if asked.known.outputs.ndim == 1 else risk
    groups = bin_numbers(np.nan_to_num(risk), GROUPS, FEWEST) if len(risk) else np.zeros(0, dtype=int)
    error = lambda w: calibration_error(risk, targets, at, groups, w, cause)

    def ratio(w: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return observed(targets, at, w, cause) / (w @ risk / w.sum(1))

    return [
        asked.figure("auroc_at", lambda w: timed_auroc(orders, targets, at, w, cause), at, ranks=True),
        asked.figure("brier_at", lambda w: brier_at(risk[:, None], targets, np.array([at]), w, cause)[:, 0], at),
        asked.figure("calibration_error_at", error, at, method="percentile"),
        asked.figure("observed_over_expected_at", ratio, at, method="percentile", bounded=False),
    ]


def _over_time(asked: _Asked) -> list[Figure]:
    """The integrated Brier score, the null model's, and what is gained."""
    horizons = list(map(float, asked.horizons))
    last = max((t for t in horizons if not asked.why_not(t)), default=min(horizons, default=0.0))
    if last == 0:
        return []
    times, targets = (np.arange(STEPS) + 0.5) * last / STEPS, asked.known.targets
    risks, null = asked.risk(times), asked.null(times)
    mine = lambda w: integrated(risks, targets, times, w, asked.cause)
    nobody = lambda w: integrated(null[None], targets, times, w, asked.cause)
    return [
        asked.figure("integrated_brier_to", mine, last),
        asked.figure("integrated_brier_null_to", nobody, last),
        asked.figure("brier_explained_to", lambda w: 1 - mine(w) / nobody(w), last, bounded=False),
    ]
