"""What tests of de-identification share: cleaning a folder, and looking for what was planted in every byte of what came out."""

from __future__ import annotations

import bz2
import gzip
import io
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from polyclinic.records.deidentify import Options, Report, deidentify

Clean = Callable[..., Report]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path


@pytest.fixture
def clean(place: Path) -> Clean:
    """Cleans `in` into `out`; what is set aside is an error unless it is asked for."""

    def run(options: Options | None = None, aside: bool = False) -> Report:
        report = deidentify(place / "in", place / "out", place / "key", options)
        assert aside or not report.aside, report.aside
        return report

    return run


def _unpacked(data: bytes) -> Iterator[bytes]:
    """The bytes, and those of whatever in them is packed."""
    yield data
    if data.startswith(b"\x1f\x8b"):
        yield from _unpacked(gzip.decompress(data))
    if data.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.infolist():
                yield member.filename.encode()
                yield from _unpacked(archive.read(member))
    if data.startswith(b"BZh"):
        yield from _unpacked(bz2.decompress(data))
    at = -1
    while (at := data.find(b"\x78", at + 1)) >= 0 and len(data) < 2**22:  # zlib streams, as HDF5 and TIFF have them
        if data[at + 1 : at + 2] in (b"\x01", b"\x5e", b"\x9c", b"\xda"):
            try:
                yield zlib.decompressobj().decompress(data[at:])
            except zlib.error:
                continue


@pytest.fixture
def none_left(place: Path) -> Callable[[Iterable[str]], None]:
    """Fails where one of the planted is in a file's name or its bytes: UTF-8, UTF-16 of both orders, in any case, packed or not."""

    def look(planted: Iterable[str]) -> None:
        texts = [t.casefold() for t in planted]
        for path in (p for p in (place / "out").rglob("*") if p.is_file()):
            for data in (path.name.encode(), *_unpacked(path.read_bytes())):
                low = data.lower()
                for text in texts:
                    for coding in ("utf-8", "utf-16-le", "utf-16-be"):
                        at = low.find(text.encode(coding))
                        assert at < 0, (path.name, text, coding, data[max(0, at - 60) : at + 60])

    return look
