"""The Medical Event Data Standard (MEDS) 0.4: its shards in, and events out as a data set that other MEDS tools read.

A data set's subjects are numbers. Which patient is which number is written to a file of its own, kept apart from it.

Source: Medical-Event-Data-Standard/meds 0.4, `DataSchema`, `CodeMetadataSchema`, `DatasetMetadataSchema`, `SubjectSplitSchema`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute

from ..schema import Events, MissingExtraError, Payload, PolyclinicError, Record, Rejected
from .relational import Layout, layout_of, opened, read_events
from .source import RecordError, place_of
from .vocabularies import is_known

pc: Any = pyarrow.compute
SUBJECTS = 1000
"""Of one shard: a subject's events lie together in one file."""

_SHARD = Layout(
    "shard",
    frozenset({"subject_id", "time", "code"}),
    "select name(subject_id) as patient, time, code, num(numeric_value) as numeric_value, unit, text_value, encounter, site from shard",
)
_LAYOUTS = (
    _SHARD,
    Layout("codes", frozenset({"code", "description", "parent_codes"}), why="which describes codes"),
    Layout("subject_splits", frozenset({"subject_id", "split"}), why="which says which subject is of which split"),
)
_TABLES = {"shard": "subject_id time code numeric_value text_value unit encounter site"}


def recognises(path: Path, head: bytes) -> bool:
    """Whether it is a Parquet file in the columns of MEDS."""
    return path.suffix.lower() == ".parquet" and layout_of(path, head, _LAYOUTS) is not None


def read(path: Path, root: Path) -> Iterator[Record | Rejected | Events]:
    """A shard's events in chunks; a subject's number is the patient's name."""
    with path.open("rb") as file:
        layout = layout_of(path, file.read(4096), _LAYOUTS)
    if layout is None or layout.why:
        why = layout.why if layout else "which is none of its own"
        raise RecordError(f"a file of a MEDS data set, {why}", "a shard of its data", "keep it where it is")
    with opened(path, layout, _TABLES) as connection:
        yield from read_events(connection, layout.query, place_of(path, root), timeless=True)


def load(record: Record) -> Payload:
    """A shard has events, and no record of its own.

    Raises:
        RecordError: always.
    """
    raise RecordError("a MEDS shard", "a record with a payload", "load the patient's events from the catalogue")


def export(
    events: pa.Table, into: Path, key: Path, *, name: str, splits: Mapping[str, Sequence[str]] | None = None
) -> Path:
    """Events as a MEDS data set.

    Args:
        events: in the columns of `schema.Events`.
        into: the data set's folder, which must not be there yet.
        key: the file, outside of it, that will say which patient is which subject (`patient`, `subject_id`; Parquet).
        name: of the data set.
        splits: patients by split: `train`, `tuning`, `held_out`.
    Returns:
        the folder, whose every file was validated by the `meds` package.
    Raises:
        PolyclinicError: the folder is there, or the key would lie in it.
    """
    try:
        import meds
    except ImportError as error:
        raise MissingExtraError("meds", "ehr") from error
    import pyarrow.parquet as pq

    if into.exists():
        raise PolyclinicError(f"{into}, which is there already", "a new folder", "give another name, or take it away")
    if key.resolve().is_relative_to(into.resolve()):
        raise PolyclinicError(
            "a key file inside of the data set", "a place apart", "keep it where the data set does not go"
        )
    subjects = _subjects(events["patient"])
    data, metadata = into / meds.data_subdirectory, into / "metadata"
    data.mkdir(parents=True)
    metadata.mkdir()
    key.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(subjects, key)
    codes: list[pa.Array] = []
    for number, shard in enumerate(_shards(events, subjects)):
        pq.write_table(meds.DataSchema.align(shard), data / f"{number:05d}.parquet")
        codes.append(pc.unique(shard["code"]))
    pq.write_table(meds.CodeMetadataSchema.align(_codes(codes)), into / meds.code_metadata_filepath)
    if splits:
        rows = [{"patient": p, "split": split} for split, patients in splits.items() for p in patients]
        table = pa.Table.from_pylist(rows).join(subjects, "patient", join_type="inner").select(["subject_id", "split"])
        pq.write_table(meds.SubjectSplitSchema.align(table), into / meds.subject_splits_filepath)
    about = cast("Any", meds.DatasetMetadataSchema)(
        dataset_name=name, etl_name="polyclinic", meds_version=meds.__version__, created_at=datetime.now(UTC),
        raw_source_id_columns=["encounter"], code_modifier_columns=["unit"], site_id_columns=["site"],
    )  # fmt: skip
    (into / meds.dataset_metadata_filepath).write_text(json.dumps(about.to_dict(), default=str, indent=1))
    return into


def _subjects(patients: pa.ChunkedArray) -> pa.Table:
    """Patients and their numbers, from 1, in an order that tells nothing of their names."""
    order = lambda name: hashlib.blake2b(name.encode(), digest_size=16).digest()
    names = sorted(pc.unique(patients).to_pylist(), key=order)
    return pa.table(
        {"patient": pa.array(names, pa.string()), "subject_id": pa.array(range(1, len(names) + 1), pa.int64())}
    )


def _shards(events: pa.Table, subjects: pa.Table) -> Iterator[pa.Table]:
    """MEDS tables of `SUBJECTS` subjects each, by subject and time; what has no time stands first, as MEDS wants it."""
    number = subjects["subject_id"].take(pc.index_in(events["patient"], value_set=subjects["patient"].combine_chunks()))
    table = events.drop_columns(["patient"]).append_column("subject_id", number)
    for first in range(1, len(subjects) + 1, SUBJECTS):
        within = pc.and_(pc.greater_equal(number, first), pc.less(number, first + SUBJECTS))
        shard = table.filter(within)
        keys = [("subject_id", "ascending"), ("time", "ascending", "at_start"), ("code", "ascending")]
        order = pc.sort_indices(shard, sort_keys=keys)
        yield shard.take(order)


def _codes(found: list[pa.Array]) -> pa.Table:
    """Every code once, with what OMOP calls it: `LOINC/2160-0`."""
    names = sorted(set().union(*(part.to_pylist() for part in found)))
    parents = [[name.replace(" ", "/", 1)] if _of_vocabulary(name) else None for name in names]
    return pa.table({"code": pa.array(names, pa.string()), "description": pa.nulls(len(names), pa.string()),
                     "parent_codes": pa.array(parents, pa.list_(pa.string()))})  # fmt: skip


def _of_vocabulary(code: str) -> bool:
    return is_known(code.partition(" ")[0]) and code.count(" ") == 1
