"""Forgetting: what a changed backbone lost of what it could, and four ways of losing less.

An adapter leaves the backbone as it was: take it off, and nothing is forgotten. Only `full` moves the weights that everything else
rests on. What it lost is asked of the last stage of pretraining, on patients who never trained, and of tasks whose heads were fitted
to the backbone before.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cohort import Cohort
from ..harmonise.unread import Unread
from ..models import Model
from ..schema import Batch, Fused, Losses
from ..training import Run
from ..training.methods import Full
from ..training.repeatable import generator
from .chain import Earlier, chain
from .plan import Plan

BATCHES = 8
"""Of pretraining that are asked, and that tell how much each weight matters."""


class Pretraining:
    """What the last stage of pretraining asks, of one side of the split, with all that it had learned besides the model.

    Args:
        run: the backbone's.
        cohort: that it was trained on.
        train: whether of the training side, with the labels that the stage had; else of the side kept for testing, with all.
    """

    def __init__(self, run: Run, cohort: Cohort, train: bool) -> None:
        stage, self.seed = run.recipe.stages[-1], run.recipe.seed
        who, shown = run.split.train if train else run.split.test, stage.objective.labelled()
        size = min(stage.batch, len(who))
        options: dict[str, Any] = {"batch": size, "most": stage.most, "temperature": stage.temperature}
        self.loader = run.loader(cohort, who, tuple(shown), **options)
        for task, labels in shown.items() if train else ():
            self.loader.only(task, self.loader.subset(task, labels, self.seed))
        self.objective = run.objective(run.model()).requires_grad_(False)

    def ask(self, model: Model, step: int) -> Losses:
        """The losses of one batch; the same step is the same question."""
        return self.objective(model, self.loader.batch(step), generator(self.seed, "pretraining", step))

    def total(self, model: Model, step: int) -> Tensor | None:
        """() of one batch; None where nobody speaks."""
        return self.ask(model, step).total

    def losses(self, model: Model) -> dict[str, float]:
        """The mean of each term over a few batches; terms that nobody speaks to are absent."""
        found: dict[str, list[float]] = {}
        model.eval()
        for step in range(BATCHES):  # with gradients: a balance by gradients asks for them
            for name, term in self.ask(model, step).terms.items():
                found.setdefault(name, []).append(float(term.detach()))
        return {name: sum(values) / len(values) for name, values in found.items()}


class Keeper:
    """What is added to a task's loss so that the old is kept.

    Args:
        plan: whose method is `full`, with a weight for at least one of them.
        model: before its first step.
    """

    def __init__(self, plan: Plan, model: Model) -> None:
        assert plan.cohort is not None
        self.method: Full = plan.only
        self.model, self.seen = model, list[Fused]()
        asked = self.method.rehearsal or self.method.ewc
        self.pretraining = Pretraining(plan.run, plan.cohort, train=True) if asked else None
        before = chain(plan.after) if plan.after and (self.method.replay or self.method.ewc) else []
        self.earlier = [Earlier(plan, run, self.method.memory) for run in before]
        self.old = copy.deepcopy(model).requires_grad_(False) if self.method.distil else None
        if self.method.ewc and self.pretraining is not None:
            self.start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
            self.matters = together(
                [fisher(one, model) for one in (self.pretraining.total, *(e.loss for e in self.earlier))]
            )
        self.watch = model.register_forward_hook(self._see)  # last: what was asked above is no step

    def loss(self, batch: Batch, step: int) -> Tensor:
        """() of the batch that the model has just answered about.

        Args:
            batch: of the task.
            step: of the optimiser.
        """
        total, fused = torch.zeros(()), self.seen[-1]
        if self.old is not None:
            with torch.no_grad():
                before = self.old(batch).pooled[fused.present]
            apart = 1 - F.cosine_similarity(fused.pooled[fused.present].float(), before.float(), dim=1)
            total = total + self.method.distil * apart.sum() / max(1, len(apart))
        if self.method.rehearsal and self.pretraining is not None:
            again = self.pretraining.ask(self.model, step).total
            total = total if again is None else total + self.method.rehearsal * again
        if self.method.replay and self.earlier:
            again = self.earlier[step % len(self.earlier)].loss(self.model, step)
            total = total if again is None else total + self.method.replay * again
        if self.method.ewc:
            moved = [
                (self.matters[name] * (p - self.start[name]).square()).sum()
                for name, p in self.model.named_parameters()
                if name in self.matters
            ]
            total = total + self.method.ewc / 2 * torch.stack(moved).sum()
        self.seen.clear()
        return total

    def _see(self, _: Any, args: Any, fused: Any) -> None:
        self.seen.append(fused)

    @property
    def aside(self) -> tuple[Unread, ...]:
        """Of those who were rehearsed, who could not be read."""
        own = self.pretraining.loader.gone.values() if self.pretraining is not None else ()
        return (*own, *(one for earlier in self.earlier for one in earlier.plan.aside))

    def done(self) -> None:
        """Leave the model alone."""
        self.watch.remove()


def fisher(loss: Callable[[Model, int], Tensor | None], model: Model) -> dict[str, Tensor]:
    """How much a loss minds each weight: the mean square of its gradient over a few batches (Kirkpatrick et al. 2017,
    equation 3), over the mean of all, so that a strength means the same for every objective.

    Args:
        loss: of the model and a step; None where nothing is known.
        model: which is left as it is.
    """
    names, weights = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
    squares = [torch.zeros_like(p) for p in weights]
    model.eval()
    for step in range(BATCHES):
        total = loss(model, step)
        if total is None or not total.requires_grad:
            continue
        for square, gradient in zip(squares, torch.autograd.grad(total, weights, allow_unused=True), strict=True):
            if gradient is not None:
                square += gradient.square() / BATCHES
    mean = sum(float(s.sum()) for s in squares) / sum(s.numel() for s in squares)
    return {n: s / max(mean, 1e-30) for n, s in zip(names, squares, strict=True) if bool(s.any())}


def together(each: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of what several losses mind: pretraining's and each earlier task's (Schwarz et al. 2018 keep one such sum)."""
    names = dict.fromkeys(name for one in each for name in one)
    return {n: torch.stack([one[n] for one in each if n in one]).sum(0) / len(each) for n in names}


@torch.no_grad()
def interpolated(module: nn.Module, start: dict[str, Tensor], share: float) -> None:
    """Between the weights of before (0) and those that were learned (1), in place (WiSE-FT, Wortsman et al. 2022, section 3)."""
    for name, parameter in module.named_parameters():
        parameter.copy_(torch.lerp(start[name], parameter, share))
