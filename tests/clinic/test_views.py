"""What a person sees is where it is in the patient, whatever the file's axes; the reference for turning is SimpleITK."""

from __future__ import annotations

import base64
from io import BytesIO
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial.transform import Rotation

from polyclinic import records
from polyclinic.clinic.levels import robust_window
from polyclinic.clinic.reply import Edges, View
from polyclinic.clinic.views import (
    FEW_SLICES,
    LARGEST_PX,
    MOST_SLICES,
    colour,
    overlay_of,
    stack_of,
    unread,
    view_of,
)
from polyclinic.schema import Modality, Payload, Record

RADIOLOGICAL = Edges(left="R", right="L", top="A", bottom="P")
TURNS = [
    np.eye(3)[:, list(order)] * np.array(signs)
    for order in permutations(range(3))
    for signs in product((1, -1), repeat=3)
]


def record(kind: str = "MR brain", modality: Modality = Modality.VOLUME, **attributes: str | bool) -> Record:
    return Record("0" * 32, "p", None, modality, kind, "x", attributes=attributes)


def affine(turn: np.ndarray, spacing: tuple[float, float, float], origin: tuple[float, float, float]) -> np.ndarray:
    made = np.eye(4)
    made[:3, :3] = turn * np.array(spacing)
    made[:3, 3] = origin
    return made


def reference(array: np.ndarray, to_world: np.ndarray) -> np.ndarray:
    """(z y x) turned to L, P, S by SimpleITK."""
    image = sitk.GetImageFromArray(array)
    spacing = np.linalg.norm(to_world[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((to_world[:3, :3] / spacing).flatten().tolist())
    image.SetOrigin(to_world[:3, 3].tolist())
    return sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS"))


def decoded(png: str | None) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(base64.b64decode(png or ""))))


def seen(view: View) -> tuple[np.ndarray, np.ndarray]:
    """The grey pictures and the labels of a view, (n y x)."""
    grey = np.stack([decoded(s.image) for s in view.slices])
    labels = [np.zeros(grey.shape[1:], np.uint8) if s.mask is None else decoded(s.mask) for s in view.slices]
    return grey, np.stack(labels)


@pytest.mark.parametrize("turn", TURNS)
def test_the_patients_right_is_on_the_viewers_left_however_the_file_lies(turn: np.ndarray) -> None:
    # A marker in the patient's left, front, upper part (LPS: +, -, +) of a volume centred on the origin.
    to_world = affine(turn, (1.0, 2.0, 3.0), (0, 0, 0))
    shape = np.array([12, 10, 8])  # x y z
    to_world[:3, 3] = -to_world[:3, :3] @ ((shape - 1) / 2)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape[::-1]), indexing="ij"))[::-1].reshape(3, -1)
    world = to_world[:3, :3] @ index + to_world[:3, 3:]
    inside = ((world * np.array([[1], [-1], [1]])) > 3).all(0).reshape(shape[::-1])
    assert inside.any()
    stack = stack_of(record(), Payload(inside[None].astype(np.float32), to_world))
    n, y, x = (
        places.mean() / (size - 1) for places, size in zip(np.nonzero(stack.values), stack.values.shape, strict=True)
    )
    assert x > 0.5, "patient's left is on the viewer's right"
    assert y < 0.5, "the front is on top"
    assert n > 0.5, "the head is last"
    assert stack.edges == RADIOLOGICAL
    np.testing.assert_array_equal(stack.values, reference(inside.astype(np.float32), to_world))


@settings(max_examples=25, deadline=None)
@given(
    turn=st.sampled_from(TURNS),
    tilt=st.tuples(*[st.floats(-25, 25)] * 3),
    spacing=st.tuples(*[st.floats(0.4, 5)] * 3),
    shape=st.tuples(*[st.integers(2, 9)] * 3),
)
def test_oblique_volumes_are_turned_as_simpleitk_turns_them(
    turn: np.ndarray, tilt: tuple[float, float, float], spacing: tuple[float, float, float], shape: tuple[int, int, int]
) -> None:
    rotation = Rotation.from_euler("xyz", tilt, degrees=True).as_matrix()
    to_world = affine(rotation @ turn, spacing, (10, -20, 30))
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    mask = (array.astype(int) % 3).astype(np.int64)
    stack = stack_of(record(), Payload(array[None], to_world), mask)
    np.testing.assert_array_equal(stack.values, reference(array, to_world))
    np.testing.assert_array_equal(stack.mask, reference(mask, to_world))


