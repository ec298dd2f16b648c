"""The arms of a cell: the pretrained network, the same from scratch and the simple baseline, asked about the same patients."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ...adaptation import adapt
from ...adaptation.plan import labelled
from ...cohort import Cohort
from ...inference import predict
from ...schema import PolyclinicError
from ...tasks import Predictions
from ...training import Run
from ...training.run import file_hash
from ..measures.figures import usable
from .cells import Cell
from .comparison import Skipped
from .simple import baseline, testable
from .struck import DISEASE_WORDS, Struck

Arm = Literal["probe", "lora", "full", "scratch", "baseline", "null"]
ARMS: tuple[Arm, ...] = ("probe", "lora", "scratch", "baseline", "null")
PRETRAINED = ("probe", "lora", "full")
SIMPLE = ("baseline", "null")


@dataclass(frozen=True, slots=True)
class Bench:
    """What stays the same through all cells.

    Args:
        run: the backbone.
        cohort: of it.
        seed: of the labels' order and the heads; None for the recipe's.
        steps: optimiser steps of each adaptation; None by task.
        adapted: runs that were made before: what a cell asks of them is not made again.
    """

    run: Run
    cohort: Cohort
    seed: int | None = None
    steps: int | None = None
    adapted: Sequence[Run] = ()

    @property
    def seeded(self) -> int:
        """The seed that is meant."""
        return self.run.recipe.seed if self.seed is None else self.seed


@dataclass(slots=True)
class Said:
    """What the arms of a cell said.

    Args:
        answers: arm → its answers; nobody is among them whom one arm could not read.
        seconds: arm → to train and answer.
        steps: arm → of the optimiser.
        learned: whose labels were used.
        missing: what could not be run.
    """

    answers: dict[str, Predictions] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    learned: tuple[str, ...] = ()
    missing: list[Skipped] = field(default_factory=list)


def asked(bench: Bench, cell: Cell, arms: Sequence[Arm], tell: Callable[[str], object]) -> Said:
    """Each arm's answers in one cell; who could not be read is added to the run's `unread`.

    Args:
        bench: whose.
        cell: which.
        arms: which.
        tell: called with each arm that begins.
    """
    run, said, earlier = bench.run, Said(), dict(bench.run.unread)
    seen = Struck(bench.cohort, DISEASE_WORDS) if cell.struck else bench.cohort
    run.unread.clear()
    for arm in sorted(arms, key=lambda a: a in SIMPLE):  # a baseline learns from whom the others learned
        tell(arm)
        start = time.monotonic()
        try:
            if arm in SIMPLE:
                said.learned = said.learned or _labelled(bench, seen, cell)
                others = next(iter(said.answers.values()), None)
                about = testable(run, seen, cell.task, cell.inputs) if others is None else others.patients
                said.answers[arm] = usable(baseline(run, seen, cell, said.learned, about, null=arm == "null"))
            else:
                made = _made(bench, cell, arm) or adapt(
                    run, cell.task, arm, cell.labels, cohort=seen, seed=bench.seed, steps=bench.steps, inputs=cell.inputs,
                    into=run.path / "comparison" / cell.folder / arm,
                )  # fmt: skip
                said.learned, said.steps[arm] = tuple(made.adapter["labelled"]), made.adapter.get("steps", 0)
                start = time.monotonic() - made.adapter["seconds"]
                said.answers[arm] = usable(predict(made, seen))
                run.unread.update(made.unread)
            said.seconds[arm] = round(time.monotonic() - start, 2)
        except PolyclinicError as error:
            said.missing.append(Skipped(cell.task, f"{cell.words}, {arm}", error.found))
    aside = {one.patient for one in run.unread.values()}  # by one arm: then no arm is judged by them, in this cell
    run.unread.update(earlier)
    for arm, answers in said.answers.items():
        said.answers[arm] = answers.where(np.array([p not in aside for p in answers.patients], bool))
    return said


def _made(bench: Bench, cell: Cell, arm: str) -> Run | None:
    """Of the adapted runs the one that is this arm of a cell with all labels; None where there is none."""
    wanted = (cell.task, arm, list(cell.inputs), bench.seeded)
    for one in bench.adapted if cell.labels is None and not cell.struck else ():
        about = one.adapter
        same = (about["task"], about["method"], about["inputs"], about["seed"]) == wanted
        if same and bench.steps in (None, about.get("steps")) and about["backbone"] == file_hash(bench.run.weights):
            return one
    return None


def _labelled(bench: Bench, cohort: Cohort, cell: Cell) -> tuple[str, ...]:
    """Whom `adapt` would learn from, where no arm but the baseline runs."""
    loader = bench.run.loader(cohort, bench.run.split.train, (cell.task,))
    return tuple(labelled(loader, cell.task, cell.labels, bench.seeded, cell.inputs)[0])
