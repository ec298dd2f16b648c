"""Adapting: a pretrained run and some labels → a run for a task."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..cohort import Cohort
from ..cohort.giveaways import giveaways
from ..cohort.labels import check_column
from ..models import Model, under
from ..models.adapters import AdapterFields, go_on, put, settle
from ..objectives.hybrid import places
from ..schema import Modality
from ..tasks import (
    Classes,
    ClassesTask,
    Classification,
    DetectionTask,
    Findings,
    Grade,
    LinearTask,
    Report,
    Retrieval,
    SegmentationTask,
    Task,
)
from ..training import Run
from ..training.methods import KINDS, Full, Kind, Knn, Probe, Prototype, Scratch, Told, ZeroShot, methods
from ..training.reading import guess
from ..training.repeatable import repeatable
from ..training.run import file_hash
from .adapted import FILE, Adapted, head_of, write
from .chain import begun, check_after
from .fine_tune import PATIENTS, Progress, fine_tune
from .forgetting import Keeper, Pretraining, interpolated
from .neighbours import fit_votes
from .plan import AdaptError, Plan, enough, inputs_of, labelled, reads_of
from .probe import View, features, fit_head, views
from .prototypes import fit_prototypes
from .report import adapt_report
from .sentences import fit_sentences, sentences
from .stacking import fit_stacked

LOG = logging.getLogger("polyclinic.adaptation")
Method = Kind
METHODS: tuple[str, ...] = KINDS

AFTER_PROBE = 0.25
"""The share of the learning rate where the head was fitted first: it is near its optimum already."""
STEPS = {
    "segmentation": 60, "detection": 200, "keypoints": 200, "classification": 40, "classes": 120, "findings": 40, "grade": 40,
    "hazards": 40, "survival": 40,
}  # fmt: skip
ROUNDS = 8
"""How often at most a patient is seen where the head was fitted first: of few labels a backbone soon learns the patients by heart."""
SCRATCH = {
    "segmentation": 2,
    "detection": 2,
    "keypoints": 2,
    "classification": 1,
    "classes": 1,
    "findings": 1,
    "grade": 1,
    "hazards": 1,
    "survival": 1,
}
"""How many times as many steps from scratch. A decoder that starts from nothing is merely unfinished when a pretrained one is done,
and would make of pretraining more than it is (He et al. 2019); a linear head gained nothing by more."""


def _check(run: Run, task: str, labels: int | Sequence[str] | None, steps: int | None) -> None:
    if task not in run.recipe.tasks:
        there = list(run.recipe.tasks)
        raise AdaptError(
            f"no task {task!r} in the recipe {run.recipe.name!r}",
            "one of " + ", ".join(there) if there else "a recipe with tasks",
            guess(task, there, "correct the name"),
        )
    as_it_is = isinstance(run.recipe.tasks[task], Report)  # a decoder that was pretrained may write without being tuned
    many = labels if labels is None or isinstance(labels, int) else len(labels)
    for name, number in (("labels", many), ("steps", steps)):
        if number is not None and number < (0 if name == "steps" and as_it_is else 1):
            raise AdaptError(f"{number} {name}", "at least 1, or None for the default", "correct it")


def _fits(run: Run, task: str, method: tuple[Any, ...]) -> None:
    """Refuse what trains nothing for a task whose answers it cannot make."""
    spec, one = run.recipe.tasks[task], method[0]
    if not isinstance(one, Prototype | Knn | ZeroShot) or isinstance(spec, Retrieval):
        return
    grown = isinstance(spec, Findings) and bool(spec.tree)
    takes = (Classification, Classes, Findings, *([Grade] if isinstance(one, Knn) else []))
    if grown or not isinstance(spec, takes):
        *most, last = (kind.__name__.lower() for kind in takes)
        raise AdaptError(
            f"the method {one.kind} for {task!r}, a {spec.kind}{' with a tree' if grown else ''}",
            f"a {', '.join(most)} or {last}" + (" without `tree`" if grown else ""),
            f"adapt by {'knn, ' if isinstance(spec, Grade) else ''}probe or lora",
        )


def adapt(
    run: Run | str | Path, task: str, method: Told | Sequence[Told] | None = None, labels: int | Sequence[str] | None = None, *,
    cohort: Cohort | str | Path | None = None, seed: int | None = None, steps: int | None = None,
    inputs: Sequence[Modality | str] | None = None, after: Run | str | Path | None = None,
    leave_out: Sequence[str] = (), into: str | Path | None = None,
    progress: Progress | None = None,
) -> Run:  # fmt: skip
    """Adapt a pretrained run to a task of its recipe; the same arguments give the same bits.

    Args:
        run: or its folder.
        task: the task's name.
        method: what learns, or is asked: a kind ("probe", "lora"), several adapters ("lora+bitfit"), or with options
            ({"kind": "lora", "rank": 4}); see `training.methods`. By default the recipe's, which is "lora" where it says nothing.
        labels: how many labelled training patients may be used; None for all. Fewer are always among more. Or who may be.
        cohort: where it lies now; by default where it lay.
        seed: of the labels' order, the head and the adapters; by default the recipe's.
        steps: optimiser steps; by default by task, labels and method.
        inputs: the modalities that may be read; by default the task's.
        after: an adapted run of the same backbone whose weights this one goes on from; its head stays as it was taught.
        leave_out: columns of tables that it may not read, such as one that gives the answer away. What does is logged as a warning and
            stands in `adapter.json` as `giveaways`.
        into: the folder of the new run; by default below the run.
        progress: called with done, all, what.
    Raises:
        AdaptError: no such task, modality or column; no labelled patient; one class, or no event; the loss is not a number; nothing can go
            on after `after`.
        MethodError: no such method or option, or several that do not go together.
        AdapterError: the model has no place for an adapter.
        TaskError: a task that needs no labels.
        UnreadError: nearly nobody can be read; else who cannot be is set aside, and stands in `adapter.json` as `unread`.
    """
    run = (run if isinstance(run, Run) else Run.open(run)).backbone
    _check(run, task, labels, steps)
    chosen_method = run.recipe.adaptation if method is None else methods(method)
    _fits(run, task, chosen_method)
    before = _before(run, task, chosen_method, after)
    seed = run.recipe.seed if seed is None else seed
    reads = reads_of(run, task, inputs)
    catalogue = cohort if isinstance(cohort, Cohort) else run.cohort(cohort)
    run = run.without(leave_out)
    _columns_there(run, catalogue, leave_out)
    if isinstance(run.recipe.tasks[task], Report):
        return adapt_report(run, task, chosen_method, labels, catalogue, seed, steps, reads, into, progress)
    plan = planned(run, task, chosen_method, labels, catalogue, seed, steps, reads, before)
    began = time.monotonic()
    model, head, learned = taught_by(plan, progress)
    learned["seconds"] = round(time.monotonic() - began, 2)
    learned |= {"leave_out": list(leave_out)} if leave_out else {}
    learned["giveaways"] = _given_away(run, catalogue, task, plan.patients, reads)
    own = "" if reads == inputs_of(run, task) else "-" + "+".join(reads)
    own += f"-after-{before.adapter['task']}-{file_hash(before.path / FILE)[:8]}" if before else ""
    own += "-without-" + re.sub(r"[^A-Za-z0-9]+", "_", "+".join(leave_out)) if leave_out else ""
    place = (
        Path(into) if into is not None else run.path / f"adapted/{task}-{plan.method}-{len(plan.patients)}-{seed}{own}"
    )
    return write(plan, place, model, head, learned)


def _columns_there(run: Run, cohort: Cohort, columns: Sequence[str]) -> None:
    """Refuse to leave out a column that no table has: it would be read under its right name."""
    found = cohort.records(run.recipe.cohort.where) if columns else ()
    for column in columns:
        check_column(found, column, "leave_out")


def _given_away(
    run: Run, cohort: Cohort, task: str, patients: Sequence[str], reads: Sequence[Modality]
) -> list[dict[str, Any]]:
    """What alone tells the answers that were learned from; each is logged. A column and a figure are said, and no patient's cell."""
    label = run.recipe.tasks[task].label(task)
    if label is None or not patients:
        return []
    table = run.recipe.standards().get(Modality.TABLE)
    exclude = table.exclude if table is not None else run.recipe.excluded()
    found = giveaways(
        cohort.records(run.recipe.cohort.where), label, patients, exclude=exclude, reads=reads, load=cohort.note, seed=run.recipe.seed
    )  # fmt: skip
    for one in found:
        LOG.warning("%s; %s", one, one.remedy)
    return [asdict(one) | {"told": str(one), "do": one.remedy} for one in found]


