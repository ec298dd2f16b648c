"""Realism: Gaussians whose distance is known, samples of one distribution, supports that are apart, equal, or one in the other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyclinic.trust import EvidenceError
from polyclinic.trust.measures.realism import (  # fmt: skip
    NAMES,
    Space,
    distances,
    frechet,
    frechet_of,
    kernel_distance,
    manifold,
    polynomial,
    realism,
)


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def lies(real: np.ndarray, drawn: np.ndarray, k: int = 5):
    return manifold(distances(real, real), distances(drawn, drawn), distances(real, drawn), k)


def test_the_distance_of_gaussians_is_the_known_one() -> None:
    """Of axes that stand alike, |μ - μ'|² + Σ (σ - σ')²; turning both changes nothing."""
    one, other = np.array([1.0, 2.0, 0.5]), np.array([3.0, 2.0, 0.0])
    shift = np.array([1.0, 0.0, -2.0])
    wanted = 5.0 + 4.0 + 0.0 + 0.25
    turn = np.linalg.qr(draw(0, 3, 3))[0]
    for r in (np.eye(3), turn):
        found = frechet(np.zeros(3), r @ np.diag(one**2) @ r.T, r @ shift, r @ np.diag(other**2) @ r.T)
        assert found == pytest.approx(wanted, abs=1e-6)  # a root near zero loses half of the digits
    assert frechet(shift, np.diag(one), shift, np.diag(one)) == pytest.approx(0, abs=1e-6)


def test_it_is_the_matrix_root_of_scipy() -> None:
    """Where axes differ: tr (Σ Σ')^½ by the root itself."""
    from scipy.linalg import sqrtm

    a, b = (np.cov(draw(seed, 9, 4), rowvar=False) for seed in (1, 2))
    wanted = np.trace(a) + np.trace(b) - 2 * np.trace(np.real(sqrtm(a @ b)))
    assert frechet(np.zeros(4), a, np.zeros(4), b) == pytest.approx(float(wanted), abs=1e-8)


def test_samples_come_to_the_gaussians_distance() -> None:
    found = frechet_of(draw(0, 20000, 2), 2 * draw(1, 20000, 2) + 3)
    assert found == pytest.approx(2 * 9 + 2 * 1, rel=0.03)


def test_the_kernel_distance_is_unbiased() -> None:
    """Of one distribution it is 0 on average, with as many below as above; the biased one is far above."""
    found = np.array([kernel_distance(draw(2 * n, 30, 4), draw(2 * n + 1, 30, 4)) for n in range(200)])
    error = found.std() / np.sqrt(len(found))
    assert abs(found.mean()) < 3 * error
    assert 0.35 < (found < 0).mean() < 0.75
    biased = np.mean([
        polynomial(x := draw(2 * n, 30, 4), x).mean() + polynomial(y := draw(2 * n + 1, 30, 4), y).mean()
        - 2 * polynomial(x, y).mean() for n in range(40)
    ])  # fmt: skip
    assert biased > 10 * error
    assert kernel_distance(draw(0, 200, 4), draw(1, 200, 4) + 1) > 20 * found.std()


def test_the_kernel_distance_is_that_of_a_sum_over_pairs() -> None:
    x, y = draw(0, 7, 3), draw(1, 5, 3)
    k = lambda a, b: (float(a @ b) / 3 + 1) ** 3
    inside = lambda s: np.mean([k(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j])
    assert kernel_distance(x, y) == pytest.approx(
        inside(x) + inside(y) - 2 * np.mean([[k(a, b) for b in y] for a in x])
    )


def test_supports_apart_equal_and_one_in_the_other() -> None:
    real, same, far = draw(0, 400, 2), draw(1, 400, 2), draw(2, 400, 2) + 100
    apart = lies(real, far)
    assert (apart.precision, apart.recall, apart.density, apart.coverage) == (0, 0, 0, 0)
    equal = lies(real, same)
    assert min(equal.precision, equal.recall, equal.coverage) > 0.9
    assert equal.density == pytest.approx(1, abs=0.1)
    dropped = lies(np.concatenate([real, far]), np.concatenate([same, same + 0.01]))  # a mode is never drawn
    assert dropped.precision > 0.9
    assert dropped.recall == pytest.approx(0.5, abs=0.05)
    assert dropped.coverage == pytest.approx(0.5, abs=0.05)
    invented = lies(
        np.concatenate([real, same]), np.concatenate([draw(3, 400, 2), far])
    )  # and one that is not there is
    assert invented.precision == pytest.approx(0.5, abs=0.05)
    assert invented.recall > 0.9


def test_an_outlier_counts_less_in_density_than_in_precision() -> None:
    """The case of Naeem et al. 2020, figure 1: one real outlier's neighbourhood takes in all that was drawn about it."""
    real = np.concatenate([draw(0, 200, 2), [[50.0, 0.0]]])
    drawn = draw(1, 200, 2) + np.array([40, 0])
    found = lies(real, drawn)
    assert found.precision > 0.9
    assert found.density < 0.5
    assert found.coverage < 0.02


@given(st.integers(0, 1000), st.integers(12, 40), st.integers(1, 6))
def test_shares_are_shares(seed: int, n: int, k: int) -> None:
    found = lies(draw(seed, n, 3), draw(seed + 1, n, 3), k)
    assert all(0 <= v <= 1 for v in (found.precision, found.recall, found.coverage))
    assert 0 <= found.density <= n / k


def space(drawn: np.ndarray, seed: int = 0) -> Space:
    return Space("features", draw(seed, 300, 6), draw(seed + 1, 80, 6), drawn, "a test")


def test_figures_of_a_perfect_generator_are_those_of_the_floor_and_of_a_poor_one_are_not() -> None:
    fresh, off = realism(space(draw(9, 80, 6)), "s"), realism(space(0.3 * draw(9, 80, 6) + 1), "s")
    assert [f.name for f in fresh] == [f"{n}_features{e}" for e in ("", "_floor") for n in NAMES]
    told, poor = ({f.name: f for f in found} for found in (fresh, off))
    for name in NAMES:
        assert told[f"{name}_features"].low <= told[f"{name}_features_floor"].high
        assert told[f"{name}_features_floor"].low <= told[f"{name}_features"].high
    assert told["kernel_features"].low < 0 < told["kernel_features"].high
    assert poor["kernel_features"].low > told["kernel_features_floor"].high
    assert poor["frechet_features"].low > told["frechet_features_floor"].high
    assert poor["recall_features"].high < told["recall_features_floor"].low
    assert all(
        (f.n, f.split) == (80, "s") and "components of a test" in f.note and f.low <= f.value <= f.high for f in fresh
    )


def test_an_interval_holds_what_more_samples_say() -> None:
    """The interval of the kernel distance holds what thousands of records say in nearly all of 20 draws."""
    axes = np.vstack(
        [np.eye(2), -np.eye(2)] * 15
    )  # as many training records in all directions: the space is scaled alike each time
    scale = np.sqrt(0.5)
    wanted = kernel_distance(draw(100, 1500, 2) / scale, (draw(101, 1500, 2) + 0.5) / scale)
    inside = 0
    for seed in range(20):
        s = Space("features", axes, draw(3 * seed, 60, 2), draw(3 * seed + 1, 60, 2) + 0.5)
        found = realism(s, "s", subsets=40)[1]
        inside += found.low <= wanted <= found.high
    assert inside >= 17


def test_a_share_that_never_moves_has_a_bound_all_the_same() -> None:
    told = {f.name: f for f in realism(space(draw(9, 80, 6) + 100), "s", subsets=10)}
    found = told["precision_features"]
    assert (found.value, found.low) == (0, 0)
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 80))
    assert "exact" in found.note
    assert np.isnan(told["density_features"].low)


def test_too_few_are_refused() -> None:
    with pytest.raises(EvidenceError, match="11 drawn, 80 held-out"):
        realism(space(draw(0, 11, 6)), "s")
