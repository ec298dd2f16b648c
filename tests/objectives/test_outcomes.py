"""Losses of what is known of whole patients, against scikit-learn's and computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from polyclinic.objectives.outcomes import (
    ascending,
    classes_loss,
    even_steps,
    grade_loss,
    log_probabilities,
    tree_loss,
    yes_no_loss,
)

NAN = math.nan


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_of_each_finding_both_classes_weigh_the_same_and_the_unknown_nothing() -> None:
    logits = torch.tensor([[0.3, 1.0], [-1.0, 2.0], [2.0, -0.5], [0.1, 9.0]])
    values = torch.tensor([[1.0, 0.0], [0, 1], [0, NAN], [NAN, NAN]])
    first = (-math.log(sigmoid(0.3)) + (-math.log(sigmoid(1.0)) - math.log(sigmoid(-2.0))) / 2) / 2
    second = (-math.log(sigmoid(-1.0)) - math.log(sigmoid(2.0))) / 2
    assert float(yes_no_loss(logits, values)) == pytest.approx((first + second) / 2, rel=1e-5)  # type: ignore[arg-type]
    torch.testing.assert_close(yes_no_loss(logits[:3], values[:3]), yes_no_loss(logits, values))
    only = yes_no_loss(logits[:, :1], values[:, :1])
    known = values[:3, 0].numpy()
    peer = log_loss(known, torch.sigmoid(logits[:3, 0]).numpy(), sample_weight=np.where(known > 0, 2.0, 1.0))
    assert float(only) == pytest.approx(peer, rel=1e-5)  # type: ignore[arg-type]
    assert yes_no_loss(logits, torch.full((4, 2), NAN)) is None
    assert yes_no_loss(logits[:0], values[:0]) is None


def test_one_class_alone_of_a_finding_is_its_mean() -> None:
    logits = torch.tensor([[0.5], [1.5]])
    wanted = -(math.log(sigmoid(0.5)) + math.log(sigmoid(1.5))) / 2
    assert float(yes_no_loss(logits, torch.ones(2, 1))) == pytest.approx(wanted, rel=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_classes_are_shifted_and_weighed_by_how_many_there_are(balance: float) -> None:
    draws = torch.Generator().manual_seed(0)
    scores, truth = torch.randn(20, 4, generator=draws), torch.tensor([0] * 12 + [1] * 6 + [2] * 2)
    count = np.array([12.0, 6.0, 2.0])
    shifted = torch.softmax(scores[:, :3] + torch.from_numpy(count ** (1 - balance)).float().log(), 1).numpy()
    peer = log_loss(truth, shifted, sample_weight=count[truth] ** -balance)
    assert float(classes_loss(scores, truth.float(), balance)) == pytest.approx(peer, rel=1e-5)  # type: ignore[arg-type]
    assert classes_loss(scores[:0], truth[:0].float(), balance) is None


def test_a_grade_is_told_by_where_the_score_lies_among_the_thresholds() -> None:
    """Scores 0.5, 2 and 0 among thresholds at 0 and 1; of grade 1 there are two, which weigh one half each."""
    score, thresholds = torch.tensor([0.5, 2.0, 0.0]), torch.tensor([0.0, 1.0])
    one, two = sigmoid(0.5) - sigmoid(-0.5), sigmoid(2.0) - sigmoid(1.0)
    wanted = (-(math.log(one) + math.log(two)) / 2 - math.log(1 - sigmoid(0.0))) / 2
    cumulative = score[:, None] - thresholds
    assert float(grade_loss(cumulative, torch.tensor([1.0, 1, 0]))) == pytest.approx(wanted, rel=1e-5)  # type: ignore[arg-type]
    assert grade_loss(cumulative[:0], torch.zeros(0)) is None


@pytest.mark.parametrize("k", [2, 3, 7])
def test_steps_make_thresholds_between_grades_that_are_as_common(k: int) -> None:
    thresholds = ascending(even_steps(k))
    assert len(thresholds) == k - 1
    torch.testing.assert_close(log_probabilities(-thresholds[None]).exp(), torch.full((1, k), 1 / k))
    moved = ascending(torch.linspace(2, -5, k - 1))
    assert bool((moved.diff() > 0).all())


def test_of_a_tree_what_is_unknown_is_summed_over() -> None:
    """Pneumonia is a kind of opacity: both; none; opacity with pneumonia unknown; nothing known."""
    logits = torch.tensor([[1.0, -0.5]] * 4)
    values = torch.tensor([[1.0, 1.0], [0, 0], [1, NAN], [NAN, NAN]])
    opacity, pneumonia = sigmoid(1.0), sigmoid(-0.5)
    wanted = -(math.log(opacity * pneumonia) + math.log(1 - opacity) + math.log(opacity)) / 3 / 2
    found = tree_loss(logits, values, (-1, 0))
    assert float(found) == pytest.approx(wanted, rel=1e-5)  # type: ignore[arg-type]
    torch.testing.assert_close(tree_loss(logits[:3], values[:3], (-1, 0)), found)
    values[1, 1] = NAN  # who has no opacity has no pneumonia: to know that says no more
    torch.testing.assert_close(tree_loss(logits, values, (-1, 0)), found)
    assert tree_loss(logits, torch.full((4, 2), NAN), (-1, 0)) is None
