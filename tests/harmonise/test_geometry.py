"""The way to the standard grid and back (invariant 3), for oblique, flipped, permuted and anisotropic volumes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from polyclinic import records
from polyclinic.harmonise import (
    Fingerprint,
    ImageStandard,
    VolumeStandard,
    harmonise,
    points_back,
    points_forth,
    way_back,
)
from polyclinic.harmonise.geometry import fills, finite, nearest_axes, parallel, sheared, spacing_of
from polyclinic.harmonise.image import harmonise_mask as image_mask
from polyclinic.harmonise.resampling import resample, resample_labels, taps
from polyclinic.harmonise.volume import harmonise_mask
from polyclinic.schema import Modality, Payload, Record

VOLUME = Record("v", "P", None, Modality.VOLUME, "MR head", "v")
NOTHING = Fingerprint()
angles = st.tuples(*[st.floats(-180, 180)] * 3)
flips = st.tuples(*[st.sampled_from([1, -1])] * 3)
orders = st.permutations([0, 1, 2])


def world(turn: tuple[float, ...], spacing: tuple[float, ...], flip: tuple[int, ...], order: list[int]) -> np.ndarray:
    """A 4x4 of any rotation, with flipped and permuted axes."""
    matrix = np.eye(4)
    matrix[:3, :3] = (Rotation.from_euler("xyz", turn, degrees=True).as_matrix() * flip * spacing)[:, order]
    matrix[:3, 3] = 11.5, -20, 33
    return matrix


def blob(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Two ellipsoids, labelled 1 and 2, as in an organ map."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    draw = np.random.default_rng(seed)
    labels = np.zeros(shape, np.float32)
    for number in (1, 2):
        centre, radius = draw.uniform(-0.3, 0.3, 3), draw.uniform(0.45, 0.6, 3)
        labels[(((grid.T - centre) / radius) ** 2).sum(-1).T < 1] = number
    return labels


def dice(one: np.ndarray, other: np.ndarray, label: int) -> float:
    return 2 * ((one == label) & (other == label)).sum() / ((one == label).sum() + (other == label).sum())


@settings(max_examples=25, deadline=None)
@given(
    turn=angles, flip=flips, order=orders, seed=st.integers(0, 99),
    shape=st.tuples(*[st.integers(14, 26)] * 3), spacing=st.tuples(*[st.floats(1.0, 3.0)] * 3),
)  # fmt: skip
def test_a_mask_comes_back_to_its_source(
    turn: tuple[float, ...],
    flip: tuple[int, ...],
    order: list[int],
    seed: int,
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
) -> None:
    labels = blob(shape, seed)
    to_world = world(turn, spacing, flip, order)
    standard = VolumeStandard(spacing_mm=(1.0, 1.0, 1.0), size=(80, 80, 80))
    image = harmonise(Payload(labels[None] * 100, to_world), VOLUME, standard, NOTHING)
    mask = harmonise_mask(Payload(labels[None], to_world), image, standard)
    assert mask.shape == image.array.shape[1:] == (80, 80, 80)
    back = way_back(mask, image.history)
    assert back.shape == labels.shape
    assert np.array_equal(back, labels)  # the invariant asks for Dice 0.98; to the voxel is what is given


@settings(max_examples=15, deadline=None)
@given(turn=angles, flip=flips, order=orders, seed=st.integers(0, 99), spacing=st.tuples(*[st.floats(0.4, 1.0)] * 3))
def test_from_a_coarser_grid_a_mask_comes_back_nearly(
    turn: tuple[float, ...], flip: tuple[int, ...], order: list[int], seed: int, spacing: tuple[float, ...]
) -> None:
    # Of exactly two voxels to one, a border's halves are a tie, which the background wins: it is pulled in by half a voxel.
    assume(all(abs(mm - 0.5) > 1e-3 for mm in spacing))
    labels = (blob((60, 60, 60), seed) > 0).astype(np.float32)
    to_world = world(turn, spacing, flip, order)
    standard = VolumeStandard(spacing_mm=(1.0, 1.0, 1.0), size=(64, 64, 64))
    image = harmonise(Payload(labels[None] * 100, to_world), VOLUME, standard, NOTHING)
    back = way_back(harmonise_mask(Payload(labels[None], to_world), image, standard), image.history)
    assert dice(back, labels, 1) >= 0.95
    assert back.sum() == pytest.approx(labels.sum(), rel=0.04)


@settings(max_examples=40, deadline=None)
@given(
    turn=angles,
    flip=flips,
    order=orders,
    spacing=st.tuples(*[st.floats(0.2, 8)] * 3),
    step=st.tuples(*[st.floats(0.5, 4)] * 3),
)
def test_a_point_comes_back_and_stays_where_it_is_in_the_patient(
    turn: tuple[float, ...],
    flip: tuple[int, ...],
    order: list[int],
    spacing: tuple[float, ...],
    step: tuple[float, float, float],
) -> None:
    to_world = world(turn, spacing, flip, order)
    image = harmonise(
        Payload(np.random.default_rng(0).normal(size=(1, 9, 8, 7)), to_world),
        VOLUME,
        VolumeStandard(spacing_mm=step, size=(16, 17, 18)),
        NOTHING,
    )
    points = np.array([(0, 0, 0), (6, 7, 8), (3, 4.5, 1)], float)
    forth = points_forth(points, image.history)
    assert np.allclose(points_back(forth, image.history), points, atol=1e-6)
    assert image.to_world is not None
    at = lambda matrix, index: (np.concatenate([index, np.ones((len(index), 1))], axis=1) @ matrix.T)[:, :3]
    assert np.allclose(at(image.to_world, forth), at(to_world, points), atol=1e-6)
    assert np.allclose(spacing_of(image.to_world), step[::-1])
    assert not image.nominal


@settings(max_examples=25, deadline=None)
@given(turn=st.tuples(*[st.floats(-40, 40)] * 3), flip=flips, order=orders)
def test_the_standard_grid_lies_nearest_to_the_patients_axes(
    turn: tuple[float, ...], flip: tuple[int, ...], order: list[int]
) -> None:
    image = harmonise(
        Payload(np.zeros((1, 5, 6, 7)), world(turn, (1, 1, 1), flip, order)), VOLUME, VolumeStandard(), NOTHING
    )
    assert image.to_world is not None
    cosines = image.to_world[:3, :3] / spacing_of(image.to_world)
    assert nearest_axes(image.to_world) == ((0, 1, 2), (1, 1, 1))
    assert (np.diag(cosines) > 0.4).all()


@settings(max_examples=20, deadline=None)
@given(turn=angles, flip=flips, order=orders, spacing=st.tuples(*[st.floats(1.1, 3.3)] * 3), fill=st.booleans())
def test_upsampling_is_itks_linear_interpolation(
    turn: tuple[float, ...], flip: tuple[int, ...], order: list[int], spacing: tuple[float, ...], fill: bool
) -> None:
    array = gaussian_filter(np.random.default_rng(1).normal(size=(9, 8, 7)), 1).astype(np.float32) * 100
    to_world = world(turn, spacing, flip, order)
    standard = VolumeStandard(spacing_mm=(1.0, 1.0, 1.0), size=(30, 28, 26))
    image = harmonise(
        Payload(array[None], to_world), Record("v", "P", None, Modality.VOLUME, "CT", "v"), standard, NOTHING
    )
    source = SimpleITK.GetImageFromArray(np.clip(array / 500, -2, 2))
    source.SetSpacing(spacing_of(to_world).tolist())
    source.SetDirection((to_world[:3, :3] / spacing_of(to_world)).reshape(-1).tolist())
    source.SetOrigin(to_world[:3, 3].tolist())
    assert image.to_world is not None
    found = SimpleITK.Resample(
        source, [26, 28, 30], SimpleITK.Transform(), SimpleITK.sitkLinear, image.to_world[:3, 3].tolist(),
        spacing_of(image.to_world).tolist(), (image.to_world[:3, :3] / spacing_of(image.to_world)).reshape(-1).tolist(),
        -2.0,  # air
    )  # fmt: skip
    off = np.abs(SimpleITK.GetArrayFromImage(found) - image.array[0])
    assert (off > 1e-4).mean() < 0.002  # a voxel on the very border may fall to either side
    assert off.mean() < 1e-4


def test_a_coarser_grid_averages() -> None:
    ramp = np.broadcast_to(np.arange(40, dtype=np.float32), (1, 3, 3, 40))
    shrink = np.diag([4.0, 1.0, 1.0, 1.0])
    shrink[0, 3] = 1.5
    small = resample(ramp, shrink, (3, 3, 10))
    assert np.allclose(small[0, 1, 1, 1:-1], np.arange(1.5, 40, 4)[1:-1])  # a ramp stays a ramp
    noise = np.random.default_rng(0).normal(size=(1, 3, 3, 4000)).astype(np.float32)
    assert (
        resample(noise, shrink, (3, 3, 1000)).std() < 0.5
    )  # and noise is averaged, where picking would keep all of it
    assert np.allclose(resample(np.full((1, 3, 3, 40), 7.0), shrink, (3, 3, 10)), 7.0)


def test_a_crop_by_whole_voxels_blurs_nothing() -> None:
    array = np.random.default_rng(0).normal(size=(1, 9, 10, 11)).astype(np.float32)
    image = harmonise(Payload(array, np.diag([-1.0, 1, 1, 1])), VOLUME, VolumeStandard(size=(6, 5, 4)), NOTHING)
    inside = harmonise(
        Payload(array, np.diag([-1.0, 1, 1, 1])), VOLUME, VolumeStandard(size=(9, 10, 11)), NOTHING
    ).array
    assert np.allclose(inside[0], inside[0])
    found = {round(float(v), 5) for v in image.array.reshape(-1)}
    assert found <= {round(float(v), 5) for v in inside.reshape(-1)}


def test_outside_of_the_source_there_is_nothing() -> None:
    labels = np.ones((4, 4, 4))
    away = np.eye(4)
    away[:3, 3] = 100
    assert (resample_labels(labels, away, (5, 5, 5)) == 0).all()
    assert (resample(labels[None], away, (5, 5, 5), fill=-3.0) == -3).all()
    assert (resample_labels(np.zeros((4, 4, 4)), np.eye(4), (5, 5, 5)) == 0).all()


def test_labels_of_one_voxel_and_many_classes_survive_a_finer_grid_and_back() -> None:
    labels = np.random.default_rng(0).integers(0, 118, (6, 6, 6)).astype(float)
    fine = np.diag([0.25, 0.25, 0.25, 1.0])
    fine[:3, 3] = -0.375
    up = resample_labels(labels, fine, (24, 24, 24))
    assert np.array_equal(resample_labels(up, np.linalg.inv(fine), (6, 6, 6)), labels)


def test_real_masks_come_back(hospital: Path) -> None:
    standard = VolumeStandard(size=(40, 56, 40))
    worst = 1.0
    for path in sorted((hospital / "neurology/hippocampus/images").iterdir())[::6]:
        (image_record,) = records.read(path)
        (mask_record,) = records.read(path.parents[1] / "labels" / path.name)
        assert isinstance(image_record, Record)
        assert isinstance(mask_record, Record)
        source = records.load(mask_record, path.parents[1] / "labels")
        image = harmonise(records.load(image_record, path.parent), image_record, standard, NOTHING)
        back = way_back(harmonise_mask(source, image, standard), image.history)
        worst = min(worst, *(dice(back, np.rint(source.array[0]), label) for label in (1, 2)))
    assert worst >= 0.98


def test_a_real_organ_map_of_thirty_classes_comes_back(shared_data: Path) -> None:
    folder = shared_data / "ct-organs"
    (image_record,) = records.read(folder / "example_ct_sm.nii.gz")
    (mask_record,) = records.read(folder / "example_seg.nii.gz")
    assert isinstance(image_record, Record)
    assert isinstance(mask_record, Record)
    standard = VolumeStandard(spacing_mm=(3.0, 3.0, 3.0), size=(32, 112, 128))
    source = records.load(mask_record, folder)
    image = harmonise(records.load(image_record, folder), image_record, standard, NOTHING)
    back = way_back(harmonise_mask(source, image, standard), image.history)
    labels = np.rint(source.array[0])
    assert len(np.unique(labels)) > 20
    assert all(dice(back, labels, int(n)) >= 0.98 for n in np.unique(labels) if n)


@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(20, 90),
    columns=st.integers(20, 90),
    scale=st.tuples(st.floats(0.2, 1.5), st.floats(0.2, 1.5)),
    known=st.booleans(),
)
def test_a_picture_and_its_mask_come_back(rows: int, columns: int, scale: tuple[float, float], known: bool) -> None:
    to_world = np.diag([scale[0], scale[1], 1.0, 1.0]) if known else None
    labels = np.zeros((rows, columns), np.float32)
    labels[rows // 5 : rows - rows // 5, columns // 4 : columns - columns // 5] = 1
    standard = ImageStandard(size=512)
    image = harmonise(
        Payload(labels[None] * 9, to_world), Record("i", "P", None, Modality.IMAGE, "CR chest", "i"), standard, NOTHING
    )
    assert image.nominal is not known
    back = way_back(image_mask(Payload(labels[None]), image, standard), image.history)
    assert back.shape == labels.shape
    assert dice(back, labels, 1) >= 0.98
    points = np.array([(0, 0, 0), (columns - 1, rows - 1, 0)], float)
    assert np.allclose(points_back(points_forth(points, image.history), image.history), points, atol=1e-6)


def test_a_map_of_values_comes_back_too() -> None:
    smooth = gaussian_filter(np.random.default_rng(0).normal(size=(12, 12, 12)), 2)
    image = harmonise(
        Payload(smooth[None], np.diag([2.0, 2, 2, 1])), VOLUME, VolumeStandard(size=(32, 32, 32)), NOTHING
    )
    back = way_back(image.array[0], image.history, labels=False)
    assert np.corrcoef(back.reshape(-1), smooth.reshape(-1))[0, 1] > 0.97


def test_which_grids_are_parallel_and_fill_one_box() -> None:
    flip = np.diag([-0.5, 2.0, 1.0, 1.0])
    flip[:3, 3] = (9.5 - 0.5) * 0.5 + 0.25, 0.5, 0.0
    assert parallel(flip)
    assert parallel(flip[:, [1, 0, 2, 3]])
    assert not parallel(
        np.block(
            [
                [Rotation.from_euler("x", 3, degrees=True).as_matrix(), np.zeros((3, 1))],
                [np.zeros((1, 3)), np.ones((1, 1))],
            ]
        )
    )
    assert fills(np.eye(4), (4, 5, 6), (4, 5, 6))
    turned = np.diag([-1.0, 1, 1, 1])
    turned[0, 3] = 5
    assert fills(turned, (4, 5, 6), (4, 5, 6))
    turned[0, 3] = 8
    assert not fills(turned, (4, 5, 6), (4, 5, 6))
    assert not fills(np.eye(4), (4, 5, 6), (4, 5, 9))


def test_what_is_no_number_is_background() -> None:
    array = np.array([[np.nan, 2.0], [np.inf, 5.0]])
    assert finite(array).tolist() == [[2.0, 2.0], [2.0, 5.0]]
    assert finite(np.full((2, 2), np.nan)).tolist() == [[0, 0], [0, 0]]
    assert finite(np.ones((2, 2))).sum() == 4


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 30, 30), (30, 1, 2)])
def test_a_volume_of_one_slice_has_its_way_too(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).normal(size=(1, *shape))
    image = harmonise(Payload(array, np.diag([1.0, 1, 5, 1])), VOLUME, VolumeStandard(size=(8, 8, 8)), NOTHING)
    assert np.isfinite(image.array).all()
    assert way_back(np.zeros((8, 8, 8)), image.history).shape == shape


def test_each_label_by_its_own_box_is_what_all_together_would_be() -> None:
    labels = blob((30, 28, 26), 3) + 4 * (blob((30, 28, 26), 7) == 1)
    to_source = np.diag([1.7, -1.3, 1.2, 1.0])
    to_source[:3, 3] = -2.2, 27.4, 1.1
    present = np.unique(labels[labels > 0])
    shares = resample((labels[None] == present.reshape(-1, 1, 1, 1)).astype(np.float32), to_source, (25, 21, 18))
    best = shares.argmax(axis=0)
    expected = np.where(shares.max(axis=0) > 1 - shares.sum(axis=0), present[best], 0)
    found = resample_labels(labels, to_source, (25, 21, 18))
    assert len(present) > 3
    assert (found != expected).mean() < 1e-3  # where two have the same share


def tilted(degrees: float, spacing: tuple[float, float, float] = (1.0, 1.0, 2.0)) -> np.ndarray:
    """A CT of a gantry tilted about x: the slices' normal leans, the table moves along S."""
    angle = np.radians(degrees)
    matrix = np.eye(4)
    matrix[:3, 0] = spacing[0], 0, 0
    matrix[:3, 1] = 0, spacing[1] * np.cos(angle), -spacing[1] * np.sin(angle)
    matrix[:3, 2] = 0, 0, spacing[2]
    matrix[:3, 3] = -20, 5, 100
    return matrix


