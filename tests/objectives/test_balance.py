from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from polyclinic.objectives.balance import GradNorm, Uncertainty, slope


def test_uncertainty_is_the_papers_term_and_its_best_variance_is_twice_the_loss() -> None:
    balance = Uncertainty(["a", "b"])
    balance.log_variance["a"].data.fill_(math.log(4.0))
    loss = torch.tensor(3.0)
    factors = balance({"a": loss}, [])
    whole = factors["a"] * loss + balance.added("a")
    assert whole.item() == pytest.approx(3 / 4 + math.log(2.0))  # L / σ² + log σ, σ = 2
    best = nn.Parameter(torch.zeros(()))
    balance.log_variance["b"] = best
    adam = torch.optim.LBFGS([best], max_iter=50)

    def again() -> torch.Tensor:
        adam.zero_grad()
        total = balance({"b": loss}, [])["b"] * loss + balance.added("b")
        total.backward()
        return total

    adam.step(again)
    assert best.exp().item() == pytest.approx(2 * 3.0, rel=1e-3)


def test_a_part_that_is_not_asked_keeps_its_uncertainty() -> None:
    balance = Uncertainty(["a", "b"])
    factors = balance({"a": torch.tensor(1.0)}, [])
    (factors["a"] * 1.0 + balance.added("a")).backward()
    assert set(factors) == {"a"}
    assert balance.log_variance["b"].grad is None


def linear(scales: list[float]) -> tuple[nn.Parameter, list[torch.Tensor]]:
    """Losses w · v_i whose gradients' norms on w are the scales."""
    w = nn.Parameter(torch.ones(3))
    direction = [torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0]), torch.tensor([0, 0, 1.0])]
    return w, [s * (w * d).sum() for s, d in zip(scales, direction, strict=False)]


def test_the_norm_is_that_of_all_batches_of_a_step_together() -> None:
    """Two whose gradients cancel have none, whatever each has; a loss is over those that speak."""
    balance = GradNorm(["a", "b"], 1.5, 0.025)
    w = nn.Parameter(torch.tensor([3.0, 0.0]))
    balance({"a": w[0], "b": w[0] + w[1]}, [w], share=0.25)
    balance({"a": -w[0]}, [w], share=0.25)
    balance({"b": w[0] - 2 * w[1]}, [w], share=0.5)
    rows, norms, losses = balance.measured()
    assert rows.tolist() == [0, 1]
    assert norms.tolist() == pytest.approx([0.0, math.hypot(0.75, 0.25 - 1.0)])
    assert losses.tolist() == pytest.approx([0.0, 3.0])


def test_the_norm_is_of_the_gradient_on_the_shared_weights() -> None:
    w, other = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.ones(2))
    loss = (w**2).sum() * other.sum()
    assert slope(loss, [w, other]).tolist() == pytest.approx([4, 8, 5, 5])
    assert slope(loss, [nn.Parameter(torch.ones(1)), other]).tolist() == [0, 5, 5]
    assert slope(torch.tensor(1.0), [w]).tolist() == [0, 0]
    balance = GradNorm(["a", "b"], 1.5, 0.025)
    balance({"b": loss}, [w, other])
    assert [found.tolist() for found in balance.measured()] == [[1], [pytest.approx(math.sqrt(130))], [10]]
    loss.backward()  # the graph is still there
    assert w.grad is not None


def test_a_step_is_down_the_papers_slope() -> None:
    """Independently: L_grad as the paper writes it, its targets constant, differentiated by autograd."""
    alpha, rate, first, now = 1.5, 0.025, torch.tensor([2.0, 6.0, 3.0]), torch.tensor([1.0, 5.0, 3.0])
    start = torch.tensor([0.7, 1.4, 0.9])
    balance = GradNorm(["a", "b", "c"], alpha, rate)
    balance.first.copy_(first)
    balance.weights.copy_(start)
    w, losses = linear([1.0, 5.0, 3.0])
    norms = torch.tensor([1.0, 5.0, 3.0])
    assert torch.equal(torch.stack(losses).detach(), now)
    factors = balance(dict(zip("abc", losses, strict=True)), [w])
    assert list(factors.values()) == pytest.approx(start.tolist())
    balance.stepped()
    logarithms = start.log().requires_grad_()
    size = logarithms.exp() * norms
    inverse = (now / first) / (now / first).mean()
    target = (size.mean() * inverse**alpha).detach()
    ((size - target).abs().sum() / size.mean().detach()).backward()
    assert logarithms.grad is not None
    expected = start * (-rate * logarithms.grad.sign()).exp()
    torch.testing.assert_close(balance.weights, expected * 3 / expected.sum())


def test_gradients_of_unlike_size_become_alike() -> None:
    balance = GradNorm(["a", "b", "c"], 0.0, 0.025)
    for _ in range(400):
        w, losses = linear([1.0, 20.0, 5.0])
        balance(dict(zip("abc", losses, strict=True)), [w])
        balance.stepped()
    size = balance.weights * torch.tensor([1.0, 20.0, 5.0])
    assert float(size.max() / size.min()) < 1.1  # twenty at the start
    assert float(balance.weights.sum()) == pytest.approx(3.0, rel=1e-5)


def test_a_part_that_lags_is_pulled() -> None:
    balance = GradNorm(["a", "b"], 1.5, 0.025)
    w, losses = linear([1.0, 1.0])
    balance.first.copy_(torch.tensor([1.0, 4.0]))  # b has come to a quarter of its first loss, a nowhere
    balance(dict(zip("ab", losses, strict=True)), [w])
    balance.stepped()
    assert balance.weights[0] > 1 > balance.weights[1]


def test_weights_move_only_in_a_step_and_only_of_parts_that_speak() -> None:
    balance = GradNorm(["a", "b", "c"], 1.5, 0.025)
    w, losses = linear([1.0, 9.0])
    for _ in range(2):
        assert balance(dict(zip("ab", losses, strict=True)), [w]) == {"a": 1.0, "b": 1.0}
    balance.eval()(dict(zip("ab", losses, strict=True)), [w])
    assert balance.measured()[1].tolist() == pytest.approx([2.0, 18.0])  # of both batches, and of none in evaluation
    balance.stepped()
    assert (balance.first == 0).tolist() == [False, False, True]
    assert balance.weights[0] > balance.weights[1]
    before = balance.weights.clone()
    balance.stepped()  # nothing was asked since
    torch.testing.assert_close(balance.weights, before)
