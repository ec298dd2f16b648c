"""What the readers say of a file, for the tests of every format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from polyclinic import records
from polyclinic.schema import Events, Payload, Record, Rejected


def only(path: Path, root: Path | None = None) -> Record:
    """The one record of a file."""
    (item,) = records.read(path, root)
    assert isinstance(item, Record), item
    return item


def refused(path: Path) -> str:
    """Why a file is set aside as a whole."""
    (item,) = records.read(path)
    assert isinstance(item, Rejected), item
    return item.found


def load(path: Path) -> Payload:
    """The payload of a file's one record."""
    return records.load(only(path), path.parent)


def taken(path: Path) -> list[Record]:
    """The records of a file, whatever of it is set aside."""
    return [item for item in records.read(path) if isinstance(item, Record)]


def load_taken(path: Path) -> Payload:
    """The payload of a file's one record, whatever of it is set aside."""
    (record,) = taken(path)
    return records.load(record, path.parent)


def reasons(path: Path) -> list[str]:
    """Why parts of a file are set aside."""
    return [item.found for item in records.read(path) if isinstance(item, Rejected)]


def parted(path: Path) -> tuple[list[Record], list[str]]:
    """The records of a file, and why its other parts are set aside."""
    items = list(records.read(path))
    return [i for i in items if isinstance(i, Record)], [i.found for i in items if isinstance(i, Rejected)]


def by(reader: ModuleType, path: Path) -> Iterator[Record | Rejected | Events]:
    """What one reader says of a file, which it has to recognise."""
    with path.open("rb") as file:
        assert reader.recognises(path, file.read(4096))
    return reader.read(path, path.parent)
