"""EDF+ and BDF+ with gaps (EDF+D, BDF+D): each data record says when it began; records without a gap between them are a run.

Source: Kemp and Olivan 2003, EDF+ 2.2.1 (discontinuous recordings) and 2.2.2 to 2.2.4 (time-stamped annotation lists, time keeping).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .source import RecordError

MOST_RUNS = 256
"""Unbroken runs of one file: what has more is a list of moments, and no recording with pauses."""
_ONSET = re.compile(rb"([-+]\d{1,12}(?:\.\d{0,12})?)(?:\x15(\d{1,12}(?:\.\d{0,12})?))?")
Note = tuple[float, float, str]
"""Onset in seconds, duration in seconds (-1 where none is said), words."""


@dataclass(frozen=True, slots=True)
class Run:
    """Data records without a gap between them.

    Args:
        first: its first data record, from 0.
        records: how many.
        onset_s: when it began, in seconds after the file's start.
        notes: said in it, or after it and before the next; their onsets count from its begin.
    """

    first: int
    records: int
    onset_s: float
    notes: tuple[Note, ...]


def runs(blocks: Sequence[np.ndarray], seconds: float, samples: int) -> list[Run]:
    """The unbroken runs of a recording.

    Args:
        blocks: (records bytes) uint8 of each signal of annotations, the one that keeps the time first.
        seconds: of one data record.
        samples: of the fastest signal in one data record.
    Raises:
        RecordError: a record does not say when it began, they overlap, a note is none, or there are more than `MOST_RUNS`.
    """
    starts, noted = _times(blocks)
    late, still = np.diff(starts) - seconds, 0.5 * seconds / samples
    if (late < -still).any():
        at = int(np.argmax(late < -still)) + 1
        raise RecordError(
            f"an EDF+D recording whose data record {at + 1} begins before the one ahead of it ends",
            "data records in the order of time",
            "check what wrote it",
        )
    firsts = [0, *(np.flatnonzero(late > still) + 1).tolist()]
    if len(firsts) > MOST_RUNS:
        raise RecordError(
            f"an EDF+D recording in {len(firsts):,} unbroken runs",
            f"at most {MOST_RUNS}",
            "export its moments as a table or as files of their own",
        )
    stops = [*firsts[1:], len(starts)]
    of = np.searchsorted([starts[first] for first in firsts], [onset for onset, _, _ in noted], side="right") - 1
    found = []
    for number, (first, stop) in enumerate(zip(firsts, stops, strict=True)):
        begun = float(starts[first])
        mine = (note for note, run in zip(noted, of, strict=True) if max(run, 0) == number)
        notes = tuple((round(onset - begun, 6), duration, words) for onset, duration, words in mine)
        found.append(Run(first, stop - first, begun, notes))
    return found


def _times(blocks: Sequence[np.ndarray]) -> tuple[np.ndarray, list[Note]]:
    """When each data record began (records,), and what was noted, by onset."""
    starts, noted = np.empty(len(blocks[0])), list[Note]()
    for record in range(len(starts)):
        for number, block in enumerate(blocks):
            lists = block[record].tobytes().split(b"\0")
            for place, one in enumerate(filter(None, lists)):
                onset, duration, said = _list(one, record)
                if number == place == 0:
                    if said[0] or not lists[0]:
                        raise _untimed(record)
                    starts[record] = onset
                noted += [(onset, duration, words) for words in said if words]
        if not blocks[0][record][0]:
            raise _untimed(record)
    return starts, sorted(noted, key=lambda note: note[0])


def _list(one: bytes, record: int) -> tuple[float, float, list[str]]:
    """A time-stamped annotation list: onset, duration, what was noted then."""
    stamp, *said = one.split(b"\x14")
    found = _ONSET.fullmatch(stamp)
    if not found or len(said) < 2 or said.pop():
        raise RecordError(
            f"a note in data record {record + 1} of an EDF+D recording that is none",
            "onset, duration, words",
            "check what wrote it",
        )
    return float(found[1]), float(found[2] or -1), [words.decode("utf-8", "replace") for words in said]


def _untimed(record: int) -> RecordError:
    return RecordError(
        f"an EDF+D recording whose data record {record + 1} does not say when it began",
        "an empty annotation with its onset at the begin of each data record (EDF+ 2.2.4)",
        "check what wrote it",
    )
