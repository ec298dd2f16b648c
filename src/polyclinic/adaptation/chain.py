"""A chain of adaptations: each goes on from the weights that the one before it left, and may rehearse what that was taught."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace as changed
from typing import Any

import torch
from torch import Tensor

from ..models import Model, under
from ..models.adapters import AdapterFields, replace
from ..schema import Modality
from ..tasks import LinearTask, Task
from ..training import Run
from ..training.methods import Full, Probe, methods
from ..training.run import file_hash
from .adapted import kept, open_adapted
from .fine_tune import at_once, batch_of, drawn, orders
from .plan import AdaptError, Plan


def chain(run: Run) -> list[Run]:
    """An adapted run and those that it goes on from, the first first.

    Raises:
        RunError: one of them is not where it was.
    """
    found = [run]
    while told := found[0].adapter.get("after"):
        found.insert(0, Run.open((found[0].path / told).resolve()))
    return found


def check_after(run: Run, after: Run, specs: Sequence[Any]) -> None:
    """Refuse to go on from what is no beginning for a method.

    Raises:
        AdaptError: `after` is not adapted, rests on another backbone or has other adapters, or one of both learns nothing that goes on.
    """
    if not after.adapter:
        raise AdaptError(f"to go on after {after.path}, which is not adapted", "an adapted run", "leave `after` out")
    if (own := file_hash(run.weights)) != after.adapter["backbone"]:
        raise AdaptError(
            f"to go on after {after.path}, adapted from the backbone {after.adapter['backbone']}",
            f"a run on {own}", "name a run on this backbone",
        )  # fmt: skip
    before = methods(after.adapter["methods"])
    for one in (specs[0], before[0]):
        if not isinstance(one, Full | Probe | AdapterFields):
            raise AdaptError(
                f"{_said(specs)} to go on after {_said(before)}", "full, probe or adapters, on the backbone's weights",
                f"leave {one.kind} out of the sequence",
            )  # fmt: skip
    if _shape(specs) != _shape(before):
        raise AdaptError(
            f"{_said(specs)} to go on after {_said(before)}", "the same adapters with the same options",
            f"adapt by {_said(before)}, or go on after a run that was adapted so",
        )  # fmt: skip


def _shape(specs: Sequence[Any]) -> list[dict[str, Any]]:
    """What of adapters decides which weights there are."""
    return [s.model_dump(mode="json", exclude={"lr"}) for s in specs if isinstance(s, AdapterFields)]


def _said(specs: Sequence[Any]) -> str:
    return "+".join(s.kind for s in specs)


def begun(after: Run) -> tuple[Model, dict[str, Tensor]]:
    """The backbone as an adapted run left it, free to learn as it was at first, and what had been learned beside it."""
    state, _ = kept(after)
    model = after.backbone.model()
    free = {name for name, weight in model.named_parameters() if weight.requires_grad}
    for key, tensor in under("model.", state).items():
        replace(model, key, tensor)
    for name, weight in model.named_parameters():
        weight.requires_grad_(name in free)
    return model, under("added.", state)


class Earlier:
    """An earlier task: its head as it was taught, and its labelled training patients, or as many as are remembered.

    Args:
        plan: of the adaptation that goes on after it.
        run: the earlier one.
        memory: how many of its patients are kept; None for all. Fewer are always among more.
    """

    def __init__(self, plan: Plan, run: Run, memory: int | None) -> None:
        assert plan.cohort is not None
        name, about = run.adapter["task"], run.adapter
        loader = run.loader(plan.cohort, plan.run.split.train, (name,))  # without what it left out
        loader.only(name, about["labelled"])
        known = loader.labelled(name)
        reads = tuple(map(Modality, about["inputs"]))
        who = loader.readable(sorted(loader.subset(name, memory, about["seed"])), reads)
        self.plan = changed(
            plan, task=name, loader=loader, chosen=who, unread=loader.aside(set(about["labelled"])), reads=reads
        )
        self.head: Task = open_adapted(run).task
        if isinstance(self.head, LinearTask):
            _weigh_alike(self.head, [known[p] for p in about["labelled"]])
        steps = max(plan.steps, 1)
        self.orders = orders(changed(self.plan, steps=steps), at_once(plan.run.recipe.tasks[name]))

    def loss(self, model: Model, step: int) -> Tensor | None:
        """() of one batch; None where nothing is known."""
        who = self.orders[step % len(self.orders)]
        if isinstance(self.head, LinearTask):
            batch = batch_of(self.plan, who, step)
        else:
            batch = drawn(self.plan, who, self.plan.reads, step)
        if not batch.patients:  # none of them had anything to be read at this landmark yet, or can be read any more
            return None
        return self.head.loss(self.head.output(model, batch), batch.targets[self.plan.task])


@torch.no_grad()
def _weigh_alike(head: LinearTask, values: list[Any]) -> None:
    """Take back what `to_prevalence` gave an offset, for the loss weighs classes alike."""
    again = copy.deepcopy(head)
    again.to_prevalence(values)
    if head.head.bias is not None:
        head.head.bias.mul_(2).sub_(again.head.bias)
