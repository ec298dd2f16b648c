"""The catalogue: a folder of Parquet parts, queried with DuckDB; `parts` has how it lies there, `views` what follows."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from .. import records
from ..records import events
from ..schema import Modality, Payload, Record, Rejected
from . import masks
from .parts import RECORDS, REJECTED, CohortError, Rows, commit, no_room, place_name
from .parts import write_whole as write_whole
from .population import described
from .snapshot import IS_MASK, Snapshot

FORMAT = 3
ADDED = "added"
NOTES = 2000
"""Texts that are remembered: what is looked through for each adaptation is read once."""
_VIEWS = {"records": RECORDS, "rejected": REJECTED, "events": events.SCHEMA.names}
FROZEN = re.compile(r'id in \(select id from "([^"/]+)/(\d+)"\)')
"""The condition that admits the records of a version of a named cohort, as `definitions.chosen` writes it."""


class EmptyCohortError(CohortError):
    """No record is left."""


class Source(NamedTuple):
    """A file as it was read: what it looked like, what it was read as part of, and whether that gave records."""

    stamp: str
    unit: str
    given: bool


class Cohort:
    """A catalogue of records, opened.

    Args:
        path: the catalogue's folder.
    Raises:
        CohortError: there is no catalogue.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._records: list[Record] | None = None
        self._snapshot = Snapshot(self.path)
        self._roots: dict[str, Path] = {}
        self._notes: dict[str, Payload] = {}

    @classmethod
    def open(cls, path: str | Path) -> Cohort:
        """The catalogue in a folder that `ingest` made."""
        place = Path(path)
        about = place / "cohort.json"
        if not about.exists():
            raise CohortError(
                f"no catalogue in {place}", "a folder made by `polyclinic ingest`", "run `polyclinic ingest` first"
            )
        try:
            version = json.loads(about.read_text())["format"]
        except (ValueError, KeyError, TypeError):
            version = "unknown"
        if version != FORMAT:
            raise CohortError(
                f"a catalogue of format {version} in {place}", f"format {FORMAT}", "ingest the source again into another folder"
            )  # fmt: skip
        return cls(place)

    @classmethod
    def create(cls, path: str | Path) -> Cohort:
        """Open the catalogue in `path`, or make an empty one."""
        place = Path(path)
        if not (place / "cohort.json").exists():
            try:
                (place / "parts").mkdir(parents=True, exist_ok=True)
                beside = place / f".cohort.json.{os.getpid()}"
                beside.write_text(json.dumps({"format": FORMAT}))
                os.replace(beside, place / "cohort.json")
            except OSError as error:
                raise no_room(error, f"the catalogue {place}") from error
        return cls.open(place)

    def add(self, root: Path, found: Sequence[Record], rejected: Sequence[Rejected] = ()) -> None:
        """Add records of one's own making, whole or not at all; `ingest` neither reads nor drops them.

        Args:
            root: the folder that their `uri` is relative to.
            found: the records; one whose id is there takes its place.
            rejected: what was set aside.
        Raises:
            CohortError: the disk is full.
        """
        rows = Rows(root)
        for item in (*found, *rejected):
            unit = f"added {item.id}" if isinstance(item, Record) else f"added {item.uri} {item.found}"
            rows.take([item], unit, ADDED)
            rows.finish({unit: ADDED}, unit, ADDED)
        self.commit(rows)

    def commit(self, rows: Rows) -> None:
        """Add one part, whole or not at all.

        Raises:
            CohortError: the disk is full.
        """
        commit(self.path, rows)
        self._records = None

    def query(self, sql: str) -> pa.Table:
        """The answer to a DuckDB query over the views `records`, `rejected`, `patients`, `events` and `versions`.

        `versions` has all that was ever read, and whether it still stands.
        `attributes` is JSON: `attributes->>'age'` is a cell of it as text. A query reads the catalogue and nothing else.

        Raises:
            CohortError: the query is not understood, or the catalogue is damaged.
        """
        with self.asking(sql) as connection:
            answer = connection.sql(sql)
            if answer is None:
                raise CohortError("SQL that asks nothing", "one that begins with select", "ask for rows")
            return answer.to_arrow_table()

    @contextmanager
    def asking(self, sql: str) -> Iterator[Any]:
        """A DuckDB connection for a query, or for several that name no other tables.

        Raises:
            CohortError: a query is not understood, or the catalogue is damaged.
        """
        import duckdb

        try:
            with self._snapshot.asked(sql) as connection:
                yield connection
        except (OSError, pa.ArrowException, duckdb.IOException, duckdb.InvalidInputException) as error:
            raise CohortError(
                f"a damaged catalogue in {self.path}: {_first(error)}", "parts as `polyclinic ingest` wrote them",
                "ingest the source again into another folder",
            ) from error  # fmt: skip
        except duckdb.Error as error:
            raise CohortError(
                f"a query that the catalogue does not understand: {_first(error)}",
                "DuckDB SQL over "
                + ", ".join(f"{name}({', '.join(columns)})" for name, columns in _VIEWS.items())
                + " or patients",
                f"see what there is with `polyclinic cohort describe {self.path}`; a table's column is attributes->>'column'",
            ) from error

    def records(self, where: str | None = None, patients: Sequence[str] | None = None) -> list[Record]:
        """The records, in the order of their id, that a DuckDB condition admits.

        Args:
            where: the condition; None for all.
            patients: only of these; None for everybody's.
        Raises:
            EmptyCohortError: a condition admits none, or the catalogue is empty.
            CohortError: records of a named cohort are gone.
        """
        if where is None and patients is None and self._records is not None:
            return self._records
        named = condition(where)
        if patients is not None:
            listed = ", ".join("'" + p.replace("'", "''") + "'" for p in patients)
            named = f"{named or 'where true'} and patient in ({listed or 'null'})"
        rows = self.query(f"select * from records {named} order by id").to_pylist()
        if where and (frozen := FROZEN.search(where)):
            self._all_there(frozen[1], int(frozen[2]))
        if not rows:
            whose = "" if patients is None else f" of {len(patients)} patients"
            raise EmptyCohortError(
                f"no record{whose} where {where}"
                if where
                else f"no record{whose} in {self.path}"
                if whose
                else f"an empty catalogue in {self.path}",
                "at least one record",
                f"see `polyclinic cohort describe {self.path}` for what there is",
            )
        self._roots |= {row["id"]: Path(row["root"]) for row in rows}
        found = [_record(row) for row in rows]
        if where is None and patients is None:
            self._records = found
        return found

    def _all_there(self, name: str, version: int) -> None:
        from .definitions import definition

        wanted = definition(self, name, version).records
        found = self.query(f'select count(*) as n from records semi join "{name}/{version}" using (id)')["n"][0].as_py()
        if found < wanted:
            raise CohortError(
                f"{wanted - found} of the {wanted} records of the cohort {name!r}, version {version}, are gone from {self.path} or changed",
                "the records that it froze",
                "put their files back and ingest again, or define the cohort anew and name its new version in the recipe",
            )

    def ids(self) -> set[str]:
        """The ids of all records."""
        return set(self.query("select id from records")["id"].to_pylist())

    def rejected(self) -> list[Rejected]:
        """What was set aside, and why."""
        rows = self.query("select uri, found, expected, remedy from rejected order by uri, found").to_pylist()
        return [Rejected(**row) for row in rows]

    def sources(self, root: Path) -> dict[str, Source]:
        """The files below `root` that were read whole, by their place."""
        if not any((self.path / "parts").iterdir()):
            return {}
        at = place_name(root).replace("'", "''")
        rows = self.query(
            f"select uri, stamp, unit, unit in (select unit from said where root = '{at}') as given from stored_sources "
            f"where root = '{at}' qualify row_number() over (partition by uri order by turn desc) = 1"
        )
        return {row.pop("uri"): Source(**row) for row in rows.to_pylist()}

    def patients(self, where: str | None = None) -> list[str]:
        """The patients, sorted.

        Raises:
            EmptyCohortError: a condition admits none, or the catalogue is empty.
        """
        found = self.query(f"select distinct patient from records {condition(where)} order by patient")[
            "patient"
        ].to_pylist()
        return found or [r.patient for r in self.records(where)]  # which says why there is none

    def signatures(self, where: str | None = None) -> dict[str, str]:
        """As the function `signatures`, of all or of the records that a condition admits."""
        words = "string_agg(distinct modality, '+' order by modality)"
        read = f"{condition(where)} {'and' if where else 'where'} not {IS_MASK}"
        found = self.query(f"select patient, {words} as has from records {read} group by patient")
        return dict(zip(found["patient"].to_pylist(), found["has"].to_pylist(), strict=True))

    def batches(self, where: str | None = None, rows: int = 10_000) -> Iterator[list[Record]]:
        """The records that a condition admits, so many at a time: memory does not grow with them.

        They come sorted by modality, kind, patient and time.
        """
        with self.asking(sql := f"select * from records {condition(where)}") as connection:
            for batch in connection.sql(sql).to_arrow_reader(rows):
                yield [_record(row) for row in batch.to_pylist()]

    def load(self, record: Record) -> Payload:
        """The record's array or words, from its source.

        Raises:
            RecordError: the source is gone or cannot be read any more.
            CohortError: it is not of this catalogue.
        """
        if masks.UNION in record.attributes:
            return masks.united(record, self._several)
        if record.id not in self._roots:  # it may have come since
            self._records = None
            self.records()
        if record.id not in self._roots:
            raise CohortError(
                f"the record {record.id}, which is not in {self.path}", "one of its own", "ingest its source"
            )
        if record.kind == events.KIND:
            return events.payload(self.events(record.patient))
        return records.load(record, self._roots[record.id])

    def note(self, record: Record) -> Payload:
        """As `load`, of a text that is asked for again and again: the last `NOTES` are remembered."""
        if record.id in self._notes:
            return self._notes[record.id]
        payload = self._notes[record.id] = self.load(record)
        if len(self._notes) > NOTES:
            del self._notes[next(iter(self._notes))]  # the first to come
        return payload

    def _several(self, ids: Sequence[str]) -> list[Payload]:
        """The payloads of records by their ids, in that order."""
        listed = ", ".join(f"'{i}'" for i in ids)
        found = {r.id: r for r in self.records(f"id in ({listed})")}
        return [self.load(found[i]) for i in ids]

    def events(self, patient: str | None = None) -> pa.Table:
        """The events of health records, in the MEDS schema and in the order of patient and time.

        Args:
            patient: only this one's.
        """
        whose = "" if patient is None else "where patient = '" + patient.replace("'", "''") + "'"
        return self.query(f"select * from events {whose} order by patient, time, code")

    def describe(self) -> dict[str, Any]:
        """Who is in the cohort: counts by modality, kind and site, missingness, sex, age, and what was set aside."""
        with self.asking("from records, rejected, patients") as connection:
            return described(connection)


def condition(where: str | None) -> str:
    """The clause of a condition; nothing for None."""
    return f"where (\n{where}\n)" if where else ""  # a condition may end in a comment


def _first(error: BaseException) -> str:
    """The first line of an error, and what the database would have taken instead."""
    lines = str(error).splitlines() or [type(error).__name__]
    hint = next((line for line in lines[1:] if "andidate" in line or "did you mean" in line.lower()), "")
    return f"{lines[0].rstrip('!')}. {hint}".strip() if hint else lines[0]


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
        if record.modality is Modality.TABLE and record.kind != events.KIND:
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
        "patients_by_site": dict(
            Counter(s for s, _ in sorted({(r.site, r.patient) for r in found if r.site})).most_common(20)
        ),
        "columns": {name: dict(count.most_common(8)) for name, count in columns.items() if len(count) <= 60},
        "rejected": len(set_aside),
        "rejected_reasons": dict(Counter(r.found for r in set_aside).most_common()),
    }
