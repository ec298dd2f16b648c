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
from .source import RecordError, content_id, parse_time, place_of

_LARGEST = 128 * 2**20
"""JSON takes twenty times its size in memory, at worst."""
_SYSTEM = {
    "http://loinc.org": "LOINC", "http://snomed.info/sct": "SNOMED", "http://www.nlm.nih.gov/research/umls/rxnorm": "RxNorm",
    "http://hl7.org/fhir/sid/cvx": "CVX", "http://hl7.org/fhir/sid/icd-10": "ICD10", "http://unitsofmeasure.org": "UCUM",
}  # fmt: skip
_TIME = (
    "effectiveDateTime", "effectiveInstant", "onsetDateTime", "performedDateTime", "authoredOn", "occurrenceDateTime", "recordedDate",
    "issued",
)  # fmt: skip
_PERIOD = ("period", "performedPeriod", "effectivePeriod", "onsetPeriod")
_CODE = ("code", "medicationCodeableConcept", "vaccineCode", "type")
_NOT_SO = {"entered-in-error", "cancelled", "not-done", "refuted"}
_EVENTS = {"Observation", "Condition", "MedicationRequest", "Procedure", "Immunization", "Encounter"}


def recognises(path: Path, head: bytes) -> bool:
    """Whether it is JSON that names a FHIR resource type."""
    return path.suffix.lower() == ".json" and b"{" in head[:64] and b'"resourceType"' in head


def _resources(path: Path) -> list[dict[str, Any]]:
    if path.stat().st_size > _LARGEST:
        raise RecordError(f"a bundle of over {_LARGEST >> 20} MiB", "a person's bundle", "use the bulk export")
    try:
        bundle = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise RecordError("JSON that does not parse", "a whole FHIR bundle", "export it again") from error
    kind = bundle.get("resourceType") if isinstance(bundle, dict) else None
    if kind != "Bundle":
        found = f"a FHIR {kind}" if isinstance(kind, str) and kind.isalpha() else "JSON that is no FHIR resource"
        raise RecordError(found, "a Bundle with a Patient", "export the person's bundle ($everything)")
    return [r for e in _list(bundle.get("entry")) if isinstance(r := _dict(e).get("resource"), dict)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _time(resource: dict[str, Any]) -> datetime | None:
    value = next((resource[k] for k in _TIME if resource.get(k)), None)
    value = value or next((_dict(resource[k]).get("start") for k in _PERIOD if resource.get(k)), None)
    return parse_time(value[:19]) if isinstance(value, str) else None


def _code(concept: Any) -> str | None:
    if isinstance(concept, list):
        concept = concept[0] if concept else None
    coding = _dict(next(iter(_list(_dict(concept).get("coding"))), None))
    if not isinstance(coding.get("code"), str | int):
        return None
    system = str(coding.get("system", ""))
    return f"{_SYSTEM.get(system, system.rsplit('/', 1)[-1] or 'local')} {coding['code']}"


def _happened(resource: dict[str, Any]) -> bool:
    """Whether it speaks of something that happened: a mistaken, refuted or cancelled entry does not."""
    verified = _dict(next(iter(_list(_dict(resource.get("verificationStatus")).get("coding"))), None)).get("code")
    return not ({str(resource.get("status")), str(verified)} & _NOT_SO or resource.get("doNotPerform") is True)


def _values(resource: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """The events of one resource: a quantity as code and value, anything else as `code=answer` and 1."""
    parts = [resource, *map(_dict, _list(resource.get("component")))]
    for part in parts:
        code = next((c for k in _CODE if (c := _code(part.get(k)))), None)
        if code is None or part.get("dataAbsentReason"):
            continue
        quantity = _dict(part.get("valueQuantity"))
        value = quantity.get("value", part.get("valueInteger"))
        if isinstance(value, int | float) and not isinstance(value, bool):
            unit = quantity.get("code") or quantity.get("unit")
            if abs(value) < 1e30:  # JSON has numbers that no instrument shows
                yield (f"{code} [{unit}]" if unit else code), float(value)
        elif isinstance(part.get("valueBoolean"), bool):
            yield f"{code}={str(part['valueBoolean']).lower()}", 1.0
        elif answer := _code(part.get("valueCodeableConcept")):
            yield f"{code}={answer}", 1.0
        elif part is not resource or len(parts) == 1:  # of a panel, its components speak
            yield code, 1.0


def _events(resources: list[dict[str, Any]]) -> tuple[list[tuple[datetime, str, float]], int]:
    """The events in their order, and how many had no day and were left out."""
    found, undated = [], 0
    for resource in resources:
        if resource.get("resourceType") not in _EVENTS or not _happened(resource):
            continue
        moment = _time(resource)
        if moment is None:
            undated += 1
        else:
            found += [(moment, name, value) for name, value in _values(resource)]
    return sorted(found), undated


def _born(date: str) -> datetime | None:
    """A birth date; of a year or a month alone (FHIR's `date`; all that is left after de-identification) its middle."""
    middle = {4: "-07-01", 7: "-15"}.get(len(date), "")
    return parse_time(date + middle)


def read(path: Path, root: Path) -> Iterator[Record | Rejected]:
    """The person of the bundle, as one record; a bundle without a person is set aside."""
    resources = _resources(path)
    people = [r for r in resources if r.get("resourceType") == "Patient"]
    if len(people) != 1:
        raise RecordError(f"a bundle of {len(people)} Patients", "exactly one", "export one bundle a person")
    person, (events, undated) = people[0], _events(resources)
    if not events:
        raise RecordError(
            "a bundle without dated events", "observations, conditions or the like", "export the history too"
        )
    born = _born(str(person.get("birthDate", "")))
    last = events[-1][0]
    yield Record(
        id=content_id(path),
        patient=str(person.get("id") or re.sub(r"\W", "", path.stem)),
        time=events[0][0],
        modality=Modality.TABLE,
        kind="EHR events",
        uri=place_of(path, root),
        attributes={
            "sex": {"male": "M", "female": "F"}.get(str(person.get("gender"))),
            "age": round((last - born).days / 365.25, 1) if born else None,
            "events": len(events),
            "undated": undated,
        },
    )


def load(record: Record) -> Payload:
    """array (e 2): value, hours since the person's first event; names the codes with their unit."""
    events, _ = _events(_resources(Path(record.uri)))
    if not events:
        raise RecordError("a bundle without dated events", "the bundle as ingested", "ingest it again")
    start = events[0][0]
    array = np.array(
        [(value, (moment - start).total_seconds() / 3600.0) for moment, _, value in events], dtype=np.float64
    )
    return Payload(array, names=tuple(name for _, name, _ in events))
