from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from polyclinic.tasks import Predictions
from polyclinic.trust.comparisons.kept_answers import kept
from polyclinic.trust.comparisons.priors import mean_boxes, mean_points
from polyclinic.trust.comparisons.seeded import in_order
from polyclinic.trust.measures.figures import difference, figure
from polyclinic.trust.measures.intervals import EvidenceError


def objects(rows: list[np.ndarray]) -> np.ndarray:
    out = np.empty(len(rows), object)
    for number, row in enumerate(rows):
        out[number] = row
    return out


def test_boxes_are_the_means_of_those_that_lie_together_at_their_frequency() -> None:
    left = lambda d: [0.0, 0.1 + d, 0.1, 0.3 + d, 0.3]
    right = [0.0, 0.6, 0.6, 0.9, 0.9]
    seen = [np.array([left(-0.01), right]), np.array([left(0.01)]), np.array([left(0.0)]), np.zeros((0, 5))]
    found = mean_boxes(seen, 2)
    np.testing.assert_allclose(found, [[0, 0.75, 0.1, 0.1, 0.3, 0.3], [0, 0.25, 0.6, 0.6, 0.9, 0.9]], atol=1e-12)
    twice = [np.array([left(-0.01), left(0.01)]), np.zeros((0, 5))]
    assert mean_boxes(twice, 1)[0, 1] == 0.5, "a record counts once"
    assert len(mean_boxes([np.zeros((0, 5))], 2)) == 0
    other = [np.array([left(0.0), [1.0, *left(0.0)[1:]]])]
    assert mean_boxes(other, 2)[:, 0].tolist() == [0, 1], "classes are apart"


def test_points_are_where_they_were_drawn_on_average() -> None:
    seen = [np.array([[0.2, 0.4], [0.5, 0.5], [np.nan] * 2]), np.array([[0.4, 0.6], [np.nan] * 2, [np.nan] * 2])]
    found = mean_points(seen, 3)
    np.testing.assert_allclose(found, [[1.0, 0.3, 0.5], [0.5, 0.5, 0.5], [0.0, 0.5, 0.5]])


def answers(shift: float, order: tuple[int, ...] = (0, 1, 2)) -> Predictions:
    """Three patients of a thing each, the last of whom has nothing; answers beside them by so much."""
    true = [np.array([[0.0, 0.0, 10.0, 10.0, 20.0, 20.0]])] * 2 + [np.zeros((0, 6))]
    said = [np.array([[0.0, 0.0, 0.9, 10.0 + shift, 10.0, 20.0 + shift, 20.0]])] * 2 + [np.zeros((0, 7))]
    pick = lambda rows: objects([rows[n] for n in order])
    names, ids = tuple(f"p{n}" for n in order), tuple((f"i{n}",) for n in order)
    return Predictions("x", names, pick(said), pick(true), np.ones(3, bool), (), ids)


def test_models_that_place_boxes_are_compared_on_the_same_patients() -> None:
    near, far = answers(1.0), answers(30.0)
    assert figure("froc", near, "s", draws=50).value == 1.0
    assert figure("froc", near, "s", draws=50).low == pytest.approx(0.025**0.5), "two have something to find"
    assert difference("froc", near, far, "s", draws=50).value == pytest.approx(1.0)
    with pytest.raises(EvidenceError, match="not the same"):
        difference("froc", near, answers(1.0, (1, 0, 2)), "s", draws=50)
    turned = in_order(answers(1.0, (2, 0, 1)), near.patients)
    assert difference("froc", near, turned, "s", draws=50).value == 0.0
    assert turned.records == near.records


def test_answers_of_any_number_are_kept(tmp_path: Path) -> None:
    made = answers(2.0)
    made.outputs[2] = np.array([[0.0, 0.0, 0.1, np.nan, 0.0, 1.0, 1.0]])
    first = kept(tmp_path / "a.json", lambda: made)
    again = kept(tmp_path / "a.json", lambda: pytest.fail("it is there"))
    for one, other in zip((*first.outputs, *first.targets), (*again.outputs, *again.targets), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.shape == other.shape
    assert again.records == made.records
