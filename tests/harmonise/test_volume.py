from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from polyclinic import records
from polyclinic.harmonise import Fingerprint, GridError, VolumeStandard, harmonise
from polyclinic.harmonise.geometry import spacing_of
from polyclinic.harmonise.volume import harmonise_mask, standardise
from polyclinic.schema import Modality, Payload, Record

NOTHING = Fingerprint()
MR = Record("v", "P", None, Modality.VOLUME, "MR head", "v")
CT = Record("v", "P", None, Modality.VOLUME, "CT abdomen", "v")
STANDARD = VolumeStandard(size=(12, 12, 12))


def test_hounsfield_units_are_kept_within_a_window() -> None:
    hu = np.array([[[[-2000.0, -1000, 0, 40, 500, 1000, 3000]]]])
    assert standardise(hu, hounsfield=True).reshape(-1).tolist() == pytest.approx([-2, -2, 0, 0.08, 1, 2, 2])


def test_other_intensities_are_standardised_by_what_is_not_background() -> None:
    draw = np.random.default_rng(0)
    volume = np.zeros((1, 20, 20, 20))
    volume[:, 5:15, 5:15, 5:15] = draw.normal(300, 40, (1, 10, 10, 10))
    body = standardise(volume, hounsfield=False)[:, 5:15, 5:15, 5:15]
    assert abs(body.mean()) < 0.02
    assert abs(body.std() - 1) < 0.05
    assert np.allclose(
        standardise(volume * 7 + 100, hounsfield=False), standardise(volume, hounsfield=False), atol=1e-5
    )  # a scanner's scale does not count
    volume[0, 0, 0, 0] = 1e6
    assert np.abs(standardise(volume, hounsfield=False)[:, 5:15, 5:15, 5:15] - body).max() < 0.1


@pytest.mark.parametrize("kind", ["CT", "MR"])
@pytest.mark.parametrize("array", [np.zeros((1, 3, 3, 3)), np.full((1, 3, 3, 3), np.nan), np.full((2, 1, 1, 1), 7.0)])
def test_odd_volumes_give_numbers(array: np.ndarray, kind: str) -> None:
    record = CT if kind == "CT" else MR
    image = harmonise(Payload(array, np.eye(4)), record, STANDARD, NOTHING)
    assert image.array.shape == (1, 12, 12, 12)
    assert np.isfinite(image.array).all()


def test_without_a_scale_the_standards_is_taken_and_marked() -> None:
    image = harmonise(
        Payload(np.zeros((1, 5, 5, 5))), MR, VolumeStandard(spacing_mm=(3, 2, 1), size=(5, 5, 5)), NOTHING
    )
    assert image.nominal
    assert image.to_world is not None
    assert np.allclose(spacing_of(image.to_world), [1, 2, 3])


def test_the_median_spacing_of_the_training_volumes_may_be_asked_for() -> None:
    fingerprint = Fingerprint(spacing_mm=(4.0, 2.0, 1.0))
    image = harmonise(Payload(np.zeros((1, 5, 5, 5)), np.eye(4)), MR, VolumeStandard(spacing_mm=None), fingerprint)
    assert image.to_world is not None
    assert np.allclose(spacing_of(image.to_world), [1, 2, 4])


def image_and_mask() -> tuple[Payload, np.ndarray, np.ndarray]:
    """A volume on its standard grid, its labels, and its matrix."""
    labels = np.random.default_rng(0).integers(0, 3, (8, 7, 6)).astype(np.float32)
    to_world = np.diag([2.0, -3.0, 1.5, 1.0])
    to_world[:3, 3] = 5, 6, 7
    standard = VolumeStandard(spacing_mm=(1.5, 3.0, 2.0), size=(8, 7, 6))
    return harmonise(Payload(labels[None], to_world), MR, standard, NOTHING), labels, to_world


