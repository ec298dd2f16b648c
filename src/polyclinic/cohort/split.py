"""Who trains and who tests: by patient, site, device, time or a column, with near-duplicate images and copied notes on one side.

By time, a patient whose first record is before the date trains, and nobody sees what came of them later: the training side would
learn from after the date, the test side from people it was trained on. Who came first on the date or after it tests. A record without
a time counts as known from the start. Of near-duplicates on both sides of the date, those that would test are left out.

By a column (`fold`), the parts are those that somebody else made, a challenge's or a paper's: its test part stays whole, that figures
may be compared, and near-duplicates of it do not train.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..schema import Payload, PolyclinicError, Record
from .catalogue import inputs, signatures
from .labels import check_column
from .leakage import ties


class SplitError(PolyclinicError):
    """A split that would test nothing."""


class SplitSpec(BaseModel):
    """How a recipe asks for a split.

    Args:
        by: what stays together; a site (or a device) holds all its patients. Or "time", or "fold": a column says who tests.
        test: the share of patients that test; by time the date decides, of folds their number.
        seed: of the order.
        stratify: a task whose classes (grades; whether anything was found, or the event seen) are dealt evenly, besides the patients'
            modalities.
        before: by time, the day before which training patients came.
        steady: each patient's (site's, device's) own name decides, and nothing else: whoever comes later moves nobody. The share is
            then met on average only, and nothing is stratified.
        folds: of cross-validation: the patients (sites, devices) are dealt into so many parts of about the same size; None for one split.
        turn: which of them tests, from 0; all the others train.
        column: by fold, whose cells say to which part a patient belongs; readers call it `fold` where a file's name says so.
        tests: by fold, the cells of who tests.
        leave: by fold, the cells of who does neither; whoever is left trains, also who has no cell.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    by: Literal["patient", "site", "device", "time", "fold"] = "patient"
    test: float = Field(default=0.2, gt=0, lt=1)
    seed: int = 0
    stratify: str | None = None
    before: date | None = None
    steady: bool = False
    folds: int | None = Field(default=None, ge=2)
    turn: int = Field(default=0, ge=0)
    column: str = "fold"
    tests: tuple[str, ...] = Field(default=("test",), min_length=1)
    leave: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _dated(self) -> SplitSpec:
        if (self.by == "time") != (self.before is not None):
            raise ValueError("a split by time needs `before`, a date, and no other split has one")
        return self

    @model_validator(mode="after")
    def _parted(self) -> SplitSpec:
        if self.folds is not None and self.by in ("time", "fold"):
            raise ValueError(f"`folds` of a split by {self.by}, whose parts are given: leave one out")
        if self.turn >= (self.folds or 1):
            raise ValueError(f"turn {self.turn} of {self.folds or 'no'} folds: they are counted from 0")
        if self.by != "fold" and {"column", "tests", "leave"} & self.model_fields_set - _defaults(self):
            raise ValueError("`column`, `tests` and `leave` are of a split by fold: say `by: fold`")
        if both := {_word(cell) for cell in self.tests} & {_word(cell) for cell in self.leave}:
            raise ValueError(f"the part {sorted(both)[0]!r} in `tests` and in `leave`: name it once")
        return self

    def seen(self, where: str | None) -> str | None:
        """The condition on the records that leaves what this split lets anybody see: by time, nothing late of those who came early."""
        if self.before is None:
            return where
        early = f"time < timestamp '{self.before}'"
        first = f"select patient from records where {early}" + (f" and (\n{where}\n)" if where else "")
        seen = f"(time is null or {early} or patient not in ({first}))"
        return f"(\n{where}\n) and {seen}" if where else seen


def _word(cell: object) -> str:
    """A cell as parts are compared: a number read from a table is the same as one written in a recipe."""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip().lower()


def _defaults(spec: SplitSpec) -> set[str]:
    """The fields that stand as they are by default, as in a recipe that was written out."""
    return {name for name, field in type(spec).model_fields.items() if getattr(spec, name) == field.default}


