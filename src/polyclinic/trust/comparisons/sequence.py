"""A sequence of tasks as it is taught: each step an adapted run of its own, all tasks asked after each, what is finished kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from ...adaptation import Adapted, adapt, open_adapted
from ...adaptation.adapt import planned, taught_by
from ...adaptation.forgetting import Pretraining
from ...adaptation.plan import reads_of
from ...cohort import Cohort
from ...harmonise.unread import Unread
from ...inference import predict
from ...models import Model
from ...tasks import Predictions
from ...training import InterruptedRunError, Run
from ...training.methods import Full, Probe
from ...training.repeatable import repeatable
from ...training.run import write_json
from ..measures.figures import usable
from .kept_answers import kept, key_of


@dataclass(frozen=True, slots=True)
class Step:
    """What is known after one task was learned: all tasks' answers, the losses of pretraining, and who could not be learned from."""

    answers: tuple[Predictions, ...]
    pretraining: dict[str, float]
    unread: tuple[Unread, ...] = ()


class Teller:
    """Says how far it is: so many of all, and what is done just now; and when the time is over.

    Args:
        report: called with done, all, what; None for nobody.
        total: of all.
        minutes: after so many nothing new begins; None for no end.
    """

    def __init__(
        self, report: Callable[[int, int, str], None] | None, total: int, minutes: float | None = None
    ) -> None:
        self.report, self.total, self.begun, self.what = report, total, 0, ""
        self.minutes, self.since = minutes, monotonic()

    def begin(self, what: str) -> None:
        """One of all begins.

        Raises:
            InterruptedRunError: the time is over.
        """
        if self.minutes is not None and monotonic() - self.since >= 60 * self.minutes:
            raise InterruptedRunError(
                f"{self.minutes:g} minutes were over after {self.begun} of {self.total}", "",
                "run the same again: what is finished is not made again",
            )  # fmt: skip
        self.what, self.begun = what, self.begun + 1
        self.within("")

    def within(self, words: str) -> None:
        """What is done within it."""
        if self.report:
            self.report(max(self.begun - 1, 0), self.total, f"{self.what}: {words}" if words else self.what)

    def step(self, done: int, total: int, what: str) -> None:
        """As a training reports its steps."""
        self.within(f"step {done} of {total}")

    def end(self, what: str) -> None:
        """All are done."""
        if self.report:
            self.report(self.total, self.total, what)


