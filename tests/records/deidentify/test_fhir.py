"""FHIR: nothing planted is left, references resolve, a bundle is still a person's history."""

from __future__ import annotations

import base64
import json
import zipfile
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

from polyclinic import records
from polyclinic.records.deidentify import Options, Report, deidentify
from polyclinic.schema import Record

PATIENT, DOCTOR = "4d0f8c6a-1111-4aaa-9bbb-000000000001", "4d0f8c6a-2222-4aaa-9bbb-000000000002"
PLANTED = {
    "id": PATIENT,
    "family": "Zebedeeson",
    "given": "Quillon",
    "prefix": "Countess",
    "maiden": "Ottolinde",
    "phone": "555-867-5309",
    "mail": "quillon@elsewhere.example",
    "street": "14 Marigold Passage",
    "town": "Elsewhereton",
    "post": "EL5 3WH",
    "mrn": "MRN8847213",
    "ssn": "999-12-3456",
    "driver": "S99912345",
    "system": "elsewhere-hospital",
    "photo": "cGhvdG8tb2YtaGVy",
    "contact": "Barnabyson",
    "birth": "1928-04-05",
    "birth place": "Birthplaceville",
    "mothers name": "Motherina",
    "doctor id": DOCTOR,
    "doctor": "Vandermeerwick",
    "npi": "9941339108",
    "clinic": "Saint Elsewhere General",
    "clinic phone": "555-111-2222",
    "latitude": "42.360082",
    "narrative": "Narrative about Zebedeeson",
    "note": "seen with brother",
    "date": "2019-03-14",
    "attachment": "Dictated by Vandermeerwick",
    "pdf": "JVBERi1zZWNyZXQ=",
    "display": "Quillon Zebedeeson",
    "extension": "secret extension words",
    "device": "SN-771-ZZ",
    "udi": "(01)00844588003288",
    "study": "1.3.6.1.4.1.99999.1.20190314.77",
    "server": "fhir.elsewhere-hospital.org",
    "local code": "LOCAL-DOCTOR-9",
    "account": "ACC-20447",
    "contained": "Containedson",
}


def reference(kind: str, uuid: str) -> dict[str, Any]:
    return {
        "reference": f"urn:uuid:{uuid}",
        "display": PLANTED["display"] if kind == "Patient" else f"Dr. {PLANTED['doctor']}",
    }


