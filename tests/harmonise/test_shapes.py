from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.harmonise import Fingerprint, GridError, ImageStandard, VolumeStandard, image, points_back, volume
from polyclinic.harmonise.shapes import boxes, points
from polyclinic.schema import Modality, Payload, Record

STANDARD = ImageStandard(size=32)


def record(annotation: str | None, rows: int = 20, columns: int = 40) -> Record:
    told: dict[str, Any] = {"annotation": annotation, "rows": rows, "columns": columns} if annotation else {}
    return Record("r", "p", None, Modality.IMAGE, "BOXES image", "a.json#item=0", attributes=told)


def picture(rows: int = 20, columns: int = 40) -> Payload:
    """Letterboxed: 40 wide becomes 32, so that a sample is 1.25 pixels, and 20 rows become 16 in the middle of 32."""
    array = np.random.default_rng(0).random((1, rows, columns)).astype(np.float32)
    return image.harmonise(Payload(array), record(None), STANDARD, Fingerprint())


def drawn(corners: list[list[float]], names: list[str], **size: int) -> tuple[Record, Payload]:
    return record("boxes", **size), Payload(np.array(corners, np.float32).reshape(-1, 4), names=tuple(names))


def test_a_drawn_box_lies_on_the_standard_grid_by_its_edges() -> None:
    whole = boxes([drawn([[0, 0, 40, 20]], ["Nodule"])], picture(), Modality.IMAGE, ("mass", "nodule"))
    # The whole picture: all 32 columns, and the 16 rows in the middle. Edges lie half a sample beyond centres.
    np.testing.assert_allclose(whole, [[1, 7.5, -0.5, 23.5, 31.5]], atol=1e-5)
    part = boxes([drawn([[10, 5, 20, 10]], ["mass"])], picture(), Modality.IMAGE, ("mass", "nodule"))
    np.testing.assert_allclose(part, [[0, 7.5 + 4, -0.5 + 8, 7.5 + 8, -0.5 + 16]], atol=1e-5)


def test_what_was_drawn_on_the_picture_at_another_size_is_scaled() -> None:
    large = boxes([drawn([[20, 10, 40, 20]], ["mass"], rows=40, columns=80)], picture(), Modality.IMAGE, ("mass",))
    small = boxes([drawn([[10, 5, 20, 10]], ["mass"])], picture(), Modality.IMAGE, ("mass",))
    np.testing.assert_allclose(large, small, atol=1e-5)
    with pytest.raises(GridError, match=r"a\.json#item=0: .* 40 × 40 on an image of 20 × 40"):
        boxes([drawn([[1, 1, 2, 2]], ["mass"], rows=40, columns=40)], picture(), Modality.IMAGE, ("mass",))


def test_labels_that_nobody_asks_for_are_left_out_and_an_empty_page_is_a_negative_one() -> None:
    assert boxes([drawn([[1, 1, 2, 2]], ["lung"])], picture(), Modality.IMAGE, ("mass",)).shape == (0, 5)
    assert boxes([drawn([], [])], picture(), Modality.IMAGE, ("mass",)).shape == (0, 5)


def test_what_two_files_have_alike_is_one_thing() -> None:
    one = drawn([[10, 5, 20, 10], [30, 0, 40, 10]], ["mass", "mass"])
    other = drawn([[10, 5, 20, 11], [10, 5, 20, 11], [0, 0, 5, 5]], ["mass", "nodule", "mass"])
    found = boxes([one, other], picture(), Modality.IMAGE, ("mass", "nodule"))
    assert found[:, 0].tolist() == [0, 0, 1, 0]  # the first of the other's is the one's; a nodule is no mass


def volume_of(
    shape: tuple[int, int, int] = (6, 10, 12), spacing: tuple[float, float, float] = (3.0, 1.0, 2.0)
) -> Payload:
    """Of (z y x) mm, whose x runs towards the patient's right: the standard grid turns it round."""
    to_world = np.diag([-spacing[2], spacing[1], spacing[0], 1.0])
    to_world[:3, 3] = [40, -30, 7]
    return Payload(np.random.default_rng(1).random((1, *shape)).astype(np.float32), to_world)


def standard_of(source: Payload, size: tuple[int, int, int] = (18, 12, 26)) -> Payload:
    kind = Record("v", "p", None, Modality.VOLUME, "MR", "v.nii")
    return volume.harmonise(source, kind, VolumeStandard(size=size), Fingerprint())


