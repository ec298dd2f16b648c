from __future__ import annotations

import hashlib
import json
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from polyclinic.cohort import Cohort, Split, SplitError, SplitSpec, guard, labels_of, split
from polyclinic.cohort.labels import Label
from polyclinic.schema import Modality, Payload, Record


def people(n: int, sites: int = 0) -> list[Record]:
    """n patients with a table, every third with an image too."""
    found = []
    for i in range(n):
        site = f"S{i % sites}" if sites else None
        found.append(Record(f"t{i}", f"P{i:03d}", None, Modality.TABLE, "table", f"{i}", site))
        if i % 3 == 0:
            found.append(Record(f"i{i}", f"P{i:03d}", None, Modality.IMAGE, "CR", f"{i}", site))
    return found


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(4, 80), test=st.floats(0.2, 0.6), seed=st.integers(0, 999), shuffle=st.randoms(use_true_random=False)
)
def test_a_split_is_disjoint_covers_all_and_depends_on_nothing_but_its_seed(
    n: int, test: float, seed: int, shuffle: random.Random
) -> None:
    found = people(n)
    parted = split(found, SplitSpec(test=test, seed=seed))
    assert not set(parted.train) & set(parted.test)
    assert set(parted.train) | set(parted.test) == {r.patient for r in found}
    assert list(parted.train) == sorted(parted.train)
    mixed = list(found)
    shuffle.shuffle(mixed)
    assert split(mixed, SplitSpec(test=test, seed=seed)) == parted
    assert abs(len(parted.test) / n - test) <= 2 / n  # two strata round, each by less than one


def test_another_seed_is_another_split_and_the_hash_tells() -> None:
    one, other = (split(people(50), SplitSpec(seed=s)) for s in (0, 1))
    assert one.test != other.test
    assert one.hash != other.hash
    sides = json.dumps([list(one.train), list(one.test)])
    assert one.hash == hashlib.blake2b(sides.encode(), digest_size=16).hexdigest()
    assert Split.of(reversed_(one.train), one.test) == one


def reversed_(names: tuple[str, ...]) -> list[str]:
    return list(reversed(names))


def test_patterns_of_modalities_and_classes_are_dealt_evenly() -> None:
    found = people(300)
    labels = {f"P{i:03d}": int(i % 10 == 0) for i in range(300)}
    parted = split(found, SplitSpec(test=0.2), labels=labels)
    both = lambda names: Counter((labels[p], int(p[1:]) % 3 == 0) for p in names)
    train, test = both(parted.train), both(parted.test)
    assert all(abs(test[k] / (test[k] + train[k]) - 0.2) < 0.06 for k in train)


def test_adding_a_patient_moves_hardly_another() -> None:
    before, after = split(people(200), SplitSpec()), split(people(201), SplitSpec())
    assert len(set(before.test) ^ set(after.test)) <= 2


def test_a_site_stays_together_whichever_way_it_is_reached() -> None:
    found = people(60, sites=10)
    parted = split(found, SplitSpec(by="site", test=0.3))
    at = lambda names: {r.site for r in found if r.patient in names}
    assert not at(parted.train) & at(parted.test)
    assert parted.test
    # A patient seen at two sites ties them: then neither the records' order nor the last of them decides.
    bridge = Record("b", "P000", None, Modality.TABLE, "table", "b", "S1")
    for order in (1, -1):
        joined = split([*found, bridge][::order], SplitSpec(by="site", test=0.3))
        sides = [side for side in (joined.train, joined.test) if {"P000", "P010", "P001", "P011"} & set(side)]
        assert len(sides) == 1
        assert joined == split([bridge, *found], SplitSpec(by="site", test=0.3))


def picture(seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed).normal(size=(1, 64, 64)).cumsum(axis=1).cumsum(axis=2)
    return draw.astype(np.float32)


@pytest.mark.parametrize("by", ["patient", "site"])
def test_near_duplicates_go_to_one_side(by: str) -> None:
    found = [Record(f"{i:02d}", f"P{i:02d}", None, Modality.IMAGE, "CR", f"{i}", f"S{i // 4}") for i in range(40)]
    copies = {"05": 1, "21": 1, "33": 1}  # one picture of three patients, at three sites
    load = lambda r: Payload(picture(copies.get(r.id, 100 + int(r.id))))
    for seed in range(5):
        parted = split(found, SplitSpec(by=by, test=0.5, seed=seed), load)  # type: ignore[arg-type]
        assert len({"P05", "P21", "P33"} & set(parted.test)) in (0, 3)
        guard(parted.train, parted.test, found, load)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ({f"P{i:03d}": 0 for i in range(20)}, r"no class but 0 .*20 of 0"),
        (
            {f"P{i:03d}": int(i == 3) for i in range(20)},
            r"no class but 0 of finding \(patients in all: 19 of 0, 1 of 1\)",
        ),
        ({"P001": "COVID-19", "P002": "Klebsiella"}, r"a (train|test) side with no class"),
    ],
)
def test_a_split_with_one_class_is_refused(labels: dict[str, object], reason: str) -> None:
    with pytest.raises(SplitError, match=reason):
        split(people(20), SplitSpec(stratify="finding", test=0.2), labels=labels)


def test_survival_times_are_no_classes() -> None:
    assert split(people(20), SplitSpec(), labels={f"P{i:03d}": (3.0, 1.0) for i in range(20)}) == split(
        people(20), SplitSpec()
    )


def test_an_empty_side_is_refused() -> None:
    with pytest.raises(SplitError, match="a split of 1 patients in 1 groups with an empty side"):
        split(people(1), SplitSpec())
    with pytest.raises(SplitError, match="a split of 12 patients in 1 groups"):
        split(people(12, sites=1), SplitSpec(by="site"))


@pytest.mark.parametrize("wrong", [{"test": 0}, {"test": 1}, {"by": "ward"}, {"seeds": 3}])
def test_a_spec_that_is_none_is_refused(wrong: dict) -> None:
    with pytest.raises(ValidationError):
        SplitSpec(**wrong)


def test_the_hospital_splits_and_passes_the_guard(tiny_cohort: Cohort) -> None:
    found = tiny_cohort.records()
    labels = labels_of(found, Label("finding", "class", "finding", ("COVID-19",)))
    parted = split(found, SplitSpec(test=0.4, stratify="finding"), tiny_cohort.load, labels)
    guard(parted.train, parted.test, found, tiny_cohort.load)
    assert {labels[p] for p in parted.test if p in labels} == {0, 1}
