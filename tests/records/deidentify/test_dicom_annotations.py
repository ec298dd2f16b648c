"""Annotations of slides (ANN): what was planted is gone, shapes and measurements are the same, and they still lie on their slide."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from polyclinic import records
from polyclinic.cohort import ingest
from polyclinic.records.deidentify import Report, deidentify
from polyclinic.records.dicom_annotations import measurements
from polyclinic.schema import Record

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, of what is planted

PLANTED = {
    "name": "ZEBEDEE", "patient id": "MRN8847213", "accession": "ACC20447", "container": "CONT-4471", "specimen": "SPEC-9921",
    "birth date": "19310405", "content date": "20190316", "creator": "OKONJO", "referring": "VANDERMEER", "serial": "SN-771-ZZ",
    "label": "Zebedee", "group description": "drawn by Okonjo on 3/14/2019", "group uid": "1.3.6.1.4.1.99999.9.20190314.1",
    "algorithm parameters": "path=/home/zebedee", "content description": "slide of Mr. Zebedee, MRN 8847213", "private": "PRIVATE ZEBEDEE",
    "nested private": "NESTED PRIVATE", "series uid": "1.3.6.1.4.1.99999.9.20190314.2", "instance uid": "1.3.6.1.4.1.99999.9.20190314.3",
    "institution": "Saint Elsewhere", "measured": "size for Zebedee", "tracking": "TRACK-ZEBEDEE", "issuer": "ELSEWHERE_URI",
}  # fmt: skip


def concept(value: str, meaning: str, scheme: str = "SCT") -> Dataset:
    made = Dataset()
    made.CodeValue, made.CodingSchemeDesignator, made.CodeMeaning = value, scheme, meaning
    return made


def private(dataset: Dataset, value: str) -> None:
    dataset.private_block(0x0011, "ELSEWHERE", create=True).add_new(1, "LO", value)


def plant(dataset: Any) -> None:
    """Identifiers wherever such an object can hold one, a measurement whose name says whose it is among them."""
    p = PLANTED
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = (
        f"{p['name']}^X",
        p["patient id"],
        p["birth date"],
    )
    dataset.AccessionNumber, dataset.ContainerIdentifier = p["accession"], p["container"]
    dataset.SpecimenDescriptionSequence[0].SpecimenIdentifier = p["specimen"]
    dataset.ContentDate, dataset.ContentCreatorName = p["content date"], p["creator"]
    dataset.ContentDescription, dataset.ReferringPhysicianName = p["content description"], p["referring"]
    dataset.DeviceSerialNumber, dataset.InstitutionName = p["serial"], p["institution"]
    dataset.SeriesInstanceUID, dataset.SOPInstanceUID = p["series uid"], p["instance uid"]
    dataset.file_meta.MediaStorageSOPInstanceUID = p["instance uid"]
    private(dataset, p["private"])
    group = dataset.AnnotationGroupSequence[0]
    group.AnnotationGroupLabel, group.AnnotationGroupUID = f"Nuclei {p['label']}", p["group uid"]
    group.AnnotationGroupDescription = p["group description"]
    algorithm = Dataset()
    algorithm.AlgorithmFamilyCodeSequence = [concept("123109", "Manual Processing", "DCM")]
    algorithm.AlgorithmName, algorithm.AlgorithmVersion, algorithm.AlgorithmParameters = (
        "Net",
        "1",
        p["algorithm parameters"],
    )
    group.AnnotationGroupAlgorithmIdentificationSequence = [algorithm]
    group.TrackingID = p["tracking"]
    private(group, p["nested private"])
    issuer = Dataset()
    issuer.UniversalEntityID, issuer.UniversalEntityIDType = p["issuer"], "URI"
    dataset.IssuerOfPatientIDQualifiersSequence = [issuer]
    count = int(group.NumberOfAnnotations)
    named = [concept("42798000", "Area"), concept("1", p["measured"], "99LOCAL")]
    items = []
    for number, name in enumerate(named):
        held, item = Dataset(), Dataset()
        held.FloatingPointValues = (np.arange(count, dtype=np.float32) + number).tobytes()
        item.ConceptNameCodeSequence, item.MeasurementValuesSequence = [name], [held]
        item.MeasurementUnitsCodeSequence = [concept("um2", "square micrometer", "UCUM")]
        items.append(item)
    group.MeasurementsSequence = items


@pytest.fixture(scope="module")
def done(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Report]:
    place = tmp_path_factory.mktemp("annotated")
    (place / "source/ZEBEDEE").mkdir(parents=True)
    shutil.copy(shared_data / "dicom-objects/sm_image.dcm", place / "source/ZEBEDEE/slide.dcm")
    dataset = pydicom.dcmread(shared_data / "dicom-objects/sm_annotations.dcm")
    plant(dataset)
    dataset.save_as(place / "source/ZEBEDEE/MRN8847213.dcm")
    (place / "key").write_bytes(b"0123456789abcdef" * 2)
    return place / "source", place / "out", deidentify(place / "source", place / "out", place / "key")


def everything(folder: Path) -> bytes:
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return b"\n".join(str(p.relative_to(folder)).encode() + b"\n" + p.read_bytes() for p in files)


def annotated(folder: Path) -> Any:
    (found,) = [d for p in folder.rglob("*.dcm") for d in [pydicom.dcmread(p)] if d.Modality == "ANN"]
    return found


@pytest.mark.parametrize("what", sorted(PLANTED))
def test_nothing_planted_is_left(what: str, done: tuple[Path, Path, Report]) -> None:
    source, out, _ = done
    assert PLANTED[what].encode() in everything(source)
    content = everything(out).lower()
    assert PLANTED[what].lower().encode() not in content, what
    assert b"zebedee" not in content
    assert b"okonjo" not in content


def test_shapes_and_values_are_bit_for_bit_and_the_flags_are_set(done: tuple[Path, Path, Report]) -> None:
    before, after = annotated(done[0]), annotated(done[1])
    assert after.PatientIdentityRemoved == "YES"
    assert after.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    kept = (
        "PointCoordinatesData", "DoublePointCoordinatesData", "LongPrimitivePointIndexList", "NumberOfAnnotations", "GraphicType",
        "AnnotationGroupGenerationType",
    )  # fmt: skip
    assert len(before.AnnotationGroupSequence) == len(after.AnnotationGroupSequence)
    for one, other in zip(before.AnnotationGroupSequence, after.AnnotationGroupSequence, strict=True):
        assert [one.get(k) for k in kept] == [other.get(k) for k in kept]
        assert other.AnnotationGroupLabel  # of type 1
        for was, now in zip(
            one.get("MeasurementsSequence") or [], other.get("MeasurementsSequence") or [], strict=True
        ):
            assert (
                was.MeasurementValuesSequence[0].FloatingPointValues
                == now.MeasurementValuesSequence[0].FloatingPointValues
            )
    assert after.AnnotationGroupSequence[0].AnnotationGroupUID != before.AnnotationGroupSequence[0].AnnotationGroupUID


def test_the_copy_is_read_as_the_source_is_and_lies_on_its_slide(
    done: tuple[Path, Path, Report], tmp_path: Path
) -> None:
    source, out, _ = done
    (before, *_) = [r for r in records.read(source / "ZEBEDEE/MRN8847213.dcm") if isinstance(r, Record)]
    cohort = ingest(out, tmp_path / "c")
    drawn = sorted((r for r in cohort.records() if r.attributes.get("annotation")), key=lambda r: r.uri)
    (slide,) = [r for r in cohort.records() if not r.attributes.get("annotation")]
    assert {str(r.attributes["mask_of"]) for r in drawn} == {slide.id}
    ours, theirs = cohort.load(drawn[0]), records.load(before, source / "ZEBEDEE")
    assert np.array_equal(ours.array, theirs.array)
    assert measurements(ours)["Area [um2]"].tolist() == list(range(int(str(before.attributes["shapes"]))))
