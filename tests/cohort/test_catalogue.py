from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyclinic.cohort import Cohort, CohortError, EmptyCohortError, ingest
from polyclinic.cohort.catalogue import describe, inputs, signatures
from polyclinic.schema import Modality, PolyclinicError, Record, Rejected


def record(name: str, **more: object) -> Record:
    fields: dict = {
        "id": name,
        "patient": "P",
        "time": None,
        "modality": Modality.TABLE,
        "kind": "table a",
        "uri": f"{name}.csv",
    } | more
    return Record(**fields)


def fill(path: Path, *items: Record) -> Cohort:
    cohort = Cohort.create(path)
    cohort.add(path, items)
    return cohort


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=15)
cells = st.dictionaries(
    text.filter(bool),
    st.one_of(
        text, st.none(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**53), 2**53)
    ),
    max_size=4,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    found=st.lists(
        st.tuples(
            text.filter(str.strip),
            st.sampled_from(list(Modality)),
            st.one_of(st.none(), st.datetimes(datetime(1, 1, 1))),
            cells,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_what_is_put_in_comes_out(tmp_path_factory: pytest.TempPathFactory, found: list[tuple]) -> None:
    put = [
        Record(
            f"{i:032x}",
            patient,
            time,
            modality,
            "kind's",
            f"a'{i}",
            "site",
            None,
            {k: v for k, v in attributes.items() if k not in ("mask", "stem")},
        )
        for i, (patient, modality, time, attributes) in enumerate(found)
        if modality is not Modality.TEXT or all(m is Modality.TEXT for _, m, _, _ in found)
    ]
    cohort = fill(tmp_path_factory.mktemp("c"), *put)
    assert Cohort.open(cohort.path).records() == put if put else True


def test_a_query_is_sql_over_records_and_rejected(tiny_cohort: Cohort) -> None:
    counts = tiny_cohort.query(
        "select modality, count(*) as n from records group by modality order by modality"
    ).to_pylist()
    assert {row["modality"]: row["n"] for row in counts}["volume"] == 12
    assert tiny_cohort.query("select count(*) from rejected").to_pylist()[0]["count_star()"] == len(
        tiny_cohort.rejected()
    )
    ages = tiny_cohort.records("modality = 'table' and (attributes->>'age')::float > 70 -- a comment")
    assert ages
    assert all(float(str(r.attributes["age"])) > 70 for r in ages)
    assert tiny_cohort.records("kind like 'CR%' or modality = 'text'")


@pytest.mark.parametrize(
    ("sql", "word"),
    [
        ("selekt 1", "syntax error"),
        ("select agee from records", "agee"),
        ("select modalty from records", 'Candidate bindings: "modality"'),
        ("select * from nowhere", "nowhere"),
        ("", ""),
    ],
)
def test_sql_that_is_not_understood_gets_what_there_is(tiny_cohort: Cohort, sql: str, word: str) -> None:
    with pytest.raises(CohortError) as told:
        tiny_cohort.query(sql).to_pylist()
    assert word in told.value.found
    if word:
        assert "records(id, patient, time, modality" in told.value.expected


@pytest.mark.parametrize(
    "sql",
    [
        "select * from read_csv('{secret}')",
        "select * from '{secret}'",
        "copy (select 1) to '{other}'",
        "attach '{other}' as x",
        "install httpfs",
        "set enable_external_access = true",
    ],
)
def test_a_condition_from_anywhere_reads_writes_and_fetches_nothing(
    tiny_cohort: Cohort, tmp_path: Path, sql: str
) -> None:
    secret, other = tmp_path / "secret.csv", tmp_path / "other"
    secret.write_text("a,b\n1,2\n")
    with pytest.raises(CohortError):
        tiny_cohort.query(sql.format(secret=secret, other=other))
    assert not other.exists()


def test_a_local_variable_is_no_table(tiny_cohort: Cohort) -> None:
    import pandas

    frame = pandas.DataFrame({"a": [1]})
    with pytest.raises(CohortError):
        tiny_cohort.query("select * from frame")
    assert len(frame) == 1


def test_an_empty_cohort_says_so(tiny_cohort: Cohort, tmp_path: Path) -> None:
    with pytest.raises(EmptyCohortError, match="no record where kind = 'nothing'") as told:
        tiny_cohort.records("kind = 'nothing'")
    assert "polyclinic cohort describe" in told.value.remedy
    with pytest.raises(EmptyCohortError, match="an empty catalogue"):
        Cohort.create(tmp_path / "c").records()
    assert Cohort.create(tmp_path / "c").describe()["patients"] == 0


def test_a_catalogue_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="no catalogue in"):
        Cohort.open(tmp_path)
    for about in ("{", '{"format": 1}', "[]", "{}"):
        (tmp_path / "cohort.json").write_text(about)
        with pytest.raises(CohortError, match="a catalogue of format"):
            Cohort.open(tmp_path)


def test_a_damaged_part_is_said_to_be(tmp_path: Path) -> None:
    cohort = fill(tmp_path, record("a"))
    part = next((tmp_path / "parts").glob("*/records.parquet"))
    part.write_bytes(part.read_bytes()[:-50])
    with pytest.raises(CohortError, match="a damaged catalogue in"):
        Cohort.open(cohort.path).records()


def test_a_record_of_another_catalogue_is_not_loaded(tiny_cohort: Cohort) -> None:
    with pytest.raises(CohortError, match="which is not in"):
        tiny_cohort.load(record("elsewhere"))


def test_a_description_counts_patients_and_what_is_missing() -> None:
    found = [
        record("a", patient="P1", attributes={"sex": "F", "age": 50.0, "finding": "x"}),
        record("b", patient="P1", modality=Modality.IMAGE, kind="CR", attributes={}, site="A"),
        record("e", patient="P1", modality=Modality.IMAGE, kind="CR", attributes={}, site="A"),
        record("c", patient="P2", attributes={"sex": "M", "age": 70.0, "finding": "y"}, site="A"),
        record("d", patient="P3", modality=Modality.IMAGE, kind="CR", attributes={}),
        record(
            "m", patient="P3", modality=Modality.IMAGE, kind="MASK image", attributes={"mask": True, "mask_of": "d"}
        ),
    ]
    told = describe(found, [Rejected("x", "an empty file", "", "")])
    assert (told["patients"], told["records"], told["masks"], told["rejected"]) == (3, 6, 1, 1)
    assert told["modality"] == {"image": 3, "table": 2}
    assert told["patients_by_site"] == {"A": 2}
    assert told["missingness"] == {"image+table": 1, "table": 1, "image": 1}
    assert told["sex"] == {"F": 1, "M": 1, "unknown": 1}
    assert told["age"] == {"n": 2, "q05": 50.0, "median": 70.0, "q95": 70.0}
    assert told["columns"]["finding"] == {"x": 1, "y": 1}
    assert json.dumps(told)
    assert [r.id for r in inputs(found)] == ["a", "b", "e", "c", "d"]
    assert signatures(found) == {"P1": "image+table", "P2": "table", "P3": "image"}


def test_ingest_leaves_alone_what_was_added_by_hand(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_text("patient_id,x\nP1,1\n")
    cohort = ingest(tmp_path / "in", tmp_path / "c")
    cohort.add(tmp_path / "in", [record("b", uri="a.csv#row=1", attributes={"x": 2.0})], [Rejected("z", "odd", "", "")])
    assert len(cohort.ids()) == 2
    again = ingest(tmp_path / "in", tmp_path / "c")
    assert again.records() == cohort.records()
    assert [r.uri for r in again.rejected()] == ["z"]
    cohort.add(tmp_path / "in", [record("b", uri="a.csv#row=1", attributes={"x": 3.0})])
    assert {r.id: r.attributes["x"] for r in cohort.records()}["b"] == 3.0


def test_a_note_is_read_once_and_the_first_of_many_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, names = tmp_path / "notes", [f"P{n}" for n in range(3)]
    source.mkdir()
    (source / "stays.csv").write_text("patient_id,age\n" + "".join(f"{p},60\n" for p in names))
    for name in names:
        (source / f"{name}_1.txt").write_text(f"A cough of {name} for three days.")
    cohort = ingest(source, tmp_path / "cohort")
    notes = sorted((r for r in cohort.records() if r.modality is Modality.TEXT), key=lambda r: r.uri)
    assert len(notes) == 3
    monkeypatch.setattr("polyclinic.cohort.catalogue.NOTES", 2)
    told = [cohort.note(r).text for r in notes]
    for name in names:
        (source / f"{name}_1.txt").unlink()
    assert [cohort.note(r).text for r in notes[1:]] == told[1:]
    with pytest.raises(PolyclinicError):
        cohort.note(notes[0])