def _before(run: Run, task: str, method: tuple[Any, ...], after: Run | str | Path | None) -> Run | None:
    """The run to go on from, where that can be."""
    if after is None:
        if isinstance(method[0], Full) and method[0].replay:
            raise AdaptError(
                "to replay earlier tasks, of which there is none",
                "`after`, an adapted run",
                "say which run this one goes on from",
            )
        return None
    before = after if isinstance(after, Run) else Run.open(after)
    if isinstance(run.recipe.tasks[task], Report):
        raise AdaptError(
            f"a report, {task!r}, to go on after {before.path}", "another task", "adapt it from the backbone"
        )
    check_after(run, before, method)
    return before


def planned(
    run: Run, task: str, method: tuple[Any, ...], labels: int | Sequence[str] | None, cohort: Cohort, seed: int, steps: int | None,
    reads: tuple[Modality, ...], after: Run | None = None,
) -> Plan:  # fmt: skip
    """Whose labels are learned from, for how many steps; arguments and errors as `adapt`'s."""
    if isinstance(spec := run.recipe.tasks[task], Retrieval):
        spec.build(task, run.model())  # refuses
    loader = run.loader(cohort, run.split.train, (task,))
    chosen, unread = ([], ()) if isinstance(method[0], ZeroShot) else labelled(loader, task, labels, seed, reads)
    steps = steps or _steps(spec.kind, isinstance(method[0], Scratch), len(chosen))
    return Plan(run, task, method, reads, loader, chosen, seed, steps, cohort, after, unread)


