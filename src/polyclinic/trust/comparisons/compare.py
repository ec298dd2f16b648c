"""Comparing: cell by cell the arms are asked and judged on the same patients, as long as the time lasts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import get_args

from ...cohort import Cohort
from ...schema import Figure
from ...training import Run
from ..measures.figures import difference, figure
from ..measures.intervals import DRAWS, EvidenceError
from ..measures.metrics import PRIMARY
from .arms import ARMS, PRETRAINED, Arm, Bench, Said, asked
from .cells import FEW_LABELS, Cell, cells_of
from .comparison import Comparison, Row, Skipped
from .simple import NULLS

Progress = Callable[[int, int, str], None]


def compare(
    run: Run | str | Path,
    cohort: Cohort | str | Path | None = None,
    *,
    tasks: Sequence[str] | None = None,
    counts: Mapping[str, Sequence[int | None]] | None = None,
    cells: Sequence[Cell] | None = None,
    arms: Sequence[Arm] = ARMS,
    seed: int | None = None,
    steps: int | None = None,
    budget_s: float | None = None,
    draws: int = DRAWS,
    adapted: Sequence[Run] = (),
    progress: Progress | None = None,
) -> Comparison:
    """Compare the arms, cell by cell, and write `<run>/evidence/comparison.json`.

    Args:
        run: pretrained, or its folder.
        cohort: where it lies now.
        tasks, counts, cells: what is compared; see `cells_of`.
        arms: which.
        seed: of the labels' order and the heads.
        steps: optimiser steps of each adaptation; by default by task.
        budget_s: no new cell is begun after it; what is left is listed in `skipped`.
        draws: resamples.
        adapted: runs that `adapt` made of this one and this cohort: what a cell asks of them is not made again.
        progress: called with done, all, what.
    Raises:
        EvidenceError: no such task or arm.
    """
    run = (run if isinstance(run, Run) else Run.open(run)).backbone
    there = [n for n, spec in run.recipe.tasks.items() if spec.kind in FEW_LABELS]
    _known("task", [*(tasks or ()), *(counts or ()), *(cell.task for cell in cells or ())], there)
    _known("arm", arms, get_args(Arm))
    bench = Bench(run, cohort if isinstance(cohort, Cohort) else run.cohort(cohort), seed, steps, adapted)
    todo = list(cells) if cells is not None else cells_of(run, tasks, counts)
    run.unread.clear()
    began, rows, skipped = time.monotonic(), list[Row](), list[Skipped]()
    for number, cell in enumerate(todo):
        if budget_s is not None and number and time.monotonic() - began > budget_s:
            over = f"the comparison's {budget_s:.0f} s were over" if budget_s >= 1 else "what came before left no time"
            skipped.append(Skipped(cell.task, cell.words, over))
            continue
        tell = lambda arm, number=number, cell=cell: (
            progress and progress(number, len(todo), f"{cell.task}: {cell.words}, {arm}")
        )
        told: list[Arm] = [arm for arm in arms if arm != "null" or run.recipe.tasks[cell.task].kind in NULLS]
        said = asked(bench, cell, told, tell)
        rows += _rows(bench, cell, told, said, draws)
        skipped += said.missing
    if progress:
        progress(len(todo), len(todo), "compared")
    order = {name: n for n, name in enumerate(run.recipe.tasks)}
    rows.sort(key=lambda r: (order[r.task], r.struck, -len(r.inputs), r.labels))
    took = round(time.monotonic() - began, 1)
    done = Comparison(tuple(rows), tuple(skipped), run.split.hash, took, tuple(run.unread.values()))
    done.write(run.path / "evidence/comparison.json")
    return done


def _known(what: str, asked: Iterable[str], there: Sequence[str]) -> None:
    for name in asked:
        if name not in there:
            raise EvidenceError(f"no {what} {name!r} to compare", "one of " + ", ".join(there), "correct the name")


def _rows(bench: Bench, cell: Cell, arms: Sequence[Arm], said: Said, draws: int) -> list[Row]:
    """A row an arm that answered; what of it cannot be judged is added to what is missing."""
    metric, split, rows = PRIMARY[bench.run.recipe.tasks[cell.task].kind], bench.run.split.hash, list[Row]()
    note = _note(bench, cell, said.learned)
    for arm in (a for a in arms if a in said.answers):
        over = dict[str, Figure]()
        for other in ("scratch", "baseline"):
            if arm in PRETRAINED and other in said.answers:
                try:
                    over[other] = difference(metric, said.answers[arm], said.answers[other], split, draws=draws)
                except EvidenceError as error:
                    said.missing.append(Skipped(cell.task, f"{cell.words}, {arm} over {other}", error.found))
        rows.append(
            Row(
                cell.task, arm, tuple(m.value for m in cell.inputs), len(said.learned), cell.struck,
                figure(metric, said.answers[arm], split, draws=draws), over.get("scratch"), over.get("baseline"),
                said.seconds[arm], note if arm in PRETRAINED else _longer(arm, said.steps),
            )
        )  # fmt: skip
    return rows


def _longer(arm: str, steps: Mapping[str, int]) -> str:
    """Whether the network from scratch was trained for longer than the pretrained one."""
    others = max((n for other, n in steps.items() if other != "scratch"), default=0)
    longer = arm == "scratch" and 0 < others < steps[arm]
    return f"trained for {steps[arm]} steps, the pretrained for {others}" if longer else ""


def _note(bench: Bench, cell: Cell, learned: Sequence[str]) -> str:
    """Where pretraining saw labels that this cell does not count as labels, the reader must know."""
    run = bench.run
    for told in (stage.objective.labelled() for stage in run.recipe.stages):
        if cell.task in told:
            loader = run.loader(bench.cohort, run.split.train, (cell.task,))
            saw = set(loader.subset(cell.task, told[cell.task], run.recipe.seed))
            more = len(saw - set(learned))
            return (
                f"pretraining saw {more} labels that are not among these labels: not a fair comparison"
                if more
                else f"pretraining already saw {len(saw)} of these labels"
            )
    return ""
