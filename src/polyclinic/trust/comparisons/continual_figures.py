"""The figures of a sequence of tasks: every cell and every measure, in the sample and in the same resamples of patients and seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...harmonise.unread import Unread
from ...schema import Figure
from ...tasks import Predictions
from ...training.run import write_json
from ..measures.figures import rarer_of, strata_of
from ..measures.intervals import EvidenceError, resamples
from ..measures.metrics import PRIMARY, statistic
from ..measures.transfer import MEASURES
from ..measures.written import figure_of, plain
from .seeded import in_order, interval_of, seeds_drawn
from .sequence import School, Step


@dataclass(frozen=True, slots=True)
class Way:
    """The sequence under one protection.

    Args:
        protect: what was kept of the old, and how; "none" for the method as it is.
        results: R[i, j], i = 0 … T, j = 0 … T − 1: the metric of task j after i tasks, mean over the seeds.
        each: the same of each seed.
        measures: name (in `transfer.MEASURES`) → its figure.
        over_first: name → this way's measure minus the first way's, paired by patient and by seed; empty of the first.
        pretraining: term of pretraining's loss → (T + 1, seeds) on patients kept for testing.
    """

    protect: str
    results: tuple[tuple[Figure, ...], ...]
    each: tuple[tuple[tuple[float, ...], ...], ...]
    measures: Mapping[str, Figure]
    over_first: Mapping[str, Figure]
    pretraining: Mapping[str, tuple[tuple[float, ...], ...]]


@dataclass(frozen=True, slots=True)
class Continual:
    """A sequence of tasks, and what it taught and cost.

    Args:
        run: the backbone's folder.
        tasks, metrics: in the order in which they were learned, and by what each is judged.
        method: how.
        labels: of each task; None for all.
        seeds: of labels, heads and batches.
        fresh: each task by a head on the same network with fresh weights: the baseline of forward transfer.
        ways: one a protection, in the order asked.
        split: the split's hash.
        unread: who of either side could not be read, and why.
    """

    run: str
    tasks: tuple[str, ...]
    metrics: tuple[str, ...]
    method: str
    labels: int | None
    seeds: tuple[int, ...]
    fresh: tuple[Figure, ...]
    ways: tuple[Way, ...]
    split: str
    unread: tuple[Unread, ...] = ()

    def write(self, folder: Path) -> None:
        """Write `continual.json` and `continual.html` into a folder."""
        from .continual_page import write

        write_json(folder / "continual.json", plain(asdict(self)))
        write(self, folder)

    @classmethod
    def open(cls, folder: Path) -> Continual:
        """What `write` wrote."""
        data = json.loads((folder / "continual.json").read_text(encoding="utf-8"))
        named = lambda told: {k: figure_of(v) for k, v in told.items()}
        ways = tuple(
            Way(
                w["protect"], tuple(tuple(map(figure_of, row)) for row in w["results"]), _tuples(w["each"]), named(w["measures"]),
                named(w["over_first"]), {k: _tuples(v) for k, v in w["pretraining"].items()},
            )
            for w in data["ways"]
        )  # fmt: skip
        lists = {k: tuple(data[k]) for k in ("tasks", "metrics", "seeds")}
        unread = tuple(Unread(**one) for one in data.get("unread", ()))
        return cls(**{**data, **lists, "fresh": tuple(map(figure_of, data["fresh"])), "ways": ways, "unread": unread})


def _tuples(value: Any) -> Any:
    """Lists of JSON as tuples, null as NaN."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else math.nan if value is None else value


