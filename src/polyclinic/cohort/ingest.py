"""A folder of files → the catalogue: what came in, and what was set aside with its reason."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from .. import records
from ..records.naming import litter
from ..records.source import place_of
from ..schema import Events, Record, Rejected
from .catalogue import ADDED, Cohort, EmptyCohortError, Source
from .engine import Each, Engine
from .engine import engine as started
from .parts import CohortError, Rows

Progress = Callable[[int, int, str], None]
"""Called with done, all and what is being done."""

GONE = "gone"
_NEW = Source("", "", False)
PART_ROWS = 5000
PART_SECONDS = 20.0
"""A part is written when either is reached: a killed run loses no more than that."""


def files(root: Path, catalogue: Path | None = None) -> Iterator[Path | Rejected]:
    """Everything below `root` that may hold records, in the order of its name; a link is followed only within `root`."""
    inside = root.resolve()
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        linked = [f for f in folders if (here / f).is_symlink()]
        folders[:] = sorted(f for f in folders if f not in linked and (here / f).resolve() != catalogue)
        for name in sorted([*names, *linked]):
            path = here / name
            place = place_of(path, root)
            if litter(PurePosixPath(place)):
                continue
            if not _writable(place):
                shown = place.encode("utf-8", "replace").decode()
                yield Rejected(shown, "a name that is not UTF-8", "a name that can be written down", "rename it")
            elif os.path.islink(path) and not path.resolve().is_relative_to(inside):
                yield Rejected(
                    place, "a link that leads out of the folder", "files of the folder", "copy its target here"
                )
            elif name not in linked:  # a linked folder within `root` comes by its own name
                yield path


def _writable(place: str) -> bool:
    try:
        place.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def ingest(
    source: str | Path,
    into: str | Path,
    *,
    progress: Progress | None = None,
    workers: int = 1,
    engine: Engine = "processes",
    settled_s: float = 0.0,
) -> Cohort:
    """Take a folder of a hospital's files into a catalogue.

    What was read is kept part by part: a run that was killed goes on where it stopped, and a second run reads only what is
    new or changed; what a changed file said before no longer counts. The source is never changed.

    Args:
        source: the folder (or one file).
        into: the catalogue's folder, made if it is not there.
        progress: called with done, all, file.
        workers: processes. More than one needs a program whose main module can be imported (multiprocessing's rule).
        engine: `ray` reads on a Ray cluster, whose machines see the same folders.
        settled_s: what was written to less than so many seconds ago is left for the next time.
    Raises:
        EmptyCohortError: the folder is not there or holds nothing that could be taken.
        CohortError: the disk is full; what was ingested before is intact.
    """
    root = Path(source)
    if not root.exists():
        raise EmptyCohortError(f"nothing at {root}", "a folder of files", "check the path")
    whole = root.is_dir()
    root, found = (root, list(files(root, Path(into).resolve()))) if whole else (root.parent, [root])
    if not found:
        raise EmptyCohortError(f"no file in {root}", "at least one", "check the path")
    cohort = Cohort.create(into)
    writer, known = _Writer(cohort, root), cohort.sources(root)
    seen = {item.uri if isinstance(item, Rejected) else place_of(item, root) for item in found}
    gone = {uri: was for uri, was in known.items() if whole and uri not in seen and was.stamp not in (GONE, ADDED)}
    for item in found:
        if isinstance(item, Rejected) and known.get(item.uri, _NEW).stamp != item.found:
            writer.take([item], {item.uri: item.found}, item.uri)
    for uri, was in gone.items():
        writer.take([_missing(uri)] if was.given else [], {uri: GONE}, uri)
    calm = [item for item in found if isinstance(item, Path) and _settled(item, settled_s)]
    try:
        with started(engine, workers) as each:
            groups = _changed(calm, root, known, gone.keys(), each)
            done = len(found) - sum(len(group.paths) for group, _ in groups)
            read = records.read_together if each is map else _read_whole
            answers = each(partial(read, root=root), [group for group, _ in groups])
            for (group, stamps), items in zip(groups, answers, strict=True):
                writer.take(items, stamps, group.place(root))
                done += len(group.paths)
                if progress:
                    progress(done, len(found), group.paths[0].name)
    except CohortError:
        raise
    except BaseException:  # Ctrl-C, or a library that is not there: what was read is kept
        writer.flush()
        raise
    writer.flush()
    if progress and not groups:
        progress(len(found), len(found), "nothing new")
    if not cohort.query("select count(*) as n from records")["n"][0].as_py():
        reasons = sorted({r.found for r in cohort.rejected()})
        raise EmptyCohortError(
            f"{len(found)} files in {root}, none of which could be taken ({'; '.join(reasons[:3])})",
            "at least one readable record",
            f"see the reasons: polyclinic cohort query {into} 'select * from rejected'",
        )
    return cohort


class _Writer:
    """Collects rows and writes a part now and then."""

    def __init__(self, cohort: Cohort, root: Path) -> None:
        self.cohort, self.root = cohort, root
        self.rows, self.last = Rows(root), time.monotonic()

    def take(self, items: Iterable[Record | Rejected | Events], stamps: Mapping[str, str], unit: str) -> None:
        """What a group of files (place → stamp) holds; it counts once all of it was read."""
        version = hashlib.blake2b(json.dumps(stamps, sort_keys=True).encode(), digest_size=8).hexdigest()
        for item in items:
            self.rows.take([item], unit, version)
            self._flush_now_and_then()
        self.rows.finish(stamps, unit, version)
        self._flush_now_and_then()

    def _flush_now_and_then(self) -> None:
        if len(self.rows) >= PART_ROWS or time.monotonic() - self.last >= PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what there is."""
        if len(self.rows):
            self.cohort.commit(self.rows)
        self.rows, self.last = Rows(self.root), time.monotonic()


def _read_whole(group: records.Group, root: Path) -> Iterable[Record | Rejected | Events]:
    return list(records.read_together(group, root))  # a generator does not travel between processes


def _settled(path: Path, seconds: float) -> bool:
    """Whether nobody has written to it for so long; one that is gone by now is for its reader to name."""
    try:
        return seconds <= 0 or abs(time.time() - path.stat().st_mtime) >= seconds
    except OSError:
        return True


def _stamp(path: Path) -> str:
    """What a file looks like from outside; another look is another content."""
    try:
        about = path.stat()
    except OSError:
        return GONE
    return f"{about.st_size}-{about.st_mtime_ns}"


def _missing(uri: str) -> Rejected:
    return Rejected(
        uri,
        "a file that is no longer there",
        "the file as ingested",
        "put it back and ingest again, if it should count",
    )


def _changed(
    found: Sequence[Path], root: Path, known: Mapping[str, Source], gone: Collection[str], each: Each
) -> list[tuple[records.Group, dict[str, str]]]:
    """The groups of which a file is new, another than it was or gone, and what their files look like (place → stamp).

    A slice or a signal that comes late belongs to files beside it that are known: all of that folder are looked at.
    """
    places = {path: place_of(path, root) for path in found}
    stamps = {place: "+".join(map(_stamp, (path, *records.companions(path)))) for path, place in places.items()}
    fresh = {place for place, stamp in stamps.items() if known.get(place, _NEW).stamp != stamp}
    touched = {known[place].unit for place in (*fresh, *gone) if place in known}
    folders = {path.parent for path, place in places.items() if place in fresh} | {(root / p).parent for p in gone}
    groups = records.together([p for p in found if p.parent in folders], each)
    looks = [(group, {places[path]: stamps[places[path]] for path in group.paths}) for group in groups]
    return [(group, look) for group, look in looks if group.place(root) in touched or not fresh.isdisjoint(look)]
