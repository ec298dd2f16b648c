from __future__ import annotations

from pathlib import Path

import pytest
import torch

from polyclinic.cohort import Cohort
from polyclinic.models import build_model
from polyclinic.schema import Batch, Modality
from polyclinic.tokens import Layout, Transformer, Vit, phantom
from polyclinic.training import Recipe, Run
from polyclinic.training.beginning import prepare
from polyclinic.training.budget import Budget, BudgetError, Cost, flops_of, spent, stage_costs, step_cost, within


def blocks(n: int, d: int, depth: int) -> int:
    """Forward: four d x d products and two of d x 4d a token, and two products of n keys; two operations each."""
    return depth * n * (2 * (4 * d * d + 8 * d * d) + 2 * 2 * n * d)


@pytest.mark.parametrize("n", [32, 512])  # below and above where the fused attention is taken
def test_a_transformer_costs_what_its_formula_says(n: int) -> None:
    d, depth = 32, 2
    net, x, layout = Transformer(d, depth, 4), torch.randn(n, d), Layout.of(torch.zeros(n, dtype=torch.int64))
    with torch.no_grad():
        assert flops_of(lambda: net(x, layout)) == blocks(n, d, depth)
    x.requires_grad_()
    both = flops_of(lambda: net(x, layout).sum().backward())
    # The fused kernel computes the scores once more in its backward: five products of n keys there, for four.
    again = depth * n * 2 * n * d if n >= 384 else 0
    assert both == 3 * blocks(n, d, depth) + again


def test_a_step_costs_its_records_tokens_and_what_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    from polyclinic.models import TwoTower
    from polyclinic.objectives import Masked

    spec = Vit(size=32, patch=8, width=16, depth=1, heads=2)
    model = build_model(TwoTower(width=16, embedding=16), {Modality.IMAGE: spec}, phantom.fingerprint(), 0)
    objective = Masked(ratio=0.5).build(model, {})
    batch = Batch({Modality.IMAGE: phantom.ragged(spec.standard(), {"a": 1, "b": 2})}, {}, ["a", "b"])
    found = step_cost(model, objective, batch, torch.Generator().manual_seed(0))
    assert found.tokens == 3 * 16  # hidden or not
    with FlopCounterMode(display=False) as counter:
        total = objective(model, batch, torch.Generator().manual_seed(0)).total
        assert total is not None
        total.backward()
    assert found.flops == counter.get_total_flops() > 0
    fewer = Masked(ratio=0.75).build(model, {})
    cheaper = step_cost(model, fewer, batch, torch.Generator().manual_seed(0))
    assert cheaper.tokens == found.tokens
    assert cheaper.flops < found.flops


def test_a_budget_pays_for_steps_and_stages_keep_their_shares(light: Recipe) -> None:
    costs = (Cost(100, 1000), Cost(300, 9000))  # of four and five steps
    assert spent(light, costs) == Cost(1900, 49000)
    made = within(light, costs, Budget("tokens", 19000))
    assert [s.steps for s in made.stages] == [40, 50]
    assert [s.warmup for s in made.stages] == [1, 1]
    assert [s.steps for s in within(light, costs, Budget("flops", 24500)).stages] == [2, 2]
    assert spent(made, costs).tokens <= 19000
    with pytest.raises(BudgetError, match="does not pay for a step of stage 'align'") as caught:
        within(light, costs, Budget("tokens", 400))
    least = float(caught.value.expected.removeprefix("at least "))
    assert [s.steps for s in within(light, costs, Budget("tokens", least)).stages] == [1, 1]


def test_budgets_are_read() -> None:
    assert Budget.parse("tokens=2e6") == Budget("tokens", 2e6)
    assert Budget.parse("flops=1000") == Budget("flops", 1000.0)
    for wrong in ("tokens", "tokens=", "hours=3", "flops=-1", "flops=inf", "flops=nan", "=3"):
        with pytest.raises(BudgetError):
            Budget.parse(wrong)


def test_stages_cost_what_their_steps_do(light: Recipe, tiny_cohort: Cohort, tmp_path: Path) -> None:
    run = Run(tmp_path / "cost")
    prepare(run, light, tiny_cohort)
    costs = stage_costs(run, tiny_cohort)
    assert len(costs) == 2
    assert all(cost.tokens > 0 and cost.flops > 0 for cost in costs)
    assert costs == stage_costs(run, tiny_cohort)
    each = stage_costs(run, tiny_cohort, sampled=100)  # every step there is
    assert each[0] == costs[0]  # the first stage has four steps, and all of them were looked at


def test_what_modality_dropout_leaves_out_costs_nothing(light: Recipe, tiny_cohort: Cohort, tmp_path: Path) -> None:
    def cost(dropout: float) -> Cost:
        stage = light.stages[1].model_copy(update={"modality_dropout": dropout})
        run = Run(tmp_path / str(dropout))
        prepare(run, light.model_copy(update={"stages": (stage,)}), tiny_cohort)
        return stage_costs(run, tiny_cohort)[0]

    whole, thinner = cost(0.0), cost(0.6)
    assert 0 < thinner.tokens < 0.8 * whole.tokens
    assert 0 < thinner.flops < 0.8 * whole.flops
