from __future__ import annotations

import base64
import gzip
import json
import zipfile
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic import records
from polyclinic.records import history
from polyclinic.schema import Events, Modality, Record, Rejected

PERSON = {"resourceType": "Patient", "id": "p1", "gender": "female", "birthDate": "1950-06-01"}
LOINC, SNOMED = "http://loinc.org", "http://snomed.info/sct"
Row = dict[str, Any]


def coded(code: str, system: str = LOINC) -> Row:
    return {"coding": [{"system": system, "code": code}]}


def seen(code: str = "1", when: str = "2020-01-01T10:00:00Z", **more: Any) -> Row:
    return {"resourceType": "Observation", "status": "final", "code": coded(code), "effectiveDateTime": when, **more}


def bundle(*resources: Any, **more: Any) -> str:
    return json.dumps({"resourceType": "Bundle", "entry": [{"resource": r} for r in resources], **more})


def taken(path: Path) -> tuple[list[Row], list[Record], list[str]]:
    """Events in the order of time, records, and reasons."""
    found = list(records.read(path))
    rows = [row for item in found if isinstance(item, Events) for row in item.table.to_pylist()]
    rows.sort(
        key=lambda r: (r["time"] is not None, r["time"], r["code"]) if r["time"] else (False, datetime.min, r["code"])
    )
    return rows, [r for r in found if isinstance(r, Record)], [r.found for r in found if isinstance(r, Rejected)]


def events(path: Path, *resources: Any, person: Any = PERSON) -> list[tuple[Any, ...]]:
    """What befell the one person: code, value, unit, text."""
    path.write_text(bundle(person, *resources))
    rows, _, _ = taken(path)
    return [
        (r["code"], r["numeric_value"], r["unit"], r["text_value"])
        for r in rows
        if r["time"] and not r["code"].startswith("MEDS_")
    ]


def test_a_persons_history_is_events_with_their_times(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(
        bundle(
            PERSON | {"deceasedDateTime": "2021-05-01", "managingOrganization": {"reference": "Organization/north"}},
            seen(
                "2160-0",
                "2020-01-02T10:30:00Z",
                valueQuantity={"value": 106.08, "code": "umol/L"},
                encounter={"reference": "Encounter/e1"},
            ),
            seen("8480-6", "2020-01-01T10:00:00+02:00", valueQuantity={"value": 120}),
            {"resourceType": "Condition", "code": coded("44054006", SNOMED), "onsetDateTime": "2020-01-03"},
        )
    )
    rows, made, aside = taken(tmp_path / "a.json")
    assert not made
    assert not aside
    assert {r["patient"] for r in rows} == {"p1"}
    assert {r["site"] for r in rows} == {"north"}
    assert [(r["time"], r["code"]) for r in rows] == [
        (None, "GENDER//F"),
        (datetime(1950, 6, 1), "MEDS_BIRTH"),
        (datetime(2020, 1, 1, 10), "LOINC 8480-6"),
        (datetime(2020, 1, 2, 10, 30), "LOINC 2160-0"),
        (datetime(2020, 1, 3), "SNOMED 44054006"),
        (datetime(2021, 5, 1), "MEDS_DEATH"),
    ]
    creatinine = rows[3]
    assert creatinine["numeric_value"] == pytest.approx(1.2, rel=1e-3)  # mg/dL = µmol/L / 88.4
    assert (creatinine["unit"], creatinine["source_value"], creatinine["source_unit"]) == ("mg/dL", 106.08, "umol/L")
    assert creatinine["encounter"] == "e1"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"valueBoolean": False}, [("LOINC 1", None, None, "false")]),
        ({"valueInteger": 3}, [("LOINC 1", 3.0, None, None)]),
        ({"valueCodeableConcept": coded("LA6568-5")}, [("LOINC 1", None, None, "LOINC LA6568-5")]),
        ({"valueCodeableConcept": {"text": "Not  seen"}}, [("LOINC 1", None, None, "local Not seen")]),
        ({"valueString": "fine"}, [("LOINC 1", None, None, "fine")]),
        ({"valueString": "half \ud800"}, [("LOINC 1", None, None, "half ?")]),
        ({"valueQuantity": {"value": 5, "comparator": "<", "unit": "mmHg"}}, [("LOINC 1", 5.0, "mm[Hg]", "<")]),
        ({"valueRange": {"low": {"value": 3, "unit": "/HPF"}, "high": {"value": 5}}}, [("LOINC 1", None, "/HPF", "3 to 5")]),
        ({"valueRatio": {"numerator": {"value": 1}, "denominator": {"value": 128}}}, [("LOINC 1", 1 / 128, None, "1:128")]),
        (
            {"valueRatio": {"numerator": {"value": 5, "unit": "mg"}, "denominator": {"value": 2, "unit": "L"}}},
            [("LOINC 1", 2.5, "mg/L", "5:2")],
        ),
        (
            {"component": [{"code": coded("8480-6"), "valueQuantity": {"value": 120, "unit": "mmHg"}}]},
            [("LOINC 8480-6", 120.0, "mm[Hg]", None)],
        ),
        (
            {"valueInteger": 9,
             "component": [{"code": coded("2"), "valueInteger": 1}, {"code": coded("3"), "dataAbsentReason": coded("u")}]},
            [("LOINC 1", 9.0, None, None), ("LOINC 2", 1.0, None, None)],
        ),
        ({"dataAbsentReason": coded("unknown")}, []),
        ({"status": "entered-in-error", "valueInteger": 3}, []),
        ({"valueQuantity": {"value": 1e300}}, []),
        ({"valueQuantity": {"value": 10**400}}, []),
        ({"valueSampledData": {"origin": {"value": 0}, "period": 10, "dimensions": 1, "data": "1 2 3"}}, []),
    ],
)  # fmt: skip
def test_what_was_answered(tmp_path: Path, answer: Row, expected: list[tuple[Any, ...]]) -> None:
    found = events(tmp_path / "a.json", seen("9", "2020-01-01T09:00:00Z"), seen(**answer))
    assert found[1:] == [(code, pytest.approx(value), unit, text) for code, value, unit, text in expected]