def bundle() -> dict[str, Any]:
    """A person as a hospital's server would export one."""
    p = PLANTED
    patient = {
        "resourceType": "Patient",
        "id": PATIENT,
        "meta": {
            "versionId": "4",
            "lastUpdated": "2019-03-20T10:00:00Z",
            "source": "https://fhir.elsewhere-hospital.org/x",
        },
        "text": {"status": "generated", "div": f"<div xmlns='http://www.w3.org/1999/xhtml'>{p['narrative']}</div>"},
        "extension": [
            {
                "url": "http://hl7.org/fhir/StructureDefinition/patient-mothersMaidenName",
                "valueString": p["mothers name"],
            },
            {
                "url": "http://hl7.org/fhir/StructureDefinition/patient-birthPlace",
                "valueAddress": {"city": p["birth place"]},
            },
            {"url": "https://elsewhere-hospital.org/x", "valueString": p["extension"]},
            {"url": "http://hl7.org/fhir/us/core/StructureDefinition/us-core-birthsex", "valueCode": "F"},
        ],
        "identifier": [
            {
                "type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MR"}]},
                "system": "https://elsewhere-hospital.org",
                "value": p["mrn"],
            },
            {"system": "http://hl7.org/fhir/sid/us-ssn", "value": p["ssn"]},
            {"value": p["driver"]},
        ],
        "name": [
            {"use": "official", "family": p["family"], "given": [p["given"]], "prefix": [p["prefix"]]},
            {"use": "maiden", "family": p["maiden"]},
        ],
        "telecom": [{"system": "phone", "value": p["phone"]}, {"system": "email", "value": p["mail"]}],
        "gender": "female",
        "birthDate": p["birth"],
        "deceasedDateTime": "2020-01-01T03:00:00+01:00",
        "address": [
            {
                "line": [p["street"]],
                "city": p["town"],
                "postalCode": p["post"],
                "extension": [{"url": "latitude", "valueDecimal": 42.360082}],
            }
        ],
        "photo": [{"contentType": "image/png", "data": p["photo"]}],
        "contact": [{"name": {"family": p["contact"]}}],
        "generalPractitioner": [reference("Practitioner", DOCTOR)],
    }
    doctor = {
        "resourceType": "Practitioner",
        "id": DOCTOR,
        "identifier": [{"system": "http://hl7.org/fhir/sid/us-npi", "value": p["npi"]}],
        "name": [{"family": p["doctor"], "text": f"Dr {p['doctor']}"}],
        "qualification": [{"code": {"text": p["local code"]}}],
    }
    clinic = {
        "resourceType": "Organization",
        "id": "org-1",
        "name": p["clinic"],
        "telecom": [{"value": p["clinic phone"]}],
        "address": [{"city": p["town"]}],
    }
    place = {
        "resourceType": "Location",
        "id": "loc-1",
        "name": p["clinic"],
        "position": {"latitude": 42.360082, "longitude": -71.0},
    }
    visit = {
        "resourceType": "Encounter",
        "id": "enc-1",
        "status": "finished",
        "subject": reference("Patient", PATIENT),
        "period": {"start": "2019-03-14T09:00:00Z", "end": "2019-03-15"},
        "participant": [
            {
                "individual": {
                    "reference": f"Practitioner?identifier=http://hl7.org/fhir/sid/us-npi|{p['npi']}",
                    "display": p["doctor"],
                }
            }
        ],
        "serviceProvider": {"reference": "Organization/org-1", "display": p["clinic"]},
    }
    pressure = {
        "resourceType": "Observation",
        "id": "obs-1",
        "status": "final",
        "subject": reference("Patient", PATIENT),
        "encounter": {"reference": "https://fhir.elsewhere-hospital.org/base/Encounter/enc-1"},
        "code": {
            "coding": [{"system": "http://loinc.org", "code": "8480-6", "display": "Systolic blood pressure"}],
            "text": "Systolic blood pressure",
        },
        "effectiveDateTime": "2019-03-14T10:00:00Z",
        "issued": "2019-03-14T10:05:00Z",
        "valueQuantity": {"value": 121, "unit": "mmHg", "system": "http://unitsofmeasure.org", "code": "mm[Hg]"},
        "note": [
            {"text": f"Ms. {p['family']} was {p['note']} Tobias on 3/14/2019.", "authorString": f"Dr. {p['doctor']}"}
        ],
        "performer": [reference("Practitioner", DOCTOR)],
    }
    condition = {
        "resourceType": "Condition",
        "id": "c-1",
        "subject": {"reference": f"Patient/{PATIENT}"},
        "onsetAge": {"value": 91, "unit": "years", "code": "a"},
        "code": {
            "coding": [
                {"system": "http://snomed.info/sct", "code": "38341003", "display": "Hypertension"},
                {"system": "https://elsewhere-hospital.org/codes", "code": "x", "display": f"of {p['given']}"},
            ]
        },
        "recordedDate": "2019-03",
    }
    words = base64.b64encode(p["attachment"].encode()).decode()
    document = {
        "resourceType": "DocumentReference",
        "id": "doc-1",
        "subject": reference("Patient", PATIENT),
        "status": "current",
        "content": [
            {"attachment": {"contentType": "text/plain", "data": words, "title": p["display"]}},
            {
                "attachment": {
                    "contentType": "application/pdf",
                    "data": p["pdf"],
                    "url": "https://fhir.elsewhere-hospital.org/b/1",
                }
            },
        ],
    }
    imaging = {
        "resourceType": "ImagingStudy",
        "id": "im-1",
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{p['study']}"}, {"value": p["account"]}],
        "subject": reference("Patient", PATIENT),
        "status": "available",
        "started": "2019-03-14",
        "series": [
            {
                "uid": "1.3.6.1.4.1.99999.2.20190314.77",
                "instance": [
                    {
                        "uid": "1.3.6.1.4.1.99999.3.20190314.77",
                        "sopClass": {"system": "urn:ietf:rfc:3986", "code": "urn:oid:1.2.840.10008.5.1.4.1.1.2"},
                    }
                ],
            }
        ],
    }
    device = {
        "resourceType": "Device",
        "id": "d-1",
        "serialNumber": p["device"],
        "udiCarrier": [{"carrierHRF": p["udi"]}],
        "patient": reference("Patient", PATIENT),
    }
    order = {
        "resourceType": "MedicationRequest",
        "id": "m-1",
        "subject": reference("Patient", PATIENT),
        "intent": "order",
        "status": "active",
        "authoredOn": "2019-03-14",
        "requester": {"reference": "#rp"},
        "contained": [{"resourceType": "RelatedPerson", "id": "rp", "name": [{"family": p["contained"]}]}],
        "medicationCodeableConcept": {
            "coding": [
                {"system": "http://www.nlm.nih.gov/research/umls/rxnorm", "code": "313782", "display": "Acetaminophen"}
            ]
        },
    }
    whole = [patient, doctor, clinic, place, visit, pressure, condition, document, imaging, device, order]
    full = lambda r: (
        f"urn:uuid:{r['id']}"
        if len(r["id"]) == 36
        else f"https://fhir.elsewhere-hospital.org/base/{r['resourceType']}/{r['id']}"
    )
    return {
        "resourceType": "Bundle",
        "id": "b-1",
        "type": "collection",
        "timestamp": "2019-04-01T00:00:00Z",
        "entry": [{"fullUrl": full(r), "resource": r} for r in whole],
    }


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], bytes, Report, Path]:
    place = tmp_path_factory.mktemp("fhir")
    (place / "in").mkdir()
    (place / "key").write_bytes(b"0123456789abcdef" * 2)  # its shift moves no planted date onto another
    (place / "in" / f"Quillon_Zebedeeson_{PATIENT}.json").write_text(json.dumps(bundle()))
    report = deidentify(place / "in", place / "out", place / "key")
    path = place / "out" / report.files[0]
    content = path.name.encode() + path.read_bytes() + (place / "out" / ".deidentified.json").read_bytes()
    return json.loads(path.read_bytes()), content, report, path


