"""Any subset of modalities: what a run is worth to a patient who has only some of what it reads, and what each modality adds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...adaptation import Adapted, open_adapted
from ...cohort import Cohort
from ...inference import predict
from ...schema import Figure, Modality
from ...tasks import Baseline, Detection, Keypoints, Predictions, Report
from ...tasks import keypoints as points
from ...tasks.correctness import correctness, f1, stacked
from ...tasks.matching import measures
from ...training import Run
from ..measures.detection import primary
from ..measures.figures import figure, strata_of, usable
from ..measures.intervals import DRAWS
from ..measures.metrics import METRICS, PRIMARY
from ..measures.wording import report_figures
from .contributions import Contributions, Game, Value, contributions
from .design import Chosen, asked

AT_MOST = 1000
"""Resamples of a game: each has a metric of every subset."""
FAR = 1e9
"""mm from its place, of a point of which nothing is known."""


@dataclass(frozen=True, slots=True)
class Subset:
    """The figure of one subset.

    Args:
        modalities: all that could be seen of a patient.
        figure: over the labelled test patients who have at least one of them.
        complete: how many of those have all of them.
    """

    modalities: tuple[str, ...]
    figure: Figure
    complete: int


@dataclass(frozen=True, slots=True)
class Subsets:
    """Each subset that was asked, and what came of it.

    Args:
        each: the subsets, the smallest first.
        contributions: of the modalities; None where the metric is not defined of these patients.
    """

    each: tuple[Subset, ...]
    contributions: Contributions | None


NONE = Subsets((), None)


def subsets(run: Adapted | Run | str | Path, cohort: Cohort | None = None, *, draws: int = DRAWS) -> Subsets:
    """The task's metric on the test side with each subset of the run's inputs (of many inputs, a design of subsets).

    Args:
        run: adapted.
        cohort: where it lies now.
        draws: resamples.
    """
    adapted = run if isinstance(run, Adapted) else open_adapted(run)
    catalogue = cohort if isinstance(cohort, Cohort) else adapted.run.cohort(cohort)
    spec = adapted.run.recipe.tasks[adapted.name]
    answer = lambda seen: predict(adapted, catalogue, modalities=seen)
    known = known_of(adapted.run, catalogue, adapted.name)
    return each_subset(answer, adapted.inputs, spec, adapted.run.split.hash, known, draws=draws)


def known_of(run: Run, cohort: Cohort, task: str) -> list[Any]:
    """What is known of the training patients, by which one about whom nothing is known is answered."""
    label = run.recipe.tasks[task].label(task)
    if label is None or label.placed:
        return []
    return list(run.loader(cohort, run.split.train, (task,)).labelled(task).values())


def each_subset(
    answer: Callable[[Chosen], Predictions], inputs: Sequence[Modality], spec: Any, split: str, known: Sequence[Any] = (), *,
    draws: int = DRAWS,
) -> Subsets:  # fmt: skip
    """The metric of whoever answers, with each subset of what they read.

    Args:
        answer: of the test side, from just these modalities.
        inputs: what is read.
        spec: of the task.
        split: the split's hash.
        known: what is known of the training patients.
        draws: resamples.
    """
    reads = tuple(m for m in Modality if m in inputs)
    if len(reads) < 2:
        return NONE
    answers = {chosen: answer(chosen) for chosen in asked(reads)}
    found = []
    for chosen, said in answers.items():
        mine = known_answers(spec, said)
        if isinstance(spec, Report):
            value, *_ = report_figures(mine, split, language=spec.language or "en", draws=draws)
        elif isinstance(spec, Detection | Keypoints):
            value = primary(spec, mine, split, draws=draws)
        else:
            value = figure(PRIMARY[spec.kind], mine, split, draws=draws)
        complete = sum(set(chosen) <= set(has) for has in mine.modalities)
        found.append(Subset(tuple(m.value for m in chosen), value, complete))
    game = game_of(answers, reads, spec, known)
    return Subsets(tuple(found), contributions(game, split, draws=min(draws, AT_MOST)))


def known_answers(spec: Any, said: Predictions) -> Predictions:
    """Of the labelled patients; of what is told in numbers, only those of whom it is one."""
    return said.labelled() if isinstance(spec, Report | Detection | Keypoints) else usable(said)


def game_of(answers: dict[Chosen, Predictions], reads: Chosen, spec: Any, known: Sequence[Any]) -> Game:
    """The answers of each subset about the same patients: the labelled ones of whom something is said from all there is.

    Args:
        answers: subset → answers.
        reads: all that is read.
        spec: of the task.
        known: what is known of the training patients.
    """
    whole = known_answers(spec, answers[reads])
    blank = nothing_known(spec.kind, whole, known)
    told = {chosen: known_answers(spec, said) for chosen, said in answers.items()}
    told[()] = whole.where(np.zeros(len(whole.patients), dtype=bool))
    values = {
        chosen: _value(spec, replace(whole, outputs=_aligned(said, whole, blank))) for chosen, said in told.items()
    }
    metric = PRIMARY[spec.kind]
    strata = strata_of(metric, whole.targets) if metric in METRICS else np.zeros(len(whole.patients), dtype=int)
    return Game(metric, reads, values, whole.modalities or ((),) * len(whole.patients), strata)


def nothing_known(kind: str, whole: Predictions, known: Sequence[Any]) -> Any:
    """What is said of one about whom nothing is known: how common it is among the training patients, no region, no box, no words.

    Args:
        kind: of the task.
        whole: answers, for the shape and (of a survival whose training patients' hazards nobody kept) their middle.
        known: what is known of the training patients.
    Returns:
        an output (…), or what makes one of another patient's output with everything.
    """
    if kind == "report":
        return ""
    if kind == "detection":
        return lambda boxes: boxes[:0]
    if kind == "keypoints":
        return lambda apart: np.where(np.isfinite(apart), FAR, apart)
    if kind == "segmentation":
        return np.zeros(whole.outputs.shape[1:])
    if kind == "hazards":
        return whole.outputs.mean(0) if len(whole.outputs) else np.zeros(whole.outputs.shape[1:])
    if kind == "survival" or not len(known):
        if isinstance(whole.baseline, Baseline) and len(whole.baseline.times):
            return whole.baseline.centre
        return np.median(whole.outputs, axis=0) if len(whole.outputs) else np.zeros(whole.outputs.shape[1:])
    if kind in ("grade", "classes"):
        return np.bincount(np.array(known, dtype=int), minlength=whole.outputs.shape[1]) / len(known)
    return np.nanmean(np.array(known, dtype=float), axis=0)


def _aligned(said: Predictions, whole: Predictions, blank: Any) -> np.ndarray:
    """The answers in the order of `whole`, a patient without one as one about whom nothing is known."""
    place = {p: n for n, p in enumerate(said.patients)}
    outputs = np.empty_like(whole.outputs)
    for row, patient in enumerate(whole.patients):
        missing = blank(whole.outputs[row]) if callable(blank) else blank
        outputs[row] = said.outputs[place[patient]] if patient in place else missing
    return outputs


def _value(spec: Any, told: Predictions) -> Value:
    """The task's metric of answers, as a function of rows and weights."""
    if isinstance(spec, Report):
        return _written(told, spec.language or "en")
    if isinstance(spec, Detection | Keypoints):
        each = points.measures(told, spec.points) if isinstance(spec, Keypoints) else measures(told, spec.classes)
        of = next(iter(each.values()))
        return lambda rows, w: of(_spread(rows, w, len(told.patients)))
    metric = METRICS[PRIMARY[spec.kind]]
    return lambda rows, w: metric(told.outputs[rows], told.targets[rows], w)


def _spread(rows: np.ndarray, weights: np.ndarray, n: int) -> np.ndarray:
    """Weights of some rows as weights of all n."""
    every = np.zeros((len(weights), n))
    every[:, rows] = weights
    return every


def _written(told: Predictions, language: str) -> Value:
    """The finding-level F1 of reports; one that says nothing, where the reference does, is wrong."""
    each = [correctness(str(w), str(r), language) for w, r in zip(told.outputs, told.targets, strict=True)]
    counts = stacked(each).sum(1)  # (n 3)
    return lambda rows, w: f1(w @ counts[rows])
