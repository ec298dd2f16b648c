"""Who cannot be read: set aside with the reason, while the rest goes on; unless hardly anybody is left."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ..schema import MissingExtraError, Payload, PolyclinicError, Record

LOG = logging.getLogger("polyclinic.harmonise")
NEARLY_ALL = 0.9
"""Where more than this share of the patients cannot be read, it is not they who are broken: the disk is not there, say."""


@dataclass(frozen=True, slots=True)
class Unread:
    """A patient who was set aside.

    Args:
        patient: whose.
        record: the id of the first record that could not be read; of a mask, boxes or points, theirs.
        why: what was found and what was expected.
    """

    patient: str
    record: str
    why: str


class UnreadError(PolyclinicError):
    """Nearly nobody can be read."""


GONE = "its file can no longer be read"
"""In the place of a picture or words."""


class UnreadRecordError(Exception):
    """A record that could not be read, on its way to whoever sets its patient aside; the reason is its cause."""

    def __init__(self, record: Record, why: str) -> None:
        super().__init__(record.id)
        self.aside = Unread(record.patient, record.id, why)


@contextmanager
def reading(record: Record) -> Iterator[None]:
    """Tell which record it is that cannot be read.

    Raises:
        UnreadRecordError: a file that is gone, damaged or does not fit, and what else a record's reader refuses.
        MissingExtraError: that is for the user to mend, not the record's fault.
    """
    try:
        yield
    except MissingExtraError:
        raise
    except PolyclinicError as error:
        raise UnreadRecordError(record, f"{error.found}; expected {error.expected}") from error
    except (OSError, MemoryError) as error:  # of what is read when its samples are asked for
        raise UnreadRecordError(record, f"a record that cannot be read ({type(error).__name__})") from error


def noted(found: dict[str, Unread], one: Unread) -> None:
    """Keep who was set aside, and log the first ones: by the record's id, as whose it is and where it lies is nobody's business there."""
    if one.record not in found and len(found) < LOGGED:
        LOG.warning("set aside a patient of whom the record %s cannot be read", one.record)
    found[one.record] = one


def check(asked: int, unread: Collection[Unread]) -> None:
    """Stop where nearly nobody is left.

    Args:
        asked: how many patients there were.
        unread: who of them was set aside.
    Raises:
        UnreadError: more than `NEARLY_ALL` of them.
    """
    gone = len({one.patient for one in unread})
    if gone > NEARLY_ALL * asked:
        first = next(iter(unread))
        raise UnreadError(
            f"{gone} of {asked} patients who cannot be read, the first for {first.why}",
            f"at least {1 - NEARLY_ALL:.0%} who can: those left would stand for nobody",
            "see that the folder of the sources is there and whole, or ingest them again",
        )


SHOWN, LOGGED = 5, 20
"""Of those who were set aside, on the screen and in a log; the files have all."""


def listed(unread: Sequence[Unread], file: str) -> list[str]:
    """Lines for a person: who was set aside and why, the first few, and where the others stand."""
    lines = [f"  set aside, cannot be read: {one.patient}: {one.why}" for one in unread[:SHOWN]]
    return lines + ([f"  … and {len(unread) - SHOWN} more, see {file}"] if len(unread) > SHOWN else [])


def sound(records: Sequence[Record], load: Callable[[Record], Payload]) -> dict[str, Unread]:
    """Of each patient the first record whose source cannot be read, after all were tried; by the record's id.

    Raises:
        UnreadError: of nearly every patient there is one.
    """
    found, gone = dict[str, Unread](), set[str]()
    for record in records:
        if record.patient not in gone:
            try:
                with reading(record):
                    load(record)
            except UnreadRecordError as error:
                noted(found, error.aside)
                gone.add(record.patient)
    check(len({r.patient for r in records}), found.values())
    return found
