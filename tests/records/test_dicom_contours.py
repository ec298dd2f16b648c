from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from polyclinic import records
from polyclinic.cohort import ingest
from polyclinic.harmonise import Fingerprint, VolumeStandard, harmonise
from polyclinic.harmonise.volume import harmonise_mask
from polyclinic.records.dicom_contours import filled
from polyclinic.schema import Modality, Record
from reading import reasons, taken

SHAPE = (60, 80)  # at 0.8 × 0.6 mm: 48 × 48 mm


def circle(radius_mm: float, centre: tuple[float, float] = (24.0, 24.0), corners: int = 400) -> np.ndarray:
    """(n 2) mm from the first pixel's centre, along a row and a column."""
    angle = 2 * np.pi * np.arange(corners) / corners
    return np.column_stack([centre[0] + radius_mm * np.cos(angle), centre[1] + radius_mm * np.sin(angle)])


def structures(
    path: Path,
    images: Sequence[Dataset],
    regions: dict[str, list[tuple[int | float, np.ndarray]]],
    kind: str = "CLOSED_PLANAR",
) -> Path:
    """A structure set of contours on the planes of a series: of each the plane's number and the outline in its plane in mm."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = RTStructureSetStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID, made.Modality = (
        RTStructureSetStorage,
        meta.MediaStorageSOPInstanceUID,
        "RTSTRUCT",
    )
    made.PatientID, made.StudyDate, made.SeriesInstanceUID = "P1", "20200102", generate_uid()
    made.ReferencedFrameOfReferenceSequence = Items([reference(images)])
    origin, cosines = (
        np.array(images[0].ImagePositionPatient, float),
        np.array(images[0].ImageOrientationPatient, float).reshape(2, 3),
    )
    step = (np.array(images[-1].ImagePositionPatient, float) - origin) / max(len(images) - 1, 1)
    made.StructureSetROISequence, made.ROIContourSequence, made.RTROIObservationsSequence = Items(), Items(), Items()
    for number, (name, contours) in enumerate(regions.items(), start=1):
        region, drawn, observed = Dataset(), Dataset(), Dataset()
        region.ROINumber, region.ROIName = number, name
        drawn.ReferencedROINumber, drawn.ContourSequence = number, Items()
        observed.ReferencedROINumber, observed.RTROIInterpretedType = number, "ORGAN"
        for plane, outline in contours:
            contour = Dataset()
            points = origin + plane * step + outline @ cosines
            contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(points)
            contour.ContourData = [f"{v:.9g}" for v in points.reshape(-1)]
            drawn.ContourSequence.append(contour)
        made.StructureSetROISequence.append(region)
        made.ROIContourSequence.append(drawn)
        made.RTROIObservationsSequence.append(observed)
    made.save_as(path, enforce_file_format=True)
    return path


def reference(images: Sequence[Dataset]) -> Dataset:
    frame, study, series = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = images[0].SeriesInstanceUID
    series.ContourImageSequence = Items()
    for image in images:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
        series.ContourImageSequence.append(item)
    study.RTReferencedSeriesSequence = Items([series])
    frame.RTReferencedStudySequence = Items([study])
    return frame


def masks(path: Path) -> list[np.ndarray]:
    return [records.load(record, path.parent).array[0] for record in taken(path)]


def test_a_region_is_a_mask_on_its_images_grid(tmp_path: Path, write_series: Callable[..., list[FileDataset]]) -> None:
    (tmp_path / "ct").mkdir()
    images = write_series(tmp_path / "ct", SHAPE)
    path = structures(
        tmp_path / "ct/rs.dcm", images, {"Liver": [(2, circle(15)), (3, circle(10))], "Cord": [(0, circle(4))]}
    )
    liver, cord = taken(path)
    assert (liver.modality, liver.kind, liver.patient) == (Modality.VOLUME, "MASK liver", "P1")
    assert liver.attributes["mask"] is True
    assert liver.attributes["stem"] == "1.2.3"
    assert (liver.attributes["segment_1"], liver.attributes["interpreted"]) == ("Liver", "organ")
    assert cord.uri == "rs.dcm#roi=2"
    payload = records.load(liver, tmp_path / "ct")
    image = next(r for r in records.together(sorted((tmp_path / "ct").iterdir())) if len(r.paths) > 1)
    (volume,) = (r for r in records.read_together(image, tmp_path) if isinstance(r, Record))
    on = records.load(volume, tmp_path)
    assert payload.array.shape == on.array.shape
    assert payload.to_world is not None
    assert on.to_world is not None
    assert np.allclose(payload.to_world, on.to_world)
    area_mm2 = payload.array[0].sum((1, 2)) * 0.8 * 0.6
    assert area_mm2 == pytest.approx([0, 0, np.pi * 15**2, np.pi * 10**2, 0, 0, 0], rel=0.01)
    rows, columns = np.nonzero(payload.array[0, 2])
    assert (rows.mean() * 0.8, columns.mean() * 0.6) == pytest.approx((24, 24), abs=0.05)


def test_the_catalogue_links_a_region_to_its_series_and_both_land_on_one_grid(
    tmp_path: Path, write_series: Callable[..., list[FileDataset]]
) -> None:
    for folder in ("in/p/ct", "in/p/rt"):
        (tmp_path / folder).mkdir(parents=True)
    images = write_series(tmp_path / "in/p/ct", SHAPE)
    structures(tmp_path / "in/p/rt/rs.dcm", images, {"Liver": [(i, circle(15)) for i in range(7)]})
    cohort = ingest(tmp_path / "in", tmp_path / "out")
    (mask,) = [r for r in cohort.records() if r.attributes.get("mask")]
    (volume,) = [r for r in cohort.records() if not r.attributes.get("mask")]
    assert mask.attributes["mask_of"] == volume.id
    standard = VolumeStandard(size=(16, 48, 48), spacing_mm=(2.5, 1.0, 1.0))
    image = harmonise(cohort.load(volume), volume, standard, Fingerprint())
    labels = harmonise_mask(cohort.load(mask), image, standard)
    assert labels.sum() * 2.5 == pytest.approx(7 * 2.5 * np.pi * 15**2, rel=0.03)


def test_contours_land_on_a_tilted_series(tmp_path: Path, write_slice: Callable[..., FileDataset]) -> None:
    images = [
        write_slice(
            tmp_path / f"{i}.dcm", np.zeros(SHAPE), ImagePositionPatient=[0, 0, 3 * i], SOPInstanceUID=f"1.7.{i}",
            ImageOrientationPatient=[1, 0, 0, 0, round(float(np.cos(0.3)), 9), round(float(np.sin(0.3)), 9)],
        )
        for i in range(5)
    ]  # fmt: skip
    path = structures(tmp_path / "rs.dcm", images, {"Liver": [(i, circle(15)) for i in range(1, 4)]})
    (mask,) = masks(path)
    assert mask.sum((1, 2)) * 0.48 == pytest.approx([0, *[np.pi * 225] * 3, 0], rel=0.01)


def test_an_inner_contour_is_a_hole_apart_or_by_a_keyhole(
    tmp_path: Path, write_series: Callable[..., list[FileDataset]]
) -> None:
    images = write_series(tmp_path, SHAPE)
    outer, inner = circle(20), circle(8)
    keyhole = np.concatenate([outer, outer[:1], inner[::-1], inner[-1:]])  # out, in along the channel, round, and back
    path = structures(tmp_path / "rs.dcm", images, {"apart": [(1, outer), (1, inner)], "keyhole": [(1, keyhole)]})
    apart, key = masks(path)
    assert apart[1].sum() * 0.48 == pytest.approx(np.pi * (20**2 - 8**2), rel=0.01)
    assert apart[1, 30, 40] == 0
    assert (apart != key).sum() <= 3  # of the channel, pixels that lie right on it


def star(corners: list[float], seed: int) -> np.ndarray:
    angle = np.sort(np.random.default_rng(seed).uniform(0, 2 * np.pi, len(corners)))
    return np.column_stack([20.3 + np.array(corners) * np.cos(angle), 15.2 + np.array(corners) * np.sin(angle)])


@settings(max_examples=60, deadline=None)
@given(corners=st.lists(st.floats(0.5, 25), min_size=3, max_size=30), seed=st.integers(0, 1000))
def test_the_pixels_are_those_whose_centre_another_program_finds_inside(corners: list[float], seed: int) -> None:
    polygon = star(corners, seed)
    y, x = np.mgrid[:30, :40]
    centres = np.column_stack([x.reshape(-1), y.reshape(-1)]).astype(float)
    expected = Outline(np.concatenate([polygon, polygon[:1]])).contains_points(centres)
    assert np.array_equal(filled([polygon], (30, 40)).reshape(-1), expected)


def test_contours_that_reach_over_the_edge_or_touch_pixel_centres_are_cut_there() -> None:
    square = np.array([[2.0, 3.0], [6.0, 3.0], [6.0, 7.0], [2.0, 7.0]])
    assert filled([square], (10, 10)).sum() == 16  # a corner on a centre counts on one side only
    assert filled([square, square + np.array([4, 0])], (10, 12)).sum() == 32  # neighbours share no pixel
    assert filled([np.array([[-50.0, -50], [50, -50], [50, 50], [-50, 50]])], (10, 12)).all()
    assert not filled([square - 40], (10, 12)).any()


@pytest.mark.parametrize("kind", ["POINT", "OPEN_PLANAR", "OPEN_NONPLANAR"])
def test_what_encloses_nothing_is_set_aside(
    tmp_path: Path, write_series: Callable[..., list[FileDataset]], kind: str
) -> None:
    path = structures(tmp_path / "rs.dcm", write_series(tmp_path, SHAPE), {"Isocentre": [(1, circle(5))]}, kind)
    assert reasons(path) == [f"region 1 of 1: a region of type {kind}, which encloses nothing"]


def test_of_a_region_that_is_none_the_reason_is_told_and_the_others_are_taken(
    tmp_path: Path, write_series: Callable[..., list[FileDataset]]
) -> None:
    images = write_series(tmp_path, SHAPE)
    path = structures(
        tmp_path / "rs.dcm", images, {"Empty": [], "Line": [(1, circle(5)[:2])], "Liver": [(1, circle(5))]}
    )
    assert [r.kind for r in taken(path)] == ["MASK liver"]
    assert reasons(path) == [
        "region 1 of 3: a region without contours", "region 2 of 3: a region whose contours have fewer than three points"
    ]  # fmt: skip
    tilted = pydicom.dcmread(path)
    tilted.ROIContourSequence[2].ContourSequence[0].ContourData[2] += 30
    tilted.save_as(tmp_path / "tilted.dcm")
    with pytest.raises(records.RecordError, match="across the image's planes"):
        masks(tmp_path / "tilted.dcm")


def test_contours_between_the_planes_count_once(tmp_path: Path, write_series: Callable[..., list[FileDataset]]) -> None:
    images = write_series(tmp_path, SHAPE)
    path = structures(
        tmp_path / "rs.dcm", images, {"fine": [(2.0, circle(15)), (2.4, circle(5)), (2.6, circle(6)), (9.0, circle(5))]}
    )
    (mask,) = masks(path)
    assert mask.sum((1, 2)) * 0.48 == pytest.approx([0, 0, np.pi * 225, np.pi * 36, 0, 0, 0], rel=0.02)


def test_without_its_image_a_mask_says_what_it_needs(
    tmp_path: Path, write_series: Callable[..., list[FileDataset]]
) -> None:
    (tmp_path / "ct").mkdir()
    images = write_series(tmp_path / "ct", SHAPE)
    path = structures(tmp_path / "ct/rs.dcm", images, {"Liver": [(1, circle(5))]})
    (tmp_path / "far/away/from").mkdir(parents=True)
    shutil.move(path, tmp_path / "far/away/from/rs.dcm")
    (record,) = taken(tmp_path / "far/away/from/rs.dcm")
    with pytest.raises(records.RecordError, match="contours whose image is not near them"):
        records.load(record, tmp_path / "far/away/from")


def test_the_structures_of_pydicom(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(str(get_testdata_file("rtstruct.dcm", download=False)), force=True)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.save_as(tmp_path / "rs.dcm", enforce_file_format=True)  # as it lies there it lacks its preamble
    (body,) = taken(tmp_path / "rs.dcm")
    assert (body.kind, body.patient, body.attributes["contours"]) == ("MASK patient", "tPhantom30sep", 3)
    assert reasons(tmp_path / "rs.dcm") == [
        f"region {n} of 3: a region of type POINT, which encloses nothing" for n in (2, 3)
    ]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (
            lambda d: d.ROIContourSequence[0].ContourSequence[0].ContourData.pop(),
            "region 1 of 1: contour data that are no points",
        ),
        (lambda d: delattr(d, "ReferencedFrameOfReferenceSequence"), "a structure set that names 0 series"),
        (lambda d: delattr(d, "StructureSetROISequence"), "a structure set without a region"),
    ],
)
def test_a_structure_set_that_is_none_is_refused(
    tmp_path: Path, write_series: Callable[..., list[FileDataset]], spoil: Callable[[Any], object], reason: str
) -> None:
    dataset: Any = pydicom.dcmread(
        structures(tmp_path / "rs.dcm", write_series(tmp_path, SHAPE), {"Liver": [(1, circle(5))]})
    )
    spoil(dataset)
    dataset.save_as(tmp_path / "bad.dcm")
    assert reasons(tmp_path / "bad.dcm") == [reason]


def test_an_outline_that_goes_to_and_fro_for_ever_is_refused() -> None:
    outline = np.tile([[1.0, -1.0], [2.0, 5000.0]], (20_000, 1))
    with pytest.raises(records.RecordError, match="too often"):
        filled([outline], (4096, 512))


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_structure_set_that_was_cut_short_gives_nothing_wrong(
    tmp_path: Path, write_series: Callable[..., list[FileDataset]], share: float
) -> None:
    path = structures(tmp_path / "rs.dcm", write_series(tmp_path, SHAPE), {"Liver": [(i, circle(5)) for i in range(7)]})
    data = path.read_bytes()
    (tmp_path / "cut.dcm").write_bytes(data[: int(share * len(data))])
    assert not taken(tmp_path / "cut.dcm")
    assert reasons(tmp_path / "cut.dcm")
