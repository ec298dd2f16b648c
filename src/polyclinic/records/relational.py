"""Tables of a hospital's database, as files in one folder: read by SQL (DuckDB), joined with their neighbours, in bounded chunks.

What a layout (OMOP, MIMIC, eICU) means is said by a query; here is what every query needs: its tables as views of text columns,
a column that an edition lacks as null, numbers and times from text, and the events in the columns of `schema.Events`.
"""

from __future__ import annotations

import csv
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute

from ..schema import Events, Rejected
from . import units
from .events import SEX
from .history import AGE, ANSWER, CHUNK, ETHNICITY, RACE
from .source import EXPANDED_FREELY, LONGEST_ROW, MOST_EXPANDED, RecordError, encoding_of, parse_time

pc: Any = pyarrow.compute
MOST_ROWS = 50
"""Of a Parquet file, a byte: whole tables of events have fewer than one."""
_CSV = re.compile(r"\.(csv|tsv)(\.gz)?$", re.IGNORECASE)
TABLE = re.compile(r"\.((csv|tsv)(\.gz)?|parquet)$", re.IGNORECASE)
_MACROS = r"""
create macro num(x) as try_cast(regexp_replace(x, '^\s*[<>]=?\s*', '') as double);
create macro sign(x) as nullif(regexp_extract(x, '^\s*([<>]=?)\s*[\d.]', 1), '');
create macro words(x) as case when num(x) is null then x else sign(x) end;
create macro name(x) as regexp_replace(x, '^(\d{6,})\.0$', '\1');
create macro minutes(x) as to_microseconds((try_cast(x as double) * 6e7)::bigint);
"""
_STATIC = f"^({'|'.join(map(re.escape, (SEX, RACE, ETHNICITY, AGE)))})"
_LIMITS = {
    "threads": 1,  # so that rows keep their order
    "memory_limit": "1GB",
    "autoinstall_known_extensions": False,  # nothing is fetched
    "autoload_known_extensions": False,
}
_EVENT = ("patient", "time", "code", "numeric_value", "unit", "text_value", "encounter", "site")


def _unpacked(path: Path, head: bytes) -> bytes:
    """The first bytes of what a gzipped file holds.

    Raises:
        RecordError: they are many more than an honest table's.
    """
    if path.suffix.lower() != ".gz":
        return head
    try:
        found = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, EXPANDED_FREELY)
    except zlib.error:
        return b""
    if len(found) > MOST_EXPANDED * max(len(head), 1 << 14):
        raise RecordError(
            f"a gzip file that unpacks to over {MOST_EXPANDED} times its size", "less", "check where it comes from"
        )
    return found


def columns(path: Path, head: bytes) -> frozenset[str]:
    """A table's column names in small letters; none where it is no CSV, TSV (plain or gzipped) or Parquet file.

    Args:
        path: the file.
        head: its first bytes.
    """
    if path.suffix.lower() == ".parquet":
        return _parquet_columns(path, path.stat().st_mtime_ns) if head[:4] == b"PAR1" else frozenset()
    if not _CSV.search(path.name):
        return frozenset()
    try:
        return frozenset(name.lower() for name in _header(path, _unpacked(path, head)))
    except (RecordError, UnicodeDecodeError, csv.Error):
        return frozenset()


def _header(path: Path, head: bytes) -> list[str]:
    """A CSV's column names in their order; none where the first row does not end in its first bytes."""
    first, ended, _ = head.decode(encoding_of(head), errors="replace").replace("\r", "\n").partition("\n")
    return [name.strip() for name in next(csv.reader([first], delimiter=_delimiter(path, first)), [])] if ended else []


def _delimiter(path: Path, first: str) -> str:
    return "\t" if ".tsv" in path.name.lower() else ";" if first.count(";") > first.count(",") else ","


@lru_cache(maxsize=1024)
def _parquet_columns(path: Path, changed: int) -> frozenset[str]:
    import pyarrow.parquet as pq

    try:
        return frozenset(name.lower() for name in pq.read_schema(path).names)
    except (pa.ArrowException, OSError, ValueError):  # a name that is no UTF-8 too
        return frozenset()


def stem(path: Path) -> str:
    """A table's name in small letters: `LABEVENTS.csv.gz` → `labevents`."""
    return TABLE.sub("", path.name).lower()


def beside(path: Path, name: str) -> Path | None:
    """The table of that name in the same folder, or in a folder next to it (MIMIC-IV's `hosp` and `icu`)."""
    folders = [
        path.parent,
        *(f for f in (path.parent.parent / n for n in ("hosp", "icu", "core")) if f.is_dir() and f != path.parent),
    ]
    found = (
        p
        for folder in folders
        for p in sorted(folder.iterdir())
        if TABLE.search(p.name) and stem(p) == name and p.is_file()
    )
    return next(found, None)


