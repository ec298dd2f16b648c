from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from polyclinic import records
from polyclinic.harmonise import Fingerprint, GridError, VolumeStandard, fit, harmonise, points_back
from polyclinic.harmonise.fingerprint import Intensity
from polyclinic.harmonise.geometry import spacing_of
from polyclinic.harmonise.volume import harmonise_mask, hu_span, in_hu, standardise, windowed, without_bias
from polyclinic.schema import Modality, Payload, Record

NOTHING = Fingerprint()
MR = Record("v", "P", None, Modality.VOLUME, "MR head", "v")
CT = Record("v", "P", None, Modality.VOLUME, "CT abdomen", "v")
STANDARD = VolumeStandard(size=(12, 12, 12))


def whole_ct(hu: np.ndarray, fingerprint: Fingerprint = NOTHING, **options: Any) -> np.ndarray:
    standard = VolumeStandard(size=None, **options)
    return harmonise(Payload(hu, np.eye(4)), CT, standard, fingerprint).array.reshape(-1)


def test_hounsfield_units_are_kept_within_a_window() -> None:
    hu = np.array([[[[-2000.0, -1000, 0, 40, 500, 1000, 3000]]]])
    assert whole_ct(hu).tolist() == pytest.approx([-2, -2, 0, 0.08, 1, 2, 2])
    assert whole_ct(hu, window_hu=(-1000, 1000)).tolist() == pytest.approx([0, 0, 0.5, 0.52, 0.75, 1, 1])
    assert hu.reshape(-1).tolist() == [-2000, -1000, 0, 40, 500, 1000, 3000]  # written over is a copy


def test_integers_are_hounsfield_units_too() -> None:
    hu = np.array([[[[-1000, 0, 500]]]], dtype=np.int16)
    assert whole_ct(hu).tolist() == [-2, 0, 1]
    assert hu.reshape(-1).tolist() == [-1000, 0, 500]


def test_the_training_voxels_may_say_what_is_bright(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    bodies = [np.full((1, 20, 20, 20), -1000.0) for _ in range(3)]
    for number, body in enumerate(bodies):
        body[:, 5:] = draw.normal(40 + number, 20, (1, 15, 20, 20))
    standard = VolumeStandard(size=None, intensity="fingerprint")
    records = [Record(str(i), str(i), None, Modality.VOLUME, "CT", str(i)) for i in range(3)]
    found = fit(records, lambda r: Payload(bodies[int(r.id)], np.eye(4)), {Modality.VOLUME: standard})
    inside = np.concatenate([b[b > -900] for b in bodies])
    assert found.ct is not None
    assert found.ct.low == pytest.approx(np.percentile(inside, 0.5), abs=1.5)
    assert found.ct.high == pytest.approx(np.percentile(inside, 99.5), abs=1.5)
    seen = harmonise(Payload(bodies[1], np.eye(4)), records[1], standard, found).array[:, 5:]
    assert (abs(seen.mean()), seen.std()) == (pytest.approx(0, abs=0.05), pytest.approx(1, abs=0.05))
    found.save(tmp_path / "fingerprint.json")
    assert Fingerprint.open(tmp_path / "fingerprint.json") == found
    assert found.hash != NOTHING.hash


@pytest.mark.parametrize("spacing", [(2.5, 0.9, 0.9), (1.0, 1.0, 1.0), (0.7, 1.5, 3.0)])
def test_a_whole_volume_has_its_first_and_its_last_voxel(spacing: tuple[float, float, float]) -> None:
    array = np.random.default_rng(0).normal(size=(1, 11, 20, 15))
    to_world = np.diag([-spacing[2], spacing[1], spacing[0], 1.0])
    image = harmonise(Payload(array, to_world), MR, VolumeStandard(size=None, spacing_mm=(1.5, 1.5, 1.5)), NOTHING)
    extent = (np.array([11, 20, 15]) - 1) * spacing
    assert image.array.shape[1:] == tuple(np.rint(extent / 1.5).astype(int) + 1)
    corners = np.array([[0, 0, 0], np.array(image.array.shape[:0:-1]) - 1])
    ends = points_back(corners, image.history)
    assert np.abs(ends[0] - [14, 0, 0]).max() < 1e-9  # x is turned to the left
    assert (np.abs(ends[1] - [0, 19, 10]) * np.array(spacing)[::-1]).max() <= 0.75 + 1e-9


def test_a_bias_field_is_divided_out() -> None:
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in (40, 48, 48)), indexing="ij")
    inside = x**2 + y**2 + z**2 < 0.7
    core = x**2 + y**2 + z**2 < 0.2
    tissue = np.where(core, 160.0, 100.0) * inside
    draw = np.random.default_rng(0)
    biased = tissue * np.exp(0.5 * x + 0.4 * y) + np.abs(draw.normal(0, 1, x.shape))
    to_world = np.diag([2.0, 2, 2, 1])
    flat = without_bias(biased, to_world)
    for part in (core, inside & ~core):
        spread = lambda values, part=part: values[part].std() / values[part].mean()
        assert spread(flat) < 0.4 * spread(biased)
    plain, option = (
        harmonise(Payload(biased[None], to_world), MR, VolumeStandard(size=None, bias_field=on), NOTHING).array
        for on in (False, True)
    )
    assert plain.shape == option.shape
    assert not np.allclose(plain, option, atol=0.1)
    assert without_bias(np.zeros((3, 3, 3)), to_world).sum() == 0  # too small for a field


