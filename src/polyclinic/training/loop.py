"""Pretraining: a recipe and a cohort → a run. Everything random is a function of (seed, stage, step, part of the step)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..cohort import Cohort
from ..cohort.mixture import parts_of
from ..harmonise import Cache
from ..harmonise.loader import Loader
from ..models import Model, build_model, save_weights, under
from ..models.adapters import merged
from . import beginning, checkpoint, guard, memory, sharded
from .carried import carry
from .checkpoint import InterruptedRunError, RunError
from .curves import Board, write_metrics
from .energy import Meter, together
from .ranks import Ranks, fabric_for, stop_signals, whole
from .recipe import Recipe, Stage
from .repeatable import repeatable
from .run import Run, weights_config, write_json
from .step import Stepper, trainee_of

Progress = Callable[[int, int, str], None]
SAVE_EVERY_S = 60.0


def pretrain(
    recipe: Recipe | str | Path, cohort: Cohort | str | Path, *, into: str | Path = "runs", resume: bool = True,
    progress: Progress | None = None, save_every_s: float = SAVE_EVERY_S, tensorboard: bool = False,
) -> Run:  # fmt: skip
    """Pretrain a model as a recipe says; a run that was stopped goes on to the same bits as if it never had been.

    Started by `torchrun`, its processes train the run together; each reads its part of every batch, and rank 0 writes.

    Args:
        recipe: or its file, or the name of a shipped one.
        cohort: or its folder.
        into: the folder of runs; the run's own is named by the recipe.
        resume: False starts a run of this name anew; its weights, checkpoint and evidence go.
        progress: called with done, all, what; on rank 0.
        save_every_s: seconds between checkpoints.
        tensorboard: write the curves for TensorBoard too, in the run's `tensorboard/`.
    Raises:
        RunError: a run of this name has another recipe or other records, or another process trains it; the loss is not a
            number or runs away; the disk or the memory is full.
        InterruptedRunError: stopped by a signal, at a checkpoint.
        CohortError, SplitError, LabelError, LeakageError: the cohort does not do.
        UnreadError: nearly nobody can be read. Who cannot be is otherwise set aside: before the split, as `lock.json` says, or for
            another while it trains, as `training.json` says.
    """
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    cohort = cohort if isinstance(cohort, Cohort) else Cohort.open(cohort)
    run, ranks = Run(Path(into) / recipe.name), Ranks(fabric_for(recipe.precision, recipe.strategy))
    _divides(recipe, ranks.world)
    with ExitStack() as held:
        ranks.once(lambda: held.enter_context(checkpoint.alone(run.path)))
        ranks.once(lambda: _begin(run, recipe, cohort, resume))
        if run.weights.exists():
            return Run.open(run.path)
        with repeatable(), stop_signals(patient=ranks.world > 1) as stopped:
            trained = _Training(run, cohort, ranks, stopped, progress, save_every_s, tensorboard).stages()
        ranks.once(lambda: _finish(run, trained))
    return Run.open(run.path)


def _begin(run: Run, recipe: Recipe, cohort: Cohort, resume: bool) -> None:
    """Make sure that the folder is this recipe's: as it was left, or prepared."""
    if not resume:
        beginning.forget(run.path)
    begun = (run.path / "recipe.yaml").exists()
    if begun:
        beginning.same(run, recipe, cohort)
    if not begun or not (run.weights.exists() or sharded.last_of(run.path / "checkpoints")):
        beginning.prepare(run, recipe, cohort)


def _finish(run: Run, trained: dict[str, Tensor]) -> None:
    """Write the model, the objective beside it first: where the model's file stands, the run is finished."""
    objective = under("objective.", trained)
    save_weights(run.objective_weights, objective, {"recipe": run.recipe.name})
    save_weights(run.weights, under("model.", trained), weights_config(run.recipe))
    checkpoint.forget(run.path / "checkpoints")


def _divides(recipe: Recipe, world: int) -> None:
    """Refuse a number of ranks that does not divide the batches: a step would be of other patients."""
    for stage in recipe.stages:
        if stage.batch % (world * stage.accumulate):
            raise RunError(
                f"stage {stage.name!r} with a batch of {stage.batch} patients on {world} ranks in {stage.accumulate} micro-batches each",
                f"a multiple of {world * stage.accumulate}: `batch` is of all ranks and micro-batches together",
                "change the stage's `batch` or `accumulate`, or the number of processes",
            )


