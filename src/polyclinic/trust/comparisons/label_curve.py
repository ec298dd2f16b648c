"""Label efficiency: what a backbone is worth in labels.

At each number of labels, with each seed, a run is adapted beside the same network from scratch, beside itself reading one modality alone
and beside a strong simple baseline, all on the very same labelled patients. The labels of a seed are nested: the first ten are among the
fifty. Then the two curves are read across: how many labels from scratch reach what the pretrained reaches with so many?
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ...adaptation import Adapted
from ...adaptation.adapt import planned, taught_by
from ...adaptation.plan import reads_of
from ...cohort import Cohort, subset
from ...harmonise.unread import Unread
from ...inference import predict
from ...schema import Figure, Modality, PolyclinicError
from ...tasks import Predictions
from ...training import InterruptedRunError, Run
from ...training.methods import Scratch, Told, ZeroShot, methods, name_of
from ...training.repeatable import repeatable
from ...training.run import write_json
from ..measures.figures import usable
from ..measures.intervals import DRAWS, EvidenceError
from ..measures.metrics import COMPARED, PRIMARY
from .comparison import FEW_LABELS, Cell, Skipped, baseline, figure_of, plain
from .kept_answers import basis, kept, key_of
from .seeded import Drawn, drawn, interval_of
from .sequence import Teller

Progress = Callable[[int, int, str], None]
BASELINES = ("scratch", "single", "plain")
"""The same network from fresh weights; the method reading one modality alone; the simple baselines of `trust.baselines`."""


@dataclass(frozen=True, slots=True)
class Point:
    """One arm at one number of labels.

    Args:
        arm: "pretrained", "scratch", "image alone" … or "plain".
        labels: how many labelled patients there were.
        read: how many of them the arm could read, mean of the seeds.
        figure: the task's metric, mean over the seeds.
        each: of each seed.
        behind: the pretrained minus this arm, paired, on the patients about whom both answered; None of the pretrained.
    """

    arm: str
    labels: int
    read: float
    figure: Figure
    each: tuple[float, ...]
    behind: Figure | None = None


@dataclass(frozen=True, slots=True)
class Saved:
    """What pretraining saves at one number of labels.

    Args:
        labels: that the pretrained had.
        needed: labels from scratch that reach the same, between two numbers by their logarithms; NaN where none of those tried did,
            as is an end of the interval that lies beyond them.
        fewest: whether the fewest from scratch reach it already, so that `needed` is no more than a bound.
    """

    labels: int
    needed: Figure
    fewest: bool


@dataclass(frozen=True, slots=True)
class LabelCurve:
    """The whole curve.

    Args:
        run: the backbone's folder.
        task, metric, method, inputs: what was asked, by what it is judged, how, from what.
        seeds: of the labels' order, heads and batches.
        points: by arm, then by labels.
        saved: by labels; empty where scratch was not tried.
        skipped: what could not be run, and why.
        split: the split's hash.
        unread: who of either side could not be read, and why.
    """

    run: str
    task: str
    metric: str
    method: str
    inputs: tuple[str, ...]
    seeds: tuple[int, ...]
    points: tuple[Point, ...]
    saved: tuple[Saved, ...]
    skipped: tuple[Skipped, ...]
    split: str
    unread: tuple[Unread, ...] = ()

    @property
    def arms(self) -> list[str]:
        """Who was tried, the pretrained first."""
        return list(dict.fromkeys(p.arm for p in self.points))

    def write(self, folder: Path) -> None:
        """Write `labels.json` and `labels.html` into a folder."""
        from .label_page import write

        write_json(folder / "labels.json", plain(asdict(self)))
        write(self, folder)

    @classmethod
    def open(cls, folder: Path) -> LabelCurve:
        """What `write` wrote."""
        data = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
        each = lambda values: tuple(math.nan if v is None else v for v in values)
        points = tuple(
            Point(**{**p, "each": each(p["each"]), "figure": figure_of(p["figure"]), "behind": figure_of(p["behind"])})
            for p in data["points"]
        )
        saved = tuple(Saved(**{**s, "needed": figure_of(s["needed"])}) for s in data["saved"])
        lists = {k: tuple(data[k]) for k in ("inputs", "seeds")}
        skipped = tuple(Skipped(**s) for s in data["skipped"])
        unread = tuple(Unread(**one) for one in data.get("unread", ()))
        return cls(**{**data, **lists, "points": points, "saved": saved, "skipped": skipped, "unread": unread})


def label_curve(
    run: Run | str | Path, task: str, labels: Sequence[int | None], method: Told | Sequence[Told] | None = None, *,
    baselines: Sequence[str] = BASELINES, seeds: Sequence[int] = (0, 1, 2), steps: int | None = None,
    inputs: Sequence[Modality | str] | None = None, cohort: Cohort | str | Path | None = None, into: str | Path | None = None,
    draws: int = DRAWS, minutes: float | None = None, progress: Progress | None = None,
) -> LabelCurve:  # fmt: skip
    """Adapt with each number of labels and each seed, beside the baselines; what is finished is not made again.

    Args:
        run: pretrained, or its folder.
        task: of its recipe.
        labels: numbers, ascending; None, as the last, for all there are.
        method: of adapting; by default the recipe's.
        baselines: of `BASELINES`.
        seeds: of the labels' order, heads and batches.
        steps: optimiser steps, from scratch too; by default by task, labels and method.
        inputs: the modalities that may be read; by default the task's.
        cohort: where it lies now.
        into: the folder of answers and results; by default below the run.
        draws: resamples.
        minutes: after so many nothing new begins; what is left of the baselines is listed in `skipped`.
        progress: called with done, all, what.
    Raises:
        InterruptedRunError: the minutes were over before the pretrained was asked at every number.
        EvidenceError: numbers that are not ascending, or above what there are; labels of which one class is absent; a task, a method or a
            baseline that has no such curve; test patients of one class.
        AdaptError, MethodError, AdapterError: as `adapt`.
    """
    run = (run if isinstance(run, Run) else Run.open(run)).backbone
    catalogue = cohort if isinstance(cohort, Cohort) else run.cohort(cohort)
    told = run.recipe.adaptation if method is None else methods(method)
    _check(run, task, told, baselines, seeds)
    reads = reads_of(run, task, inputs)
    run.unread.clear()
    numbers, chosen = _nested(run, catalogue, task, labels, seeds, reads)
    place = Path(into) if into is not None else run.path / "labels" / f"{task}-{name_of(told)}"
    arms = _arms(told, reads, baselines)
    tell = Teller(progress, len(arms) * len(numbers) * len(seeds), minutes)
    bench = _Bench(run, catalogue, task, reads, steps, place, basis(run, catalogue), tell)
    answers, read, skipped = (
        dict[tuple[str, int], list[Predictions]](),
        dict[tuple[str, int], list[int]](),
        list[Skipped](),
    )
    for arm, count in ((arm, count) for arm in arms for count in numbers):
        try:
            each = [bench.asked(arm, *arms[arm], chosen[seed, count], seed) for seed in seeds]
        except PolyclinicError as error:
            if arm == "pretrained" or (arm == "scratch" and not isinstance(error, InterruptedRunError)):
                raise
            skipped.append(Skipped(task, f"{arm}, {count} labels", error.found))
            continue
        answers[arm, count], read[arm, count] = [a for a, _ in each], [n for _, n in each]
    tell.end("compared")
    metric, split = PRIMARY[run.recipe.tasks[task].kind], run.split.hash
    points, saved = _judged(task, metric, split, answers, read, numbers, draws, skipped)
    unread = {**run.unread, **{one.record: one for each in answers.values() for said in each for one in said.unread}}
    made = LabelCurve(
        run.path.name,
        task,
        metric,
        name_of(told),
        tuple(m.value for m in reads),
        tuple(seeds),
        points,
        saved,
        tuple(skipped),
        split,
        tuple(unread.values()),
    )
    made.write(place)
    return made


def _check(run: Run, task: str, told: tuple[Any, ...], baselines: Sequence[str], seeds: Sequence[int]) -> None:
    there = [n for n, t in run.recipe.tasks.items() if PRIMARY[t.kind] in COMPARED and t.label(n) is not None]
    if task not in there:
        raise EvidenceError(
            f"no task {task!r} with labels to count", "of " + (", ".join(there) or "none"), "correct the name"
        )
    if isinstance(told[0], Scratch | ZeroShot):
        raise EvidenceError(
            f"a curve of the method {told[0].kind}",
            "one that learns from labels on the backbone",
            "adapt by lora or probe",
        )
    for name in baselines:
        if name not in BASELINES:
            raise EvidenceError(f"no baseline {name!r}", "of " + ", ".join(BASELINES), "correct it")
    if not seeds or len(set(seeds)) < len(seeds):
        raise EvidenceError(f"the seeds {list(seeds)}", "at least one, each once", "correct them")


def _arms(
    told: tuple[Any, ...], reads: Sequence[Modality], baselines: Sequence[str]
) -> dict[str, tuple[Any, tuple[Modality, ...]]]:
    """Arm → its method (None for the simple baseline) and what it reads."""
    found: dict[str, tuple[Any, tuple[Modality, ...]]] = {"pretrained": (told, tuple(reads))}
    if "scratch" in baselines:
        found["scratch"] = ((Scratch(),), tuple(reads))
    if "single" in baselines and len(reads) > 1:
        found |= {f"{m.value} alone": (told, (m,)) for m in reads}
    if "plain" in baselines:
        found["plain"] = (None, tuple(reads))
    return found


def _nested(
    run: Run, cohort: Cohort, task: str, labels: Sequence[int | None], seeds: Sequence[int], reads: Sequence[Modality]
) -> tuple[list[int], dict[tuple[int, int], tuple[str, ...]]]:
    """The numbers, and whose labels they are with each seed: fewer are always among more.

    Raises:
        EvidenceError: they are not ascending, or above what there are, or one class is absent.
    """
    loader = run.loader(cohort, run.split.train, (task,))
    known = {p: v for p, v in loader.labelled(task).items() if set(reads) & set(loader.by_patient[p])}
    known = {p: known[p] for p in loader.readable(list(known), reads)}
    label, told = loader.labels[0], ", ".join("all" if n is None else str(n) for n in labels)
    numbers = [len(known) if n is None else n for n in labels]
    if not numbers or min(numbers) < 1 or None in labels[:-1]:
        raise EvidenceError(
            f"the numbers of labels {told or 'none'}", "numbers from 1, and `all` at most as the last", "correct them"
        )
    if max(numbers) > len(known):
        raise EvidenceError(
            f"{max(numbers)} labels of {task!r}", f"at most {len(known)}, as many as training patients have who can be read",
            "ask for fewer, or for all",
        )  # fmt: skip
    if any(a >= b for a, b in pairwise(numbers)):
        all_are = f" (all are {len(known)})" if None in labels else ""
        raise EvidenceError(
            f"the numbers of labels {told}{all_are}",
            "each larger than the one before it",
            "put them in order, each once",
        )
    groups = dict(zip(known, label.groups(list(known.values())), strict=True))
    chosen = {}
    for seed in seeds:
        for count in numbers:
            mine = subset(groups, count, seed)
            if lacking := label.lacking([known[p] for p in mine]):
                raise EvidenceError(
                    f"{count} labels with seed {seed} {lacking[0]}", lacking[1], "begin with more labels"
                )
            chosen[seed, count] = tuple(sorted(mine))
    return numbers, chosen


@dataclass(frozen=True, slots=True)
class _Bench:
    """What stays the same through all arms, numbers and seeds."""

    run: Run
    cohort: Cohort
    task: str
    reads: tuple[Modality, ...]
    steps: int | None
    place: Path
    basis: str
    tell: Teller

    def asked(
        self, arm: str, method: tuple[Any, ...] | None, reads: tuple[Modality, ...], who: tuple[str, ...], seed: int
    ) -> tuple[Predictions, int]:
        """An arm's answers about the test patients, and how many of the labelled it could read."""
        self.tell.begin(f"{arm}, {len(who)} labels, seed {seed}")
        specs = None if method is None else [m.model_dump(mode="json") for m in method]
        told = key_of(self.basis, self.task, specs, [m.value for m in reads], who, seed if method else None, self.steps)
        there = self.place / "answers" / f"{arm.replace(' ', '-')}-{len(who)}-{seed}-{told}.json"
        learn = (lambda: self._plain(who)) if method is None else (lambda: self._adapted(method, reads, who, seed))
        has = self.run.loader(self.cohort, who).by_patient
        return kept(there, learn), sum(bool(set(reads) & set(has.get(p, {}))) for p in who)

    def _adapted(
        self, method: tuple[Any, ...], reads: tuple[Modality, ...], who: tuple[str, ...], seed: int
    ) -> Predictions:
        plan = planned(self.run, self.task, method, who, self.cohort, seed, self.steps, reads)
        model, head, _ = taught_by(plan, self.tell.step)
        with repeatable():
            return usable(
                predict(
                    Adapted(self.run, self.task, model.requires_grad_(False).eval(), head.eval(), reads), self.cohort
                )
            )

    def _plain(self, who: tuple[str, ...]) -> Predictions:
        kind = self.run.recipe.tasks[self.task].kind
        if kind not in FEW_LABELS:
            raise EvidenceError(f"a {kind}, of which there is no simple baseline", ", ".join(FEW_LABELS), "")
        loader = self.run.loader(self.cohort, self.run.split.test, (self.task,))
        known = loader.labelled(self.task)
        test = [p for p in loader.patients if p in known and set(self.reads) & set(loader.by_patient[p])]
        able = tuple(loader.readable(test, self.reads))
        return usable(baseline(self.run, self.cohort, Cell(self.task, self.reads, None), who, able))


