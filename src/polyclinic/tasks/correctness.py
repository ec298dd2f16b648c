"""Whether a written report says what a reference says: findings, sides and places, and earlier studies that nobody made.

What reports say is read by rules (`records.findings`), whose own errors are part of every figure here. A finding counts as said where it is
present or uncertain, as F1 of CheXpert labels is mostly quoted; absent and not spoken of are both "not said".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..records.findings import ABSENT, Reading, findings, read_findings, summary

NAMES = tuple(name for name in findings() if name != "no_finding")
"""The findings that are compared. That there is none is not one of them: it is said by saying none."""


@dataclass(frozen=True, slots=True)
class Correctness:
    """A written report beside its reference, in counts that add up over reports.

    Args:
        said: (f 3) of each of `NAMES`: said in both, only in the written one, only in the reference.
        sides: findings said in both with a side in both; on how many the sides differ.
        places: the same of places, which differ where none is common.
        changes: what is said to have become of findings since an earlier study (new, larger, smaller, unchanged, resolved): said in both
            reports alike, only in the written one, only in the reference.
        change_errors: findings said in both with a change in both; on how many the changes differ.
        compared: whether the written report speaks of an earlier study.
        reference_compared: whether the reference does.
    """

    said: np.ndarray
    sides: tuple[int, int]
    places: tuple[int, int]
    changes: tuple[int, int, int]
    change_errors: tuple[int, int]
    compared: bool
    reference_compared: bool


def correctness(written: str, reference: str, language: str = "en") -> Correctness:
    """Compare two reports.

    Args:
        written, reference: reports.
        language: of both, a tag of BCP 47.
    Raises:
        LexiconError: the findings of this language cannot be read.
    """
    one, other = read_findings(written, language), read_findings(reference, language)
    mine, theirs = (
        {n for n, s in summary(r.mentions).items() if s != ABSENT and n != "no_finding"} for r in (one, other)
    )
    said = np.array([[n in mine & theirs, n in mine - theirs, n in theirs - mine] for n in NAMES], dtype=float)
    sides, places = [0, 0], [0, 0]
    for name in mine & theirs:
        for counts, of, differ in ((sides, _sides, _unlike), (places, _places, frozenset.isdisjoint)):
            a, b = of(one, name), of(other, name)
            if a and b:
                counts[0] += 1
                counts[1] += bool(differ(a, b))
    turns, true = ({(n, c) for n in found for c in _changes(r, n)} for r, found in ((one, mine), (other, theirs)))
    both = {n for n, _ in turns} & {n for n, _ in true}
    wrong = sum({c for m, c in turns if m == n} != {c for m, c in true if m == n} for n in both)
    changes = (len(turns & true), len(turns - true), len(true - turns))
    return Correctness(
        said, (sides[0], sides[1]), (places[0], places[1]), changes, (len(both), wrong), one.compared, other.compared
    )


def _unlike(one: frozenset[str], other: frozenset[str]) -> bool:
    return one != other


def _sides(reading: Reading, name: str) -> frozenset[str]:
    told = [m.side for m in reading.mentions if m.finding == name and m.status != ABSENT and m.side]
    return frozenset(side for s in told for side in (("left", "right") if s == "both" else (s,)))


def _places(reading: Reading, name: str) -> frozenset[str]:
    return frozenset(p for m in reading.mentions if m.finding == name and m.status != ABSENT for p in m.places)


def _changes(reading: Reading, name: str) -> frozenset[str]:
    """What is said to have become of a finding; that an earlier study is named is no change."""
    told = [m.compared for m in reading.mentions if m.finding == name and m.status != ABSENT]
    return frozenset(c for c in told if c and c != "prior")


def f1(counts: np.ndarray) -> np.ndarray:
    """(… 3) said in both, only written, only in the reference → (…); NaN where nobody says it."""
    both, extra, missed = np.moveaxis(counts, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 2 * both / (2 * both + extra + missed)


def stacked(each: Sequence[Correctness]) -> np.ndarray:
    """(n f 3) of n reports."""
    return np.array([c.said for c in each]).reshape(-1, len(NAMES), 3)
