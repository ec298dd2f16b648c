"""One patient's files: what each is, and whether they say themselves whose they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from .. import records
from ..records import RecordError
from ..schema import Record, Rejected
from .reply import NotUsed, Used

Row = TypeVar("Row", Used, NotUsed)


@dataclass(frozen=True, slots=True)
class Given:
    """A record of what was given.

    Args:
        path: of its file; of a series, of its first slice.
        name: what the person calls it.
        record: what it is.
    """

    path: Path
    name: str
    record: Record

    @property
    def names(self) -> str | None:
        """Whose the file itself says it is; None where only its name could tell, which anybody can change."""
        return None if self.record.attributes.get("anonymous") else self.record.patient


def understood(called: Mapping[Path, str]) -> tuple[list[Given], dict[Path, str]]:
    """What each file is.

    Args:
        called: the files, and what to call them.
    Returns:
        the records, and the files that only repeat another, with that one's name.
    Raises:
        RecordError: one cannot be read (with its reason), or they name more than one patient.
    """
    if not called:
        raise RecordError("no file", "at least one", "give one")
    for path, name in called.items():
        if not path.is_file():
            raise RecordError(f"no file {name}", "a file", "check the path")
    given: list[Given] = []
    again: dict[Path, str] = {}
    seen: dict[str, Given] = {}
    for path, item in records.read_patient(list(called)):
        if isinstance(item, Rejected):
            raise RecordError(f"{called[path]}: {item.found}", item.expected, item.remedy)
        slices = item.attributes.get("parts", item.attributes.get("slices")) if "#series=" in item.uri else None
        one = Given(path, f"{called[path]} (a series of {slices} files)" if slices else called[path], item)
        first = seen.setdefault(item.id, one)
        if first.path == path:
            given.append(one)
        else:
            again[path] = first.name
    if not given:
        raise RecordError(f"nothing in {', '.join(called.values())}", "a record of a patient", "give another file")
    if len({one.names for one in given} - {None}) > 1:
        raise RecordError("files (or rows) of several patients", "one patient", "give one patient's files at a time")
    return given, again


def once(items: Iterable[Row]) -> list[Row]:
    """Without repetitions: the rows of one table are one file."""
    return list({item.model_dump_json(): item for item in items}.values())


def whose(given: Sequence[Given]) -> str:
    """Whether the files say themselves that they belong together."""
    silent = list(dict.fromkeys(item.name for item in given if item.names is None))
    if len({item.path for item in given}) < 2:
        return ""
    if not silent:
        return "Every file names the same patient."
    told = "does not say whose it is" if len(silent) == 1 else "do not say whose they are"
    return f"That all files are of one patient is the sender's word: {', '.join(silent)} {told}."


def check_numbers(name: str, array: np.ndarray) -> None:
    """That a picture's samples are numbers.

    Raises:
        RecordError: some are not.
    """
    if not np.isfinite(array).all():
        raise RecordError(
            f"{name}: samples that are not numbers (NaN or infinite)", "numbers", "replace them in the export"
        )