def taught_by(
    plan: Plan, progress: Progress | None = None, model: Model | None = None
) -> tuple[Model, Task, dict[str, Any]]:
    """A model and its head as a plan teaches them, and what was chosen on the way; nothing is written.

    Args:
        plan: of `planned`.
        progress: called with done, all, what.
        model: on which the head is taught, which is changed in place; by default the plan's own beginning.
    """
    fresh, added = isinstance(plan.methods[0], Scratch), dict[str, Tensor]()
    if model is None and plan.after is not None:
        model, added = begun(plan.after)
    if model is None:
        model = plan.run.model(pretrained=not fresh, seed=plan.seed + 1 if fresh else None)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(plan.seed)
        head = head_of(plan.run, plan.task, model, plan.methods)
    if not fresh and isinstance(head, SegmentationTask):
        _pretrained_decoder(plan.run, plan.task, head)
    with repeatable():
        learned = _train(plan, model, head, added, progress)
    return model, head, learned


def _steps(kind: str, fresh: bool, patients: int) -> int:
    """How many steps, where nobody says."""
    if fresh:
        return STEPS[kind] * SCRATCH[kind]
    dense = kind in ("segmentation", "detection", "keypoints")
    return STEPS[kind] if dense else min(STEPS[kind], math.ceil(ROUNDS * patients / PATIENTS[kind]))


def _pretrained_decoder(run: Run, task: str, head: SegmentationTask) -> None:
    """Start from the decoder that the last stage of pretraining learned for this task, where it learned one."""
    from safetensors.torch import load_file

    for part, place in places(run.recipe.stages[-1].objective):
        if part.kind == "segmentation" and part.task == task:
            head.decoder.load_state_dict(under(f"{place}decoder.", load_file(run.objective_weights)))


def _train(plan: Plan, model: Model, head: Task, added: dict[str, Tensor], progress: Progress | None) -> dict[str, Any]:
    """Train the model and its head in place; what was chosen on the way."""
    method, known = plan.methods[0], plan.loader.labelled(plan.task)
    if isinstance(method, Prototype | Knn | ZeroShot):
        return _without_training(plan, model, head)
    chosen: dict[str, Any] = {}
    if isinstance(method, Probe):
        model.requires_grad_(False)
    elif isinstance(method, AdapterFields):
        put(model, plan.methods, plan.seed)
        go_on(model, added)
    fresh, frozen = isinstance(method, Scratch), isinstance(method, Probe)
    if isinstance(head, LinearTask):
        head.begin(_known(plan))
    if isinstance(head, LinearTask) and not fresh:
        # The head first, on the backbone as it is; then both together: a random head would distort the features
        # (Kumar et al. 2022).
        ridge, evenly = (method.ridge, method.penalty == "directions") if isinstance(method, Probe) else (None, False)
        seen = _seen(plan, model, head)
        if head.apart:
            chosen["stacked"] = fit_stacked(head, seen, plan.seed, ridge, evenly)
        else:
            chosen["ridge"] = fit_head(head, seen, plan.seed, ridge, evenly)
    if not isinstance(head, LinearTask) or not frozen:
        share = AFTER_PROBE if "ridge" in chosen else 1.0
        chosen |= {"steps": plan.steps, "lr": min(m.lr for m in plan.methods) * share}
        if isinstance(method, Full):
            chosen |= _whole(plan, model, head, share, progress)
        else:
            fine_tune(plan, model, head, share, progress)
        settle(model)
    if (
        isinstance(head, LinearTask) and head.refers and not frozen
    ):  # a probe's vectors are as they were when it was fitted
        pooled, target = features(model, head, plan.loader, plan.patients, plan.reads)
        head.refer_to(head.read(pooled).detach(), target)
    if isinstance(head, LinearTask):
        head.to_prevalence([known[p] for p in plan.patients])
    if isinstance(head, DetectionTask):
        _operating_point(plan, model, head)
    return chosen


