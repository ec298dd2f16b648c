from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from polyclinic.harmonise import GridError, points_back, way_back
from polyclinic.harmonise.crops import crop, draw, scales
from polyclinic.harmonise.geometry import spacing_of
from polyclinic.schema import Payload

angles = st.tuples(*[st.floats(-40, 40)] * 3)


def ramp(turn: tuple[float, ...] = (0, 0, 0), spacing: tuple[float, ...] = (1.0, 1.0, 2.0)) -> Payload:
    """Three channels that hold each voxel's own place in mm: what is cropped says where it comes from."""
    to_world = np.eye(4)
    to_world[:3, :3] = Rotation.from_euler("xyz", turn, degrees=True).as_matrix() * spacing
    to_world[:3, 3] = 5, -7, 11
    index = np.stack(np.meshgrid(*map(np.arange, (20, 24, 28)), indexing="ij")[::-1], -1)
    world = index @ to_world[:3, :3].T + to_world[:3, 3]
    return Payload(np.moveaxis(world, -1, 0).astype(np.float32), to_world)


@settings(max_examples=20, deadline=None)
@given(turn=angles, factor=st.floats(0.5, 1.0), at=st.tuples(*[st.floats(0.4, 0.6)] * 3))
def test_a_crop_lies_where_it_says(turn: tuple[float, ...], factor: float, at: tuple[float, ...]) -> None:
    source = ramp(turn)
    assert source.to_world is not None
    centre = source.to_world[:3] @ np.append(np.array(at) * [27, 23, 19], 1)
    finest = float(spacing_of(source.to_world).min()) * factor  # coarser along no axis: nothing is averaged
    box = crop(source, centre.tolist(), (6, 6, 6), (finest, finest, finest))
    assert box.to_world is not None
    index = np.stack(np.meshgrid(*map(np.arange, (6, 6, 6)), indexing="ij")[::-1], -1)
    assert np.abs(np.moveaxis(box.array, 0, -1) - (index @ box.to_world[:3, :3].T + box.to_world[:3, 3])).max() < 1e-3
    middle = box.to_world[:3] @ [2.5, 2.5, 2.5, 1]
    assert np.linalg.norm((middle - centre) / spacing_of(source.to_world)) <= np.sqrt(3) / 2 + 1e-6
    assert (
        np.abs(
            points_back(np.array([[2.5, 2.5, 2.5]]), box.history)[0]
            - np.linalg.solve(source.to_world, [*middle, 1])[:3]
        ).max()
        < 1e-9
    )


def test_its_own_voxels_are_not_blurred_and_an_answer_goes_back() -> None:
    source = ramp()
    box = crop(source, (15.3, 4.2, 30.9), (5, 6, 7), (2.0, 1.0, 1.0))
    assert set(np.unique(box.array[0])) <= set(np.unique(source.array[0]))
    back = way_back(np.ones((5, 6, 7), int), box.history)
    assert back.shape == (20, 24, 28)
    assert back.sum() == 5 * 6 * 7
    found = source.array[:, back > 0]
    assert np.array_equal(np.sort(found, axis=1), np.sort(box.array.reshape(3, -1), axis=1))


def test_scales_share_a_centre_and_beyond_the_edge_nothing_is_made_up() -> None:
    source = ramp()
    three = scales(source, (19.0, 5.0, 30.0), (8, 8, 8), [(1, 1, 1), (2, 2, 2), (8, 8, 8)], fill=-99.0)
    middles = [p.to_world[:3] @ [3.5, 3.5, 3.5, 1] for p in three if p.to_world is not None]
    assert np.ptp(middles, axis=0).max() <= 0.5 + 1e-9
    assert (three[2].array == -99).any()
    assert (three[2].array != -99).any()
    assert not (three[0].array == -99).any()


def test_draws_are_the_generators_and_lie_where_they_may() -> None:
    source = ramp()
    inside = np.zeros((20, 24, 28), bool)
    inside[4:6, 10:12, 20:22] = True
    one, other = (draw(source, (4, 4, 4), 5, np.random.default_rng(3), (0.5, 2.0), inside) for _ in range(2))
    assert all(np.array_equal(a.array, b.array) for a, b in zip(one, other, strict=True))
    for box in one:
        assert box.to_world is not None
        middle = points_back(np.array([[1.5, 1.5, 1.5]]), box.history)[0]
        assert np.all(np.abs(middle - [20.5, 10.5, 4.5]) <= 1.01)
        ratio = spacing_of(box.to_world) / [1, 1, 2]
        assert 0.5 <= ratio[0] <= 2
        assert np.allclose(ratio, ratio[0])
    with pytest.raises(GridError):
        draw(Payload(source.array), (4, 4, 4), 1, np.random.default_rng(0))
    with pytest.raises(GridError):
        crop(Payload(source.array), (0, 0, 0), (4, 4, 4), (1, 1, 1))
