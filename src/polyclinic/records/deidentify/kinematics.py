"""JIGSAWS text: samples of motion and transcriptions of gestures are numbers alone, and stay byte for byte.

Whose they are is in their names: a surgeon's letter becomes a pseudonym, the same for each of the trials (see `naming`).
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from ...schema import Record
from .. import kinematics as reader
from ..source import RecordError
from .cleaning import Cleaning
from .known import Known

_OTHER = re.compile(rb"[^-+.\deEG \t\r\n]")


def recognises(path: Path, head: bytes) -> bool:
    """Whether it is a trial or a transcription; motion in CSV is a table."""
    return path.suffix.lower() == ".txt" and reader.recognises(path, head)


def survey(path: Path, place: str, known: Known) -> str:
    """Whose it is, by its name; what the file is not, its reader says."""
    (record,) = reader.read(path, path.parents[place.count("/")])
    if trial := reader.TRIAL.match(path.stem):
        known.trials.add(trial[0].casefold())
    return record.patient if isinstance(record, Record) else ""


def deidentify(path: Path, to: Path, cleaning: Cleaning) -> None:
    """Copy the numbers.

    Raises:
        RecordError: there is something else among them.
    """
    with path.open("rb") as file:
        if any(_OTHER.search(line) for line in file):
            raise RecordError("motion or gestures with words among the numbers", "numbers alone", "take the words out")
    shutil.copyfile(path, to)