def _seen(plan: Plan, model: Model, head: LinearTask) -> list[View]:
    """The patients as the model shows them.

    Raises:
        AdaptError: of those who can still be read there are too few.
    """
    seen = views(model, head, plan.loader, plan.patients, plan.reads)
    enough(plan.loader, plan.task, plan.patients)
    return seen


def _operating_point(plan: Plan, model: Model, head: DetectionTask) -> None:
    """Choose by the annotated training images from which score on a thing is told."""
    found, truth = list[np.ndarray](), list[np.ndarray]()
    asked = Adapted(plan.run, plan.task, model, head, plan.reads)
    for batch in plan.loader.each(asked.together(8), plan.patients, plan.reads, whole=True):
        target = batch.targets[plan.task]
        for said, boxes, known in zip(head.found(model, batch), target.values, target.mask.tolist(), strict=True):
            if known:
                found.append(said)
                truth.append(boxes.numpy())
    head.choose(found, truth)


def _known(plan: Plan) -> list[Any]:
    """What may be known of the training patients, at each landmark where there are some.

    Raises:
        AdaptError: at a landmark nobody is still at risk.
    """
    there, marks = plan.loader.landmarks(plan.task), plan.loader.labels[0].landmarks
    known = [list(then.labelled(plan.task).values()) for then in there]
    for number, answers in enumerate(known):
        if marks is not None and not answers:
            at = f"{marks.times[number]:g} {marks.unit}"
            raise AdaptError(
                f"no training patient of {plan.task!r} who is still at risk at the landmark of {at}",
                "some",
                "name earlier landmarks",
            )
    return [value for answers in known for value in answers]


def _whole(plan: Plan, model: Model, head: Task, share: float, progress: Progress | None) -> dict[str, Any]:
    """Train all weights, keeping of the old what the method says; what pretraining lost by it."""
    assert plan.cohort is not None
    method, parts = plan.methods[0], (model, head)
    asked = Pretraining(plan.run, plan.cohort, train=False)
    # Where it goes on after a run whose weights all moved, that asked it of these very weights.
    known = plan.after.adapter.get("forgetting", {}) if plan.after else {}
    before = known["after"] if known.get("patients") == len(asked.loader.patients) else asked.losses(model)
    start = [{n: p.detach().clone() for n, p in part.named_parameters()} for part in parts]
    held = method.rehearsal or method.replay or method.ewc or method.distil
    keeper = Keeper(plan, model) if held else None
    fine_tune(plan, model, head, share, progress, keeper.loss if keeper else None)
    if keeper is not None:
        keeper.done()
    if method.interpolate < 1:
        for part, weights in zip(parts, start, strict=True):
            interpolated(part, weights, method.interpolate)
    after = asked.losses(model.requires_grad_(True))
    aside = [*asked.loader.gone.values(), *(keeper.aside if keeper else ())]
    told = {"patients": len(asked.loader.patients), "before": before, "after": after}
    return {"forgetting": told} | ({"unread": aside} if aside else {})


def _without_training(plan: Plan, model: Model, head: Task) -> dict[str, Any]:
    """A head made of the patients' vectors as they are, or of sentences; what was chosen on the way."""
    method, known = plan.methods[0], plan.loader.labelled(plan.task)
    assert isinstance(head, LinearTask)
    if isinstance(method, ZeroShot):
        said = sentences(method, head.spec)
        fit_sentences(head, plan.run, model, method.temperature, said)
        return {"sentences": said}
    seen = _seen(plan, model, head)
    chosen = {"k": fit_votes(head, method, seen)} if isinstance(method, Knn) else {}
    if not chosen:
        fit_prototypes(head, seen)
    # Votes on anything else are as common as the training patients' answers already.
    if not chosen or isinstance(head, ClassesTask):
        head.to_prevalence([known[p] for p in plan.patients])
    return chosen
