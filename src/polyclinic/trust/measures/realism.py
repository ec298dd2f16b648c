"""Realism: how far what a model draws is from what there is, in a space of features, beside how far real records are from real ones.

    drawn ──┐                          ┌── Fréchet distance of two Gaussians
    held ───┼── features ── leading ───┼── kernel distance (KID), unbiased
    train ──┘               components └── precision, recall, density, coverage by nearest neighbours

Each is told of what was drawn against held-out records, and of as many training records against the same (`_floor`): that is what a perfect
generator could reach with so few. One record a patient, so that what is resampled is patients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...schema import Figure
from .intervals import EvidenceError, Interval, exact

MOST, NEIGHBOURS, SUBSETS = 64, 5, 200
"""Components that are kept; neighbours whose distance is a record's radius (Naeem et al. 2020, section 4); subsets for an interval."""
GAUSSIAN = 32
"""Components of the Fréchet distance: of more, so few records have no covariance."""
FEWEST = 2 * (NEIGHBOURS + 1)
"""Records of which half have neighbours enough."""


def frechet(mean: np.ndarray, covariance: np.ndarray, mean2: np.ndarray, covariance2: np.ndarray) -> float:
    """The squared Fréchet distance of two Gaussians: |μ - μ'|² + tr(Σ + Σ' - 2 (Σ Σ')^½) (Dowson & Landau 1982; Heusel et al. 2017).

    Args:
        mean, mean2: (k,).
        covariance, covariance2: (k k).
    """
    # The eigenvalues of ΣΣ' are those of Σ^½ Σ' Σ^½, which is symmetric: real, and not below zero but for rounding.
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    crossed = np.sqrt(np.clip(np.linalg.eigvalsh(root @ covariance2 @ root), 0, None)).sum()
    return float(np.square(mean - mean2).sum() + np.trace(covariance) + np.trace(covariance2) - 2 * crossed)


def frechet_of(real: np.ndarray, drawn: np.ndarray) -> float:
    """The same of the Gaussians of (n k) and (m k): the smaller the samples, the larger it is even of one distribution."""
    told = [(x.mean(0), np.atleast_2d(np.cov(x, rowvar=False))) for x in (real, drawn)]
    return frechet(*told[0], *told[1])


def polynomial(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n m) of the kernel (x·y / k + 1)³ (Bińkowski et al. 2018, section 4)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def unbiased(real: np.ndarray, drawn: np.ndarray, crossed: np.ndarray) -> float:
    """The squared maximum mean discrepancy of kernel matrices (n n), (m m) and (n m), unbiased (Gretton et al. 2012, equation 3)."""
    n, m = crossed.shape
    off = lambda k, count: (k.sum() - np.trace(k)) / (count * (count - 1))
    return float(off(real, n) + off(drawn, m) - 2 * crossed.mean())


def kernel_distance(real: np.ndarray, drawn: np.ndarray) -> float:
    """KID of (n k) and (m k): 0 on average where both are of one distribution, and so at times below it."""
    return unbiased(polynomial(real, real), polynomial(drawn, drawn), polynomial(real, drawn))


def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n m) Euclidean."""
    squared = np.square(x).sum(1)[:, None] + np.square(y).sum(1)[None] - 2 * (x @ y.T)
    return np.sqrt(np.clip(squared, 0, None))


@dataclass(frozen=True, slots=True)
class Manifold:
    """Where two samples lie in each other's neighbourhoods.

    Args:
        precision: share of the drawn within the real ones' neighbourhoods (Kynkäänniemi et al. 2019).
        recall: share of the real within the drawn ones'.
        density: how many real neighbourhoods a drawn one is in, over how many are expected; may be above 1 (Naeem et al. 2020).
        coverage: share of the real whose neighbourhood has a drawn one in it.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(real: np.ndarray, drawn: np.ndarray, crossed: np.ndarray, k: int = NEIGHBOURS) -> Manifold:
    """By distances (n n), (m m) and (n m): a record's neighbourhood reaches to its k-th neighbour in its own sample."""
    radius = lambda own: np.partition(own, k, axis=1)[:, k]  # the nearest is itself
    inside = crossed <= radius(real)[:, None]
    return Manifold(
        float(inside.any(0).mean()), float((crossed <= radius(drawn)[None]).any(1).mean()),
        float(inside.sum(0).mean() / k), float(inside.any(1).mean()),
    )  # fmt: skip


