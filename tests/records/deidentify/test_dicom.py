"""DICOM: nothing that was planted is left in the bytes, objects still point at each other, pixels are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.uid import (
    ComprehensiveSRStorage,
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
)

from polyclinic.records.deidentify import Options, Report, deidentify

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, of what is planted

KEY = b"0123456789abcdef" * 2
"""One whose shift moves no planted date onto another."""
STUDY, SERIES, IMAGE, FRAME = (f"1.3.6.1.4.1.99999.{n}.20190314.77" for n in (1, 2, 3, 4))
REPORT_UID, DEVICE = "1.3.6.1.4.1.99999.5.20190314.78", "1.3.6.1.4.1.99999.6.5551"
PLANTED = {
    "name": "ZEBEDEE",
    "given name": "Quillon",
    "patient id": "MRN8847213",
    "other id": "OTH5512907",
    "other name": "Formerly-Ottoline",
    "mother": "Wilhelmina",
    "birth date": "19310405",
    "address": "14 Marigold Passage",
    "phone": "555-867-5309",
    "insurance": "INSURED-PLAN-9X",
    "accession": "ACC20447",
    "study id": "STU-60142",
    "study uid": STUDY,
    "series uid": SERIES,
    "image uid": IMAGE,
    "frame uid": FRAME,
    "study date": "20190314",
    "acquisition": "20190315101112",
    "physician": "VANDERMEER",
    "reader": "OKONJO",
    "operator": "TECHSMITH",
    "institution": "Saint Elsewhere",
    "institution address": "Elsewhere Road",
    "department": "Wing Seven",
    "station": "SCANNERROOM3",
    "ae title": "ELSEWHERE_AE",
    "serial": "SN-771-ZZ",
    "study description": "Zebedee brain check",
    "series description": "for Dr Okonjo",
    "protocol": "ELSEWHERE_PROT",
    "patient comment": "lives above the bakery",
    "image comment": "brother called",
    "history": "worked at Acme",
    "occupation": "lighthouse keeper",
    "private": "PRIVATE ZEBEDEE VALUE",
    "private unknown": "PRIVATE-UN-SECRET",
    "nested requested": "REQ-90210",
    "nested physician": "NESTEDDOC",
    "nested original": "ORIGINALMRN",
    "nested private": "NESTED PRIVATE",
    "deep nested": "DEEPLYNESTED",
    "overlay": "OVERLAYTEXT",
    "overlay comment": "OVERLAYCOMMENT",
    "overlay label": "OVERLAYLABEL",
    "curve": "CURVETEXT",
    "retired text": "INTERPRETED BY HIM",
    "meta ae": "METASOURCEAE",
    "meta private": "METAPRIVATE",
    "preamble": "PREAMBLESECRET",
    "trailing": "TRAILINGSECRET",
    "padding": "PADDINGSECRET",
    "unlisted text": "UNLISTEDSECRET",
    "trial": "TRIALSUBJ-118",
    "signature": "SIGNEDBYHIM",
    "device uid": DEVICE,
    "contributor": "CONTRIBUTINGHOSP",
    "tracking": "TRACK-ZEBEDEE",
    "code string": "Quillon's",
}
"""Fifty-eight, of the kinds that the field's tools were measured on and more."""


