"""Adapting: a pretrained run and some labels → a run for a task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..cohort import Cohort, subset
from ..harmonise.loader import Loader
from ..models import Model, save_weights
from ..schema import Modality, PolyclinicError, Target
from ..tasks import ClassificationTask, SegmentationTask, SurvivalTask, Task
from ..training import Run
from ..training.loop import fabric_for, generator, optimiser, schedule
from ..training.run import file_hash, write_json
from .lora import inject, merge

Method = Literal["probe", "lora", "full", "scratch"]
METHODS: tuple[str, ...] = get_args(Method)
Progress = Callable[[int, int, str], None]

RANK, ALPHA = 8, 16.0
RIDGE = 0.02
LEARNING_RATE = {"probe": 2e-3, "lora": 2e-3, "full": 5e-4, "scratch": 1e-3}


class AdaptError(PolyclinicError):
    """A task that cannot be adapted to as asked."""


@dataclass(frozen=True, slots=True)
class Adapted:
    """A model with its head, ready to answer."""

    run: Run
    name: str
    model: Model
    task: Task
    inputs: tuple[Modality, ...]


def inputs_of(run: Run, name: str) -> tuple[Modality, ...]:
    """The modalities that a task may read."""
    spec = run.recipe.tasks[name]
    return spec.inputs or tuple(run.recipe.encoders)


def _task(run: Run, name: str) -> Any:
    if name not in run.recipe.tasks:
        raise AdaptError(
            f"no task {name!r} in the recipe {run.recipe.name!r}",
            "one of " + ", ".join(run.recipe.tasks),
            "correct the name",
        )
    return run.recipe.tasks[name]


def adapt(
    run: Run | str | Path, task: str, method: Method = "lora", labels: int | None = None, *, cohort: Cohort | str | Path | None = None,
    seed: int | None = None, steps: int | None = None, inputs: Sequence[Modality | str] | None = None, into: str | Path | None = None,
    progress: Progress | None = None,
) -> Run:  # fmt: skip
    """Adapt a pretrained run to a task of its recipe.

    Args:
        run: or its folder.
        task: the task's name.
        method: "probe" (frozen backbone), "lora", "full", or "scratch": the same network with fresh weights and the same budget.
        labels: how many labelled training patients may be used; None for all. Fewer are always among more.
        cohort: where it lies now; by default where it lay.
        seed: of the labels' order and the head; by default the recipe's.
        steps: optimiser steps; by default by task.
        inputs: the modalities that may be read; by default the task's.
        into: the folder of the new run; by default below the run.
        progress: called with done, all, what.
    Raises:
        AdaptError: no such task or method; no labelled patient; one class.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    run = run.backbone
    spec = _task(run, task)
    if method not in METHODS:
        raise AdaptError(f"no method {method!r}", "one of " + ", ".join(METHODS), "correct it")
    seed = run.recipe.seed if seed is None else seed
    reads = tuple(Modality(m) for m in inputs) if inputs is not None else inputs_of(run, task)
    unknown = [m for m in reads if m not in run.recipe.encoders]
    if unknown:
        raise AdaptError(
            f"inputs of {unknown[0]}, which the model does not read",
            "among " + ", ".join(run.recipe.encoders),
            "leave it out",
        )
    catalogue = cohort if isinstance(cohort, Cohort) else run.cohort(cohort)
    model = run.model(pretrained=method != "scratch", seed=seed + 1 if method == "scratch" else None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = spec.build(task, model)
    loader = run.loader(catalogue, run.split.train, (task,))
    chosen = _labelled(loader, task, labels, seed, reads)
    if method in ("probe", "lora", "full") and isinstance(head, SegmentationTask):
        _pretrained_decoder(run, task, head)
    _train(run, model, head, loader, chosen, method, reads, seed, steps, progress)
    place = (
        Path(into)
        if into is not None
        else run.path / "adapted" / f"{task}-{method}-{len(chosen)}-{seed}{_suffix(reads, run, task)}"
    )
    return _write(run, place, model, head, method, reads, chosen, seed)


def _suffix(reads: tuple[Modality, ...], run: Run, task: str) -> str:
    return "" if reads == inputs_of(run, task) else "-" + "+".join(reads)


def _labelled(loader: Loader, task: str, labels: int | None, seed: int, reads: tuple[Modality, ...]) -> list[str]:
    """The training patients whose labels may be used: those who have something to read."""
    known = {p: v for p, v in loader.labelled(task).items() if set(reads) & set(loader.by_patient[p])}
    chosen = list(subset(known, labels, seed))
    if not chosen:
        raise AdaptError(
            f"no training patient with a label of {task!r} and one of {', '.join(reads)}",
            "at least two",
            "label some, or read more modalities",
        )
    classes = {known[p] for p in chosen if isinstance(known[p], int)}
    if loader.labels[0].kind == "class" and len(classes) < 2:
        raise AdaptError(
            f"{len(chosen)} labelled patients of one class of {task!r}", "both classes", "give more labels"
        )
    loader.only(task, chosen)
    return sorted(chosen)


def _pretrained_decoder(run: Run, task: str, head: SegmentationTask) -> None:
    """Start from the decoder that the pretraining objective learned for this task, where it fits."""
    from safetensors.torch import load_file

    place = run.path / "model/objective.safetensors"
    if not place.exists():
        return
    state = load_file(place)
    for number, part in enumerate(getattr(run.recipe.stages[-1].objective, "parts", [run.recipe.stages[-1].objective])):
        if part.kind == "segmentation" and part.task == task:
            start = (
                f"parts.{number}_segmentation.decoder."
                if hasattr(run.recipe.stages[-1].objective, "parts")
                else "decoder."
            )
            mine = {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
            if {k: v.shape for k, v in mine.items()} == {k: v.shape for k, v in head.decoder.state_dict().items()}:
                head.decoder.load_state_dict(mine)


def _train(
    run: Run, model: Model, head: Task, loader: Loader, chosen: list[str], method: str, reads: tuple[Modality, ...], seed: int,
    steps: int | None, progress: Progress | None,
) -> None:  # fmt: skip
    dense = isinstance(head, SegmentationTask)
    if method == "probe" and not dense:
        pooled, target = features(model, head, loader, chosen, reads)
        fit_head(head, pooled, target)
        return
    if method == "probe":
        model.requires_grad_(False)
    elif method == "lora":
        inject(model, RANK, ALPHA, seed)
    if not dense and method in ("lora", "full"):
        # The head first, on the backbone as it is; then both together: a random head would distort the features
        # (Kumar et al. 2022).
        fit_head(head, *features(model, head, loader, chosen, reads))
    size = 4 if dense else 24
    steps = steps or (120 if dense else 40)
    _fine_tune(
        run,
        model,
        head,
        loader,
        chosen,
        reads,
        seed,
        steps,
        size,
        LEARNING_RATE[method] if dense or method == "scratch" else LEARNING_RATE[method] / 4,
        progress,
    )
    if isinstance(head, SurvivalTask):
        pooled, _ = features(model, head, loader, chosen, reads)
        head.refer_to(head.read(pooled).detach())
    merge(model)


def _fine_tune(
    run: Run, model: Model, head: Task, loader: Loader, chosen: list[str], reads: tuple[Modality, ...], seed: int, steps: int,
    size: int, lr: float, progress: Progress | None,
) -> None:  # fmt: skip
    fabric = fabric_for(run.recipe.precision)
    both = nn.ModuleList([model, head]).train()
    adam = optimiser(both, lr, 0.05)
    name, order = head.name, _orders(loader, chosen, seed, size, steps)
    for step, patients in enumerate(order):
        for group in adam.param_groups:
            group["lr"] = lr * schedule(step, steps, max(1, steps // 10))
        batch = loader.of(patients, reads, seed=step)
        with fabric.autocast():
            output = head.output(model, batch)
        loss = head.loss(output, batch.targets[name])
        if loss is None:
            continue
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in both.parameters() if p.grad is not None], 1.0, foreach=False)
        adam.step()
        adam.zero_grad(set_to_none=True)
        if progress:
            progress(step + 1, steps, f"{name}: loss {float(loss.detach()):.3f}")
    both.eval()


def _orders(loader: Loader, chosen: list[str], seed: int, size: int, steps: int) -> list[list[str]]:
    """The patients of each step: as many positives as negatives where there are classes, else in shuffled rounds."""
    known = loader.labelled(loader.labels[0].task)
    groups: dict[Any, list[str]] = {}
    for patient in chosen:
        value = known[patient]
        groups.setdefault(value if isinstance(value, int) else 0, []).append(patient)
    each = max(1, size // len(groups))
    batches = []
    for step in range(steps):
        draws = generator(seed, "order", step)
        picked = []
        for value in sorted(groups):
            members = groups[value]
            picked += [members[i] for i in torch.randperm(len(members), generator=draws)[:each].tolist()]
        batches.append(sorted(picked))
    return batches


@torch.no_grad()
def features(
    model: Model, head: Task, loader: Loader, patients: Sequence[str], reads: Sequence[Modality]
) -> tuple[Tensor, Target]:
    """Every patient's vector (p d) and target, from a frozen model."""
    pooled, values, known = [], [], []
    model.eval()
    for batch in loader.each(64, patients, reads):
        pooled.append(model(batch).pooled.float())
        target = batch.targets[head.name]
        assert isinstance(target.values, Tensor)
        values.append(target.values)
        known.append(target.mask)
    return torch.cat(pooled), Target(torch.cat(values), torch.cat(known))


def fit_head(head: Task, pooled: Tensor, target: Target) -> None:
    """Fit a linear head to features by L-BFGS with a ridge: the optimum, with no step size to choose."""
    assert isinstance(head, ClassificationTask | SurvivalTask)
    wanted = [p for p in head.parameters() if p.requires_grad]
    search = torch.optim.LBFGS(wanted, lr=1.0, max_iter=200, line_search_fn="strong_wolfe")
    ridge = RIDGE

    def closure() -> Tensor:
        search.zero_grad()
        loss = head.loss(head.read(pooled), target)
        total = (loss if loss is not None else pooled.new_zeros(())) + ridge * (head.head.weight**2).sum()
        total.backward()
        return total

    search.step(closure)  # type: ignore[arg-type]
    if isinstance(head, SurvivalTask):
        head.refer_to(head.read(pooled).detach())


def _write(
    run: Run,
    place: Path,
    model: Model,
    head: Task,
    method: str,
    reads: tuple[Modality, ...],
    chosen: list[str],
    seed: int,
) -> Run:
    """The new run: its head, and the backbone's weights where they changed."""
    kept = {f"head.{k}": v for k, v in head.state_dict().items()}
    if method != "probe":
        before = run.model(pretrained=True).state_dict()
        kept |= {f"model.{k}": v for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    save_weights(place / "adapter.safetensors", kept, {"task": head.name})
    write_json(
        place / "adapter.json",
        {
            "run": _relative(run.path, place), "backbone": file_hash(run.weights), "task": head.name, "method": method,
            "inputs": list(reads), "labels": len(chosen), "labelled": chosen, "seed": seed,
        },
    )  # fmt: skip
    return Run.open(place)


def _relative(run: Path, place: Path) -> str:
    import os

    return os.path.relpath(run.resolve(), place.resolve())


def open_adapted(run: Run | str | Path) -> Adapted:
    """The model and head of an adapted run.

    Raises:
        AdaptError: the run was not adapted.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    if not run.adapter:
        raise AdaptError(
            f"the run {run.path} is not adapted to a task",
            "a run made by `polyclinic adapt`",
            f"polyclinic adapt {run.path} --task …",
        )
    from safetensors.torch import load_file

    name = run.adapter["task"]
    model = run.backbone.model()
    head = run.recipe.tasks[name].build(name, model)
    state = load_file(run.path / "adapter.safetensors")
    changed = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
    model.load_state_dict({**model.state_dict(), **changed})
    head.load_state_dict({k.removeprefix("head."): v for k, v in state.items() if k.startswith("head.")})
    return Adapted(run, name, model.eval(), head.eval(), tuple(Modality(m) for m in run.adapter["inputs"]))
