"""One optimiser step, in one piece or divided: over ranks, and on each over micro-batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..harmonise import Fingerprint
from ..models import Model
from ..models.adapters import Lora, put
from ..objectives import Objective
from ..objectives.gather import Part, Seen, pieces_of
from ..schema import Batch, Losses, Modality
from .modalities import Pace, norms, own_weights, thinned
from .ranks import Ranks, local, scalars
from .recipe import Recipe, Stage
from .repeatable import generator
from .schedule import Average, optimiser, schedule

ANCHOR = "anchor"
View = Callable[[Model], Any]
"""The model → the model as the objective is to see it."""


class Trainee(nn.Module):
    """The model and the stage's objective, as one module for the launcher.

    Args:
        pace: of the modalities, where the stage balances them.
        anchored: let every weight take part in every step, by zero: ranks wait for each other's gradients, and the patients of one
            may lack what those of another have.
    """

    pace: Pace | None

    def __init__(self, model: Model, objective: Objective, pace: Pace | None = None, anchored: bool = False) -> None:
        super().__init__()
        self.model, self.objective, self.pace, self.anchored = model, objective, pace, anchored

    def forward(
        self, batch: Batch, draws: torch.Generator, view: View | None = None
    ) -> tuple[dict[str, Tensor], dict[str, float | Tensor]]:
        """The terms and weights of the objective's `Losses`; as dictionaries, in which FSDP finds the tensors."""
        losses = self.objective(self.model if view is None else view(self.model), batch, draws)
        if not self.anchored:
            return losses.terms, dict(losses.weights)
        touched = torch.stack([p.sum().float() for p in self.parameters() if p.requires_grad]).sum()
        return losses.terms | {ANCHOR: 0.0 * touched}, dict(losses.weights) | {ANCHOR: 1.0}


def trainee_of(model: Model, recipe: Recipe, fingerprint: Fingerprint, number: int) -> Trainee:
    """The model with a stage's objective, whose first weights depend on the seed and the stage.

    Args:
        model: of the recipe; where the stage says `lora`, it is frozen and given the additions, in place.
        number: of the stage.
    """
    stage = recipe.stages[number]
    if stage.lora is not None:
        lora = Lora(rank=stage.lora.rank, alpha=stage.lora.alpha)
        put(model, [lora], generator(recipe.seed, number, "lora").initial_seed())
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(generator(recipe.seed, number, "objective").initial_seed())
        objective = stage.objective.build(model, recipe.structures(fingerprint))
    pace = Pace(list(own_weights(model)), stage.modality_balance) if stage.modality_balance else None
    return Trainee(model, objective, pace)


@dataclass(slots=True)
class Made:
    """What a step's losses were.

    Args:
        values: of each term, and of their weighted sum as "loss"; none where the batch speaks to no term. `gradient/m` is the norm of
            the gradient of modality m's own weights, before it is clipped, and `pace/m` the share of the learning rate that they had.
        wrong: what is not a number; empty where all is well, and the weights have moved.
    """

    values: dict[str, float]
    wrong: str = ""


