"""Parquet and Feather: a table as any other, whose columns keep their types; what the file says beside its cells goes.

Dates stay dates, and numbers numbers, to the bit; a column that gets other names becomes one of words. The schema's metadata (pandas
writes columns and indices there), columns of lists, structures and bytes are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from .. import parquet as reader
from ..parquet import ROWS_AT_ONCE
from . import tables
from .cleaning import Cleaning
from .columns import Column
from .known import Known


def _opened(path: Path) -> tables.Opened:
    @contextmanager
    def opening() -> Iterator[tuple[list[str], Iterator[tuple[int, list[str]]]]]:
        with reader.table(path) as (names, rows, _):
            yield names, rows

    return opening


def survey(path: Path, place: str, known: Known) -> str:
    """As of any table."""
    tables.look(_opened(path), known)
    return ""


def deidentify(path: Path, to: Path, cleaning: Cleaning) -> None:
    """Write the table anew, as Parquet or Feather as it was.

    Raises:
        RecordError: it is broken, or has no two columns of cells.
    """
    import pyarrow as pa

    cleaner = tables.Cleaner.of(cleaning, opened=_opened(path))
    kept = cleaner.plan()
    with reader.table(path) as (_, _, left_out):
        for number, _ in enumerate(left_out, 1):
            cleaning.did(f"nested column or column of bytes {number}", "X")
    types = _types(path)
    schema = pa.schema([(heading, _type(types[column.name], column)) for heading, column in kept])
    rows, lost = cleaner.rows(), 0
    with _writer(path, to, schema) as write:
        while block := list(islice(rows, ROWS_AT_ONCE)):
            arrays = []
            for cells, field in zip(zip(*block, strict=True), schema, strict=True):
                array, wrong = _typed(cells, field.type)
                arrays.append(array)
                lost += wrong
            write(pa.record_batch(arrays, schema=schema))
    if lost:
        cleaning.did(f"{lost} cells", "X: no value of their column's type any more")


def _types(path: Path) -> dict[str, Any]:
    """Of each column; of words held once each, that of the words."""
    import pyarrow as pa

    with reader.batches(path) as (schema, _):
        return {
            f.name.strip(): f.type.value_type if pa.types.is_dictionary(f.type) else f.type
            for f in reversed(list(schema))
        }


def _type(kind: Any, column: Column) -> Any:
    """What a column is once it is clean."""
    import pyarrow as pa

    if column.action in ("patient", "pseudonym", "text"):
        return pa.string()
    if column.action == "birth":
        return pa.int32()
    plain = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean)
    times = (pa.types.is_timestamp, pa.types.is_date32, pa.types.is_time)
    if any(sort(kind) for sort in times) and column.action in ("date", "keep", "age"):
        return kind
    return kind if any(sort(kind) for sort in plain) and column.action in ("keep", "code", "age") else pa.string()


def _typed(cells: tuple[str, ...], kind: Any) -> tuple[Any, int]:
    """A column's cells as its type, and how many are no value of it; an empty one is none."""
    import pyarrow as pa

    if pa.types.is_string(kind):
        return pa.array([cell or None for cell in cells], pa.string()), 0
    known: list[str | None] = [cell or None for cell in cells]
    try:
        return _cast(pa.array(known, pa.string()), kind), 0
    except pa.ArrowInvalid:
        kept = [cell if cell is not None and _is(cell, kind) else None for cell in known]
        return _cast(pa.array(kept, pa.string()), kind), sum(a != b for a, b in zip(known, kept, strict=True))


def _is(cell: str, kind: Any) -> bool:
    import pyarrow as pa

    try:
        _cast(pa.array([cell], pa.string()), kind)
    except pa.ArrowInvalid:
        return False
    return True


def _cast(words: Any, kind: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_integer(kind):  # an age may have become `90.0`
        words = pc.replace_substring_regex(words, r"\.0$", "")  # type: ignore[attr-defined]
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        clock = words.cast(pa.timestamp(kind.unit))
        return pc.assume_timezone(clock, kind.tz, ambiguous="earliest", nonexistent="latest")  # type: ignore[attr-defined]
    if pa.types.is_float16(kind):
        return words.cast(pa.float32()).cast(kind)
    return words.cast(kind)


@contextmanager
def _writer(path: Path, to: Path, schema: Any) -> Iterator[Callable[[Any], None]]:
    """A function that writes a batch."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        feather = file.read(6).startswith(reader.FEATHER)
    if feather:
        with pa.OSFile(str(to), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            yield writer.write_batch
    else:
        with pq.ParquetWriter(to, schema) as writer:
            yield lambda batch: writer.write_batch(batch, row_group_size=None)
