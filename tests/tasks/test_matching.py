from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.harmonise.shapes import overlaps
from polyclinic.tasks import Predictions
from polyclinic.tasks.matching import (
    AGAIN,
    FALSE,
    HIT,
    OVERLAPS,
    RATES,
    by_overlap,
    by_place,
    matched,
    measures,
    sensitivity,
)

BOX = [0.0, 0.0, 10.0, 10.0]


def objects(rows: list[np.ndarray]) -> np.ndarray:
    out = np.empty(len(rows), object)
    for number, row in enumerate(rows):
        out[number] = row
    return out


def answers(said: list[list[list[float]]], true: list[list[list[float]]], images: list[int], d: int = 2) -> Predictions:
    """Of each patient rows of image, class, score and corners; and of image, class and corners."""
    p = len(images)
    return Predictions(
        "lesions", tuple(f"p{n}" for n in range(p)), objects([np.array(s, float).reshape(-1, 3 + 2 * d) for s in said]),
        objects([np.array(t, float).reshape(-1, 2 + 2 * d) for t in true]), np.array([n > 0 for n in images]), (),
        tuple(tuple(f"i{k}" for k in range(n)) for n in images),
    )  # fmt: skip


def score(of: Predictions, classes: tuple[str, ...] = ("nodule",)) -> dict[str, float]:
    p = int(of.mask.sum())
    return {name: float(m(np.ones((1, p)))[0]) for name, m in measures(of, classes).items()}


def test_overlap_by_hand() -> None:
    one = np.array([BOX, [0, 0, 10, 5], [20, 20, 30, 30], [0, 0, 0, 0]], float)
    found = overlaps(one, np.array([BOX]))
    assert found[:, 0].tolist() == [1, 0.5, 0, 0]
    cubes = np.array([[0, 0, 0, 2, 2, 2], [1, 1, 1, 3, 3, 3]], float)
    assert overlaps(cubes, cubes).tolist() == [[1, 1 / 15], [1 / 15, 1]]
    assert overlaps(np.zeros((0, 6)), cubes).shape == (0, 2)


def test_each_truth_is_found_once() -> None:
    truth, found = np.array([BOX]), np.array([BOX, [0, 0, 10, 9], [50, 50, 60, 60]], float)
    assert by_overlap(found, truth, (0.1, 0.5)).tolist() == [[True, True], [False, False], [False, False]]
    assert by_place(found, truth).tolist() == [HIT, AGAIN, FALSE]
    assert by_place(found, np.zeros((0, 4))).tolist() == [FALSE] * 3
    assert by_overlap(np.zeros((0, 4)), truth).shape == (0, len(OVERLAPS))


def test_an_answer_in_two_true_boxes_finds_the_one_that_is_left() -> None:
    truth = np.array([[0, 0, 10, 10], [2, 2, 12, 12]], float)
    found = np.array([[1, 1, 11, 11], [1, 1, 11, 11], [1, 1, 11, 11]], float)
    assert by_place(found, truth).tolist() == [HIT, HIT, AGAIN]
    near = np.array([[2, 2, 12, 12], [2, 2, 12, 12]], float)
    assert by_place(near, truth[::-1]).tolist() == [HIT, HIT]  # its own first, then the other that its middle lies in


def test_the_free_response_curve_by_hand() -> None:
    """Two images, three things; hits at .9 and .7, alarms at .8 and .6: one alarm is half an alarm an image."""
    far = [50.0, 50.0, 60.0, 60.0]
    of = answers(
        [[[0, 0, 0.9, *BOX], [0, 0, 0.8, *far]], [[0, 0, 0.7, *BOX], [0, 0, 0.6, *far]]],
        [[[0, 0, *BOX], [0, 0, 20, 20, 30, 30]], [[0, 0, *BOX]]], [1, 1],
    )  # fmt: skip
    # (alarms an image, sensitivity): (0, 0) (0, 1/3) (.5, 1/3) (.5, 2/3) (1, 2/3)
    expected = {0.125: 1 / 3, 0.25: 1 / 3, 0.5: 2 / 3, 1.0: 2 / 3, 2.0: 2 / 3, 4.0: 2 / 3, 8.0: 2 / 3}
    found = score(of)
    for rate, value in expected.items():
        assert found[f"sensitivity_at_{rate:g}"] == pytest.approx(value)
    assert found["froc"] == pytest.approx(np.mean(list(expected.values())))


