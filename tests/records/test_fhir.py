from __future__ import annotations

import json
import zipfile
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyclinic import records
from polyclinic.schema import Modality, Record, Rejected

PERSON = {"resourceType": "Patient", "id": "p1", "gender": "female", "birthDate": "1950-06-01"}
LOINC = "http://loinc.org"


def coded(code: str, system: str = LOINC) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code}]}


def seen(code: str = "1", when: str = "2020-01-01T10:00:00Z", **more: Any) -> dict[str, Any]:
    return {"resourceType": "Observation", "status": "final", "code": coded(code), "effectiveDateTime": when, **more}


def read(path: Path, *resources: Any, person: Any = PERSON) -> Record | Rejected:
    path.write_text(json.dumps({"resourceType": "Bundle", "entry": [{"resource": r} for r in (person, *resources)]}))
    (item,) = records.read(path)
    return item


def events(path: Path, *resources: Any) -> list[tuple[str, float, float]]:
    item = read(path, *resources)
    assert isinstance(item, Record), item
    payload = records.load(item, path.parent)
    return [
        (name, float(value), float(hours)) for name, (value, hours) in zip(payload.names, payload.array, strict=True)
    ]


def test_a_person_is_a_record_whose_events_have_their_hours(tmp_path: Path) -> None:
    resources = (
        seen("2160-0", "2020-01-02T10:30:00Z", valueQuantity={"value": 1.2, "unit": "mg/dL", "code": "mg/dL"}),
        seen("8480-6", "2020-01-01T10:00:00Z", valueQuantity={"value": 120}),
        {
            "resourceType": "Condition",
            "code": coded("44054006", "http://snomed.info/sct"),
            "onsetDateTime": "2020-01-03",
        },
    )
    item = read(tmp_path / "a.json", *resources)
    assert isinstance(item, Record)
    assert (item.patient, item.modality, item.kind, item.time) == (
        "p1",
        Modality.TABLE,
        "EHR events",
        datetime(2020, 1, 1, 10),
    )
    assert dict(item.attributes) == {"sex": "F", "age": pytest.approx(69.6, abs=0.05), "events": 3, "undated": 0}
    assert events(tmp_path / "a.json", *resources) == [
        ("LOINC 8480-6", 120.0, 0.0), ("LOINC 2160-0 [mg/dL]", 1.2, 24.5), ("SNOMED 44054006", 1.0, 38.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"valueBoolean": False}, [("LOINC 1=false", 1.0)]),
        ({"valueBoolean": True}, [("LOINC 1=true", 1.0)]),
        ({"valueInteger": 3}, [("LOINC 1", 3.0)]),
        ({"valueCodeableConcept": coded("LA6568-5")}, [("LOINC 1=LOINC LA6568-5", 1.0)]),
        ({"valueString": "fine"}, [("LOINC 1", 1.0)]),
        (
            {"component": [{"code": coded("8480-6"), "valueQuantity": {"value": 120, "unit": "mmHg"}}]},
            [("LOINC 8480-6 [mmHg]", 120.0)],
        ),
        ({"dataAbsentReason": coded("unknown")}, []),
        ({"status": "entered-in-error", "valueInteger": 3}, []),
        ({"valueQuantity": {"value": 1e300}}, []),
        ({"valueQuantity": {"value": 10**400}}, []),
    ],
)
def test_what_was_answered(tmp_path: Path, answer: dict[str, Any], expected: list[tuple[str, float]]) -> None:
    other = seen("9", "2020-01-01T09:00:00Z")
    found = events(tmp_path / "a.json", other, seen(**answer))
    assert [(name, value) for name, value, _ in found[1:]] == expected


@pytest.mark.parametrize(
    "resource",
    [
        {
            "resourceType": "Condition",
            "code": coded("1"),
            "onsetDateTime": "2020-01-02",
            "verificationStatus": coded("refuted"),
        },
        {"resourceType": "Procedure", "code": coded("1"), "performedDateTime": "2020-01-02", "status": "not-done"},
        {
            "resourceType": "MedicationRequest",
            "medicationCodeableConcept": coded("1"),
            "authoredOn": "2020-01-02",
            "doNotPerform": True,
        },
        {"resourceType": "Claim", "code": coded("1"), "created": "2020-01-02"},
    ],
)
def test_what_did_not_happen_is_no_event(tmp_path: Path, resource: dict[str, Any]) -> None:
    assert len(events(tmp_path / "a.json", seen(), resource)) == 1


