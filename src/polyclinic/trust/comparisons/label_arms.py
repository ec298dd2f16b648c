"""The arms of a curve of labels: at each number, with each seed, all learn from the very same labelled patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from ...adaptation import Adapted
from ...adaptation.adapt import planned, taught_by
from ...cohort import Cohort
from ...harmonise.unread import Unread
from ...inference import predict
from ...schema import Modality, PolyclinicError
from ...tasks import Predictions
from ...training import InterruptedRunError, Run
from ...training.methods import Scratch
from ...training.repeatable import repeatable
from ..measures.figures import usable
from ..measures.intervals import EvidenceError
from .cells import FEW_LABELS, Cell
from .comparison import Skipped
from .kept_answers import kept, key_of
from .sequence import Teller
from .simple import baseline, testable

BASELINES = ("scratch", "single", "plain")
"""The same network from fresh weights; the method reading one modality alone; the simple baselines of `trust.baselines`."""


def arms_of(
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


def nested(
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
    chosen = {}
    for seed in seeds:
        for count in numbers:
            mine = label.subset(known, count, seed)
            if lacking := label.lacking([known[p] for p in mine]):
                raise EvidenceError(
                    f"{count} labels with seed {seed} {lacking[0]}", lacking[1], "begin with more labels"
                )
            chosen[seed, count] = tuple(sorted(mine))
    return numbers, chosen


@dataclass(frozen=True, slots=True)
class Said:
    """What was answered at each number of labels.

    Args:
        task: what was asked.
        answers: (arm, labels) → of each seed.
        read: (arm, labels) → of each seed, how many of the labelled the arm could read.
        skipped: what could not be run or judged.
    """

    task: str
    answers: dict[tuple[str, int], list[Predictions]] = field(default_factory=dict)
    read: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)

    def skip(self, arm: str, count: int, error: PolyclinicError) -> None:
        """Without it."""
        self.skipped.append(Skipped(self.task, f"{arm}, {count} labels", error.found))

    @property
    def unread(self) -> dict[str, Unread]:
        """Who could not be asked about, by the record."""
        every = [said for each in self.answers.values() for said in each]
        return {one.record: one for said in every for one in said.unread}


@dataclass(frozen=True, slots=True)
class Bench:
    """What stays the same through all arms, numbers and seeds."""

    run: Run
    cohort: Cohort
    task: str
    reads: tuple[Modality, ...]
    steps: int | None
    place: Path
    basis: str
    tell: Teller

    def all(
        self, arms: Mapping[str, tuple[Any, tuple[Modality, ...]]], chosen: Mapping[tuple[int, int], tuple[str, ...]],
        seeds: Sequence[int],
    ) -> Said:  # fmt: skip
        """Every arm at every number with every seed; a baseline that cannot be run is skipped.

        Args:
            arms: of `arms_of`.
            chosen: of `nested`.
            seeds: in their order.
        """
        said, numbers = Said(self.task), list(dict.fromkeys(count for _, count in chosen))
        for arm, count in ((arm, count) for arm in arms for count in numbers):
            try:
                each = [self.asked(arm, *arms[arm], chosen[seed, count], seed) for seed in seeds]
            except PolyclinicError as error:
                if arm == "pretrained" or (arm == "scratch" and not isinstance(error, InterruptedRunError)):
                    raise
                said.skip(arm, count, error)
                continue
            said.answers[arm, count], said.read[arm, count] = [a for a, _ in each], [n for _, n in each]
        return said

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
        able = testable(self.run, self.cohort, self.task, self.reads)
        return usable(baseline(self.run, self.cohort, Cell(self.task, self.reads, None), who, able))