class Stepper:
    """A stage's module, its optimiser and its average, ready to take steps.

    Args:
        ranks: who trains.
        trainee: the bare module; `fabric.setup` is done here.
        stage: what the recipe says.
        keep: modalities whose records are never left out.
    """

    def __init__(
        self, ranks: Ranks, trainee: Trainee, stage: Stage, keep: frozenset[Modality] = frozenset()
    ) -> None:  # fmt: skip
        self.ranks, self.trainee, self.stage, self.keep = ranks, trainee, stage, keep
        trainee.anchored = ranks.world > 1
        self.wrapped = ranks.fabric.setup(trainee.train())
        self.weights = [p for p in trainee.parameters() if p.requires_grad]
        self.own = own_weights(trainee.model)
        apart_from = {id(p) for own in self.own.values() for p in own}
        self.groups = {**self.own, None: [p for p in self.weights if id(p) not in apart_from]}
        apart = {} if trainee.pace is None else self.own
        self.bare = optimiser(trainee, stage.lr, stage.weight_decay, stage.betas, apart)
        self.adam = ranks.fabric.setup_optimizers(self.bare)
        self.average = None if stage.ema is None else Average(trainee, stage.ema)

    def take(self, micros: Sequence[Batch], patients: int, at: tuple[int, int, int]) -> Made:
        """One optimiser step.

        Args:
            micros: this rank's micro-batches.
            patients: of all ranks together.
            at: seed, stage and step, of which everything random is a function.
        """
        step = at[-1]
        for group in self.adam.param_groups:
            group["lr"] = self.stage.lr * schedule(step, self.stage.steps, self.stage.warmup, self.stage.schedule)
        shares = [len(micro.patients) / patients for micro in micros]
        places = [(n,) if (n := self.ranks.rank * len(micros) + k) else () for k in range(len(micros))]
        draws = [generator(*at, *place) for place in places]
        if left_out := self.stage.modality_dropout:
            apart = [generator(*at, *place, "modality_dropout") for place in places]
            micros = [thinned(micro, left_out, draw, self.keep) for micro, draw in zip(micros, apart, strict=True)]
        made = self._backward(micros, shares, self._views(micros, shares, draws), draws)
        merged = Made(weighted([part for rank in self.ranks.tell(made) for part in rank]))
        if wrong := [name for name, value in merged.values.items() if not math.isfinite(value)]:
            merged.wrong = f"a loss that is not a number ({', '.join(wrong)})"
        elif merged.values:
            self._move(merged, step)
        self.adam.zero_grad(set_to_none=True)
        return merged

    def _move(self, made: Made, step: int) -> None:
        """The weights' step; where a gradient is no number, only what is wrong."""
        self._settled()
        groups = {m: [p.grad for p in group if p.grad is not None] for m, group in self.groups.items()}
        gradients = norms(groups, self.ranks)
        whole = math.hypot(*gradients.values())
        if not math.isfinite(whole):
            made.wrong = f"gradients that are not numbers (of {', '.join(n for n in made.values if n != 'loss')})"
            return
        if self.stage.clip is not None and whole > self.stage.clip:
            for gradient in (g for group in groups.values() for g in group):
                local(gradient).mul_(self.stage.clip / whole)
        gradients = {m: gradients[m] for m in self.own if m in gradients}
        made.values |= {f"gradient/{m}": norm for m, norm in gradients.items()}
        if self.trainee.pace is not None:
            self.trainee.pace.note(gradients, norms(self.own, self.ranks))
            factors = self.trainee.pace.factors()
            for group in self.adam.param_groups:
                group["lr"] *= factors.get(group.get("modality"), 1.0)
            made.values |= {f"pace/{m}": factors[m] for m in gradients}
        self.adam.step()
        self.trainee.objective.stepped(self.trainee.model, (step + 1) / self.stage.steps)
        if self.average is not None:
            self.average.update(self.trainee, step)

    def _views(
        self, micros: Sequence[Batch], shares: Sequence[float], draws: Sequence[torch.Generator]
    ) -> list[View | None]:
        """How the objective sees the model in each micro-batch; with several, everybody's vectors are made first."""
        ranks, count = self.ranks, len(micros)
        if count == 1:
            return [None if ranks.world == 1 else partial(Part, share=shares[0], world=ranks.world, place=ranks.rank)]
        seen: list[Seen] = []
        states = [d.get_state() for d in draws]
        buffers = _Buffers(self.trainee)
        with torch.no_grad():
            for k, (micro, draw, state) in enumerate(zip(micros, draws, states, strict=True)):
                self.wrapped(
                    micro, draw, lambda model, k=k: seen.append(Seen(model, ranks.rank * count + k)) or seen[-1]
                )
                buffers.again()
                draw.set_state(state)
                if not seen[0].pieces:  # this objective compares nobody
                    break
        if not seen[0].pieces:
            return [None] * count
        known = pieces_of(seen, self.trainee.model.modalities, ranks.world)
        return [
            partial(Part, share=shares[k], world=ranks.world, place=ranks.rank * count + k, known=known) for k in range(count)
        ]  # fmt: skip

    def _backward(
        self, micros: Sequence[Batch], shares: Sequence[float], views: Sequence[View | None], draws: Sequence[torch.Generator]
    ) -> list[tuple[float, dict[str, float], float]]:  # fmt: skip
        """The gradients of the step's loss; each micro-batch's share, terms and loss."""
        made = []
        buffers = _Buffers(self.trainee) if len(micros) > 1 else None
        for number, (micro, share, view, draw) in enumerate(zip(micros, shares, views, draws, strict=True)):
            if buffers is not None:
                buffers.again()
            with self._apart(number + 1 < len(micros)):
                losses = Losses(*self.wrapped(micro, draw, view))
                total = losses.total
                # What is of others alone (`gather.py`) teaches this part nothing; ranks average gradients, and shares are of all.
                if total is not None and total.requires_grad:
                    self.ranks.fabric.backward(total * (share * self.ranks.world))
                terms = {name: float(term.detach()) for name, term in losses.terms.items() if name != ANCHOR}
                if terms and total is not None:
                    made.append((share, terms, float(total.detach())))
            if buffers is not None:
                buffers.note()
        if buffers is not None:
            buffers.settle()
        self.ranks.average_([b for b in self.trainee.buffers() if b.is_floating_point()])
        return made

    def _apart(self, apart: bool) -> AbstractContextManager[Any]:
        """While a rank still accumulates, nothing travels."""
        return self.ranks.fabric.no_backward_sync(self.wrapped) if apart and self.ranks.world > 1 else nullcontext()

    def _settled(self) -> None:
        """Gradients that are every rank's, and weights that nothing spoke to without one."""
        if self.ranks.world == 1:
            return
        if any(local(p) is not p for p in self.weights):  # sharded, but for scalars
            self.ranks.average_([p.grad for p in scalars(self.trainee) if p.grad is not None])
        having = [p for p in self.weights if p.grad is not None]
        for weight, idle in zip(having, self.ranks.idle([p.grad for p in having if p.grad is not None]), strict=True):
            if idle:
                weight.grad = None


