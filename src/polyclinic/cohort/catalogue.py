"""The catalogue: a folder of Parquet parts, queried with DuckDB.

    cohort.json              format version, source roots
    records/part-*.parquet   id, patient, time, modality, kind, uri, root, site, device, attributes (JSON)
    rejected/part-*.parquet  uri, root, found, expected, remedy

Parts are only ever added, each written whole and then renamed into place: a killed process leaves nothing half done.
"""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .. import records
from ..schema import Modality, Payload, PolyclinicError, Record, Rejected

FORMAT = 1
RECORDS = pa.schema(
    [
        ("id", pa.string()), ("patient", pa.string()), ("time", pa.timestamp("us")), ("modality", pa.string()),
        ("kind", pa.string()), ("uri", pa.string()), ("root", pa.string()), ("site", pa.string()), ("device", pa.string()),
        ("attributes", pa.string()),
    ]
)  # fmt: skip
REJECTED = pa.schema([(n, pa.string()) for n in ("uri", "root", "found", "expected", "remedy")])


class CohortError(PolyclinicError):
    """A catalogue that is not one, or a query that it does not understand."""


class EmptyCohortError(CohortError):
    """No record is left."""


def write_whole(path: Path, table: pa.Table) -> None:
    """Write a Parquet file beside its place and rename it there; on a full disk nothing of it remains.

    Raises:
        CohortError: the disk is full.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(table, beside, compression="zstd")
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        if (
            error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            or "No space" in str(error)
            or "too large" in str(error)
        ):
            raise CohortError(
                f"no room on the disk for {path.parent.name}/{path.name}",
                "space for the catalogue; what was already ingested is intact",
                "free some space and run the same command again",
            ) from error
        raise


class Cohort:
    """A catalogue of records, opened.

    Args:
        path: the catalogue's folder.
    Raises:
        CohortError: there is no catalogue.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records: list[Record] | None = None
        self._roots: dict[str, Path] = {}

    @classmethod
    def open(cls, path: str | Path) -> Cohort:
        """The catalogue in a folder that `ingest` made."""
        place = Path(path)
        about = place / "cohort.json"
        if not about.exists():
            raise CohortError(
                f"no catalogue in {place}", "a folder made by `polyclinic ingest`", "run `polyclinic ingest` first"
            )
        version = json.loads(about.read_text()).get("format")
        if version != FORMAT:
            raise CohortError(f"a catalogue of format {version}", f"format {FORMAT}", "ingest the source again")
        return cls(place)

    @classmethod
    def create(cls, path: str | Path) -> Cohort:
        """Open the catalogue in `path`, or make an empty one."""
        place = Path(path)
        if not (place / "cohort.json").exists():
            for part in ("records", "rejected"):
                (place / part).mkdir(parents=True, exist_ok=True)
            beside = place / f".cohort.json.{os.getpid()}"
            beside.write_text(json.dumps({"format": FORMAT}))
            os.replace(beside, place / "cohort.json")
        return cls.open(place)

    def _parts(self, table: str) -> list[str]:
        return [str(p) for p in sorted((self.path / table).glob("part-*.parquet"))]

    def add(self, root: Path, found: Sequence[Record], rejected: Sequence[Rejected]) -> None:
        """Add one part of each table, whole or not at all."""
        at = str(root.resolve())
        rows = [
            {
                "id": r.id, "patient": r.patient, "time": r.time, "modality": r.modality.value, "kind": r.kind, "uri": r.uri,
                "root": at, "site": r.site, "device": r.device, "attributes": json.dumps(dict(r.attributes), sort_keys=True),
            }
            for r in found
        ]  # fmt: skip
        set_aside = [
            {"uri": r.uri, "root": at, "found": r.found, "expected": r.expected, "remedy": r.remedy} for r in rejected
        ]
        for name, schema, data in (("rejected", REJECTED, set_aside), ("records", RECORDS, rows)):
            if data:
                number = len(self._parts(name))
                write_whole(self.path / name / f"part-{number:06d}.parquet", pa.Table.from_pylist(data, schema=schema))
        self._records = None

    def query(self, sql: str) -> pa.Table:
        """The answer to a DuckDB query over the views `records` and `rejected`.

        `attributes` is JSON: `attributes->>'age'` is a cell of it as text.

        Raises:
            CohortError: the query is not understood.
        """
        import duckdb

        with duckdb.connect() as connection:
            for name, schema in (("records", RECORDS), ("rejected", REJECTED)):
                parts = self._parts(name)
                if parts:
                    quoted = ", ".join("'" + p.replace("'", "''") + "'" for p in parts)
                    connection.execute(f"create view {name} as select * from read_parquet([{quoted}])")
                else:
                    connection.register(name, schema.empty_table())
            try:
                return connection.sql(sql).to_arrow_table()
            except duckdb.Error as error:
                raise CohortError(
                    f"a query that the catalogue does not understand: {str(error).splitlines()[0]}",
                    "DuckDB SQL over records("
                    + ", ".join(RECORDS.names)
                    + ") or rejected("
                    + ", ".join(REJECTED.names)
                    + ")",
                    "see `polyclinic cohort describe`",
                ) from error

    def records(self, where: str | None = None) -> list[Record]:
        """The records, in the order of their id, that a DuckDB condition admits.

        Raises:
            EmptyCohortError: a condition admits none, or the catalogue is empty.
        """
        if where is None and self._records is not None:
            return self._records
        rows = self.query(f"select * from records {f'where {where}' if where else ''} order by id, root").to_pylist()
        seen: dict[str, Record] = {}
        for row in rows:
            self._roots.setdefault(row["id"], Path(row["root"]))
            seen.setdefault(row["id"], _record(row))
        if not seen:
            raise EmptyCohortError(
                f"no record where {where}" if where else "an empty catalogue",
                "at least one record",
                "see `polyclinic cohort describe` for what there is",
            )
        found = list(seen.values())
        if where is None:
            self._records = found
        return found

    def ids(self) -> set[str]:
        """The ids of all records."""
        return set(self.query("select distinct id from records")["id"].to_pylist())

    def rejected(self) -> list[Rejected]:
        """What was set aside, and why."""
        rows = self.query("select distinct uri, found, expected, remedy from rejected order by uri").to_pylist()
        return [Rejected(**row) for row in rows]

    def patients(self, where: str | None = None) -> list[str]:
        """The patients, sorted."""
        return sorted({r.patient for r in self.records(where)})

    def load(self, record: Record) -> Payload:
        """The record's array or words, from its source."""
        if record.id not in self._roots:
            self.records()
        return records.load(record, self._roots.get(record.id))

    def describe(self) -> dict[str, Any]:
        """Who is in the cohort: counts by modality, kind and site, missingness, sex, age, and what was set aside."""
        try:
            found = self.records()
        except EmptyCohortError:
            found = []
        return describe(found, self.rejected())


