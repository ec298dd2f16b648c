from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from polyclinic import records
from polyclinic.cohort.ingest import ingest
from polyclinic.harmonise.fingerprint import Fingerprint
from polyclinic.harmonise.volume import VolumeStandard, harmonise, harmonise_mask
from polyclinic.records import dicom_segmentation
from polyclinic.schema import Modality, Payload
from reading import reasons, taken

SHAPE = (12, 16)


def segmentation(
    path: Path,
    images: Sequence[Dataset],
    pixels: np.ndarray,
    kind: str = "BINARY",
    names: Sequence[str] = ("Liver", "Spleen"),
) -> Any:
    """What highdicom writes of pixels (z y x) of numbers, or (z y x k) of one mask a segment."""
    seg = highdicom.seg
    described = [
        seg.SegmentDescription(
            number, name, codes.SCT.Organ, codes.SCT.Liver, seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, name in enumerate(names, start=1)
    ]  # fmt: skip
    made = seg.Segmentation(
        list(images), pixels, kind, described, generate_uid(), 9, generate_uid(), 1, "nobody", "none", "1", "0",
    )  # fmt: skip
    made.save_as(path)
    return made


def drawn() -> np.ndarray:
    """(z y x) of 0, 1 and 2 in the middle planes, with an empty plane between."""
    labels = np.zeros((7, *SHAPE), np.uint8)
    labels[1:3, 2:6, 3:9] = 1
    labels[2, 4:9, 9:12] = 2
    labels[4, 1:4, 1:5] = 2
    return labels


def places(payload: Payload, number: int) -> np.ndarray:
    """(n 3) mm of the voxels of a segment, sorted."""
    assert payload.to_world is not None
    z, y, x = np.nonzero(payload.array[0] == number)
    mm = (payload.to_world @ np.stack([x, y, z, np.ones(len(x))]))[:3].T
    return mm[np.lexsort(np.round(mm, 2).T)]


def by_highdicom(made: Any) -> Payload:
    """Its index is (plane, row, column), ours (x y z)."""
    volume = made.get_volume(combine_segments=False)
    labels = (volume.array >= 0.5).astype(np.float32) @ np.arange(1, volume.array.shape[-1] + 1)
    return Payload(labels[None], to_world=volume.affine[:, [2, 1, 0, 3]])


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_segments_lie_where_highdicom_puts_them(
    tmp_path: Path, write_series: Callable[..., list[FileDataset]], kind: str
) -> None:
    images = write_series(tmp_path, SHAPE)
    made = segmentation(tmp_path / "seg.dcm", images, drawn(), kind)
    (record,) = taken(tmp_path / "seg.dcm")
    assert record.modality is Modality.VOLUME
    assert record.kind == "MASK liver, spleen"
    assert [record.attributes[k] for k in ("mask", "segment_1", "segment_2")] == [True, "Liver", "Spleen"]
    assert record.attributes["stem"] == images[0].SeriesInstanceUID
    assert record.attributes["spacing_z_mm"] == pytest.approx(2.5, abs=1e-3)
    payload = records.load(record, tmp_path)
    expected = by_highdicom(made)
    for number in (1, 2):
        assert len(places(payload, number)) == (drawn() == number).sum()
        assert np.allclose(places(payload, number), places(expected, number), atol=1e-2)


def test_a_mask_is_linked_to_its_series_and_lands_on_it(
    tmp_path: Path, write_series: Callable[..., list[FileDataset]]
) -> None:
    """Of the planes, only those that are not empty are in the file."""
    (tmp_path / "in/series").mkdir(parents=True)
    images = write_series(tmp_path / "in/series", SHAPE)
    made = segmentation(tmp_path / "in/seg.dcm", images, drawn())
    assert int(made.NumberOfFrames) == 4
    cohort = ingest(tmp_path / "in", tmp_path / "out")
    assert not cohort.rejected()
    volume, mask = sorted(cohort.records(), key=lambda r: bool(r.attributes.get("mask")))
    assert mask.attributes["mask_of"] == volume.id
    source, labels = cohort.load(volume), cohort.load(mask)
    standard = VolumeStandard(spacing_mm=(2.5, 0.8, 0.6), size=(7, *SHAPE))
    fingerprint = Fingerprint(hounsfield=True, spacing_mm=(2.5, 0.8, 0.6))
    landed = harmonise_mask(labels, harmonise(source, volume, standard, fingerprint), standard)
    drawn_mm, step = drawn(), harmonise(source, volume, standard, fingerprint).history[-1]
    full = Payload(drawn_mm[None].astype(np.float32), to_world=source.to_world)
    assert step.shape == (7, *SHAPE)
    assert (landed > 0).any()
    again = harmonise_mask(full, harmonise(source, volume, standard, fingerprint), standard)
    assert np.array_equal(landed, again)  # the planes that are not stored are empty


def on_grid(mask: Payload, image: Payload) -> np.ndarray:
    """(z y x) the mask's numbers at the voxels of the image; 0 outside it."""
    assert mask.to_world is not None
    assert image.to_world is not None
    result = np.zeros(image.array.shape[1:], np.float32)
    for place in np.ndindex(*result.shape):
        at = np.linalg.inv(mask.to_world) @ image.to_world @ [*place[::-1], 1.0]
        z, y, x = np.rint(at[2::-1]).astype(int)
        if all(0 <= i < n for i, n in zip((z, y, x), mask.array.shape[1:], strict=True)):
            result[place] = mask.array[0, z, y, x]
    return result


@pytest.mark.parametrize("late", ["mask", "series"])
@pytest.mark.parametrize("reach", [(True, True), (True, False), (False, True)])
def test_a_mask_of_a_series_in_runs_is_laid_on_each_run_that_it_reaches(
    tmp_path: Path, write_series: Callable[..., list[FileDataset]], late: str, reach: tuple[bool, bool]
) -> None:
    folder = tmp_path / "in"
    (folder / "series").mkdir(parents=True)
    images, labels = write_series(folder / "series", SHAPE), drawn()
    labels[3:5] = 0
    labels[5, 1:4, 1:5] = 2
    labels[:3] *= reach[0]
    labels[4:] *= reach[1]
    (folder / "series/3.dcm").unlink()  # the one in the middle
    segmentation(tmp_path / "seg.dcm", images, labels)
    if late == "mask":
        ingest(folder, tmp_path / "c")
        shutil.copy(tmp_path / "seg.dcm", folder)
    else:
        shutil.move(folder / "series", tmp_path / "series")
        shutil.copy(tmp_path / "seg.dcm", folder)
        ingest(folder, tmp_path / "c")
        shutil.move(tmp_path / "series", folder / "series")
    cohort = ingest(folder, tmp_path / "c")
    (gap,) = cohort.rejected()
    assert gap.found.startswith("a series with missing slices")
    runs = sorted((r for r in cohort.records() if r.attributes.get("run")), key=lambda r: str(r.attributes["run"]))
    masks = {str(r.attributes["mask_of"]): r for r in cohort.records() if r.attributes.get("mask")}
    assert [r.id in masks for r in runs] == list(reach)
    assert len({r.id for r in cohort.records()}) == len(cohort.records()) == 2 + sum(reach)
    for run, part in zip(runs, (labels[:3], labels[4:]), strict=True):
        if run.id in masks:
            assert masks[run.id].patient == run.patient
            assert np.array_equal(on_grid(cohort.load(masks[run.id]), cohort.load(run)), part)
            assert cohort.records(f"id = '{masks[run.id].id}'") == [masks[run.id]]


def test_a_mask_that_lies_where_slices_are_missing_is_of_no_run(
    tmp_path: Path, write_series: Callable[..., list[FileDataset]]
) -> None:
    images, labels = write_series(tmp_path, SHAPE), np.zeros((7, *SHAPE), np.uint8)
    labels[3, 2:5, 2:5] = 1
    segmentation(tmp_path / "seg.dcm", images, labels, names=("Liver",))
    (tmp_path / "3.dcm").unlink()
    cohort = ingest(tmp_path, tmp_path / "c")
    (mask,) = cohort.records("(attributes->>'mask')::bool")
    assert "mask_of" not in mask.attributes


def test_a_mask_of_an_enhanced_image_in_runs_is_laid_on_them(
    tmp_path: Path, write_series: Callable[..., list[FileDataset]]
) -> None:
    from highdicom.legacy import LegacyConvertedEnhancedCTImage

    (tmp_path / "series").mkdir()
    (tmp_path / "in").mkdir()
    images = write_series(tmp_path / "series", SHAPE)
    whole = LegacyConvertedEnhancedCTImage(images[:3] + images[4:], "1.77", 2, generate_uid(), 1)
    whole.save_as(tmp_path / "in/whole.dcm")
    labels = np.delete(drawn(), 3, axis=0)
    segmentation(tmp_path / "in/seg.dcm", [whole], labels)
    cohort = ingest(tmp_path / "in", tmp_path / "out")
    runs = [r for r in cohort.records() if r.attributes.get("run")]
    masks = {str(r.attributes["mask_of"]): r for r in cohort.records() if r.attributes.get("mask")}
    assert len(runs) == len(masks) == 2
    laid = [on_grid(cohort.load(masks[r.id]), cohort.load(r)) for r in sorted(runs, key=lambda r: r.uri)]
    assert np.array_equal(np.concatenate(laid), labels)


def test_a_mask_with_places_of_nuclear_medicine_is_of_a_volume(
    tmp_path: Path, write_series: Callable[..., list[FileDataset]]
) -> None:
    """Even one of a single plane: what is planar has no places."""
    from highdicom.legacy import LegacyConvertedEnhancedCTImage

    (tmp_path / "series").mkdir()
    whole = LegacyConvertedEnhancedCTImage(write_series(tmp_path / "series", SHAPE), "1.77", 2, generate_uid(), 1)
    labels = np.zeros((7, *SHAPE), np.uint8)
    labels[2, 2:5, 2:5] = 1
    made = segmentation(tmp_path / "seg.dcm", [whole], labels, names=("Lesion",))
    (named,) = made.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    named.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.20"
    made.save_as(tmp_path / "seg.dcm")
    (record,) = taken(tmp_path / "seg.dcm")
    assert (record.modality, record.attributes["stem"]) == (Modality.VOLUME, whole.SOPInstanceUID)


def test_an_enhanced_image_is_linked_by_its_instance(
    tmp_path: Path, write_series: Callable[..., list[FileDataset]]
) -> None:
    from highdicom.legacy import LegacyConvertedEnhancedCTImage

    (tmp_path / "series").mkdir()
    (tmp_path / "in").mkdir()
    images = write_series(tmp_path / "series", SHAPE)
    whole = LegacyConvertedEnhancedCTImage(images, "1.77", 2, generate_uid(), 1)
    whole.save_as(tmp_path / "in/whole.dcm")
    made = segmentation(tmp_path / "in/seg.dcm", [whole], drawn())
    cohort = ingest(tmp_path / "in", tmp_path / "out")
    assert not cohort.rejected()
    volume, mask = sorted(cohort.records(), key=lambda r: bool(r.attributes.get("mask")))
    assert volume.modality is mask.modality is Modality.VOLUME
    assert mask.attributes["mask_of"] == volume.id
    assert np.allclose(places(cohort.load(mask), 1), places(by_highdicom(made), 1), atol=1e-2)


def test_a_mask_of_one_slice_is_linked_to_its_image(tmp_path: Path, shared_data: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("ct_image", "seg_image_ct_binary_single_frame"):
        shutil.copy(shared_data / f"dicom-objects/{name}.dcm", tmp_path / "in")
    cohort = ingest(tmp_path / "in", tmp_path / "out")
    image, mask = sorted(cohort.records(), key=lambda r: bool(r.attributes.get("mask")))
    assert image.modality is mask.modality is Modality.IMAGE
    assert mask.attributes["mask_of"] == image.id
    raw = pydicom.dcmread(tmp_path / "in/seg_image_ct_binary_single_frame.dcm").pixel_array
    assert np.array_equal(cohort.load(mask).array[0], raw)
    to_world = cohort.load(mask).to_world, cohort.load(image).to_world
    assert np.allclose(to_world[0][:, [0, 1, 3]], to_world[1][:, [0, 1, 3]])  # type: ignore[index]


def test_a_mask_of_a_radiograph_has_no_place(shared_data: Path) -> None:
    path = shared_data / "dicom-objects/seg_image_cr_binary.dcm"
    (record,) = taken(path)
    payload = records.load(record, path.parent)
    assert record.modality is Modality.IMAGE
    assert payload.to_world is None
    assert np.array_equal(payload.array[0], pydicom.dcmread(path).pixel_array)


def test_segments_that_overlap_are_a_record_each(
    tmp_path: Path, write_series: Callable[..., list[FileDataset]]
) -> None:
    both = np.zeros((7, *SHAPE, 2), np.uint8)
    both[2, 2:8, 2:8, 0] = 1
    both[2, 4:6, 4:6, 1] = 1
    segmentation(tmp_path / "seg.dcm", write_series(tmp_path, SHAPE), both, names=("Liver", "Tumour"))
    found = taken(tmp_path / "seg.dcm")
    assert [r.kind for r in found] == ["MASK liver", "MASK tumour"]
    assert len({r.id for r in found}) == 2
    assert [records.load(r, tmp_path).array.sum() for r in found] == [36, 4]
    assert [r.attributes["segment_1"] for r in found] == ["Liver", "Tumour"]


def test_a_fractional_segment_is_where_it_is_half_or_more(
    tmp_path: Path, write_series: Callable[..., list[FileDataset]]
) -> None:
    share = np.zeros((7, *SHAPE), np.float32)
    share[3, 5, :5] = [0.2, 0.4, 0.6, 0.8, 1.0]
    segmentation(tmp_path / "seg.dcm", write_series(tmp_path, SHAPE), share, "FRACTIONAL", names=("Liver",))
    (record,) = taken(tmp_path / "seg.dcm")
    assert record.attributes["segmentation"] == "fractional probability"
    assert records.load(record, tmp_path).array[0, 0, 5, :6].tolist() == [0, 0, 1, 1, 1, 0]


SLIDE_MASKS = ("control", "control_labelmap", "control_labelmap_palette_color", "dots", "dots_tiled_full", "numbers")


@pytest.mark.parametrize("name", SLIDE_MASKS)
def test_segments_of_a_slide_lie_where_highdicom_puts_them(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = shared_data / f"dicom-objects/seg_image_sm_{name}.dcm"
    (record,) = taken(path)
    whole = records.load(record, path.parent)
    truth = highdicom.seg.segread(path).get_total_pixel_matrix(combine_segments=True)
    assert record.modality is Modality.SLIDE
    assert np.array_equal(whole.array, truth[None])
    assert len(np.unique(truth)) > 10
    assert all(f"segment_{int(n)}" in record.attributes for n in np.unique(truth) if n)
    monkeypatch.setattr(dicom_segmentation, "LARGEST_SIDE", 16)  # every fourth of fifty
    (record,) = taken(path)
    sampled = records.load(record, path.parent)
    assert record.attributes["sampled_every"] == 4
    assert np.array_equal(sampled.array, truth[None, ::4, ::4])
    assert sampled.to_world is not None
    assert whole.to_world is not None
    assert np.allclose(sampled.to_world @ [3, 7, 0, 1], whole.to_world @ [12, 28, 0, 1])


def test_a_mask_of_a_slide_lies_on_the_slide_that_it_names(shared_data: Path, tmp_path: Path) -> None:
    shutil.copy(shared_data / "dicom-objects/seg_image_sm_control_labelmap.dcm", tmp_path)
    shutil.copy(shared_data / "dicom-objects/sm_image.dcm", tmp_path)
    cohort = ingest(tmp_path, tmp_path / "cohort")
    (mask,), (slide,) = (cohort.records(f"(attributes->>'mask') is {null} null") for null in ("not", ""))
    assert mask.attributes["mask_of"] == slide.id
    laid, seen = cohort.load(mask).to_world, cohort.load(slide).to_world
    assert laid is not None
    assert seen is not None
    assert np.allclose(laid, seen, atol=1e-6)


def test_a_mask_whose_image_is_not_here_waits_for_it(
    tmp_path: Path, write_series: Callable[..., list[FileDataset]]
) -> None:
    images, folder = write_series(tmp_path, SHAPE), tmp_path / "in"
    folder.mkdir()
    segmentation(folder / "seg.dcm", images, drawn())
    cohort = ingest(folder, tmp_path / "cohort")
    (mask,) = cohort.records()
    assert mask.attributes["source_uid"] == images[0].SeriesInstanceUID
    assert "mask_of" not in mask.attributes
    assert cohort.rejected() == []
    assert cohort.describe()["modality"] == {}  # it is no input
    for path in tmp_path.glob("*.dcm"):
        shutil.copy(path, folder)
    cohort = ingest(folder, tmp_path / "cohort")
    (image,) = cohort.records("(attributes->>'mask') is null")
    (mask,) = cohort.records("(attributes->>'mask')::bool")
    assert mask.attributes["mask_of"] == image.id


def _no_place(seg: Any) -> None:
    del seg.PerFrameFunctionalGroupsSequence[3].PlanePositionSlideSequence


def _outside(seg: Any) -> None:
    seg.PerFrameFunctionalGroupsSequence[3].PlanePositionSlideSequence[0].RowPositionInTotalImagePixelMatrix = 51


@pytest.mark.parametrize(
    ("name", "spoil", "reason"),
    [
        ("dots", _no_place, "frame 4 without a place"),
        ("dots", _outside, "frame 4 outside its slide"),
        ("dots", lambda seg: setattr(seg, "TotalPixelMatrixRows", 0), "a slide's segmentation without a size"),
        ("dots", lambda seg: delattr(seg, "TotalPixelMatrixRows"), "a segmentation "),
        (
            "dots_tiled_full",
            lambda seg: setattr(seg, "TotalPixelMatrixRows", 2**31),
            "1250 frames of 10 × 10 for 50 × ",
        ),
        ("dots_tiled_full", lambda seg: setattr(seg, "TotalPixelMatrixRows", 20), "1250 frames of 10 tiles"),
    ],
)
def test_a_segmentation_of_a_slide_that_is_none_is_refused(
    shared_data: Path, tmp_path: Path, name: str, spoil: Callable[[Any], object], reason: str
) -> None:
    seg = pydicom.dcmread(shared_data / f"dicom-objects/seg_image_sm_{name}.dcm")
    spoil(seg)
    pydicom.dcmwrite(tmp_path / "bad.dcm", seg)
    (found,) = reasons(tmp_path / "bad.dcm")
    assert found.startswith(reason)


def _unnamed(seg: Any) -> None:
    del seg.ReferencedSeriesSequence
    for item in seg.PerFrameFunctionalGroupsSequence:
        item.DerivationImageSequence = []


def _twice(seg: Any) -> None:
    seg.PerFrameFunctionalGroupsSequence[1] = seg.PerFrameFunctionalGroupsSequence[0]


def _turned(seg: Any) -> None:
    turn = Dataset()
    turn.ImageOrientationPatient = [0, 1, 0, 1, 0, 0]
    seg.PerFrameFunctionalGroupsSequence[1].PlaneOrientationSequence = [turn]


def _moved(seg: Any) -> None:
    position = seg.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0].ImagePositionPatient
    position[0] = float(position[0]) + 3


def _far(seg: Any) -> None:
    place = seg.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0]
    normal = np.cross([1.0, 0, 0], [0, 1.0, 0])
    place.ImagePositionPatient = [float(v) for v in normal * 2.5e9]
    seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]


