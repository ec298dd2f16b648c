"""Memorisation: whether what a model draws is some training patient's record. A copy is closer to the training records than chance puts it.

The scale is that of held-out records: how far real people whom the model never saw are from their nearest training record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...schema import Figure
from .intervals import DRAWS, bootstrap
from .realism import Space, distances

IN_A_CELL = 20
"""Drawn and held-out records without which a cell of the training records is not judged (Meehan et al. 2020, section 4)."""
RARE = 0.05
"""Share of held-out records that may be so close that a drawn one as close is called a near-copy."""


@dataclass(frozen=True, slots=True)
class Nearest:
    """Of each record the nearest training record: how far it is (n,), and which (n,)."""

    distance: np.ndarray
    at: np.ndarray


def nearest(
    x: np.ndarray, train: np.ndarray, own: np.ndarray | None = None, whose: np.ndarray | None = None
) -> Nearest:
    """The nearest training record of each of (n f).

    Args:
        x: records.
        train: (t f).
        own, whose: (n,) and (t,) patients: of the same one no record counts.
    """
    found = np.zeros(len(x), dtype=int)
    for start in range(0, len(x), 512):  # rows at a time: memory does not grow with both sides
        rows = slice(start, start + 512)
        apart = distances(x[rows], train)
        if own is not None and whose is not None:
            apart[own[rows, None] == whose[None]] = np.inf
        found[rows] = apart.argmin(1)
    # By difference: the matrix of distances is off by rounding where they are nearly zero, and there it counts.
    return Nearest(np.linalg.norm(x - train[found], axis=1), found)


def copying(drawn: np.ndarray, held: np.ndarray) -> float:
    """Mann and Whitney's z of how far each of both is from the training records; below 0 where the drawn are closer.

    Args:
        drawn: (m,) distances; held: (n,).
    Source:
        Meehan et al. 2020, equation 2: U - mn/2 over its standard deviation where both are of one distribution; ties count half.
    """
    m, n = len(drawn), len(held)
    above = (drawn[:, None] > held[None]).sum() + 0.5 * (drawn[:, None] == held[None]).sum()
    return float((above - m * n / 2) / np.sqrt(m * n * (m + n + 1) / 12))


@dataclass(frozen=True, slots=True)
class Copying:
    """C_T (Meehan et al. 2020, equation 4).

    Args:
        mean: of `copying` over cells, each weighed by its share of the held-out records.
        error: its standard error where nothing is copied.
        lowest: of the cells: who copies in one place and is far off in another has a mean about 0.
        cells: how many were judged; 1 where there are too few records for two, and it is the test of the whole.
    """

    mean: float
    error: float
    lowest: float
    cells: int


def copying_by_cells(space: Space, drawn: Nearest, held: Nearest, seed: int = 0) -> Copying:
    """The test of data-copying in each cell of the training records (k-means)."""
    from sklearn.cluster import KMeans

    count = min(len(held.at), len(drawn.at)) // (2 * IN_A_CELL)
    tests: list[tuple[float, float]] = []
    if count > 1:
        cells = KMeans(min(count, 8), n_init="auto", random_state=seed).fit(space.train)
        mine, theirs = (cells.predict(x) for x in (space.drawn, space.held))
        for cell in range(cells.n_clusters):
            a, b = drawn.distance[mine == cell], held.distance[theirs == cell]
            if min(len(a), len(b)) >= IN_A_CELL:
                tests.append((copying(a, b), len(b) / len(held.at)))
    if len(tests) < 2:
        whole = copying(drawn.distance, held.distance)
        return Copying(whole, 1.0, whole, 1)
    z, share = np.array(tests).T
    return Copying(
        float(z @ share / share.sum()), float(np.sqrt(np.square(share).sum()) / share.sum()), float(z.min()), len(tests)
    )


@dataclass(frozen=True, slots=True)
class Threshold:
    """Closer than this to a training record is a near-copy.

    Args:
        distance: the `rank`-th smallest of `held` held-out records' distances.
        rank, held: of a fresh record the chance to be as close is rank / (held + 1), whatever the distribution.
    """

    distance: float
    rank: int
    held: int

    @classmethod
    def of(cls, held: np.ndarray, rare: float = RARE) -> Threshold:
        """Calibrated on held-out distances (n,)."""
        rank = max(1, int(rare * (len(held) + 1)))
        return cls(float(np.sort(held)[rank - 1]), rank, len(held))

    @property
    def expected(self) -> float:
        """The share of fresh records that is below it."""
        return self.rank / (self.held + 1)

    def chance(self, copies: int, drawn: int) -> float:
        """The chance of so many near-copies or more among so many fresh records: beta-binomial, for the threshold was drawn too."""
        from scipy.stats import betabinom

        return float(betabinom.sf(copies - 1, drawn, self.rank, self.held + 1 - self.rank))


def authentic(drawn: Nearest, within: np.ndarray) -> np.ndarray:
    """(m,) bool: no closer to its nearest training record than that is to the nearest of another patient (Alaa et al. 2022, section 3.3).

    Args:
        drawn: of what was drawn.
        within: (t,) how far each training record is from the nearest one of another patient.
    """
    return drawn.distance >= within[drawn.at]


@dataclass(frozen=True, slots=True)
class Memorised:
    """What was found in one space.

    Args:
        figures: with n and intervals.
        drawn: the nearest training record of each that was drawn.
        threshold: of near-copies.
    """

    figures: tuple[Figure, ...]
    drawn: Nearest
    threshold: Threshold

    def worst(self, count: int = 3) -> list[int]:
        """Which of the drawn are closest to a training record, the closest first; each training record once."""
        seen: dict[int, int] = {}
        for row in np.argsort(self.drawn.distance, kind="stable").tolist():
            seen.setdefault(int(self.drawn.at[row]), row)
        return list(seen.values())[:count]


def memorisation(space: Space, whose: Sequence[str], split: str, *, draws: int = DRAWS, seed: int = 0) -> Memorised:
    """Whether the drawn are copies.

    Args:
        space: records, of which `held` are of other patients than `train`, one a patient.
        whose: the patient of each training record.
        split: the split's hash.
        draws: resamples.
        seed: of the resamples and of the cells.
    """
    patients = np.unique(np.asarray(whose), return_inverse=True)[1]
    drawn, held = nearest(space.drawn, space.train), nearest(space.held, space.train)
    within = nearest(space.train, space.train, patients, patients).distance
    m, n, name = len(drawn.at), len(held.at), space.name
    closer = (drawn.distance[:, None] < held.distance[None]) + 0.5 * (drawn.distance[:, None] == held.distance[None])

    def share(weights: np.ndarray) -> np.ndarray:
        a, b = weights[:, :m], weights[:, m:]
        return np.einsum("rn,rn->r", a @ closer, b) / (a.sum(1) * b.sum(1))

    both = np.r_[np.zeros(m, dtype=int), np.ones(n, dtype=int)]
    told = {"split": split, "draws": draws, "seed": seed}
    pairs = bootstrap(share, both, name=f"closer_than_held_out_{name}", rarer=(min(m, n), "records a side"), **told)
    test = copying_by_cells(space, drawn, held, seed)
    limit = Threshold.of(held.distance)
    copies = drawn.distance < limit.distance
    means = {
        f"near_copies_{name}": copies, f"authenticity_{name}": authentic(drawn, within),
        f"authenticity_{name}_held_out": authentic(held, within),
    }  # fmt: skip
    near, real, other = (
        bootstrap(
            lambda w, x=x: w @ x.astype(float) / w.sum(1), np.zeros(len(x), dtype=int), name=of, rarer=(len(x), "records"), **told
        )
        for of, x in means.items()
    )  # fmt: skip
    by = f"; {limit.expected:.1%} of fresh ones expected, p = {limit.chance(int(copies.sum()), m):.2g}"
    by += f"; closer than number {limit.rank} of {limit.held} held-out ones, the closest first"
    z, reach = test.mean, 1.96 * test.error
    where = f"{test.cells} cells, the lowest {test.lowest:.1f}" if test.cells > 1 else "one cell"
    cut = f"C_T over {where}; 95% interval by its error where nothing is copied; below -3 is copying"
    return Memorised(
        (
            _with(pairs, n, "; one half where nothing is copied"),
            Figure(f"copying_z_{name}", z, z - reach, z + reach, n, split, cut),
            _with(near, m, by), _with(real, m, ""), _with(other, n, "; of real records"),
        ),
        drawn, limit,
    )  # fmt: skip


def own_copies(
    space: str, drawn: np.ndarray, shown: Sequence[str], real: np.ndarray, whose: Sequence[str], limit: Threshold, split: str, *,
    draws: int = DRAWS,
) -> Figure:  # fmt: skip
    """Of records drawn for patients whose other records were shown: the share that is nearly the very record that this patient has.

    It asks as somebody would who knows a patient's note and wants the image (Carlini et al. 2023, section 4). Of training patients it
    is to be read beside the same of held-out ones: a faithful generator is near the truth of both, one that remembers of the first.

    Args:
        space: its name.
        drawn: (m f); shown: (m,) for whom each was drawn.
        real: (t f); whose: (t,) each is.
        limit: below which a distance is a near-copy's.
        split: the split's hash.
        draws: resamples.
    """
    owners = np.asarray(whose)
    own = np.array([np.linalg.norm(real[owners == p] - d, axis=1).min() for d, p in zip(drawn, shown, strict=True)])
    copies = (own < limit.distance).astype(float)
    made = bootstrap(
        lambda w: w @ copies / w.sum(1), np.zeros(len(own), dtype=int), name=f"own_copies_{space}", split=split, draws=draws,
        rarer=(len(own), "records"),
    )  # fmt: skip
    return _with(made, len(own), "; nearer than near-copies' threshold to the record of the patient who was shown")


def _with(figure: Figure, n: int, more: str) -> Figure:
    """The same of so many drawn records or patients: one is resampled as the other."""
    return replace(figure, n=n, note=figure.note.replace("over patients", "over records") + more)