def _record(row: dict[str, Any]) -> Record:
    return Record(
        id=row["id"], patient=row["patient"], time=row["time"], modality=Modality(row["modality"]), kind=row["kind"],
        uri=row["uri"], site=row["site"], device=row["device"], attributes=json.loads(row["attributes"]),
    )  # fmt: skip


def inputs(found: Iterable[Record]) -> list[Record]:
    """The records that a model may read: a mask is an answer, never an input."""
    return [r for r in found if not r.attributes.get("mask_of") and not r.attributes.get("mask")]


def signatures(found: Iterable[Record]) -> dict[str, str]:
    """Each patient's modalities as one word, such as `image+table+text`."""
    has: dict[str, set[str]] = {}
    for record in inputs(found):
        has.setdefault(record.patient, set()).add(record.modality.value)
    return {patient: "+".join(sorted(modalities)) for patient, modalities in has.items()}


def describe(found: Sequence[Record], set_aside: Sequence[Rejected] = ()) -> dict[str, Any]:
    """As `Cohort.describe`, of any records."""
    sex: dict[str, str] = {}
    age: dict[str, float] = {}
    columns: dict[str, Counter[str]] = {}
    for record in found:
        value = record.attributes
        if isinstance(value.get("sex"), str):
            sex[record.patient] = str(value["sex"])
        elif value.get("is_female") in (0.0, 1.0):
            sex[record.patient] = "F" if value["is_female"] else "M"
        if isinstance(value.get("age"), int | float):
            age[record.patient] = float(value["age"])  # type: ignore[arg-type]
        if record.modality is Modality.TABLE and record.kind != "EHR events":
            for name, cell in value.items():
                if isinstance(cell, str):
                    columns.setdefault(name, Counter())[cell] += 1
    ages = sorted(age.values())
    quantile = lambda q: ages[min(len(ages) - 1, int(q * len(ages)))] if ages else None
    every = signatures(found)
    return {
        "patients": len(every),
        "records": len(found),
        "modality": dict(Counter(r.modality.value for r in inputs(found)).most_common()),
        "patients_by_modality": {
            m.value: n for m in Modality if (n := len({r.patient for r in inputs(found) if r.modality is m}))
        },
        "kind": dict(Counter(r.kind for r in found).most_common()),
        "missingness": dict(Counter(every.values()).most_common()),
        "masks": sum(bool(r.attributes.get("mask_of")) for r in found),
        "sex": dict(Counter(sex.values()).most_common()) | {"unknown": len(every) - len(sex)},
        "age": {"n": len(ages), "q05": quantile(0.05), "median": quantile(0.5), "q95": quantile(0.95)},
        "site": dict(Counter(r.site for r in found if r.site).most_common(20)),
        "columns": {name: dict(count.most_common(8)) for name, count in columns.items() if len(count) <= 60},
        "rejected": len(set_aside),
        "rejected_reasons": dict(Counter(r.found for r in set_aside).most_common()),
    }