@dataclass(frozen=True)
class Space:
    """Features of training, held-out and drawn records.

    Args:
        name: "features" or "pixels".
        train, held, drawn: (n f).
        about: what is to be known of it, in words.
    """

    name: str
    train: np.ndarray
    held: np.ndarray
    drawn: np.ndarray
    about: str = ""

    def leading(self, most: int = MOST) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same in the leading components of the training records, scaled so that their mean square is 1."""
        centre = self.train.mean(0)
        _, spread, axes = np.linalg.svd(self.train - centre, full_matrices=False)
        kept = axes[: min(most, int((spread > 1e-9 * max(spread[0], 1e-30)).sum()) or 1)]
        parts = [(x - centre) @ kept.T for x in (self.train, self.held, self.drawn)]
        scale = max(float(np.sqrt(np.square(parts[0]).mean())), 1e-12)
        return parts[0] / scale, parts[1] / scale, parts[2] / scale


NAMES = ("frechet", "kernel", "precision", "recall", "density", "coverage")
Told = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Rows of the real (a,) and of the drawn (b,) → the six numbers."""


def _told(real: np.ndarray, drawn: np.ndarray, gaussian: int) -> Told:
    """The six numbers of parts of two samples, whose distances and kernels are found once."""
    alike = polynomial(real, real), polynomial(drawn, drawn), polynomial(real, drawn)
    apart = distances(real, real), distances(drawn, drawn), distances(real, drawn)

    def tell(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        part = lambda matrices: (matrices[0][np.ix_(a, a)], matrices[1][np.ix_(b, b)], matrices[2][np.ix_(a, b)])
        lies = manifold(*part(apart))
        gauss = frechet_of(real[a, :gaussian], drawn[b, :gaussian])
        return np.array([gauss, unbiased(*part(alike)), lies.precision, lies.recall, lies.density, lies.coverage])

    return tell


def realism(space: Space, split: str, *, subsets: int = SUBSETS, seed: int = 0) -> tuple[Figure, ...]:
    """All six of what was drawn against held-out records, and the floor of each.

    Intervals are 1.96 standard deviations over subsets of half of each sample, drawn without replacement: the delete-half jackknife, whose
    spread is that of the whole (Shao & Wu 1989); a resample with replacement has copies, which is what these figures look for.

    Args:
        space: one record a patient of `held`.
        split: the split's hash.
        subsets: how many.
        seed: of the subsets.
    Raises:
        EvidenceError: fewer than `FEWEST` of any.
    """
    random = np.random.default_rng(seed)
    train, held, drawn = space.leading()
    n = min(map(len, (train, held, drawn)))
    if n < FEWEST:
        raise EvidenceError(
            f"realism of {len(drawn)} drawn, {len(held)} held-out and {len(train)} training records", f"{FEWEST} of each",
            "draw more, or keep more patients for testing",
        )  # fmt: skip
    chosen = lambda x: x[random.permutation(len(x))[:n]]
    held, gaussian = chosen(held), max(1, min(GAUSSIAN, n // 4, train.shape[1]))
    found = []
    for ending, other in (("", chosen(drawn)), ("_floor", chosen(train))):
        tell, half = _told(held, other, gaussian), lambda: np.sort(random.permutation(n)[: n // 2])
        value = tell(np.arange(n), np.arange(n))
        spread = np.std([tell(half(), half()) for _ in range(subsets)], axis=0)
        for name, at, sd in zip(NAMES, value, spread, strict=True):
            reach = _bounds(name, float(at), 1.96 * float(sd), n, f"95% interval, {subsets} subsets of half")
            note = f"{reach.note}; {_of(name, space, gaussian, train.shape[1])}"
            found.append(Figure(f"{name}_{space.name}{ending}", float(at), reach.low, reach.high, n, split, note))
    return tuple(found)


def _bounds(name: str, value: float, reach: float, n: int, note: str) -> Interval:
    """Within what the figure can be: a share, a distance, or (KID, unbiased) anything."""
    share = name in ("precision", "recall", "coverage")
    if reach < 1e-12:  # every subset says the same: of a share there is a bound all the same
        nan = float("nan")
        same = Interval(nan, nan, "no interval: every subset of these few records says the same")
        return exact(value, n, "records") if share and value in (0.0, 1.0) else same
    low = value - reach if name == "kernel" else max(0.0, value - reach)
    return Interval(low, min(1.0, value + reach) if share else value + reach, note)


def _of(name: str, space: Space, gaussian: int, components: int) -> str:
    kept = gaussian if name == "frechet" else components
    return f"{kept} components of {space.about or space.name}"