@dataclass(frozen=True, slots=True)
class Split:
    """The patients of each side, sorted, and the hash of both."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    hash: str

    @classmethod
    def of(cls, train: Sequence[str], test: Sequence[str]) -> Split:
        """A split with its hash: blake2b-128 of the two sorted lists."""
        sides = (tuple(sorted(train)), tuple(sorted(test)))
        return cls(*sides, hashlib.blake2b(json.dumps(sides).encode(), digest_size=16).hexdigest())


def groups(found: Sequence[Record], by: str, tied: Iterable[tuple[str, str]] = ()) -> dict[str, list[str]]:
    """The patients that stay together, under the least of their names: those tied, and by site or device all who were ever there."""
    parent = {patient: patient for patient in signatures(found)}

    def top(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    at: dict[str, str] = {}
    places = [(r.patient, getattr(r, by)) for r in found if r.patient in parent] if by in ("site", "device") else []
    pairs = [(patient, at.setdefault(place, patient)) for patient, place in places if place]
    for one, other in (*pairs, *tied):
        first, second = sorted((top(one), top(other)))
        parent[second] = first
    members: dict[str, list[str]] = {}
    for patient in sorted(parent):
        members.setdefault(top(patient), []).append(patient)
    return members


def split(
    found: Sequence[Record],
    spec: SplitSpec,
    load: Callable[[Record], Payload] | None = None,
    labels: Mapping[str, object] | None = None,
) -> Split:
    """Deal the patients into train and test.

    Patients tied by near-duplicate images or copied notes (when `load` is given), or by site, go together. Groups are ordered by a keyed
    hash of their names and dealt within each stratum (modalities, and the label's class), so that adding a patient moves
    no other across strata, and the order of records does not matter.

    Args:
        found: the records; only patients with something that a model may read are dealt.
        spec: how.
        load: record → payload, to find near-duplicates.
        labels: patient → class (a number or a word); other labels do not count.
    Raises:
        SplitError: one side would be empty, or have one class of a label that has two.
    """
    signature = signatures(found)
    tied = ties(inputs(found), load) if load is not None else set()
    classes = {p: str(v) for p, v in (labels or {}).items() if isinstance(v, int | str) and p in signature}
    if spec.before is not None:
        train, test = _before(found, signature, tied, spec.before)
        members = {p: [p] for p in signature}
    elif spec.by == "fold":
        train, test = _given(found, signature, tied, spec)
        members = {p: [p] for p in signature}
    else:
        members = groups(found, spec.by, tied)
        if spec.steady:
            members = _renamed(members, found, spec.by)
        strata: dict[str, list[str]] = {}
        for name, patients in members.items():
            known = sorted(classes[p] for p in patients if p in classes)
            words = min(signature[p] for p in patients) if spec.by == "patient" else ""
            strata.setdefault(f"{words} {known[0] if known else '-'}", []).append(name)
        train, test = _deal(members, [strata[k] for k in sorted(strata)], spec)
        if not spec.folds and not (train and test):  # strata too small to have a share each
            train, test = _deal(members, [list(members)], spec)
    if not train or not test:
        raise SplitError(
            f"a split of {len(signature)} patients in {len(members)} groups with an empty side",
            "patients on both sides",
            "change the split's share of test patients, its date, folds or parts, or give more patients or sites",
        )
    _both_classes(classes, train, test, spec)
    return Split.of(train, test)


def _before(
    found: Sequence[Record], patients: Iterable[str], tied: Iterable[tuple[str, str]], day: date
) -> tuple[list[str], list[str]]:
    """Who came before a day, and who first came on it or after it and is no near-duplicate of the others."""
    start = datetime.combine(day, time())
    dated = {r.patient for r in found if r.time}
    early = {r.patient for r in found if r.time and r.time < start}
    sides = {p: p in early or p not in dated for p in patients}
    members = groups(found, "patient", tied)
    copied = {p for group in members.values() if any(sides[p] for p in group) for p in group}
    return [p for p in sides if sides[p]], [p for p in sides if p not in copied]


def _given(
    found: Sequence[Record], patients: Iterable[str], tied: Iterable[tuple[str, str]], spec: SplitSpec
) -> tuple[list[str], list[str]]:
    """Who is in the test part and who in none that is named, without near-duplicates of those who test.

    Raises:
        SplitError: nobody is in the test part, or somebody in that and in another.
    """
    check_column(found, spec.column, "the split by fold")
    parts: dict[str, set[str]] = {p: set() for p in patients}
    for record in found:
        if record.patient in parts and (cell := record.attributes.get(spec.column)) is not None:
            parts[record.patient].add(_word(cell))
    tests, leave = ({_word(cell) for cell in cells} for cells in (spec.tests, spec.leave))
    test = {p for p, mine in parts.items() if mine & tests}
    if not test:
        there = sorted({part for mine in parts.values() for part in mine})
        raise SplitError(
            f"a split whose test part is {' or '.join(spec.tests)}, in which nobody is",
            f"a part of {spec.column!r}: " + ", ".join(there[:20]),
            "correct `tests` in the recipe",
        )
    if torn := [p for p in test if parts[p] - tests]:
        raise SplitError(
            f"{len(torn)} patients of whom {spec.column!r} says that they test and that they do not",
            "each patient in one part",
            "correct the column, or split by patient",
        )
    members = groups(found, "patient", tied)
    copied = {p for group in members.values() if test & set(group) for p in group}
    return [p for p, mine in parts.items() if p not in copied and not mine & leave], sorted(test)


def _renamed(members: Mapping[str, list[str]], found: Sequence[Record], by: str) -> dict[str, list[str]]:
    """The groups under the least of their sites' (or devices') names, which a new patient does not change."""
    places: dict[str, str] = {}
    for record in found if by in ("site", "device") else ():
        if place := getattr(record, by):
            places[record.patient] = min(places.get(record.patient, place), place)
    called = lambda name, patients: min((places[p] for p in patients if p in places), default=name)
    return {f"{by} {called(name, patients)}": patients for name, patients in members.items()}


def _deal(
    members: Mapping[str, list[str]], strata: Sequence[list[str]], spec: SplitSpec
) -> tuple[list[str], list[str]]:
    train, test = [], []
    place = lambda n: hashlib.blake2b(f"{spec.seed}\x00{n}".encode(), digest_size=8).digest()
    if spec.steady:
        low, share = (spec.turn / spec.folds, 1 / spec.folds) if spec.folds else (0.0, spec.test)
        for name, patients in members.items():
            here = int.from_bytes(place(name), "big") / 2**64
            (test if low <= here < low + share else train).extend(patients)
        return train, test
    if spec.folds:
        return _turn(members, [sorted(names, key=place) for names in strata], spec.folds, spec.turn)
    for number, names in enumerate(strata):
        names = sorted(names, key=place)
        size = sum(len(members[n]) for n in names)
        wanted = size * spec.test + (0.5 if number % 2 else 0.49)  # halves go to a side in turn
        taken = 0
        for name in names:
            side = test if taken + len(members[name]) <= wanted else train
            taken += len(members[name]) if side is test else 0
            side.extend(members[name])
    return train, test


def _turn(
    members: Mapping[str, list[str]], strata: Sequence[list[str]], folds: int, turn: int
) -> tuple[list[str], list[str]]:
    """The patients of all folds but one, and that one's: each group goes where its stratum has fewest so far, the largest first."""
    dealt: list[list[str]] = [[] for _ in range(folds)]
    for names in strata:
        here = [0] * folds
        for name in sorted(
            names, key=lambda n: -len(members[n])
        ):  # a stable sort: those of one size stay in their order
            least = min(range(folds), key=lambda k: (here[k], len(dealt[k]), k))
            here[least] += len(members[name])
            dealt[least] += members[name]
    return [p for k, part in enumerate(dealt) if k != turn for p in part], dealt[turn]


def _both_classes(classes: Mapping[str, str], train: Sequence[str], test: Sequence[str], spec: SplitSpec) -> None:
    if not classes:
        return
    for name, side in (("train", train), ("test", test)):
        has = sorted({classes[p] for p in side if p in classes})
        if len(has) < 2:
            counts = ", ".join(f"{n} of {word}" for word, n in sorted(Counter(classes.values()).items()))
            raise SplitError(
                f"a {name} side with {f'no class but {has[0]}' if has else 'no class'} of {spec.stratify or 'the label'} "
                f"(patients in all: {counts})",
                "two classes on both sides",
                "change the split's share of test patients or its seed, or label more patients of the rare class",
            )