def test_a_signal_among_the_observations_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(
        bundle(PERSON, seen(valueSampledData={"data": "1 2"}), seen("2", valueSampledData={"data": "1 2"}))
    )
    assert taken(tmp_path / "a.json")[2] == ["2 sampled signals"]


@pytest.mark.parametrize(
    "resource",
    [
        {"resourceType": "Condition", "code": coded("1"), "onsetDateTime": "2020-01-02", "verificationStatus": coded("refuted")},
        {"resourceType": "Procedure", "code": coded("1"), "performedDateTime": "2020-01-02", "status": "not-done"},
        {"resourceType": "MedicationRequest", "medicationCodeableConcept": coded("1"), "authoredOn": "2020-01-02", "doNotPerform": True},
        {"resourceType": "MedicationRequest", "medicationCodeableConcept": coded("1"), "authoredOn": "2020-01-02", "status": "draft"},
        {"resourceType": "Encounter", "type": [coded("1")], "period": {"start": "2020-01-02"}, "status": "planned"},
        {"resourceType": "Claim", "code": coded("1"), "created": "2020-01-02"},
    ],
)  # fmt: skip
def test_what_did_not_happen_is_no_event(tmp_path: Path, resource: Row) -> None:
    assert len(events(tmp_path / "a.json", seen(), resource)) == 1


DAY = "2020-01-02T10:00:00Z"


