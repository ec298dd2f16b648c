"""Annotations of slides: a real object, and others as highdicom writes them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from highdicom.ann import AnnotationGroup, Measurements, MicroscopyBulkSimpleAnnotations
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from polyclinic import records
from polyclinic.cohort import Cohort, ingest
from polyclinic.cohort.catalogue import inputs
from polyclinic.records.dicom_annotations import measurements
from polyclinic.schema import Modality
from reading import reasons, refused, taken

DRAW = np.random.default_rng(4)
SHAPES: dict[str, list[np.ndarray]] = {
    "POINT": [DRAW.uniform(0, 50, (1, 2)) for _ in range(7)],
    "POLYGON": [DRAW.uniform(0, 50, (n, 2)) for n in (3, 5, 4)],
    "POLYLINE": [DRAW.uniform(0, 50, (n, 2)) for n in (2, 6)],
    "ELLIPSE": [np.array([[1.0, 5], [9, 5], [5, 3], [5, 7]]), np.array([[20.0, 20], [30, 20], [25, 18], [25, 22]])],
    "RECTANGLE": [np.array([[1.0, 1], [4, 1], [4, 3], [1, 3]])],
}


def written(path: Path, slide: Path, kinds: dict[str, list[np.ndarray]], mm: bool = False) -> Any:
    """A group a kind of shape."""
    groups = [
        AnnotationGroup(
            number=number, uid=highdicom.UID(), label=f"Nuclei {number}", annotated_property_category=codes.SCT.AnatomicalStructure,
            annotated_property_type=codes.SCT.Nucleus, graphic_type=kind, graphic_data=shapes, algorithm_type="MANUAL",
        )
        for number, (kind, shapes) in enumerate(kinds.items(), start=1)
    ]  # fmt: skip
    found = MicroscopyBulkSimpleAnnotations(
        source_images=[pydicom.dcmread(slide)], annotation_coordinate_type="3D" if mm else "2D", annotation_groups=groups,
        series_instance_uid=highdicom.UID(), series_number=1, sop_instance_uid=highdicom.UID(), instance_number=1, manufacturer="M",
        manufacturer_model_name="N", software_versions="1", device_serial_number="1",
    )  # fmt: skip
    found.save_as(path)
    return found


@pytest.fixture
def slide(shared_data: Path) -> Path:
    return shared_data / "dicom-objects/sm_image.dcm"


@pytest.mark.parametrize("kind", list(SHAPES))
def test_shapes_are_those_that_were_drawn(tmp_path: Path, slide: Path, kind: str) -> None:
    written(tmp_path / "a.dcm", slide, {kind: SHAPES[kind]})
    (record,) = taken(tmp_path / "a.dcm")
    assert (record.modality, record.kind) == (Modality.SLIDE, f"{kind}S nuclei 1")
    assert (record.attributes["shapes"], record.attributes["unit"]) == (len(SHAPES[kind]), "px")
    payload = records.load(record, tmp_path)
    assert payload.names == ("Nuclei 1",)
    for number, shape in enumerate(SHAPES[kind]):
        drawn = payload.array[payload.array[:, 2] == number, :2]
        assert np.allclose(drawn, shape, atol=1e-5)
    assert len(payload.array) == sum(map(len, SHAPES[kind]))


@pytest.mark.parametrize("level", [True, False])  # all in one plane, which is then said once, or not
def test_coordinates_in_mm_keep_their_z(tmp_path: Path, slide: Path, level: bool) -> None:
    shapes = [np.column_stack([s, np.zeros(len(s)) if level else np.arange(len(s))]) for s in SHAPES["POLYGON"]]
    written(tmp_path / "a.dcm", slide, {"POLYGON": shapes}, mm=True)
    (record,) = taken(tmp_path / "a.dcm")
    assert record.attributes["unit"] == "mm"
    array = records.load(record, tmp_path).array
    assert np.allclose(array[:, :3], np.concatenate(shapes), atol=1e-5)
    assert array[:, 3].tolist() == [0] * 3 + [1] * 5 + [2] * 4


@pytest.mark.parametrize("late", ["slide", "annotations"])
def test_a_real_object_is_linked_to_its_slide_and_no_input(shared_data: Path, tmp_path: Path, late: str) -> None:
    objects = shared_data / "dicom-objects"
    (tmp_path / "in").mkdir()
    names = ["sm_image.dcm", "sm_annotations.dcm"]
    for name in names if late == "annotations" else names[::-1]:
        shutil.copy(objects / name, tmp_path / "in" / name)
        ingest(tmp_path / "in", tmp_path / "c")
    cohort = Cohort.open(tmp_path / "c")
    assert not cohort.rejected()
    drawn = [r for r in cohort.records() if r.attributes.get("annotation")]
    (image,) = inputs(cohort.records())
    assert {str(r.attributes["mask_of"]) for r in drawn} == {image.id}
    assert {r.patient for r in drawn} == {image.patient}
    by_highdicom = highdicom.ann.annread(objects / "sm_annotations.dcm")
    assert len(drawn) == len(by_highdicom.AnnotationGroupSequence)
    for record in drawn:
        number = int(record.uri.rpartition("=")[2])
        expected = by_highdicom.get_annotation_group(number=number).get_graphic_data("2D")
        array = cohort.load(record).array
        assert np.allclose(array[:, :2], np.concatenate(expected), atol=1e-3)
        assert np.array_equal(np.bincount(array[:, 2].astype(int)), [len(e) for e in expected])


MEASURED = {
    ("Area", "um2"): np.array([4.5, np.nan, 2.25], np.float32),
    ("Perimeter", "um"): np.array([8.0, 9.0, 6.5], np.float32),
}


def with_measurements(path: Path, slide: Path, mm: bool = False) -> Any:
    """Three polygons as highdicom writes their measurements; of the second no area."""
    concept = {"Area": codes.SCT.Area, "Perimeter": Code("131191004", "SCT", "Perimeter")}
    unit = {"um2": codes.UCUM.SquareMicrometer, "um": codes.UCUM.Micrometer}
    shapes = [np.column_stack([s, np.arange(len(s))]) if mm else s for s in SHAPES["POLYGON"]]
    group = AnnotationGroup(
        number=1, uid=highdicom.UID(), label="Nuclei", annotated_property_category=codes.SCT.AnatomicalStructure,
        annotated_property_type=codes.SCT.Nucleus, graphic_type="POLYGON", graphic_data=shapes, algorithm_type="MANUAL",
        measurements=[Measurements(name=concept[n], values=v, unit=unit[u]) for (n, u), v in MEASURED.items()],
    )  # fmt: skip
    made = written(path, slide, {"POINT": SHAPES["POINT"]}, mm=False)
    made.AnnotationGroupSequence = [group]
    if mm:
        made.AnnotationCoordinateType = "3D"
    made.save_as(path)
    return made


@pytest.mark.parametrize("mm", [False, True])
def test_measurements_are_those_of_each_shape(tmp_path: Path, slide: Path, mm: bool) -> None:
    made = with_measurements(tmp_path / "a.dcm", slide, mm)
    (record,) = taken(tmp_path / "a.dcm")
    assert [record.attributes[f"measurement_{i}"] for i in (1, 2)] == ["Area [um2]", "Perimeter [um]"]
    assert record.attributes["shapes"] == 3
    payload = records.load(record, tmp_path)
    assert payload.names == ("Nuclei", "Area [um2]", "Perimeter [um]")
    found = measurements(payload)
    by_highdicom = made.AnnotationGroupSequence[0].get_measurements()[1].T
    for (name, unit), values, theirs in zip(MEASURED, MEASURED.values(), by_highdicom, strict=True):
        assert np.array_equal(found[f"{name} [{unit}]"], values, equal_nan=True)
        assert np.array_equal(theirs, values, equal_nan=True)
    width = 3 if mm else 2
    assert payload.array[:, width].tolist() == [0] * 3 + [1] * 5 + [2] * 4  # whose number is where it was
    assert payload.array[:, width + 2].tolist() == [8.0] * 3 + [9.0] * 5 + [6.5] * 4


def test_a_group_without_measurements_has_none(tmp_path: Path, slide: Path) -> None:
    written(tmp_path / "a.dcm", slide, {"POINT": SHAPES["POINT"]})
    (record,) = taken(tmp_path / "a.dcm")
    payload = records.load(record, tmp_path)
    assert payload.array.shape == (7, 3)
    assert measurements(payload) == {}


def _spoiled(item: Any, **values: list[float]) -> None:
    held = item.MeasurementValuesSequence[0]
    for keyword, numbers in values.items():
        setattr(
            held, keyword, np.array(numbers, np.uint32 if keyword == "AnnotationIndexList" else np.float32).tobytes()
        )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"FloatingPointValues": [1.0]}, "1 values of 2"),  # of two shapes that are listed
        ({"AnnotationIndexList": [1, 1]}, "2 values of 2"),
        ({"AnnotationIndexList": [0, 1]}, "2 values of 2"),
        ({"AnnotationIndexList": [1, 4]}, "2 values of 2"),
    ],
)
def test_measurements_that_do_not_fit_are_set_aside_and_their_shapes_are_not(
    tmp_path: Path, slide: Path, values: dict[str, list[float]], said: str
) -> None:
    made = with_measurements(tmp_path / "a.dcm", slide)
    _spoiled(made.AnnotationGroupSequence[0].MeasurementsSequence[0], **values)
    made.save_as(tmp_path / "a.dcm")
    assert reasons(tmp_path / "a.dcm") == [f"Area [um2]: {said} of 3 shapes"]
    (record,) = taken(tmp_path / "a.dcm")
    assert "measurement_2" not in record.attributes
    assert list(measurements(records.load(record, tmp_path))) == ["Perimeter [um]"]


def test_measurements_of_one_name_are_told_apart(tmp_path: Path, slide: Path) -> None:
    made = with_measurements(tmp_path / "a.dcm", slide)
    group = made.AnnotationGroupSequence[0]
    group.MeasurementsSequence = [group.MeasurementsSequence[1], group.MeasurementsSequence[1]]
    made.save_as(tmp_path / "a.dcm")
    (record,) = taken(tmp_path / "a.dcm")
    assert list(measurements(records.load(record, tmp_path))) == ["Perimeter [um]", "Perimeter [um] 2"]


def test_a_group_that_contradicts_itself_is_set_aside_by_its_number(tmp_path: Path, slide: Path) -> None:
    found = written(tmp_path / "a.dcm", slide, SHAPES)
    groups = found.AnnotationGroupSequence
    groups[0].NumberOfAnnotations = 6
    groups[1].LongPrimitivePointIndexList = np.array([1, 7, 5], np.int32).tobytes()
    groups[3].PointCoordinatesData = np.full(16, np.nan, np.float32).tobytes()
    if "DoublePointCoordinatesData" in groups[3]:
        del groups[3].DoublePointCoordinatesData
    groups[4].PointCoordinatesData = b""
    if "DoublePointCoordinatesData" in groups[4]:
        del groups[4].DoublePointCoordinatesData
    found.save_as(tmp_path / "a.dcm")
    said = reasons(tmp_path / "a.dcm")
    assert [s.split(":")[0] for s in said] == ["group 1", "group 2", "group 4", "group 5"]
    assert [r.kind for r in taken(tmp_path / "a.dcm")] == ["POLYLINES nuclei 3"]


def test_annotations_of_no_slide_are_refused(tmp_path: Path, slide: Path) -> None:
    found = written(tmp_path / "a.dcm", slide, {"POINT": SHAPES["POINT"]})
    del found.ReferencedSeriesSequence
    del found.ReferencedImageSequence
    found.save_as(tmp_path / "a.dcm")
    assert refused(tmp_path / "a.dcm") == "annotations of 0 slides"
