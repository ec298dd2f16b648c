"""Pretraining: a recipe and a cohort → a run. Everything random is a function of (seed, stage, step)."""

from __future__ import annotations

import hashlib
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..cohort import Cohort, CohortError, guard, labels_of, split, subset
from ..cohort.catalogue import inputs, write_whole
from ..harmonise import Cache, fit
from ..harmonise.loader import Loader
from ..models import Model, build_model, save_weights
from ..schema import Batch
from . import checkpoint
from .checkpoint import InterruptedRunError, RunError
from .recipe import Recipe, Stage, differing, parts
from .run import KEPT, Run, commit, versions, weights_config, write_json, write_text

Progress = Callable[[int, int, str], None]
SAVE_EVERY_S = 60.0
CLIP = 1.0


def has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 by itself (AVX-512 BF16 or AMX)."""
    info = Path("/proc/cpuinfo")
    return info.exists() and any(flag in info.read_text() for flag in ("avx512_bf16", "amx_bf16"))


def fabric_for(precision: str) -> Any:
    """The launcher of one process on the CPU, in the recipe's precision."""
    from lightning_fabric import Fabric

    bf16 = precision == "bf16" or (precision == "auto" and has_bf16())
    return Fabric(accelerator="cpu", devices=1, precision="bf16-mixed" if bf16 else "32-true")


def optimiser(module: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """Fused AdamW; weight decay on matrices only."""
    wanted = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in wanted if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in wanted if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=(0.9, 0.95), fused=True)


def schedule(step: int, steps: int, warmup: int) -> float:
    """The share of the learning rate at a step: a linear rise, then a cosine to a tenth."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return 0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2


def generator(*numbers: object) -> torch.Generator:
    """A generator that depends on these and on nothing else."""
    digest = hashlib.blake2b("\x00".join(map(str, numbers)).encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


class Trainee(nn.Module):
    """The model and the stage's objective, as one module for the launcher."""

    def __init__(self, model: Model, objective: nn.Module) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Any, draws: torch.Generator) -> Any:
        """The objective's losses."""
        return self.objective(self.model, batch, draws)


@contextmanager
def repeatable() -> Iterator[None]:
    """Only kernels that give the same bits each time; the world's setting is put back.

    Without it the gradient of an indexed tensor is summed by several threads in whatever order they come.
    """
    import torch.utils.deterministic

    deterministic: Any = torch.utils.deterministic
    before = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
    filled = deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    deterministic.fill_uninitialized_memory = False  # it costs time and finds faults, not bits
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        deterministic.fill_uninitialized_memory = filled


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM end the step and not the process; the yielded function tells whether one came.

    A second Ctrl-C does not wait for the step: whatever is being written is written whole or not at all.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def note(number: int, _: object) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def pretrain(
    recipe: Recipe | str | Path, cohort: Cohort | str | Path, *, into: str | Path = "runs", resume: bool = True,
    progress: Progress | None = None, save_every_s: float = SAVE_EVERY_S,
) -> Run:  # fmt: skip
    """Pretrain a model as a recipe says; a run that was stopped goes on to the same bits as if it never had been.

    Args:
        recipe: or its file, or the name of a shipped one.
        cohort: or its folder.
        into: the folder of runs; the run's own is named by the recipe.
        resume: False starts a run of this name anew; its weights, checkpoint and evidence go.
        progress: called with done, all, what.
        save_every_s: seconds between checkpoints.
    Raises:
        RunError: a run of this name has another recipe or other records, or another process trains it; the loss is not a
            number; the disk is full.
        InterruptedRunError: stopped by a signal, at a checkpoint.
        CohortError, SplitError, LabelError, LeakageError: the cohort does not do.
    """
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    cohort = cohort if isinstance(cohort, Cohort) else Cohort.open(cohort)
    run = Run(Path(into) / recipe.name)
    last, weights = run.path / "checkpoints/last.pt", run.path / "model/model.safetensors"
    with checkpoint.alone(run.path):
        if not resume:
            _forget(run.path)
        begun = (run.path / "recipe.yaml").exists()
        if begun:
            _same(run, recipe, cohort)
            if weights.exists():
                return Run.open(run.path)
        state = checkpoint.read(last) if begun else None
        if state is None:
            _prepare(run, recipe, cohort)
        with repeatable(), stop_signals() as stopped:
            trained = _stages(run, cohort, state, stopped, progress, save_every_s)
        save_weights(
            weights.with_name("objective.safetensors"), trained.objective.state_dict(), {"recipe": recipe.name}
        )
        save_weights(weights, trained.model.state_dict(), weights_config(recipe))
        last.unlink(missing_ok=True)
    return Run.open(run.path)


