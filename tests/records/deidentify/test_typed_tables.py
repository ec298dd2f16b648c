"""Parquet, Feather and workbooks: as a CSV of the same table, with the types that its columns had, and nothing beside the cells."""

from __future__ import annotations

import datetime as dt
import importlib.util
import io
import sys
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from polyclinic import records
from polyclinic.records.deidentify import Options, Report, open_key
from polyclinic.schema import Record

PLANTED = (
    "Zebedee", "Quillon", "Ottoline", "Barnaby", "Vandermeer", "Elsewhere", "Marigold", "MRN55001", "MRN55007", "ACC88001", "555-867-5309",
    "zq@example.org", "2019-03-14", "1932-04-11", "Thistlewood", "Clementine", "INDEX-Zebedee",
)  # fmt: skip
NAMES = ("Zebedee", "Ottoline", "Clementine")
SIZE = 24
MOST_ROWS = 500


def people() -> dict[str, list[Any]]:
    """A table as a warehouse exports it, with somebody in every column that could hold them."""
    return {
        "patient_id": [f"MRN55{n:03d}" for n in range(SIZE)],
        "Last Name": [NAMES[n % 3] for n in range(SIZE)],
        "date_of_birth": [dt.date(1932, 4, 11)] * SIZE,
        "admitted": [dt.datetime(2019, 3, 14, 10, 15, n) for n in range(SIZE)],
        "day": [dt.date(2019, 3, 14)] * SIZE,
        "age": [70 + n for n in range(SIZE)],
        "sex": ["FM"[n % 2] for n in range(SIZE)],
        "accession": [f"ACC88{n:03d}" for n in range(SIZE)],
        "hospital": ["Saint Elsewhere"] * SIZE,
        "phone": ["555-867-5309"] * SIZE,
        "note": [f"{NAMES[n % 3]} Quillon was seen by Dr. Vandermeer on 3/14/2019, no cough." for n in range(SIZE)],
        "creatinine": [0.8 + n / 7 for n in range(SIZE)],
        "beats": [60 + n for n in range(SIZE)],
        "finding": ["pneumonia" if n % 3 else "no finding" for n in range(SIZE)],
        "remark": [None if n % 4 else "call zq@example.org" for n in range(SIZE)],
    }


def table() -> pa.Table:
    types = {
        "age": pa.int16(),
        "creatinine": pa.float64(),
        "beats": pa.int32(),
        "admitted": pa.timestamp("us", tz="Europe/Berlin"),
    }
    columns = {name: pa.array(cells, types.get(name)) for name, cells in people().items()}
    columns["creatinine32"] = pa.array(np.array(people()["creatinine"], np.float32))
    columns["nested"] = pa.array([["Zebedee"]] * SIZE)
    columns["bytes"] = pa.array([b"Zebedee"] * SIZE)
    return pa.table(columns).replace_schema_metadata(
        {"pandas": '{"index_columns": ["INDEX-Zebedee"]}', "owner": "Barnaby Thistlewood"}
    )


def rows(path: Path) -> list[Record]:
    return [r for r in records.read(path) if isinstance(r, Record)]


@pytest.mark.parametrize("form", ["parquet", "parquet zstd", "feather", "feather lz4"])
def test_parquet_keeps_its_types_and_its_values(
    place: Path, clean: Callable[..., Report], none_left: Callable[[Iterable[str]], None], form: str
) -> None:
    kind, _, packed = form.partition(" ")
    source = place / f"in/Zebedee_visits.{kind}"
    if kind == "parquet":
        pq.write_table(table(), source, compression=packed or "none", row_group_size=10)
    else:
        pyarrow.feather.write_feather(table(), str(source), compression=packed or "uncompressed")
    report = clean()
    (path,) = [p for p in (place / "out").iterdir() if not p.name.startswith(".")]
    after = pq.read_table(path) if kind == "parquet" else pyarrow.feather.read_table(str(path))
    none_left(PLANTED)
    words = " ".join(map(str, after.to_pydict().values()))
    assert not [planted for planted in PLANTED if planted in words]
    assert set(after.column_names) == set(people()) - {"Last Name", "phone"} | {"creatinine32"}
    before = table()
    for column in ("creatinine", "creatinine32", "beats", "sex", "finding"):
        assert after[column].equals(before[column].cast(after[column].type)), column
        assert after[column].type == before[column].type or column in ("sex", "finding")
    assert after["admitted"].type == pa.timestamp("us", tz="Europe/Berlin")
    assert after["day"].type == pa.date32()
    assert after["age"].type == pa.int16()
    assert after["age"].to_pylist() == [min(70 + n, 90) for n in range(SIZE)]
    assert after["remark"].null_count == before["remark"].null_count
    key = open_key(place / "key")
    assert after["patient_id"].to_pylist() == [key.pseudonym(f"MRN55{n:03d}") for n in range(SIZE)]
    moved = [(a - dt.date(2019, 3, 14)).days for a in after["day"].to_pylist()]
    assert moved == [key.days(f"MRN55{n:03d}") for n in range(SIZE)]
    clocks = [a.replace(tzinfo=None).time() for a in after["admitted"].to_pylist()]
    assert clocks == [b.replace(tzinfo=None).time() for b in before["admitted"].to_pylist()]
    assert report.tables[path.name]["k_before"] == 1
    assert not after.schema.metadata


