from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import meds
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polyclinic.records import meds as ours
from polyclinic.records import source
from polyclinic.schema import Events, PolyclinicError, Rejected
from reading import by

DAYS = [None, datetime(1950, 6, 1), datetime(2020, 1, 1, 10), datetime(2020, 1, 2), datetime(2020, 1, 3)]


def history(patients: list[str]) -> pa.Table:
    """Five events of each, mixed up in order."""
    rows = [
        {
            "patient": patient, "time": DAYS[n], "code": ["GENDER//F", "MEDS_BIRTH", "LOINC 2160-0", "local own name", "LOINC 2160-0"][n],
            "numeric_value": 1.25 * n if n > 1 else None, "unit": "mg/dL" if n > 1 else None, "text_value": "<" if n == 4 else None,
            "encounter": None, "site": "A",
        }
        for n in (3, 0, 4, 1, 2)
        for patient in patients
    ]  # fmt: skip
    schema = pa.schema(
        {
            "patient": pa.string(), "time": pa.timestamp("us"), "code": pa.string(), "numeric_value": pa.float32(),
            "unit": pa.string(), "text_value": pa.string(), "encounter": pa.string(), "site": pa.string(),
        }
    )  # fmt: skip
    return pa.Table.from_pylist(rows, schema)


def read(path: Path) -> list[Events | Rejected]:
    return [item for item in by(ours, path) if isinstance(item, Events | Rejected)]


def test_what_goes_out_is_meds_by_its_own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "SUBJECTS", 2)
    into = ours.export(
        history(["Smith", "Jones", "Miller"]), tmp_path / "set", tmp_path / "key.parquet", name="ward",
        splits={"train": ["Smith", "nobody"]},
    )  # fmt: skip
    shards = [pq.read_table(path) for path in sorted((into / "data").glob("*.parquet"))]
    assert len(shards) == 2
    for shard in shards:
        meds.DataSchema.validate(shard)
        rows = shard.select(["subject_id", "time"]).to_pylist()
        assert rows == sorted(rows, key=lambda r: (r["subject_id"], r["time"] is not None, r["time"] or datetime.min))
    assert set().union(*(shard["subject_id"].to_pylist() for shard in shards)) == {1, 2, 3}
    assert set(shards[0]["subject_id"].to_pylist()).isdisjoint(shards[1]["subject_id"].to_pylist())
    codes = pq.read_table(into / "metadata/codes.parquet")
    meds.CodeMetadataSchema.validate(codes)
    assert dict(zip(codes["code"].to_pylist(), codes["parent_codes"].to_pylist(), strict=True)) == {
        "GENDER//F": None, "MEDS_BIRTH": None, "LOINC 2160-0": ["LOINC/2160-0"], "local own name": None,
    }  # fmt: skip
    meds.DatasetMetadataSchema.validate(json.loads((into / "metadata/dataset.json").read_text()))
    splits = pq.read_table(into / "metadata/subject_splits.parquet")
    meds.SubjectSplitSchema.validate(splits)
    assert len(splits) == 1


def test_no_file_of_it_names_a_patient_and_the_key_does(tmp_path: Path) -> None:
    into = ours.export(history(["Smith", "Jones"]), tmp_path / "set", tmp_path / "keys/key.parquet", name="ward")
    assert not any(b"Smith" in path.read_bytes() for path in into.rglob("*") if path.is_file())
    key = pq.read_table(tmp_path / "keys/key.parquet")
    assert sorted(key["patient"].to_pylist()) == ["Jones", "Smith"]


def test_out_and_in_again_is_the_same(tmp_path: Path) -> None:
    before = history(["Smith", "Jones"])
    into = ours.export(before, tmp_path / "set", tmp_path / "key.parquet", name="ward")
    named = {str(r["subject_id"]): r["patient"] for r in pq.read_table(tmp_path / "key.parquet").to_pylist()}
    found = [
        row
        for path in (into / "data").glob("*")
        for item in read(path)
        if isinstance(item, Events)
        for row in item.table.to_pylist()
    ]
    keep = ("time", "code", "numeric_value", "unit", "text_value", "site")
    told = lambda rows, name: sorted(repr([name(r["patient"]), *(r[k] for k in keep)]) for r in rows)
    assert told(found, named.__getitem__) == told(before.to_pylist(), str)


def test_a_folder_that_is_there_or_a_key_within_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolyclinicError, match="a key file inside"):
        ours.export(history(["a"]), tmp_path / "set", tmp_path / "set/key.parquet", name="x")
    (tmp_path / "set").mkdir()
    with pytest.raises(PolyclinicError, match="there already"):
        ours.export(history(["a"]), tmp_path / "set", tmp_path / "key.parquet", name="x")


def test_a_shard_in_other_types_is_read_and_values_are_in_standard_units(tmp_path: Path) -> None:
    table = pa.table(
        {
            "subject_id": pa.array([7, 7, 8], pa.int32()), "code": pa.array(["LOINC 2345-7", "a", None]).dictionary_encode(),
            "time": pa.array([datetime(2020, 1, 1), None, datetime(2020, 1, 1)], pa.timestamp("ns")),
            "numeric_value": pa.array([5.0, 1.0, 2.0], pa.float64()), "unit": ["mmol/l", None, None],
        }
    )  # fmt: skip
    pq.write_table(table, tmp_path / "0.parquet")
    events, nameless = read(tmp_path / "0.parquet")
    assert isinstance(events, Events)
    row, static = events.table.to_pylist()
    assert (static["code"], static["time"], static["numeric_value"]) == ("a", None, 1.0)
    assert (row["patient"], row["time"], row["unit"], row["source_unit"]) == (
        "7",
        datetime(2020, 1, 1),
        "mg/dL",
        "mmol/l",
    )
    assert row["numeric_value"] == pytest.approx(90.08, abs=0.01)
    assert isinstance(nameless, Rejected)
    assert nameless.found == "1 rows without a patient or a code"


def test_what_is_beside_the_shards_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"code": ["a"], "description": ["b"], "parent_codes": [["c"]]}), tmp_path / "codes.parquet")
    with pytest.raises(source.RecordError, match="which describes codes"):
        read(tmp_path / "codes.parquet")
    pq.write_table(pa.table({"x": ["a"]}), tmp_path / "other.parquet")
    assert not ours.recognises(tmp_path / "other.parquet", (tmp_path / "other.parquet").read_bytes())
