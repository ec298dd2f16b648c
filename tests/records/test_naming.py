from __future__ import annotations

import pytest

from polyclinic.records.naming import is_mask, patient_of, telling, without_form, without_mask


@pytest.mark.parametrize(
    ("place", "mask"),
    [
        ("a/labels/x.nii.gz", True),
        ("labels/P7/x.nii.gz", True),
        ("a/x_seg.nii.gz", True),
        ("a/x-mask.png", True),
        ("lung_masks/x.png", True),
        ("images/x.nii.gz", False),
        ("a/segment_1.nii", False),
        ("a/masked.png", False),
    ],
)
def test_a_mask_is_known_by_a_folder_or_its_ending(place: str, mask: bool) -> None:
    assert is_mask(place) is mask


@pytest.mark.parametrize(
    ("stem", "shared"), [("ct_seg", "ct"), ("ct-mask", "ct"), ("ct", "ct"), ("x_label_1", "x_label_1")]
)
def test_an_image_and_its_mask_share_a_stem(stem: str, shared: str) -> None:
    assert without_mask(stem) == shared


@pytest.mark.parametrize(
    ("place", "stem", "patient"),
    [
        ("sub-07/ses-1/anat/T1w.nii", "T1w", "sub-07"),
        ("case_3/scan.nii", "scan", "case_3"),
        ("subset1/x7.nii", "x7", None),
        ("patterns2/x7.nii", "x7", None),
        ("P12/P12_t1.nii", "P12_t1", "P12"),
        ("0012/ct.nii", "ct", "0012"),
        ("study/ct.nii", "ct", None),
        ("ct.nii", "ct", None),
    ],
)
def test_whose_an_image_is_say_its_folders_or_nobody(place: str, stem: str, patient: str | None) -> None:
    assert patient_of(place, stem) == patient


def test_the_folders_that_tell_cases_apart() -> None:
    assert telling("labels/P1/ct.nii") == telling("images/P1/ct.nii") == ["P1"]


@pytest.mark.parametrize(
    ("name", "whose"),
    [
        ("example_ct_dicom", "example_ct"), ("example_ct_sm", "example_ct"), ("example_ct", "example_ct"), ("example_mr_sm", "example_mr"),
        ("P12_dicom-small", "P12"), ("hippocampus_001", "hippocampus_001"), ("prism", "prism"), ("dicom", "dicom"), ("_sm", "_sm"),
        ("x_small_bowel", "x_small_bowel"), ("p7_followup", "p7_followup"),
    ],
)  # fmt: skip
def test_in_which_form_a_scan_lies_there_says_not_whose_it_is(name: str, whose: str) -> None:
    assert without_form(name) == whose
