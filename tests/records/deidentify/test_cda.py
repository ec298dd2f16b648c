"""CDA: nothing planted is left in header, narrative, entries or markup; codes, values and the narrative's other words stay."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path

import pytest

from polyclinic import records
from polyclinic.records.deidentify import Report, open_key
from polyclinic.schema import Record
from reading import load, only

PLANTED = (
    "Zebedee", "Quillon", "Ottoline", "Vandermeer", "Barnaby", "Marigold", "Thistlewood", "Elsewhere", "MRN8847213", "ENC771209",
    "943-47-8120", "943478120", "555-867-5309", "zq@example.org", "1.2.840.99999.7", "19320411", "20190314", "20190301", "DOC-55120",
    "Clementine", "Grimsby", "LIC99182", "SER-77123", "Wilhelmina", "2019-03-14", "3/14/2019",
)  # fmt: skip
DOCUMENT = """<?xml version="1.0" encoding="{coding}"?>
<?xml-stylesheet type="text/xsl" href="http://Elsewhere.example.org/Zebedee.xsl"?>
<!-- exported for Zebedee Quillon -->
<ClinicalDocument xmlns="urn:hl7-org:v3" xmlns:sdtc="urn:hl7-org:sdtc" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:z="urn:Elsewhere">
  <typeId root="2.16.840.1.113883.1.3" extension="POCD_HD000040"/>
  <templateId root="2.16.840.1.113883.10.20.22.1.1" extension="2015-08-01"/>
  <templateId root="1.2.840.99999.7.1" extension="Elsewhere"/>
  <id root="1.2.840.99999.7" extension="DOC-55120"/>
  <code code="34133-9" codeSystem="2.16.840.1.113883.6.1" displayName="Summarization of Episode Note"/>
  <title>Discharge summary of Mr. Zebedee Quillon</title>
  <effectiveTime value="20190314101500+0100"/>
  <confidentialityCode code="N" codeSystem="2.16.840.1.113883.5.25"/><languageCode code="en-US"/>
  <recordTarget><patientRole>
    <id root="2.16.840.1.113883.4.1" extension="943-47-8120"/><id root="1.2.840.99999.7" extension="MRN8847213"/>
    <addr use="HP"><streetAddressLine>4 Marigold Lane</streetAddressLine><city>Elsewhere</city></addr>
    <telecom value="tel:555-867-5309"/><telecom value="mailto:zq@example.org"/>
    <patient><name><given>Zebedee</given><family>Quillon</family></name>
      <administrativeGenderCode code="M" codeSystem="2.16.840.1.113883.5.1"/><birthTime value="19320411"/>
      <sdtc:deceasedTime value="20190314"/>
      <guardian><guardianPerson><name>Ottoline Quillon</name></guardianPerson></guardian>
      <birthplace><place><name>Elsewhere</name></place></birthplace></patient>
    <providerOrganization><id root="1.2.840.99999.7.2"/><name>Elsewhere Medical Group</name></providerOrganization>
  </patientRole></recordTarget>
  <author><time value="20190314"/><assignedAuthor><id root="2.16.840.1.113883.4.6" extension="LIC99182"/>
    <assignedPerson><name><prefix>Dr</prefix><given>Barnaby</given><family>Vandermeer</family></name></assignedPerson></assignedAuthor></author>
  <author><time value="20190314"/><assignedAuthor><id root="1.2.840.99999.7.9" extension="LIC99182"/><assignedAuthoringDevice>
    <manufacturerModelName>Elsewhere Scribe</manufacturerModelName><softwareName>SER-77123</softwareName></assignedAuthoringDevice></assignedAuthor></author>
  <custodian><assignedCustodian><representedCustodianOrganization><id root="1.2.840.99999.7"/><name>Saint Elsewhere</name>
    </representedCustodianOrganization></assignedCustodian></custodian>
  <legalAuthenticator><time value="20190314"/><signatureCode code="S"/><sdtc:signatureText>Vandermeer</sdtc:signatureText>
    <assignedEntity><id extension="LIC99182" root="1.2.3.4"/><assignedPerson><name>Wilhelmina Thistlewood</name></assignedPerson></assignedEntity>
  </legalAuthenticator>
  <documentationOf><serviceEvent classCode="PCPR"><effectiveTime><low value="20190301"/><high value="20190314"/></effectiveTime></serviceEvent></documentationOf>
  <componentOf><encompassingEncounter><id root="1.2.840.99999.7" extension="ENC771209"/><effectiveTime value="20190301"/>
    <location><healthCareFacility><location><name>Ward Elsewhere 4</name></location></healthCareFacility></location></encompassingEncounter></componentOf>
  <component><structuredBody>
    <component><section ID="Zebedee1"><code code="10160-0" codeSystem="2.16.840.1.113883.6.1" displayName="History of medication use"/>
      <title>History</title><text>
      <paragraph ID="Quillon-1">He was seen by Dr. <content styleCode="Bold">Vander</content>meer &amp; takes aspirin 81 mg. MRN
      MRN8847213.</paragraph><!-- Zebedee -->
      <table summary="Zebedee"><thead><tr><th>Drug</th><th>Prescribed by</th></tr></thead>
      <tbody><tr><td>Metformin 500 mg</td><td>Clementine Grimsby, MD</td></tr></tbody></table>
      <list><item>Daughter Ottoline, 555-867-5309</item><item>Next visit 3/14/2019</item></list>
      <linkHtml href="https://Elsewhere.example.org/zq">portal</linkHtml><z:x>Zebedee</z:x> No fever.
      <renderMultiMedia referencedObject="Zebedee"/></text>
      <entry><observation classCode="OBS" moodCode="EVN"><id root="1.2.840.99999.7.5" extension="DOC-55120"/>
        <code code="2160-0" codeSystem="2.16.840.1.113883.6.1" codeSystemName="LOINC" displayName="Creatinine"/>
        <text><reference value="#Quillon-1"/></text><statusCode code="completed"/><effectiveTime value="20190314"/>
        <value xsi:type="PQ" value="1.1" unit="mg/dL"/><interpretationCode code="N"/>
        <referenceRange><observationRange><text>as Dr. Thistlewood has it</text></observationRange></referenceRange></observation></entry>
      <entry><observation classCode="OBS" moodCode="EVN"><code code="30525-0" codeSystem="2.16.840.1.113883.6.1" displayName="Age"/>
        <value xsi:type="PQ" value="93" unit="a"/></observation></entry>
      <entry><observation classCode="OBS" moodCode="EVN"><code code="1" codeSystem="1.2.840.99999.7" codeSystemName="Elsewhere codes" displayName="Contact name"/>
        <value xsi:type="ST">Ottoline Marigold</value></observation></entry>
      <entry><observation classCode="OBS" moodCode="EVN"><code code="2" codeSystem="1.2.840.99999.7" displayName="As told to Dr. Vandermeer"/>
        <value xsi:type="CD" code="44054006" codeSystem="2.16.840.1.113883.6.96" displayName="Diabetes mellitus type 2">
        <originalText>Zebedee's sugar</originalText></value></observation></entry>
      <entry><observation classCode="OBS" moodCode="EVN"><code code="3" codeSystem="2.16.840.1.113883.6.1" displayName="Onset"/>
        <value xsi:type="TS" value="20190301"/></observation></entry>
      <entry><observationMedia classCode="OBS" moodCode="EVN"><value mediaType="image/jpeg" representation="B64">{picture}</value></observationMedia></entry>
    </section></component>
    <component><section nullFlavor="NI"><title>Plan for Wilhelmina</title><text>Return in two weeks.</text></section></component>
  </structuredBody></component>
