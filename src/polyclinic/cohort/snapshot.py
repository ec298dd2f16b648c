"""What the parts say together, derived once and kept beside them: a question reads this and not ten million rows anew.

    derived/KEY/records.parquet       one row a record, sorted by modality, kind, patient and time
    derived/KEY/rejected.parquet
    derived/KEY/events.parquet        the events of health records, sorted by patient and time
    derived/KEY/patients.parquet      one row a patient: how many records of each modality, sex, age, first and last time

KEY is a hash of the parts' names and sizes and of the views that derive: a snapshot is right for as long as its key is that of
the parts, and nothing has to tell it that something came. It is written beside its place and renamed there, so that of two processes
one is first and both go on; what an older key had is removed. Where the folder cannot be written to, the tables stay in memory.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..schema import Modality
from .parts import PARTS, RECORDS, CohortError
from .views import VIEWS

FOLDER, COHORTS = "derived", "cohorts"
MEMORY = "1GB"
"""Of the database while it derives; what does not fit is spilled into the catalogue's folder."""
IDLE_S = 60
"""A snapshot of earlier parts goes when no query has used it for so long."""
LEFT_S = 86400
"""After a day, what a killed process had begun is nobody's."""

MANY = {m: m.value if m.value.endswith("s") else f"{m.value}s" for m in Modality}
"""Modality → the column of `patients` that counts a patient's records of it, masks apart: images, texts, omics."""

_FALSE = "('null', 'false', '0', '0.0', '\"\"')"
_truthy = lambda key: f"coalesce(try(attributes->'{key}')::varchar, 'null') not in {_FALSE}"
IS_MASK = f"(contains(attributes, '\"mask') and ({_truthy('mask_of')} or {_truthy('mask')}))"
"""Whether a record is an answer and no model's input, as `catalogue.inputs` has it."""
IS_NUMBER = "in ('DOUBLE', 'BIGINT', 'UBIGINT')"
_SEX = """case when try(json_type(attributes, 'sex')) = 'VARCHAR' then try(attributes->>'sex')
    when try((attributes->>'is_female')::double) = 1 then 'F' when try((attributes->>'is_female')::double) = 0 then 'M' end"""
_AGE = f"case when try(json_type(attributes, 'age')) {IS_NUMBER} then try((attributes->>'age')::double) end"
_COUNTS = ",\n    ".join(f"count(*) filter (modality = '{m.value}' and not mask) as {many}" for m, many in MANY.items())

DERIVED = {
    "records": f"select {', '.join(RECORDS)} from records order by modality, kind, patient, time, id",
    "rejected": "select * from rejected order by uri, found",
    "events": "select * from events order by patient, time, code",
    "patients": f"""select patient, count(*) as records, min(time) as first, max(time) as last, {_COUNTS},
    count(distinct site) as sites, arg_max({_SEX}, id) filter (told) as sex, arg_max({_AGE}, id) filter (told) as age
    from (select *, {IS_MASK} as mask, contains(attributes, '"sex"') or contains(attributes, '"age"')
        or contains(attributes, '"is_female"') as told from sorted) group by patient order by patient""",
}  # `sorted` is the table of records that was just written
"""Name → what it is derived from."""
_VIEW_NAMES = frozenset(re.findall(r"^create temp (?:view|table) (\w+)", VIEWS, re.MULTILINE))
_PARTIAL = _VIEW_NAMES - DERIVED.keys() | {f"stored_{name}" for name in PARTS}
"""What a query may name that is not derived once: for such a query the views over the parts are made anew."""
_WORDLESS = re.compile(r"'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/", re.DOTALL)
"""Strings and comments of SQL, which name no table."""
_FROZEN = re.compile(r'"([A-Za-z0-9][A-Za-z0-9._-]*)/(\d+)"')
"""A version of a named cohort, as `definitions` keeps it."""


def key(folder: Path) -> tuple[str, list[Path]]:
    """The snapshot's name, and the parts that it stands for."""
    parts = sorted((folder / "parts").glob("[0-9]*"))
    digest = hashlib.blake2b(f"{VIEWS}\x00{DERIVED}".encode(), digest_size=16)
    for part in parts:
        digest.update(f"\x00{part.name} {(part / 'records.parquet').stat().st_size}".encode())
    return digest.hexdigest(), parts


