"""The derived tables: they say what the views over the parts say, and are never older than the parts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from datetime import datetime
from pathlib import Path

import duckdb
import pytest

from polyclinic.cohort import Cohort, CohortError, ingest
from polyclinic.cohort import snapshot as derived
from polyclinic.cohort.catalogue import inputs, signatures
from polyclinic.schema import Modality, Record, Rejected


def record(name: str, patient: str = "P1", modality: Modality = Modality.IMAGE, **more: object) -> Record:
    fields: dict = {"time": None, "kind": "CR", "uri": f"{name}.png", "site": None, "attributes": {}} | more
    return Record(name, patient, modality=modality, **fields)


def fill(path: Path, *items: Record, rejected: list[Rejected] | None = None) -> Cohort:
    cohort = Cohort.create(path)
    cohort.add(path, items, rejected or [])
    return cohort


def snapshots(cohort: Cohort) -> list[Path]:
    return sorted(p for p in (cohort.path / "derived").iterdir() if not p.name.startswith("."))


def test_the_snapshot_says_what_the_views_say(tiny_cohort: Cohort) -> None:
    with duckdb.connect() as anew:
        derived.derive(anew, derived.files(derived.key(tiny_cohort.path)[1]))
        for name in ("records", "rejected"):
            expected = anew.sql(f"select * from {name}").to_arrow_table().to_pylist()
            given = tiny_cohort.query(f"select * from {name}").to_pylist()
            assert sorted(map(str, given)) == sorted(map(str, expected))
            assert given


def test_a_patient_is_summed_up(tiny_cohort: Cohort) -> None:
    found = tiny_cohort.records()
    rows = {row["patient"]: row for row in tiny_cohort.query("select * from patients").to_pylist()}
    assert rows.keys() == {r.patient for r in found}
    assert tiny_cohort.signatures() == signatures(found)
    for patient, row in rows.items():
        mine = [r for r in found if r.patient == patient]
        assert row["records"] == len(mine)
        count = Counter(r.modality for r in inputs(mine))
        assert {m: row[many] for m, many in derived.MANY.items() if row[many]} == count
        times = [r.time for r in mine if r.time]
        assert (row["first"], row["last"]) == ((min(times), max(times)) if times else (None, None))
        assert row["sites"] == len({r.site for r in mine if r.site})


def test_masks_are_told_apart_as_python_tells_truth(tmp_path: Path) -> None:
    said = {"a": True, "b": False, "c": "yes", "d": "", "e": None, "f": 1.0, "g": 0.0, "h": "false", "i": 2, "j": 0}
    cohort = fill(
        tmp_path, *(record(k, k, attributes={"mask_of" if k > "e" else "masked": v}) for k, v in said.items())
    )
    assert cohort.signatures() == signatures(cohort.records())
    assert {r["patient"] for r in cohort.query("from patients where images = 1").to_pylist()} == set("abcdegj")


def test_what_came_since_is_seen_and_the_old_snapshot_goes_when_idle(tmp_path: Path) -> None:
    cohort = fill(tmp_path, record("a"))
    assert cohort.ids() == {"a"}
    (first,) = snapshots(cohort)
    begun = tmp_path / "derived/.1-1"
    begun.mkdir()
    cohort.add(tmp_path, [record("b")])
    assert Cohort.open(tmp_path).ids() == {"a", "b"}
    assert first in snapshots(cohort)  # a query may still be reading it
    os.utime(first, (0, 0))
    os.utime(begun, (0, 0))
    cohort.add(tmp_path, [record("c")])
    assert cohort.ids() == {"a", "b", "c"}
    assert first not in snapshots(cohort)
    assert not begun.exists()
    assert len(snapshots(cohort)) == 2
    assert cohort.ids() == {"a", "b", "c"}
    assert len(snapshots(cohort)) == 2  # nothing came, nothing is derived


def test_where_nothing_can_be_written_the_tables_stay_in_memory(tmp_path: Path) -> None:
    cohort = fill(tmp_path, record("a", site="S"), rejected=[Rejected("x", "odd", "", "")])
    (tmp_path / "derived").write_text("in the way")
    assert [r.id for r in cohort.records()] == ["a"]
    assert cohort.query("select images, sites from patients").to_pylist() == [{"images": 1, "sites": 1}]
    assert [r.uri for r in cohort.rejected()] == ["x"]
    cohort.add(tmp_path, [record("b")])
    assert cohort.ids() == {"a", "b"}


ASK = """
import sys
from polyclinic.cohort import Cohort
for _ in range(3):
    print(len(Cohort.open(sys.argv[1]).ids()))
