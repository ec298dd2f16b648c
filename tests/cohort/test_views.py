"""What follows from several files: whose a mask, a note or an image is, in whatever order they came."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from polyclinic.cohort import Cohort, ingest

VOXELS = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def put(place: Path, salt: int = 0) -> None:
    """A volume, an image, a table or a note, by its ending; `salt` makes another content."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.name.endswith(".nii"):
        nibabel.save(nibabel.Nifti1Image(VOXELS + salt, np.eye(4)), place)
    elif place.suffix == ".png":
        Image.fromarray(np.full((8, 8), salt, np.uint8)).save(place)
    else:
        place.write_text(f"words {salt}")


def masks(cohort: Cohort) -> dict[str, str]:
    """mask's uri → image's uri"""
    found = {r.id: r for r in cohort.records()}
    return {r.uri: found[str(r.attributes["mask_of"])].uri for r in found.values() if r.attributes.get("mask_of")}


def reasons(cohort: Cohort) -> dict[str, str]:
    return {r.uri: r.found for r in cohort.rejected()}


def test_a_mask_finds_its_image_by_name_and_folder(tmp_path: Path) -> None:
    pairs = {
        "a/labels/x1.nii": "a/images/x1.nii",
        "labels/P1/ct.nii": "images/P1/ct.nii",
        "labels/P2/ct.nii": "images/P2/ct.nii",
        "P3/ct_seg.nii": "P3/ct.nii",
        "P4/ct_seg.nii": "P4/ct.nii",
    }
    for salt, (mask, image) in enumerate(pairs.items()):
        put(tmp_path / "in" / mask, salt + 100)
        put(tmp_path / "in" / image, salt)
    cohort = ingest(tmp_path / "in", tmp_path / "c")
    assert masks(cohort) == pairs
    patients = {r.uri: r.patient for r in cohort.records()}
    assert all(patients[mask] == patients[image] for mask, image in pairs.items())
    assert reasons(cohort) == {}


def test_a_mask_of_which_nobody_can_say_whose_it_is_is_set_aside(tmp_path: Path) -> None:
    for salt, place in enumerate(("x/P1/ct.nii", "y/P2/ct.nii", "labels/ct.nii")):
        put(tmp_path / "in" / place, salt)
    put(tmp_path / "in/labels/alone.nii", 9)
    put(tmp_path / "in/labels/ct.png", 9)  # of another modality than the volumes of its name
    cohort = ingest(tmp_path / "in", tmp_path / "c")
    assert masks(cohort) == {}
    assert reasons(cohort) == {
        "labels/ct.nii": "a mask that fits several images", "labels/alone.nii": "a mask with no image",
        "labels/ct.png": "a mask with no image",
    }  # fmt: skip


def test_an_image_that_comes_late_settles_its_mask(tmp_path: Path) -> None:
    put(tmp_path / "in/labels/x1.nii", 1)
    put(tmp_path / "in/other.nii", 2)
    assert reasons(ingest(tmp_path / "in", tmp_path / "c")) == {"labels/x1.nii": "a mask with no image"}
    put(tmp_path / "in/images/x1.nii")
    cohort = ingest(tmp_path / "in", tmp_path / "c")
    assert masks(cohort) == {"labels/x1.nii": "images/x1.nii"}
    assert reasons(cohort) == {}


def test_a_note_counts_once_something_else_knows_its_patient(tmp_path: Path) -> None:
    put(tmp_path / "in/P1_1.txt", 1)
    put(tmp_path / "in/P2_1.txt", 2)
    cohort = ingest(tmp_path / "in", tmp_path / "c")  # nothing but notes: they know each other
    assert [r.patient for r in cohort.records()] != []
    assert reasons(cohort) == {}
    (tmp_path / "in/a.csv").write_text("patient_id,x\nP1,1\n")
    cohort = ingest(tmp_path / "in", tmp_path / "c")
    assert reasons(cohort) == {"P2_1.txt": "a note for an unknown patient"}
    assert {r.patient for r in cohort.records()} == {"P1"}
    (tmp_path / "in/b.csv").write_text("patient_id,x\nP2,1\n")
    cohort = ingest(tmp_path / "in", tmp_path / "c")
    assert reasons(cohort) == {}
    assert cohort.patients() == ["P1", "P2"]


@pytest.mark.parametrize("column", ["filename", "Image", "image_path"])
def test_a_table_that_names_files_says_whose_the_images_are(tmp_path: Path, column: str) -> None:
    for salt, name in enumerate(("scan_1.png", "scan_2.png", "scan_3.png", "scan_4.png")):
        put(tmp_path / "in/images" / name, salt)
    (tmp_path / "in/meta.csv").write_text(
        f"patient_id,{column}\nP1,scan_1.png\nP1,images/scan_2.png\nP2,C:\\export\\scan_3.png\nP3,scan_4.png\nP4,scan_4.png\n"
    )
    cohort = ingest(tmp_path / "in", tmp_path / "c")
    patients = {r.uri: r.patient for r in cohort.records("modality = 'image'")}
    assert patients == {
        "images/scan_1.png": "P1", "images/scan_2.png": "P1", "images/scan_3.png": "P2",
        "images/scan_4.png": "scan_4",  # two rows claim it: nobody is believed
    }  # fmt: skip


def test_the_chest_set_as_it_was_published_comes_in_with_its_patients_and_lungs(
    shared_data: Path, tmp_path: Path
) -> None:
    cohort = ingest(shared_data / "covid-chestxray", tmp_path / "c")
    images = cohort.records("modality = 'image' and not (attributes->>'mask')::bool")
    table = cohort.records("kind = 'table metadata'")
    contents = {p.read_bytes() for p in (shared_data / "covid-chestxray/images").iterdir()}
    assert len(images) == len(contents)  # one picture is there under two names
    claims: dict[str, set[str]] = {}
    for row in table:
        claims.setdefault(str(row.attributes["filename"]), set()).add(row.patient)
    named = {r.patient for r in images if claims[r.uri.rpartition("/")[2]] == {r.patient}}
    others = [r for r in images if r.patient not in named]
    assert len(named) > 150
    assert len(others) == 3  # two patients' rows claim the same file (the set's own clash of names): nobody is believed
    assert all(len(claims[r.uri.rpartition("/")[2]]) == 2 for r in others)
    found = {r.id: r for r in images}
    linked = [r for r in cohort.records() if r.attributes.get("mask_of")]
    assert len(linked) > 90
    assert all(r.patient == found[str(r.attributes["mask_of"])].patient for r in linked)


def test_a_file_that_says_whose_it_is_is_not_overruled_by_a_table(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.data import get_testdata_file

    dataset = pydicom.dcmread(str(get_testdata_file("MR_small.dcm", download=False)))
    (tmp_path / "in").mkdir()
    for name, patient in (("named.dcm", "P7"), ("nameless.dcm", "")):
        dataset.PatientID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID = (
            patient,
            f"1.2.{len(patient)}",
            f"1.3.{len(patient)}",
        )
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(tmp_path / "in" / name)
    (tmp_path / "in/t.csv").write_text("patient_id,filename\nP1,named.dcm\nP2,nameless.dcm\n")
    found = ingest(tmp_path / "in", tmp_path / "c").records("modality <> 'table'")
    assert {r.uri.split("#")[0]: r.patient for r in found} == {"named.dcm": "P7", "nameless.dcm": "P2"}
