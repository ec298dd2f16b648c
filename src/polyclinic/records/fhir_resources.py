"""FHIR resources → events: where each has its code, its time, its value, as a table of paths that R4 and R5 share.

Source: HL7 FHIR R4 (4.0.1) and R5 (5.0.0): Patient, Observation, Condition, Procedure, Encounter, Immunization, MedicationRequest,
-Administration, -Statement and -Dispense, AllergyIntolerance, FamilyMemberHistory, DocumentReference, DiagnosticReport.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from .events import BIRTH, DEATH
from .history import ETHNICITY, RACE, History, born, sex_code
from .source import parse_time
from .units import LARGEST_VALUE
from .vocabularies import is_known, local, vocabulary

Resource = dict[str, Any]
Resolve = Callable[[Any], Resource | None]
"""A Reference → the resource that it means, where that is at hand."""

NOT_SO = frozenset({
    "entered-in-error", "cancelled", "not-done", "refuted", "draft", "planned", "proposed", "preparation", "not-taken", "declined",
    "registered", "superseded",
})  # fmt: skip
"""Statuses of what did not happen, or not yet, or stands elsewhere now."""


@dataclass(frozen=True, slots=True)
class Paths:
    """Where a resource has what an event needs; the first field that is there counts.

    Args:
        time: fields of a date, or of a period, whose start counts.
        code: fields of a concept, of a list of them, or of R5's reference to one.
        said_of: put before the code where it does not speak of the patient's own state: an allergy to it, a relative's.
    """

    time: tuple[str, ...]
    code: tuple[str, ...] = ("code",)
    said_of: str = ""


_DRUG = ("medication", "medicationCodeableConcept", "medicationReference")
EVENTS = {
    "Observation": Paths(("effectiveDateTime", "effectiveInstant", "effectivePeriod", "effectiveTiming", "issued")),
    "Condition": Paths(("onsetDateTime", "onsetPeriod", "recordedDate", "assertedDate")),
    "Procedure": Paths(("performedDateTime", "performedPeriod", "occurrenceDateTime", "occurrencePeriod", "recorded")),
    "Encounter": Paths(("period", "actualPeriod"), ("type", "class")),
    "Immunization": Paths(("occurrenceDateTime", "recorded", "date"), ("vaccineCode",)),
    "MedicationRequest": Paths(("authoredOn",), _DRUG),
    "MedicationAdministration": Paths(("effectiveDateTime", "effectivePeriod", "occurenceDateTime", "occurencePeriod", "recorded"), _DRUG),
    "MedicationStatement": Paths(("effectiveDateTime", "effectivePeriod", "dateAsserted"), _DRUG),
    "MedicationDispense": Paths(("whenHandedOver", "whenPrepared", "recorded"), _DRUG),
    "AllergyIntolerance": Paths(("onsetDateTime", "recordedDate", "assertedDate"), said_of="ALLERGY//"),
    "FamilyMemberHistory": Paths(("date",), (), said_of="FAMILY//"),
}  # fmt: skip
DOCUMENTS = {"DocumentReference": ("date", "created", "indexed"), "DiagnosticReport": EVENTS["Observation"].time}


def items(value: Any) -> list[Any]:
    """A list that may not be there, or be no list."""
    return value if isinstance(value, list) else []


def fields(value: Any) -> Resource:
    """An object that may not be there, or be no object."""
    return value if isinstance(value, dict) else {}


def first(value: Any) -> Any:
    """What stands there, or the first of what stands there."""
    return next(iter(value), None) if isinstance(value, list) else value


def moment(value: Any) -> datetime | None:
    """A `dateTime`, or the start of a `Period` or of a `Timing`; its own clock's hour."""
    if isinstance(value, dict):
        value = value.get("start") or first(value.get("event"))
    return parse_time(value[:19]) if isinstance(value, str) else None


def time_of(resource: Resource, paths: tuple[str, ...]) -> datetime | None:
    """When it was; None where no field says a day."""
    return next((when for path in paths if resource.get(path) and (when := moment(resource[path]))), None)