</ClinicalDocument>
"""  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("coding", ["utf-8", "utf-16"])
def test_nothing_planted_is_left_and_the_rest_stays(
    place: Path, clean: Callable[..., Report], none_left: Callable[[Iterable[str]], None], coding: str
) -> None:
    text = DOCUMENT.format(coding=coding, picture=base64.b64encode(b"\xff\xd8 Zebedee").decode())
    (place / "in/Quillon_MRN8847213.xml").write_bytes(text.encode(coding))
    report = clean()
    none_left([*PLANTED, base64.b64encode(b"\xff\xd8 Zebedee").decode(), "Vander", "meer"])
    (path,) = (place / "out").rglob("*.xml")
    before, after = only(place / "in/Quillon_MRN8847213.xml"), only(path)
    key = open_key(place / "key")
    assert after.patient == key.pseudonym("MRN8847213")
    assert after.site == key.pseudonym("Saint Elsewhere")
    assert after.attributes["sex"] == "M"
    assert before.time is not None
    assert after.time == before.time + timedelta(days=key.days("MRN8847213"))
    said = load(path).text or ""
    for words in (
        "takes aspirin 81 mg",
        "Metformin 500 mg",
        "No fever.",
        "Return in two weeks.",
        "History:",
        "Daughter [NAME]",
    ):
        assert words in said, (words, said)
    new = path.read_text()
    for kept in (
        'value="1.1" unit="mg/dL"', 'code="2160-0"', 'code="44054006"', "Diabetes mellitus type 2", 'extension="POCD_HD000040"',
        'root="2.16.840.1.113883.10.20.22.1.1"', '<birthTime value="1932"', 'value="90" unit="a"',
    ):  # fmt: skip
        assert kept in new, kept
    assert f"#{key.pseudonym('Quillon-1')}" in new
    assert report.kinds == {"cda": 1}


def test_a_body_of_plain_words_is_read_and_a_pdf_is_set_aside(
    place: Path, clean: Callable[..., Report], none_left: Callable[[Iterable[str]], None]
) -> None:
    head = DOCUMENT[: DOCUMENT.index("<component><structuredBody>")].format(coding="utf-8")
    body = lambda kind, data: (
        f'{head}<component><nonXMLBody><text mediaType="{kind}" representation="B64">{base64.b64encode(data).decode()}</text>'
        "</nonXMLBody></component></ClinicalDocument>"
    )
    (place / "in/a.xml").write_text(body("text/plain", b"Seen by Dr. Vandermeer. No fever."))
    (place / "in/b.xml").write_text(body("application/pdf", b"%PDF-1.4 Zebedee"))
    report = clean(aside=True)
    assert [a.found for a in report.aside] == ["a clinical document whose body is another document"]
    none_left(PLANTED)
    (path,) = (place / "out").rglob("*.xml")
    assert load(path).text == "Seen by Dr. [NAME]. No fever."


@pytest.mark.parametrize("bomb", ['<!DOCTYPE x [<!ENTITY a "Zebedee">]>', '<!DOCTYPE x SYSTEM "file:///etc/passwd">'])
def test_entities_are_refused(place: Path, clean: Callable[..., Report], bomb: str) -> None:
    (place / "in/a.xml").write_text(f'<?xml version="1.0"?>{bomb}<ClinicalDocument xmlns="urn:hl7-org:v3"/>')
    assert len(clean(aside=True).aside) == 1


def test_records_stay_whose_they_were(place: Path, clean: Callable[..., Report]) -> None:
    """The same number is the same person in a document, a message and a table, and their days move alike."""
    (place / "in/a.xml").write_text(DOCUMENT.format(coding="utf-8", picture=""))
    (place / "in/b.hl7").write_text(
        "MSH|^~\\&|L|F|||20190314||ORU^R01|1|P|2.5.1\rPID|1||MRN8847213^^^A^MR\rOBR|1|||1^x^LN\r"
        "OBX|1|NM|2160-0^x^LN||1.4|mg/dL|||||F|||20190314\r"
    )
    (place / "in/c.csv").write_text("patient_id,date,value\nMRN8847213,2019-03-14,3\n")
    clean()
    found = [
        r
        for p in sorted((place / "out").rglob("*.*"))
        for r in records.read(p)
        if isinstance(r, Record) and p.suffix != ".hl7"
    ]
    key = open_key(place / "key")
    assert {r.patient for r in found} == {key.pseudonym("MRN8847213")}
    moved = f"{found[-1].time:%Y%m%d}"
    assert f"|||{moved}\r" in (place / "out/b.hl7").read_bytes().decode()
    assert f'<time value="{moved}"' in (place / "out/a.xml").read_text()
