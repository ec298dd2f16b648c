"""What alone tells an answer is told; what does so by chance, of many columns and few patients, is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.cohort import Label
from polyclinic.cohort.giveaways import bounds, giveaways
from polyclinic.records import RecordError
from polyclinic.schema import Modality, Payload, Record

ILL = Label("ill", "class", "ill", ("yes",), ("no",))


def row(patient: int, modality: Modality = Modality.TABLE, name: str = "", **cells: Any) -> Record:
    told = {k.replace("_", " "): v for k, v in cells.items()}
    return Record(f"{modality}{patient}{name}", f"p{patient:03}", None, modality, "row", "t.csv", None, None, told)


def people(n: int, cells: Any, seed: int = 0) -> list[Record]:
    """Rows of n patients, every other one ill; `cells(ill, random)` are the other columns."""
    random = np.random.default_rng(seed)
    return [row(i, ill="yes" if i % 2 else "no", **cells(i % 2, random)) for i in range(n)]


def told(found: Any) -> set[tuple[str, str]]:
    return {(one.kind, one.name) for one in found}


def test_a_number_and_a_code_that_tell_are_told_with_their_figure() -> None:
    found = giveaways(
        people(
            60,
            lambda y, r: {
                "score": float(r.normal(6 * y)), "low": float(-y + r.normal(0, 0.1)), "code": "ABC" if y else "XYZ",
                "age": float(r.normal(60, 9)), "ward": str(r.integers(4)),
            },
        ),
        ILL,
    )  # fmt: skip
    assert told(found) == {("column", "score"), ("column", "low"), ("column", "code")}
    for one in found:
        assert one.n == 60
        assert one.right >= 0.95
        assert 0.5 < one.low < one.right <= one.high
        assert one.looks > 5
        assert f"'{one.name}'" in str(one)
        assert "n = 60" in str(one)
        assert "leave" in one.remedy


@pytest.mark.parametrize("columns", [400])
def test_of_many_columns_and_few_patients_none_is_told_by_chance(columns: int) -> None:
    """Noise: with eight patients some column of four hundred orders them perfectly, and it says nothing."""
    noise = lambda y, r: (
        {f"c{i}": float(r.normal()) for i in range(columns)} | {f"w{i}": str(r.integers(2)) for i in range(40)}
    )
    by_chance = 0
    for seed in range(5):
        by_chance += len(giveaways(people(8, noise, seed), ILL))
        by_chance += len(giveaways(people(40, noise, seed), ILL))
    assert by_chance == 0


def test_a_name_of_each_patients_own_is_no_giveaway() -> None:
    found = giveaways(
        people(80, lambda y, r: {"accession": f"A{r.integers(10**9)}", "note_id": float(r.integers(10**9))}), ILL
    )
    assert found == ()


def test_being_filled_can_tell() -> None:
    cells = lambda y, r: {"biopsy": float(r.normal())} if y else {}
    found = giveaways(people(60, cells), ILL)
    assert told(found) == {("empty", "biopsy")}
    assert "filled" in str(found[0])


def test_a_copy_of_the_label_is_told_of_few_patients_where_its_words_are_its_own() -> None:
    label = Label("finding", "class", "finding", ("COVID-19",))
    names = ["COVID-19", "Influenza"]
    rows = [row(i, finding=names[i % 2], diagnosis=names[i % 2].upper(), icu="y" if i % 2 else "n") for i in range(8)]
    found = giveaways(rows, label)
    assert told(found) == {("copy", "diagnosis")}
    assert giveaways(rows, label, exclude=("diagnosis",)) == ()
    yes = [row(i, ill="yes" if i % 2 else "no", seen="yes" if i % 2 else "no") for i in range(8)]
    assert giveaways(yes, ILL) == ()  # of eight patients, yes and no may be the same by chance


def test_grades_and_survivals_and_findings_have_them_too() -> None:
    random = np.random.default_rng(0)
    stage = Label("stage", "grade", "stage", grades=(("I",), ("II",), ("III",)))
    rows = [
        row(i, stage="I" * (1 + i % 3), size=float(10 * (i % 3) + random.normal()), age=float(random.normal()))
        for i in range(60)
    ]
    assert told(giveaways(rows, stage)) == {("column", "size")}
    death = Label("death", "survival", "months", event="dead", event_value=1.0)
    times = random.exponential(20, 80)
    rows = [
        row(
            i,
            months=float(t),
            dead=float(i % 3 > 0),
            days=float(30 * t),
            age=float(random.normal()),
            stage="abc"[i % 3],
        )
        for i, t in enumerate(times)
    ]
    assert told(giveaways(rows, death)) == {("column", "days")}
    both = Label("several", "findings", parts=(replace(ILL, task="one"), replace(ILL, task="other", column="sick")))
    rows = [
        row(i, ill="yes" if i % 2 else "no", sick="yes" if i // 2 % 2 else "no", code=float(i // 2 % 2) + 0.1 * random.normal())
        for i in range(60)
    ]  # fmt: skip
    assert {(one.task, one.name) for one in giveaways(rows, both)} == {("other", "code")}
    assert giveaways(rows, Label("mask", "mask", modality=Modality.VOLUME)) == ()


def test_words_of_notes() -> None:
    """The diagnosis in the note; a word that all of one kind have; and words that mean nothing, of which there are many."""
    random = np.random.default_rng(0)
    lexicon = ["".join(random.choice(list("bdgklmnprst"), 6)) for _ in range(300)]
    label = Label("finding", "class", "finding", ("COVID-19",))
    rows, notes = [], {}
    for i in range(80):
        ill = i % 2
        rows += [row(i, finding="COVID-19" if ill else "other"), note := row(i, Modality.TEXT, "note")]
        words = list(random.choice(lexicon, 25))
        words += ["covid"] * (ill and i % 3 == 0) + ["wuhan"] * bool(ill and i % 5) + ["Mr", "Smith"] * (i == 1)
        notes[note.id] = " ".join(words)
    load = lambda r: Payload(np.zeros(0), text=notes[r.id])
    found = giveaways(rows, label, load=load)
    assert told(found) == {("word", "covid"), ("word", "wuhan")}
    for one in found:
        assert one.right == 1.0
        assert 5 <= one.n < 80
        assert "inputs" in one.remedy
    assert giveaways(rows, label) == ()  # unread
    assert giveaways(rows, label, load=load, reads=(Modality.TABLE,)) == ()


def test_an_unreadable_note_stops_nothing() -> None:
    def load(record: Record) -> Payload:
        raise RecordError("a note that is gone", "a file", "restore it")

    rows = [*people(20, lambda y, r: {}), *(row(i, Modality.TEXT, "note") for i in range(20))]
    assert giveaways(rows, ILL, load=load) == ()


def test_only_the_patients_asked_for_are_looked_at() -> None:
    """The test side's labels are not looked at while one adapts."""
    rows = people(60, lambda y, r: {"code": float(y)})
    assert told(giveaways(rows, ILL)) == {("column", "code")}
    assert giveaways(rows, ILL, patients=["p001", "p003"]) == ()  # one class
    assert giveaways(rows, ILL, patients=[f"p{i:03}" for i in range(40)])[0].n == 40


@settings(max_examples=40)
@given(st.integers(1, 500), st.integers(1, 300), st.floats(0, 1))
def test_bounds_hold_the_share_and_grow_with_the_looks(trials: int, looks: int, right: float) -> None:
    low, high = bounds(right, trials, looks)
    one, other = bounds(right, trials, 1)
    assert 0 <= low <= one <= right + 1e-9
    assert right - 1e-9 <= other <= high <= 1


def test_bounds_are_clopper_and_pearsons() -> None:
    """Clopper & Pearson 1934: 0 of 10 → up to 0.3085; 10 of 10 → from 0.6915."""
    assert bounds(0.0, 10, 1) == (0.0, pytest.approx(0.3085, abs=1e-4))
    assert bounds(1.0, 10, 1) == (pytest.approx(0.6915, abs=1e-4), 1.0)