@dataclass(frozen=True, slots=True)
class School:
    """What stays the same through all seeds and protections.

    Args:
        run: the backbone.
        cohort: of it.
        tasks: in their order.
        method: without any protection.
        labels, steps: of each; None as `adapt` has them.
        place: the folder of runs and answers.
        basis: of `kept_answers.basis`.
        told: of what is being done.
    """

    run: Run
    cohort: Cohort
    tasks: tuple[str, ...]
    method: tuple[Any, ...]
    labels: int | None
    steps: int | None
    place: Path
    basis: str
    told: Teller

    def before(self, seed: int, pretrained: bool) -> tuple[Predictions, ...]:
        """All tasks by heads on the backbone before any of them, or on the same network with fresh weights."""
        name = "pretrained" if pretrained else "fresh"
        where = f"{name}-{seed}-{key_of(self.basis, seed, self.labels, self.steps, name)}"
        model = lambda: self.run.model(pretrained, None if pretrained else seed + 1)
        return tuple(self._probed(task, seed, where, model) for task in self.tasks)

    def lost(self) -> dict[str, float]:
        """The losses of pretraining before all tasks."""
        return self._losses(self.place / "answers" / f"pretraining-{self.basis}.json", self.run.model)

    def taught(self, name: str, specs: tuple[Any, ...], seed: int) -> list[Step]:
        """The whole sequence, a step a task.

        Args:
            name: of the protection.
            specs: the method with it.
            seed: of labels, heads and batches.
        """
        told: list[Any] = [self.basis, seed, self.labels, self.steps]
        done, steps = list[Run](), list[Step]()
        for number, task in enumerate(self.tasks):
            self.told.begin(f"{task}, {name}, seed {seed}")
            own = specs if number or not isinstance(specs[0], Full) else (specs[0].model_copy(update={"replay": 0.0}),)
            told += [task, [s.model_dump(mode="json") for s in own]]
            way = (
                "none" if own == self.method else name
            )  # what replays has nothing to replay at first, and learns as none does
            where = f"{way}-{seed}-{number + 1}-{task}-{key_of(*told)}"
            done.append(self._learned(task, own, seed, done[-1] if done else None, self.place / "runs" / where))
            steps.append(self._step(done, seed, where))
        return steps

    def _learned(self, task: str, specs: tuple[Any, ...], seed: int, after: Run | None, place: Path) -> Run:
        if (place / "adapter.json").exists():  # it is written last
            return Run.open(place)
        return adapt(
            self.run, task, specs, self.labels, cohort=self.cohort, seed=seed, steps=self.steps, after=after, into=place,
            progress=self.told.step,
        )  # fmt: skip

    def _step(self, done: Sequence[Run], seed: int, where: str) -> Step:
        """All tasks after the last of the runs; its model is read only where an answer is not kept yet."""
        opened = list[Adapted]()

        def model() -> Model:
            if not opened:
                opened.append(open_adapted(done[-1], folded=False))
            return opened[0].model

        def own(earlier: Run) -> Predictions:
            self.told.within(f"asked of {earlier.adapter['task']}")
            taught = open_adapted(earlier, folded=False)
            return self._asked(Adapted(taught.run, taught.name, model(), taught.task, taught.inputs))

        asked = lambda task: self.place / "answers" / f"{where}-asked-{task}.json"
        known = [kept(asked(one.adapter["task"]), lambda one=one: own(one)) for one in done]
        coming = [self._probed(task, seed, where, model) for task in self.tasks[len(done) :]]
        lost = done[-1].adapter.get("forgetting", {}).get("after")  # a run whose weights all moved asked it already
        if lost is None:
            lost = self._losses(self.place / "answers" / f"{where}-pretraining.json", model)
        aside = tuple(Unread(**one) for one in done[-1].adapter.get("unread", ()))
        return Step((*known, *coming), lost, aside)

    def _probed(self, task: str, seed: int, where: str, model: Callable[[], Model]) -> Predictions:
        """A task's answers by a head that is fitted to a model as it is."""

        def make() -> Predictions:
            self.told.within(f"a probe for {task}")
            reads = reads_of(self.run, task, None)
            plan = planned(self.run, task, (Probe(),), self.labels, self.cohort, seed, self.steps, reads)
            as_it_is, head, _ = taught_by(plan, model=model())
            return self._asked(Adapted(self.run, task, as_it_is.requires_grad_(False).eval(), head.eval(), reads))

        return kept(self.place / "answers" / f"{where}-probed-{task}.json", make)

    def _asked(self, adapted: Adapted) -> Predictions:
        with repeatable():
            return usable(predict(adapted, self.cohort))

    def _losses(self, place: Path, model: Callable[[], Model]) -> dict[str, float]:
        """The terms of pretraining's loss on patients kept for testing."""
        if not place.exists():
            self.told.within("what pretraining lost")
            asked = model()
            pretraining = Pretraining(self.run, self.cohort, train=False)
            with repeatable():
                found = pretraining.losses(asked.requires_grad_(True))
            asked.requires_grad_(False)
            write_json(place, found | {"unread": [asdict(one) for one in pretraining.loader.gone.values()]})
        told = json.loads(place.read_text(encoding="utf-8"))
        for one in told.pop("unread", ()):  # whose losses are kept was set aside when they were made
            self.run.unread[one["record"]] = Unread(**one)
        return told
