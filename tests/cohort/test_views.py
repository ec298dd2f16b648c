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


def test_a_row_about_a_file_is_its_patients_in_whatever_order_they_come(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/scores.csv").write_text(
        "filename,extent\nscan_1.png,2.7\nimages/scan_2.jpeg,1\nscan_3.png,3\nscan_9.png,4\n"
    )
    put(tmp_path / "in/images/other.png", 9)
    cohort = ingest(tmp_path / "in", tmp_path / "c")
    assert set(reasons(cohort).values()) == {"a row about a file that is not here"}
    for salt, name in enumerate(("a/scan_1.png", "a/scan_2.png", "a/scan_3.png", "b/scan_3.png")):
        put(tmp_path / "in/images" / name, salt)
    (tmp_path / "in/meta.csv").write_text("patient_id,image\nP1,scan_1.png\nP2,scan_2.png\n")
    cohort = ingest(tmp_path / "in", tmp_path / "c")
    images = {r.uri: r for r in cohort.records("modality = 'image'")}
    told = {r.patient: r.attributes.get("about_record") for r in cohort.records("kind = 'table meta'")}
    assert told == {f"P{i}": images[f"images/a/scan_{i}.png"].id for i in (1, 2)}
    rows = {r.uri: r for r in cohort.records("kind = 'table scores'")}
    about = {uri: (r.patient, r.attributes.get("about_record")) for uri, r in rows.items()}
    assert about["scores.csv#row=1"] == ("P1", images["images/a/scan_1.png"].id)
    assert about["scores.csv#row=2"] == ("P2", images["images/a/scan_2.png"].id)  # converted since
    # Of two pictures of that name both are called scan_3: it is one person's as far as anything says, and of either.
    assert about["scores.csv#row=3"] == ("scan_3", None)
    assert reasons(cohort) == {"scores.csv#row=4": "a row about a file that is not here"}
    assert cohort.load(rows["scores.csv#row=1"]).names == ("extent", "filename=scan_1.png")


def test_a_row_about_a_name_that_several_patients_have_is_set_aside(tmp_path: Path) -> None:
    for salt, place in enumerate(("patient1/ct.nii", "patient2/ct.nii")):
        put(tmp_path / "in" / place, salt)
    (tmp_path / "in/scores.csv").write_text("file,extent\nct.nii,2.7\n")
    cohort = ingest(tmp_path / "in", tmp_path / "c")
    assert reasons(cohort) == {"scores.csv#row=1": "a row about a file name that several patients have"}


def test_encounters_of_nobody_are_taken_beside_known_patients(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_text("patient_id,x\nP1,1\n")
    (tmp_path / "in/talks.csv").write_text(
        'ID,talk\n1,"Doctor: how long has it been? Patient: since Monday, I think."\n'
    )
    (tmp_path / "in/P2_1.txt").write_text("a note whose patient nobody knows")
    cohort = ingest(tmp_path / "in", tmp_path / "c")
    assert {r.patient for r in cohort.records()} == {"P1", "talks 1"}
    assert reasons(cohort) == {"P2_1.txt": "a note for an unknown patient"}


def turned(
    place: Path, array: np.ndarray, affine: np.ndarray, axes: tuple[int, int, int], flips: tuple[int, ...]
) -> None:
    """Writes the same voxels with their axes in another order and direction."""
    place.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(array, affine)
    orientation = [[axis, 1 - 2 * (i in flips)] for i, axis in enumerate(axes)]
    nibabel.save(image.as_reoriented(orientation), place)


def organs() -> np.ndarray:
    labels = np.zeros((12, 10, 8), np.uint8)
    labels[2:7, 2:8, 1:6], labels[7:10, 3:7, 2:7] = 5, 117
    return labels


LATTICE = np.array([[0.9, 0.1, 0, -20], [-0.1, 0.9, 0, 30], [0, 0, 2, 5], [0, 0, 0, 1.0]])


@pytest.mark.parametrize(
    ("axes", "flips"), [((0, 1, 2), ()), ((2, 0, 1), (0,)), ((1, 0, 2), (1, 2)), ((0, 2, 1), (0, 1, 2))]
)
def test_a_label_map_lands_on_the_image_of_its_geometry(
    tmp_path: Path, axes: tuple[int, int, int], flips: tuple[int, ...]
) -> None:
    picture = np.random.default_rng(0).normal(size=(12, 10, 8)).astype(np.float32)
    shifted = LATTICE + np.array([0, 0, 0, 1.0]) * np.array([[3], [0], [0], [0]])
    (tmp_path / "in").mkdir()
    nibabel.save(nibabel.Nifti1Image(picture, LATTICE), tmp_path / "in/walk_ct.nii.gz")
    nibabel.save(nibabel.Nifti1Image(picture + 1, shifted), tmp_path / "in/walk_ct_small.nii.gz")
    nibabel.save(nibabel.Nifti1Image(picture[:11] + 2, LATTICE), tmp_path / "in/walk_mr.nii.gz")
    turned(tmp_path / "in/walk_organs.nii.gz", organs(), LATTICE, axes, flips)
    cohort = ingest(tmp_path / "in", tmp_path / "c")
    assert masks(cohort) == {"walk_organs.nii.gz": "walk_ct.nii.gz"}
    assert reasons(cohort) == {}
    (mask,) = cohort.records("(attributes->>'mask')::bool")
    assert mask.patient == "walk_ct"
    payload = cohort.load(mask)
    at = np.argwhere(payload.array[0] == 117).mean(0)[::-1]
    assert payload.to_world is not None
    where = (LATTICE @ [*np.argwhere(organs() == 117).mean(0), 1]) * [-1, -1, 1, 1]
    assert np.allclose(payload.to_world @ [*at, 1], where, atol=1e-3)


@pytest.mark.parametrize(
    ("images", "mask", "reason"),
    [
        (["a_ct.nii", "a_dwi.nii"], "a_organs.nii", "a mask that fits several images"),
        (["jones_ct.nii"], "smith_organs.nii", "a mask with no image"),
        (["case_01.nii"], "case_02_seg.nii", "a mask with no image"),
        (["images/case_01.nii"], "labels/case_02.nii", "a mask with no image"),
        (["p1/ct.nii"], "p2/organs.nii", "a mask with no image"),
    ],
)
def test_a_label_map_that_may_be_anothers_is_set_aside(
    tmp_path: Path, images: list[str], mask: str, reason: str
) -> None:
    for salt, name in enumerate(images):
        place = tmp_path / "in" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(np.random.default_rng(salt).normal(size=(12, 10, 8)), LATTICE), place)
    turned(tmp_path / "in" / mask, organs(), LATTICE, (0, 1, 2), ())
    cohort = ingest(tmp_path / "in", tmp_path / "c")
    assert masks(cohort) == {}
    assert reasons(cohort) == {mask: reason}


