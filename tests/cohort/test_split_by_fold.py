from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from polyclinic.cohort import SplitError, SplitSpec, guard, split
from polyclinic.cohort.labels import LabelError
from polyclinic.schema import Modality, Payload, Record
from polyclinic.training.recipe import CohortSpec

PARTS = {"a": "train", "b": "Train ", "c": "test", "d": "validation", "e": None, "f": "TEST"}


def notes(parts: Mapping[str, str | float | None], column: str = "fold") -> list[Record]:
    return [Record(f"n{p}", p, None, Modality.TEXT, "note", p, attributes={column: part}) for p, part in parts.items()]


def people(sizes: list[int]) -> list[Record]:
    """Sites of so many patients each."""
    return [
        Record(f"t{s}-{n}", f"P{s:02d}-{n:02d}", None, Modality.TABLE, "table", f"{s}-{n}", f"S{s}")
        for s, size in enumerate(sizes)
        for n in range(size)
    ]


def test_the_official_parts_are_taken_as_they_are() -> None:
    parted = split(notes(PARTS), SplitSpec(by="fold"))
    assert parted.test == ("c", "f")
    assert parted.train == ("a", "b", "d", "e")
    assert split(notes(PARTS), SplitSpec(by="fold", leave=("Validation",))).train == ("a", "b", "e")


def test_any_column_and_any_cells_will_do() -> None:
    found = notes({"a": 1.0, "b": 2.0, "c": 3.0, "d": "x"}, "part")
    parted = split(found, SplitSpec(by="fold", column="part", tests=("2", "3")))
    assert (parted.train, parted.test) == (("a", "d"), ("b", "c"))


def test_a_copy_of_the_test_part_does_not_train_and_the_part_stays_whole() -> None:
    words = " ".join(f"word{n}" for n in range(80))
    said = {
        "a": words,
        "b": " ".join(f"other{n}" for n in range(80)),
        "c": words + " more",
        "d": "short",
        "e": "e",
        "f": "f",
    }
    load = lambda record: Payload(None, text=said[record.patient])  # type: ignore[arg-type]
    parted = split(notes(PARTS), SplitSpec(by="fold"), load)
    assert parted.test == ("c", "f")
    assert parted.train == ("b", "d", "e")
    guard(parted.train, parted.test, notes(PARTS), load)


def test_who_is_in_two_parts_is_refused() -> None:
    twice = [*notes(PARTS), Record("again", "a", None, Modality.TEXT, "note", "again", attributes={"fold": "test"})]
    with pytest.raises(SplitError, match="1 patients of whom 'fold' says that they test and that they do not"):
        split(twice, SplitSpec(by="fold"))


def test_a_part_that_nobody_is_in_says_which_there_are() -> None:
    with pytest.raises(SplitError, match="test part is held-out, in which nobody is") as refused:
        split(notes(PARTS), SplitSpec(by="fold", tests=("held-out",)))
    assert "test, train, validation" in str(refused.value)
    with pytest.raises(LabelError, match="did you mean 'fold'"):
        split(notes(PARTS), SplitSpec(by="fold", column="folds"))
    with pytest.raises(SplitError, match="an empty side"):
        split(notes({"a": "test", "b": "test"}), SplitSpec(by="fold"))


@pytest.mark.parametrize(
    "fields",
    [
        {"by": "fold", "folds": 5}, {"folds": 5, "turn": 5}, {"turn": 1}, {"column": "part"}, {"tests": ["x"]}, {"folds": 1},
        {"by": "fold", "tests": ["x"], "leave": [" X"]}, {"by": "fold", "tests": []},
    ],
)  # fmt: skip
def test_options_that_do_not_go_together_are_refused(fields: dict) -> None:
    with pytest.raises(ValidationError):
        SplitSpec.model_validate(fields)


def test_a_recipe_that_was_written_out_is_read_again() -> None:
    for fields in ({}, {"by": "fold", "column": "part"}, {"by": "site", "folds": 3, "turn": 2}):
        spec = CohortSpec(split=SplitSpec.model_validate(fields))
        assert CohortSpec.model_validate_json(spec.model_dump_json()) == spec


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=6, max_size=14), by=st.sampled_from(["patient", "site"]), seed=st.integers(0, 99),
    folds=st.integers(2, 5),
)  # fmt: skip
def test_folds_test_everybody_once_and_part_no_site(sizes: list[int], by: str, seed: int, folds: int) -> None:
    found = people(sizes)
    each = [split(found, SplitSpec(by=by, seed=seed, folds=folds, turn=k)) for k in range(folds)]  # type: ignore[arg-type]
    tested = [p for one in each for p in one.test]
    assert sorted(tested) == sorted({r.patient for r in found})
    for one in each:
        assert set(one.train) == set(tested) - set(one.test)
        if by == "site":
            assert not {p[:3] for p in one.train} & {p[:3] for p in one.test}
    spread = max(len(one.test) for one in each) - min(len(one.test) for one in each)
    assert spread <= (1 if by == "patient" else max(sizes))
    assert each == [split(found[::-1], SplitSpec(by=by, seed=seed, folds=folds, turn=k)) for k in range(folds)]  # type: ignore[arg-type]


def test_folds_deal_the_classes_evenly() -> None:
    labels = {r.patient: int(n % 10 == 0) for n, r in enumerate(people([100]))}
    for k in range(5):
        test = split(people([100]), SplitSpec(folds=5, turn=k), labels=labels).test
        assert sum(labels[p] for p in test) == 2


def test_steady_folds_move_nobody_when_somebody_comes() -> None:
    spec = [SplitSpec(folds=4, turn=k, steady=True) for k in range(4)]
    before, after = ([split(people(sizes), one).test for one in spec] for sizes in ([60], [60, 5]))
    assert sorted(p for part in before for p in part) == sorted(r.patient for r in people([60]))
    assert all(set(one) <= set(other) for one, other in zip(before, after, strict=True))