def test_parts_of_a_mask_are_boxes_that_go_back_to_where_they_were() -> None:
    source = volume_of()
    labels = np.zeros((1, 6, 10, 12), np.float32)
    labels[0, 1:3, 2:6, 3:5], labels[0, 4, 8, 9], labels[0, 5, 9, 10] = 1, 1, 1  # the last two touch at a corner
    labels[0, 0, 0, 0] = 7
    payload = standard_of(source)
    found = boxes(
        [(record(None), Payload(labels, source.to_world))], payload, Modality.VOLUME, ("a", "", "", "", "", "", "b")
    )
    assert found[:, 0].tolist() == [0, 0, 1]
    # In the source's own samples: x y z.
    back = [points_back(found[:, 1 + 3 * n : 4 + 3 * n][:, ::-1], payload.history) for n in range(2)]
    low, high = np.minimum(*back), np.maximum(*back)
    order = np.lexsort(low.T)
    np.testing.assert_allclose(low[order], np.array([[-0.5, -0.5, -0.5], [2.5, 1.5, 0.5], [8.5, 7.5, 3.5]]), atol=1e-4)
    np.testing.assert_allclose(high[order], np.array([[0.5, 0.5, 0.5], [4.5, 5.5, 2.5], [10.5, 9.5, 5.5]]), atol=1e-4)
    sides = found[:, 4:] - found[:, 1:4]  # in mm, as the standard's samples are 1 mm
    np.testing.assert_allclose(sides[0], [6, 4, 4], atol=1e-4)
    large = boxes([(record(None), Payload(labels, source.to_world))], payload, Modality.VOLUME, ("a",), least_mm=6.5)
    assert len(large) == 0
    assert (
        len(boxes([(record(None), Payload(labels, source.to_world))], payload, Modality.VOLUME, ("a",), least_mm=6))
        == 2
    )


def test_a_small_part_is_not_lost_where_the_standard_grid_is_coarse() -> None:
    labels = np.zeros((1, 200, 400), np.float32)
    labels[0, 100, 200] = labels[0, 100, 203] = 1
    coarse = image.harmonise(
        Payload(np.random.default_rng(0).random((1, 200, 400))), record(None), STANDARD, Fingerprint()
    )
    found = boxes([(record(None), Payload(labels))], coarse, Modality.IMAGE, ("lesion",))
    assert len(found) == 2, "two pixels of 12.5 a sample are two things"
    np.testing.assert_allclose(found[:, 3] - found[:, 1], 1 / 12.5, atol=1e-5)
    # The same mask at twice the size gives the same boxes, to half a pixel.
    double = boxes([(record(None), Payload(labels.repeat(2, 1).repeat(2, 2)))], coarse, Modality.IMAGE, ("lesion",))
    np.testing.assert_allclose(double, found, atol=1e-5)


def test_names_of_a_masks_numbers_count_where_it_has_them() -> None:
    labels = np.zeros((1, 20, 40), np.float32)
    labels[0, :4, :4], labels[0, 10:14, 10:14] = 1, 2
    named = Payload(labels, names=("mass", "nodule"))
    found = boxes([(record("mask"), named)], picture(), Modality.IMAGE, ("nodule", "mass"))
    assert found[0, 1] > found[1, 1], "the nodule, which lies lower, is the first class"
    assert found[:, 0].tolist() == [0, 1]


def keypoints(rows: list[list[list[float]]], names: tuple[str, ...]) -> tuple[Record, Payload]:
    return record("keypoints"), Payload(np.array(rows, np.float32), names=names)


def test_drawn_points_and_those_that_nobody_labelled() -> None:
    one = keypoints([[[0.5, 0.5, 2], [7, 7, 0], [39.5, 19.5, 1]]], ("tip", "base", "end"))
    found = points([one], picture(), Modality.IMAGE, ("end", "tip", "base", "side"))
    # The middle of the last pixel of the picture is 0.4 of a sample within its edge.
    np.testing.assert_allclose(found, [[23.1, 31.1], [7.9, -0.1], [np.nan] * 2, [np.nan] * 2], atol=1e-5)
    other = keypoints([[[3, 3, 2]]], ("base",))
    assert np.isfinite(points([one, other], picture(), Modality.IMAGE, ("end", "tip", "base"))).all()
    with pytest.raises(GridError, match="2 points 'tip' on an image"):
        points([keypoints([[[1, 1, 2]], [[2, 2, 2]]], ("tip",))], picture(), Modality.IMAGE, ("tip",))


@given(st.integers(0, 5), st.integers(0, 9), st.integers(0, 11))
@settings(max_examples=20, deadline=None)
def test_the_centre_of_a_label_goes_back_to_where_it_was(z: int, y: int, x: int) -> None:
    source = volume_of()
    labels = np.zeros((1, 6, 10, 12), np.float32)
    labels[0, z, y, x] = 2
    payload = standard_of(source)
    found = points([(record(None), Payload(labels, source.to_world))], payload, Modality.VOLUME, ("a", "b"))
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(points_back(found[1:, ::-1], payload.history), [[x, y, z]], atol=1e-4)