def test_a_mask_whose_axes_run_another_way_lands_by_geometry() -> None:
    image, labels, to_world = image_and_mask()
    standard = VolumeStandard(spacing_mm=(1.5, 3.0, 2.0), size=(8, 7, 6))
    straight = harmonise_mask(Payload(labels[None], to_world), image, standard)
    flipped = to_world.copy()  # x and y turned, in the array and in the header alike
    flipped[:3, 3] += 5 * to_world[:3, 0] + 6 * to_world[:3, 1]
    flipped[:3, :2] *= -1
    assert np.array_equal(harmonise_mask(Payload(labels[None, :, ::-1, ::-1], flipped), image, standard), straight)
    permuted = to_world[:, [2, 1, 0, 3]]
    assert np.array_equal(harmonise_mask(Payload(labels.transpose(2, 1, 0)[None], permuted), image, standard), straight)


def test_a_mask_of_a_part_lands_where_it_lies() -> None:
    image, labels, to_world = image_and_mask()
    standard = VolumeStandard(spacing_mm=(1.5, 3.0, 2.0), size=(8, 7, 6))
    part = to_world.copy()
    part[:3, 3] += 2 * to_world[:3, 2]
    found = harmonise_mask(Payload(labels[None, 2:6], part), image, standard)
    outside = labels.copy()
    outside[:2], outside[6:] = 0, 0
    assert np.array_equal(found, harmonise_mask(Payload(outside[None], to_world), image, standard))


def test_a_mask_of_the_images_shape_that_claims_to_lie_elsewhere_lands_by_index() -> None:
    image, labels, to_world = image_and_mask()
    standard = VolumeStandard(spacing_mm=(1.5, 3.0, 2.0), size=(8, 7, 6))
    elsewhere = np.eye(4)
    elsewhere[:3, 3] = 100
    straight = harmonise_mask(Payload(labels[None], to_world), image, standard)
    assert np.array_equal(harmonise_mask(Payload(labels[None], elsewhere), image, standard), straight)
    assert np.array_equal(harmonise_mask(Payload(labels[None]), image, standard), straight)


def test_a_mask_of_another_shape_without_a_place_is_refused() -> None:
    image, labels, _ = image_and_mask()
    with pytest.raises(GridError, match="a mask of \\(7, 7, 6\\) on an image of \\(8, 7, 6\\)"):
        harmonise_mask(Payload(labels[None, 1:]), image, VolumeStandard(size=(8, 7, 6)))


def test_a_real_organ_map_lands_on_its_ct_whose_axes_run_another_way(shared_data: Path) -> None:
    folder = shared_data / "ct-organs"
    slices = [item for _, item in records.read_patient(sorted((folder / "example_ct_dicom").iterdir()))]
    (ct,) = (r for r in slices if isinstance(r, Record))
    (organs,) = records.read(folder / "example_seg_dicom.nii.gz")
    assert isinstance(organs, Record)
    standard = VolumeStandard(spacing_mm=(2.0, 2.0, 2.0), size=(20, 250, 250))
    image = harmonise(records.load(ct, folder / "example_ct_dicom"), ct, standard, NOTHING)
    mask = harmonise_mask(records.load(organs, folder), image, standard)
    stored = nibabel.load(folder / "example_seg_dicom.nii.gz")
    assert isinstance(stored, nibabel.Nifti1Image)
    assert stored.affine is not None
    volume = lambda labels, voxel_mm3: {int(n): (labels == n).sum() * voxel_mm3 for n in np.unique(labels) if n}
    here, there = volume(mask, 8.0), volume(stored.get_fdata(), float(abs(np.linalg.det(stored.affine[:3, :3]))))
    large = [n for n, mm3 in there.items() if mm3 > 20_000]
    assert large
    assert all(here.get(n, 0) == pytest.approx(there[n], rel=0.1) for n in large)
    assert image.array[0][mask > 0].mean() > image.array[0][mask == 0].mean()  # organs are denser than the air around
