"""Fine-tuning: the steps in which a head learns, and of the model what its method sets free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..harmonise.loader import Loader
from ..models import Model
from ..models.adapters import AdapterFields, additions
from ..schema import Batch, Modality
from ..tasks import Segmentation, SegmentationTask, Task, TaskSpec
from ..tasks.task import LinearTask
from ..training.methods import Full
from ..training.ranks import fabric_for
from ..training.repeatable import generator
from ..training.schedule import schedule
from .plan import AdaptError, Plan
from .probe import ALONE

Progress = Callable[[int, int, str], None]
PATIENTS = {
    "detection": 4,
    "keypoints": 4,
    "classification": 16,
    "classes": 32,
    "findings": 16,
    "grade": 16,
    "hazards": 16,
    "survival": 32,
}
"""Patients a step; a survival's are compared with each other. How many a segmentation's are its specification says."""
DECAY = 0.05
"""Of weights, on matrices."""


@dataclass(frozen=True, slots=True)
class Group:
    """Weights that learn alike.

    Args:
        weights: of it.
        lr: at the top of the schedule.
        distance: layers between it and the answer: 0 of the head.
    """

    weights: list[nn.Parameter]
    lr: float
    distance: int = 0


def groups_of(methods: Sequence[Any], model: Model, head: Task) -> list[Group]:
    """What learns, and how fast: each adapter at its own rate, the layers of a whole model at theirs.

    The head learns at the slowest adapter's, or where it starts from nothing and says so at no less than its own.
    """
    mine = [p for p in head.parameters() if p.requires_grad]
    if isinstance(methods[0], Full):
        lr, decay, far = methods[0].lr, methods[0].decay, distances(model)
        free = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        layers = {d: [p for name, p in free if far[name] == d] for d in sorted({far[name] for name, _ in free})}
        return [Group(mine, max(lr, head.least_lr)), *(Group(own, lr * decay**d, d) for d, own in layers.items())]
    if not isinstance(methods[0], AdapterFields):
        return [Group([*mine, *(p for p in model.parameters() if p.requires_grad)], methods[0].lr)]
    kinds: dict[str, list[nn.Parameter]] = {}
    for _, _, one in additions(model):
        kinds.setdefault(one.kind, []).extend(one.parameters())
    added = {id(p) for own in kinds.values() for p in own}
    kinds["bitfit"] = [p for p in model.parameters() if p.requires_grad and id(p) not in added]
    return [Group(mine, max(min(m.lr for m in methods), head.least_lr)), *(Group(kinds[m.kind], m.lr) for m in methods)]


def adam_of(groups: Sequence[Group], share: float) -> torch.optim.AdamW:
    """Fused AdamW; weight decay on matrices only. Each group bears its `base` learning rate and its `distance`.

    Args:
        share: of their learning rates.
    """
    parts = [
        {"params": own, "weight_decay": decay, "base": group.lr * share, "distance": group.distance}
        for group in groups
        for decay, own in (
            (DECAY, [p for p in group.weights if p.ndim >= 2]), (0.0, [p for p in group.weights if p.ndim < 2])
        )
        if own
    ]  # fmt: skip
    return torch.optim.AdamW(parts, lr=groups[0].lr * share, betas=(0.9, 0.95), fused=True)


def distances(model: Model) -> dict[str, int]:
    """How many layers stand between each weight and the answer, by its name: the head is 0, and the farthest are what makes tokens.

    Layers are counted in each encoder from its end, so that the last blocks of a deep and of a shallow one learn alike.
    """
    fusion, top = _layers(model.fusion, ""), 1
    far = {name: top + d for name, d in fusion.items()}
    bridge = 1 + max(far.values(), default=0)
    found = {f"fusion.{name}": d for name, d in far.items()}
    for modality, encoder in model.encoders.items():
        found |= {f"encoders.{modality}.{n}": bridge + 1 + d for n, d in _layers(encoder, "blocks.").items()}
    return {name: found.get(name, bridge) for name, _ in model.named_parameters()}


def _layers(module: nn.Module, last: str) -> dict[str, int]:
    """Layers between each weight of a module and its end: a list of blocks counts each of them, what stands before all is farthest.

    Args:
        last: how the name of the list begins that comes after any other.
    """
    lists = [
        (name, blocks) for name, blocks in module.named_modules() if isinstance(blocks, nn.ModuleList) and len(blocks)
    ]
    ending = [one for one in lists if last and one[0].startswith(last)] or (lists if not last else [])
    before = [one for one in lists if one not in ending]
    found, depth = {}, 0
    for part in (ending, before):
        deep = max((len(blocks) for _, blocks in part), default=0)
        for name, blocks in part:
            for number, block in enumerate(blocks):
                found |= {
                    f"{name}.{number}.{own}": depth + len(blocks) - 1 - number for own, _ in block.named_parameters()
                }
        depth += deep
    ends = lambda name: "norm" in name.rpartition(".")[0]  # a norm that stands in no block comes after them
    return {name: found.get(name, 0 if ends(name) else depth) for name, _ in module.named_parameters()}


def fine_tune(
    plan: Plan, model: Model, head: Task, share: float, progress: Progress | None, keep: Callable[[Batch, int], Tensor] | None = None
) -> None:  # fmt: skip
    """Train what is free of the model, and its head, in place.

    Args:
        plan: the method among it.
        share: of the learning rates.
        progress: called with done, all, what.
        keep: what is added to the loss of a batch and a step, that the old may be kept.
    Raises:
        AdaptError: the loss is not a number.
        UnreadError: nearly nobody can be read any more.
    """
    fabric, linear = fabric_for(plan.run.recipe.precision), isinstance(head, LinearTask)
    each_step = orders(plan, at_once(plan.run.recipe.tasks[plan.task]))

    def loss_of(step: int) -> Tensor | None:
        patients = each_step[step]
        batch = batch_of(plan, patients, step) if linear else drawn(plan, patients, plan.reads, step)
        if not batch.patients:  # none of them had anything to be read at this landmark yet, or can be read any more
            return None
        if isinstance(head, SegmentationTask):
            batch = head.varied(batch, generator(plan.seed, "varied", step))
        with fabric.autocast():
            output = head.output(model, batch)
        loss = head.loss(output, batch.targets[plan.task])
        if loss is not None and keep is not None:
            with fabric.autocast():
                loss = loss + keep(batch, step)
        return loss

    descend(plan, model, head, share, loss_of, progress)


def descend(
    plan: Plan, model: Model, head: Task, share: float, loss_of: Callable[[int], Tensor | None], progress: Progress | None
) -> None:  # fmt: skip
    """The plan's steps down a loss, in place.

    Args:
        plan: the method among it.
        share: of the learning rates.
        loss_of: of a step; None where nothing is known.
        progress: called with done, all, what.
    Raises:
        AdaptError: the loss is not a number.
    """
    both = nn.ModuleList([model, head]).train()
    adam = adam_of(groups_of(plan.methods, model, head), share)
    for step in range(plan.steps):
        for group in adam.param_groups:
            group["lr"] = group["base"] * schedule(step, plan.steps, max(1, plan.steps // 10))
        _thaw(plan, adam, step)
        loss = loss_of(step)
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


def _thaw(plan: Plan, adam: torch.optim.AdamW, step: int) -> None:
    """Let a further layer learn, from the head down, where the method unfreezes in stages."""
    over = getattr(plan.only, "thaw", 0.0) * plan.steps
    if not over:
        return
    farthest = max(group["distance"] for group in adam.param_groups)
    for group in adam.param_groups:
        for weight in group["params"]:
            weight.requires_grad_(group["distance"] <= farthest * step / over)


def at_once(spec: TaskSpec) -> int:
    """How many patients of a task a step sees."""
    return spec.batch if isinstance(spec, Segmentation) else PATIENTS[spec.kind]


def batch_of(plan: Plan, patients: list[str], step: int) -> Batch:
    """All that may be read of the patients, or one modality alone: what a patient lacks later must not be news to the model.

    Landmarks take turns; who has nothing to be read at one does not come.
    """
    there = plan.loader.landmarks(plan.task)
    loader, random = there[step % len(there)], generator(plan.seed, "reads", step)
    alone = len(plan.reads) > 1 and float(torch.rand((), generator=random)) < ALONE
    reads = (plan.reads[int(torch.randint(len(plan.reads), (), generator=random))],) if alone else plan.reads
    has = lambda some: [p for p in loader.left(patients) if set(some) & set(loader.by_patient[p])]
    own = has(reads)
    return drawn(plan, own or has(plan.reads), reads if own else plan.reads, step, loader)


def drawn(
    plan: Plan, patients: list[str], reads: Sequence[Modality], step: int, loader: Loader | None = None
) -> Batch:  # fmt: skip
    """A step's batch of some of the plan's patients; who can no longer be read is left out from then on.

    Raises:
        UnreadError: nearly nobody of the plan's can be.
    """
    return (loader or plan.loader).drawn(patients, reads, step, plan.chosen)


def orders(plan: Plan, size: int) -> list[list[str]]:
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