@pytest.mark.parametrize(
    ("resource", "code"),
    [
        ({"resourceType": "Procedure", "code": coded("7"), "performedPeriod": {"start": DAY}}, "LOINC 7"),
        ({"resourceType": "Procedure", "code": coded("7"), "performedDateTime": DAY}, "LOINC 7"),
        ({"resourceType": "Procedure", "code": coded("7"), "occurrenceDateTime": DAY}, "LOINC 7"),  # R5
        ({"resourceType": "MedicationRequest", "medicationCodeableConcept": coded("7"), "authoredOn": DAY}, "LOINC 7"),
        ({"resourceType": "MedicationRequest", "medication": {"concept": coded("7")}, "authoredOn": DAY}, "LOINC 7"),  # R5
        ({"resourceType": "MedicationRequest", "medication": {"reference": {"reference": "Medication/m"}}, "authoredOn": DAY}, "RxNorm 5"),
        ({"resourceType": "MedicationDispense", "medicationReference": {"reference": "urn:uuid:m"}, "whenHandedOver": DAY}, "RxNorm 5"),
        (
            {"resourceType": "MedicationStatement", "medicationReference": {"reference": "#in"}, "effectivePeriod": {"start": DAY},
             "contained": [{"resourceType": "Medication", "id": "in", "code": coded("6")}]},
            "LOINC 6",
        ),
        ({"resourceType": "MedicationAdministration", "medication": {"concept": coded("7")}, "occurenceDateTime": DAY}, "LOINC 7"),  # R5
        ({"resourceType": "Immunization", "vaccineCode": coded("7", "http://hl7.org/fhir/sid/cvx"), "occurrenceDateTime": DAY}, "CVX 7"),
        ({"resourceType": "Encounter", "type": [coded("7")], "period": {"start": DAY}}, "LOINC 7"),
        ({"resourceType": "Encounter", "class": {"code": "AMB", "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode"},
          "period": {"start": DAY}}, "ActCode AMB"),
        ({"resourceType": "Encounter", "class": [coded("IMP", "http://terminology.hl7.org/CodeSystem/v3-ActCode")],
          "actualPeriod": {"start": DAY}}, "ActCode IMP"),  # R5
        ({"resourceType": "Condition", "code": coded("7", "urn:oid:2.16.840.1.113883.6.90"), "recordedDate": DAY}, "ICD10CM 7"),
        ({"resourceType": "AllergyIntolerance", "code": coded("7"), "recordedDate": DAY}, "ALLERGY//LOINC 7"),
        ({"resourceType": "FamilyMemberHistory", "date": DAY, "condition": [{"code": coded("7", SNOMED)}]}, "FAMILY//SNOMED 7"),
        ({"resourceType": "Observation", "code": {"text": "House test"}, "issued": DAY, "valueInteger": 1}, "local House test"),
        ({"resourceType": "Observation", "effectiveInstant": DAY, "valueInteger": 1, "code": {"coding": [
            {"system": "http://lab.example/codes", "code": "GLU"}, {"system": LOINC, "code": "2345-7"}]}}, "LOINC 2345-7"),
    ],
)  # fmt: skip
def test_every_resource_has_its_time_and_its_code(tmp_path: Path, resource: Row, code: str) -> None:
    path = tmp_path / "a.json"
    drug = {"resourceType": "Medication", "id": "m", "code": coded("5", "http://www.nlm.nih.gov/research/umls/rxnorm")}
    entries = [{"resource": PERSON}, {"resource": drug, "fullUrl": "urn:uuid:m"}, {"resource": resource}]
    path.write_text(json.dumps({"resourceType": "Bundle", "entry": entries}))
    rows, _, aside = taken(path)
    assert not aside
    assert [(r["code"], r["time"]) for r in rows[2:]] == [(code, datetime(2020, 1, 2, 10))]


def test_a_stay_ends_and_a_visit_does_not(tmp_path: Path) -> None:
    stay = {
        "resourceType": "Encounter",
        "id": "e",
        "type": [coded("7")],
        "period": {"start": "2020-01-02", "end": "2020-01-09"},
    }
    visit = {
        "resourceType": "Encounter",
        "type": [coded("8")],
        "period": {"start": "2020-02-02T10:00:00Z", "end": "2020-02-02T10:15:00Z"},
    }
    assert [e[0] for e in events(tmp_path / "a.json", stay, visit)] == ["LOINC 7", "LOINC 7 end", "LOINC 8"]


def test_a_dose_that_was_given_is_the_events_value(tmp_path: Path) -> None:
    given_ = {
        "resourceType": "MedicationAdministration", "medicationCodeableConcept": coded("7"), "effectiveDateTime": DAY,
        "dosage": {"dose": {"value": 500, "unit": "mg"}},
    }  # fmt: skip
    assert events(tmp_path / "a.json", given_) == [("LOINC 7", 500.0, "mg", None)]


def test_an_event_without_a_day_is_counted_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(
        bundle(PERSON, seen(), seen("2", "2020"), {"resourceType": "Condition", "code": coded("3")})
    )
    rows, _, aside = taken(tmp_path / "a.json")
    assert [r["code"] for r in rows if r["time"]] == ["MEDS_BIRTH", "LOINC 1"]
    assert aside == ["2 entries without a day"]