@pytest.mark.parametrize("what", sorted(PLANTED))
def test_nothing_planted_is_left(what: str, done: tuple[dict[str, Any], bytes, Report, Path]) -> None:
    secret = PLANTED[what]
    if what == "note":
        secret = "Tobias"
    content = done[1].decode().casefold()
    assert secret.casefold() not in content
    attachments = [
        a["data"] for r in of(done[0], "DocumentReference") for c in r["content"] if (a := c.get("attachment"))
    ]
    assert all(secret.casefold() not in base64.b64decode(a).decode().casefold() for a in attachments)


def test_the_planted_were_there() -> None:
    text = json.dumps(bundle()) + "".join(PLANTED[k] for k in ("attachment",))
    assert [k for k, secret in PLANTED.items() if secret not in text] == []


def of(whole: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [e["resource"] for e in whole["entry"] if e["resource"]["resourceType"] == kind]


def test_references_resolve(done: tuple[dict[str, Any], bytes, Report, Path]) -> None:
    whole = done[0]
    full = {e["fullUrl"] for e in whole["entry"]}
    ids = {f"{e['resource']['resourceType']}/{e['resource']['id']}" for e in whole["entry"]}
    (patient,), (doctor,), (visit,) = of(whole, "Patient"), of(whole, "Practitioner"), of(whole, "Encounter")
    (pressure,), (condition,), (order,) = (
        of(whole, "Observation"),
        of(whole, "Condition"),
        of(whole, "MedicationRequest"),
    )
    assert pressure["subject"]["reference"] in full
    assert pressure["subject"]["reference"] == f"urn:uuid:{patient['id']}"
    assert pressure["encounter"]["reference"] == f"Encounter/{visit['id']}"
    assert condition["subject"]["reference"] in ids
    assert visit["serviceProvider"]["reference"] in ids
    npi = doctor["identifier"][0]
    assert (
        visit["participant"][0]["individual"]["reference"] == f"Practitioner?identifier={npi['system']}|{npi['value']}"
    )
    assert order["requester"]["reference"] == f"#{order['contained'][0]['id']}"
    assert patient["generalPractitioner"][0]["reference"] in full


def test_dates_move_together_and_a_birth_is_a_year(done: tuple[dict[str, Any], bytes, Report, Path]) -> None:
    whole = done[0]
    (pressure,), (visit,), (patient,), (condition,) = (
        of(whole, k) for k in ("Observation", "Encounter", "Patient", "Condition")
    )
    moved = date.fromisoformat(pressure["effectiveDateTime"][:10]) - date(2019, 3, 14)
    assert 1 <= abs(moved.days) <= 365
    assert pressure["effectiveDateTime"].endswith("T10:00:00Z")
    assert date.fromisoformat(visit["period"]["end"]) - date(2019, 3, 15) == moved
    assert date.fromisoformat(patient["deceasedDateTime"][:10]) - date(2020, 1, 1) == moved
    assert len(condition["recordedDate"]) == 7
    assert patient["birthDate"] == "1930"  # 91 in 2020: as one who is 90
    assert condition["onsetAge"]["value"] == 90


def test_what_is_worth_keeping_is_kept(done: tuple[dict[str, Any], bytes, Report, Path]) -> None:
    whole, _, _, _ = done
    (pressure,), (patient,), (imaging,), (condition,) = (
        of(whole, k) for k in ("Observation", "Patient", "ImagingStudy", "Condition")
    )
    assert pressure["code"] == bundle()["entry"][5]["resource"]["code"]
    assert pressure["valueQuantity"] == {
        "value": 121,
        "unit": "mmHg",
        "system": "http://unitsofmeasure.org",
        "code": "mm[Hg]",
    }
    assert patient["gender"] == "female"
    assert patient["extension"] == [
        {"url": "http://hl7.org/fhir/us/core/StructureDefinition/us-core-birthsex", "valueCode": "F"}
    ]
    assert condition["code"]["coding"][0] == {
        "system": "http://snomed.info/sct",
        "code": "38341003",
        "display": "Hypertension",
    }
    assert imaging["series"][0]["uid"].startswith("2.25.")
    assert imaging["series"][0]["instance"][0]["sopClass"]["code"] == "urn:oid:1.2.840.10008.5.1.4.1.1.2"
    assert "text" not in patient


def test_a_study_still_points_at_its_images(tmp_path: Path) -> None:
    """The DICOM object and the ImagingStudy of one examination are remapped alike, and so is the patient's number."""
    import numpy as np
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset

    (tmp_path / "in").mkdir()
    (tmp_path / "in/b.json").write_text(json.dumps(bundle()))
    meta: Any = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    meta.MediaStorageSOPInstanceUID = "1.3.6.1.4.1.99999.3.20190314.77"
    meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    d = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    d.SOPClassUID, d.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    d.StudyInstanceUID, d.PatientID, d.StudyDate, d.Modality = PLANTED["study"], PLANTED["mrn"], "20190314", "CT"
    d.Rows, d.Columns, d.BitsAllocated, d.PixelData = 2, 2, 8, np.zeros((2, 2), np.uint8).tobytes()
    d.BitsStored, d.HighBit, d.PixelRepresentation, d.SamplesPerPixel, d.PhotometricInterpretation = (
        8,
        7,
        0,
        1,
        "MONOCHROME2",
    )
    d.save_as(tmp_path / "in/a.dcm", enforce_file_format=True)
    deidentify(tmp_path / "in", tmp_path / "out", tmp_path / "key")
    image = pydicom.dcmread(next((tmp_path / "out").glob("*.dcm")))
    (study,) = of(json.loads(next((tmp_path / "out").glob("b*.json")).read_text()), "ImagingStudy")
    assert study["identifier"][0]["value"] == f"urn:oid:{image.StudyInstanceUID}"
    assert study["series"][0]["instance"][0]["uid"] == image.SOPInstanceUID
    assert datetime.strptime(image.StudyDate, "%Y%m%d").date() == date.fromisoformat(
        study["started"]
    )  # the medical record number is the person's


def test_synthetic_people_keep_their_history(shared_data: Path, tmp_path: Path) -> None:
    """Synthea's bundles: the same events at the same distances, and none of their people's names."""
    with zipfile.ZipFile(shared_data / "synthea-fhir-r4/bundles.zip") as archive:
        names = [n for n in archive.namelist() if n.endswith(".json") and "__MACOSX" not in n][:4]
        archive.extractall(tmp_path / "in", names)
    report = deidentify(tmp_path / "in", tmp_path / "out", tmp_path / "key", Options())
    assert len(report.files) == len(names)
    written = b"".join(p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()).decode().casefold()
    for path in (tmp_path / "in").rglob("*.json"):
        whole = json.loads(path.read_text())
        new = tmp_path / "out" / report.files[sorted((tmp_path / "in").rglob("*.json")).index(path)]
        for person in of(whole, "Patient"):
            for name in person["name"]:
                assert name["family"].casefold() not in written
            assert person["id"] not in written
            assert all(str(i["value"]).casefold() not in written for i in person["identifier"])
        before, after = list(records.read(path)), list(records.read(new))
        assert [type(r) for r in after] == [type(r) for r in before]
        for old, fresh in zip(before, after, strict=True):
            if isinstance(old, Record) and isinstance(fresh, Record):
                assert fresh.attributes["events"] == old.attributes["events"]
                assert (records.load(fresh, new.parent).array == records.load(old, path.parent).array).all()
