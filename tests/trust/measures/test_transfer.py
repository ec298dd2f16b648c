from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from polyclinic.trust.measures.transfer import (
    MEASURES,
    average,
    backward,
    forgetting,
    forward,
    forward_over_pretrained,
    learned,
)

RESULTS = np.array([
    [0.50, 0.60, 0.55],  # the pretrained backbone
    [0.90, 0.62, 0.53],  # after the first task
    [0.80, 0.95, 0.58],
    [0.85, 0.75, 0.88],
])  # fmt: skip
FRESH = np.array([0.50, 0.51, 0.52])


def test_of_three_tasks_by_hand() -> None:
    assert average(RESULTS) == pytest.approx((0.85 + 0.75 + 0.88) / 3)
    assert learned(RESULTS) == pytest.approx((0.90 + 0.95 + 0.88) / 3)
    assert backward(RESULTS) == pytest.approx(((0.85 - 0.90) + (0.75 - 0.95)) / 2)
    assert forward(RESULTS, FRESH) == pytest.approx(((0.62 - 0.51) + (0.58 - 0.52)) / 2)
    assert forward_over_pretrained(RESULTS) == pytest.approx(((0.62 - 0.60) + (0.58 - 0.55)) / 2)
    assert forgetting(RESULTS) == pytest.approx(((0.90 - 0.85) + (0.95 - 0.75)) / 2)


def test_forgetting_is_from_the_best_and_not_from_the_first() -> None:
    later = np.array([[0.5, 0.5, 0.5], [0.7, 0.5, 0.5], [0.9, 0.8, 0.5], [0.8, 0.8, 0.6]])
    assert forgetting(later) == pytest.approx((0.9 - 0.8 + 0.0) / 2)
    assert backward(later) == pytest.approx(
        (0.8 - 0.7 + 0.0) / 2
    )  # above what it was at first, below what it was at best


def test_further_axes_follow() -> None:
    twice = np.stack([RESULTS, RESULTS[::-1]], axis=-1)
    fresh = np.stack([FRESH, FRESH], axis=-1)
    for of in MEASURES.values():
        both = of(twice, fresh)
        assert both.shape == (2,)
        assert both[0] == pytest.approx(of(RESULTS, FRESH))


numbers = st.integers(2, 6).flatmap(lambda t: arrays(float, (t + 1, t), elements=st.floats(0, 1)))


@given(numbers)
def test_what_does_not_change_is_not_forgotten(results: np.ndarray) -> None:
    still = np.tile(results[:1], (len(results), 1))
    assert backward(still) == pytest.approx(0)
    assert forgetting(still) == pytest.approx(0)
    assert forward_over_pretrained(still) == pytest.approx(0)
    assert average(still) == pytest.approx(learned(still))


@given(numbers)
def test_forgetting_is_at_least_what_was_lost_since_it_was_learned(results: np.ndarray) -> None:
    assert forgetting(results) >= -backward(results) - 1e-12
    # average = learned + its share of backward transfer: the last task has had no time to change.
    count = results.shape[1]
    assert average(results) == pytest.approx(learned(results) + backward(results) * (count - 1) / count)