def _forget(place: Path) -> None:
    """Remove what would be taken for the new run's: the recipe first, so that a killed process leaves no half of each."""
    for name in ("recipe.yaml", "checkpoints/last.pt", "metrics.parquet", "card.md"):
        (place / name).unlink(missing_ok=True)
    for name in ("model", "evidence"):
        shutil.rmtree(place / name, ignore_errors=True)


def _same(run: Run, recipe: Recipe, cohort: Cohort) -> None:
    """Refuse to go on with another recipe or other records: the bits would be of neither."""
    keys = differing(Recipe.load(run.path / "recipe.yaml"), recipe)
    remedy = "change `name`, give another folder with --into, or start anew with --no-resume"
    if keys:
        listed = ", ".join(keys[:6]) + (" …" if len(keys) > 6 else "")
        raise RunError(
            f"the run {run.path} was made by another recipe: it differs in {listed}",
            "the same recipe, or another name",
            remedy,
        )
    known = {name for side in run.lock["records"].values() for name in side}
    now = {record.id for record in cohort.records(recipe.cohort.where)}
    if known != now:
        raise RunError(
            f"the run {run.path} was made of other records: {len(now - known)} came to the cohort and {len(known - now)} left it",
            "the records in its lock.json",
            remedy,
        )


def _prepare(run: Run, recipe: Recipe, cohort: Cohort) -> None:
    """Split, guard, fingerprint; write down all of it, the recipe last: where it stands, the rest does."""
    for modality, spec in recipe.encoders.items():
        spec.keep(run.path / KEPT / modality.value)
    records = cohort.records(recipe.cohort.where)
    answers: dict[str, Any] = {}
    for name, task in recipe.tasks.items():  # a wrong column is an error now, not after an hour
        if (label := task.label(name)) is not None:
            answers[name] = labels_of(records, label)
    parted = split(records, recipe.cohort.split, cohort.load, answers.get(recipe.cohort.split.stratify or ""))
    guard(parted.train, parted.test, records, cohort.load)
    sides = {"train": set(parted.train), "test": set(parted.test)}
    fingerprint = fit([r for r in inputs(records) if r.patient in sides["train"]], cohort.load, recipe.standards())
    (run.path / "model").mkdir(parents=True, exist_ok=True)
    fingerprint.save(run.path / "model/fingerprint.json")
    write_json(run.path / "model/config.json", recipe.model_dump(mode="json", include={"encoders", "model", "seed"}))
    write_json(
        run.path / "lock.json",
        {
            "cohort": str(cohort.path.resolve()),
            "split": {"train": parted.train, "test": parted.test, "hash": parted.hash},
            "records": {name: sorted(r.id for r in records if r.patient in side) for name, side in sides.items()},
            "packages": versions(),
            "seed": recipe.seed,
            "commit": commit(),
            "threads": torch.get_num_threads(),
        },
    )
    write_text(run.path / "recipe.yaml", recipe.as_yaml())


def _loader(run: Run, cohort: Cohort, stage: Stage, cache: Cache) -> Loader:
    recipe = run.recipe
    masks = [p for p in parts(stage.objective) if p.kind == "segmentation"]
    loader = Loader(
        cohort.records(recipe.cohort.where), run.split.train, recipe.standards(), run.fingerprint, cohort.load,
        [label for p in masks if (label := recipe.tasks[p.task].label(p.task))], cache, stage.batch, recipe.seed, stage.most,
        stage.temperature, stage.site_temperature, stage.rare, stage.rarity,
    )  # fmt: skip
    for part in masks:
        loader.only(part.task, subset(loader.labelled(part.task), part.labels, recipe.seed))
    return loader


def _trainee(model: Model, run: Run, number: int) -> Trainee:
    """The model with a stage's objective, whose first weights depend on the seed and the stage."""
    recipe = run.recipe
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(generator(recipe.seed, number, "objective").initial_seed())
        return Trainee(model, recipe.stages[number].objective.build(model, recipe.structures(run.fingerprint)))


