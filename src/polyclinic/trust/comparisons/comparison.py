"""The comparison that justifies a backbone: pretrained, from scratch and a strong simple baseline, on the same labels.

A cell is (task, inputs, number of labels); its arms learn from the same patients and are tested on the same patients,
so that their difference is paired. Cells that no longer fit the time are listed as such, never left out in silence.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ...adaptation import adapt
from ...adaptation.plan import labelled
from ...cohort import Cohort, labels_of, subset
from ...cohort.catalogue import inputs
from ...harmonise.unread import Unread, listed, sound
from ...inference import predict
from ...records import RecordError
from ...schema import Figure, Modality, PolyclinicError
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
)  # fmt: skip
from ...training import Run
from ...training.run import file_hash, write_json
from ..measures.figures import difference, figure, shown, usable
from ..measures.intervals import DRAWS, EvidenceError
from ..measures.metrics import PRIMARY
from . import baselines, causes, several
from .priors import prior
from .struck import DISEASE_WORDS, Struck

Arm = Literal["probe", "lora", "full", "scratch", "baseline", "null"]
ARMS: tuple[Arm, ...] = ("probe", "lora", "scratch", "baseline", "null")
NULLS = ("classes", "hazards")
"""Kinds of which it is told what one says of whom nothing is known: of the others that is one half, zero, or the baseline itself."""
PRETRAINED = ("probe", "lora", "full")
SIMPLE = ("baseline", "null")
Progress = Callable[[int, int, str], None]

FEW_LABELS: dict[str, tuple[int | None, ...]] = {
    "classification": (None, 8), "classes": (None, 24), "findings": (None, 24), "grade": (None, 24), "segmentation": (12, 4),
    "detection": (None, 12), "keypoints": (None, 12), "survival": (None, 24), "hazards": (None, 24),
}  # fmt: skip
"""How many labels a task of each kind is compared at; None for all."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What the arms are compared on: a task, what may be read, how many labels (None: all), whether words are struck."""

    task: str
    inputs: tuple[Modality, ...]
    labels: int | None
    struck: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One arm of one cell.

    Args:
        task, arm: their names.
        inputs: the modalities that were read.
        labels: how many labelled training patients were used.
        struck: whether disease words were struck from the notes.
        figure: the task's metric on the test side.
        over_scratch: a pretrained arm's metric minus that of the same network from scratch, paired.
        over_baseline: the same against the baseline.
        seconds: to train and answer.
        note: what a reader must know of this row.
    """

    task: str
    arm: str
    inputs: tuple[str, ...]
    labels: int
    struck: bool
    figure: Figure
    over_scratch: Figure | None = None
    over_baseline: Figure | None = None
    seconds: float = 0.0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A cell or an arm that was not run, and why."""

    task: str
    what: str
    why: str


@dataclass(frozen=True)
class Comparison:
    """All rows, what was not run, and of which side ever who could not be read."""

    rows: tuple[Row, ...]
    skipped: tuple[Skipped, ...]
    split: str
    seconds: float
    unread: tuple[Unread, ...] = ()

    def write(self, path: Path) -> Path:
        """Write it as JSON; NaN as null."""
        write_json(path, plain(asdict(self)))
        return path

    @classmethod
    def open(cls, path: Path) -> Comparison:
        """Read what `write` wrote."""
        data = json.loads(path.read_text())
        rows = []
        for row in data["rows"]:
            made = {k: figure_of(row[k]) for k in ("figure", "over_scratch", "over_baseline")}
            rows.append(Row(**{**row, **made, "inputs": tuple(row["inputs"])}))
        skipped = tuple(Skipped(**s) for s in data["skipped"])
        unread = tuple(Unread(**one) for one in data.get("unread", ()))
        return cls(tuple(rows), skipped, data["split"], data["seconds"], unread)

    def tasks(self) -> list[str]:
        """The tasks, in the order in which they were compared."""
        return list(dict.fromkeys(row.task for row in self.rows))

    def __str__(self) -> str:
        lines = [
            f"{'task':<13}{'inputs':<23}{'labels':>6}  {'arm':<10}{'value (95% interval)':<24}{'n':>4}  pretrained − scratch"
        ]
        for r in self.rows:
            inputs = "+".join(r.inputs) + (" −words" if r.struck else "")
            gain = interval(r.over_scratch) if r.over_scratch else ""
            lines.append(
                f"{r.task:<13}{inputs:<23}{r.labels:>6}  {r.arm:<10}{interval(r.figure):<24}{r.figure.n:>4}  {gain}"
            )
        lines += [f"not run: {s.task} {s.what}: {s.why}" for s in self.skipped]
        lines += listed(self.unread, "comparison.json")
        return "\n".join(lines)


