"""Weights that stand still answer as they did, whatever is asked of them meanwhile."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from polyclinic.tokens import frozen
from polyclinic.tokens.frozen import LARGEST_BYTES, lays_out


class Two(nn.Module):
    """A layer with a bias and one without, the second held twice."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(48, 80), nn.Linear(80, 33, bias=False)
        self.again = self.second

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.again(self.first(x).relu())


@pytest.mark.parametrize("rows", [1, 3, 16, 300])
@pytest.mark.parametrize("bf16", [False, True])
def test_the_answers_are_the_same(rows: int, bf16: bool) -> None:
    two, x = Two(), torch.randn(rows, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        wanted = two(x)
        with frozen(two):
            assert ("forward" in vars(two.first)) is lays_out(torch.bfloat16 if bf16 else torch.float32)
            found = two(x)
            deep = two(x.view(rows, 1, 48))
    assert found.dtype is wanted.dtype
    torch.testing.assert_close(found, wanted, atol=2e-2 if bf16 else 1e-5, rtol=0)
    torch.testing.assert_close(deep[:, 0], found, atol=0 if lays_out(found.dtype) else 2e-2, rtol=0)
    assert "forward" not in vars(two.first)


def test_who_wants_gradients_gets_them() -> None:
    two, x = Two(), torch.randn(4, 48)
    with frozen(two):
        assert "forward" not in vars(two.first)  # asked for where something learns, it does nothing
    with torch.no_grad(), frozen(two), torch.enable_grad():
        two(x).sum().backward()
    assert two.first.weight.grad is not None


def test_another_precision_is_answered_in_it() -> None:
    two, x = Two(), torch.randn(4, 48)
    with torch.no_grad():
        wanted = two(x)
        with torch.autocast("cpu", torch.bfloat16), frozen(two), torch.autocast("cpu", enabled=False):
            assert torch.equal(two(x), wanted)


def test_within_each_other_the_outer_one_counts() -> None:
    two, x = Two(), torch.randn(4, 48)
    with torch.no_grad(), frozen(two):
        laid = two.first.forward
        with frozen(two):
            assert two.first.forward is laid
        assert two.first.forward is laid
        two(x)


def test_an_error_within_leaves_no_trace() -> None:
    two = Two()
    with torch.no_grad(), pytest.raises(RuntimeError), frozen(two):
        two(torch.randn(4, 47))
    assert "forward" not in vars(two.first)


def test_what_is_too_large_is_not_copied() -> None:
    with torch.device("meta"):
        large = nn.Linear(LARGEST_BYTES // 4 // 1024 + 1, 1024)
    large.weight = nn.Parameter(torch.empty(1, 1).expand(large.weight.shape))  # of that size, in four bytes
    with torch.no_grad(), frozen(large):
        assert "forward" not in vars(large)
