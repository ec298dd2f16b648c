"""FHIR R4 bundles (JSON): one TABLE record a person, kind "EHR events", whose load gives the events with their hours.

Source: HL7 FHIR R4, Bundle, Patient, Observation, Condition, MedicationRequest, Procedure, Encounter, Immunization.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import Modality, Payload, Record, Rejected
from .source import RecordError, content_id, parse_time, split_uri

_LARGEST = 512 * 2**20
_SYSTEM = {
    "http://loinc.org": "LOINC", "http://snomed.info/sct": "SNOMED", "http://www.nlm.nih.gov/research/umls/rxnorm": "RxNorm",
    "http://hl7.org/fhir/sid/cvx": "CVX", "http://hl7.org/fhir/sid/icd-10": "ICD10", "http://unitsofmeasure.org": "UCUM",
}  # fmt: skip
_TIME = ("effectiveDateTime", "onsetDateTime", "authoredOn", "occurrenceDateTime", "recordedDate", "issued")
_EVENTS = {"Observation", "Condition", "MedicationRequest", "Procedure", "Immunization", "Encounter"}


def recognises(path: Path, head: bytes) -> bool:
    """Whether it is JSON that names a FHIR resource type."""
    return path.suffix.lower() == ".json" and b"{" in head[:64] and b"resourceType" in head


def _entries(path: Path) -> list[dict[str, Any]]:
    if path.stat().st_size > _LARGEST:
        raise RecordError("a bundle of over 512 MiB", "a person's bundle", "use the bulk export")
    try:
        bundle = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise RecordError("JSON that does not parse", "a whole FHIR bundle", "export it again") from error
    if not isinstance(bundle, dict) or bundle.get("resourceType") != "Bundle":
        found = bundle.get("resourceType") if isinstance(bundle, dict) else type(bundle).__name__
        raise RecordError(f"a FHIR {found}", "a Bundle with a Patient", "export the person's bundle ($everything)")
    entries = bundle.get("entry") or []
    resources = [e.get("resource") for e in entries if isinstance(e, dict)]
    return [r for r in resources if isinstance(r, dict)]


def _time(resource: dict[str, Any]) -> datetime | None:
    value = next((resource[k] for k in _TIME if resource.get(k)), None) or (
        resource.get("period") or resource.get("performedPeriod") or resource.get("effectivePeriod") or {}
    ).get("start")
    return parse_time(value[:19]) if isinstance(value, str) else None


def _code(concept: Any) -> str | None:
    if isinstance(concept, list):
        concept = concept[0] if concept else None
    coding = (concept or {}).get("coding") if isinstance(concept, dict) else None
    if not coding or not coding[0].get("code"):
        return None
    system = str(coding[0].get("system", ""))
    return f"{_SYSTEM.get(system, system.rsplit('/', 1)[-1] or 'local')} {coding[0]['code']}"


def _values(resource: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """The events of one resource: a quantity as code and value, anything else as `code=answer` and 1."""
    kind = resource["resourceType"]
    parts = [resource, *(resource.get("component") or [])] if kind == "Observation" else [resource]
    for part in parts:
        code = _code(
            part.get("code") or part.get("medicationCodeableConcept") or part.get("vaccineCode") or part.get("type")
        )
        if code is None:
            continue
        quantity = part.get("valueQuantity") or {}
        if isinstance(quantity.get("value"), int | float):
            unit = quantity.get("code") or quantity.get("unit")
            yield (f"{code} [{unit}]" if unit else code), float(quantity["value"])
        elif part.get("valueCodeableConcept"):
            yield f"{code}={_code(part['valueCodeableConcept'])}", 1.0
        elif not (kind == "Observation" and part.get("component")):
            yield code, 1.0


def _events(resources: list[dict[str, Any]]) -> list[tuple[datetime, str, float]]:
    found = []
    for resource in resources:
        moment = _time(resource) if resource.get("resourceType") in _EVENTS else None
        if moment is not None:
            found += [(moment, name, value) for name, value in _values(resource)]
    return sorted(found)


def _people(resources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [r for r in resources if r.get("resourceType") == "Patient"]


def read(path: Path) -> Iterator[Record | Rejected]:
    """The person of the bundle, as one record; a bundle without a person is set aside."""
    resources = _entries(path)
    people = _people(resources)
    if len(people) != 1:
        raise RecordError(f"a bundle of {len(people)} Patients", "exactly one", "export one bundle a person")
    person, events = people[0], _events(resources)
    if not events:
        raise RecordError(
            "a bundle without dated events", "observations, conditions or the like", "export the history too"
        )
    born = parse_time(str(person.get("birthDate", "")))
    last = events[-1][0]
    sex = {"male": "M", "female": "F"}.get(str(person.get("gender")))
    yield Record(
        id=content_id(path),
        patient=str(person.get("id") or re.sub(r"\W", "", path.stem)),
        time=events[0][0],
        modality=Modality.TABLE,
        kind="EHR events",
        uri=str(path),
        attributes={"sex": sex, "age": round((last - born).days / 365.25, 1) if born else None, "events": len(events)},
    )


def load(record: Record) -> Payload:
    """array (e 2): value, hours since the person's first event; names the codes with their unit."""
    events = _events(_entries(Path(split_uri(record.uri)[0])))
    if not events:
        raise RecordError("a bundle without dated events", "the bundle as ingested", "ingest it again")
    start = events[0][0]
    array = np.array(
        [(value, (moment - start).total_seconds() / 3600.0) for moment, _, value in events], dtype=np.float64
    )
    return Payload(array, names=tuple(name for _, name, _ in events))
