"""An image that several people drew on, or of which several structures were drawn."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from polyclinic.cohort import Cohort, Label, ingest, labels_of
from polyclinic.schema import Modality

ORGANS = Label("organs", "mask", modality=Modality.VOLUME, kind_like="MASK", classes=("liver", "spleen"))


def put(path: Path, labels: np.ndarray, spacing: float = 1.0) -> None:
    """A NIfTI file of labels or of values (z y x)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = (spacing - 1) / 2  # coarser voxels fill the same box
    image = nibabel.Nifti1Image(labels.transpose(2, 1, 0), affine)  # type: ignore[attr-defined]
    image.set_sform(affine, 1)
    nibabel.save(image, path)  # type: ignore[attr-defined]


def box(z: slice, y: slice) -> np.ndarray:
    labels = np.zeros((6, 8, 10), np.uint8)
    labels[z, y, 2:6] = 1
    return labels


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """A volume of a case, without masks."""
    put(tmp_path / "in/p1/ct.nii.gz", np.random.default_rng(0).normal(size=(6, 8, 10)).astype(np.float32))
    return tmp_path / "in/p1"


def drawn(case: Path, label: Label) -> tuple[Cohort, np.ndarray]:
    cohort = ingest(case.parent, case.parent.parent / "c")
    assert not cohort.rejected()
    (mask,) = labels_of(cohort.records(), label).values()
    assert {r.id for r in cohort.records() if not r.attributes.get("mask")} == {str(mask.attributes["mask_of"])}
    return cohort, cohort.load(mask).array[0]


def test_structures_in_files_of_their_own_are_one_mask_numbered_as_the_classes(case: Path) -> None:
    liver, spleen = box(slice(0, 4), slice(0, 4)), box(slice(2, 6), slice(2, 7))
    put(case / "masks/ct_spleen.nii.gz", spleen)
    put(case / "masks/ct_liver.nii.gz", liver)
    _, found = drawn(case, ORGANS)
    assert np.array_equal(found, np.where(spleen > 0, 2, liver))


def test_a_lone_structure_that_is_called_as_the_second_class_is_not_the_first(case: Path) -> None:
    spleen = box(slice(2, 6), slice(2, 7))
    put(case / "masks/ct_spleen.nii.gz", spleen)
    _, found = drawn(case, ORGANS)
    assert np.array_equal(found, 2 * spleen)


def test_of_three_readers_most_decide_and_of_two_the_first(case: Path) -> None:
    readers = [box(slice(0, n), slice(0, m)) for n, m in ((3, 3), (4, 5), (5, 4))]
    for number, labels in enumerate(readers[:2], start=1):
        put(case / f"masks/ct_reader{number}.nii.gz", labels)
    _, found = drawn(case, ORGANS)
    assert np.array_equal(found, readers[0])
    put(case / "masks/ct_reader3.nii.gz", readers[2])
    _, found = drawn(case, ORGANS)
    assert np.array_equal(found, (np.sum(readers, axis=0) >= 2).astype(float))


def test_what_a_part_does_not_name_keeps_its_numbers_and_every_mask_stays_a_record(case: Path) -> None:
    lobes = 3 * box(slice(0, 4), slice(0, 4))
    put(case / "masks/ct_lobes.nii.gz", lobes)
    put(case / "masks/ct_spleen.nii.gz", box(slice(5, 6), slice(2, 7)))
    cohort, found = drawn(case, ORGANS)
    assert np.array_equal(found, lobes + 2 * box(slice(5, 6), slice(2, 7)))
    assert sum(bool(r.attributes.get("mask_of")) for r in cohort.records()) == 2


def test_parts_on_other_grids_lie_where_they_were_drawn(tmp_path: Path) -> None:
    (tmp_path / "in/images").mkdir(parents=True)
    (tmp_path / "in/masks").mkdir()
    draw = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    Image.fromarray(draw).save(tmp_path / "in/images/p1.png")
    Image.fromarray(draw).save(tmp_path / "in/images/p2.png")
    fine = np.zeros((16, 24), np.uint8)
    fine[4:8, 6:12] = 1
    for folder, pixels in (("a", fine[::2, ::2]), ("b", np.ascontiguousarray(fine[:, ::1] * 255))):
        (tmp_path / f"in/masks/{folder}").mkdir()
        Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / f"in/masks/{folder}/p1.png")
    cohort = ingest(tmp_path / "in", tmp_path / "c")
    (mask,) = labels_of(cohort.records(), Label("x", "mask", modality=Modality.IMAGE, kind_like="MASK")).values()
    found = cohort.load(mask).array[0]
    assert np.array_equal(found, fine[::2, ::2])  # both drew the same, one of them at twice the resolution