@dataclass(frozen=True, slots=True)
class Answers:
    """All answers of a sequence.

    Args:
        fresh, pretrained: of each seed: all tasks before any was learned.
        ways: protection → of each seed: the steps.
        lost: pretraining's losses before all tasks.
    """

    fresh: Sequence[Sequence[Predictions]]
    pretrained: Sequence[Sequence[Predictions]]
    ways: Mapping[str, Sequence[Sequence[Step]]]
    lost: Mapping[str, float]

    def rows(self, way: str) -> list[list[Sequence[Predictions]]]:
        """Of each seed: all tasks' answers before all and after each."""
        steps = zip(self.pretrained, self.ways[way], strict=True)
        return [[first, *(step.answers for step in each)] for first, each in steps]

    @property
    def unread(self) -> dict[str, Unread]:
        """Who could not be read, of those who were learned from and of those who were asked about; by the record."""
        steps = [step for way in self.ways.values() for each in way for step in each]
        rows = [*self.fresh, *self.pretrained, *(step.answers for step in steps)]
        learned = [one for step in steps for one in step.unread]
        return {one.record: one for one in (*learned, *(one for row in rows for said in row for one in said.unread))}


class _Grid:
    """The answers as numbers: each task on the patients about whom all models answered, a patient of several tasks in all of them.

    Args:
        school: whose tasks.
        answers: of it.
    """

    def __init__(self, school: School, answers: Answers) -> None:
        self.answers, self.metrics = answers, [PRIMARY[school.run.recipe.tasks[t].kind] for t in school.tasks]
        every = [*answers.fresh, *(row for way in answers.ways for one in answers.rows(way) for row in one)]
        columns = list(zip(*every, strict=True))
        self.who = [sorted(set(c[0].patients).intersection(*(p.patients for p in c[1:]))) for c in columns]
        self.patients = sorted(set().union(*self.who))
        self.truth = [in_order(c[0], mine).targets for c, mine in zip(columns, self.who, strict=True)]
        self.places = [np.searchsorted(self.patients, mine) for mine in self.who]

    @property
    def strata(self) -> np.ndarray:
        """(n,) what a resample must keep the share of in every task at once."""
        kinds = np.full((len(self.patients), len(self.metrics)), -1)
        for j, metric in enumerate(self.metrics):
            kinds[self.places[j], j] = strata_of(metric, self.truth[j])
        return np.unique(kinds, axis=0, return_inverse=True)[1].reshape(-1)

    def rarer(self, task: int) -> tuple[int, str]:
        """How many patients of the rarer class (or events) a task's interval rests on, and what they are."""
        return rarer_of(self.metrics[task], self.truth[task])

    def _row(self, row: Sequence[Predictions], weights: np.ndarray) -> np.ndarray:
        """(T r)"""
        said = [replace(in_order(p, who), targets=t) for p, who, t in zip(row, self.who, self.truth, strict=True)]
        parts = zip(self.metrics, said, self.places, strict=True)
        return np.stack([statistic(metric, told)(weights[:, at]) for metric, told, at in parts])

    def fresh(self, weights: np.ndarray) -> np.ndarray:
        """(S T r)"""
        return np.stack([self._row(row, weights) for row in self.answers.fresh])

    def way(self, name: str, weights: np.ndarray) -> np.ndarray:
        """(S T+1 T r)"""
        return np.stack([np.stack([self._row(row, weights) for row in one]) for one in self.answers.rows(name)])


@dataclass(frozen=True)
class _Judge:
    """Makes figures of values (S …) and of their resamples (S … r)."""

    seeds: int
    split: str
    picked: np.ndarray

    def over_seeds(self, drawn: np.ndarray) -> np.ndarray:
        """(S … r) → (… r): the mean over the seeds of each resample of them."""
        return (drawn * self.picked.reshape(self.seeds, *[1] * (drawn.ndim - 2), -1)).sum(0)

    def figure(
        self, name: str, values: np.ndarray, rows: np.ndarray, n: int, rarer: tuple[int, str] | None = None
    ) -> Figure:
        """Of (S,) values, and of rows (r,) that are means over seeds already."""
        return interval_of(name, float(values.mean()), rows, n, self.seeds, self.split, rarer)