def code_of(concept: Any) -> str | None:
    """`LOINC 2160-0` of a CodeableConcept or a Coding: that of a code system which others share, else the first, else its words."""
    concept = fields(first(concept))
    codings = [
        c for c in map(fields, items(concept.get("coding")) or [concept]) if isinstance(c.get("code"), str | int)
    ]
    coding = next((c for c in codings if is_known(str(c.get("system", "")))), next(iter(codings), None))
    if coding is not None and str(coding["code"]).strip():
        return f"{vocabulary(str(coding.get('system', '')))} {str(coding['code']).strip()}"
    return local(concept["text"]) if isinstance(concept.get("text"), str) else None


def name_of(concept: Any) -> str | None:
    """What a concept is called, in words."""
    concept = fields(first(concept))
    names = [concept.get("text"), *(fields(c).get("display") for c in items(concept.get("coding")))]
    return next((" ".join(n.split()) for n in names if isinstance(n, str) and n.strip()), None)


def happened(resource: Resource) -> bool:
    """Whether it speaks of something that happened: a mistaken, refuted, cancelled or merely planned entry does not."""
    verified = fields(first(fields(resource.get("verificationStatus")).get("coding"))).get("code")
    wasted = resource.get("doNotPerform") is True or resource.get("wasNotGiven") is True
    return not ({str(resource.get("status")), str(verified)} & NOT_SO or wasted)


class Answer(NamedTuple):
    """What was found: a number in a unit, or words; `skipped` says what kind of value could not be taken."""

    value: float | None = None
    unit: str | None = None
    text: str | None = None
    skipped: str | None = None


def _number(value: Any) -> float | None:
    """JSON has numbers that no instrument shows."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST_VALUE
    return float(value) if good else None


def _quantity(quantity: Resource) -> Answer:
    """A number with its unit: the UCUM code, where it is one, else as it is displayed. `<` and the like are the text."""
    if "value" in quantity and (value := _number(quantity["value"])) is not None:
        unit, sign = quantity.get("code") or quantity.get("unit"), quantity.get("comparator")
        return Answer(value, str(unit) if unit else None, str(sign) if sign else None)
    return Answer(skipped="values that are no numbers")


def answer_of(part: Resource) -> Answer | None:
    """The `value[x]` of an observation or of one of its components; None where it has none."""
    kind = next((k for k in part if k.startswith("value") and k[5:6].isupper()), None)
    value = part.get(kind) if kind else None
    match kind:
        case None:
            return None
        case "valueQuantity":
            return _quantity(fields(value))
        case "valueInteger" | "valueDecimal":
            number = _number(value)
            return Answer(number) if number is not None else Answer(skipped="values that are no numbers")
        case "valueBoolean" if isinstance(value, bool):
            return Answer(text=str(value).lower())
        case "valueCodeableConcept":
            return Answer(text=code_of(value))
        case "valueRange":
            low, high = (_quantity(fields(fields(value).get(end))) for end in ("low", "high"))
            shown = ["" if end.value is None else f"{end.value:g}" for end in (low, high)]
            return Answer(unit=low.unit or high.unit, text=f"{shown[0]} to {shown[1]}".strip())
        case "valueRatio":
            return _ratio(*(_quantity(fields(fields(value).get(side))) for side in ("numerator", "denominator")))
        case "valueString" | "valueDateTime" | "valueTime" if isinstance(value, str):
            return Answer(text=" ".join(value.split()))
        case "valuePeriod":
            return Answer(text=f"{fields(value).get('start', '')}/{fields(value).get('end', '')}")
        case "valueSampledData":
            return Answer(skipped="sampled signals")
        case _:
            return Answer(skipped="values of another kind than FHIR's observations have")


def _ratio(above: Answer, below: Answer) -> Answer:
    """5 mg / 2 L is 2.5 mg/L; a titre of 1:128 keeps its spelling too."""
    if above.value is None or not below.value:
        return Answer(skipped="ratios without two numbers")
    unit = f"{above.unit or '1'}/{below.unit}" if below.unit and below.unit != "1" else above.unit
    return Answer(above.value / below.value, unit, f"{above.value:g}:{below.value:g}")


def _parts(resource: Resource, paths: Paths, resolve: Resolve) -> Iterator[tuple[str, Resource]]:
    """What a resource says, code by code: itself, and each of its components."""
    if resource["resourceType"] == "FamilyMemberHistory":
        for condition in map(fields, items(resource.get("condition"))):
            if code := code_of(condition.get("code")):
                yield paths.said_of + code, {}
        return
    parts = [resource, *map(fields, items(resource.get("component")))]
    for part in parts:
        code = next((c for path in paths.code if (c := code_of(_concept(part.get(path), resolve)))), None)
        spoken = (
            part is not resource or len(parts) == 1 or answer_of(part) is not None
        )  # of a panel, its components speak
        if code and spoken and not part.get("dataAbsentReason"):
            yield paths.said_of + code, part


def _concept(value: Any, resolve: Resolve) -> Any:
    """A concept; that of the Medication which a reference, or R5's CodeableReference, leads to."""
    one = fields(first(value))
    if "reference" in one or "concept" in one:
        reference = one.get("reference")
        target = resolve(reference if isinstance(reference, dict) else one)
        return one.get("concept") or fields(target).get("code") or {"text": one.get("display")}
    return value