def test_other_intensities_are_standardised_by_what_is_not_background() -> None:
    draw = np.random.default_rng(0)
    volume = np.zeros((1, 20, 20, 20))
    volume[:, 5:15, 5:15, 5:15] = draw.normal(300, 40, (1, 10, 10, 10))
    body = standardise(volume)[:, 5:15, 5:15, 5:15]
    assert abs(body.mean()) < 0.02
    assert abs(body.std() - 1) < 0.05
    assert np.allclose(
        standardise(volume * 7 + 100), standardise(volume), atol=1e-5
    )  # a scanner's scale does not count
    volume[0, 0, 0, 0] = 1e6
    assert np.abs(standardise(volume)[:, 5:15, 5:15, 5:15] - body).max() < 0.1


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


@pytest.mark.parametrize(
    ("standard", "low", "high"),
    [
        (VolumeStandard(), -1000, 1000), (VolumeStandard(window_hu=(-160, 240)), -160, 240),
        (VolumeStandard(intensity="fingerprint"), -900, 600),
    ],
)  # fmt: skip
def test_hu_come_back_within_the_window(standard: VolumeStandard, low: float, high: float) -> None:
    known = Fingerprint(ct=Intensity(low=-900, high=600, mean=40, sd=120))
    hu = np.linspace(-1500, 1500, 61, dtype=np.float32)
    back = in_hu(windowed(hu.copy(), standard, known), standard, known)
    assert np.allclose(back, np.clip(hu, low, high), atol=1e-2)
    assert hu_span(standard, known) == high - low


def test_a_volume_that_would_not_fit_is_refused_before_it_is_made() -> None:
    """A header in micrometres says metres: each of a hundred slices would be a thousand of the standard's."""
    far = Payload(np.zeros((1, 100, 64, 64), np.float32), np.diag([1.0, 1.0, 1000.0, 1.0]))
    with pytest.raises(GridError, match="1 × 1 × 1000 mm") as told:
        harmonise(far, MR, VolumeStandard(size=None, spacing_mm=(0.1, 0.5, 0.5)), NOTHING)
    assert "59.5 GiB on the standard grid" in told.value.found
    assert "spacing" in told.value.remedy
    assert harmonise(far, MR, VolumeStandard(size=(8, 8, 8)), NOTHING).array.shape == (1, 8, 8, 8)
