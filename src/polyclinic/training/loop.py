"""Pretraining: a recipe and a cohort → a run. Everything random is a function of (seed, stage, step)."""

from __future__ import annotations

import hashlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..cohort import Cohort, guard, labels_of, split, subset
from ..cohort.catalogue import inputs, write_whole
from ..harmonise import Cache, fit
from ..harmonise.loader import Loader
from ..models import Model, build_model, save_weights
from . import checkpoint
from .checkpoint import InterruptedRunError, RunError
from .recipe import Recipe, Stage, differing, parts
from .run import Run, commit, versions, write_json

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
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM end the step and not the process; the yielded function tells whether one came."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {s: signal.signal(s, lambda number, _: came.append(number)) for s in (signal.SIGINT, signal.SIGTERM)}
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
        resume: False starts a run of this name anew.
        progress: called with done, all, what.
        save_every_s: seconds between checkpoints.
    Raises:
        RunError: a run of this name has another recipe; the loss is not a number; the disk is full.
        InterruptedRunError: stopped by a signal, at a checkpoint.
        CohortError, SplitError, LabelError, LeakageError: the cohort does not do.
    """
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    cohort = cohort if isinstance(cohort, Cohort) else Cohort.open(cohort)
    place = Path(into) / recipe.name
    if (place / "recipe.yaml").exists() and resume:
        _same_recipe(place, recipe)
        if (place / "model/model.safetensors").exists():
            return Run.open(place)
    state = checkpoint.read(place / "checkpoints/last.pt") if resume else None
    run = Run(place)
    if state is None:
        _prepare(run, recipe, cohort)
    with stop_signals() as stopped:
        trained = _stages(run, cohort, state, stopped, progress, save_every_s)
    save_weights(place / "model/objective.safetensors", trained.objective.state_dict(), {"recipe": recipe.name})
    save_weights(
        place / "model/model.safetensors",
        trained.model.state_dict(),
        recipe.model_dump(mode="json", include={"encoders", "model"}),
    )
    (place / "checkpoints/last.pt").unlink(missing_ok=True)
    return Run.open(place)


def _same_recipe(place: Path, recipe: Recipe) -> None:
    old = Recipe.load(place / "recipe.yaml")
    keys = differing(old, recipe)
    if keys:
        raise RunError(
            f"the run {place} was made by another recipe: it differs in {', '.join(keys[:6])}{' …' if len(keys) > 6 else ''}",
            "the same recipe, or another name",
            "change `name`, give another folder with --into, or start anew with --no-resume",
        )


def _prepare(run: Run, recipe: Recipe, cohort: Cohort) -> None:
    """Split, guard, fingerprint; write down all of it."""
    records = cohort.records(recipe.cohort.where)
    task = recipe.tasks.get(recipe.cohort.split.stratify or "")
    label = task.label(recipe.cohort.split.stratify or "") if task else None
    for name, other in recipe.tasks.items():  # a wrong column is an error now, not after an hour
        if (asked := other.label(name)) is not None:
            labels_of(records, asked)
    parted = split(records, recipe.cohort.split, cohort.load, labels_of(records, label) if label else None)
    guard(parted.train, parted.test, records, cohort.load)
    training = set(parted.train)
    fingerprint = fit([r for r in inputs(records) if r.patient in training], cohort.load, recipe.standards())
    (run.path / "model").mkdir(parents=True, exist_ok=True)
    (run.path / "recipe.yaml").write_text(recipe.as_yaml())
    fingerprint.save(run.path / "model/fingerprint.json")
    write_json(run.path / "model/config.json", recipe.model_dump(mode="json", include={"encoders", "model", "seed"}))
    side = lambda patients: sorted(r.id for r in records if r.patient in set(patients))
    write_json(
        run.path / "lock.json",
        {
            "cohort": str(cohort.path.resolve()),
            "split": {"train": parted.train, "test": parted.test, "hash": parted.hash},
            "records": {"train": side(parted.train), "test": side(parted.test)},
            "packages": versions(),
            "seed": recipe.seed,
            "commit": commit(),
            "threads": torch.get_num_threads(),
        },
    )


def _loader(run: Run, cohort: Cohort, stage: Stage, cache: Cache) -> Loader:
    recipe = run.recipe
    masks = [p for p in parts(stage.objective) if p.kind == "segmentation"]
    loader = Loader(
        cohort.records(recipe.cohort.where), run.split.train, recipe.standards(), run.fingerprint, cohort.load,
        [label for p in masks if (label := recipe.tasks[p.task].label(p.task))], cache, stage.batch, recipe.seed, stage.most,
        stage.temperature,
    )  # fmt: skip
    for part in masks:
        loader.only(part.task, subset(loader.labelled(part.task), part.labels, recipe.seed))
    return loader


def _stages(
    run: Run,
    cohort: Cohort,
    state: dict[str, Any] | None,
    stopped: Callable[[], bool],
    progress: Progress | None,
    save_every_s: float,
) -> Trainee:
    recipe = run.recipe
    fabric = fabric_for(recipe.precision)
    model = build_model(recipe.model, recipe.encoders, run.fingerprint, recipe.seed)
    cache = Cache(run.path / "cache")
    rows: list[dict[str, Any]] = list(state["rows"]) if state else []
    total = sum(s.steps for s in recipe.stages)
    trainee: Trainee | None = None
    for number, stage in enumerate(recipe.stages):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(generator(recipe.seed, number, "objective").initial_seed() % 2**31))
            trainee = Trainee(model, stage.objective.build(model, recipe.classes()))
        if state and number < state["stage"]:
            continue
        adam = optimiser(trainee, stage.lr, stage.weight_decay)
        start = 0
        if state and number == state["stage"]:
            trainee.load_state_dict(state["trainee"])
            adam.load_state_dict(state["adam"])
            start = state["step"]
        loader = _loader(run, cohort, stage, cache)
        wrapped, adam = fabric.setup(trainee.train(), adam)
        before, saved = sum(s.steps for s in recipe.stages[:number]), time.monotonic()
        for step in range(start, stage.steps):
            values = _step(fabric, wrapped, adam, loader, stage, (recipe.seed, number, step))
            rows += [{"stage": stage.name, "step": before + step, "name": k, "value": v} for k, v in values.items()]
            if progress:
                progress(before + step + 1, total, f"{stage.name}: loss {values.get('loss', float('nan')):.3f}")
            last = step + 1 == stage.steps
            if stopped() or last or time.monotonic() - saved > save_every_s:
                at = {
                    "stage": number,
                    "step": step + 1,
                    "trainee": trainee.state_dict(),
                    "adam": adam.optimizer.state_dict(),
                    "rows": rows,
                }
                checkpoint.save(run.path / "checkpoints/last.pt", at)
                write_metrics(run, rows)
                saved = time.monotonic()
            if stopped() and not (last and number + 1 == len(recipe.stages)):
                raise InterruptedRunError(
                    f"stopped at step {before + step + 1} of {total}",
                    "a checkpoint was written",
                    "run the same command again: it resumes",
                )
    assert trainee is not None
    return trainee


def _step(
    fabric: Any, trainee: Any, adam: Any, loader: Loader, stage: Stage, at: tuple[int, int, int]
) -> dict[str, float]:
    """One optimiser step; the losses' values."""
    _, _, step = at
    for group in adam.param_groups:
        group["lr"] = stage.lr * schedule(step, stage.steps, stage.warmup)
    losses = trainee(loader.batch(at[1] * 1_000_003 + step), generator(*at))
    total: Tensor | None = losses.total
    if total is None:
        return {}
    values = {name: float(term.detach()) for name, term in losses.terms.items()} | {"loss": float(total.detach())}
    if not math.isfinite(values["loss"]):
        worst = [k for k, v in values.items() if not math.isfinite(v)]
        raise RunError(
            f"a loss that is not a number at step {step} ({', '.join(worst)})", "a finite loss", "lower the stage's lr"
        )
    fabric.backward(total)
    torch.nn.utils.clip_grad_norm_([p for p in trainee.parameters() if p.grad is not None], CLIP, foreach=False)
    adam.step()
    adam.zero_grad(set_to_none=True)
    return values


def write_metrics(run: Run, rows: list[dict[str, Any]]) -> None:
    """The training curves as Parquet."""
    import pyarrow as pa

    schema = pa.schema([("stage", pa.string()), ("step", pa.int64()), ("name", pa.string()), ("value", pa.float64())])
    write_whole(run.path / "metrics.parquet", pa.Table.from_pylist(rows, schema=schema))
