"""Files of the outside world → `Record` and arrays. One reader a format; imports `schema` only.

Each reader is a module with `recognises(path, head)`, `read(path, root)` and `load(record)`. `read` here finds out what a
file is, by its content first and its name second, and never raises for a bad file: what cannot be taken comes back as
`Rejected` with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG
from types import ModuleType

from ..schema import MissingExtraError, Payload, Record, Rejected
from . import cda, dicom, edf, fhir, hl7v2, icu, meds, nifti, omics, omop, raster, tables, text, waveform
from .source import RecordError, content_id, place_of, split_uri

__all__ = [
    "READERS",
    "RecordError",
    "content_id",
    "load",
    "read",
    "read_patient",
    "read_together",
    "split_uri",
    "together",
]

# By content first: a table or a text can be anything, so they come last.
READERS = (dicom, nifti, raster, waveform, edf, fhir, hl7v2, cda, omop, meds, icu, omics, tables, text)

Each = Callable[[Callable[[Path], str | None], Iterable[Path]], Iterable[str | None]]


@dataclass(frozen=True, slots=True)
class Group:
    """Files that are read together: one, a header with its signals, or the slices of one series in one folder.

    Args:
        paths: the header in front.
        series: the series' UID.
    """

    paths: tuple[Path, ...]
    series: str | None = None

    def place(self, root: Path) -> str:
        """The group's name: stays when a slice or a signal comes late."""
        return dicom.series_uri(self.paths[0], self.series, root) if self.series else place_of(self.paths[0], root)


def together(paths: Sequence[Path], each: Each = map) -> list[Group]:
    """The files in groups that are read together, in the order of the first of each.

    Args:
        paths: all of them.
        each: `map`, or that of a pool of processes.
    """
    found: dict[tuple[Path, str | None], list[Path]] = {}
    for path, series in zip(paths, each(_series, paths), strict=True):
        key = (path.parent, series) if series else (waveform.header_of(path) or path, None)
        found.setdefault(key, []).append(path)
    return [Group(tuple(sorted(group, key=lambda p: (p != key[0], p))), key[1]) for key, group in found.items()]


def read_together(group: Group, root: Path | None = None) -> Iterator[Record | Rejected]:
    """The records of a group; a file that cannot be taken comes back as `Rejected`.

    Args:
        group: as `together` gives it.
        root: the ingested folder; the records' `uri` is relative to it.
    """
    first = group.paths[0]
    root = root or first.parent
    try:
        if group.series and len(group.paths) > 1:
            yield from dicom.read_series(group.paths, root)
        else:
            yield from _reader(first).read(first, root)
    except MissingExtraError:
        raise
    except Exception as error:
        reason = _reason(error)
        yield Rejected(group.place(root), reason.found, reason.expected, reason.remedy)


def _reason(error: Exception) -> RecordError:
    """Why a file cannot be taken: a reader's library may raise anything on a hostile one."""
    if isinstance(error, RecordError):
        return error
    if isinstance(error, FileNotFoundError):
        return RecordError("a file that is no longer there", "a file", "ingest again when nothing writes there")
    if isinstance(error, PermissionError):
        return RecordError("a file that may not be read", "the right to read it", "change its rights")
    return RecordError(
        f"a file that its reader could not take ({type(error).__name__})", "a whole, valid file",
        "check it with the system that wrote it, and export it again",
    )  # fmt: skip


def read(path: Path, root: Path | None = None) -> Iterator[Record | Rejected]:
    """Every record of one file, whatever its format.

    Args:
        path: the file.
        root: the ingested folder; the records' `uri` is relative to it.
    Yields:
        Record, or Rejected with what was found, what was expected and what to do.
    """
    return read_together(Group((path,)), root)


def read_patient(paths: Sequence[Path]) -> Iterator[tuple[Path, Record | Rejected]]:
    """The records of a handful of files: the slices of one series as one volume, a signal with its header.

    Args:
        paths: absolute.
    Yields:
        the file (of a series, its first) and what it holds; the records' `uri` is relative to the file's folder.
    """
    for group in together(paths):
        for item in read_together(group):
            yield group.paths[0], item


def _reader(path: Path) -> ModuleType:
    """The module that reads a file.

    Raises:
        RecordError: none does.
    """
    about = path.stat()
    if not S_ISREG(about.st_mode):
        raise RecordError("neither a file nor a folder", "a file", "leave it out")
    if about.st_size == 0:
        raise RecordError("an empty file", "a file with content", "export it again")
    reader = _recognised(path, about.st_mtime_ns)
    if reader is None:
        raise RecordError(
            f"a file of unknown format ({path.suffix or 'no ending'})",
            "one of " + ", ".join(r.__name__.rsplit(".", 1)[1] for r in READERS),
            "convert it, or leave it out",
        )
    return reader


def _series(path: Path) -> str | None:
    """The series that a file is a slice of. What is wrong with a file is for its reader to say."""
    try:
        return dicom.series_of(path) if _reader(path) is dicom else None
    except MissingExtraError:
        raise
    except Exception:
        return None


def load(record: Record, root: Path | None = None) -> Payload:
    """The array (or the words) of a record, with its geometry.

    Raises:
        RecordError: the source is gone or cannot be read any more.
    """
    place, fragment = split_uri(record.uri)
    path = (root / place) if root is not None else Path(place)
    if not path.exists():
        raise RecordError(f"no file at {place}", "the source where it was ingested", "put it back or ingest it again")
    try:
        reader = dicom if path.is_dir() else _reader(path)
        return reader.load(replace(record, uri=str(path) + (f"#{fragment}" if fragment else "")))
    except MissingExtraError:
        raise
    except Exception as error:
        reason = _reason(error)
        raise RecordError(f"{reason.found} at {record.uri}", reason.expected, reason.remedy) from error


@lru_cache(maxsize=4096)
def _recognised(path: Path, changed: int) -> ModuleType | None:
    """The module that reads a file; kept, because the rows of one table ask for it one after the other."""
    with path.open("rb") as file:
        head = file.read(4096)
    return next((r for r in READERS if r.recognises(path, head)), None)