def take(resource: Resource, patient: str, site: str | None, history: History, resolve: Resolve) -> None:
    """Put the events of one resource into a history."""
    paths = EVENTS[resource["resourceType"]]
    when = time_of(resource, paths.time)
    if when is None:
        return history.leave("entries without a day", "a date on each", "export them with their dates")
    encounter, found = _encounter(resource), False
    for code, part in _parts(resource, paths, resolve):
        found, answer = True, answer_of(part) or _dose(part)
        if answer.skipped:
            history.leave(answer.skipped, "a number, a code or words", "export signals as files of their own")
            continue
        history.add(patient, when, code, answer.value, answer.unit, answer.text, encounter, site)
    if not found and not any(fields(p).get("dataAbsentReason") for p in [resource, *items(resource.get("component"))]):
        history.leave("entries without a code", "a code, or a few words", "export them with their codes")
    if resource["resourceType"] == "Encounter" and found:
        end = next((e for p in paths.time if (e := moment(fields(resource.get(p)).get("end")))), None)
        if end is not None and end - when >= timedelta(days=1):  # a stay: its end is an event of its own
            code = next(c for path in paths.code if (c := code_of(resource.get(path))))
            history.add(patient, end, f"{code} end", encounter=encounter, site=site)
    return None


def _encounter(resource: Resource) -> str | None:
    """The id of the encounter that it belongs to, or is."""
    if resource["resourceType"] == "Encounter":
        return str(resource["id"]) if resource.get("id") else None
    context = first(fields(resource.get("context")).get("encounter")) or first(resource.get("context"))
    reference = fields(resource.get("encounter") or context).get("reference")
    return reference.rsplit("/", 1)[-1].rsplit(":", 1)[-1] if isinstance(reference, str) else None


def _dose(resource: Resource) -> Answer:
    """How much was given, of an administration."""
    dose = (
        fields(fields(resource.get("dosage")).get("dose"))
        if resource.get("resourceType") == "MedicationAdministration"
        else {}
    )
    return _quantity(dose) if "value" in dose else Answer()


_US_CORE = {"us-core-race": RACE, "us-core-ethnicity": ETHNICITY}


def take_person(person: Resource, patient: str, site: str | None, history: History) -> None:
    """Birth, death, sex, and race and ethnicity where US Core's extensions say them."""
    add = lambda when, code: history.add(patient, when, code, site=site)
    if when := born(str(person.get("birthDate", ""))):
        add(when, BIRTH)
    if sex := sex_code(str(person.get("gender", ""))):
        add(None, sex)
    if dead := moment(person.get("deceasedDateTime")):
        add(dead, DEATH)
    for extension in map(fields, items(person.get("extension"))):
        prefix = _US_CORE.get(str(extension.get("url", "")).rsplit("/", 1)[-1])
        for part in map(fields, items(extension.get("extension")) if prefix else []):
            if part.get("url") == "text" and isinstance(part.get("valueString"), str):
                add(None, f"{prefix}{part['valueString'].strip()}")