def files(parts: Sequence[Path]) -> dict[str, list[Path]]:
    """The files of every table of the parts; a part of an earlier version may lack one."""
    return {name: [file for part in parts if (file := part / f"{name}.parquet").exists()] for name in PARTS}


def derive(connection: Any, stored: Mapping[str, Sequence[Path]]) -> None:
    """The parts, and the views over them, in a connection.

    Args:
        connection: DuckDB's.
        stored: of every table, its files.
    """
    for name, schema in PARTS.items():
        connection.register(f"typed_{name}", schema.empty_table())
        listed = ", ".join(map(_quoted, stored[name]))
        # By name: a part of an earlier version may lack a column.
        read = f" union all by name from read_parquet([{listed}], union_by_name = true)" if listed else ""
        connection.execute(f"create temp view stored_{name} as select * from typed_{name}{read}")
    connection.execute(VIEWS)


class Snapshot:
    """The derived tables of one catalogue, which this holds itself where no file of them can be written.

    Args:
        folder: the catalogue's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: tuple[str, Mapping[str, pa.Table]] = ("", {})
        self._opened: dict[int, tuple[str, Any]] = {}

    def __reduce__(self) -> Any:
        return Snapshot, (self.folder,)  # a connection does not travel

    def tables(self) -> Mapping[str, Path | pa.Table]:
        """The tables' files or, where none can be written, the tables.

        Raises:
            duckdb.Error: a part cannot be read.
        """
        import duckdb

        name, parts = key(self.folder)
        if self._held[0] == name:
            return self._held[1]
        place = self.folder / FOLDER / name
        made = {table: place / f"{table}.parquet" for table in DERIVED}
        if _in_use(place):
            return made
        beside = place.with_name(f".{os.getpid()}-{threading.get_ident()}")
        try:
            beside.mkdir(parents=True, exist_ok=True)
            _write(beside, files(parts))
            _put(beside, place)
        except (OSError, duckdb.IOException):  # no right to write, or no room; of a damaged part the next line tells
            self._held = (name, _in_memory(files(parts)))
            return self._held[1]
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        _sweep(place)
        return made

    @contextmanager
    def asked(self, sql: str) -> Iterator[Any]:
        """A connection in which a query can be asked: it reads the catalogue and nothing else, and writes nothing.

        Where the query names only what is derived, that is read, in a database that stays open; else the views over the parts
        are made anew.

        Raises:
            CohortError: the query is none, or would do more than read.
            duckdb.Error: it is not understood, or a part cannot be read.
        """
        import duckdb

        words, frozen = _names(sql), set(_FROZEN.findall(sql))
        if not (words & _PARTIAL or frozen) and (database := self._database()):
            with database.cursor() as connection:
                _only_reads(connection, sql)
                _closed(connection)
                yield connection
            return
        with duckdb.connect() as connection:
            _only_reads(connection, sql)
            connection.execute(f"set temp_directory = {_quoted(self.folder / FOLDER / f'.{os.getpid()}-spill')}")
            read: list[Path] = []
            if whole := words & _PARTIAL:
                stored = files(key(self.folder)[1])
                derive(connection, stored)
                read += [file for listed in stored.values() for file in listed]
            wanted = words & DERIVED.keys() - (_VIEW_NAMES if whole else frozenset())
            if words & {"tables", "information_schema"}:
                wanted = DERIVED.keys() - (_VIEW_NAMES if whole else frozenset())
            for name, table in (self.tables() if wanted else {}).items():
                if name in wanted and isinstance(table, Path):
                    connection.execute(f"create temp view {name} as from read_parquet({_quoted(table)})")
                    read.append(table)
                elif name in wanted:
                    connection.register(name, table)
            for name, number in frozen:
                file = self.folder / COHORTS / name / f"{number}.json"
                if file.exists():
                    read.append(file.with_name(json.loads(file.read_text(encoding="utf-8"))["hash"] + ".parquet"))
                    connection.execute(f'create temp view "{name}/{number}" as from read_parquet({_quoted(read[-1])})')
            connection.execute(f"set allowed_paths = [{', '.join(map(_quoted, read))}]")
            _closed(connection)
            yield connection

    def _database(self) -> Any:
        """A database of the derived tables that reads no other file; None where they are no files.

        To open one takes ten times as long as to count the records. A forked process has none of its parent's threads, and
        opens its own.
        """
        import duckdb

        tables = self.tables()
        made = {name: table for name, table in tables.items() if isinstance(table, Path)}
        if len(made) < len(DERIVED):
            return None
        of = str(made["records"].parent)
        name, database = self._opened.get(os.getpid(), ("", None))
        if name != of:
            database = duckdb.connect()
            database.execute(f"set temp_directory = {_quoted(self.folder / FOLDER / f'.{os.getpid()}-spill')}")
            for table, file in made.items():
                database.execute(f"create view {table} as from read_parquet({_quoted(file)})")
            database.execute(f"set allowed_paths = [{', '.join(map(_quoted, made.values()))}]")
            _closed(database)
            self._opened[os.getpid()] = of, database
        return database


def _closed(connection: Any) -> None:
    """A recipe's condition may come from anywhere: it reads no file but those allowed, writes none, fetches nothing."""
    for setting in ("enable_external_access", "autoinstall_known_extensions", "python_enable_replacements"):
        connection.execute(f"set {setting} = false")


