"""Bundles: codes with valid check digits, references that resolve, and nothing of the discharge before it."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from polyclinic import records
from polyclinic.phantom.fhir import ACUTE, CHRONIC, STAY_DAYS, bundle
from polyclinic.phantom.labs import ANALYTES, draw
from polyclinic.phantom.people import generator, person

ADMITTED = datetime(2019, 5, 6, 7, 8)
BORN = datetime(1950, 1, 2)
_P = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]


def _product(a: int, b: int) -> int:
    """In the dihedral group of the pentagon: 0 to 4 turn it, 5 to 9 flip it first."""
    turned = (a % 5 + (b if a < 5 else -b)) % 5
    return turned + 5 * ((a >= 5) ^ (b >= 5))


def _verhoeff(code: str) -> bool:
    """SNOMED CT identifiers carry Verhoeff's check digit: the dihedral group of the pentagon, and a permutation by place."""
    check = 0
    for place, digit in enumerate(map(int, reversed(code))):
        for _ in range(place % 8):
            digit = _P[digit]
        check = _product(check, digit)
    return check == 0


def _bundle(**states: int) -> tuple[dict, np.ndarray]:
    who = person(6, 3) | states
    labs = draw(who, generator(6, 3, "labs"))
    return bundle(who, 3, labs, BORN, ADMITTED, 6), labs.values


SICK = {**dict.fromkeys([*CHRONIC, *ACUTE], 1), "treatment": 1}


def test_the_check_digit_knows_right_from_wrong() -> None:
    assert _verhoeff("22298006")  # myocardial infarction
    assert not _verhoeff("22298016")


def test_codes_have_valid_check_digits() -> None:
    made, _ = _bundle(**SICK)
    codes = [
        c
        for e in made["entry"]
        for k in ("code", "type", "valueCodeableConcept")
        for concept in _list(e["resource"].get(k))
        for c in concept["coding"]
    ]
    snomed = {c["code"] for c in codes if c["system"].startswith("http://snomed")}
    assert len(snomed) == len(CHRONIC) + len(ACUTE) + 2
    assert all(map(_verhoeff, snomed))


def _list(value: object) -> list:
    return value if isinstance(value, list) else [value] if value else []


def test_references_resolve_and_ids_are_unique() -> None:
    made, _ = _bundle(**SICK)
    resources = [e["resource"] for e in made["entry"]]
    assert resources[0]["resourceType"] == "Patient"
    assert {r["subject"]["reference"] for r in resources[1:]} == {f"Patient/{resources[0]['id']}"}
    assert len({r["id"] for r in resources}) == len({e["fullUrl"] for e in made["entry"]}) == len(resources)
    json.dumps(made, allow_nan=False)


def test_what_was_not_measured_is_not_there() -> None:
    made, values = _bundle()
    loinc = {a.loinc for a in ANALYTES}
    seen = [
        r
        for e in made["entry"]
        if (r := e["resource"])["resourceType"] == "Observation" and r["code"]["coding"][0]["code"] in loinc
    ]
    assert len(seen) == np.isfinite(values).sum()
    assert sorted(r["valueQuantity"]["value"] for r in seen) == sorted(values[np.isfinite(values)].tolist())
    assert all(r["valueQuantity"]["system"] == "http://unitsofmeasure.org" for r in seen)


def test_no_acute_diagnosis_is_coded_before_discharge() -> None:
    made, _ = _bundle(**SICK)
    leaves = (ADMITTED + timedelta(days=STAY_DAYS)).strftime("%Y-%m-%dT%H:%M:%SZ")
    conditions = {
        r["code"]["coding"][0]["code"]: r for e in made["entry"] if (r := e["resource"])["resourceType"] == "Condition"
    }
    for code, _ in ACUTE.values():
        assert conditions[code]["recordedDate"] == conditions[code]["onsetDateTime"] == leaves
    for code, _ in CHRONIC.values():
        assert conditions[code]["onsetDateTime"] < "2019-05-06"


def test_the_reader_takes_it(tmp_path: Path) -> None:
    made, _ = _bundle(**SICK)
    (tmp_path / "P000003.json").write_text(json.dumps(made))
    found = list(records.read(tmp_path / "P000003.json"))
    assert not [f for f in found if isinstance(f, records.Rejected)]
    assert {getattr(f, "patient", "P000003") for f in found} == {"P000003"}


@pytest.mark.parametrize("node", [*CHRONIC, *ACUTE])
def test_each_disease_is_its_own_condition(node: str) -> None:
    none = dict.fromkeys([*CHRONIC, *ACUTE], 0)
    made, _ = _bundle(**(none | {node: 1}))
    conditions = [
        e["resource"]["code"]["coding"][0]["code"]
        for e in made["entry"]
        if e["resource"]["resourceType"] == "Condition"
    ]
    assert conditions == [({**CHRONIC, **ACUTE})[node][0]]