"""


def test_processes_that_derive_at_once_all_get_the_answer(tmp_path: Path) -> None:
    cohort = fill(tmp_path, *(record(f"r{i}", f"P{i % 7}") for i in range(300)))
    asking = [
        subprocess.Popen([sys.executable, "-c", ASK, tmp_path], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    assert [p.communicate(timeout=120)[0].split() for p in asking] == [["300"] * 3] * 3
    assert len(snapshots(cohort)) == 1
    assert [p.name for p in (tmp_path / "derived").iterdir()] == [snapshots(cohort)[0].name]


@pytest.mark.parametrize(
    "sql",
    [
        "copy (select 1) to '{file}'",
        "select 1 from records limit 1; copy (select 1) to '{file}'",
        "create table x as select 1",
        "pragma memory_limit = '1GB'",
        "insert into records values (1)",
    ],
)
def test_a_query_cannot_write_to_what_it_reads(tmp_path: Path, sql: str) -> None:
    cohort = fill(tmp_path, record("a"))
    cohort.ids()
    file = snapshots(cohort)[0] / "records.parquet"
    before = file.read_bytes()
    with pytest.raises(CohortError):
        cohort.query(sql.format(file=file))
    assert file.read_bytes() == before


def test_words_in_strings_and_comments_name_no_table(tmp_path: Path) -> None:
    cohort = fill(tmp_path, record("a", kind="said 'so' -- stored_sources"))
    assert derived._names("select 'said ''so''' /* known */ from records -- owned") == {"select", "from", "records"}
    assert cohort.query("select 1 from records where kind = 'said ''so'' -- stored_sources'").num_rows == 1
    assert "pairs" not in derived._names("with pairs as materialized (select 1) select * from records, pairs")
    assert cohort.query("with pairs as (select 1 as one) select one from pairs, records").num_rows == 1
    assert cohort.query("select unit from stored_sources").num_rows == 1  # and what is not derived can be asked for
    assert cohort.query("select patient, stamp from patients, stored_sources").num_rows == 1
    assert {r["name"] for r in cohort.query("show tables").to_pylist()} >= {"records", "rejected", "patients"}


def test_records_come_in_batches(tmp_path: Path) -> None:
    put = [record(f"r{i:03d}", f"P{i % 7}", time=datetime(2020, 1, 1 + i % 28)) for i in range(100)]
    cohort = fill(tmp_path, *put)
    batches = list(cohort.batches(rows=30))
    assert max(map(len, batches)) <= 30
    assert sorted((r for batch in batches for r in batch), key=lambda r: r.id) == cohort.records()
    some = [r.id for batch in cohort.batches("patient = 'P3'") for r in batch]
    assert sorted(some) == [r.id for r in put if r.patient == "P3"]


def test_a_forked_process_and_a_copy_ask_for_themselves(tmp_path: Path) -> None:
    """The database that stays open has threads, which a forked process has not."""
    import multiprocessing
    import pickle

    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_text("patient_id,age\nP1,50\nP2,60\n")
    cohort = ingest(tmp_path / "in", tmp_path / "c")
    count = "select count(*) as n from records"
    assert cohort.query(count)["n"][0].as_py() == 2
    child = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(cohort.query(count)["n"][0].as_py()))
    child.start()
    child.join(60)
    alive = child.is_alive()
    child.kill()
    assert not alive
    assert child.exitcode == 2
    assert pickle.loads(pickle.dumps(cohort)).query(count)["n"][0].as_py() == 2


def test_the_database_that_stays_open_reads_no_other_file_and_sees_what_comes(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_text("patient_id,age\nP1,50\n")
    cohort = ingest(tmp_path / "in", tmp_path / "c")
    for _ in range(2):
        for stranger in (tmp_path / "in/a.csv", *(tmp_path / "c/parts").rglob("records.parquet")):
            with pytest.raises(CohortError):
                cohort.query(f"select * from records, '{stranger}'")
        with pytest.raises(CohortError, match="does more than ask"):
            cohort.query("create or replace view records as select 1")
        assert cohort.patients() == ["P1"]
    (tmp_path / "in/b.csv").write_text("patient_id,age\nP2,60\n")
    ingest(tmp_path / "in", tmp_path / "c")
    assert cohort.patients() == ["P1", "P2"]
