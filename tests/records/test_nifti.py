from __future__ import annotations

import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from polyclinic import records
from polyclinic.records.nifti import read
from polyclinic.schema import Record, Rejected
from reading import load, refused

NIBABEL = Path(nibabel.__file__).parent / "tests/data"


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def assert_is_itks(path: Path) -> None:
    image = SimpleITK.ReadImage(str(path))
    payload = load(path)
    assert np.allclose(payload.array[0], SimpleITK.GetArrayFromImage(image), rtol=1e-6)
    assert payload.to_world is not None
    far = np.array(image.GetSize()) - 1
    for share in np.ndindex(2, 2, 2):
        index = far * share
        expected = image.TransformContinuousIndexToPhysicalPoint(index.astype(float).tolist())
        assert np.allclose(payload.to_world[:3] @ [*index, 1.0], expected, atol=1e-3)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 6)] * 3),
    flips=st.tuples(*[st.sampled_from([1, -1])] * 3),
    order=st.permutations([0, 1, 2]),
    sform=st.booleans(),
)
def test_geometry_is_itks(
    tmp_path: Path,
    angles: tuple[float, ...],
    spacing: tuple[float, ...],
    flips: tuple[int, ...],
    order: list[int],
    sform: bool,
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = (Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * flips * spacing)[:, order]
    affine[:3, 3] = 10, -20, 30
    image = nibabel.Nifti1Image(np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32), affine)
    image.set_qform(affine, code=0 if sform else 1)
    image.set_sform(affine, code=1 if sform else 0)
    nibabel.save(image, tmp_path / "a.nii.gz")
    assert_is_itks(tmp_path / "a.nii.gz")


def test_the_hospitals_volumes_are_itks(hospital: Path) -> None:
    for path in sorted((hospital / "neurology/hippocampus/images").iterdir())[:10]:
        assert_is_itks(path)


def test_scaled_integers_are_read_with_their_slope(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(0.5, -3)
    nibabel.save(image, tmp_path / "a.nii")
    stored = nibabel.load(tmp_path / "a.nii")
    assert isinstance(stored, nibabel.Nifti1Image)
    assert np.allclose(load(tmp_path / "a.nii").array[0], stored.get_fdata().transpose(2, 1, 0))


def test_every_file_of_nibabel_is_taken_or_refused_with_a_reason() -> None:
    for path in sorted(NIBABEL.glob("*.nii*")):
        for item in records.read(path):
            if isinstance(item, Record):
                assert records.load(item, NIBABEL).array.ndim == 4
            else:
                assert isinstance(item, Rejected)
                assert item.remedy


def test_a_volume_is_known_by_its_content_whatever_its_name(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    save(tmp_path / "a.nii", array).rename(tmp_path / "scan")
    nibabel.save(nibabel.Nifti2Image(array, np.eye(4)), tmp_path / "b.nii")
    (tmp_path / "b.nii").rename(tmp_path / "scan2")
    for name in ("scan", "scan2"):
        assert np.array_equal(load(tmp_path / name).array[0], array.transpose(2, 1, 0))


def test_channels_come_first(tmp_path: Path) -> None:
    array = np.arange(48, dtype=np.float32).reshape(2, 3, 4, 2)
    assert np.array_equal(load(save(tmp_path / "a.nii", array)).array, array.transpose(3, 2, 1, 0))


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((2, 3, 4), np.complex64), "voxels of type complex64"),
        (np.zeros((2, 3, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "voxels of type"),
        (np.zeros((2, 3), np.float32), "an array of 2 dimensions"),
        (np.zeros((2, 3, 4, 1, 2), np.float32), "an array of 5 dimensions"),
    ],
)
def test_what_is_no_volume_of_numbers_is_refused(tmp_path: Path, array: np.ndarray, reason: str) -> None:
    assert reason in refused(save(tmp_path / "a.nii", array))


def test_a_flat_affine_is_refused(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((2, 3, 4), np.float32), np.eye(4))
    header = bytearray(image.to_bytes())
    struct.pack_into("<hh", header, 252, 0, 1)  # qform_code, sform_code
    struct.pack_into("<12f", header, 280, *[1, 0, 0, 0] * 3)
    (tmp_path / "a.nii").write_bytes(header)
    assert refused(tmp_path / "a.nii") == "an affine that cannot be inverted"


def test_a_header_that_promises_more_than_the_file_has(tmp_path: Path) -> None:
    header = bytearray(nibabel.Nifti1Image(np.zeros((2, 3, 4), np.float32), np.eye(4)).to_bytes())
    struct.pack_into("<8h", header, 40, 3, 700, 700, 700, 1, 1, 1, 1)  # 1.3 GB: within bound, and not there
    (tmp_path / "a.nii").write_bytes(header)
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(bytes(header)))
    assert "cut short" in refused(tmp_path / "a.nii")
    assert "cut short" in refused(tmp_path / "b.nii.gz")
    struct.pack_into("<8h", header, 40, 3, 30000, 30000, 30000, 1, 1, 1, 1)
    (tmp_path / "c.nii").write_bytes(header)
    assert "promises" in refused(tmp_path / "c.nii")


@pytest.mark.parametrize(
    ("place", "mask", "patient", "kind"),
    [
        ("neurology/hippocampus/images/hippocampus_001.nii.gz", False, "hippocampus_001", "MR hippocampus"),
        ("neurology/hippocampus/labels/hippocampus_001.nii.gz", True, "hippocampus_001", "MASK hippocampus"),
        ("labels/P7/ct.nii.gz", True, "P7", "MASK"),
        ("CT/P7/ct_seg.nii.gz", True, "P7", "MASK"),
        ("sub-07/anat/sub-07_ses-1_T1w.nii.gz", False, "sub-07", "volume"),
        ("ct/chest/12.nii", False, "12", "CT chest"),
    ],
)
def test_names_say_whose_it_is_and_what(tmp_path: Path, place: str, mask: bool, patient: str, kind: str) -> None:
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    save(path, np.zeros((2, 3, 4), np.float32))
    (item,) = read(path, tmp_path)
    assert isinstance(item, Record)
    assert item.attributes["mask"] is mask
    assert (item.patient, item.kind) == (patient, kind)


def test_nibabels_complaints_are_not_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    header = bytearray(nibabel.Nifti1Image(np.zeros((2, 3, 4), np.float32), np.eye(4)).to_bytes())
    header[0:4] = struct.pack("<i", 999)
    (tmp_path / "a.nii").write_bytes(header)
    list(records.read(tmp_path / "a.nii"))
    assert capfd.readouterr().err == ""
