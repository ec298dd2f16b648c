from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.inference.places import Beside
from polyclinic.schema import Modality, Payload, Record
from polyclinic.tasks import Thing
from polyclinic.tasks.matching import AGAIN, FALSE, HIT
from polyclinic.training import Run
from polyclinic.trust.measures.intervals import EvidenceError
from polyclinic.trust.pages.overlays import upright
from polyclinic.trust.pages.placed import _of_boxes, _of_points, _on, _slice, judged, placed_pictures, turned

RECORD = Record("r", "a", None, Modality.IMAGE, "X", "file")


def box(name: str, x: float, y: float, side: float = 10.0, score: float = 0.5) -> Thing:
    return Thing(name, score, (x, y), (x + side, y + side))


def point(name: str, x: float, y: float) -> Thing:
    return Thing(name, 0.5, (x, y), (x, y))


@settings(max_examples=30, deadline=None)
@given(st.permutations([0, 1, 2]), st.tuples(*[st.sampled_from((-1, 1))] * 3))
def test_a_box_lies_on_the_picture_where_its_voxels_do(order: list[int], signs: tuple[int, int, int]) -> None:
    volume = np.zeros((5, 7, 9))  # S, P, L
    volume[1:3, 2:6, 3:5] = 1
    turn = np.array([[axis, sign] for axis, sign in zip(order, signs, strict=True)], float)
    held = nib.orientations.apply_orientation(volume.T, turn)
    affine = np.diag([0.5, 2.0, 3.0, 1.0]) @ nib.orientations.inv_ornt_aff(turn, volume.T.shape)
    where = np.argwhere(held)
    low, high = where.min(0).astype(float), where.max(0) + 1.0  # of the file's axes x y z
    found = turned(Thing("a", 1.0, tuple(low), tuple(high)), Payload(held.T[None], affine), True)
    assert np.array_equal(upright(held.T, affine, True)[0], volume)
    assert found.tolist() == [[3, 2, 1], [5, 6, 3]]


def test_an_image_s_box_is_where_it_is() -> None:
    found = turned(box("a", 3, 4), Payload(np.zeros((1, 20, 20)), np.diag([-1.0, 1, 1, 1])), False)
    assert found[:, :2].tolist() == [[3, 4], [13, 14]]


def test_each_box_is_a_hit_a_repetition_or_an_alarm_and_the_missed_are_counted() -> None:
    told = (box("a", 0, 0, score=0.9), box("a", 1, 1, score=0.8), box("a", 50, 50), box("b", 0, 0))
    each, missed = judged(Beside(RECORD, told, (box("a", 0, 0), box("b", 30, 30))))
    assert each.tolist() == [HIT, AGAIN, FALSE, FALSE]
    assert missed == 1


def test_boxes_are_ranked_by_what_they_find_then_by_how_well_they_lie() -> None:
    drawn = (box("a", 0, 0), box("a", 40, 40))
    exact = Beside(RECORD, drawn, drawn)
    near = Beside(RECORD, (box("a", 2, 2), box("a", 41, 41)), drawn)
    half = Beside(RECORD, drawn[:1], drawn)
    alarmed = Beside(RECORD, (*drawn[:1], box("a", 80, 80)), drawn)
    nothing, only_alarm = Beside(RECORD, (), drawn), Beside(RECORD, drawn, ())
    order = [exact, near, half, alarmed, nothing, only_alarm]
    assert sorted((nothing, half, only_alarm, alarmed, near, exact), key=_of_boxes) == order


def test_points_are_ranked_by_their_distance_in_shares_of_what_was_drawn() -> None:
    wide, narrow = (point("a", 0, 0), point("b", 100, 0)), (point("a", 0, 0), point("b", 10, 0))
    far = Beside(RECORD, (point("a", 3, 4), point("b", 103, 4)), wide)
    close = Beside(RECORD, (point("a", 1, 0), point("b", 11, 0)), narrow)
    assert _of_points(far)[0] == pytest.approx(0.05)
    assert _of_points(close)[0] == pytest.approx(0.1)
    assert _of_points(Beside(RECORD, (point("a", 0, 3),), wide[:1]))[0] == pytest.approx(3.0), "one point has no extent"


def test_a_volume_is_shown_where_the_surest_box_is_with_what_crosses_that_slice() -> None:
    corners = lambda z0, z1, side=4.0: np.array([[1.0, 2.0, z0], [1 + side, 2 + side, z1]])
    drawn = [corners(0, 3), corners(10, 15, 9.0)]
    assert _slice(corners(4, 7), drawn, 20) == 5
    assert _slice(None, drawn, 20) == 12, "nothing was told: the largest drawn one"
    assert _slice(corners(18, 22), drawn, 20) == 19
    things: Any = [(1, 0.9, False, corners(4, 6)), (1, 0.8, True, corners(6, 8)), (1, 0.7, False, corners(0, 5))]
    assert [m.score for m in _on(5, things, boxes=True)] == [0.9]
    points: Any = [(1, 0.9, False, corners(5.5, 5.5, 0.0)), (2, 0.8, False, corners(7.5, 7.5, 0.0))]
    assert [m.here for m in _on(5, points, boxes=False)] == [True, False]


def test_a_run_that_places_nothing_is_refused(tiny_finding_run: Run) -> None:
    with pytest.raises(EvidenceError, match="places none"):
        placed_pictures(tiny_finding_run)
