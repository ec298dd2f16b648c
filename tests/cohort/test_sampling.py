from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.cohort import Sampler
from polyclinic.cohort.sampling import alike, rarity

GROUPS = {f"a{i}": "image" for i in range(90)} | {f"b{i}": "image+text" for i in range(10)}


@settings(max_examples=30)
@given(
    groups=st.dictionaries(st.text(min_size=1, max_size=3), st.sampled_from(["x", "y", "z"]), min_size=1, max_size=30),
    batch=st.integers(1, 40), seed=st.integers(0, 9), step=st.integers(0, 1000), temperature=st.floats(0, 1),
)  # fmt: skip
def test_a_batch_is_a_function_of_seed_and_step(
    groups: dict[str, str], batch: int, seed: int, step: int, temperature: float
) -> None:
    drawn = Sampler(groups, batch, seed, temperature).batch(step)
    assert len(drawn) == min(batch, len(groups))
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= set(groups)
    turned = dict(reversed(groups.items()))
    later = Sampler(turned, batch, seed, temperature)
    later.batch(step + 1)  # what was drawn before does not matter
    assert later.batch(step) == drawn


@pytest.mark.parametrize(("temperature", "share"), [(1.0, 0.10), (0.0, 0.50), (0.5, 10**0.5 / (10**0.5 + 90**0.5))])
def test_the_temperature_goes_from_patients_to_patterns(temperature: float, share: float) -> None:
    sampler = Sampler(GROUPS, 8, 0, temperature)
    drawn = Counter(GROUPS[p] for step in range(1500) for p in sampler.batch(step))
    assert drawn["image+text"] / drawn.total() == pytest.approx(share, abs=0.015)


SITES = {p: ("big" if n % 10 else "small") for n, p in enumerate(GROUPS)}


@pytest.mark.parametrize(("temperature", "share"), [(1.0, 0.1), (0.0, 0.5)])
def test_sites_are_balanced_within_a_pattern(temperature: float, share: float) -> None:
    sampler = Sampler(GROUPS, 8, 0, 1.0, sites=SITES, site_temperature=temperature)
    drawn = [p for step in range(1500) for p in sampler.batch(step) if GROUPS[p] == "image"]
    assert sum(SITES[p] == "small" for p in drawn) / len(drawn) == pytest.approx(share, abs=0.02)


def test_at_its_defaults_nothing_is_drawn_otherwise() -> None:
    plain = Sampler(GROUPS, 8, 3, 0.5)
    told = Sampler(GROUPS, 8, 3, 0.5, sites=SITES, site_temperature=1.0, rank=0, world=1)
    assert [plain.batch(s) for s in range(50)] == [told.batch(s) for s in range(50)]


@pytest.mark.parametrize(("power", "share"), [(0.0, 0.1), (1.0, 0.5)])
def test_the_rare_are_drawn_more_often(power: float, share: float) -> None:
    people = {f"p{i:03d}": "image" for i in range(200)}
    labels = {p: "ill" if n % 10 == 0 else "well" for n, p in enumerate(people)}
    sampler = Sampler(people, 4, 0, weights=rarity(labels, power))
    drawn = [labels[p] for step in range(1500) for p in sampler.batch(step)]
    assert drawn.count("ill") / len(drawn) == pytest.approx(share, abs=0.03)


@settings(max_examples=30, deadline=None)
@given(world=st.integers(2, 5), batch=st.integers(1, 9), step=st.integers(0, 1000), hard=st.booleans())
def test_ranks_draw_different_patients_and_a_step_can_be_taken_alone(
    world: int, batch: int, step: int, hard: bool
) -> None:
    harder = (lambda drawn, count: sorted(GROUPS)[:count]) if hard else None
    ranks = [Sampler(GROUPS, batch, 0, rank=r, world=world, harder=harder) for r in range(world)]
    drawn = [ranks[r].batch(step) for r in range(world)]
    assert all(len(set(d)) == batch for d in drawn)
    if not hard:
        assert len({p for d in drawn for p in d}) == batch * world
    assert Sampler(GROUPS, batch, 0, rank=1, world=world, harder=harder).batch(step) == drawn[1]


def test_the_hard_ones_join_the_batch() -> None:
    angle = {p: n * 0.03 for n, p in enumerate(sorted(GROUPS))}
    vectors = {p: np.array([np.cos(a), np.sin(a)]) for p, a in angle.items()}
    nearest = lambda drawn: np.mean([min(abs(angle[p] - angle[q]) for q in drawn if q != p) for p in drawn])
    plain, hard = Sampler(GROUPS, 8, 0), Sampler(GROUPS, 8, 0, harder=alike(vectors), hard=0.5)
    for step in range(20):
        batch = hard.batch(step)
        assert len(set(batch)) == 8
        assert batch == Sampler(GROUPS, 8, 0, harder=alike(vectors), hard=0.5).batch(step)
    assert np.mean([nearest(hard.batch(s)) for s in range(50)]) < 0.5 * np.mean(
        [nearest(plain.batch(s)) for s in range(50)]
    )
    assert hard.batch(1) != plain.batch(1)
    assert alike(vectors)(["a0"], 2) == ["a1", "a10"]  # the next by angle
    lost = Sampler(GROUPS, 8, 0, harder=lambda drawn, count: ["nobody", drawn[0]])
    assert lost.batch(3) == plain.batch(3)  # whom nobody knows, or who is there, does not join
