"""Answers of several seeds: figures are means over the seeds, differences are paired by patient and by seed.

The intervals resample both patients and seeds (the pigeonhole bootstrap, Owen 2007), since both would be others another time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...schema import Figure
from ...tasks import Predictions
from ..measures.figures import rarer_of, strata_of
from ..measures.intervals import DRAWS, FEW, EvidenceError, exact, percentile, resamples
from ..measures.metrics import UNBOUNDED, same_truth, statistic


@dataclass(frozen=True)
class Drawn:
    """A metric of several groups of answers, in the sample and in resamples.

    Args:
        metric: its name.
        each: group → its value with each seed.
        rows: group → (r,) its mean over seeds, in each resample of patients and seeds.
        n, seeds: of patients and of seeds.
        rarer: how many patients of the rarer class (or events) there are, and what they are.
        split: the split's hash.
    """

    metric: str
    each: Mapping[str, tuple[float, ...]]
    rows: Mapping[str, np.ndarray]
    n: int
    seeds: int
    rarer: tuple[int, str]
    split: str

    def mean(self, name: str) -> float:
        """A group's mean over the seeds."""
        return float(np.mean(self.each[name]))

    def figure(self, name: str) -> Figure:
        """A group's mean over the seeds, with its interval."""
        return interval_of(self.metric, self.mean(name), self.rows[name], self.n, self.seeds, self.split, self.rarer)

    def difference(self, one: str, other: str) -> Figure:
        """How far one group is above another."""
        at, rows = self.mean(one) - self.mean(other), self.rows[one] - self.rows[other]
        return interval_of(f"{self.metric}_difference", at, rows, self.n, self.seeds, self.split)


def interval_of(
    name: str, value: float, rows: np.ndarray, n: int, seeds: int, split: str, rarer: tuple[int, str] | None = None
) -> Figure:
    """A figure with 95% of its resamples; without an interval where none of them has a value.

    Args:
        name, value: of the figure.
        rows: (r,) of the resamples.
        n, seeds, split: that it rests on.
        rarer: of a metric itself, how many patients (or events) its interval rests on, and what they are: where every resample is
            perfect, the bound is exact, and where they are few, the note says so.
    """
    finite = rows[np.isfinite(rows)]
    if not np.isfinite(value) or not len(finite):
        return Figure(name, value, float("nan"), float("nan"), n, split, "no interval: no resample has a value")
    if rarer and name not in UNBOUNDED and np.ptp(finite) < 1e-12 and not 1e-12 < value < 1 - 1e-12:
        interval = exact(value, *rarer)
        return Figure(name, value, interval.low, interval.high, n, split, interval.note)
    interval = percentile(value, finite)
    note = f"95% interval, percentile bootstrap over {n} patients" + (
        f" and {seeds} seeds" if seeds > 1 else "; one seed, whose chance it leaves out"
    )
    note += f"; too narrow at {rarer[0]} {rarer[1]}" if rarer and rarer[0] < FEW else ""
    return Figure(name, value, interval.low, interval.high, n, split, note)


def seeds_drawn(count: int, draws: int, seed: int) -> np.ndarray:
    """(count draws) the share of each seed in each resample of them."""
    return np.random.default_rng([seed, count]).multinomial(count, np.full(count, 1 / count), size=draws).T / count


def drawn(
    metric: str, answers: Mapping[str, Sequence[Predictions]], split: str, *, draws: int = DRAWS, seed: int = 0
) -> Drawn:
    """The metric of each group on the patients about whom all answered.

    Args:
        metric: a name in `COMPARED`.
        answers: group → answers by seed, as many of each.
        split: the split's hash.
        draws: resamples.
        seed: of the resamples.
    Raises:
        EvidenceError: there is no patient about whom all answered, or they differ about the truth.
    """
    groups = _common(answers)
    targets = next(iter(groups.values()))[0].targets
    strata, count, n = strata_of(metric, targets), len(next(iter(groups.values()))), len(targets)
    each_of = {name: [statistic(metric, replace(p, targets=targets)) for p in group] for name, group in groups.items()}
    value = lambda w: {name: np.stack([of(w) for of in group]) for name, group in each_of.items()}
    first = value(np.ones((1, n)))
    if not np.isfinite(first[next(iter(groups))]).all():
        raise EvidenceError(
            f"{n} test patients about whom all answered, of one class (or without a pair whose order is known)",
            "both classes among them", "stratify the recipes' split by the task, or let more patients test",
        )  # fmt: skip
    each = {name: tuple(found[:, 0].tolist()) for name, found in first.items()}
    found = [value(weights) for weights in resamples(strata, draws, seed)]
    picked = seeds_drawn(count, draws, seed)
    rows = {name: (np.concatenate([d[name] for d in found], axis=1) * picked).sum(0) for name in groups}
    return Drawn(metric, each, rows, n, count, rarer_of(metric, targets), split)


def _common(answers: Mapping[str, Sequence[Predictions]]) -> dict[str, list[Predictions]]:
    """The answers about the patients whom all answered about, in one order."""
    every = [p for group in answers.values() for p in group]
    shared = sorted(set(every[0].patients).intersection(*(p.patients for p in every[1:])))
    if len(shared) < 2:
        raise EvidenceError(
            f"{len(shared)} test patients about whom all answered", "at least two, of both classes",
            "split the recipes' cohorts alike, or compare recipes that read the same",
        )  # fmt: skip
    groups = {name: [in_order(p, shared) for p in group] for name, group in answers.items()}
    first = next(iter(groups.values()))[0]
    for name, group in groups.items():
        if any(not same_truth(p.targets, first.targets) for p in group):
            raise EvidenceError(f"{name} has another truth of the same patients", "one cohort", "compare on one cohort")
    return groups


def in_order(p: Predictions, patients: Sequence[str]) -> Predictions:
    """The answers about these patients, in their order."""
    place = {name: row for row, name in enumerate(p.patients)}
    rows = np.array([place[name] for name in patients], dtype=int)
    ids = tuple(p.records[row] for row in rows) if p.records else ()
    return Predictions(p.task, tuple(patients), p.outputs[rows], p.targets[rows], p.mask[rows], (), ids)