def image(
    path: Path, syntax: str = ExplicitVRLittleEndian, kind: str = CTImageStorage, **attributes: Any
) -> np.ndarray:
    """An object that says whose it is wherever an object can."""
    p = PLANTED
    meta: Any = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = kind, IMAGE, syntax
    meta.SourceApplicationEntityTitle = p["meta ae"]
    meta.PrivateInformationCreatorUID, meta.PrivateInformation = (
        "1.3.6.1.4.1.99999.7",
        p["meta private"].encode() + b"\0",
    )
    d = FileDataset(
        str(path),
        {},
        file_meta=meta,
        preamble=p["preamble"].encode().ljust(128, b"\0"),
        is_little_endian=syntax != ExplicitVRBigEndian,
        is_implicit_VR=syntax == ImplicitVRLittleEndian,
    )
    d.SOPClassUID, d.SOPInstanceUID, d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID = (
        kind,
        IMAGE,
        STUDY,
        SERIES,
        FRAME,
    )
    d.SpecificCharacterSet = "ISO_IR 192"
    d.Modality, d.StudyDate, d.StudyTime, d.SeriesDate = "CT", p["study date"], "101112", p["study date"]
    d.AcquisitionDateTime = p["acquisition"]
    d.PatientName, d.PatientID, d.PatientBirthDate, d.PatientSex = (
        f"{p['name']}^{p['given name']}",
        p["patient id"],
        p["birth date"],
        "F",
    )
    d.PatientAge, d.OtherPatientIDs, d.OtherPatientNames, d.PatientMotherBirthName = (
        "093Y",
        p["other id"],
        p["other name"],
        p["mother"],
    )
    d.PatientAddress, d.PatientTelephoneNumbers, d.InsurancePlanIdentification = (
        p["address"],
        p["phone"],
        p["insurance"],
    )
    d.AccessionNumber, d.StudyID, d.ReferringPhysicianName, d.NameOfPhysiciansReadingStudy = (
        p["accession"],
        p["study id"],
        p["physician"],
        p["reader"],
    )
    d.OperatorsName, d.InstitutionName, d.InstitutionAddress = p["operator"], p["institution"], p["institution address"]
    d.InstitutionalDepartmentName, d.StationName, d.StationAETitle = p["department"], p["station"], p["ae title"]
    d.DeviceSerialNumber, d.DeviceUID, d.StudyDescription, d.SeriesDescription = (
        p["serial"],
        DEVICE,
        p["study description"],
        p["series description"],
    )
    d.ProtocolName, d.PatientComments, d.ImageComments, d.AdditionalPatientHistory = (
        p["protocol"],
        p["patient comment"],
        p["image comment"],
        p["history"],
    )
    d.Occupation, d.ClinicalTrialSubjectID, d.TrackingID = p["occupation"], p["trial"], p["tracking"]
    d.add_new(0x00102297, "PN", p["physician"])
    d.add_new(0x00204000, "LT", p["image comment"])
    d.ProtocolDesignRationale = p["unlisted text"]
    d.SegmentLabel = f"Liver of {p['name'].title()}"
    d.add_new(0x00180015, "CS", p["code string"])
    block = d.private_block(0x0009, "ELSEWHERE INC", create=True)
    block.add_new(0x01, "LO", p["private"])
    block.add_new(0x02, "UN", p["private unknown"].encode() + b"\0")
    safe = d.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    safe.add_new(0x0C, "IS", "800")
    safe.add_new(0x08, "CS", "IMAGE NUM 4")
    request = Dataset()
    request.RequestedProcedureID, request.RequestingPhysician = p["nested requested"], p["nested physician"]
    d.RequestAttributesSequence = Sequence([request])
    original, modified = Dataset(), Dataset()
    modified.PatientID = p["nested original"]
    original.ModifiedAttributesSequence = Sequence([modified])
    original.SourceOfPreviousValues, original.ModifyingSystem = "HOSP", "PACS"
    d.OriginalAttributesSequence = Sequence([original])
    source, inner, deep = Dataset(), Dataset(), Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = CTImageStorage, "1.3.6.1.4.1.99999.3.20190314.70"
    deep.InstitutionName, deep.PersonName = p["deep nested"], p["deep nested"]
    deep.private_block(0x0011, "ELSEWHERE INC", create=True).add_new(0x01, "LO", p["nested private"])
    inner.CodeValue, inner.CodingSchemeDesignator, inner.CodeMeaning = (
        "121311",
        "DCM",
        f"Localizer for {p['given name']}",
    )
    inner.PurposeOfReferenceCodeSequence = Sequence([deep])
    source.PurposeOfReferenceCodeSequence = Sequence([inner])
    d.ReferencedImageSequence = Sequence([source])
    equipment = Dataset()
    equipment.InstitutionName, equipment.Manufacturer = p["contributor"], "Acme"
    d.ContributingEquipmentSequence = Sequence([equipment])
    d.add_new(0x60000010, "US", 4)
    d.add_new(0x60000011, "US", 4)
    d.add_new(0x60000022, "LO", p["overlay label"])
    d.add_new(0x60003000, "OW", p["overlay"].encode() + b"\0")
    d.add_new(0x60004000, "LT", p["overlay comment"])
    d.add_new(0x50003000, "OW", p["curve"].encode() + b"\0")
    d.add_new(0x4008010B, "ST", p["retired text"])
    d.add_new(0xFFFCFFFC, "OB", p["padding"].encode())
    signature = Dataset()
    signature.CertificateOfSigner = p["signature"].encode() + b"\0"
    d.DigitalSignaturesSequence = Sequence([signature])
    pixels = np.random.default_rng(3).integers(0, 4000, (8, 6)).astype(np.uint16)
    d.Rows, d.Columns, d.SamplesPerPixel, d.PhotometricInterpretation = 8, 6, 1, "MONOCHROME2"
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 12, 11, 0
    d.PixelSpacing, d.ImagePositionPatient, d.ImageOrientationPatient = [0.5, 0.5], [0, 0, 0], [1, 0, 0, 0, 1, 0]
    d.PixelData = (pixels.byteswap() if syntax == ExplicitVRBigEndian else pixels).tobytes()
    for keyword, value in attributes.items():
        setattr(d, keyword, value)
    d.save_as(path, enforce_file_format=True)
    with path.open("ab") as file:
        file.write(b"\xfc\xff\xfc\xffOB\0\0" + len(p["trailing"]).to_bytes(4, "little") + p["trailing"].encode())
    return pixels


