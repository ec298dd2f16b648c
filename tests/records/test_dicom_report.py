from __future__ import annotations

from pathlib import Path
from typing import Any

import highdicom
import pydicom
import pytest
from pydicom.config import disable_value_validation
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from polyclinic import records
from polyclinic.cohort.ingest import ingest
from polyclinic.schema import Modality
from reading import reasons, taken


@pytest.fixture
def report(shared_data: Path) -> Path:
    return shared_data / "dicom-objects/sr_document_with_multiple_groups.dcm"


def test_the_groups_are_those_of_highdicom(report: Path) -> None:
    content: Any = highdicom.sr.srread(report).content
    groups = [
        *content.get_image_measurement_groups(),
        *content.get_planar_roi_measurement_groups(),
        *content.get_volumetric_roi_measurement_groups(),
    ]
    found = taken(report)
    assert len(found) == len(groups) == 4
    for record, group in zip(found, groups, strict=True):
        assert record.modality is Modality.TABLE
        measured = [v for v in record.attributes.values() if not isinstance(v, str)]
        assert measured == pytest.approx([float(m.value) for m in group.get_measurements()])
        names = [k for k, v in record.attributes.items() if not isinstance(v, str)]
        expected = [f"{m.name.meaning} ({m.unit.value})" for m in group.get_measurements()]
        assert names == expected
        finding = getattr(group, "finding_type", None)
        assert record.attributes.get("Finding") == (finding.meaning if finding else None)
    assert len({r.id for r in found}) == 4
    assert found[1].kind == "SR measurements nodule"


def test_what_is_thought_of_a_value_makes_no_other_column(shared_data: Path) -> None:
    (record,) = taken(shared_data / "dicom-objects/sr_document.dcm")
    assert record.attributes == {
        "Finding": "Spinal cord", "Finding Site": "Cervico-thoracic spine", "Area of defined region (cm2)": 1.7,
    }  # fmt: skip
    assert records.load(record, shared_data / "dicom-objects").names == (
        "Finding=Spinal cord", "Finding Site=Cervico-thoracic spine", "Area of defined region (cm2)",
    )  # fmt: skip


def coded(value: str, meaning: str) -> list[Dataset]:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
    return [code]


def group_of(dataset: Any) -> Any:
    measurements = next(i for i in dataset.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "126010")
    return measurements.ContentSequence[1]


def test_the_derivation_is_part_of_what_was_measured(report: Path, tmp_path: Path) -> None:
    dataset = pydicom.dcmread(report)
    group = group_of(dataset)
    number = next(i for i in group.ContentSequence if i.ValueType == "NUM")
    derived = Dataset()
    derived.RelationshipType, derived.ValueType = "HAS CONCEPT MOD", "CODE"
    derived.ConceptNameCodeSequence, derived.ConceptCodeSequence = (
        coded("121401", "Derivation"),
        coded("G-A437", "Maximum"),
    )
    number.ContentSequence = [derived]
    group.ContentSequence.append(number)
    dataset.save_as(tmp_path / "a.dcm")
    cells = taken(tmp_path / "a.dcm")[1].attributes
    assert cells["Diameter, Maximum (mm)"] == 10
    assert cells["Diameter, Maximum (mm) #2"] == 10  # measured twice


@pytest.mark.parametrize("value", [None, "1e400", "nan"])
def test_what_was_not_measured_is_absent(report: Path, tmp_path: Path, value: str | None) -> None:
    dataset = pydicom.dcmread(report)
    number = next(i for i in group_of(dataset).ContentSequence if i.ValueType == "NUM")
    if value is None:
        number.MeasuredValueSequence = []
    else:
        with disable_value_validation():
            number.MeasuredValueSequence[0].add_new("NumericValue", "DS", "1")
            number.MeasuredValueSequence[0].NumericValue = value
    dataset.save_as(tmp_path / "a.dcm")
    assert not [v for v in taken(tmp_path / "a.dcm")[1].attributes.values() if not isinstance(v, str)]


def test_names_of_lesions_people_and_free_text_stay_out(report: Path) -> None:
    assert not [r for r in taken(report) if "0001" in str(r.attributes)]


def test_a_report_without_a_measurement_is_refused(report: Path, tmp_path: Path) -> None:
    dataset = pydicom.dcmread(report)
    dataset.ContentSequence = dataset.ContentSequence[:2]
    dataset.save_as(tmp_path / "a.dcm")
    assert reasons(tmp_path / "a.dcm") == ["a measurement report without a measurement"]


def test_another_report_is_refused_by_its_title(tmp_path: Path, report: Path) -> None:
    path = Path(str(get_testdata_file("test-SR.dcm", download=False)))
    assert reasons(path) == ["a DICOM object of modality SR (Diagnosis)"]
    dataset = pydicom.dcmread(report)
    dataset.ContentTemplateSequence[0].TemplateIdentifier = "2000"
    dataset.ConceptNameCodeSequence = coded("11528-7", "Radiology Report")
    dataset.save_as(tmp_path / "a.dcm")
    assert reasons(tmp_path / "a.dcm") == ["a DICOM object of modality SR (Radiology Report, TID 2000)"]


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_report_that_was_cut_short_is_refused(report: Path, tmp_path: Path, share: float) -> None:
    data = report.read_bytes()
    (tmp_path / "a.dcm").write_bytes(data[: int(len(data) * share)])
    assert not taken(tmp_path / "a.dcm")
    assert reasons(tmp_path / "a.dcm")


def test_a_report_that_nests_without_end_is_refused(tmp_path: Path, report: Path) -> None:
    data = report.read_bytes()
    at = data.index(b"\x40\x00\x30\xa7SQ")  # ContentSequence
    deep = b"\x40\x00\x30\xa7SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 20_000
    (tmp_path / "a.dcm").write_bytes(data[:at] + deep)
    assert not taken(tmp_path / "a.dcm")
    assert reasons(tmp_path / "a.dcm")


def test_its_columns_are_a_cohorts_columns(report: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.dcm").write_bytes(report.read_bytes())
    cohort = ingest(tmp_path / "in", tmp_path / "out")
    answer = cohort.query(
        "select attributes->>'Diameter (mm)' as mm from records where kind = 'SR measurements nodule'"
    )
    assert answer["mm"].to_pylist() == ["10.0"]
