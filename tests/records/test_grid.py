"""Where voxels lie, whichever way their axes run, and what is a map of regions."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from polyclinic.records.grid import grid_of, is_label_map, parted

angle = st.floats(-35, 35)


@given(angles=st.tuples(angle, angle, angle), shape=st.tuples(*[st.integers(1, 9)] * 3))
def test_a_grid_is_the_same_in_all_48_orders_and_directions_of_its_axes(
    angles: tuple[float, float, float], shape: tuple[int, int, int]
) -> None:
    world = np.eye(4)
    world[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * [0.7, 1.1, 2.5]
    world[:3, 3] = [-100, 30, 7]
    truth = parted(grid_of(shape, world))
    assert truth[2] == pytest.approx(0.7 / 4, rel=1e-3)
    for order, flips in product(permutations(range(3)), product([1, -1], repeat=3)):
        turned, start = np.eye(4), world[:3, 3].copy()
        for to, (axis, flip) in enumerate(zip(order, flips, strict=True)):
            turned[:3, to] = world[:3, axis] * flip
            start += (flip < 0) * (shape[axis] - 1) * world[:3, axis]
        turned[:3, 3] = start
        found = parted(grid_of((shape[order[0]], shape[order[1]], shape[order[2]]), turned))
        assert found[0] == truth[0]
        if min(shape) > 1:
            assert np.allclose(found[1], truth[1], atol=1e-3)


def test_a_grid_reads_in_mm_to_the_left_back_and_head() -> None:
    world = np.diag([-2.0, 3.0, 5.0, 1.0])  # the first axis runs to the right
    shape, places, near = parted(grid_of((4, 5, 6), world))
    assert shape == "4x5x6"
    assert places == [-6, 0, 0, 0, 0, 0, -6, 12, 0, -6, 0, 25]
    assert near == 0.5


def test_regions_are_told_from_pictures() -> None:
    labels = np.zeros((20, 20, 6), np.float32)
    labels[3:9, 4:12], labels[9:15, 2:9] = 3, 117
    assert is_label_map(labels)
    random = np.random.default_rng(1)
    few_greys = random.integers(0, 4, labels.shape).astype(np.float32)  # few whole numbers, 0 among them
    for picture in (
        few_greys,
        labels + 0.5,
        labels - 3,
        np.zeros_like(labels),
        labels + 1,
        labels * 1000,
        labels * np.nan,
    ):
        assert not is_label_map(picture)
