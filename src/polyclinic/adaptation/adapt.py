"""Adapting: a pretrained run and some labels → a run for a task."""

from __future__ import annotations

import difflib
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..cohort import Cohort, subset
from ..harmonise.loader import Loader
from ..models import Model, save_weights, under
from ..models.lora import factors, inject, merge, restore
from ..objectives.hybrid import places
from ..schema import Batch, Modality, PolyclinicError
from ..tasks import Report, Segmentation, SegmentationTask, SurvivalTask, Task
from ..tasks.task import LinearTask
from ..training import Run
from ..training.ranks import fabric_for
from ..training.repeatable import generator, repeatable
from ..training.run import file_hash, write_json
from ..training.schedule import optimiser, schedule
from .probe import ALONE, features, fit_head, to_prevalence, views

Method = Literal["probe", "lora", "full", "scratch"]
METHODS: tuple[str, ...] = get_args(Method)
Progress = Callable[[int, int, str], None]

RANK, ALPHA = 8, 16.0
LEARNING_RATE = {"probe": 2e-3, "lora": 2e-3, "full": 5e-4, "scratch": 1e-3}
AFTER_PROBE = 0.25
"""The share of the learning rate where the head was fitted first: it is near its optimum already."""
STEPS = {"segmentation": 60, "classification": 40, "survival": 40}
PATIENTS = {"segmentation": 2, "classification": 16, "survival": 32}
"""Patients a step; a survival's are compared with each other."""
ROUNDS = 8
"""How often at most a patient is seen where the head was fitted first: of few labels a backbone soon learns the patients by heart."""
SCRATCH = {"segmentation": 2, "classification": 1, "survival": 1}
"""How many times as many steps from scratch. A decoder that starts from nothing is merely unfinished when a pretrained one is done,
and would make of pretraining more than it is (He et al. 2019); a linear head gained nothing by more."""


class AdaptError(PolyclinicError):
    """A task that cannot be adapted to, or asked, as wanted."""


