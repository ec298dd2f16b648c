"""Continual learning: a sequence of tasks on one backbone, each going on from the weights that the last one left.

After each task all are asked of the test patients: those that were learned by their own heads as they were taught, those that were not
by a head that is fitted to the model as it then is (a probe, on the labels that the task will have). The latter is what
"before it is learned" means where every task has a head of its own: an untrained head would say nothing of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ...adaptation.adapt import planned
from ...adaptation.plan import reads_of
from ...cohort import Cohort
from ...models.adapters import AdapterFields
from ...tasks import Predictions
from ...training import InterruptedRunError, Run
from ...training.methods import Full, Probe, Told, methods, name_of
from ..measures.intervals import DRAWS, EvidenceError
from ..measures.metrics import COMPARED, PRIMARY
from .continual_figures import Answers, Continual, measured
from .kept_answers import basis
from .sequence import School, Step, Teller

Progress = Callable[[int, int, str], None]
_Seed = tuple[tuple[Predictions, ...], tuple[Predictions, ...], dict[str, list[Step]]]
"""Of one seed: all tasks by the fresh network and by the backbone, and the steps of each way."""
STRENGTHS = {"replay": 1.0, "rehearsal": 1.0, "ewc": 100.0, "distil": 10.0, "interpolate": 0.5}
"""What protects, and how strongly where nobody says: fields of the method `full`."""


def continual(
    run: Run | str | Path, tasks: Sequence[str], method: Told | Sequence[Told] = "full", *, protect: Sequence[str] = ("none",),
    labels: int | None = None, seeds: Sequence[int] = (0, 1, 2), steps: int | None = None, cohort: Cohort | str | Path | None = None,
    into: str | Path | None = None, draws: int = DRAWS, minutes: float | None = None, progress: Progress | None = None,
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
        minutes: after so many nothing new begins; the figures are then of the seeds that were finished.
        progress: called with done, all, what.
    Raises:
        InterruptedRunError: the minutes were over before the first seed was finished.
        EvidenceError: fewer than two tasks, one twice, one that cannot be judged so; no seed; no such protection; test patients of one
            class.
        AdaptError, MethodError, AdapterError: as `adapt`.
        UnreadError: nearly nobody of a task can be read. Who cannot be is otherwise set aside, and stands in `unread`.
    """
    run = (run if isinstance(run, Run) else Run.open(run)).backbone
    catalogue = cohort if isinstance(cohort, Cohort) else run.cohort(cohort)
    told = methods(method)
    _check(run, tasks, told, seeds, protect)
    ways = {name: protected(told, name) for name in protect}
    run.unread.clear()
    for task in tasks:  # too few labels are an error now, not after an hour
        planned(run, task, told, labels, catalogue, seeds[0], steps, reads_of(run, task, None))
    place = Path(into) if into is not None else run.path / "continual" / f"{'-'.join(tasks)}-{name_of(told)}"
    tell = Teller(progress, len(seeds) * (1 + len(tasks) * len(ways)), minutes)
    school = School(run, catalogue, tuple(tasks), told, labels, steps, place, basis(run, catalogue), tell)
    finished, lost = list[_Seed](), dict[str, float]()
    for seed in seeds:
        try:
            tell.begin(f"before all tasks, seed {seed}")
            lost = school.lost()
            before = (school.before(seed, pretrained=False), school.before(seed, pretrained=True))
            finished.append((*before, {name: school.taught(name, specs, seed) for name, specs in ways.items()}))
        except InterruptedRunError:
            if not finished:
                raise
            break
    tell.end("learned")
    fresh, first, taught = zip(*finished, strict=True)
    answers = Answers(fresh, first, {name: [each[name] for each in taught] for name in ways}, lost)
    made = measured(school, name_of(told), tuple(seeds[: len(finished)]), answers, draws)
    made.write(place)
    return made


def _check(run: Run, tasks: Sequence[str], told: tuple[Any, ...], seeds: Sequence[int], protect: Sequence[str]) -> None:
    there = [n for n, t in run.recipe.tasks.items() if PRIMARY[t.kind] in COMPARED and t.label(n) is not None]
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
    if not isinstance(told[0], Full | Probe | AdapterFields):
        raise EvidenceError(
            f"a sequence by {told[0].kind}",
            "full, probe or adapters such as lora",
            "learn by one that goes on from a backbone",
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