def document(path: Path) -> None:
    """A structured report about the image."""
    meta: Any = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ComprehensiveSRStorage, REPORT_UID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    d.SOPClassUID, d.SOPInstanceUID, d.StudyInstanceUID, d.SeriesInstanceUID = (
        ComprehensiveSRStorage,
        REPORT_UID,
        STUDY,
        "1.3.6.1.4.1.99999.2.9",
    )
    d.PatientID, d.PatientName, d.Modality = PLANTED["patient id"], f"{PLANTED['name']}^{PLANTED['given name']}", "SR"
    d.ContentDate, d.ContentTime, d.VerificationFlag, d.CompletionFlag = "20190316", "090000", "VERIFIED", "COMPLETE"
    observer = Dataset()
    observer.VerifyingObserverName, observer.VerifyingOrganization, observer.VerificationDateTime = (
        "VERIFIERNAME",
        "VERIFYINGORG",
        "20190316",
    )
    observer.VerifyingObserverIdentificationCodeSequence = Sequence([code("VOC", "Verifier's Code")])
    d.VerifyingObserverSequence = Sequence([observer])
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = CTImageStorage, IMAGE
    evidence, series = Dataset(), Dataset()
    series.SeriesInstanceUID, series.ReferencedSOPSequence = SERIES, Sequence([reference])
    evidence.StudyInstanceUID, evidence.ReferencedSeriesSequence = STUDY, Sequence([series])
    d.CurrentRequestedProcedureEvidenceSequence = Sequence([evidence])
    d.ValueType, d.ContinuityOfContent, d.ConceptNameCodeSequence = (
        "CONTAINER",
        "SEPARATE",
        Sequence([code("126000", "Imaging Measurement Report")]),
    )
    d.ContentSequence = Sequence(
        [
            item("PNAME", "Person Observer Name", PersonName="OBSERVER^SRPERSON"),
            item("TEXT", "Subject ID", TextValue="SUBJECT-SR-441"),
            item(
                "TEXT",
                "Finding",
                TextValue="Seen with Mr. Zebedee and Dr. Abernathy on 3/14/2019; nodule of 6 mm in the right upper lobe. MRN 8847213.",
            ),
            item("DATE", "Prior date", Date="20180202"),
            item("DATETIME", "Observed", DateTime="20180203101500"),
            item("UIDREF", "Study", UID=STUDY),
            item("IMAGE", "Source", ReferencedSOPSequence=Sequence([reference])),
            item("NUM", "Diameter", MeasuredValueSequence=Sequence([measured()])),
        ]
    )
    d.save_as(path, enforce_file_format=True)


