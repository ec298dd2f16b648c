from __future__ import annotations

import datetime as dt
import decimal
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import feather

from polyclinic import records
from polyclinic.records import parquet, tables
from polyclinic.schema import Modality, Record, Rejected
from reading import parted

ZONE = dt.timezone(dt.timedelta(hours=2))
TABLE = pa.table(
    {
        "patient_id": pa.array([7, 8, 2**53 + 1]),
        "visit_date": pa.array([dt.date(2020, 1, 31), None, dt.date(1999, 12, 1)]),
        "age": pa.array([64.5, None, float("nan")]),
        "finding": pa.array(["COVID-19", "unknown", None]).dictionary_encode(),
        "smoker": pa.array([True, None, False]),
        "dose": pa.array([decimal.Decimal("1.50"), None, None]),
    }
)


@pytest.mark.parametrize("form", ["parquet", "feather", "groups of one row"])
def test_a_row_is_a_record_as_in_a_csv(tmp_path: Path, form: str) -> None:
    path = tmp_path / "visits.parquet"
    if form == "feather":
        feather.write_feather(TABLE, str(path))
    else:
        pq.write_table(TABLE, path, row_group_size=1 if form != "parquet" else None)
    found, reasons = parted(path)
    assert reasons == []
    assert [r.patient for r in found] == ["7", "8", "9007199254740993"]  # a number that float64 does not hold
    assert [r.uri for r in found] == [f"visits.parquet#row={i}" for i in (1, 2, 3)]
    assert found[0].time == dt.datetime(2020, 1, 31)
    assert (found[0].kind, found[0].modality) == ("table visits", Modality.TABLE)
    assert dict(found[0].attributes) == {
        "visit_date": "2020-01-31", "age": 64.5, "finding": "COVID-19", "smoker": "true", "dose": 1.5,
    }  # fmt: skip
    unknown = dict.fromkeys(["visit_date", "age", "finding", "smoker", "dose"])
    assert dict(found[1].attributes) == unknown | {"finding as written": "unknown"}
    assert found[2].attributes["age"] is None


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    numbers=st.lists(st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)), min_size=1, max_size=6),
    words=st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)
def test_numbers_come_back_to_the_bit_and_words_as_they_are(
    tmp_path: Path, numbers: list[float | None], words: str
) -> None:
    who, said = ["P"] * len(numbers), [words] * len(numbers)
    pq.write_table(pa.table({"patient": who, "x": pa.array(numbers, pa.float64()), "w": said}), tmp_path / "a.parquet")
    found, _ = parted(tmp_path / "a.parquet")
    assert [r.attributes["x"] for r in found] == numbers
    assert {r.attributes["w"] for r in found} == {tables.typed(words)}


def test_a_time_with_a_zone_keeps_its_own_clock(tmp_path: Path) -> None:
    moment = dt.datetime(2021, 3, 4, 23, 30, tzinfo=dt.UTC)
    column = pa.array([moment], pa.timestamp("us", "+02:00"))
    pq.write_table(pa.table({"patient": ["P"], "time": column}), tmp_path / "a.parquet")
    (record,), _ = parted(tmp_path / "a.parquet")
    assert record.time == moment.astimezone(ZONE).replace(tzinfo=None) == dt.datetime(2021, 3, 5, 1, 30)


def test_columns_that_are_no_cells_are_set_aside_by_name(tmp_path: Path) -> None:
    columns = {
        "patient": ["P"], "age": [3], "scores": [[1, 2]], "address": [{"zip": 1}], "scan": [b"\x00\xff"],
        "__index_level_0__": [5],
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    (record,), reasons = parted(tmp_path / "a.parquet")
    assert dict(record.attributes) == {"age": 3}
    assert reasons == ["the nested column 'scores'", "the nested column 'address'", "the column of bytes 'scan'"]


def test_a_table_of_nobody_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1], "b": [2]}), tmp_path / "a.parquet")
    assert parted(tmp_path / "a.parquet") == ([], ["a table with the columns a, b"])
    pq.write_table(pa.table([pa.array([1]), pa.array([2])], names=["patient", "patient"]), tmp_path / "b.parquet")
    assert parted(tmp_path / "b.parquet")[1] == ["the column name 'patient' twice"]


@pytest.mark.filterwarnings("ignore:Feather V1")
def test_feather_of_the_old_version_says_what_to_do(tmp_path: Path) -> None:
    feather.write_feather(pa.table({"patient": ["P"], "x": [1]}), str(tmp_path / "a.feather"), version=1)
    assert parted(tmp_path / "a.feather")[1] == ["a Feather file of version 1"]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", ["a.parquet", "a.feather"])
def test_a_file_cut_short_is_refused(tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    pq.write_table(TABLE, path) if name == "a.parquet" else feather.write_feather(TABLE, str(path))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    found, reasons = parted(path)
    assert not found
    assert reasons[0].startswith("a Parquet or Feather file that does not read")


def test_a_word_of_a_megabyte_in_a_million_rows_stops_in_bounded_memory(tmp_path: Path) -> None:
    word = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1_000_000, np.int32)), pa.array(["x" * 2**20]))
    pq.write_table(pa.table({"patient": pa.array(np.arange(1_000_000) % 9), "w": word}), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 2**20
    tracemalloc.start()
    count = reasons = 0
    for item in records.read(tmp_path / "a.parquet"):
        count, reasons = count + isinstance(item, Record), reasons + isinstance(item, Rejected)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reasons == 1
    assert 0 < count < 1000
    assert peak < 64 * 2**20


def test_a_column_that_unpacks_beyond_bound_is_refused_from_the_footer(tmp_path: Path) -> None:
    zeros = pa.table(
        {"patient": pa.array(np.zeros(40_000_000, np.int64)), "x": pa.array(np.zeros(40_000_000, np.int8))}
    )
    pq.write_table(zeros, tmp_path / "a.parquet", compression="zstd", use_dictionary=False, row_group_size=50_000_000)
    found, reasons = parted(tmp_path / "a.parquet")
    assert not found
    assert reasons[0].startswith("a row group of")


def test_the_real_omop_person_table_is_read_whole(shared_data: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(shared_data / "synthea-omop/Synthea27NjParquet_5.4.zip") as archive:
        member = next(n for n in archive.namelist() if n.lower().endswith("person.parquet") and "__MACOSX" not in n)
        (tmp_path / "person.parquet").write_bytes(archive.read(member))
    frame = pq.read_table(tmp_path / "person.parquet").to_pandas()
    found = [i for i in parquet.read(tmp_path / "person.parquet", tmp_path) if isinstance(i, Record)]
    column = next(c for c in frame.columns if tables.plain(c) == "personid")
    year = next(c for c in frame.columns if tables.plain(c) == "yearofbirth")
    assert [r.patient for r in found] == [str(v) for v in frame[column]]
    assert [r.attributes[year] for r in found] == [float(v) for v in frame[year]]
