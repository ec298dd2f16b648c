"""Landmarks: moments of a patient's history at which a question is asked anew, of those to whom it has not happened yet.

     first record        landmark                  event
    ─────┼────────●───────────┼────────●─────────────✕────▶
         0      is read       s    is not read       T         asked: does it come within T − s?

Who had the event before a landmark, or was followed no longer, takes no part there (van Houwelingen 2007).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from ..records.source import parse_time
from ..schema import Modality, Record

HOURS = {"hours": 1.0, "days": 24.0, "weeks": 168.0, "months": 730.5, "years": 8766.0}
"""Of the units in which landmarks may be told; a month is a twelfth of 365.25 days."""


@dataclass(frozen=True, slots=True)
class Landmarks:
    """When a question is asked, and what may be read then.

    Args:
        times: of the landmarks from each patient's time 0, in `unit`, ascending.
        unit: one of `HOURS`.
        since: the column of the date that is time 0; None where that is the first dated record.
        undated: whether records without a date may be read at every landmark.
    """

    times: tuple[float, ...]
    unit: str
    since: str | None = None
    undated: bool = False

    def begun(self, found: Iterable[Record], start: Mapping[str, datetime]) -> dict[str, datetime]:
        """Patient → time 0; without those of whom it is not known.

        Args:
            found: records, those with the column of time 0 among them.
            start: patient → the first dated record.
        """
        return dict(start) if self.since is None else _told(found, self.since)

    def cutoffs(self, number: int, begun: Mapping[str, datetime]) -> dict[str, datetime]:
        """Patient → the moment of a landmark, from time 0."""
        after = timedelta(hours=self.times[number] * HOURS[self.unit])
        return {patient: moment + after for patient, moment in begun.items()}

    def asked(self, number: int, answers: Mapping[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
        """Of (time, event, landmark) from time 0, those from a landmark of the patients who are still at risk there."""
        at = self.times[number]
        return {p: (time - at, *rest[:-1], float(number)) for p, (time, *rest) in answers.items() if time > at}


def _told(found: Iterable[Record], column: str) -> dict[str, datetime]:
    """Patient → the earliest date of a column."""
    first: dict[str, datetime] = {}
    for record in found:
        cell = record.attributes.get(column) if record.modality is Modality.TABLE else None
        if cell is not None and (moment := parse_time(str(cell))) is not None:
            first[record.patient] = min(moment, first.get(record.patient, moment))
    return first
