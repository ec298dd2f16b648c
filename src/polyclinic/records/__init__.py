"""Files of the outside world → `Record` and arrays. One reader a format; imports `schema` only.

Each reader is a module with `recognises(path, head)`, `read(path)` and `load(record)`. `read` here finds out what a file
is, by its content first and its name second, and never raises for a bad file: what cannot be taken comes back as
`Rejected` with its reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from ..schema import MissingExtraError, Payload, Record, Rejected
from . import dicom, fhir, nifti, omics, raster, tables, text, waveform
from .source import RecordError, content_id, split_uri

__all__ = ["READERS", "RecordError", "content_id", "load", "read", "read_patient", "read_series", "split_uri"]

# By content first: a table or a text can be anything, so they come last.
READERS = (dicom, nifti, raster, waveform, fhir, omics, tables, text)

read_series = dicom.read_series


def read(path: Path, root: Path | None = None) -> Iterator[Record | Rejected]:
    """Every record of one file, whatever its format.

    Args:
        path: the file.
        root: the ingested folder; the records' `uri` is relative to it.
    Yields:
        Record, or Rejected with what was found, what was expected and what to do.
    """
    root = root or path.parent
    place = path.relative_to(root).as_posix()
    try:
        if path.stat().st_size == 0:
            raise RecordError("an empty file", "a file with content", "export it again")
        reader = _reader(path, path.stat().st_mtime_ns)
        if reader is None:
            raise RecordError(
                f"a file of unknown format ({path.suffix or 'no ending'})",
                "one of " + ", ".join(r.__name__.rsplit(".", 1)[1] for r in READERS),
                "convert it, or leave it out",
            )
        for item in reader.read(path):
            yield replace(item, uri=place + item.uri[len(str(path)) :] if item.uri.startswith(str(path)) else place)
    except MissingExtraError:
        raise
    except RecordError as error:
        yield Rejected(place, error.found, error.expected, error.remedy)
    except Exception as error:  # a reader's library may raise anything on a hostile file
        yield Rejected(
            place,
            f"a file that its reader could not take ({type(error).__name__})",
            "a whole, valid file",
            "check it with the system that wrote it, and export it again",
        )


def read_patient(paths: Sequence[Path]) -> Iterator[tuple[Path, Record | Rejected]]:
    """The records of a handful of files: the slices of one series as one volume, a signal with its header.

    Args:
        paths: absolute.
    Yields:
        the file (of a series, its first) and what it holds.
    """
    series: dict[tuple[Path, str], list[Path]] = {}
    for path in paths:
        if waveform.belongs_to_header(path):
            continue
        uid = _series(path)
        if uid is not None:
            series.setdefault((path.parent, uid), []).append(path)
            continue
        for item in read(path):
            yield path, item
    for slices in series.values():
        for item in read_series(slices):
            yield slices[0], item


def _series(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(4096)
    if raster.recognises(path, head) or not dicom.recognises(path, head):
        return None
    try:
        return dicom.series_of(path)
    except RecordError:
        return None  # `read` says what is wrong with it


def load(record: Record, root: Path | None = None) -> Payload:
    """The array (or the words) of a record, with its geometry.

    Raises:
        RecordError: the source is gone or cannot be read any more.
    """
    place, fragment = split_uri(record.uri)
    path = (root / place) if root is not None else Path(place)
    if not path.exists():
        raise RecordError(f"no file at {place}", "the source where it was ingested", "put it back or ingest it again")
    reader = dicom if path.is_dir() else _reader(path, path.stat().st_mtime_ns)
    if reader is None:
        raise RecordError(f"{place} has another format now", "the file as ingested", "ingest it again")
    return reader.load(replace(record, uri=str(path) + (f"#{fragment}" if fragment else "")))


@lru_cache(maxsize=4096)
def _reader(path: Path, changed: int) -> ModuleType | None:
    """The module that reads a file; kept, because the rows of one table ask for it one after the other."""
    with path.open("rb") as file:
        head = file.read(4096)
    return next((r for r in READERS if r.recognises(path, head)), None)