def test_real_organ_maps_land_on_their_series_and_on_their_volume(shared_data: Path, tmp_path: Path) -> None:
    cohort = ingest(shared_data / "ct-organs", tmp_path / "c")
    (series,) = (r.uri for r in cohort.records("uri like '%#series=%'"))
    assert masks(cohort) == {"example_seg_dicom.nii.gz": series, "example_seg.nii.gz": "example_ct_sm.nii.gz"}
    assert reasons(cohort) == {}
    found = {r.uri: r for r in cohort.records()}
    assert {r.patient for r in found.values()} == {
        "example_ct",
        "example_mr",
    }  # two people, in whichever form their scans lie there
    seen, drawn = cohort.load(found[series]), cohort.load(found["example_seg_dicom.nii.gz"])
    assert seen.to_world is not None
    assert drawn.to_world is not None
    z, y, x = np.nonzero(drawn.array[0] > 0)
    at = np.linalg.inv(seen.to_world) @ drawn.to_world @ np.stack([x, y, z, np.ones(len(x))])
    i, j, k = np.round(at[:3]).astype(int)
    inside, outside = seen.array[0, k, j, i], seen.array[0][drawn.array[0] == 0]
    assert np.median(inside) > -200 > np.median(outside)  # organs are no air, on the axes as they lie


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


def slide(path: Path, salt: int = 0) -> None:
    """A small SVS, as a scanner writes it."""
    import tifffile

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(salt).integers(0, 256, (300, 260, 3), dtype=np.uint8)
    about = f"Aperio Image Library v11.2.1 \r\n260x300 [0,0 260x300] (256x256) JPEG/RGB Q=70|AppMag = 20|MPP = 0.5|Filename = {salt}"
    with tifffile.TiffWriter(path) as file:
        file.write(pixels, tile=(256, 256), compression="jpeg", photometric="rgb", metadata=None, description=about)


def features(path: Path, salt: int = 0) -> None:
    """Features of four tiles, as TRIDENT writes them."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["features"] = np.random.default_rng(salt).normal(size=(4, 3)).astype(np.float32)
        file["coords"] = np.array([[0, 0], [256, 0], [0, 256], [256, 256]])
        file["coords"].attrs["patch_size_level0"] = 256


@pytest.mark.parametrize("late", ["slide", "features"])
def test_features_are_their_slides_and_its_patients(tmp_path: Path, late: str) -> None:
    source, name = tmp_path / "in", "S3.0A1B"
    write = {
        "slide": lambda: slide(source / f"person7/{name}.svs"),
        "features": lambda: features(source / f"f/{name}.h5"),
    }
    last = write.pop(late)
    for first in write.values():
        first()
    ingest(source, tmp_path / "c")
    last()
    features(source / "f/elsewhere.h5", 1)
    cohort = ingest(source, tmp_path / "c")
    found = {r.uri: r for r in cohort.records()}
    assert len(found) == 3
    of_slide, image = found[f"f/{name}.h5"], found[f"person7/{name}.svs"]
    assert of_slide.attributes["about_record"] == image.id
    assert of_slide.patient == image.patient == "person7"
    assert "about_record" not in image.attributes
    assert "about_record" not in found["f/elsewhere.h5"].attributes
    assert found["f/elsewhere.h5"].patient == "elsewhere"


def test_features_of_a_name_that_two_patients_slides_have_stay_by_themselves(tmp_path: Path) -> None:
    for salt, person in enumerate(("person1", "person2")):
        slide(tmp_path / f"in/{person}/S3.svs", salt)
    features(tmp_path / "in/f/S3.h5")
    found = {r.uri: r for r in ingest(tmp_path / "in", tmp_path / "c").records()}
    assert "about_record" not in found["f/S3.h5"].attributes
    assert found["f/S3.h5"].patient == "S3"
    features(tmp_path / "in/person2/h5_files/S3.h5", 1)  # in the folder of one of them
    found = {r.uri: r for r in ingest(tmp_path / "in", tmp_path / "c").records()}
    assert found["person2/h5_files/S3.h5"].attributes["about_record"] == found["person2/S3.svs"].id


def test_a_table_that_names_slides_says_whose_their_features_are(tmp_path: Path) -> None:
    features(tmp_path / "in/f/S3.h5")
    (tmp_path / "in/t.csv").write_text("patient_id,filename\nP1,S3.svs\nP2,S4.svs\n")
    found = {r.uri: r for r in ingest(tmp_path / "in", tmp_path / "c").records()}
    assert found["f/S3.h5"].patient == "P1"
