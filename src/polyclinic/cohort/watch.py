"""A folder that goes on filling: ingest, look again, ingest what has come."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from .catalogue import Cohort, EmptyCohortError
from .engine import Engine
from .ingest import Progress, files, ingest

EVERY_S, SETTLED_S = 10.0, 5.0


def watch(
    source: str | Path,
    into: str | Path,
    *,
    every_s: float = EVERY_S,
    settled_s: float = SETTLED_S,
    progress: Progress | None = None,
    workers: int = 1,
    engine: Engine = "processes",
) -> Iterator[Cohort]:
    """The catalogue, each time that it has taken something in; it never ends by itself.

    The folder is looked at, not listened to: what a file share announces differs, what `stat` says does not. A file is read
    once nobody has written to it for `settled_s`; one that arrives under another name and is renamed is read at once it is
    that old. An empty folder is waited for.

    Args:
        source: the folder.
        into: the catalogue's folder.
        every_s: seconds from one look to the next.
        settled_s: seconds of calm before a file is read.
        progress, workers, engine: as `ingest` has them.
    Raises:
        EmptyCohortError: the folder is not there.
        CohortError: the disk is full.
    """
    root, was = Path(source), None
    if not root.is_dir():
        raise EmptyCohortError(f"no folder at {root}", "a folder to be watched", "check the path")
    while True:
        now = _look(root, Path(into))
        due = any(abs(time.time() - changed / 1e9) < settled_s for _, changed in now.values())
        if now != was:
            cohort = None
            with suppress(EmptyCohortError):  # nothing yet that could be taken
                cohort = ingest(root, into, progress=progress, workers=workers, engine=engine, settled_s=settled_s)
            if cohort is not None:
                yield cohort
            was = None if due else now
        time.sleep(every_s)


def _look(root: Path, catalogue: Path) -> dict[Path, tuple[int, int]]:
    """Each file's size and the time of its last change in ns."""
    found = {}
    for path in files(root, catalogue.resolve()):
        if isinstance(path, Path):
            try:
                about = path.stat()
            except OSError:
                continue
            found[path] = (about.st_size, about.st_mtime_ns)
    return found