def weighted(made: Sequence[tuple[float, dict[str, float], float]]) -> dict[str, float]:
    """The step's terms from those of its parts: each over the parts that speak to it, the loss over all."""
    values: dict[str, float] = {}
    for name in dict.fromkeys(name for _, terms, _ in made for name in terms):
        there = [(share, terms[name]) for share, terms, _ in made if name in terms]
        values[name] = sum(share * value for share, value in there) / sum(share for share, _ in there)
    return values | {"loss": sum(share * total for share, _, total in made)} if made else {}


class _Buffers:
    """The running means of a module in a step of several micro-batches: each starts from those of before the step, and they end
    at the mean of all.

    A mean that moved in between would give the micro-batches other vectors than the whole batch has.
    """

    def __init__(self, module: nn.Module) -> None:
        self.live = [b for b in module.buffers() if b.is_floating_point()]
        self.before = [b.clone() for b in self.live]
        self.after: list[list[Tensor]] = [[] for _ in self.live]

    def again(self) -> None:
        """As they were before the step."""
        for live, before in zip(self.live, self.before, strict=True):
            live.copy_(before)

    def note(self) -> None:
        """What a micro-batch made of them."""
        for live, after in zip(self.live, self.after, strict=True):
            after.append(live.clone())

    def settle(self) -> None:
        """The mean of what was noted."""
        for live, after in zip(self.live, self.after, strict=True):
            live.copy_(torch.stack(after).mean(0))