SR_PLANTED = (
    "VERIFIERNAME",
    "VERIFYINGORG",
    "Verifier's Code",
    "SRPERSON",
    "SUBJECT-SR-441",
    "Zebedee",
    "Abernathy",
    "3/14/2019",
    "8847213",
    "20180202",
    "20180203",
    STUDY,
    IMAGE,
    REPORT_UID,
    "20190316",
    "Quillon",
)


def code(value: str, meaning: str) -> Dataset:
    d = Dataset()
    d.CodeValue, d.CodingSchemeDesignator, d.CodeMeaning = value, "DCM", meaning
    return d


def item(kind: str, concept: str, **content: Any) -> Dataset:
    d = Dataset()
    d.RelationshipType, d.ValueType, d.ConceptNameCodeSequence = "CONTAINS", kind, Sequence([code("1", concept)])
    for keyword, value in content.items():
        setattr(d, keyword, value)
    return d


def measured() -> Dataset:
    d = Dataset()
    d.NumericValue, d.MeasurementUnitsCodeSequence = "6.25", Sequence([code("mm", "millimeter")])
    return d


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("planted") / "source"
    (place / "ZEBEDEE_QUILLON" / "2019-03-14").mkdir(parents=True)
    image(place / "ZEBEDEE_QUILLON" / "2019-03-14" / f"{IMAGE}.dcm")
    document(place / "ZEBEDEE_QUILLON" / "MRN8847213_report.dcm")
    return place


@pytest.fixture(scope="module")
def done(folder: Path) -> tuple[Path, Report]:
    out = folder.parent / "out"
    (folder.parent / "keys").mkdir()
    (folder.parent / "keys/key").write_bytes(KEY)
    return out, deidentify(folder, out, folder.parent / "keys" / "key")


def everything(out: Path) -> bytes:
    """Names and bytes of all that was written, the report too."""
    return b"\n".join(
        str(p.relative_to(out)).encode() + b"\n" + p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()
    )


@pytest.mark.parametrize("what", sorted(PLANTED))
def test_nothing_planted_is_left(what: str, done: tuple[Path, Report]) -> None:
    secret = PLANTED[what].encode()
    content = everything(done[0])
    for spelt in (secret, secret.upper(), secret.lower(), secret.title()):
        assert spelt not in content, what


@pytest.mark.parametrize("secret", SR_PLANTED)
def test_nothing_planted_in_a_report_is_left(secret: str, done: tuple[Path, Report]) -> None:
    assert secret.encode() not in everything(done[0])


def test_the_planted_were_there(folder: Path) -> None:
    content = everything(folder)
    assert [w for w, secret in PLANTED.items() if secret.encode() not in content] == []
    assert [s for s in SR_PLANTED if s.encode() not in content] == []


def objects(out: Path) -> dict[str, pydicom.FileDataset]:
    return {d.Modality: d for p in sorted(out.rglob("*.dcm")) for d in [pydicom.dcmread(p)]}


def test_the_report_still_points_at_its_image(done: tuple[Path, Report]) -> None:
    found = objects(done[0])
    ct, sr = found["CT"], found["SR"]
    series = sr.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert (
        series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        == ct.SOPInstanceUID
        == ct.file_meta.MediaStorageSOPInstanceUID
    )
    assert series.SeriesInstanceUID == ct.SeriesInstanceUID
    assert (
        sr.StudyInstanceUID == ct.StudyInstanceUID == sr.CurrentRequestedProcedureEvidenceSequence[0].StudyInstanceUID
    )
    assert ct.StudyInstanceUID == sr.ContentSequence[5].UID
    assert sr.PatientID == ct.PatientID
    assert ct.SOPInstanceUID.startswith("2.25.")
    assert len(ct.SOPInstanceUID) <= 64