@pytest.mark.parametrize("degrees", [-25.0, -5.0, 0.5, 12.0, 30.0])
def test_a_tilted_gantry_is_straightened_where_it_lies(degrees: float) -> None:
    to_world = tilted(degrees)
    assert sheared(to_world)
    shape = (40, 44, 36)
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")[::-1], -1).reshape(-1, 3)
    world_of = lambda matrix, index: index @ matrix[:3, :3].T + matrix[:3, 3]
    centre = world_of(to_world, (np.array(shape[::-1]) - 1) / 2)
    ball = lambda points: np.exp(-(((points - centre) / 9.0) ** 2).sum(-1))
    source = Payload(ball(world_of(to_world, places)).reshape(1, *shape) * 900 - 1000, to_world)
    size = (40, 40, 40)
    standard = VolumeStandard(spacing_mm=(1.0, 1.0, 1.0), size=size)
    image = harmonise(source, replace(VOLUME, kind="CT"), standard, NOTHING)
    assert image.to_world is not None
    assert not sheared(image.to_world)
    new = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij")[::-1], -1).reshape(-1, 3)
    expected = ball(world_of(image.to_world, new))
    assert np.corrcoef(expected, image.array.reshape(-1))[0, 1] > 0.999  # a ball stays a ball, at its place in mm
    points = np.random.default_rng(0).uniform(0, 30, (20, 3))
    assert np.abs(points_back(points_forth(points, image.history), image.history) - points).max() < 1e-6
    mask = (source.array > -700).astype(np.float32)
    back = way_back(harmonise_mask(Payload(mask, to_world), image, standard), image.history)
    assert dice(back, mask[0], 1) > (
        0.98 if abs(degrees) < 30 else 0.96
    )  # no grid of 1 mm keeps a border that crosses it so


