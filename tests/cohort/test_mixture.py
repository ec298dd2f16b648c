"""A mixture gives each part its share: at each step but for a patient, and in the long run exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.cohort import Cohort, Sampler
from polyclinic.cohort.mixture import Mixture, MixtureError, Part, parts_of
from polyclinic.schema import Modality, Record


def record(patient: str) -> Record:
    return Record(patient, patient, None, Modality.TEXT, "note", "")


def mixture(
    sizes: Mapping[str, int], shares: Mapping[str, float], batch: int, seed: int = 0, rank: int = 0, world: int = 1
) -> Mixture:
    people = {name: [f"{name}{i}" for i in range(n)] for name, n in sizes.items()}
    parts = [Part(name, shares[name], [record(p) for p in people[name]]) for name in sizes]
    groups = {p: "text" for own in people.values() for p in own}
    return Mixture(parts, groups, lambda g: Sampler(g, batch, seed, rank=rank, world=world))


PAPER = {"biomedical": 15.0, "clinical": 1.0, "general": 4.0}


@settings(max_examples=40, deadline=None)
@given(
    shares=st.lists(st.floats(0.01, 20), min_size=1, max_size=4), batch=st.integers(1, 24),
    seed=st.integers(0, 9), first=st.integers(0, 2_000_000),
)  # fmt: skip
def test_the_shares_are_kept_at_each_step_and_in_the_long_run(
    shares: list[float], batch: int, seed: int, first: int
) -> None:
    names = "abcd"[: len(shares)]
    told = dict(zip(names, shares, strict=True))
    drawer = mixture(dict.fromkeys(names, 25), told, batch, seed)
    wanted = {n: batch * s / sum(shares) for n, s in told.items()}
    steps, total = 400, Counter[str]()
    for step in range(first, first + steps):
        counts = drawer.counts(step)
        assert sum(counts.values()) == batch
        assert all(abs(counts[n] - wanted[n]) < 1 for n in names)
        total.update(counts)
    for n in names:  # by Kuipers & Niederreiter the error of the golden sequence is below 3 + 2.1 log T, of two bounds
        assert abs(total[n] - steps * wanted[n]) < 12


def test_the_papers_mixture_in_batches_of_sixteen() -> None:
    drawer = mixture({"biomedical": 30, "clinical": 3, "general": 9}, PAPER, 16)
    drawn = Counter(p.rstrip("0123456789") for step in range(1000) for p in drawer.batch(step))
    assert drawn["biomedical"] == 12_000  # 15 of 20 is whole: twelve in each batch
    assert drawn["clinical"] == pytest.approx(800, abs=4)
    assert drawn["general"] == pytest.approx(3200, abs=4)


def test_a_batch_is_a_function_of_seed_and_step_and_ranks_share_it() -> None:
    sizes = {"biomedical": 30, "clinical": 3, "general": 9}
    drawer, later = mixture(sizes, PAPER, 8), mixture(sizes, PAPER, 8)
    later.batch(41)  # what was drawn before does not matter
    assert later.batch(7) == drawer.batch(7)
    assert mixture(sizes, PAPER, 8, seed=1).batch(7) != drawer.batch(7)
    ranks = [mixture(sizes, PAPER, 4, rank=rank, world=2).batch(7) for rank in range(2)]
    assert sorted(ranks[0] + ranks[1]) == sorted({*ranks[0], *ranks[1]})
    assert len(ranks[0]) == len(ranks[1]) == 4
    assert Counter(p[0] for p in ranks[0] + ranks[1]) == Counter({n[0]: k for n, k in drawer.counts(7).items() if k})


def test_parts_that_cannot_be_drawn_are_refused() -> None:
    with pytest.raises(MixtureError, match=r"'clinical' of 2 training patients[\s\S]*at least 3"):
        mixture({"biomedical": 30, "clinical": 2}, {"biomedical": 3, "clinical": 1}, 9)
    both = [Part("a", 1, [record("x"), record("y")]), Part("b", 1, [record("y"), record("z")])]
    with pytest.raises(MixtureError, match="1 patients both in the part 'a' and in the part 'b'"):
        Mixture(both, dict.fromkeys("xyz", "text"), lambda g: Sampler(g, 2, 0))
    with pytest.raises(MixtureError, match="'b' of 0 training patients"):
        Mixture(both, {"x": "text"}, lambda g: Sampler(g, 1, 0))


def test_a_part_is_what_its_condition_says_of_the_recipes_cohort(tiny_cohort: Cohort) -> None:
    told = {"notes": ("modality = 'text' -- words", 2.0), "images": ("modality = 'image'", 1.0)}
    notes, images = parts_of(tiny_cohort, told, "patient <> 'CXR-0005'")
    assert {r.modality for r in notes.records} == {Modality.TEXT}
    assert {r.modality for r in images.records} == {Modality.IMAGE}
    assert "CXR-0005" not in {r.patient for r in (*notes.records, *images.records)}
    with pytest.raises(MixtureError, match="no record in the part 'none'"):
        parts_of(tiny_cohort, {"none": ("kind = 'no such'", 1.0)})