@dataclass(slots=True)
class _Training:
    """A run in the middle of its stages.

    Args:
        run: prepared; its checkpoint, where it has one, says how far it is.
        stopped: whether a signal came to this process.
    """

    run: Run
    cohort: Cohort
    ranks: Ranks
    stopped: Callable[[], bool]
    progress: Progress | None
    save_every_s: float
    tensorboard: bool
    rows: list[dict[str, Any]] = field(default_factory=list)
    saved: float = 0.0
    board: Board | None = None
    needs: list[str] = field(default_factory=list)
    cache: Cache = field(default_factory=Cache)

    def stages(self) -> dict[str, Tensor]:
        """Every stage from where the checkpoint stands; the last one's weights and buffers, whole."""
        recipe, meter, self.cache = self.run.recipe, Meter(), Cache(self.run.path / "cache")
        state = sharded.last_of(self.run.path / "checkpoints")
        reached, self.rows, self.saved = (
            (state["stage"] if state else 0),
            list(state["rows"]) if state else [],
            time.monotonic(),
        )
        first = before = sum(s.steps for s in recipe.stages[:reached])
        first += state["step"] if state else 0
        if self.tensorboard and self.ranks.first:
            self.board = Board(self.run.path, first)
        model = build_model(recipe.model, recipe.encoders, self.run.fingerprint, recipe.seed)
        trained: dict[str, Tensor] = {}
        try:
            for number in range(reached, len(recipe.stages)):
                trained = self._stage(model, number, before, state if number == reached else None, trained)
                before += recipe.stages[number].steps
                if number + 1 < len(recipe.stages):  # a model that was spread over ranks is not spread again
                    model = build_model(recipe.model, recipe.encoders, self.run.fingerprint, recipe.seed)
                    model.load_state_dict(under("model.", trained))
        except InterruptedRunError:
            self._record(meter, first)
            raise
        finally:
            if self.board is not None:
                self.board.close()
        self._record(meter, first)
        if self.ranks.first:
            write_metrics(
                self.run.path, self.rows
            )  # a process killed between the last checkpoint and its curves wrote none
        return trained

    def _stage(
        self, model: Model, number: int, before: int, state: dict[str, Any] | None, left: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """One stage, from its checkpoint's step or from what the stage before left; its weights and buffers, whole."""
        recipe, stage, ranks = self.run.recipe, self.run.recipe.stages[number], self.ranks
        loader, trainee = self._loader(stage), trainee_of(model, recipe, self.run.fingerprint, number)
        if left:
            carry(
                trainee.objective,
                stage.objective,
                under("objective.", left),
                recipe.stages[number - 1].objective,
                model,
            )
        with guard.enough_memory(recipe, stage, None):
            found = memory.estimate(ranks.fabric, trainee, loader, stage, ranks.world)
        ranks.once(lambda: memory.check(recipe, stage, found))
        self.needs.append(f"{stage.name}: {found.as_words()}")
        stepper, first = Stepper(ranks, trainee, stage, recipe.masked_modalities(stage)), 0
        if state is not None:
            self._put_back(state, stepper)
            first = state["step"]
        watch = guard.Watch(r["value"] for r in self.rows if r["stage"] == stage.name and r["name"] == "loss")
        for step in range(first, stage.steps):
            with guard.enough_memory(recipe, stage, found):
                micros = loader.batches(number * 1_000_003 + step, stage.accumulate)
                made = stepper.take(micros, loader.sampler.size, (recipe.seed, number, step))
            if not made.wrong and "loss" in made.values and watch.diverged(made.values["loss"]):
                made.wrong = f"a loss of {made.values['loss']:.4g}, above {watch.limit:.4g} for {watch.streak} steps,"
            if made.wrong:
                raise guard.refused(made.wrong, stage, step, recipe.seed, self.run.path, micros, ranks.rank)
            self._note(stage, before + step, made.values)
            self._between(stepper, number, step + 1, before + step + 1)
        if stepper.average is not None:
            stepper.average.give(trainee)
        trained = {name: whole(tensor).detach().clone() for name, tensor in trainee.state_dict().items()}
        if stage.lora is not None:
            trained = merged(trained, stage.lora.alpha)
        if stage.keep:
            own = under("model.", trained)
            ranks.once(lambda: save_weights(self.run.stage_weights(stage.name), own, weights_config(recipe)))
        return trained

    def _note(self, stage: Stage, at: int, values: dict[str, float]) -> None:
        """A step's values into the curves."""
        self.rows += [{"stage": stage.name, "step": at, "name": k, "value": v} for k, v in values.items()]
        if self.board is not None:
            self.board.add(at, values)
        if self.progress and self.ranks.first:
            total = sum(s.steps for s in self.run.recipe.stages)
            self.progress(at + 1, total, f"{stage.name}: loss {values.get('loss', float('nan')):.3f}")

    def _between(self, stepper: Stepper, number: int, step: int, done: int) -> None:
        """After a step: a checkpoint where one is due, and the end where a signal came to any rank.

        Raises:
            InterruptedRunError: it did.
        """
        recipe = self.run.recipe
        said = self.ranks.tell((self.stopped(), time.monotonic() - self.saved > self.save_every_s))
        stop, due = any(s for s, _ in said), said[0][1]
        if stop or due or step == recipe.stages[number].steps:
            average = stepper.average.tensors if stepper.average is not None else None
            tensors = checkpoint.tensors_of(stepper.trainee, stepper.bare, average)
            state = {"stage": number, "step": step, "tensors": tensors, "rows": self.rows}
            folder = self.run.path / "checkpoints"
            if self.ranks.world > 1:
                sharded.save(folder, done, state, self.ranks)
            else:
                checkpoint.save(folder / "last.pt", state)
                checkpoint.forget(folder, but=folder / "last.pt")
            if self.ranks.first:
                write_metrics(self.run.path, self.rows)
            self.cache.flush()
            self.saved = time.monotonic()
        total = sum(s.steps for s in recipe.stages)
        if stop and done < total:
            raise InterruptedRunError(
                f"stopped at step {done} of {total}",
                "a checkpoint was written",
                "run the same command again: it resumes",
            )

    def _put_back(self, state: dict[str, Any], stepper: Stepper) -> None:
        average = stepper.average.tensors if stepper.average is not None else None
        if "folder" in state:
            sharded.put_back(state["folder"], state["shapes"], stepper.trainee, stepper.bare, average)
        else:
            last = self.run.path / "checkpoints/last.pt"
            checkpoint.put_back(last, state["tensors"], stepper.trainee, stepper.bare, average)

    def _loader(self, stage: Stage) -> Loader:
        recipe, run = self.run.recipe, self.run
        shown = stage.objective.labelled()
        mixture = parts_of(self.cohort, stage.told(), recipe.cohort.where)
        seen = [record for part in mixture for record in part.records]
        loader = Loader(
            seen or self.cohort.records(recipe.cohort.where), run.split.train, recipe.standards(), run.fingerprint, self.cohort.load,
            [label for task in shown if (label := recipe.tasks[task].label(task))], self.cache, stage.batch // self.ranks.world,
            recipe.seed, stage.most, stage.temperature, stage.site_temperature, stage.rare, stage.rarity,
            rank=self.ranks.rank, world=self.ranks.world, mixture=mixture, unread=run.unread,
        )  # fmt: skip
        for task, labels in shown.items():
            loader.only(task, loader.subset(task, labels, recipe.seed))
        return loader

    def _record(self, meter: Meter, first: int) -> None:
        """Add this session to the run's `training.json`: which steps, on what, and what they cost."""
        cost = together(self.ranks.tell(meter.read()))
        unread = {one.record: asdict(one) for each in self.ranks.tell([*self.run.unread.values()]) for one in each}
        if not self.ranks.first:
            return
        place = self.run.path / "training.json"
        before = json.loads(place.read_text(encoding="utf-8"))["sessions"] if place.exists() else []
        session = {
            "steps": [first, self.rows[-1]["step"] + 1 if self.rows else first],
            "ranks": self.ranks.world,
            "strategy": self.run.recipe.strategy if self.ranks.world > 1 else None,
            "threads": torch.get_num_threads(),
            "memory": self.needs,
            **cost,
            **({"unread": [*unread.values()]} if unread else {}),
        }
        write_json(place, {"sessions": [*before, session]})
