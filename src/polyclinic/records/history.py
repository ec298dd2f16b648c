"""A person's history as a reader finds it, event by event, given on in tables of bounded length, with what was left out and why.

Codes with a meaning of their own follow MEDS 0.4 (`MEDS_BIRTH`, `MEDS_DEATH`) and its ETLs (`GENDER//F`): who someone is has no
time (sex, race, ethnicity, an age that is only known to be over 89), all else has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime

import pyarrow as pa

from ..schema import Events, Rejected
from . import units
from .events import SEX
from .source import parse_time

RACE, ETHNICITY, AGE = "RACE//", "ETHNICITY//", "AGE//"
ADMITTED, DISCHARGED = "HOSPITAL_ADMISSION", "HOSPITAL_DISCHARGE"
CHUNK = 100_000
"""Events of one table."""
ANSWER = 1000
"""Characters of a text value; more is a document, and a record of its own."""

_SEXES = {"f": "F", "female": "F", "w": "F", "m": "M", "male": "M", "o": "O", "other": "O", "a": "O", "x": "O"}
_COLUMNS = {
    "patient": pa.string(),
    "time": pa.timestamp("us"),
    "code": pa.string(),
    "numeric_value": pa.float64(),
    "unit": pa.string(),
    "text_value": pa.string(),
    "encounter": pa.string(),
    "site": pa.string(),
}


def sex_code(spelling: str) -> str | None:
    """`GENDER//F`, `GENDER//M` or, of another sex, `GENDER//O`; None where it is not known."""
    sex = _SEXES.get(spelling.strip().lower())
    return sex and SEX + sex


def born(date: str) -> datetime | None:
    """A birth date; of a year or a month alone (all that is left after de-identification) its middle."""
    middle = {4: "-07-01", 7: "-15"}.get(len(date), "")
    return parse_time(date + middle)


class History:
    """Gathers events one by one.

    Args:
        place: where the file lies; the uri of what is left out.
    """

    def __init__(self, place: str) -> None:
        self.place, self.left, self.count = place, Counter[tuple[str, str, str]](), 0
        self._clear()

    def _clear(self) -> None:
        self.columns: dict[str, list[object]] = {name: [] for name in _COLUMNS}

    def add(
        self, patient: str, time: datetime | None, code: str, value: float | None = None, unit: str | None = None,
        text: str | None = None, encounter: str | None = None, site: str | None = None,
    ) -> None:  # fmt: skip
        """One event, in the unit as it is written."""
        row = (patient, time, code, value, unit, text[:ANSWER] if text else None, encounter, site)
        for column, cell in zip(self.columns.values(), row, strict=True):
            column.append(cell)
        self.count += 1

    def leave(self, what: str, expected: str, remedy: str) -> None:
        """Count an entry that is no event; `what` follows on their number: `3 observations without a day`."""
        self.left[what, expected, remedy] += 1

    def full(self) -> bool:
        """Whether a table's worth is there."""
        return len(self.columns["code"]) >= CHUNK

    def given(self) -> Iterator[Events]:
        """What was gathered since the last time, in standard units."""
        if self.columns["code"]:
            table = pa.table({name: _array(self.columns[name], kind) for name, kind in _COLUMNS.items()})
            self._clear()
            yield Events(units.standardise(table))

    def aside(self) -> Iterator[Rejected]:
        """What was left out, a reason a row."""
        for (what, expected, remedy), n in sorted(self.left.items()):
            yield Rejected(self.place, f"{n} {what}", expected, remedy)


def _array(cells: list[object], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(cells, kind)
    except UnicodeEncodeError:  # JSON may escape half a character
        return pa.array([c.encode("utf-8", "replace").decode() if isinstance(c, str) else c for c in cells], kind)
