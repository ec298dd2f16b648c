from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.cohort import Cohort
from polyclinic.inference import predict_masks
from polyclinic.training import Run
from polyclinic.trust.measures.intervals import EvidenceError
from polyclinic.trust.pages.overlays import Overlay, nearest, overlays, upright


@pytest.fixture(scope="module")
def drawn(tiny_segmentation_run: Run, tiny_cohort: Cohort) -> tuple[Overlay, ...]:
    return overlays(tiny_segmentation_run, tiny_cohort)


def test_the_first_test_patients_by_name_are_shown(drawn: tuple[Overlay, ...], tiny_segmentation_run: Run) -> None:
    possible = sorted(p for p in tiny_segmentation_run.split.test if p.startswith("hippocampus"))
    assert drawn
    assert [o.patient for o in drawn] == possible[:3]
    assert {o.split for o in drawn} == {tiny_segmentation_run.split.hash}


def canonical(path: Path) -> np.ndarray:
    image = nib.as_closest_canonical(nib.load(path))
    assert isinstance(image, nib.Nifti1Image)
    return np.asarray(image.dataobj)


def test_the_truth_is_the_file_s_as_a_radiologist_sees_it(drawn: tuple[Overlay, ...], small_hospital: Path) -> None:
    for overlay in drawn:
        place = small_hospital / "neurology/hippocampus"
        mask, image = (canonical(place / folder / f"{overlay.patient}.nii.gz") for folder in ("labels", "images"))
        # nibabel's canonical axes run to the right, to the front and to the head.
        number, count = overlay.slice
        assert count == mask.shape[2]
        radiological = lambda volume, at=number - 1: volume[::-1, ::-1, at].T
        assert overlay.truth is not None
        assert np.array_equal(overlay.truth, radiological(mask))
        assert (mask > 0).sum(axis=(0, 1)).max() == (overlay.truth > 0).sum()
        grey = radiological(image).astype(float)
        low, high = np.percentile(image.astype(float), [1, 99])
        assert np.allclose(overlay.picture, np.clip((grey - low) / (high - low), 0, 1), atol=1e-4)
        assert overlay.edges == ("R", "L", "A", "P")


def test_dice_is_that_of_the_whole_volume(
    drawn: tuple[Overlay, ...], tiny_segmentation_run: Run, tiny_cohort: Cohort, small_hospital: Path
) -> None:
    overlay = drawn[0]
    answer = predict_masks(tiny_segmentation_run, tiny_cohort, patients=[overlay.patient])[0].on_source
    file = nib.load(small_hospital / f"neurology/hippocampus/labels/{overlay.patient}.nii.gz")
    assert isinstance(file, nib.Nifti1Image)
    mask = np.asarray(file.dataobj).T
    for k, found in enumerate(overlay.dice, start=1):
        same = ((answer == k) & (mask == k)).sum()
        assert found == pytest.approx(2 * same / ((answer == k).sum() + (mask == k).sum()))


def test_a_run_that_draws_nothing_is_refused(tiny_finding_run: Run, tiny_cohort: Cohort) -> None:
    with pytest.raises(EvidenceError, match="draws no mask"):
        overlays(tiny_finding_run, tiny_cohort)


def test_who_and_how_many_can_be_asked_for(tiny_segmentation_run: Run, tiny_cohort: Cohort) -> None:
    who = sorted(p for p in tiny_segmentation_run.split.train if p.startswith("hippocampus"))[:2]
    found = overlays(tiny_segmentation_run, tiny_cohort, patients=who, count=1)
    assert [o.patient for o in found] == who[:1]
    assert overlays(tiny_segmentation_run, tiny_cohort, patients=["nobody"]) == ()


@settings(max_examples=30, deadline=None)
@given(st.permutations([0, 1, 2]), st.tuples(*[st.sampled_from((-1, 1))] * 3))
def test_whatever_the_file_s_axes_the_patient_lies_the_same(order: list[int], signs: tuple[int, int, int]) -> None:
    # A volume whose axes run to S, P and L, put into a file with other axes by nibabel.
    volume = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    spacing = np.array([0.5, 2.0, 3.0])  # along L, P, S
    turn = np.array([[axis, sign] for axis, sign in zip(order, signs, strict=True)], float)
    held = nib.orientations.apply_orientation(volume.T, turn)
    affine = np.diag([*spacing, 1.0]) @ nib.orientations.inv_ornt_aff(turn, volume.T.shape)
    seen, aspect, edges = upright(held.T, affine, True)
    assert np.array_equal(seen, volume)
    assert aspect == pytest.approx(4.0)
    assert edges == ("R", "L", "A", "P")


def test_an_image_is_shown_as_it_is_and_claims_no_side() -> None:
    picture = np.arange(6.0).reshape(2, 3)
    seen, aspect, edges = upright(picture, np.diag([0.5, 1.0, 1.0, 1.0]), False)
    assert np.array_equal(seen, picture[None])
    assert (aspect, edges) == (2.0, ())


def test_a_volume_without_geometry_claims_no_side() -> None:
    assert upright(np.zeros((2, 3, 4)), None, True)[1:] == (1.0, ())


def test_a_mask_of_another_resolution_is_laid_on_its_image() -> None:
    labels = np.array([[1, 2], [3, 4]])
    assert np.array_equal(nearest(labels, (4, 6)), labels.repeat(2, 0).repeat(3, 1))
    assert np.array_equal(nearest(labels.repeat(4, 0).repeat(4, 1), (2, 2)), labels)
