from __future__ import annotations

import base64
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyclinic.records import cda
from polyclinic.records.source import RecordError
from polyclinic.schema import Modality, Record

HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<ClinicalDocument xmlns="urn:hl7-org:v3" xmlns:sdtc="urn:hl7-org:sdtc">
  <typeId root="2.16.840.1.113883.1.3" extension="POCD_HD000040"/>
  <id root="1.2.3" extension="doc"/>
  <code code="18748-4" codeSystem="2.16.840.1.113883.6.1" displayName="Diagnostic imaging report"/>
  <title>CT of the chest</title>
  <effectiveTime value="20200103120000+0100"/>
  <languageCode code="en-US"/>
  <recordTarget><patientRole><id root="9.9" nullFlavor="UNK"/><id root="1.2.840.1" extension="P-77"/>
    <patient><name><given>Jane</given></name><administrativeGenderCode code="F"/>
    <birthTime value="19500601"/></patient></patientRole></recordTarget>
  <custodian><assignedCustodian><representedCustodianOrganization><name>North  Hospital</name></representedCustodianOrganization>
  </assignedCustodian></custodian>
  <documentationOf><serviceEvent><effectiveTime><low value="202001020930"/></effectiveTime></serviceEvent></documentationOf>
"""
BODY = """<component><structuredBody>
    <component><section><title>Findings:</title><text>
      <paragraph>No <content styleCode="Bold">pulmonary</content> embolism.</paragraph>
      <list><item>Heart normal</item><item>Liver <content revised="delete">large</content>normal</item></list>
      <table><tbody><tr><td>Nodule</td><td>4 mm</td></tr></tbody></table></text>
      <entry><observation classCode="OBS" moodCode="EVN"><text>coded, not said</text></observation></entry>
      <component><section><code code="x" displayName="Bones"/><text>No fracture.</text></section></component>
    </section></component>
    <component><section><title>Impression</title><text>Normal &amp; unchanged.</text></section></component>
    <component><section><title>Empty</title><text/></section></component>
  </structuredBody></component>"""
WORDS = (
    "Findings:\nNo pulmonary embolism.\n\n- Heart normal\n\n- Liver normal\n\nNodule 4 mm\n\nBones:\nNo fracture.\n\n"
    "Impression:\nNormal & unchanged."
)


def read(path: Path, text: str | bytes) -> Record:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert cda.recognises(path, path.read_bytes()[:4096])
    (item,) = cda.read(path, path.parent)
    assert isinstance(item, Record)
    return item


def words(record: Record, folder: Path) -> str | None:
    return cda.load(replace(record, uri=str(folder / record.uri))).text


def test_a_report_is_its_sections_narrative(tmp_path: Path) -> None:
    item = read(tmp_path / "a.xml", HEAD + BODY + "</ClinicalDocument>")
    assert (item.patient, item.modality, item.kind, item.time, item.site) == (
        "P-77", Modality.TEXT, "note CT of the chest", datetime(2020, 1, 2, 9, 30), "North Hospital",
    )  # fmt: skip
    assert dict(item.attributes) == {"words": len(WORDS.split()), "language": "en-US", "sex": "F", "anonymous": False}
    found = words(item, tmp_path)
    assert found is not None
    assert [line for line in found.split("\n") if line] == [line for line in WORDS.split("\n") if line]
    assert "coded" not in found
    assert "large" not in found


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1"])
def test_in_every_encoding_the_words_are_the_same(tmp_path: Path, encoding: str) -> None:
    text = (HEAD + BODY.replace("unchanged", "Fièvre") + "</ClinicalDocument>").replace(
        'encoding="UTF-8"', f'encoding="{encoding}"'
    )
    assert "Normal & Fièvre." in (words(read(tmp_path / "a.xml", text.encode(encoding)), tmp_path) or "")


def test_an_unstructured_body(tmp_path: Path) -> None:
    data = base64.b64encode(b"<html><body><p>No mass.</p></body></html>").decode()
    text = f'<text mediaType="text/html" representation="B64">{data}</text>'
    body = f"<component><nonXMLBody>{text}</nonXMLBody></component></ClinicalDocument>"
    assert words(read(tmp_path / "a.xml", HEAD + body), tmp_path) == "No mass."
    plain = "<component><nonXMLBody><text>No fever.</text></nonXMLBody></component></ClinicalDocument>"
    assert words(read(tmp_path / "b.xml", HEAD + plain), tmp_path) == "No fever."


def bomb(depth: int = 12) -> str:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, depth))
    head = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e0 "ha">{entities}]>'
    return f'{head}<ClinicalDocument xmlns="urn:hl7-org:v3"><title>&e{depth - 1};</title></ClinicalDocument>'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (bomb(), "a document with entities of its own"),
        (
            '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]><ClinicalDocument xmlns="urn:hl7-org:v3">'
            "<title>&f;</title></ClinicalDocument>",
            "a document with entities of its own",
        ),
        ('<!DOCTYPE ClinicalDocument SYSTEM "http://evil.example/x.dtd"><ClinicalDocument/>', "a document with entities of its own"),
        (HEAD, "XML that does not parse"),
        ("<x>ClinicalDocument</x>", "XML that is no ClinicalDocument"),
        (HEAD + "</ClinicalDocument>", "a clinical document without words"),
        (HEAD + "<component>" * 5000 + "</component>" * 5000 + "</ClinicalDocument>", "a clinical document without words"),
        (
            HEAD + '<component><nonXMLBody><text mediaType="application/pdf" representation="B64">JVBERi0=</text></nonXMLBody></component>'
            "</ClinicalDocument>",
            "a document of application/pdf",
        ),
    ],
)  # fmt: skip
def test_what_does_harm_or_says_nothing_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(RecordError, match=reason):
        list(cda.read(tmp_path / "a.xml", tmp_path))


def test_sections_in_sections_without_end_end(tmp_path: Path) -> None:
    nested = "<component><section><text>x</text>" * 3000 + "</section></component>" * 3000
    text = HEAD + f"<component><structuredBody>{nested}</structuredBody></component></ClinicalDocument>"
    assert (words(read(tmp_path / "a.xml", text), tmp_path) or "").count("x") <= 102


def test_a_document_inside_another_format_is_read_the_same() -> None:
    from polyclinic.records.documents import words_of

    assert "Impression:\nNormal & unchanged." in words_of(
        (HEAD + BODY + "</ClinicalDocument>").encode(), "application/xml"
    )


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_documents_never_crash(tmp_path: Path, data: st.DataObject) -> None:
    whole = (HEAD + BODY + "</ClinicalDocument>").encode()
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else whole)
    for _ in range(data.draw(st.integers(0, 6))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(32, 126))
    (tmp_path / "a.xml").write_bytes(damaged)
    try:
        (item,) = cda.read(tmp_path / "a.xml", tmp_path)
    except RecordError:
        return
    assert isinstance(item, Record)
    assert item.patient
