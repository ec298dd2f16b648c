"""Parquet and Feather tables (`pyarrow`): one TABLE record a row, read a few thousand rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from ..schema import Payload, Record, Rejected
from . import tables
from .source import EXPANDED_FREELY, LARGEST_BYTES, MOST_EXPANDED, RecordError, content_id, place_of

PARQUET, FEATHER, FEATHER_1 = b"PAR1", b"ARROW1", b"FEA1"
ROWS_AT_ONCE = 4096


def recognises(path: Path, head: bytes) -> bool:
    """Whether it starts as Parquet or Feather does."""
    return head.startswith((PARQUET, FEATHER, FEATHER_1))


@contextmanager
def batches(path: Path) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    """The file's columns and its rows, batch after batch."""
    with path.open("rb") as file:
        head = file.read(6)
    if head.startswith(FEATHER_1):
        raise RecordError(
            "a Feather file of version 1", "version 2 (Arrow IPC) or Parquet", "write it again with pyarrow"
        )
    if head.startswith(FEATHER):
        with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
            yield reader.schema, (reader.get_batch(i) for i in range(reader.num_record_batches))
        return
    with pq.ParquetFile(path) as file:
        most = min(LARGEST_BYTES, _most(path))
        for number in range(file.metadata.num_row_groups):
            size = file.metadata.row_group(number).total_byte_size
            if size > most:
                raise RecordError(
                    f"a row group of {size / 2**20:.0f} MiB unpacked",
                    f"at most {most >> 20} MiB",
                    "write smaller row groups",
                )
        words = [f.name for f in file.schema_arrow if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
    with pq.ParquetFile(path, read_dictionary=words) as file:  # a word that stands in a million rows is held once
        yield file.schema_arrow, file.iter_batches(ROWS_AT_ONCE)


def _most(path: Path) -> int:
    """Bytes, or characters, that a file may unpack to: more was made to do harm."""
    return max(EXPANDED_FREELY, MOST_EXPANDED * path.stat().st_size)


def _refused(field: pa.Field) -> str | None:
    """Why a column is no column of cells; None where it is one."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType):
        return f"the nested column {field.name!r}"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return f"the column of bytes {field.name!r}"
    return None


def _texts(column: pa.Array) -> list[str]:
    """A column's cells as a CSV has them; a null is an empty one."""
    if isinstance(column, pa.DictionaryArray):
        words = _texts(column.dictionary)
        return ["" if i is None else words[i] for i in column.indices.to_pylist()]
    if pa.types.is_floating(column.type) or pa.types.is_duration(column.type) or pa.types.is_time(column.type):
        return ["" if cell is None else str(cell) for cell in column.to_pylist()]
    if pa.types.is_timestamp(column.type) and column.type.tz is not None:
        # Its zone's own clock, as `parse_time` has it of a text.
        column = pyarrow.compute.local_timestamp(column)  # type: ignore[attr-defined]
    return [cell or "" for cell in column.cast(pa.string()).to_pylist()]


@contextmanager
def table(path: Path) -> Iterator[tuple[list[str], Iterator[tuple[int, list[str]]], list[str]]]:
    """As `tables.table`, and why some columns were left out.

    Raises:
        RecordError: it is broken, promises more than it may, or has no two columns of cells.
    """
    try:
        with batches(path) as (schema, found):
            # What pandas called its rows when they had no name is nothing of the table's.
            fields = [f for f in schema if not f.name.startswith("__index_level_")]
            reasons = [reason for f in fields if (reason := _refused(f))]
            names = [f.name for f in fields if not _refused(f)]
            yield tables.header(names), _rows(found, names, _most(path)), reasons
    except (pa.ArrowException, OSError, OverflowError) as error:
        raise RecordError(
            f"a Parquet or Feather file that does not read ({type(error).__name__})", "a whole file", "copy it again"
        ) from error


def _rows(batches: Iterator[pa.RecordBatch], names: list[str], most: int) -> Iterator[tuple[int, list[str]]]:
    number = 0
    for whole in batches:
        for start in range(0, whole.num_rows, ROWS_AT_ONCE):
            batch = whole.slice(start, ROWS_AT_ONCE)
            columns = [_texts(batch.column(name)) for name in names]
            for cells in zip(*columns, strict=True):
                number, most = number + 1, most - sum(map(len, cells))
                if most < 0:
                    raise RecordError("a table whose words unpack beyond bound", "less", "check where it comes from")
                yield number, list(cells)


def read(path: Path, root: Path) -> Iterator[Record | Rejected]:
    """One record a row; a column of lists, structures or bytes is set aside by its name, and the others are read."""
    place = place_of(path, root)
    with table(path) as (names, rows, reasons):
        for reason in reasons:
            yield Rejected(place, reason, "a column of numbers, words or times", "spread it over columns of its own")
        yield from tables.take(names, rows, content_id(path), place, f"table {path.name.split('.')[0]}")


def load(record: Record) -> Payload:
    """The row's events or the cell's words, as of any table."""
    return tables.load(record, _opened)


def _opened(path: Path, sheet: str) -> AbstractContextManager[tuple[Any, ...]]:
    return table(path)
