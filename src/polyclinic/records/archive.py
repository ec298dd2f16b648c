"""ZIP and TAR archives: unpacked beside, never beyond bounds, and read as the folders that they are."""

from __future__ import annotations

import re
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from ..schema import Rejected
from .naming import litter
from .source import EXPANDED_FREELY, MOST_EXPANDED, RecordError

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz")
MOST_FILES = 1_000_000
_TABLE = re.compile(r"\.(csv|tsv)\.zip$", re.IGNORECASE)
_ENTRY = re.compile(r"(.*?)#entry=(.*)", re.DOTALL)


def recognises(path: Path) -> bool:
    """Whether the name says so; a `.csv.zip` is a packed table, and a reader's own."""
    name = path.name.lower()
    return name.endswith(ENDINGS) and not _TABLE.search(name)


def entry_uri(place: str, inside: str) -> str:
    """Where a record of an archive lies: `export.zip#entry=2020/labs.csv#row=3`."""
    return f"{place}#entry={inside}"


def split_entry(uri: str) -> tuple[str, str]:
    """The archive and the place in it; the uri and nothing where it lies in none."""
    found = _ENTRY.fullmatch(uri)
    return (found[1], found[2]) if found else (uri, "")


class _Bound:
    """Counts what is written, and stops what was made to do harm."""

    def __init__(self, packed: int) -> None:
        self.left = max(EXPANDED_FREELY, MOST_EXPANDED * packed)

    def copy(self, source: IO[bytes], target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            while block := source.read(1 << 20):
                self.left -= len(block)
                if self.left < 0:
                    raise RecordError(
                        f"an archive that unpacks to over {MOST_EXPANDED} times its size", "less", "check where it comes from"
                    )  # fmt: skip
                file.write(block)


def _outside(name: str) -> bool:
    """Whether a member's name leads out of the folder that it is unpacked into."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or ":" in name.split("/")[0] or "\x00" in name


@contextmanager
def unpacked(path: Path, beside: str | None = None) -> Iterator[tuple[Path, list[Rejected]]]:
    """A folder with the archive's files, gone afterwards, and the members that were left out, with the reason.

    Args:
        path: the archive.
        beside: only this member (or folder) and what lies beside it: a series' slices, a signal's header.
    Raises:
        RecordError: it is broken, locked, or unpacks beyond bound.
    """
    with tempfile.TemporaryDirectory(prefix="polyclinic-") as folder:
        try:
            yield Path(folder), list(_unpack(path, Path(folder), beside))
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, NotImplementedError) as error:
            raise RecordError(f"a broken archive ({type(error).__name__})", "a whole file", "copy it again") from error


def _unpack(path: Path, folder: Path, beside: str | None) -> Iterator[Rejected]:
    wanted = None if beside is None else {PurePosixPath(beside), PurePosixPath(beside).parent}
    bound, count = _Bound(path.stat().st_size), 0
    for name, stream, why in _members(path):
        count += 1
        if count > MOST_FILES:
            raise RecordError(f"an archive of over {MOST_FILES} files", "fewer", "unpack it into the folder")
        place = PurePosixPath(name)
        if _outside(name):
            why = RecordError("a member whose name leads out of the archive", "a relative name", "pack it again")
        elif litter(place) or (wanted is not None and place.parent not in wanted):
            continue
        if why is not None or stream is None:
            why = why or RecordError("a link in an archive", "a file", "pack what it leads to")
            shown = "(a name that leads out)" if _outside(name) else name
            yield Rejected(shown, why.found, why.expected, why.remedy)
            continue
        with stream:
            bound.copy(stream, folder / place)


def _members(path: Path) -> Iterator[tuple[str, IO[bytes] | None, RecordError | None]]:
    """The files of an archive: name, bytes (None for a link), and why they cannot be had."""
    if path.name.lower().endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.is_dir():
                    continue
                if info.flag_bits & 1:
                    yield (
                        info.filename,
                        None,
                        RecordError("a member locked with a password", "an open one", "unlock it"),
                    )
                elif (info.external_attr >> 28) == 0xA:  # S_IFLNK
                    yield info.filename, None, None
                else:
                    yield info.filename, archive.open(info), None
        return
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile():
                yield member.name.removeprefix("./"), archive.extractfile(member), None
            elif not member.isdir():
                yield member.name, None, None