def test_several_people_keep_their_own(tmp_path: Path) -> None:
    entries = [
        {"fullUrl": "urn:uuid:aaa", "resource": {"resourceType": "Patient", "id": "p1", "gender": "male"}},
        {"fullUrl": "https://h.example/fhir/Patient/p2", "resource": {"resourceType": "Patient", "id": "p2"}},
        *(
            {"resource": seen(code, subject={"reference": reference})}
            for code, reference in [
                ("1", "urn:uuid:aaa"), ("2", "Patient/p2"), ("3", "https://h.example/fhir/Patient/p2"), ("4", "Patient/p2/_history/3"),
                ("5", "Patient/elsewhere"), ("6", "Group/all"), ("7", "urn:uuid:nobody"),
            ]
        ),
        {"resource": {"resourceType": "Immunization", "vaccineCode": coded("8"), "occurrenceDateTime": DAY,
                      "patient": {"reference": "Patient/p1"}}},
        {"resource": seen("9")},
    ]  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps({"resourceType": "Bundle", "type": "searchset", "entry": entries}))
    rows, _, aside = taken(tmp_path / "a.json")
    assert {r["code"]: r["patient"] for r in rows} == {
        "GENDER//M": "p1", "LOINC 1": "p1", "LOINC 2": "p2", "LOINC 3": "p2", "LOINC 4": "p2", "LOINC 5": "elsewhere", "LOINC 8": "p1",
    }  # fmt: skip
    assert aside == ["3 entries of no known patient"]


def test_of_several_versions_the_newest_counts(tmp_path: Path) -> None:
    versions = [
        seen("1", id="o", valueInteger=n, meta={"lastUpdated": f"2020-01-0{day}T00:00:00Z"})
        for n, day in ((1, 1), (3, 3), (2, 2))
    ]
    assert events(tmp_path / "a.json", *versions) == [("LOINC 1", 3.0, None, None)]


def test_bulk_export_is_read_line_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "CHUNK", 4)
    (tmp_path / "Patient.ndjson").write_text("\n".join(json.dumps(PERSON | {"id": f"p{n}"}) for n in range(3)))
    lines = [json.dumps(seen(str(n), subject={"reference": f"Patient/p{n}"})) for n in range(10)]
    with gzip.open(tmp_path / "Observation.ndjson.gz", "wt") as file:
        file.write("\n".join([*lines[:5], '{"resourceType": "Obs', "", *lines[5:]]))
    drug = {"resourceType": "Medication", "id": "m", "code": coded("5")}
    (tmp_path / "Medication.ndjson").write_text(json.dumps(drug))
    order = {
        "resourceType": "MedicationRequest", "medicationReference": {"reference": "Medication/m"}, "authoredOn": DAY,
        "subject": {"reference": "Patient/p1"},
    }  # fmt: skip
    (tmp_path / "MedicationRequest.ndjson").write_text(json.dumps(order) + "\n")
    assert [r["code"] for r in taken(tmp_path / "Patient.ndjson")[0]] == ["GENDER//F"] * 3 + ["MEDS_BIRTH"] * 3
    found = list(records.read(tmp_path / "Observation.ndjson.gz"))
    assert [len(item.table) for item in found if isinstance(item, Events)] == [4, 4, 2]
    rows, _, aside = taken(tmp_path / "Observation.ndjson.gz")
    assert [(r["patient"], r["code"]) for r in rows] == [(f"p{n}", f"LOINC {n}") for n in range(10)]
    assert aside == ["1 lines that are no FHIR resource"]
    assert [r["code"] for r in taken(tmp_path / "MedicationRequest.ndjson")[0]] == ["LOINC 5"]


def document(data: bytes | None, kind: str = "text/plain", **more: Any) -> Row:
    attachment = {"contentType": kind} | ({"data": base64.b64encode(data).decode()} if data is not None else {}) | more
    return {
        "resourceType": "DocumentReference", "status": "current", "date": DAY, "type": {"text": "Discharge summary"},
        "content": [{"attachment": attachment}],
    }  # fmt: skip