@pytest.mark.parametrize(("degrees", "oblique"), [(0, False), (10, False), (20, True), (40, True)])
def test_a_tilt_is_told(degrees: float, oblique: bool) -> None:
    to_world = affine(Rotation.from_euler("x", degrees, degrees=True).as_matrix(), (1, 1, 1), (0, 0, 0))
    view = view_of(stack_of(record(), Payload(np.zeros((1, 3, 4, 5)), to_world)), record(), "a.nii")
    assert ("oblique" in view.note) is oblique


@pytest.mark.parametrize("turn", TURNS[::7])
def test_a_mask_comes_to_lie_on_its_picture(turn: np.ndarray) -> None:
    # The grey values are the labels, so picture and mask must show the same thing at the same place.
    labels = np.random.default_rng(0).integers(0, 3, (7, 9, 11))
    to_world = affine(turn, (1, 1, 1), (5, 5, 5))
    view = view_of(stack_of(record(), Payload(labels[None].astype(np.float32), to_world), labels), record(), "a.nii")
    grey, drawn = seen(view)
    np.testing.assert_array_equal(drawn, reference(labels.astype(np.uint8), to_world))
    np.testing.assert_array_equal(grey, np.array([0, 128, 255], np.uint8)[drawn])
    assert drawn[view.start].astype(bool).sum() == max(d.astype(bool).sum() for d in drawn)


@pytest.mark.parametrize("code", ["LPS", "RAS", "PIR", "ASL"])
def test_a_nifti_file_of_any_orientation_shows_the_marker_on_the_patients_left(tmp_path: Path, code: str) -> None:
    ras = np.zeros((12, 14, 16), np.float32)
    ras[1:3, 10:12, 12:14] = 100  # left (low x), front (high y), up (high z)
    image = nibabel.Nifti1Image(ras, np.diag([2.0, 2.0, 2.0, 1.0]))
    turned: Any = image.as_reoriented(
        nibabel.orientations.ornt_transform(  # type: ignore[arg-type]
            nibabel.orientations.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(tuple(code))
        )
    )
    assert nibabel.orientations.aff2axcodes(turned.affine) == tuple(code)
    nibabel.save(turned, tmp_path / "marker.nii.gz")
    (item,) = records.read(tmp_path / "marker.nii.gz")
    assert isinstance(item, Record)
    grey, _ = seen(view_of(stack_of(item, records.load(item, tmp_path)), item, "marker.nii.gz"))
    n, y, x = np.argwhere(grey == 255).mean(0)
    assert (x, y, n) == (12 - 1 - 1.5, 14 - 1 - 10.5, 12.5)


def test_pixels_are_square_and_the_scale_is_true() -> None:
    # A cube of 24 mm in voxels of 1 x 2 x 4 mm.
    array = np.zeros((12, 24, 40), np.float32)
    array[3:9, 6:18, 8:32] = 1
    mask = array.astype(np.int64)
    view = view_of(stack_of(record(), Payload(array[None], np.diag([1.0, 2.0, 4.0, 1.0])), mask), record(), "a.nii")
    _, drawn = seen(view)
    rows, columns = np.nonzero(drawn[view.start])
    assert view.pixel_mm == pytest.approx(1.0)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (24, 24)
    assert view.scale == "1.00 × 2.00 mm a sample, slices 4.00 mm apart"
    assert sum(s.mask is not None for s in view.slices) == 6


def test_a_large_picture_is_shrunk_with_its_scale() -> None:
    xray = record("CR chest PA", Modality.IMAGE)
    view = view_of(stack_of(xray, Payload(np.zeros((1, 1000, 2048)), np.diag([0.14, 0.14, 1.0, 1.0]))), xray, "a.dcm")
    assert decoded(view.slices[0].image).shape == (250, 512)
    assert view.pixel_mm == pytest.approx(0.14 * 2048 / 512)
    assert "smaller" in view.note