@dataclass(frozen=True, slots=True)
class Adapted:
    """A model with its head, ready to answer."""

    run: Run
    name: str
    model: Model
    task: Task
    inputs: tuple[Modality, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is learned of whom.

    Args:
        run: the backbone's.
        task: its name.
        method: what is trained.
        reads: the modalities that may be read.
        loader: of the training side, which knows the labels of `patients` and of nobody else.
        patients: whose labels may be used, sorted.
        seed: of the batches.
        steps: of the optimiser.
    """

    run: Run
    task: str
    method: str
    reads: tuple[Modality, ...]
    loader: Loader
    patients: list[str]
    seed: int
    steps: int


def inputs_of(run: Run, name: str) -> tuple[Modality, ...]:
    """The modalities that a task may read, in their order."""
    allowed = set(run.recipe.tasks[name].inputs or run.recipe.encoders)
    return tuple(m for m in Modality if m in allowed)


def reads_of(run: Run, name: str, inputs: Sequence[Modality | str] | None) -> tuple[Modality, ...]:
    """The modalities that are asked for, in their order.

    Raises:
        AdaptError: there is no such modality, the model does not read it, or nothing is left to segment.
    """
    if inputs is None:
        return inputs_of(run, name)
    there = [m.value for m in run.recipe.encoders]
    for wanted in inputs:
        if wanted not in there:
            raise AdaptError(
                f"inputs of {str(wanted)!r}, which the model does not read",
                "among " + ", ".join(there),
                _guess(str(wanted), there, "leave it out"),
            )
    spec = run.recipe.tasks[name]
    if not inputs or (isinstance(spec, Segmentation) and spec.modality not in inputs):
        raise AdaptError(
            f"inputs of {', '.join(inputs) or 'nothing'}",
            f"{spec.modality}, which is to be segmented" if isinstance(spec, Segmentation) else "at least one modality",
            "add it",
        )
    return tuple(m for m in Modality if m in inputs)


def _guess(found: str, there: Sequence[str], otherwise: str) -> str:
    close = difflib.get_close_matches(found, there, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else otherwise


def _check(run: Run, task: str, method: str, labels: int | None, steps: int | None) -> None:
    if task not in run.recipe.tasks:
        there = list(run.recipe.tasks)
        raise AdaptError(
            f"no task {task!r} in the recipe {run.recipe.name!r}",
            "one of " + ", ".join(there) if there else "a recipe with tasks",
            _guess(task, there, "correct the name"),
        )
    if method not in METHODS:
        raise AdaptError(f"no method {method!r}", "one of " + ", ".join(METHODS), _guess(method, METHODS, "correct it"))
    as_it_is = isinstance(run.recipe.tasks[task], Report)  # a decoder that was pretrained may write without being tuned
    for name, number in (("labels", labels), ("steps", steps)):
        if number is not None and number < (0 if name == "steps" and as_it_is else 1):
            raise AdaptError(f"{number} {name}", "at least 1, or None for the default", "correct it")


def adapt(
    run: Run | str | Path, task: str, method: Method = "lora", labels: int | None = None, *, cohort: Cohort | str | Path | None = None,
    seed: int | None = None, steps: int | None = None, inputs: Sequence[Modality | str] | None = None, into: str | Path | None = None,
    progress: Progress | None = None,
) -> Run:  # fmt: skip
    """Adapt a pretrained run to a task of its recipe; the same arguments give the same bits.

    Args:
        run: or its folder.
        task: the task's name.
        method: "probe" (frozen backbone), "lora", "full", or "scratch": the same network with fresh weights.
        labels: how many labelled training patients may be used; None for all. Fewer are always among more.
        cohort: where it lies now; by default where it lay.
        seed: of the labels' order and the head; by default the recipe's.
        steps: optimiser steps; by default by task, labels and method.
        inputs: the modalities that may be read; by default the task's.
        into: the folder of the new run; by default below the run.
        progress: called with done, all, what.
    Raises:
        AdaptError: no such task, method or modality; no labelled patient; one class, or no event; the loss is not a number.
        TaskError: a task that needs no labels.
    """
    run = (run if isinstance(run, Run) else Run.open(run)).backbone
    _check(run, task, method, labels, steps)
    seed = run.recipe.seed if seed is None else seed
    reads = reads_of(run, task, inputs)
    catalogue = cohort if isinstance(cohort, Cohort) else run.cohort(cohort)
    if isinstance(run.recipe.tasks[task], Report):
        from .report import adapt_report  # it needs this file

        return adapt_report(run, task, method, labels, catalogue, seed, steps, reads, into, progress)
    model = run.model(pretrained=method != "scratch", seed=seed + 1 if method == "scratch" else None)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        head = run.recipe.tasks[task].build(task, model)
    loader = run.loader(catalogue, run.split.train, (task,))
    chosen = labelled(loader, task, labels, seed, reads)
    kind = run.recipe.tasks[task].kind
    steps = steps or _steps(kind, method, len(chosen))
    plan = Plan(run, task, method, reads, loader, chosen, seed, steps)
    if method != "scratch" and isinstance(head, SegmentationTask):
        _pretrained_decoder(run, task, head)
    began = time.monotonic()
    with repeatable():
        learned = _train(plan, model, head, progress)
    learned["seconds"] = round(time.monotonic() - began, 2)
    own = "" if reads == inputs_of(run, task) else "-" + "+".join(reads)
    place = Path(into) if into is not None else run.path / f"adapted/{task}-{method}-{len(chosen)}-{seed}{own}"
    return write_adapted(plan, place, model, head, learned)


def _steps(kind: str, method: str, patients: int) -> int:
    """How many steps, where nobody says."""
    if method == "scratch":
        return STEPS[kind] * SCRATCH[kind]
    return STEPS[kind] if kind == "segmentation" else min(STEPS[kind], math.ceil(ROUNDS * patients / PATIENTS[kind]))


def labelled(loader: Loader, task: str, labels: int | None, seed: int, reads: Sequence[Modality]) -> list[str]:
    """The training patients whose labels may be used: those who have something to read; the loader forgets the others' labels.

    Raises:
        AdaptError: there is none; they are of one class; no event was seen.
    """
    known = {p: v for p, v in loader.labelled(task).items() if set(reads) & set(loader.by_patient[p])}
    chosen = sorted(subset(known, labels, seed))
    if not chosen:
        raise AdaptError(
            f"no training patient with a label of {task!r} and one of {', '.join(reads)}",
            "at least two",
            "label some, or read more modalities",
        )
    kind, values = loader.labels[0].kind, [known[p] for p in chosen]
    if kind == "class" and len(set(values)) < 2:
        raise AdaptError(
            f"{len(chosen)} labelled patients of one class of {task!r}", "both classes", "give more labels"
        )
    if kind == "survival" and not any(event for _, event in values):
        raise AdaptError(
            f"{len(chosen)} labelled patients of {task!r} without an event", "at least one event", "give more labels"
        )
    loader.only(task, chosen)
    return chosen


def _pretrained_decoder(run: Run, task: str, head: SegmentationTask) -> None:
    """Start from the decoder that the last stage of pretraining learned for this task, where it learned one."""
    from safetensors.torch import load_file

    for part, place in places(run.recipe.stages[-1].objective):
        if part.kind == "segmentation" and part.task == task:
            head.decoder.load_state_dict(under(f"{place}decoder.", load_file(run.objective_weights)))


def _train(plan: Plan, model: Model, head: Task, progress: Progress | None) -> dict[str, Any]:
    """Train the model and its head in place; what was chosen on the way."""
    chosen: dict[str, Any] = {}
    linear = isinstance(head, LinearTask)
    if plan.method == "probe":
        model.requires_grad_(False)
    elif plan.method == "lora":
        inject(model, RANK, ALPHA, plan.seed)
        chosen |= {"rank": RANK, "alpha": ALPHA}
    if linear and plan.method != "scratch":
        # The head first, on the backbone as it is; then both together: a random head would distort the features
        # (Kumar et al. 2022).
        chosen["ridge"] = fit_head(head, views(model, head, plan.loader, plan.patients, plan.reads), plan.seed)
    if not linear or plan.method != "probe":
        lr = LEARNING_RATE[plan.method] * (AFTER_PROBE if "ridge" in chosen else 1.0)
        chosen |= {"steps": plan.steps, "lr": lr}
        _fine_tune(plan, model, head, lr, progress)
    if (
        isinstance(head, SurvivalTask) and plan.method != "probe"
    ):  # the probe's vectors are as they were when it was fitted
        head.refer_to(head.read(features(model, head, plan.loader, plan.patients, plan.reads)[0]).detach())
    known = plan.loader.labelled(plan.task)
    to_prevalence(head, [known[p] for p in plan.patients])
    return chosen


def _fine_tune(plan: Plan, model: Model, head: Task, lr: float, progress: Progress | None) -> None:
    fabric, linear = fabric_for(plan.run.recipe.precision), isinstance(head, LinearTask)
    both = nn.ModuleList([model, head]).train()
    adam = optimiser(both, lr, 0.05)
    for step, patients in enumerate(_orders(plan, PATIENTS[plan.run.recipe.tasks[plan.task].kind])):
        for group in adam.param_groups:
            group["lr"] = lr * schedule(step, plan.steps, max(1, plan.steps // 10))
        batch = _batch(plan, patients, step) if linear else plan.loader.of(patients, plan.reads, seed=step)
        with fabric.autocast():
            output = head.output(model, batch)
        loss = head.loss(output, batch.targets[plan.task])
        if loss is not None:
            if not bool(torch.isfinite(loss)):
                raise AdaptError(
                    f"a loss of {plan.task!r} that is not a number at step {step}",
                    "a finite loss",
                    "look for records that are not numbers, or adapt by probe",
                )
            loss.backward()
            torch.nn.utils.clip_grad_norm_([p for p in both.parameters() if p.grad is not None], 1.0, foreach=False)
            adam.step()
            adam.zero_grad(set_to_none=True)
        if progress:
            progress(
                step + 1, plan.steps, f"{plan.task}: loss {float('nan') if loss is None else float(loss.detach()):.3f}"
            )
    both.eval()


def _batch(plan: Plan, patients: list[str], step: int) -> Batch:
    """All that may be read of the patients, or one modality alone: what a patient lacks later must not be news to the model."""
    random = generator(plan.seed, "reads", step)
    alone = len(plan.reads) > 1 and float(torch.rand((), generator=random)) < ALONE
    reads = (plan.reads[int(torch.randint(len(plan.reads), (), generator=random))],) if alone else plan.reads
    there = [p for p in patients if set(reads) & set(plan.loader.by_patient[p])]
    return plan.loader.of(there, reads, seed=step) if there else plan.loader.of(patients, plan.reads, seed=step)


def _orders(plan: Plan, size: int) -> list[list[str]]:
    """The patients of each step, in shuffled rounds; where there are classes, as many of each (a rare one comes round more often)."""
    known = plan.loader.labelled(plan.task)
    groups: dict[int, list[str]] = {}
    for patient in plan.patients:
        value = known[patient]
        groups.setdefault(value if isinstance(value, int) else 0, []).append(patient)
    each = max(1, size // len(groups))
    batches = []
    for step in range(plan.steps):
        picked = []
        for value, members in sorted(groups.items()):
            number, place = divmod(step, max(1, len(members) // each))
            order = torch.randperm(len(members), generator=generator(plan.seed, "order", value, number)).tolist()
            picked += [members[i] for i in order[place * each : (place + 1) * each]]
        batches.append(sorted(picked))
    return batches


def write_adapted(plan: Plan, place: Path, model: Model, head: Task, learned: dict[str, Any]) -> Run:
    """The new run: its head, and of the backbone what changed (of LoRA its factors). What lay there of an older one goes first."""
    run = plan.run
    kept: dict[str, Tensor] = {f"head.{k}": v.clone() for k, v in head.state_dict().items()}
    if plan.method == "lora":
        kept |= {f"lora.{k}": v for k, v in factors(model).items()}
    elif plan.method != "probe":
        before = run.model().state_dict()
        kept |= {f"model.{k}": v for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    for name in ("adapter.json", "card.md"):
        (place / name).unlink(missing_ok=True)
    shutil.rmtree(place / "evidence", ignore_errors=True)
    save_weights(place / "adapter.safetensors", kept, {"task": plan.task})
    write_json(
        place / "adapter.json",
        {
            "run": os.path.relpath(run.path.resolve(), place.resolve()), "backbone": file_hash(run.weights), "task": plan.task,
            "method": plan.method, "inputs": list(plan.reads), "labels": len(plan.patients), "labelled": plan.patients,
            "seed": plan.seed, **learned,
        },
    )  # fmt: skip
    return Run.open(place)


def head_of(run: Run, name: str, model: Model) -> Task:
    """A task's head, as it is before it is adapted."""
    if isinstance(run.recipe.tasks[name], Report):
        from .report import writer_of  # it needs this file

        return writer_of(run, name, model)
    return run.recipe.tasks[name].build(name, model)


def open_adapted(run: Run | str | Path) -> Adapted:
    """The model and head of an adapted run.

    Raises:
        AdaptError: the run was not adapted, or its weights do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    run = run if isinstance(run, Run) else Run.open(run)
    if not run.adapter:
        raise AdaptError(
            f"the run {run.path} is not adapted to a task",
            "a run made by `polyclinic adapt`",
            f"polyclinic adapt {run.path} --task …",
        )
    name, model = run.adapter["task"], run.backbone.model()
    head = head_of(run, name, model)
    try:
        state = load_file(run.path / "adapter.safetensors")
        model.load_state_dict({**model.state_dict(), **under("model.", state)})
        restore(model, under("lora.", state), run.adapter.get("alpha", ALPHA))
        merge(model)
        head.load_state_dict(under("head.", state))
    except (SafetensorError, RuntimeError, AttributeError, KeyError) as error:
        raise AdaptError(
            f"weights in {run.path / 'adapter.safetensors'} that do not fit ({type(error).__name__})",
            "the adapter of this task, whole and made by this version",
            "adapt again",
        ) from error
    return Adapted(
        run, name, model.requires_grad_(False).eval(), head.eval(), tuple(map(Modality, run.adapter["inputs"]))
    )
