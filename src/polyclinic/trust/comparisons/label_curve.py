"""Label efficiency: what a backbone is worth in labels.

At each number of labels, with each seed, a run is adapted beside the same network from scratch, beside itself reading one modality alone
and beside a strong simple baseline, all on the very same labelled patients. The labels of a seed are nested: the first ten are among the
fifty. Then the two curves are read across: how many labels from scratch reach what the pretrained reaches with so many?
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ...adaptation.plan import reads_of
from ...cohort import Cohort
from ...harmonise.unread import Unread
from ...schema import Figure, Modality
from ...training import Run
from ...training.methods import Scratch, Told, ZeroShot, methods, name_of
from ...training.run import write_json
from ..measures.intervals import DRAWS, EvidenceError
from ..measures.metrics import COMPARED, PRIMARY
from ..measures.written import figure_of, plain
from .comparison import Skipped
from .kept_answers import basis
from .label_arms import BASELINES, Bench, Said, arms_of, nested
from .seeded import Drawn, drawn, interval_of
from .sequence import Teller

Progress = Callable[[int, int, str], None]


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
    numbers, chosen = nested(run, catalogue, task, labels, seeds, reads)
    place = Path(into) if into is not None else run.path / "labels" / f"{task}-{name_of(told)}"
    arms = arms_of(told, reads, baselines)
    tell = Teller(progress, len(arms) * len(numbers) * len(seeds), minutes)
    said = Bench(run, catalogue, task, reads, steps, place, basis(run, catalogue), tell).all(arms, chosen, seeds)
    tell.end("compared")
    metric, split = PRIMARY[run.recipe.tasks[task].kind], run.split.hash
    points, saved = _judged(said, metric, split, numbers, draws)
    made = LabelCurve(
        run.path.name, task, metric, name_of(told), tuple(m.value for m in reads), tuple(seeds), points, saved, tuple(said.skipped),
        split, tuple((run.unread | said.unread).values()),
    )  # fmt: skip
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


def _judged(
    said: Said, metric: str, split: str, numbers: Sequence[int], draws: int
) -> tuple[tuple[Point, ...], tuple[Saved, ...]]:
    """Each point on the patients whom its arm answered about; its distance from the pretrained on those whom both did."""
    points, answers = list[Point](), said.answers
    for (arm, count), mine in answers.items():
        pair = {"pretrained": answers["pretrained", count], arm: mine}
        try:
            both, own = drawn(metric, pair, split, draws=draws), drawn(metric, {arm: mine}, split, draws=draws)
        except EvidenceError as error:  # few test patients have the one modality
            if arm in ("pretrained", "scratch"):
                raise
            said.skip(arm, count, error)
            continue
        behind = both.difference("pretrained", arm) if arm != "pretrained" else None
        points.append(Point(arm, count, float(np.mean(said.read[arm, count])), own.figure(arm), own.each[arm], behind))
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
