"""Splits by time and device, and those that a newcomer does not move."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from polyclinic.cohort import Cohort, SplitError, SplitSpec, guard, split
from polyclinic.schema import Modality, Payload, Record
from polyclinic.training.recipe import CohortSpec

CUT = datetime(2020, 1, 1)
rows = st.lists(
    st.tuples(
        st.integers(0, 12),
        st.one_of(st.none(), st.integers(-400, 400)),
        st.sampled_from(["A", "B", "C", "D", None]),
        st.sampled_from(["X", "Y", "Z", None]),
    ),
    min_size=4,
    max_size=25,
)


def records(rows: list[tuple]) -> list[Record]:
    return [
        Record(
            f"r{i}", f"P{patient:02d}", None if days is None else CUT + timedelta(days=days, microseconds=-1),
            Modality.TABLE, "table", f"u{i}", site, device,
        )
        for i, (patient, days, site, device) in enumerate(rows)
    ]  # fmt: skip


def parted(found: list[Record], spec: SplitSpec) -> Any:
    try:
        return split(found, spec)
    except SplitError:
        return None


@settings(max_examples=60, deadline=None)
@given(rows=rows, by=st.sampled_from(["patient", "site", "device"]), seed=st.integers(0, 20), steady=st.booleans())
def test_no_patient_site_or_device_is_on_two_sides(rows: list[tuple], by: str, seed: int, steady: bool) -> None:
    found = records(rows)
    made = parted(found, SplitSpec(by=by, seed=seed, test=0.4, steady=steady))  # type: ignore[arg-type]
    if made is None:
        return
    assert not set(made.train) & set(made.test)
    assert set(made.train) | set(made.test) == {r.patient for r in found}
    sides = [{getattr(r, by) for r in found if r.patient in side} - {None} for side in (made.train, made.test)]
    assert not sides[0] & sides[1]
    assert parted(found[::-1], SplitSpec(by=by, seed=seed, test=0.4, steady=steady)) == made  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(rows=rows, seed=st.integers(0, 20), newcomers=st.integers(1, 5), by=st.sampled_from(["patient", "site"]))
def test_a_newcomer_moves_nobody_where_the_split_is_steady(
    rows: list[tuple], seed: int, newcomers: int, by: str
) -> None:
    found = records([(p, d, f"S{p % 5}", v) for p, d, _, v in rows])
    spec = SplitSpec(by=by, steady=True, test=0.4, seed=seed)  # type: ignore[arg-type]
    late = [
        Record(f"n{i}", f"A{i}", None, Modality.IMAGE, "CR", "x", f"S{i % 6}", "W") for i in range(newcomers)
    ]  # whose names come before all others
    before, after = parted(found, spec), parted([*late, *found], spec)
    if before is not None and after is not None:
        assert set(before.test) <= set(after.test)
        assert set(before.train) <= set(after.train)


def test_a_steady_split_has_its_share_on_average() -> None:
    found = [Record(f"r{i}", f"P{i}", None, Modality.TABLE, "t", "u") for i in range(4000)]
    assert len(split(found, SplitSpec(test=0.3, steady=True)).test) / 4000 == pytest.approx(0.3, abs=0.03)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=rows)
def test_nothing_of_after_the_date_is_seen_in_training(tmp_path_factory: Any, rows: list[tuple]) -> None:
    found = records(rows)
    spec = SplitSpec(by="time", before=date(2020, 1, 1))
    path: Path = tmp_path_factory.mktemp("c")
    cohort = Cohort.create(path)
    cohort.add(path, found)
    asked = CohortSpec(where="site <> 'A' or site is null", split=spec)
    admitted = [r for r in found if r.site != "A"]
    try:
        seen = cohort.records(asked.where)
    except Exception:
        assert not admitted
        return
    made = parted(seen, spec)
    early = {r.patient for r in admitted if r.time and r.time < CUT}
    undated = {r.patient for r in admitted} - {r.patient for r in admitted if r.time}
    expected = {r.id for r in admitted if r.time is None or r.time < CUT or r.patient not in early}
    assert {r.id for r in seen} == expected
    if made is not None:
        assert set(made.train) == early | undated
        assert set(made.test) == {r.patient for r in admitted} - set(made.train)
        assert all(r.time is None or r.time < CUT for r in seen if r.patient in made.train)
        assert parted(admitted, spec) == made  # it is the first record that decides


def test_a_copy_of_what_was_trained_on_is_left_out_of_the_test() -> None:
    days = {"a": -5, "b": -3, "c": 4, "d": 9}
    found = [Record(n, f"P{n}", CUT + timedelta(days=d), Modality.IMAGE, "CR", "x") for n, d in days.items()]
    picture = lambda seed: np.random.default_rng(seed).normal(size=(1, 64, 64)).cumsum(axis=1).cumsum(axis=2)
    load = lambda r: Payload(picture(0 if r.id in "ac" else ord(r.id)))
    made = split(found, SplitSpec(by="time", before=date(2020, 1, 1)), load)
    assert (made.train, made.test) == (("Pa", "Pb"), ("Pd",))
    guard(made.train, made.test, found, load)


def test_a_date_that_parts_nobody_is_refused() -> None:
    found = records([(i, i, None, None) for i in range(9)])
    with pytest.raises(SplitError, match="an empty side") as told:
        split(found, SplitSpec(by="time", before=date(2030, 1, 1)))
    assert "date" in told.value.remedy


@pytest.mark.parametrize(
    "wrong", [{"by": "time"}, {"by": "site", "before": "2020-01-01"}, {"by": "time", "before": "soon"}]
)
def test_a_date_belongs_to_a_split_by_time(wrong: dict) -> None:
    with pytest.raises(ValidationError):
        SplitSpec(**wrong)


def test_the_command_splits_by_time(tmp_path: Path) -> None:
    import json

    from typer.testing import CliRunner

    from polyclinic.cli import app

    cohort = Cohort.create(tmp_path)
    cohort.add(tmp_path, records([(1, -5, "A", "X"), (1, 30, "A", "X"), (2, 8, "A", "Y"), (3, None, "B", "Y")]))
    run = lambda *words: CliRunner().invoke(app, ["cohort", "split", str(tmp_path), "--json", *words])
    made = json.loads(run("--by", "time", "--before", "2020-01-01").stdout)
    assert (made["train"], made["test"]) == (["P01", "P03"], ["P02"])
    assert run("--by", "time").exit_code == 2
    assert run("--before", "2020-01-01").exit_code == 2