def _only_reads(connection: Any, sql: str) -> None:
    """Refuse what is no question: a `copy` could write to the files that a query may read."""
    import duckdb

    kinds = duckdb.StatementType
    statements = connection.extract_statements(sql)
    if wrong := [s.type.name for s in statements if s.type not in (kinds.SELECT, kinds.EXPLAIN, kinds.MULTI)]:
        raise CohortError(f"SQL that does more than ask: {wrong[0]}", "a select", "ask for rows")
    if not statements:
        raise CohortError("SQL that asks nothing", "one that begins with select", "ask for rows")


def _write(beside: Path, stored: Mapping[str, Sequence[Path]]) -> None:
    with _connection(beside / "spill") as connection:
        derive(connection, stored)
        for table, sql in DERIVED.items():
            to = _quoted(beside / f"{table}.parquet")
            connection.execute(f"copy ({sql}) to {to} (format parquet, compression zstd, parquet_version v2)")
            if table == "records":
                connection.execute(f"create temp view sorted as from read_parquet({to})")
    shutil.rmtree(beside / "spill", ignore_errors=True)


def _in_memory(stored: Mapping[str, Sequence[Path]]) -> dict[str, pa.Table]:
    with _connection(None) as connection:
        derive(connection, stored)
        found: dict[str, pa.Table] = {}
        for table, sql in DERIVED.items():
            found[table] = connection.sql(sql).to_arrow_table()
            if table == "records":
                connection.register("sorted", found[table])
        return found


@contextmanager
def _connection(spill: Path | None) -> Iterator[Any]:
    import duckdb

    with duckdb.connect() as connection:
        if spill is not None:
            connection.execute(f"set temp_directory = {_quoted(spill)}")
            connection.execute(f"set memory_limit = '{MEMORY}'")
        connection.execute("set preserve_insertion_order = false")
        yield connection


def _put(beside: Path, place: Path) -> None:
    try:
        os.rename(beside, place)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise  # else another process was first, with the same


def _in_use(place: Path) -> bool:
    """Whether the snapshot is there; if so it is marked as used now, so that nobody sweeps it from under a query."""
    try:
        os.utime(place)
    except FileNotFoundError:
        return False
    except OSError:  # a folder that may only be read: nobody sweeps it either
        return place.is_dir()
    return True


def _sweep(place: Path) -> None:
    """Remove the snapshots of earlier parts that no query has used of late, and what a killed process left."""
    for other in place.parent.iterdir():
        try:
            idle_s = time.time() - other.stat().st_mtime
        except OSError:
            continue
        if other != place and idle_s > (LEFT_S if other.name.startswith(".") else IDLE_S):
            shutil.rmtree(other, ignore_errors=True)


def _names(sql: str) -> set[str]:
    """The words of a query that may be tables."""
    words = _WORDLESS.sub(" ", sql).lower()
    own = set(re.findall(r"(\w+)\s+as\s+(?:(?:not\s+)?materialized\s+)?\(", words))  # `with pairs as (…)`
    return set(re.findall(r"\w+", words)) - (own - DERIVED.keys())


def _quoted(words: str | Path) -> str:
    return "'" + str(words).replace("'", "''") + "'"
