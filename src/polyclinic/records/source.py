"""What every reader needs of a source: its identity, its place, and guards against hostile sizes."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import logging
import re
import threading
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import IO, ParamSpec, TypeVar

from ..schema import PolyclinicError

LARGEST_BYTES = 2**31
"""No payload may unpack to more than this: it is checked from the header, before anything is allocated."""
MOST_EXPANDED, EXPANDED_FREELY = 200, 2**24
"""A packed table may unpack to so many times its size, or to so many bytes: what is more was made to do harm."""
LONGEST_ROW = 2**24
"""Characters of one row of a table; sixty thousand genes need a tenth of it."""


P = ParamSpec("P")
T = TypeVar("T")


class RecordError(PolyclinicError):
    """A source that cannot be taken as a record."""


_LOCK, _INSIDE, _LEVEL = threading.Lock(), Counter[str](), dict[str, int]()
_WARNINGS: list[warnings.catch_warnings[None]] = []


@contextmanager
def _silence(library: str) -> Iterator[None]:
    """Threads may be in it at once: the last to leave puts back what the first found."""
    log = logging.getLogger(library)
    with _LOCK:
        if not _INSIDE.total():
            _WARNINGS.append(warnings.catch_warnings())
            _WARNINGS[0].__enter__()
            warnings.simplefilter("ignore")
        if not _INSIDE[library]:
            _LEVEL[library] = log.level
            log.setLevel(logging.CRITICAL + 1)
        _INSIDE[library] += 1
    try:
        yield
    finally:
        with _LOCK:
            _INSIDE[library] -= 1
            if not _INSIDE[library]:
                log.setLevel(_LEVEL.pop(library))
            if not _INSIDE.total():
                _WARNINGS.pop().__exit__(None, None, None)


def quiet(library: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Without a library's warnings and log, which quote what they are about: patient data."""

    def silenced(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def silent(*args: P.args, **options: P.kwargs) -> T:
            with _silence(library):
                return function(*args, **options)

        return silent

    return silenced


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


def place_of(path: Path, root: Path) -> str:
    """Where a file lies below the ingested folder: what its record's uri begins with."""
    place, above = path.as_posix(), f"{root.as_posix()}/"
    return place[len(above) :] if place.startswith(above) else path.relative_to(root).as_posix()  # which is slow


def split_uri(uri: str) -> tuple[str, str]:
    """The path and the fragment of a uri: `a/b.csv#row=17` → (`a/b.csv`, `row=17`); of a workbook's, `sheet=Labs&row=17`."""
    found = re.fullmatch(
        r"(.*)#((?:row|stack|segment|roi|box|item|sample)=\d+|group=\d+(?:&run=\d+)?|series=[\w.]+(?:&run=\d+)?|(?:sheet|topic|column)=[^#]+)",
        uri,
        re.DOTALL,
    )
    return (found[1], found[2]) if found else (uri, "")


def part_number(uri: str, part: str) -> int | None:
    """The number of a uri's part: 2 for `#stack=2`; None where the record is the file's only one."""
    found = re.fullmatch(r"(\w+)=(\d+)(?:&(run)=(\d+))?", split_uri(uri)[1])
    numbers = dict(zip(found.groups()[::2], found.groups()[1::2], strict=True)) if found else {}
    return int(numbers[part]) if part in numbers else None


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


class _Counted(io.RawIOBase):
    """A packed file's bytes as they unpack, refused beyond bound; nothing but a buffer of them is held."""

    def __init__(self, packed: IO[bytes], kind: str, size: int) -> None:
        self.packed, self.kind, self.count = packed, kind, 0
        self.most = min(LARGEST_BYTES, max(EXPANDED_FREELY, MOST_EXPANDED * size))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            block = self.packed.read(len(buffer))
        except (EOFError, OSError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
            name = type(error).__name__
            raise RecordError(f"a broken {self.kind} file ({name})", "a whole file", "copy it again") from error
        self.count += len(block)
        if self.count > self.most:
            raise RecordError(
                f"a {self.kind} file that unpacks to more than {self.most >> 20} MiB", "less", "check where it comes from"
            )  # fmt: skip
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        self.packed.close()
        super().close()


def _zipped(path: Path) -> IO[bytes]:
    try:
        archive = zipfile.ZipFile(path)
        members = [m for m in archive.infolist() if not m.is_dir() and "__MACOSX" not in m.filename]
        if len(members) != 1:
            raise RecordError(f"a zip with {len(members)} files", "one table in a zip", "unpack it into the folder")
        return archive.open(members[0])
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError) as error:
        raise RecordError(f"a broken zip file ({type(error).__name__})", "a whole file", "copy it again") from error


def encoding_of(head: bytes) -> str:
    """The encoding that a text's first bytes speak for: a byte order mark's, UTF-8, or else the older Windows exports'."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8-sig"


def open_text(path: Path) -> IO[str]:
    """A text stream of a plain, gzipped or zipped (one member) file.

    Raises:
        RecordError: a zip with no or several tables; while it is read, one that is broken or unpacks beyond bound.
    """
    name = path.name.lower()
    if name.endswith((".gz", ".bgz")):
        raw: IO[bytes] = io.BufferedReader(_Counted(gzip.GzipFile(path), "gzip", path.stat().st_size), 1 << 16)  # type: ignore[arg-type]
    elif name.endswith(".zip"):
        raw = io.BufferedReader(_Counted(_zipped(path), "zip", path.stat().st_size), 1 << 16)  # type: ignore[arg-type]
    else:
        raw = path.open("rb", buffering=1 << 16)
    return io.TextIOWrapper(raw, encoding=encoding_of(raw.peek(1 << 16)), errors="replace", newline="")  # type: ignore[attr-defined]


class Lines:
    """The lines of a stream, none of them read beyond bound.

    `fed` counts characters; whoever puts several lines together sets it to 0 after each whole.
    """

    def __init__(self, stream: IO[str]) -> None:
        self.stream, self.fed = stream, 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.stream.readline(LONGEST_ROW + 1)
        if not line:
            raise StopIteration
        self.fed += len(line)
        if self.fed > LONGEST_ROW:
            raise RecordError(
                f"a row of over {LONGEST_ROW / 1e6:.0f} million characters", "a table", "check it for an unclosed quote"
            )
        return line


_COMPACT = re.compile(r"(\d{8})(?:[ T]?(\d{4}|\d{6})(?:\.\d+)?)?")
_NUMBERS = re.compile(r"(\d{1,2})([/.])(\d{1,2})\2(\d{4}|\d{2})(?:[ T](.+))?")


def parse_time(value: str) -> datetime | None:
    """A point in time from the spellings that exports use; naive, None where it is not one.

    A year alone, or a month, is not a time, nor is 3/4/2020, which is March in one country and April in another: nothing
    pretends to know the day. A year of two digits is read where only one order of day, month and year makes a date (11/27/19), and
    where its order is told by how it is written: 27.11.19, 27-NOV-19; 69 to 99 are of 19.., as in POSIX's `strptime`. A time
    with a zone keeps its own clock's hour.
    """
    text = value.strip()
    if found := _COMPACT.fullmatch(text):
        day, hour = found[1], (found[2] or "").ljust(6, "0")
        return _strptime(day + hour, "%Y%m%d%H%M%S")
    if found := _NUMBERS.fullmatch(text):
        first, second = int(found[1]), int(found[3])
        if len(found[4]) == 2:
            return _short_year(found[0], found[2])
        if found[2] == "/" and first <= 12 and second <= 12 and first != second:
            return None
        day, month = (first, second) if found[2] == "." or first > 12 else (second, first)
        text = f"{found[4]}-{month:02d}-{day:02d}" + (f" {found[5]}" if found[5] else "")
    elif re.match(r"\d{4}/\d{2}/\d{2}", text):
        text = text.replace("/", "-")
    if text[:4].isdecimal():
        try:
            return datetime.fromisoformat(text).replace(tzinfo=None) if len(text) >= 10 else None
        except ValueError:
            return None
    spellings = ("%B %d, %Y", "%b %d, %Y", "%d %B %Y", "%d %b %Y", "%d-%b-%Y", "%d-%b-%y")
    return next((moment for spelling in spellings if (moment := _strptime(text, spelling))), None)


def _short_year(text: str, between: str) -> datetime | None:
    """The one day that numbers with a year of two digits can mean; None where they can mean several."""
    day, _, hour = text.replace("T", " ").partition(" ")
    orders = ("%d.%m.%y",) if between == "." else ("%m/%d/%y", "%d/%m/%y", "%y/%m/%d")
    days = {moment for order in orders if (moment := _strptime(day, order))}
    if len(days) != 1:
        return None
    return parse_time(f"{days.pop():%Y-%m-%d} {hour}".strip())


def _strptime(text: str, spelling: str) -> datetime | None:
    try:
        return datetime.strptime(text, spelling)
    except ValueError:
        return None