def test_between_two_thresholds_lies_a_line_and_equal_scores_stand_together() -> None:
    """Of one score a hit and an alarm in one image: from (0, 0) straight to (1, 1)."""
    of = answers([[[0, 0, 0.5, *BOX], [0, 0, 0.5, 50, 50, 60, 60]]], [[[0, 0, *BOX]]], [1])
    for order in (of, answers([[[0, 0, 0.5, 50, 50, 60, 60], [0, 0, 0.5, *BOX]]], [[[0, 0, *BOX]]], [1])):
        found = score(order)
        for rate in RATES:
            assert found[f"sensitivity_at_{rate:g}"] == pytest.approx(min(rate, 1.0))


def test_who_finds_a_thing_again_is_no_alarm_on_the_curve_and_one_in_precision() -> None:
    twice = [[[0, 0, 0.9, *BOX], [0, 0, 0.8, *BOX], [1, 0, 0.7, *BOX]]]
    found = score(answers(twice, [[[0, 0, *BOX], [1, 0, *BOX]]], [2]))
    assert found["sensitivity_at_0.125"] == 1
    # Precision 1 up to a recall of 1/2 (51 of the 101 recalls), then 2/3.
    assert found["map_50"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_a_class_finds_its_own_things_in_its_own_image() -> None:
    wrong_class = answers([[[0, 1, 0.9, *BOX]]], [[[0, 0, *BOX]]], [1])
    assert score(wrong_class, ("a", "b"))["froc"] == 0
    wrong_image = answers([[[1, 0, 0.9, *BOX]]], [[[0, 0, *BOX]]], [2])
    assert score(wrong_image)["map_10"] == 0


def test_nothing_to_find_and_nothing_found() -> None:
    negative = answers([[[0, 0, 0.9, *BOX]]], [[]], [1])
    assert all(np.isnan(v) for v in score(negative).values())
    missed = answers([[]], [[[0, 0, *BOX]]], [1])
    assert set(score(missed).values()) == {0.0}
    # A negative image's alarms count: half an alarm an image before the hit.
    both = answers([[[0, 0, 0.9, *BOX]], [[0, 0, 0.8, *BOX]]], [[], [[0, 0, *BOX]]], [1, 1])
    assert score(both)["sensitivity_at_0.25"] == 0
    assert score(both)["sensitivity_at_1"] == 1
    assert score(both)["map_50"] == pytest.approx(0.5)


def test_the_unannotated_take_no_part() -> None:
    of = answers([[[0, 0, 0.9, *BOX]], [[0, 0, 0.95, *BOX]]], [[[0, 0, *BOX]], []], [1, 0])
    assert score(of) == pytest.approx(dict.fromkeys(score(of), 1.0))
    assert matched(of, 1).images.tolist() == [1]


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_a_weight_is_so_many_of_the_same_patient(seed: int) -> None:
    """A patient who counts twice is as two patients with the same images, at every measure."""
    random = np.random.default_rng(seed)
    draw = lambda n, head: np.concatenate(
        [np.zeros((n, 2)), *head(n), *(np.sort(random.uniform(0, 30, (n, 2)), 1) for _ in range(2))], 1
    )
    turned = lambda rows, first: np.concatenate([rows[:, :first], rows[:, [first, first + 2, first + 1, first + 3]]], 1)
    said = [turned(draw(int(random.integers(6)), lambda n: [random.random((n, 1))]), 3).tolist() for _ in range(4)]
    true = [turned(draw(int(random.integers(3)), lambda n: []), 2).tolist() for _ in range(4)]
    weights = random.integers(0, 3, 4)
    again = [n for n in range(4) for _ in range(weights[n])]
    whole = measures(answers(said, true, [1] * 4), ("nodule",))
    copied = measures(answers([said[n] for n in again], [true[n] for n in again], [1] * len(again)), ("nodule",))
    for name in ("froc", "sensitivity_at_1"):
        one, other = whole[name](weights[None].astype(float))[0], copied[name](np.ones((1, len(again))))[0]
        np.testing.assert_allclose(one, other, atol=1e-9)


def test_many_resamples_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    of = matched(answers([[[0, 0, 0.9, *BOX]], []], [[[0, 0, *BOX]], [[0, 0, *BOX]]], [1, 1]), 1)
    weights = np.array([[1.0, 1], [2, 0], [0, 2]] * 5)
    whole = sensitivity(of)(weights)
    monkeypatch.setattr("polyclinic.tasks.matching.AT_ONCE", 2)
    assert np.array_equal(sensitivity(of)(weights), whole)
    assert whole[:3, 0].tolist() == [0.5, 1, 0]
