"""Who trains and who tests: by patient or by site, stratified, with near-duplicate images and copied notes on one side."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ..schema import Payload, PolyclinicError, Record
from .catalogue import inputs, signatures
from .leakage import ties


class SplitError(PolyclinicError):
    """A split that would test nothing."""


class SplitSpec(BaseModel):
    """How a recipe asks for a split.

    Args:
        by: what stays together; a site holds all its patients.
        test: the share of patients that test.
        seed: of the order.
        stratify: a task whose classes are dealt evenly, besides the patients' modalities.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    by: Literal["patient", "site"] = "patient"
    test: float = Field(default=0.2, gt=0, lt=1)
    seed: int = 0
    stratify: str | None = None


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
    """The patients that stay together, under the least of their names: those tied, and by site all who were ever there."""
    parent = {patient: patient for patient in signatures(found)}

    def top(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    at: dict[str, str] = {}
    pairs = [
        (r.patient, at.setdefault(r.site, r.patient)) for r in found if by == "site" and r.site and r.patient in parent
    ]
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
    members = groups(found, spec.by, ties(inputs(found), load) if load is not None else ())
    classes = {p: str(v) for p, v in (labels or {}).items() if isinstance(v, int | str) and p in signature}
    strata: dict[str, list[str]] = {}
    for name, patients in members.items():
        known = sorted(classes[p] for p in patients if p in classes)
        words = min(signature[p] for p in patients) if spec.by == "patient" else ""
        strata.setdefault(f"{words} {known[0] if known else '-'}", []).append(name)
    train, test = _deal(members, [strata[k] for k in sorted(strata)], spec)
    if not train or not test:  # strata too small to have a share each
        train, test = _deal(members, [list(members)], spec)
    if not train or not test:
        raise SplitError(
            f"a split of {len(signature)} patients in {len(members)} groups with an empty side",
            "patients on both sides",
            "change the split's share of test patients, or give more patients or sites",
        )
    _both_classes(classes, train, test, spec)
    return Split.of(train, test)


def _deal(
    members: Mapping[str, list[str]], strata: Sequence[list[str]], spec: SplitSpec
) -> tuple[list[str], list[str]]:
    train, test = [], []
    for number, names in enumerate(strata):
        names = sorted(names, key=lambda n: hashlib.blake2b(f"{spec.seed}\x00{n}".encode(), digest_size=8).digest())
        size = sum(len(members[n]) for n in names)
        wanted = size * spec.test + (0.5 if number % 2 else 0.49)  # halves go to a side in turn
        taken = 0
        for name in names:
            side = test if taken + len(members[name]) <= wanted else train
            taken += len(members[name]) if side is test else 0
            side.extend(members[name])
    return train, test


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