def _stages(
    run: Run, cohort: Cohort, state: dict[str, Any] | None, stopped: Callable[[], bool], progress: Progress | None,
    save_every_s: float,
) -> Trainee:  # fmt: skip
    """Every stage from where the checkpoint stands; the last one's trainee."""
    recipe, place = run.recipe, run.path / "checkpoints/last.pt"
    fabric = fabric_for(recipe.precision)
    model = build_model(recipe.model, recipe.encoders, run.fingerprint, recipe.seed)
    cache, rows = Cache(run.path / "cache"), list[dict[str, Any]](state["rows"] if state else ())
    total, before, saved = sum(s.steps for s in recipe.stages), 0, time.monotonic()
    trainee = _trainee(model, run, reached := state["stage"] if state else 0)
    for number, stage in enumerate(recipe.stages):
        if number < reached:
            before += stage.steps
            continue
        trainee = trainee if number == reached else _trainee(model, run, number)
        adam, first = optimiser(trainee, stage.lr, stage.weight_decay), 0
        if state and number == reached:
            checkpoint.put_back(place, state, trainee, adam)
            first = state["step"]
        loader = _loader(run, cohort, stage, cache)
        wrapped, adam = fabric.setup(trainee.train(), adam)
        for step in range(first, stage.steps):
            values = _step(
                fabric, wrapped, adam, loader.batch(number * 1_000_003 + step), stage, (recipe.seed, number, step)
            )
            rows += [{"stage": stage.name, "step": before + step, "name": k, "value": v} for k, v in values.items()]
            done = before + step + 1
            if progress:
                progress(done, total, f"{stage.name}: loss {values.get('loss', float('nan')):.3f}")
            stop = stopped()
            if stop or step + 1 == stage.steps or time.monotonic() - saved > save_every_s:
                here = (number, step + 1, trainee.state_dict(), adam.optimizer.state_dict(), rows)
                checkpoint.save(place, dict(zip(checkpoint.KEYS, here, strict=True)))
                write_metrics(run, rows)
                cache.flush()
                saved = time.monotonic()
            if stop and done < total:
                raise InterruptedRunError(
                    f"stopped at step {done} of {total}",
                    "a checkpoint was written",
                    "run the same command again: it resumes",
                )
        before += stage.steps
    write_metrics(run, rows)  # a process killed between the last checkpoint and its curves wrote none
    return trainee


def _step(
    fabric: Any, trainee: Any, adam: Any, batch: Batch, stage: Stage, at: tuple[int, int, int]
) -> dict[str, float]:
    """One optimiser step; the losses' values, none where the batch speaks to no term.

    Args:
        at: seed, stage and step, of which everything random is a function.
    Raises:
        RunError: a loss or a gradient is not a number; the weights are as before.
    """
    step = at[-1]
    for group in adam.param_groups:
        group["lr"] = stage.lr * schedule(step, stage.steps, stage.warmup)
    losses = trainee(batch, generator(*at))
    total: Tensor | None = losses.total
    if total is None:
        return {}
    values = {name: float(term.detach()) for name, term in losses.terms.items()} | {"loss": float(total.detach())}
    if wrong := [name for name, value in values.items() if not math.isfinite(value)]:
        raise _diverged(f"a loss that is not a number ({', '.join(wrong)})", stage, step)
    fabric.backward(total)
    norm = torch.nn.utils.clip_grad_norm_([p for p in trainee.parameters() if p.grad is not None], CLIP, foreach=False)
    if not math.isfinite(float(norm)):
        raise _diverged(f"gradients that are not numbers (of {', '.join(losses.terms)})", stage, step)
    adam.step()
    adam.zero_grad(set_to_none=True)
    trainee.objective.stepped(trainee.model, (step + 1) / stage.steps)
    return values


def _diverged(what: str, stage: Stage, step: int) -> RunError:
    return RunError(
        f"{what} at step {step} of stage {stage.name!r}",
        "finite numbers",
        "lower the stage's `lr` (and change `name`, or start anew with --no-resume)",
    )


def write_metrics(run: Run, rows: list[dict[str, Any]]) -> None:
    """The training curves as Parquet.

    Raises:
        RunError: the disk is full.
    """
    import pyarrow as pa

    schema = pa.schema([("stage", pa.string()), ("step", pa.int64()), ("name", pa.string()), ("value", pa.float64())])
    try:
        write_whole(run.path / "metrics.parquet", pa.Table.from_pylist(rows, schema=schema))
    except CohortError as error:
        raise RunError(
            f"no room on the disk for {run.path / 'metrics.parquet'}",
            "space for the curves; the last checkpoint is intact",
            "free some space and run the same command again: it resumes",
        ) from error
