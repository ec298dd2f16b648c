from __future__ import annotations

import numpy as np
import pytest

from polyclinic.harmonise import Fingerprint, TableStandard, fit, harmonise
from polyclinic.harmonise.fingerprint import Scale
from polyclinic.harmonise.table import ancestors, is_of
from polyclinic.records.tables import events
from polyclinic.schema import Modality, Payload, Record

ROWS = [
    {"age": 50.0, "sex": "M", "finding": "COVID-19", "rare": 1.0, "a=b": "x"},
    {"age": 60.0, "sex": "F", "finding": "No Finding", "a=b": "x"},
    {"age": 70.0, "sex": "M", "finding": "COVID-19", "a=b": "y"},
    {"age": None, "sex": "M", "finding": None, "a=b": "x"},
]


def record(number: int, row: dict, patient: str | None = None) -> Record:
    return Record(f"{number}", patient or f"P{number}", None, Modality.TABLE, "table", f"{number}", attributes=row)


def load(one: Record) -> Payload:
    names, values = events(one.attributes)
    return Payload(np.stack([values, np.zeros(len(values))], axis=1), names=tuple(names))


RECORDS = [record(i, row) for i, row in enumerate(ROWS)]


def fitted(**standard: object) -> tuple[TableStandard, Fingerprint]:
    made = TableStandard(**standard)  # type: ignore[arg-type]
    return made, fit(RECORDS, load, {Modality.TABLE: made})


def test_numbers_are_standardised_and_words_are_ones() -> None:
    standard, fingerprint = fitted(fewest=1)
    found = harmonise(load(RECORDS[0]), RECORDS[0], standard, fingerprint)
    cells = {name: tuple(row) for name, row in zip(found.names, found.array.tolist(), strict=True)}
    age = fingerprint.codes["age"]
    assert (age.mean, age.n) == (60.0, 3)
    assert cells["age"] == pytest.approx((age.number, (50 - 60) / np.std([50, 60, 70]), 0.0))
    assert cells["sex=M"] == (fingerprint.codes["sex=M"].number, 0.0, 0.0)
    assert len({c.number for c in fingerprint.codes.values()}) == len(fingerprint.codes)


def test_what_few_patients_have_is_not_learned() -> None:
    _, fingerprint = fitted(fewest=2)
    assert "rare" not in fingerprint.codes
    assert "sex=F" not in fingerprint.codes
    many = [record(i, {"rare": 1.0}, patient="one") for i in range(9)]  # of one patient, however often
    assert fit(many, load, {Modality.TABLE: TableStandard(fewest=2)}).codes == {}


def test_a_label_column_never_enters_whatever_is_asked() -> None:
    standard, fingerprint = fitted(fewest=1, exclude=("finding", "a=b"))
    assert not [n for n in fingerprint.codes if "finding" in n or "a=b" in n]
    whole = fitted(fewest=1)[1]  # even if the fingerprint knew them
    found = harmonise(load(RECORDS[0]), RECORDS[0], standard, whole)
    assert set(found.names) == {"age", "sex=M", "rare"}


@pytest.mark.parametrize(
    ("name", "columns", "expected"),
    [
        ("a=b=x", {"a=b"}, True),
        ("a=b=x", {"a"}, True),
        ("a=bc=x", {"a=b"}, False),
        ("ab", {"a"}, False),
        ("a", {"a"}, True),
    ],
)
def test_an_event_is_of_its_column(name: str, columns: set[str], expected: bool) -> None:
    assert is_of(name, columns) is expected


def test_unknown_codes_are_left_out_and_outliers_are_bound() -> None:
    standard, fingerprint = fitted(fewest=1)
    odd = record(9, {"never": 1.0, "age": 1e9})
    found = harmonise(load(odd), odd, standard, fingerprint)
    assert found.names == ("age",)
    assert found.array[0, 1] == 8
    nobody = record(9, {"never": 1.0})
    assert harmonise(load(nobody), nobody, standard, fingerprint).array.shape == (0, 3)


def test_of_many_events_the_latest_are_kept_with_their_hours() -> None:
    standard, fingerprint = fitted(fewest=1, most=3)
    payload = Payload(np.array([[60.0, h] for h in range(10)]), names=("age",) * 10)
    found = harmonise(payload, RECORDS[0], standard, fingerprint)
    assert found.array[:, 2].tolist() == [7, 8, 9]
    assert len(found.names) == 3


@pytest.mark.parametrize(
    ("code", "above"),
    [
        ("ICD10CM E11.65", ["ICD10CM E11.6", "ICD10CM E11"]),
        ("ICD9CM 250.02", ["ICD9CM 250.0", "ICD9CM 250"]),
        ("ICD9CM V15.82", ["ICD9CM V15.8", "ICD9CM V15"]),
        ("ICD9Proc 36.05", ["ICD9Proc 36.0", "ICD9Proc 36"]),
        ("ICD10CM I10", []),
        ("ICD10PCS 02HV33Z", []),
        (
            "ATC C09AA05",
            ["ATC C09AA", "ATC C09A", "ATC C09", "ATC C"],
        ),  # ramipril ... cardiovascular system, in WHO's index
        ("ATC C09", ["ATC C"]),
        ("LOINC 2160-0 [mg/dL]", []),
        ("age", []),
    ],
)
def test_a_codes_ancestors(code: str, above: list[str]) -> None:
    assert list(ancestors(code)) == above


def test_a_rare_code_counts_under_its_nearest_ancestor_that_is_known() -> None:
    fingerprint = Fingerprint(codes={"ICD10CM E11": Scale(0, 1.0, 0.0, 9), "ICD10CM E11.6": Scale(1, 1.0, 0.0, 5)})
    payload = Payload(
        np.array([[1.0, 0.0], [1.0, 2.0], [1.0, 3.0]]), names=("ICD10CM E11.65", "ICD10CM E11.9", "ICD10CM Z99.2")
    )
    alone = harmonise(payload, RECORDS[0], TableStandard(), fingerprint)
    under = harmonise(payload, RECORDS[0], TableStandard(ancestors=True), fingerprint)
    assert len(alone.array) == 0
    assert (under.names, under.array.tolist()) == (("ICD10CM E11.6", "ICD10CM E11"), [[1.0, 0.0, 0.0], [0.0, 0.0, 2.0]])


def test_what_is_excluded_does_not_come_back_under_an_ancestor() -> None:
    fingerprint = Fingerprint(codes={"ICD10CM E11": Scale(0, 1.0, 0.0, 9), "ICD10CM E11.6": Scale(1, 1.0, 0.0, 5)})
    payload = Payload(np.array([[1.0, 0.0]]), names=("ICD10CM E11.65",))
    for excluded in ("ICD10CM E11", "ICD10CM E11.6", "ICD10CM E11.65"):
        standard = TableStandard(ancestors=True, exclude=(excluded,))
        assert len(harmonise(payload, RECORDS[0], standard, fingerprint).array) == 0