def _judged(
    task: str, metric: str, split: str, answers: Mapping[tuple[str, int], Sequence[Predictions]],
    read: Mapping[tuple[str, int], Sequence[int]], numbers: Sequence[int], draws: int, skipped: list[Skipped],
) -> tuple[tuple[Point, ...], tuple[Saved, ...]]:  # fmt: skip
    """Each point on the patients whom its arm answered about; its distance from the pretrained on those whom both did."""
    points = []
    for (arm, count), mine in answers.items():
        pair = {"pretrained": answers["pretrained", count], arm: mine}
        try:
            both, own = drawn(metric, pair, split, draws=draws), drawn(metric, {arm: mine}, split, draws=draws)
        except EvidenceError as error:  # few test patients have the one modality
            if arm in ("pretrained", "scratch"):
                raise
            skipped.append(Skipped(task, f"{arm}, {count} labels", error.found))
            continue
        behind = both.difference("pretrained", arm) if arm != "pretrained" else None
        points.append(Point(arm, count, float(np.mean(read[arm, count])), own.figure(arm), own.each[arm], behind))
    if not all(("scratch", n) in answers for n in numbers):
        return tuple(points), ()
    wanted = {f"{arm} {n}": answers[arm, n] for arm in ("pretrained", "scratch") for n in numbers}
    return tuple(points), _saved(drawn(metric, wanted, split, draws=draws), numbers)


