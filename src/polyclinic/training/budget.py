"""Equal budgets: what a step of a recipe costs, in tokens and in floating-point operations, and how many steps a budget pays for.

Tokens are those of the records that a step shows, before any is hidden: what a model sees. Operations are all multiplications and
additions of matrices, forward and backward, decoders, teachers and balances among them, as torch's own counter sees them in real
steps: what a model computes. A formula would know networks and miss what an objective does with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from ..cohort import Cohort
from ..harmonise.loader import Loader
from ..models import Model
from ..objectives import Objective
from ..schema import Batch, PolyclinicError
from .modalities import thinned
from .recipe import Recipe, Stage
from .repeatable import generator
from .run import Run

SAMPLED = 4
"""Steps of a stage, evenly over it, whose mean is its cost: patients lack different things."""


class BudgetError(PolyclinicError):
    """A budget that is none, or that does not pay for a step."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What something costs.

    Args:
        tokens: of records.
        flops: floating-point operations; a multiplication and an addition are two.
    """

    tokens: float
    flops: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.tokens + other.tokens, self.flops + other.flops)

    def __mul__(self, times: float) -> Cost:
        return Cost(self.tokens * times, self.flops * times)


@dataclass(frozen=True, slots=True)
class Budget:
    """What each run may spend.

    Args:
        unit: of `amount`.
        amount: of the whole pretraining.
    """

    unit: Literal["tokens", "flops"]
    amount: float

    @classmethod
    def parse(cls, words: str) -> Budget:
        """Of words such as `tokens=2e6` or `flops=1e13`.

        Raises:
            BudgetError: they are of another form.
        """
        unit, _, amount = words.partition("=")
        try:
            number = float(amount)
        except ValueError:
            number = math.nan
        if unit not in ("tokens", "flops") or not 0 < number < math.inf:
            raise BudgetError(f"the budget {words!r}", "tokens=NUMBER or flops=NUMBER", "for example flops=1e13")
        return cls("tokens" if unit == "tokens" else "flops", number)


def flops_of(call: Callable[[], Any]) -> int:
    """Floating-point operations of the matrix products, convolutions and attentions in a call, forward and backward.

    The fused attention of CPUs, which torch's counter leaves out, is counted as its GPU namesakes are.
    """
    from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

    aten: Any = torch.ops.aten
    fused = {
        aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, out_shape=None, **__: sdpa_flop_count(q, k, v),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: (
            lambda g, q, k, v, *_, out_shape=None, **__: sdpa_backward_flop_count(g, q, k, v)
        ),
    }  # fmt: skip
    with FlopCounterMode(display=False, custom_mapping=fused) as counter:
        call()
    return counter.get_total_flops()


def step_cost(model: Model, objective: Objective, batch: Batch, draws: torch.Generator) -> Cost:
    """What one step costs, the optimiser's own work (a few operations a weight) left out; gradients are as before."""
    with torch.no_grad():
        there = [m for m in model.modalities if m in batch.payloads]
        tokens = sum(len(model.encoder(m).embed(batch.payloads[m]).values) for m in there)

    weights = [p for module in (model, objective) for p in module.parameters()]
    before = [p.grad for p in weights]

    def step() -> None:
        total = objective(model, batch, draws).total
        if total is not None and total.requires_grad:
            total.backward()  # and not autograd.grad, which the counter's hooks cannot follow to the weights

    try:
        return Cost(tokens, flops_of(step))
    finally:
        for weight, gradient in zip(weights, before, strict=True):
            weight.grad = gradient


def stage_costs(run: Run, cohort: Cohort, sampled: int = SAMPLED) -> tuple[Cost, ...]:
    """The mean cost of a step of each stage of a run that is prepared (trained or not)."""
    recipe, found = run.recipe, list[Cost]()
    model = run.model(pretrained=False).train()
    for number, stage in enumerate(recipe.stages):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(recipe.seed)
            objective: nn.Module = stage.objective.build(model, recipe.structures(run.fingerprint))
        assert isinstance(objective, Objective)
        loader, steps = _loader(run, cohort, stage), range(0, stage.steps, max(1, stage.steps // sampled))[:sampled]
        total = Cost(0, 0)
        for step in steps:
            batch = loader.batch(number * 1_000_003 + step)
            if stage.modality_dropout:  # drawn as the step draws it
                apart = generator(recipe.seed, number, step, "modality_dropout")
                batch = thinned(batch, stage.modality_dropout, apart, recipe.masked_modalities(stage))
            total += step_cost(model, objective.train(), batch, generator(recipe.seed, number, step))
        found.append(total * (1 / len(steps)))
    return tuple(found)


def _loader(run: Run, cohort: Cohort, stage: Stage) -> Loader:
    shown = stage.objective.labelled()
    loader = run.loader(
        cohort, run.split.train, tuple(shown), batch=stage.batch, most=stage.most, temperature=stage.temperature,
        site_temperature=stage.site_temperature, rare=stage.rare, rarity=stage.rarity,
    )  # fmt: skip
    for task, labels in shown.items():
        loader.only(task, loader.subset(task, labels, run.recipe.seed))
    return loader


def spent(recipe: Recipe, costs: tuple[Cost, ...]) -> Cost:
    """What all stages of a recipe cost."""
    total = Cost(0, 0)
    for stage, cost in zip(recipe.stages, costs, strict=True):
        total += cost * stage.steps
    return total


def within(recipe: Recipe, costs: tuple[Cost, ...], budget: Budget) -> Recipe:
    """The recipe with as many steps as a budget pays for; its stages and their warm-up keep their shares of them.

    Raises:
        BudgetError: it does not pay for a step of each stage.
    """
    share = budget.amount / getattr(spent(recipe, costs), budget.unit)
    stages = []
    for stage in recipe.stages:
        steps = math.floor(stage.steps * share + 1e-9)
        if steps < 1:
            least = max(getattr(spent(recipe, costs), budget.unit) / s.steps for s in recipe.stages)
            raise BudgetError(
                f"a budget of {budget.amount:.3g} {budget.unit}, which does not pay for a step of stage {stage.name!r} of {recipe.name!r}",
                f"at least {least:.3g}",
                "raise it, or take a smaller `batch`",
            )
        stages.append(stage.model_copy(update={"steps": steps, "warmup": math.ceil(stage.warmup * min(1.0, share))}))
    return recipe.model_copy(update={"stages": tuple(stages)})