PAGE = (
    b"<html><head><title>x</title><style>p{}</style></head><body><h1>Findings</h1><p>No &lt;acute&gt;<br>disease.</p>"
    b"<script>no()</script></body></html>"
)


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (b"Lungs clear.\r\n\r\n\r\n\r\nNo effusion. ", "text/plain", "Lungs clear.\n\nNo effusion."),
        ("Fièvre à 39°".encode("latin-1"), "text/plain; charset=iso-8859-1", "Fièvre à 39°"),
        ("Fièvre à 39°".encode(), "text/plain;charset=nonsense", "Fièvre à 39°"),
        (PAGE, "text/html", "Findings\n\nNo <acute>\ndisease."),
    ],
)
def test_a_document_is_a_text_record(tmp_path: Path, data: bytes, kind: str, words: str) -> None:
    (tmp_path / "a.json").write_text(bundle(PERSON, document(data, kind)))
    _, (item,), aside = taken(tmp_path / "a.json")
    assert not aside
    assert (item.patient, item.modality, item.kind, item.time) == (
        "p1",
        Modality.TEXT,
        "Discharge summary",
        datetime(2020, 1, 2, 10),
    )
    assert item.uri == "a.json#item=2"
    assert records.load(item, tmp_path).text == words


def test_a_document_of_a_bulk_export_is_found_by_its_line(tmp_path: Path) -> None:
    lines = [document(f"Note {n}.".encode()) | {"subject": {"reference": f"Patient/p{n}"}} for n in range(3)]
    (tmp_path / "DocumentReference.ndjson").write_text("\n".join(map(json.dumps, lines)))
    _, made, _ = taken(tmp_path / "DocumentReference.ndjson")
    assert [(r.patient, r.uri.rsplit("#")[-1], records.load(r, tmp_path).text) for r in made] == [
        (f"p{n}", f"item={n + 1}", f"Note {n}.") for n in range(3)
    ]


def test_a_document_elsewhere_or_without_words_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(
        bundle(
            PERSON, seen(), document(None, url="https://h.example/Binary/1"), document(b"%PDF-1.4", "application/pdf"), document(b"  "),
            document(None), {**document(b"x"), "content": [{"attachment": {"contentType": "text/plain", "data": "?"}}]},
        )
    )  # fmt: skip
    _, made, aside = taken(tmp_path / "a.json")
    assert not made
    assert sorted(aside) == [
        "1 documents behind an address", "1 documents of application/pdf", "1 documents that is no base64",
        "1 documents without content", "1 documents without words",
    ]  # fmt: skip


def test_a_document_in_the_bundles_own_binary_is_found(tmp_path: Path) -> None:
    binary = {
        "resourceType": "Binary",
        "id": "b",
        "contentType": "text/plain",
        "data": base64.b64encode(b"Words.").decode(),
    }
    (tmp_path / "a.json").write_text(bundle(PERSON, binary, document(None, url="Binary/b")))
    _, (item,), _ = taken(tmp_path / "a.json")
    assert records.load(item, tmp_path).text == "Words."


def test_a_report_is_its_words_and_its_results_are_not_doubled(tmp_path: Path) -> None:
    report = {
        "resourceType": "DiagnosticReport", "status": "final", "code": {"coding": [{"display": "CT chest"}]}, "effectiveDateTime": DAY,
        "result": [{"reference": "Observation/o"}],
    }  # fmt: skip
    form = {"contentType": "text/plain", "data": base64.b64encode(b"No embolism.").decode()}
    (tmp_path / "a.json").write_text(
        bundle(PERSON, seen(id="o", valueInteger=1), report, report | {"conclusion": "No embolism."},
               report | {"conclusion": "Normal.", "presentedForm": [form]})
    )  # fmt: skip
    rows, made, aside = taken(tmp_path / "a.json")
    assert not aside
    assert [r["code"] for r in rows] == ["GENDER//F", "MEDS_BIRTH", "LOINC 1"]
    assert [r.kind for r in made] == ["report CT chest"] * 2
    assert [records.load(r, tmp_path).text for r in made] == ["No embolism.", "No embolism.\n\nConclusion: Normal."]


