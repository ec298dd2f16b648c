"""The simple arm of a cell: which baseline answers a task of each kind, from what, about whom."""

from __future__ import annotations

from collections.abc import Sequence

from ...cohort import Cohort, labels_of
from ...cohort.catalogue import inputs
from ...harmonise.unread import sound
from ...records import RecordError
from ...schema import Modality
from ...tasks import (
    Classes,
    Classification,
    Detection,
    Findings,
    Grade,
    Hazards,
    Keypoints,
    PlacedFields,
    Predictions,
    Segmentation,
    Survival,
)
from ...training import Run
from . import baselines, causes, several
from .cells import Cell
from .priors import prior

NULLS = ("classes", "hazards")
"""Kinds of which it is told what one says of whom nothing is known: of the others that is one half, zero, or the baseline itself."""


def testable(run: Run, cohort: Cohort, task: str, reads: Sequence[Modality]) -> tuple[str, ...]:
    """The test patients of whom the answer is known and something may, and can, be read."""
    loader = run.loader(cohort, run.split.test, (task,))
    known = loader.labelled(task)
    who = [p for p in loader.patients if p in known and set(reads) & set(loader.by_patient[p])]
    return tuple(loader.readable(who, reads))


def baseline(
    run: Run, cohort: Cohort, cell: Cell, train: tuple[str, ...], test: tuple[str, ...], *, null: bool = False
) -> Predictions:
    """The simple baseline of a cell: what it says of the test patients, having learned from the training patients.

    It reads the sources themselves: whose are no longer there, though the run has harmonised them, are set aside.

    Args:
        run, cohort, cell: what is asked.
        train: who may be learned from.
        test: who is asked about.
        null: what is said of one of whom nothing is known, of `NULLS`.
    """
    try:
        return _baseline(run, cohort, cell, train, test, null)
    except RecordError:
        records = [r for r in inputs(cohort.records(run.recipe.cohort.where)) if r.modality in cell.inputs]
        gone = sound([r for r in records if r.patient in {*train, *test}], cohort.load)
        if not gone:
            raise
    run.unread.update(gone)
    names = {one.patient for one in gone.values()}
    left = lambda who: tuple(p for p in who if p not in names)
    return _baseline(run, cohort, cell, left(train), left(test), null)


def _baseline(
    run: Run, cohort: Cohort, cell: Cell, train: tuple[str, ...], test: tuple[str, ...], null: bool
) -> Predictions:
    spec = run.recipe.tasks[cell.task]
    if isinstance(spec, PlacedFields):
        loader = run.loader(cohort, (*train, *test), (cell.task,))
        if isinstance(spec, Detection | Keypoints):
            return prior(loader, cell.task, spec, train, test)
        assert isinstance(spec, Segmentation)
        return baselines.atlas(loader, cell.task, train, test, len(spec.classes), Modality(spec.modality))
    study = _study(run, cohort, cell, train, test)
    if isinstance(spec, Hazards):
        make = causes.nobody if null else causes.cause_specific
        return make(study, cell.task, spec.names(), spec.intervals)
    if isinstance(spec, Classes):
        return (several.commonest if null else several.classes)(study, cell.task, spec.names())
    if isinstance(spec, Findings | Grade):
        make = several.findings if isinstance(spec, Findings) else several.grade
        return make(study, cell.task, spec.names())
    assert isinstance(spec, Classification | Survival)
    return baselines.classify(study, cell.task) if isinstance(spec, Classification) else baselines.cox(study, cell.task)


def _study(run: Run, cohort: Cohort, cell: Cell, train: tuple[str, ...], test: tuple[str, ...]) -> baselines.Study:
    """What a baseline of whole patients may see; of a task with landmarks what was known at the first, of those at risk there."""
    spec, table = run.recipe.tasks[cell.task], run.recipe.standards().get(Modality.TABLE)
    exclude = tuple(table.exclude) if table is not None else run.recipe.excluded()
    label = spec.label(cell.task)
    assert label is not None
    if isinstance(spec, Hazards) and spec.landmarks:
        loader = run.loader(cohort, (*train, *test), (cell.task,)).landmarks(cell.task)[0]
        records = [r for by in loader.by_patient.values() for some in by.values() for r in some]
        answers = loader.answers[cell.task]
        there = tuple(p for p in train if p in answers)
        return baselines.Study(records, loader.source, there, test, answers, cell.inputs, exclude)
    records = cohort.records(run.recipe.cohort.where)
    return baselines.Study(records, cohort.load, train, test, labels_of(records, label), cell.inputs, exclude)
