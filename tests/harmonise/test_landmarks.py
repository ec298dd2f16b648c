"""A loader at a landmark: what is dated later is not there, whatever it says, nor are later events within a record."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.cohort import Label, ingest
from polyclinic.cohort.catalogue import inputs
from polyclinic.cohort.landmarks import Landmarks
from polyclinic.harmonise import Fingerprint, TableStandard, fit
from polyclinic.harmonise.loader import Loader
from polyclinic.harmonise.table import is_of
from polyclinic.phantom import simulate
from polyclinic.schema import Modality, Payload, Record
from polyclinic.tasks import Hazards

BEGIN = datetime(2020, 3, 1, 8)
STANDARDS = {Modality.TABLE: TableStandard(exclude=("days", "came", "begun"), fewest=1, most=4)}
MARKS = Landmarks((0.0, 2.0, 5.0), "days")
Event = tuple[str, float, float]
"""Its code, its value and its hour."""


def label(marks: Landmarks | None = MARKS) -> Label:
    return Label("t", "outcome", "days", event="came", events=("a", "b"), causes=(("a",), ("b",)), landmarks=marks)


def history(patient: str, events: Sequence[Event]) -> tuple[Record, Payload]:
    """One record of events, as a health record is."""
    ordered = sorted(events, key=lambda e: e[2])
    array = np.array([(value, hour) for _, value, hour in ordered]).reshape(-1, 2)
    record = Record(f"ehr {patient} {events}", patient, BEGIN, Modality.TABLE, "EHR", "x")
    return record, Payload(array, names=tuple(code for code, *_ in ordered))


def visit(patient: str, name: str, hours: float | None, value: float) -> tuple[Record, Payload]:
    """A row of a table, with a date or without."""
    when = None if hours is None else BEGIN + timedelta(hours=hours)
    record = Record(f"{name} {patient} {value}", patient, when, Modality.TABLE, "visit", "x")
    return record, Payload(np.array([[value, 0.0]]), names=(name,))


def outcome(patient: str, days: float, came: str, **more: str) -> tuple[Record, Payload]:
    attributes = {"days": days, "came": came, **more}
    return Record(f"end {patient}", patient, None, Modality.TABLE, "row", "x", attributes=attributes), Payload(
        np.array([[days, 0.0]]), names=("days",)
    )


def loader(pairs: Sequence[tuple[Record, Payload]], asked: Label, fingerprint: Fingerprint | None = None) -> Loader:
    found = {record.id: payload for record, payload in pairs}
    records = [record for record, _ in pairs]
    load = lambda record: found[record.id]
    codes = fingerprint or fit(records, load, STANDARDS)
    return Loader(records, sorted({r.patient for r in records}), STANDARDS, codes, load, [asked], most=None)


PEOPLE = [
    *[history(p, [("A", 1.0, 0.0), ("B", 2.0, 30.0), ("B", 3.0, 100.0), ("A", 4.0, 300.0)]) for p in ("p0", "p1", "p2")],
    visit("p0", "C", 47.0, 1.0), visit("p0", "C", 49.0, 2.0), visit("p1", "C", None, 3.0),
    outcome("p0", 4.0, "a"), outcome("p1", 9.0, "b"), outcome("p2", 5.0, "alive"),
]  # fmt: skip


def events_of(loader: Loader, patient: str) -> list[tuple[str, float]]:
    """Code and hour from the beginning of each event that is handed out."""
    ragged = loader.of([patient]).payloads.get(Modality.TABLE)
    if ragged is None:
        return []
    names = {code.number: name for name, code in loader.fingerprint.codes.items()}
    told = [
        (names[int(n)], float(start + hour))
        for values, start in zip(ragged.values, ragged.time_h, strict=True)
        for n, _, hour in values
    ]
    return sorted(told, key=lambda pair: (pair[1], pair[0]))


def test_what_is_there_at_each_landmark() -> None:
    at_once, two_days, five_days = loader(PEOPLE, label()).landmarks("t")
    assert events_of(at_once, "p0") == [("A", 0.0)]
    assert events_of(two_days, "p0") == [("A", 0.0), ("B", 30.0), ("C", 47.0)]
    assert events_of(five_days, "p0") == [("A", 0.0), ("B", 30.0), ("C", 47.0), ("C", 49.0), ("B", 100.0)]
    assert events_of(two_days, "p1") == [("A", 0.0), ("B", 30.0)]  # what has no date may be of any


def test_who_is_still_at_risk_and_from_when_the_time_counts() -> None:
    whole = loader(PEOPLE, label())
    assert whole.labelled("t") == {"p0": (4, 1, 0), "p1": (9, 2, 0), "p2": (5, 0, 0)}
    at_once, two_days, five_days = whole.landmarks("t")
    assert at_once.labelled("t") == {"p0": (4, 1, 0), "p1": (9, 2, 0), "p2": (5, 0, 0)}
    assert two_days.labelled("t") == {"p0": (2, 1, 1), "p1": (7, 2, 1), "p2": (3, 0, 1)}
    assert five_days.labelled("t") == {"p1": (4, 2, 2)}  # followed until just then is followed no longer
    target = five_days.of(["p0", "p1"]).targets["t"]
    assert target.mask.tolist() == [False, True]
    assert isinstance(target.values, torch.Tensor)
    assert target.values[1].tolist() == [4, 2, 2]


def test_undated_records_are_read_where_the_recipe_says_so() -> None:
    there = loader(PEOPLE, label(Landmarks((0.0,), "days", undated=True))).landmarks("t")[0]
    assert events_of(there, "p1") == [("A", 0.0), ("C", 0.0)]


def test_time_0_may_be_a_column() -> None:
    begun = [
        *PEOPLE[:5],
        outcome("p0", 4.0, "a", begun="2020-03-02 08:00"),
        outcome("p1", 9.0, "b", begun="unknown"),
        outcome("p2", 5.0, "alive"),
    ]
    there = loader(begun, label(Landmarks((0.0,), "days", since="begun"))).landmarks("t")[0]
    assert events_of(there, "p0") == [("A", 0.0)]
    assert events_of(there, "p1") == []  # whose time 0 is not known has nothing that is known to be earlier
    later = loader(begun, label(Landmarks((1.0,), "days", since="begun"))).landmarks("t")[0]
    assert ("C", 47.0) in events_of(later, "p0")
    assert ("C", 49.0) not in events_of(later, "p0")


def test_a_task_without_landmarks_is_asked_of_everything() -> None:
    whole = loader(PEOPLE, label(None))
    assert whole.landmarks("t") == [whole]
    assert len(events_of(whole, "p0")) == 6


EVENTS = st.lists(st.tuples(st.sampled_from("AB"), st.integers(-3, 3), st.integers(0, 200)), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(EVENTS, EVENTS, st.lists(st.integers(0, 200), max_size=4), st.lists(st.integers(0, 200), max_size=4))
def test_no_later_record_or_event_changes_anything(
    mine: list[Event], other: list[Event], visits: list[int], more: list[int]
) -> None:
    """Of two histories that agree until a landmark, the batches there are the same, to the bit; also where a history is cut to its last
    few events."""
    fingerprint = loader(PEOPLE, label()).fingerprint
    until = 48
    early = [(*e[:2], float(e[2])) for e in mine if e[2] <= until] or [("A", 1.0, 0.0)]
    late = [[(*e[:2], float(e[2])) for e in some if e[2] > until] for some in (mine, other)]
    early = [("A", 0.0, 0.0), *early]  # both begin at the same moment
    made = []
    for events, seen, end in ((late[0], visits, "a"), (late[1], more, "b")):
        rows = [
            visit("p", "C", float(h), 1.0 + h)
            for h in {*(v for v in visits if v <= until), *(v for v in seen if v > until)}
        ]
        pairs = [history("p", [*early, *events]), *rows, outcome("p", 9.0, end)]
        made.append(loader(pairs, label(), fingerprint).landmarks("t")[1].of(["p"]).payloads)
    assert list(made[0]) == list(made[1]) == [Modality.TABLE]
    one, two = made[0][Modality.TABLE], made[1][Modality.TABLE]
    key = lambda ragged: sorted(
        (float(t), values.tolist()) for values, t in zip(ragged.values, ragged.time_h, strict=True)
    )
    assert key(one) == key(two)


def test_a_cut_history_does_not_come_from_the_cache_of_a_whole_one() -> None:
    whole = loader(PEOPLE, label())
    assert len(events_of(whole, "p0")) == 6
    assert events_of(whole.landmarks("t")[0], "p0") == [("A", 0.0)]
    assert len(events_of(whole, "p0")) == 6


def test_a_month_is_a_twelfth_of_a_year() -> None:
    there = Landmarks((0.0, 12.0), "months").cutoffs(1, {"p": BEGIN})
    assert there["p"] - BEGIN == timedelta(days=365.25)


def test_of_several_rows_the_first_event_counts_else_the_longest_follow_up() -> None:
    from polyclinic.cohort import LabelError, labels_of

    rows = [
        outcome(p, d, c)[0]
        for p, d, c in (
            ("x", 3, "alive"), ("x", 9, "b"), ("x", 7, "a"), ("y", 3, "alive"), ("y", 5, "alive"), ("z", -1, "a"), ("w", 4, "lost")
        )
    ]  # fmt: skip
    assert labels_of(rows, label()) == {"x": (7, 1, 0), "y": (5, 0, 0), "w": (4, 0, 0)}
    told = Label("t", "outcome", "days", event="came", events=("a",), causes=(("a",),), censored=("alive",))
    assert labels_of(rows, told) == {"x": (7, 1, 0), "y": (5, 0, 0)}  # b and lost tell nothing then
    with pytest.raises(LabelError, match="no cell of 'came' is one of its events"):
        labels_of(rows, Label("t", "outcome", "days", event="came", events=("c",), causes=(("c",),)))
    with pytest.raises(LabelError, match="'begun'"):
        labels_of(rows, label(Landmarks((0.0,), "days", since="begun")))


def test_health_records_of_the_phantom_hospital_are_cut_at_the_moment(tmp_path: Path) -> None:
    """A day after admission, by its own register: of each patient's events just those that had happened, and all of them."""
    made = simulate(tmp_path / "made", 6, modalities=["ehr"])
    cohort = ingest(made.hospital, tmp_path / "cohort")
    spec = Hazards.model_validate(
        {
            "time": "survival_months", "event": "died", "events": {"death": [1]}, "landmarks": [0, 1 / 30.4375], "since": "admitted",
        }
    )  # fmt: skip
    standards = {Modality.TABLE: TableStandard(exclude=spec.columns(), fewest=1, most=4096)}
    found = cohort.records()
    codes = fit(inputs(found), cohort.load, standards)
    admitted = {
        r.patient: datetime.fromisoformat(str(c)) for r in found if (c := r.attributes.get("admitted")) is not None
    }
    whole = Loader(found, cohort.patients(), standards, codes, cohort.load, [spec.label("t")], most=None)
    before, after = 0, 0
    for days, then in zip((0, 1), whole.landmarks("t"), strict=True):
        for patient in whole.patients:
            until = admitted[patient] + timedelta(days=days)
            wanted = []
            for record in (
                r for r in found if r.patient == patient and r.modality is Modality.TABLE and r.time is not None
            ):
                payload = cohort.load(record)
                for name, (_, hour) in zip(payload.names, payload.array.reshape(-1, 2), strict=True):
                    assert record.time is not None
                    moment = record.time + timedelta(hours=float(hour))
                    known = name in codes.codes and not is_of(name, spec.columns())
                    wanted += [name] * (known and moment <= until)
                    after += moment > until
            before += len(wanted)
            assert sorted(name for name, _ in events_of(then, patient)) == sorted(wanted)
    assert before > 20
    assert after > 20