def test_dates_move_together_and_no_more_than_a_year(done: tuple[Path, Report]) -> None:
    from datetime import datetime

    found = objects(done[0])
    day = lambda text: datetime.strptime(text[:8], "%Y%m%d")
    moved = day(found["CT"].StudyDate) - datetime(2019, 3, 14)
    assert 1 <= abs(moved.days) <= 365
    assert day(found["CT"].AcquisitionDateTime) - datetime(2019, 3, 15) == moved
    assert day(found["SR"].ContentSequence[3].Date) - datetime(2018, 2, 2) == moved
    assert found["CT"].StudyTime == "101112"
    assert found["CT"].AcquisitionDateTime[8:] == "101112"
    assert not found["CT"].PatientBirthDate


def test_it_says_what_was_done(done: tuple[Path, Report]) -> None:
    for found in objects(done[0]).values():
        assert found.PatientIdentityRemoved == "YES"
        assert found.DeidentificationMethod
        codes = {c.CodeValue for c in found.DeidentificationMethodCodeSequence}
        assert {"113100", "113107"} <= codes
        assert {c.CodingSchemeDesignator for c in found.DeidentificationMethodCodeSequence} == {"DCM"}
        assert found.LongitudinalTemporalInformationModified == "MODIFIED"
    ct, sr = objects(done[0])["CT"], objects(done[0])["SR"]
    assert "113111" in {c.CodeValue for c in ct.DeidentificationMethodCodeSequence}
    assert "113104" in {c.CodeValue for c in sr.DeidentificationMethodCodeSequence}
    assert ct.preamble == b"\0" * 128


def test_what_is_worth_keeping_is_kept(done: tuple[Path, Report]) -> None:
    ct, sr = objects(done[0])["CT"], objects(done[0])["SR"]
    assert (ct.PatientSex, ct.PatientAge) == ("F", "090Y")
    assert ct[0x0019, 0x100C].value == 800  # a b-value, in PS3.15 Table E.3.10-1
    assert [e for e in ct if e.tag.is_private and e.tag.group != 0x0019] == []
    assert (0x0019, 0x1008) not in ct
    assert list(ct.PixelSpacing) == [0.5, 0.5]
    assert "nodule of 6 mm in the right upper lobe" in sr.ContentSequence[2].TextValue
    assert float(sr.ContentSequence[7].MeasuredValueSequence[0].NumericValue) == 6.25
    assert ct.ReferencedImageSequence[0].ReferencedSOPClassUID == CTImageStorage