@dataclass(frozen=True, slots=True)
class Layout:
    """What the rows of a table mean.

    Args:
        name: the table's, in small letters.
        key: columns by which it is told from any other.
        query: SQL that gives `patient`, `time`, `code` and what else an event has; reads the tables by their names.
        needs: tables beside it without which it cannot be read.
        helped: tables beside it that it uses where they are there.
        why: what a table without events is for: it is set aside with these words.
    """

    name: str
    key: frozenset[str]
    query: str = ""
    needs: tuple[str, ...] = ()
    helped: tuple[str, ...] = ()
    why: str = ""


def layout_of(path: Path, head: bytes, layouts: tuple[Layout, ...]) -> Layout | None:
    """The layout whose columns a file has; where two have the same, the file's name decides."""
    found = columns(path, head)
    matching = [layout for layout in layouts if layout.key <= found] if found else []
    named = [layout for layout in matching if layout.name == stem(path)]
    return (named or (matching if len(matching) == 1 else [None]))[0]


def companions(path: Path, layout: Layout | None) -> tuple[Path, ...]:
    """The files beside a table that its rows are read with: when one of them changes, so do its events."""
    names = (*layout.needs, *layout.helped) if layout else ()
    return tuple(p for name in names if (p := beside(path, name)) is not None)


@contextmanager
def opened(path: Path, layout: Layout, tables: Mapping[str, str]) -> Iterator[Any]:
    """A connection in which the layout's tables are views.

    Args:
        path: the table's file.
        layout: its layout.
        tables: the columns of each table that queries name, apart by spaces.
    Raises:
        RecordError: a needed table is not beside it; while it is read, it is broken.
    """
    import duckdb

    places = {layout.name: path} | {n: p for n in (*layout.needs, *layout.helped) if (p := beside(path, n)) is not None}
    for needed in layout.needs:
        if needed not in places:
            raise RecordError(
                f"a table ({layout.name}) without the table {needed} beside it", f"{needed}, which says whose it is and when",
                "put both into one folder",
            )  # fmt: skip
    spilled = TemporaryDirectory(prefix="polyclinic-")
    connection = duckdb.connect(":memory:", config=_LIMITS | {"temp_directory": spilled.name})
    try:
        connection.execute(_MACROS)
        for name in (layout.name, *layout.needs, *layout.helped):
            connection.execute(_view(name, tables[name].split(), places.get(name)))
        yield connection
    except duckdb.Error as error:  # whose message quotes the row
        raise RecordError(
            f"a table that could not be read ({type(error).__name__})",
            "a whole table of CSV or Parquet",
            "export it again",
        ) from None
    finally:
        connection.close()
        spilled.cleanup()


def _view(name: str, wanted: list[str], path: Path | None) -> str:
    """SQL of a view of text columns; null where the file has none of that name."""
    absent = lambda c: f'null::varchar as "{c}"'
    if path is None:
        return f"create view {name} as select {', '.join(map(absent, wanted))} where false"
    with path.open("rb") as file:
        head = file.read(1 << 16)
    there = columns(path, head)
    given = lambda c: f'nullif(trim(cast("{c}" as varchar)), \'\') as "{c}"'
    cells = ", ".join(given(c) if c in there else absent(c) for c in wanted)
    quoted = lambda text: "'" + text.replace("'", "''") + "'"
    place = quoted(re.sub(r"([*?\[])", r"[\1]", str(path.absolute())))  # a name, not a pattern of names
    if path.suffix.lower() == ".parquet":
        _check_rows(path)
        return f"create view {name} as select {cells} from read_parquet({place}, hive_partitioning=false)"
    head = _unpacked(path, head)
    names, first = _header(path, head), head.decode(encoding_of(head), errors="replace").partition("\n")[0]
    if len(set(map(str.lower, names))) < len(names):
        raise RecordError("a column name twice", "every name once", "rename one of them")
    kinds = ", ".join(f"{quoted(name)}: 'varchar'" for name in names)
    encoding = {"cp1252": "latin-1", "utf-16": "utf-16"}.get(encoding_of(head), "utf-8")
    return (
        f"create view {name} as select {cells} from read_csv({place}, delim={quoted(_delimiter(path, first))}, header=true, "
        f"columns={{{kinds}}}, auto_detect=false, quote='\"', escape='\"', parallel=false, null_padding=true, store_rejects=true, "
        f"hive_partitioning=false, max_line_size={LONGEST_ROW}, buffer_size={2 * LONGEST_ROW}, encoding='{encoding}')"
    )


