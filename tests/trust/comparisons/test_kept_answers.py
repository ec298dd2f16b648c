"""Answers that are kept are given back as they were, also from files that older versions and scripts wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyclinic.harmonise.unread import Unread
from polyclinic.tasks import Predictions
from polyclinic.trust.comparisons.kept_answers import answers_of, kept, key_of, told

ASIDE = (Unread("d", "r", "no file; expected one"),)
MADE = Predictions(
    "finding", ("a", "b", "c"), np.array([0.1, 0.25, 1 / 3]), np.array([0, 1, 1]), np.array([True, False, True]), unread=ASIDE
)  # fmt: skip


def never() -> Predictions:
    raise AssertionError("asked again")


def test_what_was_made_once_is_read_afterwards(tmp_path: Path) -> None:
    place = tmp_path / "answers/one.json"
    assert kept(place, lambda: MADE) is MADE
    again = kept(place, never)
    assert (again.task, again.patients, again.unread) == (MADE.task, MADE.patients, ASIDE)
    for name in ("outputs", "targets", "mask"):
        one, other = getattr(again, name), getattr(MADE, name)
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
    assert [p.name for p in place.parent.iterdir()] == ["one.json"]  # written whole or not at all


def test_nothing_is_not_kept(tmp_path: Path) -> None:
    assert kept(tmp_path / "none.json", lambda: None) is None
    assert not (tmp_path / "none.json").exists()


@pytest.mark.parametrize(
    ("older", "task"),
    [
        ({"task": "finding", "patients": ["a", "b"], "outputs": [0.5, 0.25], "targets": [1.0, 0.0]}, "finding"),
        ({"patients": ["a", "b"], "outputs": [0.5, 0.25], "targets": [1, 0], "mask": [True, True]}, "asked"),
        ({"patients": ["a", "b"], "outputs": [0.5, 0.25], "targets": [1, 0], "mask": [True, True], "seconds": 1.5, "split": "s"}, "asked"),
    ],
    ids=["of a curve", "of a script", "of a comparison"],
)  # fmt: skip
def test_older_files_are_read(older: dict[str, Any], task: str, tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(json.dumps(older))
    found = kept(tmp_path / "old.json", never)
    assert (found.task, found.patients, found.unread) == (task, ("a", "b"), ())
    assert found.outputs.tolist() == [0.5, 0.25]
    assert found.targets.tolist() == [1, 0]
    assert found.mask.tolist() == [True, True]
    assert answers_of(older, "survival").task == older.get("task", "survival")


def test_what_is_not_a_number_stays_none(tmp_path: Path) -> None:
    made = Predictions("t", ("a",), np.array([[np.nan, 0.5]]), np.array([[1.5, 2.5]]), np.array([True]))
    kept(tmp_path / "nan.json", lambda: made)
    assert np.array_equal(kept(tmp_path / "nan.json", never).outputs, made.outputs, equal_nan=True)
    assert "unread" not in told(made)


def test_a_name_is_of_all_that_was_told() -> None:
    assert key_of("a", {"b": 1, "c": 2}) == key_of("a", {"c": 2, "b": 1}) != key_of("a", {"b": 1, "c": 3})