def _saved(found: Drawn, numbers: Sequence[int]) -> tuple[Saved, ...]:
    """How many labels from scratch reach what the pretrained reaches, with their interval."""
    curve = [found.mean(f"scratch {n}") for n in numbers]
    rows = np.stack([found.rows[f"scratch {n}"] for n in numbers])
    saved = []
    for count in numbers:
        at = needed(numbers, curve, found.mean(f"pretrained {count}"))
        spread = np.array([
            needed(numbers, one, goal) for one, goal in zip(rows.T, found.rows[f"pretrained {count}"], strict=True)
        ])  # fmt: skip
        beyond = float((~np.isfinite(spread)).mean())
        ends = [float(np.quantile(spread, q, method="inverted_cdf")) for q in (0.025, 0.975)]
        low, high, value = (v if math.isfinite(v) else math.nan for v in (*ends, at))
        note = interval_of("labels_needed", 0.0, np.zeros(1), found.n, found.seeds, found.split).note
        note += f"; not reached in {beyond:.0%} of the resamples" if beyond else ""
        figure = Figure("labels_needed", value, low, high, found.n, found.split, note)
        saved.append(Saved(count, figure, at <= numbers[0]))
    return tuple(saved)


def needed(numbers: Sequence[int], curve: Sequence[float], goal: float) -> float:
    """The number of labels at which a curve first reaches a goal, between two numbers by their logarithms; infinite where it never does.

    Args:
        numbers: ascending.
        curve: the metric at each.
        goal: to be reached. Where the curve falls again, the first time counts: that favours the curve.
    """
    if curve[0] >= goal:
        return float(numbers[0])
    for (before, after), (low, high) in zip(pairwise(numbers), pairwise(curve), strict=True):
        if high >= goal:
            share = (goal - low) / (high - low)
            return math.exp(math.log(before) + share * (math.log(after) - math.log(before)))
    return math.inf
