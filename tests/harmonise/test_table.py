from __future__ import annotations

import numpy as np
import pytest

from polyclinic.harmonise import Fingerprint, TableStandard, fit, harmonise
from polyclinic.harmonise.table import is_of
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
