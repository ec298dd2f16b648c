"""A person's record as a FHIR R4 bundle: who, the stay, triage and habits, laboratory and vital signs, diagnoses, treatment."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from .labs import ANALYTES, Labs
from .people import ONSETS, name_of
from .sites import SITES

_LOINC, _SNOMED, _UCUM = "http://loinc.org", "http://snomed.info/sct", "http://unitsofmeasure.org"
_HL7 = "http://terminology.hl7.org/CodeSystem/"
_OWN = "urn:polyclinic:phantom"
CHRONIC = {
    "diabetes": ("44054006", "Type 2 diabetes mellitus"), "kidney": ("709044004", "Chronic kidney disease"),
    "emphysema": ("87433001", "Pulmonary emphysema"), "fibrillation": ("49436004", "Atrial fibrillation"),
    "heart_failure": ("84114007", "Heart failure"),
}  # fmt: skip
ACUTE = {
    "pneumonia": ("233604007", "Pneumonia"), "infarct": ("432504007", "Cerebral infarction"), "effusion": ("60046008", "Pleural effusion"),
    "malignant": ("363358000", "Malignant tumor of lung"),
}  # fmt: skip
"""Node → its SNOMED CT code; what is acute is coded at discharge, so that a model of the admission cannot read it."""
_SMOKING = (("266919005", "Never smoked tobacco"), ("8517006", "Ex-smoker"), ("77176002", "Smoker"))
STAY_DAYS = 6


def _concept(system: str, code: str, display: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code, "display": display}], "text": display}


def _at(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _observation(concept: dict[str, Any], when: datetime, **value: Any) -> dict[str, Any]:
    return {"resourceType": "Observation", "status": "final", "code": concept, "effectiveDateTime": _at(when), **value}


def _quantity(value: float, unit: str) -> dict[str, Any]:
    return {"value": value, "unit": unit, "system": _UCUM, "code": unit}


def _resources(person: Mapping[str, Any], labs: Labs, admitted: datetime) -> Iterator[dict[str, Any]]:
    leaves = admitted + timedelta(days=STAY_DAYS)
    yield {
        "resourceType": "Encounter", "status": "finished", "class": {"system": f"{_HL7}v3-ActCode", "code": "IMP"},
        "type": [_concept(_SNOMED, "32485007", "Hospital admission")], "period": {"start": _at(admitted), "end": _at(leaves)},
        "serviceProvider": {"display": SITES[person["site"]].name},
    }  # fmt: skip
    smoking = _concept(_SNOMED, *_SMOKING[person["smoking"]])
    yield _observation(_concept(_LOINC, "72166-2", "Tobacco smoking status"), admitted, valueCodeableConcept=smoking)
    yield _observation(
        _concept(_OWN, "acuity", "Triage, 1 least to 5 most acute"), admitted, valueInteger=person["acuity"] + 1
    )
    days = ONSETS[person["onset_days"]]
    yield _observation(
        _concept(_OWN, "symptom-days", "Days since the first symptom"), admitted, valueQuantity=_quantity(days, "d")
    )
    body = (
        ("39156-5", "Body mass index", round(person["bmi"], 1), "kg/m2"),
        ("8302-2", "Body height", round(person["height_cm"]), "cm"),
    )
    for code, name, value, unit in body:
        yield _observation(_concept(_LOINC, code, name), admitted, valueQuantity=_quantity(value, unit))
    for hour, row in zip(labs.hours, labs.values, strict=True):
        when = admitted + timedelta(seconds=round(3600 * float(hour)))
        for i in np.flatnonzero(~np.isnan(row)):
            analyte = ANALYTES[i]
            concept, value = _concept(_LOINC, analyte.loinc, analyte.name), round(float(row[i]), analyte.decimals)
            yield _observation(concept, when, valueQuantity=_quantity(value, analyte.unit))
    for number, (node, code) in enumerate(CHRONIC.items()):
        if person[node]:
            yield _condition(code, admitted - timedelta(days=365 * (number + 1)), admitted)
    for node, code in ACUTE.items():
        if person[node]:
            yield _condition(code, leaves, leaves)
    if person["treatment"]:
        yield {
            "resourceType": "MedicationRequest", "status": "completed", "intent": "order", "authoredOn": _at(admitted + timedelta(hours=3)),
            "medicationCodeableConcept": _concept("http://www.nlm.nih.gov/research/umls/rxnorm", "3264", "dexamethasone"),
        }  # fmt: skip


def _condition(code: tuple[str, str], onset: datetime, recorded: datetime) -> dict[str, Any]:
    return {
        "resourceType": "Condition", "code": _concept(_SNOMED, *code), "onsetDateTime": _at(onset), "recordedDate": _at(recorded),
        "clinicalStatus": {"coding": [{"system": f"{_HL7}condition-clinical", "code": "active"}]},
        "verificationStatus": {"coding": [{"system": f"{_HL7}condition-ver-status", "code": "confirmed"}]},
    }  # fmt: skip


def bundle(
    person: Mapping[str, Any], index: int, labs: Labs, born: datetime, admitted: datetime, seed: int
) -> dict[str, Any]:
    """The bundle of one person.

    Args:
        person: the graph's values.
        index: of the patient.
        labs: what was measured.
        born: day of birth.
        admitted: the moment of admission.
        seed: of the hospital, for the resources' ids.
    """
    patient = {
        "resourceType": "Patient", "id": name_of(index), "gender": ("female", "male")[person["sex"]], "birthDate": f"{born:%Y-%m-%d}",
        "name": [{"family": "Phantom", "given": [name_of(index)]}],
    }  # fmt: skip
    who, entries = (
        {"reference": f"Patient/{name_of(index)}"},
        [{"fullUrl": f"urn:polyclinic:phantom:{name_of(index)}", "resource": patient}],
    )
    for number, resource in enumerate(_resources(person, labs, admitted)):
        name = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{seed}/{index}/{number}"))
        entries.append({"fullUrl": f"urn:uuid:{name}", "resource": {**resource, "id": name, "subject": who}})
    return {"resourceType": "Bundle", "type": "collection", "entry": entries}
