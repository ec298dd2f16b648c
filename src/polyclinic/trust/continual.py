"""Continual learning: a sequence of tasks on one backbone, each going on from the weights that the last one left.

After each task all are asked of the test patients: those that were learned by their own heads as they were taught, those that were not
by a head that is fitted to the model as it then is (a probe, on the labels that the task will have). The latter is what
"before it is learned" means where every task has a head of its own: an untrained head would say nothing of the model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from ..adaptation import Adapted, adapt, open_adapted
from ..adaptation.adapt import planned, taught_by
from ..adaptation.forgetting import Pretraining
from ..adaptation.plan import reads_of
from ..cohort import Cohort
from ..inference import predict
from ..models import Model
from ..schema import Figure
from ..tasks import Predictions
from ..training import Run
from ..training.methods import Full, Probe, Scratch, Told, ZeroShot, methods, name_of
from ..training.repeatable import repeatable
from ..training.run import write_json
from .comparison import plain
from .discrimination import DRAWS, METRICS, PRIMARY, EvidenceError, resamples, strata_of, usable
from .kept_answers import basis, kept, key_of
from .seeded import in_order, interval_of, seeds_drawn
from .transfer import MEASURES

Progress = Callable[[int, int, str], None]
STRENGTHS = {"replay": 1.0, "rehearsal": 1.0, "ewc": 100.0, "distil": 10.0, "interpolate": 0.5}
"""What protects, and how strongly where nobody says: fields of the method `full`."""


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

    def write(self, folder: Path) -> None:
        """Write `continual.json`, `continual.md` and `continual.svg` into a folder."""
        from .continual_page import write

        write_json(folder / "continual.json", plain(asdict(self)))
        write(self, folder)

    @classmethod
    def open(cls, folder: Path) -> Continual:
        """What `write` wrote."""
        data = json.loads((folder / "continual.json").read_text(encoding="utf-8"))
        tuples = lambda value: tuple(map(tuples, value)) if isinstance(value, list) else value
        number = lambda value: float("nan") if value is None else value
        figure = lambda told: Figure(**{k: number(v) for k, v in told.items()})
        named = lambda told: {k: figure(v) for k, v in told.items()}
        ways = tuple(
            Way(
                w["protect"], tuple(tuple(map(figure, row)) for row in w["results"]), tuples(w["each"]), named(w["measures"]),
                named(w["over_first"]), {k: tuples(v) for k, v in w["pretraining"].items()},
            )
            for w in data["ways"]
        )  # fmt: skip
        lists = {k: tuple(data[k]) for k in ("tasks", "metrics", "seeds")}
        return cls(**{**data, **lists, "fresh": tuple(map(figure, data["fresh"])), "ways": ways})


def continual(
    run: Run | str | Path, tasks: Sequence[str], method: Told | Sequence[Told] = "full", *, protect: Sequence[str] = ("none",),
    labels: int | None = None, seeds: Sequence[int] = (0, 1, 2), steps: int | None = None, cohort: Cohort | str | Path | None = None,
    into: str | Path | None = None, draws: int = DRAWS, progress: Progress | None = None,
) -> Continual:  # fmt: skip
    """Teach a backbone one task after another and ask all of them after each; what is finished is not made again.

    Args:
        run: pretrained, or its folder.
        tasks: at least two of its recipe, in the order in which they are learned.
        method: of adapting; "full" moves the backbone, adapters go on learning as they are.
        protect: ways to keep the old, each a run through the whole sequence: "none", or of `STRENGTHS`, as "replay", "ewc=10" or
            "replay+distil". The others are compared with the first.
        labels: labelled patients of each task; None for all.
        seeds: of labels, heads and batches.
        steps: optimiser steps of each task; by default by task.
        cohort: where it lies now.
        into: the folder of runs, answers and results; by default below the run.
        draws: resamples.
        progress: called with done, all, what.
    Raises:
        EvidenceError: fewer than two tasks, one twice, one that cannot be judged so; no seed; no such protection; test patients of one
            class.
        AdaptError, MethodError, AdapterError: as `adapt`.
    """
    run = (run if isinstance(run, Run) else Run.open(run)).backbone
    catalogue = cohort if isinstance(cohort, Cohort) else run.cohort(cohort)
    told = methods(method)
    _check(run, tasks, told, seeds, protect)
    ways = {name: protected(told, name) for name in protect}
    for task in tasks:  # too few labels are an error now, not after an hour
        planned(run, task, told, labels, catalogue, seeds[0], steps, reads_of(run, task, None))
    place = Path(into) if into is not None else run.path / "continual" / f"{'-'.join(tasks)}-{name_of(told)}"
    school = _School(run, catalogue, tuple(tasks), labels, steps, place, basis(run, catalogue))
    total, done = len(seeds) * len(tasks) * (len(ways) + 1), 0

    def tell(what: str) -> None:
        nonlocal done
        if progress:
            progress(done, total, what)
        done += 1

    fresh, first, rows = dict[int, list[Predictions]](), dict[int, list[Predictions]](), dict[str, dict[int, Any]]()
    for seed in seeds:
        fresh[seed], first[seed] = [], []
        for task in tasks:
            tell(f"{task} before all, seed {seed}")
            fresh[seed].append(school.probed(task, seed, "fresh", lambda seed=seed: run.model(False, seed + 1)))
            first[seed].append(school.probed(task, seed, "pretrained", run.model))
        for name, specs in ways.items():
            tell_task = lambda task, name=name, seed=seed: tell(f"{task}, {name}, seed {seed}")
            rows.setdefault(name, {})[seed] = school.taught(name, specs, seed, tell_task)
    if progress:
        progress(total, total, "learned")
    made = _measured(school, name_of(told), tuple(seeds), fresh, first, rows, draws)
    made.write(place)
    return made


def _check(run: Run, tasks: Sequence[str], told: tuple[Any, ...], seeds: Sequence[int], protect: Sequence[str]) -> None:
    there = [n for n, t in run.recipe.tasks.items() if PRIMARY[t.kind] in METRICS and t.label(n) is not None]
    for name in tasks:
        if name not in there:
            raise EvidenceError(
                f"no task {name!r} to learn in a sequence", "of " + (", ".join(there) or "none"), "correct the name"
            )
    for what, names in (("task", tasks), ("seed", seeds), ("protection", protect)):
        if twice := [n for n in names if list(names).count(n) > 1]:
            raise EvidenceError(f"the {what} {twice[0]!r} twice", "each once", "leave one out")
    if len(tasks) < 2:
        raise EvidenceError(f"a sequence of {len(tasks)} task", "at least two", "name more, or use `adapt`")
    if not seeds or not protect:
        raise EvidenceError(f"{len(seeds)} seeds and {len(protect)} protections", "at least one of each", "name one")
    if isinstance(told[0], Scratch | ZeroShot):
        raise EvidenceError(
            f"a sequence by {told[0].kind}", "a method that goes on from a backbone", "learn by full or lora"
        )


def protected(told: tuple[Any, ...], protect: str) -> tuple[Any, ...]:
    """A method with what keeps the old.

    Raises:
        EvidenceError: there is no such protection, its strength is none, or the method leaves the backbone as it is.
    """
    wanted: dict[str, float] = {}
    for part in protect.split("+") if protect != "none" else ():
        name, _, strength = part.partition("=")
        if name not in STRENGTHS:
            raise EvidenceError(f"no protection {name!r}", "none, " + ", ".join(STRENGTHS), "correct it")
        try:
            wanted[name] = float(strength) if strength else STRENGTHS[name]
        except ValueError as error:
            raise EvidenceError(
                f"the protection {part!r}", f"a number, as {name}={STRENGTHS[name]:g}", "correct it"
            ) from error
    if not wanted:
        return told
    if not isinstance(told[0], Full):
        raise EvidenceError(
            f"the protection {protect!r} of {name_of(told)}", "the method full", "learn by full, or protect by none"
        )
    try:
        return (Full.model_validate(told[0].model_dump() | wanted),)
    except ValidationError as error:
        first = error.errors()[0]
        raise EvidenceError(
            f"the protection {protect!r}: {first['loc'][0]}: {first['msg']}", "a strength", "correct it"
        ) from error


@dataclass(frozen=True, slots=True)
class _School:
    """What stays the same through all seeds and protections."""

    run: Run
    cohort: Cohort
    tasks: tuple[str, ...]
    labels: int | None
    steps: int | None
    place: Path
    basis: str

    def probed(self, task: str, seed: int, name: str, model: Callable[[], Model], *key: Any) -> Predictions:
        """A task's answers by a head that is fitted to a model as it is."""

        def make() -> Predictions:
            reads = reads_of(self.run, task, None)
            plan = planned(self.run, task, (Probe(),), self.labels, self.cohort, seed, self.steps, reads)
            as_it_is, head, _ = taught_by(plan, model=model())
            return self._asked(Adapted(self.run, task, as_it_is.requires_grad_(False).eval(), head.eval(), reads))

        told = key_of(self.basis, task, seed, self.labels, self.steps, name, *key)
        return kept(self.place / "answers" / f"{name}-{seed}-{task}-{told}.json", make)

    def _asked(self, adapted: Adapted) -> Predictions:
        with repeatable():
            return usable(predict(adapted, self.cohort))

    def taught(
        self, name: str, specs: tuple[Any, ...], seed: int, tell: Callable[[str], None]
    ) -> list[tuple[list[Predictions], dict[str, float]]]:
        """After each task: all tasks' answers, and the losses of pretraining."""
        told: list[Any] = [self.basis, seed, self.labels, self.steps]
        done, rows = list[Run](), list[tuple[list[Predictions], dict[str, float]]]()
        for number, task in enumerate(self.tasks):
            tell(task)
            own = specs if number or not isinstance(specs[0], Full) else (specs[0].model_copy(update={"replay": 0.0}),)
            told += [task, [s.model_dump(mode="json") for s in own]]
            key = key_of(*told)
            where = f"{name}-{seed}-{number + 1}-{task}-{key}"
            done.append(self._learned(task, own, seed, done[-1] if done else None, self.place / "runs" / where))
            rows.append(self._row(done, number, seed, f"{name}-{number + 1}", where, key))
        return rows

    def _learned(self, task: str, specs: tuple[Any, ...], seed: int, after: Run | None, place: Path) -> Run:
        if (place / "adapter.json").exists():  # it is written last
            return Run.open(place)
        return adapt(
            self.run, task, specs, self.labels, cohort=self.cohort, seed=seed, steps=self.steps, after=after, into=place
        )

    def _row(
        self, done: Sequence[Run], number: int, seed: int, name: str, where: str, key: str
    ) -> tuple[list[Predictions], dict[str, float]]:
        """All tasks after one of them; the model is read only where an answer is not kept yet."""
        opened = list[Adapted]()

        def model() -> Model:
            if not opened:
                opened.append(open_adapted(done[number], folded=False))
            return opened[0].model

        def own(earlier: Run) -> Predictions:
            taught = open_adapted(earlier, folded=False)
            return self._asked(Adapted(taught.run, taught.name, model(), taught.task, taught.inputs))

        answers = []
        for j, task in enumerate(self.tasks):
            if j <= number:
                answers.append(kept(self.place / "answers" / f"{where}-asked-{task}.json", lambda j=j: own(done[j])))
            else:
                answers.append(self.probed(task, seed, name, model, key))
        lost = self.place / "answers" / f"{where}-pretraining.json"
        if not lost.exists():
            write_json(lost, losses(self.run, self.cohort, model()))
        return answers, json.loads(lost.read_text(encoding="utf-8"))


