"""What the database counts is what Python counts of the same records."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyclinic.cohort import Cohort
from polyclinic.cohort.catalogue import describe
from polyclinic.schema import Modality, Record

cells = st.fixed_dictionaries(
    {},
    optional={
        "age": st.one_of(st.floats(0, 99), st.integers(0, 99), st.just("> 89"), st.none()),
        "sex": st.one_of(st.sampled_from(["F", "M"]), st.none(), st.just(1.0)),
        "is_female": st.sampled_from([0.0, 1.0, 0.5]),
        "finding": st.sampled_from(["x", "y", "it's"]),
        "a.b $[0]": st.sampled_from(["x", "y"]),
        "mask_of": st.sampled_from(["", "z"]),
    },
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from("ABCD"),
            st.sampled_from([Modality.IMAGE, Modality.TABLE, Modality.SIGNAL]),
            st.sampled_from([None, "S1", "S2", ""]),
            cells,
        ),
        max_size=8,
    )
)
def test_the_database_counts_as_python_does(tmp_path_factory, rows: list[tuple]) -> None:
    path: Path = tmp_path_factory.mktemp("c")
    cohort = Cohort.create(path)
    put = [
        Record(f"r{i}", patient, datetime(2020, 1, 1 + i), modality, "kind", f"u{i}", site, None, attributes)
        for i, (patient, modality, site, attributes) in enumerate(rows)
    ]
    cohort.add(path, put)
    assert cohort.describe() == describe(put, [])


def test_the_hospital_is_counted_alike(tiny_cohort: Cohort) -> None:
    given, expected = tiny_cohort.describe(), describe(tiny_cohort.records(), tiny_cohort.rejected())
    del given["columns"], expected["columns"]  # where eight cells are shown of more, ties differ
    assert given == expected
    assert given["records"] > 50