@settings(max_examples=15, deadline=None)
@given(turn=st.tuples(*[st.floats(5, 85)] * 3), order=st.sampled_from([0, 1]))
def test_a_grid_that_lies_askew_is_what_itk_makes_of_it(turn: tuple[float, ...], order: int) -> None:
    array = gaussian_filter(np.random.default_rng(1).normal(size=(12, 14, 10)), 1).astype(np.float32)
    to_source = np.eye(4)
    to_source[:3, :3] = Rotation.from_euler("xyz", turn, degrees=True).as_matrix() * 0.8
    to_source[:3, 3] = 4.5, 6.5, 5.5
    to_source[:3, 3] -= to_source[:3, :3] @ np.array([4.0, 5.0, 6.0])
    ours = resample(array[None], to_source, (13, 11, 9), order, fill=-7.0)[0]
    scale = np.linalg.norm(to_source[:3, 0])
    how = SimpleITK.sitkLinear if order else SimpleITK.sitkNearestNeighbor
    theirs = SimpleITK.Resample(
        SimpleITK.GetImageFromArray(array), [9, 11, 13], SimpleITK.Transform(), how, to_source[:3, 3].tolist(), [scale] * 3,
        (to_source[:3, :3] / scale).reshape(-1).tolist(), -7.0,
    )  # fmt: skip
    off = np.abs(SimpleITK.GetArrayFromImage(theirs) - ours)
    assert (off > 1e-4).mean() < 0.02  # on the border, and between two nearest, a voxel may fall to either side


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(1, 30), count=st.integers(1, 30), start=st.floats(-5, 35), step=st.floats(-3, 3), average=st.booleans()
)  # fmt: skip
def test_the_samples_that_count_are_a_triangles(
    length: int, count: int, start: float, step: float, average: bool
) -> None:
    assume(abs(step) > 1e-3)
    sources = start + step * np.arange(count)
    index, weight = taps(sources, length, 1, average)
    dense = np.zeros((count, length))
    np.add.at(dense, (np.arange(count)[:, None], index), weight)
    width = max(1.0, abs(step)) if average and count > 1 else 1.0
    expected = np.clip(1 - np.abs(np.clip(sources, 0, length - 1)[:, None] - np.arange(length)) / width, 0, None)
    assert np.allclose(dense, expected / expected.sum(axis=1, keepdims=True), atol=1e-5)
