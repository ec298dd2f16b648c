"""The nearest: exactly where they are few, nearly all of them where they are many, and the same from the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from polyclinic.inference.nearest import WANTED, Nearest


def unit(n: int, width: int = 24, seed: int = 0, elsewhere: bool = False) -> np.ndarray:
    """In clumps, as patients' vectors are."""
    random, clumps = np.random.default_rng(seed), np.random.default_rng([40, elsewhere]).normal(size=(40, width))
    found = clumps[random.integers(0, 40, n)] + 0.5 * random.normal(size=(n, width))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def truth(vectors: np.ndarray, asked: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-(asked.astype(float) @ vectors.T.astype(float)), axis=1, kind="stable")[:, :k]


def test_few_are_all_compared() -> None:
    vectors, asked = unit(700), unit(9, seed=1)
    alike, found = Nearest.of(vectors).search(asked, 12)
    assert np.array_equal(found, truth(vectors, asked, 12))
    assert np.allclose(alike, np.take_along_axis(asked @ vectors.T, found, 1))
    assert bool((np.diff(alike) <= 0).all())


def test_more_than_there_are_is_all_of_them() -> None:
    alike, found = Nearest.of(unit(5)).search(unit(2, seed=1), 12)
    assert found.shape == alike.shape == (2, 5)
    assert sorted(found[0].tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_of_many_the_lists_find_what_they_promise(elsewhere: bool) -> None:
    pytest.importorskip("faiss")
    vectors, asked = unit(6000), unit(200, seed=1, elsewhere=elsewhere)
    told = unit(500, seed=2, elsewhere=True) if elsewhere else None
    made = Nearest.of(vectors, told, exact=1000)
    assert made.vectors is None
    assert made.recall >= WANTED
    found, true = made.search(asked, 10)[1], truth(vectors, asked, 10)
    shared = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), true.tolist(), strict=True)])
    assert shared >= 0.96  # of others than those by whom it was set
    assert np.allclose(made.vector(17), vectors[17])


@pytest.mark.parametrize("exact", [10_000, 500])
def test_from_the_file_it_is_the_same(tmp_path: Path, exact: int) -> None:
    if exact == 500:
        pytest.importorskip("faiss")
    vectors, asked = unit(2000), unit(4, seed=1)
    made = Nearest.of(vectors, exact=exact)
    made.write(tmp_path / "image")
    again = Nearest.open(tmp_path / "image", made.recall)
    for one, other in zip(made.search(asked, 5), again.search(asked, 5), strict=True):
        assert np.array_equal(one, other)
    assert np.array_equal(made.vector(3), again.vector(3))