def measured(school: School, method: str, seeds: tuple[int, ...], answers: Answers, draws: int) -> Continual:
    """Every cell and every measure.

    Args:
        school: whose tasks.
        method: what it is called.
        seeds: in the order of the answers.
        answers: of all seeds and protections.
        draws: resamples.
    Raises:
        EvidenceError: test patients of one class.
    """
    grid, tasks, split = _Grid(school, answers), school.tasks, school.run.split.hash
    one = np.ones((1, len(grid.patients)))
    at_fresh = grid.fresh(one)
    for j, task in enumerate(tasks):
        if not np.isfinite(at_fresh[:, j]).all():
            raise EvidenceError(
                f"{len(grid.who[j])} test patients of {task!r}, of one class (or without a pair whose order is known)",
                "both classes among them", "stratify the recipe's split by the task, or let more patients test",
            )  # fmt: skip
    strata = grid.strata
    again = lambda of: np.concatenate([of(weights) for weights in resamples(strata, draws, 0)], axis=-1)
    judge = _Judge(len(seeds), split, seeds_drawn(len(seeds), draws, 0))
    fresh = again(grid.fresh)
    ways, first = list[Way](), None
    for name in answers.ways:
        at, drawn = grid.way(name, one), again(lambda weights, name=name: grid.way(name, weights))
        told = {k: (v, judge.over_seeds(w)) for k, (v, w) in _measures(at, at_fresh, drawn, fresh).items()}
        first = first or told
        ways.append(_way(name, grid, judge, at, judge.over_seeds(drawn), told, first, _lost(answers, name)))
    figures = judge.over_seeds(fresh)
    cells = [
        judge.figure(m, at_fresh[:, j], figures[j], len(grid.who[j]), grid.rarer(j)) for j, m in enumerate(grid.metrics)
    ]
    aside = answers.unread | school.run.unread
    return Continual(
        school.run.path.name, tasks, tuple(grid.metrics), method, school.labels, seeds, tuple(cells), tuple(ways), split,
        tuple(aside.values()),
    )  # fmt: skip


Told = dict[str, tuple[np.ndarray, np.ndarray]]
"""Measure → its values (S 1), and the means over seeds of its resamples (r,)."""
Lost = dict[str, tuple[tuple[float, ...], ...]]
"""Term of pretraining's loss → (T + 1, S)."""


def _way(
    name: str, grid: _Grid, judge: _Judge, at: np.ndarray, rows: np.ndarray, told: Told, first: Told, lost: Lost
) -> Way:  # fmt: skip
    """The figures of one protection, and how far its measures are from the first's.

    Args:
        at, rows: (S T+1 T 1) values and (T+1 T r) resamples of the cells.
        told, first: this one's measures and the first's.
    """
    n = len(grid.patients)
    cell = lambda i, j: judge.figure(grid.metrics[j], at[:, i, j], rows[i, j], len(grid.who[j]), grid.rarer(j))
    over = {
        k: judge.figure(f"{k}_difference", told[k][0] - first[k][0], told[k][1] - first[k][1], n)
        for k in (MEASURES if told is not first else ())
    }
    return Way(
        name,
        tuple(tuple(cell(i, j) for j in range(at.shape[2])) for i in range(at.shape[1])),
        tuple(tuple(tuple(map(float, row)) for row in one[..., 0]) for one in at),
        {k: judge.figure(k, values, drawn, n) for k, (values, drawn) in told.items()}, over, lost,
    )  # fmt: skip


def _measures(at: np.ndarray, at_fresh: np.ndarray, drawn: np.ndarray, fresh: np.ndarray) -> Told:
    """Measure → (S 1) of the sample and (S r) of the resamples."""
    each = lambda of, results, base: np.stack([of(*one) for one in zip(results, base, strict=True)])
    return {k: (each(of, at, at_fresh), each(of, drawn, fresh)) for k, of in MEASURES.items()}


def _lost(answers: Answers, way: str) -> Lost:
    """Term → (T + 1, S): pretraining's losses before all tasks and after each."""
    each = answers.ways[way]
    count = len(each[0])
    return {
        term: (
            (start,) * len(each),
            *(tuple(s[i].pretraining.get(term, float("nan")) for s in each) for i in range(count)),
        )
        for term, start in answers.lost.items()
    }
