"""What every reader needs of a source: its identity, its place, and guards against hostile sizes."""

from __future__ import annotations

import gzip
import hashlib
import zipfile
from datetime import datetime
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import IO

from ..schema import PolyclinicError

LARGEST_BYTES = 2**31
"""No payload may unpack to more than this: it is checked from the header, before anything is allocated."""


class RecordError(PolyclinicError):
    """A source that cannot be taken as a record."""


def content_id(source: bytes | Path, place: str = "") -> str:
    """blake2b-128 of the source's bytes and the place in them, as hex.

    Args:
        source: the bytes, or a path whose bytes are streamed.
        place: what part of the source: a row, an entry.
    """
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(source, bytes):
        digest.update(source)
    else:
        with source.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    digest.update(b"\x00" + place.encode())
    return digest.hexdigest()


def place_id(source: str, place: str) -> str:
    """The id of one place in a source whose own id is known: no second reading of the bytes."""
    return hashlib.blake2b(f"{source}\x00{place}".encode(), digest_size=16).hexdigest()


def split_uri(uri: str) -> tuple[str, str]:
    """The path and the fragment of a uri: `a/b.csv#row=17` → (`a/b.csv`, `row=17`)."""
    head, mark, tail = uri.rpartition("#")
    return (head, tail) if mark and "=" in tail else (uri, "")


def check_size(shape: tuple[int, ...], bytes_each: int) -> None:
    """Refuse an array that a header promises and no honest file would.

    Raises:
        RecordError: the product is over `LARGEST_BYTES` or a dimension is not positive.
    """
    size = bytes_each
    for length in shape:
        if length <= 0:
            raise RecordError(f"a dimension of {length}", "positive dimensions", "export the file again")
        size *= int(length)
    if size > LARGEST_BYTES:
        raise RecordError(
            f"a header that promises {size / 2**30:.1f} GiB of samples",
            f"at most {LARGEST_BYTES / 2**30:.0f} GiB",
            "check the header; crop or tile a file that is truly so large",
        )


def gunzip(path: Path) -> bytes:
    """The unpacked bytes of a gzip file, at most `LARGEST_BYTES` of them.

    Raises:
        RecordError: it unpacks to more, or is cut short.
    """
    out = BytesIO()
    try:
        with gzip.open(path, "rb") as file:
            while block := file.read(1 << 20):
                out.write(block)
                if out.tell() > LARGEST_BYTES:
                    raise RecordError(
                        "a gzip file that unpacks beyond bound", "at most 2 GiB", "check where it comes from"
                    )
    except (EOFError, OSError, gzip.BadGzipFile) as error:
        raise RecordError(f"a broken gzip file ({type(error).__name__})", "a whole file", "copy it again") from error
    return out.getvalue()


def open_text(path: Path) -> IO[str]:
    """A text stream of a plain, gzipped or zipped (one member) file.

    Raises:
        RecordError: a zip with no or several tables, or one that unpacks beyond bound.
    """
    name = path.name.lower()
    if name.endswith(".gz"):
        return TextIOWrapper(BytesIO(gunzip(path)), encoding="utf-8", errors="replace", newline="")
    if name.endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir() and "__MACOSX" not in m.filename]
            if len(members) != 1:
                raise RecordError(f"a zip with {len(members)} files", "one table in a zip", "unpack it into the folder")
            if members[0].file_size > LARGEST_BYTES or members[0].file_size > 2000 * max(members[0].compress_size, 1):
                raise RecordError("a zip that unpacks beyond bound", "at most 2 GiB", "check where it comes from")
            data = archive.read(members[0])
        return TextIOWrapper(BytesIO(data), encoding="utf-8", errors="replace", newline="")
    return path.open(encoding="utf-8", errors="replace", newline="")


def parse_time(value: str) -> datetime | None:
    """A point in time from the spellings that exports use; naive, None where it is not one.

    A year alone, or a month, is not a time: nothing pretends to know the day.
    """
    text = value.strip().replace("Z", "+00:00")
    for spelling in ("%Y%m%d%H%M%S.%f", "%Y%m%d%H%M%S", "%Y%m%d", "%B %d, %Y", "%b %d, %Y", "%d %B %Y", "%m/%d/%Y"):
        try:
            return datetime.strptime(text, spelling)
        except ValueError:
            continue
    try:
        moment = datetime.fromisoformat(text) if len(text) >= 10 else None
    except ValueError:
        return None
    return moment.replace(tzinfo=None) if moment else None