def test_the_report_speaks_of_new_names_only(folder: Path, done: tuple[Path, Report]) -> None:
    out, report = done
    assert sorted(report.files) == sorted(str(p.relative_to(out)) for p in out.rglob("*.dcm"))
    assert {a.file for a in report.actions} <= set(report.files)
    assert any("(0010,0010) PatientName" in a.place and a.action == "Z" for a in report.actions)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_pixels_are_bit_identical(syntax: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pixels = image(tmp_path / "in/a.dcm", syntax)
    before = pydicom.dcmread(tmp_path / "in/a.dcm").PixelData
    (tmp_path / "key").write_bytes(KEY)
    deidentify(tmp_path / "in", tmp_path / "out", tmp_path / "key")
    after = pydicom.dcmread(next((tmp_path / "out").rglob("*.dcm")))
    assert after.PixelData == before
    assert after.file_meta.TransferSyntaxUID == syntax
    assert (after.pixel_array == pixels).all()
    content = everything(tmp_path / "out")
    assert [w for w, secret in PLANTED.items() if secret.encode() in content] == []


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        (CTImageStorage, {"BurnedInAnnotation": "YES"}),
        (UltrasoundImageStorage, {"Modality": "US"}),
        (SecondaryCaptureImageStorage, {"Modality": "CT"}),
        (CTImageStorage, {"Modality": "ES"}),
        (CTImageStorage, {"Modality": "XA", "ImageType": ["DERIVED", "SECONDARY"]}),
    ],
)
def test_burned_in_text_is_set_aside_or_listed(kind: str, attributes: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    image(tmp_path / "in/a.dcm", kind=kind, **attributes)
    aside = deidentify(tmp_path / "in", tmp_path / "aside", tmp_path / "key")
    assert aside.files == []
    assert len(aside.aside) == 1
    assert not list((tmp_path / "aside").rglob("*.dcm"))
    kept = deidentify(tmp_path / "in", tmp_path / "kept", tmp_path / "key", Options(burned_in="keep"))
    assert len(kept.files) == 1
    assert any("burned" in a.action for a in kept.review)


def test_an_overlay_in_the_pixels_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    image(tmp_path / "in/a.dcm")
    d = pydicom.dcmread(tmp_path / "in/a.dcm")
    del d[0x6000, 0x3000]
    d.add_new(0x60000102, "US", 12)
    d.save_as(tmp_path / "in/a.dcm")
    assert deidentify(tmp_path / "in", tmp_path / "out", tmp_path / "key").files == []


def test_options_do_what_their_codes_say(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    image(tmp_path / "in/a.dcm", SeriesDescription="AX T2 FLAIR ZEBEDEE brain 4mm", StudyDescription="Okonjo")
    options = Options(clean_descriptors=True, retain_device=True, retain_characteristics=False, dates="remove")
    deidentify(tmp_path / "in", tmp_path / "out", tmp_path / "key", options)
    d = pydicom.dcmread(next((tmp_path / "out").rglob("*.dcm")))
    assert d.SeriesDescription == "AX T2 FLAIR brain"
    assert "StudyDescription" not in d
    assert d.DeviceSerialNumber == PLANTED["serial"]
    assert d.DeviceUID == DEVICE
    assert not d.PatientSex
    assert "PatientAge" not in d
    assert not d.StudyDate
    assert d.LongitudinalTemporalInformationModified == "REMOVED"
    assert {c.CodeValue for c in d.DeidentificationMethodCodeSequence} == {"113100", "113105", "113109", "113111"}


def test_encapsulated_documents_private_objects_and_directories_are_set_aside(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    image(tmp_path / "in/pdf.dcm", kind="1.2.840.10008.5.1.4.1.1.104.1")
    image(tmp_path / "in/private.dcm", kind="1.2.276.0.7230010.3.1.0.1")
    report = deidentify(tmp_path / "in", tmp_path / "out", tmp_path / "key")
    assert report.files == []
    assert len(report.aside) == 2


TEST_FILES = (
    "CT_small.dcm", "MR_small.dcm", "rtplan.dcm", "rtdose.dcm", "rtdose_rle.dcm", "JPEG2000.dcm", "JPEG-lossy.dcm", "MR_small_RLE.dcm",
    "test-SR.dcm", "waveform_ecg.dcm", "image_dfl.dcm", "ExplVR_BigEnd.dcm", "reportsi.dcm", "693_J2KI.dcm", "JPGExtended.dcm",
    "SC_rgb_jpeg_dcmtk.dcm", "MR_small_jp2klossless.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "SC_rgb_rle_2frame.dcm",
    "examples_palette.dcm", "examples_overlay.dcm", "badVR.dcm", "JPEGLSNearLossless_16.dcm",
)  # fmt: skip


@pytest.mark.parametrize("name", TEST_FILES)
def test_pydicoms_own_files(name: str, tmp_path: Path) -> None:
    """What goes in comes out readable, with the same pixels, and without any name or UID that it had."""
    source = get_testdata_file(name, download=False)
    if source is None:
        pytest.skip("not in this installation of pydicom")
    assert isinstance(source, str)
    before = pydicom.dcmread(source)
    report = deidentify(source, tmp_path / "out", tmp_path / "key", Options(burned_in="keep"))
    assert len(report.files) == 1
    path = tmp_path / "out" / report.files[0]
    after = pydicom.dcmread(path)
    content = path.read_bytes()
    if "PixelData" in before:
        assert after.PixelData == before.PixelData
    for element in before.iterall():
        for value in element.value if isinstance(element.value, list | MultiValue) else [element.value]:
            text = str(value)
            if element.VR == "UI" and not text.startswith("1.2.840.10008.") and len(text) > 8:
                assert text.encode() not in content, element.tag
            if element.VR == "PN" and len(text) > 3:
                assert text.encode() not in content, element.tag
            if element.VR in ("DA", "DT") and len(text) >= 8 and "birth" not in element.name.lower():
                assert after.get(element.tag) is None or str(after[element.tag].value) != text
    assert after.PatientIdentityRemoved == "YES"


def test_objects_of_highdicom_still_fit_together(shared_data: Path, tmp_path: Path) -> None:
    """Segmentations and reports over their images: every reference that resolved still does."""
    source = shared_data / "dicom-objects"
    report = deidentify(source, tmp_path / "out", tmp_path / "key", Options(burned_in="keep"))
    assert len(report.files) >= 20
    before, after = (links(p) for p in (source, tmp_path / "out"))
    assert after[0] == before[0] > 0
    assert not after[1] & before[1]


@pytest.mark.parametrize(("flavour", "kept"), [("LABEL", False), ("OVERVIEW", True), ("VOLUME", True)])
def test_the_picture_of_a_slides_label_is_never_copied(
    flavour: str, kept: bool, shared_data: Path, tmp_path: Path
) -> None:
    slide = pydicom.dcmread(shared_data / "dicom-objects/sm_image.dcm")
    slide.ImageType = ["ORIGINAL", "PRIMARY", flavour, "NONE"]
    (tmp_path / "s").mkdir()
    slide.save_as(tmp_path / "s/slide.dcm")
    aside = deidentify(tmp_path / "s", tmp_path / "aside", tmp_path / "key")
    asked = deidentify(tmp_path / "s", tmp_path / "kept", tmp_path / "key", Options(burned_in="keep"))
    assert bool(aside.files) is (flavour == "VOLUME")
    assert bool(asked.files) is kept


def links(folder: Path) -> tuple[int, set[str]]:
    """How many references find their object in the folder, and all UIDs of objects."""
    whole = [
        pydicom.dcmread(p, force=True)
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.read_bytes()[128:132] == b"DICM"
    ]
    there = {str(d.SOPInstanceUID) for d in whole}
    pointing = [str(e.value) for d in whole for e in d.iterall() if e.keyword == "ReferencedSOPInstanceUID"]
    return sum(uid in there for uid in pointing), there


Writer = Callable[..., FileDataset]


def test_a_series_is_still_one_volume(write_slice: Writer, tmp_path: Path) -> None:
    from polyclinic import records

    (tmp_path / "in").mkdir()
    for z in range(4):
        write_slice(tmp_path / f"in/{z}.dcm", np.full((4, 5), z), ImagePositionPatient=[0, 0, z], StudyDate="20200101")
    deidentify(tmp_path / "in", tmp_path / "out", tmp_path / "key")
    paths = sorted(p for p in (tmp_path / "out").rglob("*") if p.suffix == ".dcm")
    (group,) = records.together(paths)
    (record,) = records.read_together(group, tmp_path / "out")
    assert record.attributes["slices"] == 4  # type: ignore[union-attr]


def test_an_object_that_lost_its_uid_gets_one(write_slice: Writer, tmp_path: Path) -> None:
    """As others' de-identification leaves them; the same bytes get the same one."""
    (tmp_path / "in").mkdir()
    write_slice(tmp_path / "in/a.dcm", np.full((4, 5), 1), SOPInstanceUID="", SOPClassUID="")
    for name in ("out", "again"):
        deidentify(tmp_path / "in", tmp_path / name, tmp_path / "key")
    found, again = (pydicom.dcmread(next((tmp_path / n).glob("*.dcm"))) for n in ("out", "again"))
    assert found.SOPInstanceUID == again.SOPInstanceUID == found.file_meta.MediaStorageSOPInstanceUID
    assert found.SOPInstanceUID.startswith("2.25.")
    assert found.SOPClassUID == CTImageStorage
