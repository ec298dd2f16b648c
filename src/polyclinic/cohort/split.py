"""Who trains and who tests: by patient or by site, stratified, with near-duplicates on one side."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
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


def split(
    found: Sequence[Record],
    spec: SplitSpec,
    load: Callable[[Record], Payload] | None = None,
    labels: Mapping[str, object] | None = None,
) -> Split:
    """Deal the patients into train and test.

    Patients tied by near-duplicate images (when `load` is given), or by site, go together. Groups are ordered by a keyed
    hash of their names and dealt within each stratum (modalities, and the label's class), so that adding a patient moves
    no other across strata, and the order of records does not matter.

    Raises:
        SplitError: one side would be empty, or have one class of a label that has two.
    """
    signature = signatures(found)
    group = dict.fromkeys(signature, "")
    tied = ties(inputs(found), load) if load is not None else {}
    site = {r.patient: r.site for r in found if r.site} if spec.by == "site" else {}
    for patient in group:
        group[patient] = f"site {site[patient]}" if patient in site else tied.get(patient, patient)
    members: dict[str, list[str]] = {}
    for patient, name in group.items():
        members.setdefault(name, []).append(patient)
    labels = labels or {}
    strata: dict[str, list[str]] = {}
    for name, patients in members.items():
        known = sorted(str(labels[p]) for p in patients if isinstance(labels.get(p), int))
        words = min(signature[p] for p in patients) if spec.by == "patient" else ""
        strata.setdefault(f"{words} {known[0] if known else '-'}", []).append(name)
    train, test = [], []
    for number, names in enumerate(strata[k] for k in sorted(strata)):
        names.sort(key=lambda n: hashlib.blake2b(f"{spec.seed}\x00{n}".encode(), digest_size=8).digest())
        size = sum(len(members[n]) for n in names)
        # A stratum of one or two gives its share to a side in turn, or small strata would never test.
        wanted = size * spec.test + (0.5 if number % 2 else 0.49)
        taken = 0
        for name in names:
            side = test if taken + len(members[name]) <= wanted else train
            taken += len(members[name]) if side is test else 0
            side.extend(members[name])
    if not train or not test:
        raise SplitError(
            f"a split of {len(signature)} patients in {len(members)} groups with an empty side",
            "patients on both sides",
            "change `split.test`, or give more patients or sites",
        )
    _both_classes(labels, train, test, spec)
    return Split.of(train, test)


def _both_classes(labels: Mapping[str, object], train: Sequence[str], test: Sequence[str], spec: SplitSpec) -> None:
    whole = {v for v in labels.values() if isinstance(v, int)}
    if not whole:
        return
    for name, side in (("train", train), ("test", test)):
        classes = {labels[p] for p in side if p in labels}
        if len(classes) < 2:
            counts = ", ".join(
                f"{sum(v == c for v in labels.values())} patients of class {c}" for c in sorted(whole, key=str)
            )
            raise SplitError(
                f"a {name} side with one class of {spec.stratify or 'the label'} ({counts} in all)",
                "both classes on both sides",
                "change `split.test` or `split.seed`, or label more patients of the rare class",
            )
