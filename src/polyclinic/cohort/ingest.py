"""A folder of files → the catalogue: what came in, and what was set aside with its reason."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from .. import records
from ..records import dicom, raster, waveform
from ..schema import Modality, Record, Rejected
from .catalogue import Cohort, EmptyCohortError

Progress = Callable[[int, int, str], None]
"""Called with done, all and what is being done."""

_LITTER_NAMES = {"thumbs.db", "desktop.ini", "dicomdir"}
_LITTER_ENDINGS = {".md", ".py", ".bib", ".html", ".pdf", ".log"}
_LITTER_STEMS = {"readme", "license", "licence", "notice", "attribution", "schema", "copying"}
_PART = 2000


def litter(path: Path, root: Path) -> bool:
    """Whether a file is no record by its name: hidden files, system files, papers about the data."""
    parts = path.relative_to(root).parts
    return (
        any(p.startswith(".") or p == "__MACOSX" for p in parts)
        or path.name.lower() in _LITTER_NAMES
        or path.suffix.lower() in _LITTER_ENDINGS
        or path.stem.lower() in _LITTER_STEMS
    )


def files(root: Path) -> Iterator[Path]:
    """Every file below `root` that may hold records, in the order of its name; links are followed only within `root`."""
    inside = root.resolve()
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = Path(folder) / name
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                continue
            if path.is_file() and not litter(path, root):
                yield path


def ingest(source: str | Path, into: str | Path, *, progress: Progress | None = None, workers: int = 1) -> Cohort:
    """Take a folder of a hospital's files into a catalogue.

    A second run adds nothing; a killed run is run again. The source is never changed.

    Args:
        source: the folder (or one file).
        into: the catalogue's folder, made if it is not there.
        progress: called with done, all, file.
        workers: processes. More than one needs a program whose main module can be imported (multiprocessing's rule).
    Raises:
        EmptyCohortError: the folder is not there or holds nothing that could be taken.
        CohortError: the disk is full; what was ingested before is intact.
    """
    root = Path(source)
    if not root.exists():
        raise EmptyCohortError(f"nothing at {root}", "a folder of files", "check the path")
    single = root.is_file()
    todo = [root] if single else list(files(root))
    root = root.parent if single else root
    if not todo:
        raise EmptyCohortError(f"no file in {root}", "at least one", "check the path")
    cohort = Cohort.create(into)
    known = cohort.ids()
    said = {(r.uri, r.found) for r in cohort.rejected()}
    found: list[Record] = []
    aside: list[Rejected] = []
    for number, items in enumerate(_read_all(todo, root, workers), start=1):
        for item in items:
            if isinstance(item, Rejected):
                aside.append(item)
            else:
                found.append(item)
        if progress:
            progress(number, len(todo), todo[min(number, len(todo)) - 1].name)
    found, linked = link_masks(found)
    found, unknown = notes_of_known_patients(found, _structured_patients(cohort))
    new = {r.id: r for r in found if r.id not in known}
    every_aside = [r for r in (*aside, *linked, *unknown) if (r.uri, r.found) not in said]
    _add(cohort, root, list(new.values()), every_aside)
    if not known and not new:
        reasons = {r.found for r in (*aside, *linked, *unknown)}
        raise EmptyCohortError(
            f"{len(todo)} files in {root}, none of which could be taken ({'; '.join(sorted(reasons)[:3])})",
            "at least one readable record",
            f"see the reasons: polyclinic cohort query {into} 'select * from rejected'",
        )
    return cohort


def _add(cohort: Cohort, root: Path, found: Sequence[Record], aside: Sequence[Rejected]) -> None:
    for start in range(0, max(len(found), 1), _PART):
        cohort.add(root, found[start : start + _PART], aside if start == 0 else ())


def _read_all(todo: Sequence[Path], root: Path, workers: int) -> Iterator[list[Record | Rejected]]:
    """One list a file, in order; the slices of a CT, MR or PET series come together, with the last of them."""
    series: dict[str, list[Path]] = {}
    if workers == 1:
        answers: Iterable[tuple[list[Record | Rejected], str | None]] = (_read_one(p, root) for p in todo)
        yield from _gather(todo, answers, root, series)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        answers = pool.map(_read_one, todo, [root] * len(todo), chunksize=16)
        yield from _gather(todo, answers, root, series)


def _gather(
    todo: Sequence[Path],
    answers: Iterable[tuple[list[Record | Rejected], str | None]],
    root: Path,
    series: dict[str, list[Path]],
) -> Iterator[list[Record | Rejected]]:
    held: list[Record | Rejected] = []
    for path, (items, uid) in zip(todo, answers, strict=True):
        if uid is not None:
            series.setdefault(f"{path.parent}#{uid}", []).append(path)
        yield held + items
        held = []
    for paths in series.values():
        place = lambda uri: (
            Path(uri).relative_to(root).as_posix() if Path(uri).is_absolute() == root.is_absolute() else uri
        )
        yield [replace(item, uri=place(item.uri)) for item in records.read_series(paths)]


def _read_one(path: Path, root: Path) -> tuple[list[Record | Rejected], str | None]:
    """The records of one file, or, for a slice, the series it belongs to."""
    with path.open("rb") as file:
        head = file.read(4096)
    if not head.startswith(raster._MAGIC) and dicom.recognises(path, head):
        try:
            uid = dicom.series_of(path)
        except records.RecordError:
            uid = None
        if uid is not None:
            return [], uid
    elif waveform.belongs_to_header(path):
        return [], None
    return list(records.read(path, root)), None


def link_masks(found: Sequence[Record]) -> tuple[list[Record], list[Rejected]]:
    """Give each mask the id and the patient of its image; a mask without one is set aside.

    An image is the mask's when they share the stem of their name (or, for DICOM, the accession number).
    """
    images: dict[tuple[Modality, str], Record] = {}
    for record in found:
        if record.attributes.get("mask"):
            continue
        for key in ("stem", "accession"):
            if record.attributes.get(key) and record.modality in (Modality.IMAGE, Modality.VOLUME):
                images[(record.modality, str(record.attributes[key]))] = record
    kept, aside = [], []
    for record in found:
        if not record.attributes.get("mask"):
            kept.append(record)
            continue
        image = images.get((record.modality, str(record.attributes["stem"])))
        if image is None:
            aside.append(
                Rejected(record.uri, "a mask with no image", "an image whose name is the mask's", "give the image too")
            )
        else:
            kept.append(replace(record, patient=image.patient, attributes={**record.attributes, "mask_of": image.id}))
    return kept, aside


def _structured_patients(cohort: Cohort) -> set[str]:
    return set(cohort.query("select distinct patient from records where modality <> 'text'")["patient"].to_pylist())


def notes_of_known_patients(found: Sequence[Record], before: set[str]) -> tuple[list[Record], list[Rejected]]:
    """Set aside a note whose patient no table, image or signal knows, unless there is nothing but notes."""
    known = before | {r.patient for r in found if r.modality is not Modality.TEXT}
    if not known:
        return list(found), []
    lost = [r for r in found if r.modality is Modality.TEXT and r.patient not in known]
    gone = {r.id for r in lost}
    aside = [
        Rejected(
            r.uri,
            "a note for an unknown patient",
            "a patient that a table, an image or a signal names",
            "check the note's patient",
        )
        for r in lost
    ]
    return [r for r in found if r.id not in gone], aside