def losses(run: Run, cohort: Cohort, model: Model) -> dict[str, float]:
    """The terms of pretraining's loss on patients kept for testing."""
    with repeatable():
        found = Pretraining(run, cohort, train=False).losses(model.requires_grad_(True))
    model.requires_grad_(False)
    return found


def _measured(
    school: _School, method: str, seeds: tuple[int, ...], fresh: Mapping[int, list[Predictions]], first: Mapping[int, list[Predictions]],
    rows: Mapping[str, Mapping[int, Any]], draws: int,
) -> Continual:  # fmt: skip
    """Every cell and every measure, in the sample and in the same resamples of patients and seeds."""
    tasks, split = school.tasks, school.run.split.hash
    metrics = tuple(PRIMARY[school.run.recipe.tasks[t].kind] for t in tasks)
    grid = {w: [[first[s], *(answers for answers, _ in rows[w][s])] for s in seeds] for w in rows}  # way, seed, i, j
    every = [
        [row[j] for way in grid.values() for one in way for row in one] + [fresh[s][j] for s in seeds]
        for j in range(len(tasks))
    ]
    who = [sorted(set(each[0].patients).intersection(*(p.patients for p in each[1:]))) for each in every]
    patients = sorted(set().union(*who))
    truth = [in_order(each[0], mine).targets for each, mine in zip(every, who, strict=True)]
    places = [np.searchsorted(patients, mine) for mine in who]

    def value(answers: Sequence[Predictions], weights: np.ndarray) -> np.ndarray:  # (T r)
        return np.stack([
            METRICS[metrics[j]](in_order(answers[j], who[j]).outputs, truth[j], weights[:, places[j]]) for j in range(len(tasks))
        ])  # fmt: skip

    def all_of(weights: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:  # (S T+1 T r) of each way, (S T r)
        ways = {w: np.stack([np.stack([value(row, weights) for row in one]) for one in grid[w]]) for w in grid}
        return ways, np.stack([value(fresh[s], weights) for s in seeds])

    at, at_fresh = all_of(np.ones((1, len(patients))))
    for j, task in enumerate(tasks):
        if not np.isfinite(at_fresh[:, j]).all():
            raise EvidenceError(
                f"{len(who[j])} test patients of {task!r}, of one class (or without a pair whose order is known)",
                "both classes among them", "stratify the recipe's split by the task, or let more patients test",
            )  # fmt: skip
    chunks = [all_of(weights) for weights in resamples(_strata(metrics, truth, places, len(patients)), draws, 0)]
    drawn = {w: np.concatenate([ways[w] for ways, _ in chunks], axis=-1) for w in grid}
    drawn_fresh = np.concatenate([one for _, one in chunks], axis=-1)
    picked = seeds_drawn(len(seeds), draws, 0)
    over_seeds = lambda values: (values * picked.reshape(len(seeds), *[1] * (values.ndim - 2), -1)).sum(0)
    said = lambda name, value, spread, n: interval_of(name, float(value), spread, n, len(seeds), split)
    cell = lambda j, value, spread: said(metrics[j], value, spread, len(who[j]))
    measured = {w: _measures(at[w], at_fresh) for w in grid}
    spread = {w: {k: over_seeds(v) for k, v in _measures(drawn[w], drawn_fresh).items()} for w in grid}
    start, ways = next(iter(grid)), list[Way]()
    for w in grid:
        mean, rest = at[w].mean(0)[..., 0], over_seeds(drawn[w])
        told = {k: float(v.mean()) for k, v in measured[w].items()}
        over = {} if w == start else {
            k: said(f"{k}_difference", told[k] - float(measured[start][k].mean()), spread[w][k] - spread[start][k], len(patients))
            for k in MEASURES
        }  # fmt: skip
        ways.append(Way(
            w,
            tuple(tuple(cell(j, mean[i, j], rest[i, j]) for j in range(len(tasks))) for i in range(len(tasks) + 1)),
            tuple(tuple(tuple(map(float, row)) for row in one[..., 0]) for one in at[w]),
            {k: said(k, told[k], spread[w][k], len(patients)) for k in MEASURES}, over,
            _lost(school, rows[w], seeds),
        ))  # fmt: skip
    mean_fresh, rest_fresh = at_fresh.mean(0)[..., 0], over_seeds(drawn_fresh)
    figures = tuple(cell(j, mean_fresh[j], rest_fresh[j]) for j in range(len(tasks)))
    return Continual(school.run.path.name, tasks, metrics, method, school.labels, seeds, figures, tuple(ways), split)


def _measures(results: np.ndarray, fresh: np.ndarray) -> dict[str, np.ndarray]:
    """Name → (S r) of results (S T+1 T r) and fresh (S T r)."""
    return {k: np.stack([of(*one) for one in zip(results, fresh, strict=True)]) for k, of in MEASURES.items()}


def _strata(
    metrics: Sequence[str], truth: Sequence[np.ndarray], places: Sequence[np.ndarray], count: int
) -> np.ndarray:
    """(n,) what a resample must keep the share of in every task at once: who is asked of several counts in all of them."""
    kinds = np.full((count, len(metrics)), -1)
    for j, metric in enumerate(metrics):
        kinds[places[j], j] = strata_of(metric, truth[j])
    return np.unique(kinds, axis=0, return_inverse=True)[1].reshape(-1)


def _lost(school: _School, rows: Mapping[int, Any], seeds: Sequence[int]) -> dict[str, tuple[tuple[float, ...], ...]]:
    """Term → (T + 1, S): pretraining's losses before all tasks and after each."""
    place = school.place / "answers" / f"pretraining-{school.basis}.json"
    if not place.exists():
        write_json(place, losses(school.run, school.cohort, school.run.model()))
    before = json.loads(place.read_text(encoding="utf-8"))
    after = [[rows[s][i][1] for s in seeds] for i in range(len(school.tasks))]
    return {
        term: ((start,) * len(seeds), *(tuple(one.get(term, float("nan")) for one in row) for row in after))
        for term, start in before.items()
    }