def test_who_someone_is(tmp_path: Path) -> None:
    race = {
        "url": "http://hl7.org/fhir/us/core/StructureDefinition/us-core-race",
        "extension": [{"url": "text", "valueString": "Asian"}],
    }
    (tmp_path / "a.json").write_text(
        json.dumps(PERSON | {"extension": [race], "birthDate": "1950", "gender": "unknown"})
    )
    rows, _, _ = taken(tmp_path / "a.json")
    assert [(r["time"], r["code"]) for r in rows] == [(None, "RACE//Asian"), (datetime(1950, 7, 1), "MEDS_BIRTH")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"resourceType": "Bundle", "entry": [', "JSON that does not parse"),
        ('{"resourceType": "Bundle", "entry": ' + "[" * 200_000, "JSON that does not parse"),
        ('{"resourceType": "Bundle", "x": ' + "1" * 5000 + "}", "JSON that does not parse"),
        ('{"resourceType": {"name": "Jane"}}', "JSON that is no FHIR resource"),
        ('[{"resourceType": "Bundle"}]', "JSON that is no FHIR resource"),
        ('{"resourceType": "Bundle", "entry": 7}', "a bundle of 0 Patients"),
        ('{"resourceType": "Bundle", "entry": [7, null, {"resource": 3}]}', "a bundle of 0 Patients"),
        ('{"resourceType": "Patient", "name": "Jane"}', "a FHIR file without a patient's history"),
        ('{"a": 1}', "a file of unknown format (.json)"),
    ],
)  # fmt: skip
def test_what_is_no_history_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "a.json").write_text(text)
    (item,) = records.read(tmp_path / "a.json")
    assert isinstance(item, Rejected)
    assert item.found == reason


def test_a_packed_export_that_unpacks_beyond_bound_is_refused(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "Observation.ndjson.gz", "wb") as file:
        file.write(b'{"resourceType": "Observation"}\n' + b" " * (1 << 25))
    (item,) = records.read(tmp_path / "Observation.ndjson.gz")
    assert isinstance(item, Rejected)


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["resourceType", "code", "coding", "system", "id", "subject", "reference", "valueQuantity", "value", "component",
             "effectiveDateTime", "content", "attachment", "data", "contained", "period", "status", "extension", "url", "meta"]
        ),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(
        ["Patient", "Observation", "Encounter", "MedicationRequest", "DocumentReference", "DiagnosticReport"]
    ),
    more=_ANY,
)
def test_whatever_stands_in_a_resource_nothing_crashes(
    tmp_path_factory: pytest.TempPathFactory, kind: str, more: Any
) -> None:
    path = tmp_path_factory.mktemp("any") / "a.json"
    resource = (more if isinstance(more, dict) else {"code": more, "effectiveDateTime": more}) | {"resourceType": kind}
    path.write_text(bundle(PERSON, seen(subject={"reference": "Patient/p1"}), resource))
    rows, _, _ = taken(path)
    assert any(r["code"] == "LOINC 1" for r in rows), "one strange resource takes nothing from the others"


def test_the_synthetic_people(shared_data: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(next((shared_data / "synthea-fhir-r4").glob("*.zip"))) as archive:
        names = sorted((m for m in archive.infolist() if m.filename.endswith(".json")), key=lambda m: m.file_size)[:12]
        archive.extractall(tmp_path, names)
    tables: list[pa.Table] = []
    aside: list[str] = []
    expected, died = Counter[str](), 0
    for path in sorted(tmp_path.rglob("*.json")):
        found = list(records.read(path))
        tables += [item.table for item in found if isinstance(item, Events)]
        aside += [item.found for item in found if isinstance(item, Rejected)]
        for resource in (e["resource"] for e in json.loads(path.read_text())["entry"]):
            kind = resource["resourceType"]
            died += "deceasedDateTime" in resource
            if kind in ("Condition", "Immunization", "MedicationRequest", "Procedure"):
                expected[kind] += 1
            elif kind == "Observation":
                expected[kind] += len(resource.get("component", [1]))
    table = pa.concat_tables(tables)
    codes = table["code"].to_pylist()
    assert len(set(table["patient"].to_pylist())) == 11
    assert aside == ["a bundle of 0 Patients"]
    assert sum(c.startswith("LOINC ") for c in codes) == expected["Observation"]
    assert sum(c.startswith("CVX ") for c in codes) == expected["Immunization"]
    assert sum(c.startswith("RxNorm ") for c in codes) == expected["MedicationRequest"]
    assert codes.count("MEDS_BIRTH") == 11
    assert codes.count("MEDS_DEATH") == died
