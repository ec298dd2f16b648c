from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.cohort import Sampler

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