@pytest.mark.parametrize(
    "resource",
    [
        {"resourceType": "Procedure", "code": coded("7"), "performedPeriod": {"start": "2020-01-02T10:00:00Z"}},
        {"resourceType": "Procedure", "code": coded("7"), "performedDateTime": "2020-01-02T10:00:00Z"},
        {
            "resourceType": "MedicationRequest",
            "medicationCodeableConcept": coded("7"),
            "authoredOn": "2020-01-02T10:00:00Z",
        },
        {"resourceType": "Immunization", "vaccineCode": coded("7"), "occurrenceDateTime": "2020-01-02T10:00:00Z"},
        {"resourceType": "Encounter", "type": [coded("7")], "period": {"start": "2020-01-02T10:00:00Z"}},
        {"resourceType": "Condition", "code": coded("7"), "recordedDate": "2020-01-02T10:00:00Z"},
    ],
)
def test_every_resource_has_its_time(tmp_path: Path, resource: dict[str, Any]) -> None:
    assert events(tmp_path / "a.json", seen(), resource)[1] == ("LOINC 7", 1.0, 24.0)


def test_an_event_without_a_day_is_counted_and_left_out(tmp_path: Path) -> None:
    item = read(tmp_path / "a.json", seen(), seen("2", "2020"), {"resourceType": "Condition", "code": coded("3")})
    assert isinstance(item, Record)
    assert (item.attributes["events"], item.attributes["undated"]) == (1, 2)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"resourceType": "Bundle", "entry": [', "JSON that does not parse"),
        ('{"resourceType": "Bundle", "entry": ' + "[" * 200_000, "JSON that does not parse"),
        ('{"resourceType": "Bundle", "x": ' + "1" * 5000 + "}", "JSON that does not parse"),
        ('{"resourceType": "Patient", "name": "Jane"}', "a FHIR Patient"),
        ('{"resourceType": {"name": "Jane"}}', "JSON that is no FHIR resource"),
        ('[{"resourceType": "Bundle"}]', "JSON that is no FHIR resource"),
        ('{"resourceType": "Bundle", "entry": 7}', "a bundle of 0 Patients"),
        ('{"resourceType": "Bundle", "entry": [7, null, {"resource": 3}]}', "a bundle of 0 Patients"),
        ('{"resourceType": "Bundle", "entry": [{"resource": {"resourceType": "Patient"}}]}', "a bundle without dated events"),
        ('{"a": 1}', "a file of unknown format (.json)"),
    ],
)  # fmt: skip
def test_what_is_no_persons_bundle_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "a.json").write_text(text)
    (item,) = records.read(tmp_path / "a.json")
    assert isinstance(item, Rejected)
    assert item.found == reason


def test_two_people_are_refused(tmp_path: Path) -> None:
    item = read(tmp_path / "a.json", PERSON, seen())
    assert isinstance(item, Rejected)
    assert item.found == "a bundle of 2 Patients"


def test_the_synthetic_people(shared_data: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(next((shared_data / "synthea-fhir-r4").glob("*.zip"))) as archive:
        names = sorted((m for m in archive.infolist() if m.filename.endswith(".json")), key=lambda m: m.file_size)[:12]
        archive.extractall(tmp_path, names)
    people, aside, observed = 0, [], 0
    for path in sorted(tmp_path.rglob("*.json")):
        for item in records.read(path):
            if isinstance(item, Rejected):
                aside.append(item.found)
                continue
            people += 1
            payload = records.load(item, path.parent)
            assert np.isfinite(payload.array).all()
            assert (np.diff(payload.array[:, 1]) >= 0).all()
            assert payload.array[0, 1] == 0
            bundle = json.loads(path.read_text())["entry"]
            observed += sum(e["resource"]["resourceType"] == "Observation" for e in bundle)
            assert len(payload.names) >= sum(e["resource"]["resourceType"] == "Observation" for e in bundle)
    assert people == 11
    assert aside == ["a bundle of 0 Patients"]
    assert observed


@pytest.mark.parametrize(("born", "age"), [("1950", 69.5), ("1950-06", 69.55), ("1950-06-01", 69.6), ("", None)])
def test_an_age_is_known_of_a_year_of_birth_too(tmp_path: Path, born: str, age: float | None) -> None:
    item = read(tmp_path / "a.json", seen(when="2020-01-03"), person=PERSON | {"birthDate": born})
    assert isinstance(item, Record)
    assert item.attributes.get("age") == (None if age is None else pytest.approx(age, abs=0.06))