def test_a_tall_stack_is_thinned_and_says_so_but_keeps_the_slice_with_the_answer() -> None:
    array = np.zeros((1, 700, 20, 30), np.float32)
    mask = np.zeros((700, 20, 30), np.int64)
    mask[501, 3:9, 4:12] = 1
    assert 501 not in np.linspace(0, 699, MOST_SLICES).round()
    view = view_of(stack_of(record(), Payload(array, np.eye(4)), mask), record(), "a.nii")
    assert view.of == 700
    assert len(view.slices) <= MOST_SLICES + 1
    assert view.slices[view.start].place == 502
    assert decoded(view.slices[view.start].mask or "").sum() == 48
    assert f"{len(view.slices)} of the 700 slices" in view.note
    assert [s.place for s in view.slices] == sorted({s.place for s in view.slices})


@pytest.mark.parametrize("count", [FEW_SLICES, FEW_SLICES + 1, MOST_SLICES])
def test_a_stack_of_bearable_height_is_whole(count: int) -> None:
    stack = stack_of(record(), Payload(np.zeros((1, count, 600, 600), np.uint8), np.eye(4)))
    assert stack.chosen.tolist() == list(range(count))
    assert max(stack.size) == (LARGEST_PX if count <= FEW_SLICES else LARGEST_PX // 2)


def test_ct_is_shown_by_its_units_and_anything_else_by_its_own_range() -> None:
    ramp = np.array([[-1000.0, -160, 40.0, 240, 3000.0]])
    ct = view_of(stack_of(record("CT abdomen"), Payload(ramp[None, None], np.eye(4))), record("CT abdomen"), "a")
    assert decoded(ct.slices[0].image).tolist() == [[0, 0, 128, 255, 255]]
    mr = view_of(stack_of(record(), Payload(ramp[None, None], np.eye(4))), record(), "a")
    grey = decoded(mr.slices[0].image)[0].tolist()
    assert grey == sorted(grey)
    assert (grey[0], grey[-1]) == (0, 255)
    assert mr.note == ""


def test_voxels_that_are_no_numbers_are_black_and_do_not_set_the_window() -> None:
    array = np.linspace(0, 1, 101)[None].repeat(3, 0)
    array[1, 5], array[1, 6], array[1, 7] = np.nan, np.inf, -np.inf
    low, high = robust_window(array)
    assert (low, high) == pytest.approx((0.005, 0.995), abs=0.01)
    grey = decoded(view_of(stack_of(record(), Payload(array[None, None], np.eye(4))), record(), "a").slices[0].image)
    assert grey[1, 5] == 0
    assert grey[1, 100] == 255


def test_the_window_of_a_large_array_is_that_of_all_of_it() -> None:
    # Its rows are a power of two long: every n-th sample would be the edge, which is unlike the rest.
    array = np.random.default_rng(1).normal(0, 1, (4096, 1024)).astype(np.float32)
    array[:, 0] = 1000
    assert robust_window(array) == pytest.approx(tuple(np.percentile(array, [0.5, 99.5])), abs=0.1)


def test_a_volume_without_geometry_has_neither_letters_nor_scale() -> None:
    view = view_of(stack_of(record(), Payload(np.zeros((1, 3, 4, 5)), None)), record(), "a")
    assert (view.edges, view.pixel_mm, view.scale) == (None, None, "the file has no scale")


def test_a_volume_that_does_not_say_how_the_patient_lay_has_no_letters() -> None:
    silent = record(oriented=False)
    view = view_of(stack_of(silent, Payload(np.zeros((1, 3, 4, 5)), np.diag([-1.0, 1.0, 1.0, 1.0]))), silent, "a")
    assert view.edges is None
    assert view.pixel_mm == 1.0


def test_an_image_in_colours_is_shown_in_them_with_the_mask_over_it() -> None:
    retina = record("OP", Modality.IMAGE)
    array = np.zeros((3, 40, 60), np.float32)
    array[0], array[1, :, 30:], array[2, 20:] = 200, 100, 50
    mask = np.zeros((40, 60), np.int64)
    mask[5:9, 5:9] = 1
    stack = stack_of(retina, Payload(array), mask)
    shown = decoded(view_of(stack, retina, "eye.png").slices[0].image)
    assert shown.shape == (40, 60, 3)
    red, green, blue = shown[35, 50].tolist()
    assert (red, green / red, blue / red) == (255, pytest.approx(0.5, abs=0.01), pytest.approx(0.25, abs=0.01))
    assert shown[5, 5].tolist() == [255, 0, 0]
    drawn = decoded(overlay_of(stack))
    assert (drawn != shown).any(axis=2).sum() == 16


@pytest.mark.parametrize(
    ("said", "edges"),
    [
        ("L\\F", Edges(left="R", right="L", top="H", bottom="F")),
        ("A\\F", Edges(left="P", right="A", top="H", bottom="F")),
        ("LA\\FP", Edges(left="RP", right="LA", top="HA", bottom="FP")),
        ("", None),
        ("L", None),
        ("LE\\DI", None),  # of a paw: PS3.3 has other letters for quadrupeds
    ],
)
def test_the_letters_of_a_radiograph_are_what_its_file_says(said: str, edges: Edges | None) -> None:
    xray = record("CR chest PA", Modality.IMAGE, orientation=said)
    assert stack_of(xray, Payload(np.zeros((1, 4, 5)), np.diag([0.1, 0.1, 1.0, 1.0]))).edges == edges


def test_the_letters_of_a_single_slice_come_from_its_plane() -> None:
    coronal = np.eye(4)
    coronal[:3, 0], coronal[:3, 1], coronal[:3, 2] = (1, 0, 0), (0, 0, -1), (0, 1, 0)
    slice_ = record("MR knee", Modality.IMAGE)
    edges = stack_of(slice_, Payload(np.zeros((1, 4, 5)), coronal)).edges
    assert edges == Edges(left="R", right="L", top="H", bottom="F")
    flipped = affine(np.diag([-1.0, 1, -1]), (0.5, 0.5, 1), (7, 8, 9))
    edges = stack_of(slice_, Payload(np.zeros((1, 4, 5)), flipped)).edges
    assert edges == Edges(left="L", right="R", top="A", bottom="P")


def test_the_overlay_is_the_fullest_slice_with_the_mask_in_its_colours() -> None:
    mask = np.zeros((3, 4, 4), np.int64)
    mask[1, 1, 1], mask[1, 2, 2], mask[2, 0, 0] = 1, 2, 1
    stack = stack_of(record(), Payload(np.zeros((1, 3, 4, 4), np.float32), np.eye(4)), mask)
    rgb = decoded(overlay_of(stack))
    for number, place in ((1, (1, 1)), (2, (2, 2))):
        tint = [int(colour(number)[i : i + 2], 16) for i in (1, 3, 5)]
        np.testing.assert_allclose(rgb[place], np.array(tint) / 2, atol=1)  # half of it, on black
    assert np.argwhere(rgb.any(2)).tolist() == [[1, 1], [2, 2]]


def test_structures_have_colours_that_differ_until_there_are_too_many() -> None:
    assert len({colour(n) for n in range(1, 8)}) == 7
    assert colour(8) == colour(1)


def test_what_the_model_did_not_look_at_is_told() -> None:
    grid = ((1.0, 1.0, 1.0), (40, 56, 40))
    assert unread(Payload(np.zeros((1, 40, 56, 40))), *grid) == ""
    assert unread(Payload(np.zeros((1, 35, 50, 41)), np.eye(4)), *grid) == ""
    sagittal = affine(np.eye(3)[:, [1, 2, 0]], (1.0, 1.0, 3.0), (0, 0, 0))  # x towards P, y towards S, z towards L
    told = unread(Payload(np.zeros((1, 50, 240, 200)), sagittal), *grid)
    assert "40 × 56 × 40 mm of these 150 × 200 × 240 mm" in told
