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

import pyarrow as pa

from ..schema import Events, MissingExtraError, Payload, Record, Rejected
from . import (
    annotation,
    archive,
    cda,
    dicom,
    edf,
    events,
    excel,
    fhir,
    gct,
    h5ad,
    hl7v2,
    icu,
    kinematics,
    maf,
    meds,
    nifti,
    omics,
    omop,
    parquet,
    question,
    raster,
    relational,
    rosbag,
    slide,
    slide_features,
    tables,
    tenx,
    text,
    tiff,
    vcf,
    video,
    visium,
    waveform,
)
from .source import RecordError, content_id, part_number, place_of, split_uri

__all__ = [
    "READERS",
    "RecordError",
    "companions",
    "content_id",
    "load",
    "read",
    "read_patient",
    "read_together",
    "split_uri",
    "together",
]

# By content first: a table or a text can be anything, so they come last.
READERS = (
    dicom,
    nifti,
    slide,
    tiff,
    raster,
    video,
    rosbag,
    waveform,
    edf,
    annotation,
    question,
    fhir,
    kinematics,
    hl7v2,
    cda,
    gct,
    slide_features,
    h5ad,
    tenx,
    vcf,
    maf,
    omop,
    meds,
    icu,
    omics,
    parquet,
    excel,
    tables,
    text,
)

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
        key = (path.parent, series) if series else (waveform.header_of(path) or slide.header_of(path) or path, None)
        found.setdefault(key, []).append(path)
    return [Group(tuple(sorted(group, key=lambda p: (p != key[0], p))), key[1]) for key, group in found.items()]


def read_together(group: Group, root: Path | None = None) -> Iterator[Record | Rejected | Events]:
    """The records and events of a group; a file that cannot be taken comes back as `Rejected`, an archive's files one after the other.

    Args:
        group: as `together` gives it.
        root: the ingested folder; the records' `uri` is relative to it.
    """
    first = group.paths[0]
    root = root or first.parent
    try:
        if archive.recognises(first):
            yield from _read_archive(first, root)
        elif group.series and len(group.paths) > 1:
            yield from dicom.read_series(group.paths, root)
        else:
            yield from _reader(first).read(first, root)
    except MissingExtraError:
        raise
    except Exception as error:
        reason = _reason(error)
        yield Rejected(group.place(root), reason.found, reason.expected, reason.remedy)


def _read_archive(path: Path, root: Path) -> Iterator[Record | Rejected | Events]:
    place = place_of(path, root)
    with archive.unpacked(path) as (folder, left_out):
        for reason in left_out:
            yield replace(reason, uri=archive.entry_uri(place, reason.uri))
        every = sorted(p for p in folder.rglob("*") if p.is_file())
        for inner in filter(archive.recognises, every):
            uri = archive.entry_uri(place, place_of(inner, folder))
            yield Rejected(uri, "an archive in an archive", "files", "unpack the outer one into the folder")
        for group in together([p for p in every if not archive.recognises(p)]):
            for item in read_together(group, folder):
                yield item if isinstance(item, Events) else replace(item, uri=archive.entry_uri(place, item.uri))


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


def read(path: Path, root: Path | None = None) -> Iterator[Record | Rejected | Events]:
    """Every record of one file, whatever its format.

    Args:
        path: the file.
        root: the ingested folder; the records' `uri` is relative to it.
    Yields:
        Record, Events of a health record, or Rejected with what was found, what was expected and what to do.
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
        found: list[Events] = []
        for item in read_together(group):
            if isinstance(item, Events):
                found.append(item)
            else:
                yield group.paths[0], item
        for number, person in enumerate(events.people(_history(found)).to_pylist()):
            yield group.paths[0], events.record(person, f"{group.paths[0].name}#item={number}")


def _history(found: Sequence[Events]) -> pa.Table:
    """All the events together, by patient and time."""
    if not found:
        return events.SCHEMA.empty_table()
    return events.whole(pa.concat_tables([item.table for item in found], promote_options="permissive"))


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


def companions(path: Path) -> tuple[Path, ...]:
    """The files beside one that it is read with: OMOP's `concept`, MIMIC's ADMISSIONS, the scale of a Visium section's picture.

    Another of them is another reading.
    """
    if visium.mine(path):
        return visium.companions(path)
    if not (relational.TABLE.search(path.name) or path.suffix.lower() == ".json"):
        return ()
    try:
        reader = _reader(path)
        return reader.companions(path) if reader in (icu, omop, question) else ()
    except MissingExtraError:
        raise
    except Exception:  # what is wrong with it is for its reader to say
        return ()


def _series(path: Path) -> str | None:
    """The series that a file is a slice of. What is wrong with a file is for its reader to say."""
    try:
        if not S_ISREG(path.stat().st_mode):
            return None
        with path.open("rb") as file:
            head = file.read(dicom.HEAD)
        return dicom.series_of(path, head) if dicom.recognises(path, head) else None
    except MissingExtraError:
        raise
    except Exception:
        return None


def load(record: Record, root: Path | None = None) -> Payload:
    """The array (or the words) of a record, with its geometry.

    Raises:
        RecordError: the source is gone or cannot be read any more.
    """
    packed, inside = archive.split_entry(record.uri)
    if inside:
        with archive.unpacked((root or Path()) / packed, beside=split_uri(inside)[0]) as (folder, _):
            return load(replace(record, uri=inside), folder)
    place, fragment = split_uri(record.uri)
    path = (root / place) if root is not None else Path(place)
    if not path.exists():
        raise RecordError(f"no file at {place}", "the source where it was ingested", "put it back or ingest it again")
    try:
        if record.kind == events.KIND and (number := part_number(record.uri, "item")) is not None:
            return _events_of(path, number)
        reader = dicom if path.is_dir() else _reader(path)
        return reader.load(replace(record, uri=str(path) + (f"#{fragment}" if fragment else "")))
    except MissingExtraError:
        raise
    except Exception as error:
        reason = _reason(error)
        raise RecordError(f"{reason.found} at {record.uri}", reason.expected, reason.remedy) from error


def _events_of(path: Path, number: int) -> Payload:
    """The events of one of a file's patients, as `read_patient` counts them."""
    table = _history([item for item in read_together(Group((path,))) if isinstance(item, Events)])
    patients = sorted(set(table["patient"].to_pylist()))
    if number >= len(patients):
        raise RecordError("a file without the events that it had", "the file as ingested", "ingest it again")
    return events.payload(events.of(table, patients[number]))


@lru_cache(maxsize=4096)
def _recognised(path: Path, changed: int) -> ModuleType | None:
    """The module that reads a file; kept, because the rows of one table ask for it one after the other."""
    with path.open("rb") as file:
        head = file.read(4096)
    return next((r for r in READERS if r.recognises(path, head)), None)