def _unknown(seg: Any) -> None:
    seg.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 7


def _several_series(seg: Any) -> None:
    other = Dataset()
    other.SeriesInstanceUID = "1.2.99"
    other.ReferencedInstanceSequence = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    seg.ReferencedSeriesSequence.append(other)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_unnamed, "a segmentation that names no image"),
        (_several_series, "a segmentation that names 7 images and no one series"),
        (_twice, "a segment with several frames at one place"),
        (_turned, "a segmentation with frames of several orientations"),
        (_moved, ("a segmentation with frames at uneven distances", "frames of a segmentation up to")),
        (_far, ("a header that promises", "a segmentation with frames at uneven")),
        (_unknown, "frame 1 of a segment that is not described"),
        (lambda seg: setattr(seg, "PixelData", b"\0\0"), "pixel data that was cut short"),
        (lambda seg: setattr(seg, "NumberOfFrames", 2**31 - 1), "a header that promises"),
        (lambda seg: setattr(seg, "NumberOfFrames", 100_000), "100000 frames with functional groups for 4"),
    ],
)
def test_a_segmentation_that_is_none_is_refused(
    tmp_path: Path, write_series: Callable[..., list[FileDataset]], spoil: Callable[[Any], object], reason: Any
) -> None:
    seg = segmentation(tmp_path / "seg.dcm", write_series(tmp_path, SHAPE), drawn())
    spoil(seg)
    pydicom.dcmwrite(tmp_path / "bad.dcm", seg)
    (found,) = reasons(tmp_path / "bad.dcm")
    assert found.startswith(reason)


def test_frames_for_other_functional_groups_are_refused() -> None:
    path = Path(str(get_testdata_file("liver_1frame.dcm", download=False)))
    assert reasons(path) == ["1 frames with functional groups for 3"]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.98])
def test_a_segmentation_that_was_cut_short_is_refused(
    tmp_path: Path, write_series: Callable[..., list[FileDataset]], share: float
) -> None:
    segmentation(tmp_path / "seg.dcm", write_series(tmp_path, SHAPE), drawn())
    data = (tmp_path / "seg.dcm").read_bytes()
    (tmp_path / "bad.dcm").write_bytes(data[: int(len(data) * share)])
    assert not taken(tmp_path / "bad.dcm")
    assert reasons(tmp_path / "bad.dcm")
