from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from polyclinic.schema import Modality
from polyclinic.trust.modalities.design import MOST, asked, columns, every, pairs, presence

MODALITIES = tuple(Modality)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_all_subsets(n: int) -> None:
    found = every(MODALITIES[:n])
    assert len(found) == len(set(found)) == 2**n - 1
    assert [len(s) for s in found] == sorted(len(s) for s in found)
    assert found[-1] == MODALITIES[:n]


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_all_of_a_few_are_asked(n: int) -> None:
    assert asked(MODALITIES[:n]) == every(MODALITIES[:n])
    assert len(every(MODALITIES[:n])) <= MOST


@pytest.mark.parametrize("n", [5, 6, 7, 9])
def test_of_many_a_design_from_which_every_pair_can_be_told(n: int) -> None:
    chosen = MODALITIES[:n]
    found = asked(chosen)
    assert len(found) == len(set(found)) < 2**n - 1
    assert [len(s) for s in found] == sorted(len(s) for s in found)
    for size in (1, n - 1, n):
        assert {s for s in found if len(s) == size} == set(combinations(chosen, size))
    terms = columns(presence(found, chosen))
    assert np.linalg.matrix_rank(terms) == terms.shape[1] == n + len(pairs(n))
    assert len(found) > terms.shape[1]  # some are left by which it is seen how far the form is from the truth


@pytest.mark.parametrize("n", [6, 9])
def test_the_design_is_balanced_and_better_than_chance(n: int) -> None:
    chosen = MODALITIES[:n]
    found = asked(chosen)
    middle = presence([s for s in found if 1 < len(s) < n - 1], chosen)
    assert np.ptp(middle.sum(0)) <= max(3, 0.35 * len(middle))
    rest = [s for s in every(chosen) if 1 < len(s) < n - 1]
    always = [s for s in every(chosen) if len(s) in (1, n - 1, n)]
    info = lambda subsets: np.linalg.slogdet(
        (x := columns(presence(subsets, chosen))).T @ x + 1e-3 * np.eye(n + len(pairs(n)))
    )[1]
    random = np.random.default_rng(0)
    by_chance = [info([*always, *(rest[i] for i in random.permutation(len(rest))[: len(middle)])]) for _ in range(50)]
    assert info(found) > max(by_chance)


def test_the_same_seed_gives_the_same_design() -> None:
    assert asked(MODALITIES[:7], seed=3) == asked(MODALITIES[:7], seed=3)
