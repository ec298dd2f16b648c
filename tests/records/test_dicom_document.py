from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian, generate_uid
from pypdf import PdfReader, PdfWriter

from polyclinic import records
from polyclinic.records import dicom_document
from polyclinic.records.dicom_document import pdf_words
from polyclinic.schema import Modality
from reading import only, refused

PAGES = ("FINDINGS: no pleural effusion is seen.", "IMPRESSION: a nodule of 8 mm in the left upper lobe.")


def pdf(*pages: str, packed: bool = False, content: Callable[[str], bytes] | None = None) -> bytes:
    """A PDF as ISO 32000-1 has it, written by hand: a page a text, in Helvetica."""
    drawn = content or (lambda words: b"BT /F1 12 Tf 20 100 Td (" + words.encode("latin-1") + b") Tj ET")
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for words in pages:
        stream = drawn(words)
        told = b""
        if packed:
            stream, told = zlib.compress(stream, 9), b" /Filter /FlateDecode"
        objects.append(b"<< /Length %d%s >>\nstream\n" % (len(stream), told) + stream + b"\nendstream")
        kids.append(len(objects) + 1)
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 200] /Contents %d 0 R /Resources << /Font << /F1 3 0 R >> >> >>"
            % len(objects)
        )
    objects[1] = b"<< /Type /Pages /Count %d /Kids [%s] >>" % (len(kids), b" ".join(b"%d 0 R" % k for k in kids))
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj\n" % number + body + b"\nendobj\n"
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1) + table
    return out + b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start)


def write(path: Path, data: bytes, **attributes: object) -> Path:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = EncapsulatedPDFStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made: Any = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID, made.Modality = (
        EncapsulatedPDFStorage,
        meta.MediaStorageSOPInstanceUID,
        "DOC",
    )
    made.PatientID, made.StudyDate, made.ContentDate, made.ContentTime = "P1", "20200101", "20200102", "093000"
    made.DocumentTitle, made.MIMETypeOfEncapsulatedDocument = "Report of Jane Doe", "application/pdf"
    made.EncapsulatedDocument, made.EncapsulatedDocumentLength = data + b"\0" * (len(data) % 2), len(data)
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    made.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_a_pdf_gives_its_words(tmp_path: Path, packed: bool) -> None:
    name = Dataset()
    name.CodeMeaning, name.CodeValue, name.CodingSchemeDesignator = "Radiology Report", "18748-4", "LN"
    path = write(tmp_path / "a.dcm", pdf(*PAGES, packed=packed), ConceptNameCodeSequence=Items([name]))
    record = only(path)
    assert (record.modality, record.kind, record.patient) == (Modality.TEXT, "radiology report", "P1")
    assert str(record.time) == "2020-01-02 09:30:00"
    assert record.attributes["words"] == 17
    assert "Jane" not in repr(record)
    assert records.load(record, tmp_path).text == "\n\n".join(PAGES)


def test_without_a_coded_name_it_is_a_report(tmp_path: Path) -> None:
    assert only(write(tmp_path / "a.dcm", pdf(*PAGES))).kind == "report"


def test_a_scan_has_no_words(tmp_path: Path) -> None:
    scan = pdf("", "", content=lambda _: b"q 300 0 0 200 0 0 cm /Im1 Do Q")
    assert refused(write(tmp_path / "a.dcm", scan)) == "a PDF without words: a scan, or pictures"
    assert refused(write(tmp_path / "b.dcm", pdf("Page 1 of 1"))) == "a PDF without words: a scan, or pictures"


def test_a_locked_pdf_says_so(tmp_path: Path) -> None:
    for password, reason in (("secret", "a PDF under a password"), ("", None)):
        writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf(*PAGES))))
        writer.encrypt(user_password=password, owner_password="owner", algorithm="RC4-128")
        out = io.BytesIO()
        writer.write(out)
        path = write(tmp_path / "a.dcm", out.getvalue())
        assert (refused(path) if reason else only(path).kind) == (reason or "report")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("text/XML", "an encapsulated document of type text/xml"),
        ("model/stl", "an encapsulated document of type model/stl"),
    ],
)
def test_other_documents_are_refused_by_their_type(tmp_path: Path, kind: str, reason: str) -> None:
    assert refused(write(tmp_path / "a.dcm", b"<ClinicalDocument/>", MIMETypeOfEncapsulatedDocument=kind)) == reason


def test_a_document_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    data = write(tmp_path / "a.dcm", pdf(*PAGES)).read_bytes()
    for share in (0.3, 0.8, 0.98):
        (tmp_path / "b.dcm").write_bytes(data[: int(share * len(data))])
        assert refused(tmp_path / "b.dcm")
    assert refused(write(tmp_path / "c.dcm", b"no PDF at all")).startswith("a PDF that does not open")
    assert refused(write(tmp_path / "d.dcm", b"")).startswith("a PDF that does not open")


def test_a_pdf_that_takes_for_ever_or_all_memory_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_document, "MOST_SECONDS", 2)
    monkeypatch.setattr(dicom_document, "MOST_BYTES", 2**29)
    bomb = pdf(*["x"] * 4, packed=True, content=lambda _: b"BT /F1 12 Tf " + b"(xxxxxxxxxx) Tj " * 4_000_000 + b"ET")
    assert len(bomb) < 1 << 20
    with pytest.raises(records.RecordError) as refusal:
        pdf_words(bomb)
    assert refusal.value.found.startswith(("a PDF that takes over 2 s", "a PDF that does not open"))


def test_many_pages_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_document, "MOST_PAGES", 3)
    with pytest.raises(records.RecordError, match="a PDF of 4 pages"):
        pdf_words(pdf(*PAGES, *PAGES))


@settings(max_examples=12, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_a_damaged_pdf_gives_words_or_a_reason(place: float, value: int) -> None:
    data = bytearray(pdf(*PAGES))
    data[int(place * len(data))] = value
    with suppress(records.RecordError):
        assert pdf_words(bytes(data))


def test_the_object_is_read_as_pydicom_writes_it(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(write(tmp_path / "a.dcm", pdf(*PAGES)))
    del dataset.EncapsulatedDocumentLength  # of type 3: it may be absent
    dataset.save_as(tmp_path / "b.dcm")
    assert only(tmp_path / "b.dcm").attributes["words"] == 17