def interval(figure: Figure) -> str:
    """A figure in words: `0.71 (0.58–0.84)`; `not defined` where it is NaN."""
    if not np.isfinite(figure.value):
        return "not defined"
    if not np.isfinite([figure.low, figure.high]).all():
        return f"{figure.value:.2f} (no interval)"
    return f"{figure.value:.2f} ({figure.low:.2f}–{figure.high:.2f})".replace("-", "−")


def plain(value: Any) -> Any:
    """As JSON knows it: tuples are lists, NaN is null."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def figure_of(data: Mapping[str, Any] | None) -> Any:
    """A figure from its JSON; null is NaN."""
    if data is None:
        return None
    fields: dict[str, Any] = {k: float("nan") if v is None else v for k, v in data.items()}
    return Figure(**fields)


def cells_of(
    run: Run, tasks: Sequence[str] | None = None, counts: Mapping[str, Sequence[int | None]] | None = None
) -> list[Cell]:
    """The cells of a recipe: for each task the most labels first, X-ray alone beside everything, notes without disease words.

    In case the time is short, what takes long comes late among its like.

    Args:
        run: pretrained.
        tasks: which; by default all that can be compared.
        counts: task → numbers of labels, None for all; by default few and all, by kind.
    """
    ranked: list[tuple[int, Cell]] = []
    for name, spec in run.recipe.tasks.items():
        if spec.kind not in FEW_LABELS or (tasks is not None and name not in tasks):
            continue
        reads = tuple(m for m in Modality if m in (spec.inputs or tuple(run.recipe.encoders)))
        for place, count in enumerate((counts or {}).get(name, FEW_LABELS[spec.kind])):
            rank = place * (1 if isinstance(spec, Survival) else 10)
            ranked.append((rank + (2 if isinstance(spec, PlacedFields) else 0), Cell(name, reads, count)))
            if spec.kind == "classification" and len(reads) > 1 and Modality.IMAGE in reads:
                ranked.append((rank + 1, Cell(name, (Modality.IMAGE,), count)))
                if Modality.TEXT in reads and place == 0:
                    ranked.append((rank + 3, Cell(name, reads, count, struck=True)))
            elif spec.kind == "survival" and {Modality.TABLE, Modality.OMICS} <= set(reads) and place == 0:
                ranked.append((rank + 1, Cell(name, (Modality.TABLE,), count)))
    return [cell for _, cell in sorted(ranked, key=lambda pair: pair[0])]


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
    asked = [*(tasks or ()), *(counts or ()), *(cell.task for cell in cells or ())]
    _known("task", asked, there)
    _known("arm", arms, get_args(Arm))
    catalogue = cohort if isinstance(cohort, Cohort) else run.cohort(cohort)
    todo = list(cells) if cells is not None else cells_of(run, tasks, counts)
    run.unread.clear()
    began, rows, skipped = time.monotonic(), list[Row](), list[Skipped]()
    for number, cell in enumerate(todo):
        what = describe_cell(cell)
        if budget_s is not None and number and time.monotonic() - began > budget_s:
            skipped.append(Skipped(cell.task, what, f"the comparison's {budget_s:.0f} s were over"))
            continue
        tell = lambda arm, number=number, cell=cell, what=what: (
            progress and progress(number, len(todo), f"{cell.task}: {what}, {arm}")
        )
        made, missing = _cell(run, catalogue, cell, arms, seed, steps, draws, adapted, tell)
        rows += made
        skipped += missing
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


def describe_cell(cell: Cell) -> str:
    """A cell in words."""
    count = "all labels" if cell.labels is None else f"{cell.labels} labels"
    return f"{'+'.join(cell.inputs)}, {count}" + (", disease words struck" if cell.struck else "")


def _cell(
    run: Run,
    cohort: Cohort,
    cell: Cell,
    arms: Sequence[Arm],
    seed: int | None,
    steps: int | None,
    draws: int,
    adapted: Sequence[Run],
    tell: Callable[[str], object],
) -> tuple[list[Row], list[Skipped]]:
    spec = run.recipe.tasks[cell.task]
    metric = PRIMARY[spec.kind]
    seen = Struck(cohort, DISEASE_WORDS) if cell.struck else cohort
    answers, seconds, trained, missing = dict[str, Predictions](), dict[str, float](), dict[str, int](), list[Skipped]()
    place, earlier = run.path / "comparison" / _folder(cell), dict(run.unread)
    run.unread.clear()
    learned: tuple[str, ...] = ()
    arms = [arm for arm in arms if arm != "null" or spec.kind in NULLS]
    for arm in sorted(arms, key=lambda a: a in SIMPLE):  # a baseline learns from whom the others learned
        tell(arm)
        start = time.monotonic()
        try:
            if arm in SIMPLE:
                learned = learned or _labelled(run, seen, cell, seed)
                about = _asked(run, seen, cell, answers)
                answers[arm] = usable(baseline(run, seen, cell, learned, about, null=arm == "null"))
            else:
                made = _made(run, cell, arm, seed, steps, adapted) or adapt(
                    run, cell.task, arm, cell.labels, cohort=seen, seed=seed, steps=steps, inputs=cell.inputs, into=place / arm
                )  # fmt: skip
                learned, trained[arm] = tuple(made.adapter["labelled"]), made.adapter.get("steps", 0)
                start = time.monotonic() - made.adapter["seconds"]
                answers[arm] = usable(predict(made, seen))
                run.unread.update(made.unread)
            seconds[arm] = round(time.monotonic() - start, 2)
        except PolyclinicError as error:
            missing.append(Skipped(cell.task, f"{describe_cell(cell)}, {arm}", error.found))
    aside = {one.patient for one in run.unread.values()}  # by one arm: then no arm is judged by them, in this cell
    run.unread.update(earlier)
    answers = {
        arm: said.where(np.array([p not in aside for p in said.patients], bool)) for arm, said in answers.items()
    }
    note, rows = _note(run, cohort, cell, learned), list[Row]()
    for arm in (a for a in arms if a in answers):
        over = dict[str, Figure]()
        for other in ("scratch", "baseline"):
            if arm in PRETRAINED and other in answers:
                try:
                    over[other] = difference(metric, answers[arm], answers[other], run.split.hash, draws=draws)
                except EvidenceError as error:
                    missing.append(Skipped(cell.task, f"{describe_cell(cell)}, {arm} over {other}", error.found))
        rows.append(
            Row(
                cell.task, arm, tuple(m.value for m in cell.inputs), len(learned), cell.struck,
                figure(metric, answers[arm], run.split.hash, draws=draws), over.get("scratch"), over.get("baseline"),
                seconds[arm], note if arm in PRETRAINED else _longer(arm, trained),
            )
        )  # fmt: skip
    return rows, missing


def _made(run: Run, cell: Cell, arm: str, seed: int | None, steps: int | None, adapted: Sequence[Run]) -> Run | None:
    """Of the adapted runs the one that is this arm of a cell with all labels; None where there is none."""
    wanted = (cell.task, arm, list(cell.inputs), run.recipe.seed if seed is None else seed)
    for one in adapted if cell.labels is None and not cell.struck else ():
        about = one.adapter
        same = (about["task"], about["method"], about["inputs"], about["seed"]) == wanted
        if same and steps in (None, about.get("steps")) and about["backbone"] == file_hash(run.weights):
            return one
    return None


def _longer(arm: str, steps: Mapping[str, int]) -> str:
    """Whether the network from scratch was trained for longer than the pretrained one."""
    others = max((n for other, n in steps.items() if other != "scratch"), default=0)
    longer = arm == "scratch" and 0 < others < steps[arm]
    return f"trained for {steps[arm]} steps, the pretrained for {others}" if longer else ""


def _folder(cell: Cell) -> str:
    return "-".join((cell.task, "+".join(cell.inputs), str(cell.labels), *(["struck"] if cell.struck else [])))


def _labelled(run: Run, cohort: Cohort, cell: Cell, seed: int | None) -> tuple[str, ...]:
    """Whom `adapt` would learn from, where no arm but the baseline runs."""
    loader = run.loader(cohort, run.split.train, (cell.task,))
    return tuple(labelled(loader, cell.task, cell.labels, run.recipe.seed if seed is None else seed, cell.inputs)[0])


def _asked(run: Run, cohort: Cohort, cell: Cell, answers: Mapping[str, Predictions]) -> tuple[str, ...]:
    """The test patients that the other arms answered about."""
    if answers:
        return next(iter(answers.values())).patients
    loader = run.loader(cohort, run.split.test, (cell.task,))
    known = loader.labelled(cell.task)
    who = [p for p in loader.patients if p in known and set(cell.inputs) & set(loader.by_patient[p])]
    return tuple(loader.readable(who, cell.inputs))


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


def _note(run: Run, cohort: Cohort, cell: Cell, learned: Sequence[str]) -> str:
    """Where pretraining saw labels that this cell does not count as labels, the reader must know."""
    for told in (stage.objective.labelled() for stage in run.recipe.stages):
        if cell.task in told:
            loader = run.loader(cohort, run.split.train, (cell.task,))
            saw = set(subset(loader.labelled(cell.task), told[cell.task], run.recipe.seed))
            more = len(saw - set(learned))
            return (
                f"pretraining saw {more} labels that are not among these labels: not a fair comparison"
                if more
                else f"pretraining already saw {len(saw)} of these labels"
            )
    return ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the comparison shows, in a sentence, and the counts that it rests on."""

    sentence: str
    better: int
    worse: int
    none: int
    unknown: int


