"""What cleaning one file needs, whatever its kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .keyed import Key
from .notes import Recogniser
from .options import Options
from .report import Report


@dataclass(slots=True)
class Cleaning:
    """Cleans one file.

    Args:
        key: makes new names and moves dates.
        options: what is kept.
        report: what was done, and what a person has to look at.
        file: its new name, for the report.
        recognisers: further ones for free text.
    """

    key: Key
    options: Options
    report: Report
    file: str
    recognisers: Sequence[Recogniser]