def _check_rows(path: Path) -> None:
    """Refuse a Parquet file that repeats one row more often than an honest one has rows.

    Raises:
        RecordError: with how many rows a byte it promises.
    """
    import pyarrow.parquet as pq

    rows, size = pq.read_metadata(path).num_rows, path.stat().st_size
    if rows > MOST_EXPANDED * size:
        raise RecordError(
            f"a Parquet file of {rows // size} rows a byte", f"at most {MOST_EXPANDED}", "check where it comes from"
        )


def read_events(connection: Any, query: str, place: str, timeless: bool = False) -> Iterator[Events | Rejected]:
    """The events that a query gives, in chunks, and what was left out of them.

    Args:
        connection: as `opened` gives it.
        query: SQL of `patient`, `time`, `code` and what else an event has.
        place: the uri of what is left out.
        timeless: an event of any code may be without a time, not only who somebody is.
    """
    rows = undated = nameless = 0
    for batch in connection.sql(query).to_arrow_reader(CHUNK):
        rows += len(batch)
        table = pa.table({name: batch[name] for name in _EVENT if name in batch.schema.names})
        timed = pa.table({**{n: table[n] for n in table.column_names}, "time": times(table["time"])})
        known = pc.and_(pc.is_valid(timed["patient"]), pc.is_valid(timed["code"]))
        static = pc.fill_null(pc.match_substring_regex(timed["code"], _STATIC), False)
        dated = known if timeless else pc.or_(pc.is_valid(timed["time"]), static)
        nameless += len(timed) - (pc.sum(known).as_py() or 0)
        undated += pc.sum(pc.and_(known, pc.invert(dated))).as_py() or 0
        kept = timed.filter(pc.and_(known, dated))
        if len(kept):
            yield Events(_in_form(kept))
    broken = (
        connection.execute("select count(distinct line) from reject_errors").fetchone()[0]
        if _has_rejects(connection)
        else 0
    )
    if not rows:
        yield Rejected(place, "a table without rows", "rows", "nothing, where the hospital's own has none")
    for n, what, expected, remedy in (
        (nameless, "rows without a patient or a code", "both", "export them with it, or leave them out"),
        (undated, "rows without a time", "a time, or a stay that has one", "export them with their dates"),
        (
            broken,
            "rows that are no rows of the table",
            "as many cells as the header has",
            "quote the cells that hold a comma",
        ),
    ):
        if n:
            yield Rejected(place, f"{n} {what}", expected, remedy)


def _has_rejects(connection: Any) -> bool:
    return bool(
        connection.execute("select count(*) from duckdb_tables() where table_name = 'reject_errors'").fetchone()[0]
    )


def _in_form(table: pa.Table) -> pa.Table:
    """The columns of `schema.Events`, values in standard units."""
    arrays = {
        name: table[name].cast({"time": pa.timestamp("us"), "numeric_value": pa.float64()}.get(name, pa.string()))
        for name in table.column_names
    }
    if "text_value" in arrays:
        arrays["text_value"] = pc.utf8_slice_codeunits(arrays["text_value"], 0, ANSWER)
    return units.standardise(pa.table(arrays).combine_chunks())


_ISO = r"^\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?)?"


def times(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Points in time from text, each by its own clock; null where it is none. ISO's spelling is fast, others are read too."""
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return column.cast(pa.timestamp("us"), safe=False)
    text = column.cast(pa.string())
    plain = pc.replace_substring_regex(
        text, r"^(.*\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?)(?:Z| ?UTC|[+-]\d{2}:?\d{2})$", r"\1"
    )
    plain = pc.replace_substring_regex(plain, r"^(.*:\d{2}\.\d{6})\d+$", r"\1")
    iso = pc.match_substring_regex(plain, _ISO + "$")
    try:
        fast = pc.if_else(iso, plain, None).cast(pa.timestamp("us"))
    except pa.ArrowInvalid:  # a thirteenth month
        iso, fast = pc.and_(iso, False), pa.nulls(len(text), pa.timestamp("us"))
    others = pc.if_else(iso, None, text)
    if others.null_count == len(text):
        return fast
    one = others.combine_chunks() if isinstance(others, pa.ChunkedArray) else others
    coded = one.dictionary_encode()
    slow = pa.array([_time(value) for value in coded.dictionary.to_pylist()], pa.timestamp("us")).take(coded.indices)
    return pa.chunked_array([pc.coalesce(fast.combine_chunks() if isinstance(fast, pa.ChunkedArray) else fast, slow)])


def _time(value: str | None) -> datetime | None:
    return parse_time(value) if value else None