def test_parquet_reaches_k(place: Path, clean: Callable[..., Report]) -> None:
    pq.write_table(table(), place / "in/a.parquet")
    report = clean(Options(k=5, quasi_identifiers=("age", "sex")))
    after = pq.read_table(place / "out/a.parquet")
    assert report.tables["a.parquet"]["k_after"] >= 5
    assert after["age"].null_count == after["sex"].null_count > 0
    assert after["creatinine"].null_count == 0


def excel_writers() -> Any:
    """The writers of workbooks of `tests/records/test_excel.py`."""
    path = Path(__file__).parents[1] / "test_excel.py"
    spec = importlib.util.spec_from_file_location("workbook_writers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["workbook_writers"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("form", ["xlsx", "ods", "xls", "xlsb"])
def test_a_workbook_is_cleaned_sheet_by_sheet(
    place: Path, clean: Callable[..., Report], none_left: Callable[[Iterable[str]], None], form: str
) -> None:
    writers, cells = excel_writers(), people()
    if form in ("xls", "xlsb"):  # their writer knows words and numbers only
        cells = {
            n: [str(c) if isinstance(c, dt.date | None) else c for c in v] for n, v in cells.items() if n != "remark"
        }
    lines = [list(cells), *[list(row) for row in zip(*cells.values(), strict=True)]]
    above = [["Export for Barnaby Thistlewood, Saint Elsewhere"]] if form in ("xlsx", "ods") else []
    sheets = {"Zebedee": [*above, *lines], "labs": [["patient_id", "value"], ["MRN55001", 1.25], ["MRN55007", 3.5]]}
    write = getattr(writers, f"write_{form}")
    source = place / f"in/Zebedee_MRN55001.{form}"
    write(source, sheets, **({"hidden": ["labs"]} if form == "xlsx" else {}))
    if form == "xlsx":
        with zipfile.ZipFile(source, "a") as archive:
            archive.writestr("docProps/core.xml", "<x>Barnaby Thistlewood</x>")
            archive.writestr("xl/comments1.xml", "<comments><author>Zebedee</author></comments>")
    report = clean()
    none_left(PLANTED)
    (path,) = (place / "out").glob("*.xlsx")
    assert report.kinds == {"workbook": 1}
    before, after = rows(source), rows(path)
    assert len(after) == len(before) == SIZE + 2
    key = open_key(place / "key")
    for old, new in zip(before, after, strict=True):
        assert new.patient == key.pseudonym(old.patient)
        for column in ("creatinine", "beats", "finding", "sex", "value"):
            assert new.attributes.get(column) == old.attributes.get(column), column
    if form in ("xlsx", "ods"):
        assert old_day(after[0]) == (dt.date(2019, 3, 14) + dt.timedelta(days=key.days("MRN55000"))).isoformat()
    assert {r.uri.split("sheet=")[1].split("&")[0] for r in after} > {"labs"}


def old_day(record: Record) -> Any:
    return record.attributes["day"]


def test_a_locked_workbook_is_set_aside(place: Path, clean: Callable[..., Report]) -> None:
    excel_writers().locked_xlsx(place / "in/a.xlsx")
    assert clean(aside=True).aside[0].found == "a workbook locked with a password"


def test_real_omop_tables_keep_their_codes(place: Path, clean: Callable[..., Report], shared_data: Path) -> None:
    """Synthea's OMOP: persons and visits get other numbers, which still join; concepts and values are the same."""
    with zipfile.ZipFile(next((shared_data / "synthea-omop").glob("*.zip"))) as archive:
        for name in ("person", "measurement", "visit_occurrence"):
            whole = pq.read_table(io.BytesIO(archive.read(f"Synthea27NjParquet/{name}.parquet")))
            pq.write_table(whole.slice(0, MOST_ROWS), place / f"in/{name}.parquet")
    clean()
    read = lambda folder, name: pq.read_table(place / folder / f"{name}.parquet")
    for name in ("person", "measurement", "visit_occurrence"):
        before, after = read("in", name), read("out", name)
        assert len(before) == len(after)
        assert not set(map(str, before["person_id"].to_pylist())) & set(after["person_id"].to_pylist())
        for column in before.column_names:
            if column.endswith("concept_id") or column == "value_as_number":
                assert after[column].equals(before[column]), column
    persons, visits = read("out", "person"), set(read("out", "visit_occurrence")["visit_occurrence_id"].to_pylist())
    assert visits
    assert set(read("out", "visit_occurrence")["person_id"].to_pylist()) <= set(persons["person_id"].to_pylist())
    shared = lambda folder: sum(
        v in set(read(folder, "visit_occurrence")["visit_occurrence_id"].to_pylist())
        for v in set(read(folder, "measurement")["visit_occurrence_id"].to_pylist())
    )
    assert shared("in") == shared("out")