def verdict(comparison: Comparison, against: Literal["scratch", "baseline"] = "scratch") -> Verdict:
    """What the intervals of the paired differences show, and nothing else."""
    which = [r.over_scratch if against == "scratch" else r.over_baseline for r in comparison.rows if not r.struck]
    found = [shown(f) for f in which if f is not None]
    better, worse, none, unknown = (found.count(k) for k in ("better", "worse", "none", "unknown"))
    other = "the same network from scratch" if against == "scratch" else "the simple baseline"
    total = len(found)
    if not total:
        return Verdict(f"The pretrained backbone was not compared with {other}.", 0, 0, 0, 0)
    if not better and not worse:
        said = f"No difference shown between the pretrained backbone and {other}: no interval of {total} excludes zero"
    elif not worse:
        said = f"The pretrained backbone is better than {other} in {better} of {total} comparisons; in the others no difference is shown"
        said = f"The pretrained backbone is better than {other} in all {total} comparisons" if better == total else said
    elif not better:
        said = f"The pretrained backbone is worse than {other} in {worse} of {total} comparisons" + (
            "; in the others no difference is shown" if worse < total else ""
        )
    else:
        said = f"Against {other} the pretrained backbone is better in {better}, worse in {worse} of {total} comparisons"
        said += "; in the others no difference is shown" if none else ""
    said += f" ({unknown} could not be judged)" if unknown else ""
    return Verdict(said + ".", better, worse, none, unknown)
