"""Magnetic resonance of the head: tissues with T1, T2 and proton density, the spin-echo equation, a receive field, Rician noise.

Sources: signal, Bernstein, King & Zhou 2004, eq. 14.56; relaxation at 1.5 T in round figures after Stanisz et al. 2005 (Magn Reson
Med 54:507); noise of a magnitude image, Gudbjartsson & Patz 1995 (Magn Reson Med 34:910).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .anatomy import Grid, Solid, coverage
from .sites import Site

TISSUES = {
    "air": (1000.0, 1000.0, 0.0), "fat": (260.0, 70.0, 0.9), "bone": (500.0, 1.0, 0.1), "fluid": (4200.0, 2000.0, 1.0),
    "grey": (1120.0, 95.0, 0.82), "white": (790.0, 72.0, 0.70), "infarct": (1500.0, 190.0, 0.88),
}  # fmt: skip
"""Tissue → T1 (ms), T2 (ms), proton density (of water's)."""
CONTRASTS = {"T1w": (550.0, 12.0), "T2w": (4500.0, 100.0), "PDw": (4500.0, 15.0)}
"""Weighting → repetition time, echo time (ms)."""
MASK = {"brain": 1, "infarct": 2}
FIELD_MM = 240.0


@dataclass(frozen=True, slots=True)
class Head:
    """A head.

    Args:
        grid: its voxels.
        tissue: name → (z y x) float32, how much of each voxel it fills; they sum to 1.
    """

    grid: Grid
    tissue: dict[str, np.ndarray]


def spin_echo(tissue: str, repetition_ms: float, echo_ms: float) -> float:
    """The signal of a tissue, of water's proton density: PD (1 - exp(-TR/T1)) exp(-TE/T2)."""
    t1, t2, density = TISSUES[tissue]
    return float(density * (1 - np.exp(-repetition_ms / t1)) * np.exp(-echo_ms / t2))


def rician(signal: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """The magnitude of a signal with Gaussian noise in both channels; where there is no signal, Rayleigh's law."""
    real, imaginary = rng.standard_normal((2, *signal.shape), np.float32) * np.float32(sigma)
    return np.hypot(signal + real, imaginary)


def head(person: Mapping[str, Any], size: int, rng: np.random.Generator) -> Head:
    """A person's head: ventricles widen with age, and a stroke leaves its place behind.

    Args:
        person: the graph's values.
        size: voxels a side in the plane; half as many slices.
        rng: of the patient's head.
    """
    grid = Grid((size // 2, size, size), (2 * FIELD_MM / size * 0.7, FIELD_MM / size, FIELD_MM / size))
    vary = 1 + 0.03 * rng.standard_normal(3)
    half = (72 * vary[0], 84 * vary[1], 68 * vary[2])
    tissue = {name: np.zeros(grid.shape, np.float32) for name in TISSUES}
    tissue["air"] += 1

    def paint(name: str, where: Any, filled: np.ndarray) -> None:
        for other in tissue.values():
            other[where] *= 1 - filled
        tissue[name][where] += filled

    for name, more in (("fat", 14.0), ("bone", 9.0), ("fluid", 3.0)):
        paint(name, *coverage(grid, Solid(name, (0, 0, 0), (half[0] + more, half[1] + more, half[2] + more), 0)))
    where, brain = coverage(grid, Solid("brain", (0, 0, 0), half, 0))
    radius = np.sqrt(
        sum(
            ((grid.axis(i)[where[i]] / half[i]) ** 2).reshape([-1 if j == i else 1 for j in range(3)]) for i in range(3)
        )
    )
    folds = _folds(grid, rng)[where]
    fissure = np.clip(1 - np.abs(grid.axis(2)[where[2]]) / 2.5, 0, 1)[None, None, :]
    paint(
        "grey", where, brain * np.clip(4 * (1.02 - radius + 0.06 * folds), 0, 1) * (1 - 0.8 * fissure * (radius > 0.5))
    )
    paint("white", where, brain * np.clip(6 * (0.84 - radius + 0.09 * folds), 0, 1))
    wide = 1 + 0.012 * max(person["age"] - 40, 0)
    for side in (-1, 1):
        paint("grey", *coverage(grid, Solid("thalamus", (-6, 8, side * 13), (10, 16, 9), 0)))
        paint("fluid", *coverage(grid, Solid("ventricle", (12, -2, side * 9 * wide), (9, 32 * wide**0.5, 5 * wide), 0)))
    side, up, front = rng.choice([-1, 1]), rng.uniform(-10, 35), rng.uniform(-40, 40)
    if person["infarct"]:
        spot = Solid("infarct", (up, front, side * 40), tuple(rng.uniform(9, 20, 3)), 0)  # type: ignore[arg-type]
        at, filled = coverage(grid, spot)
        paint("infarct", at, filled * (tissue["grey"][at] + tissue["white"][at]))
    return Head(grid, tissue)


def _folds(grid: Grid, rng: np.random.Generator) -> np.ndarray:
    """A smooth standard normal field with folds of about 9 mm."""
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(
        rng.standard_normal(grid.shape, np.float32), [4.5 / s for s in grid.spacing_mm], mode="wrap", truncate=3
    )
    return field / field.std()


def receive_field(grid: Grid, strength: float, rng: np.random.Generator) -> np.ndarray:
    """(z y x) a smooth gain around 1: the exponential of a random polynomial of the second degree with that deviation."""
    z, y, x = (
        np.linspace(-1, 1, n, dtype=np.float32).reshape([-1 if j == i else 1 for j in range(3)])
        for i, n in enumerate(grid.shape)
    )
    weight = rng.standard_normal(6).astype(np.float32)
    log = weight[0] * x + weight[1] * y + weight[2] * z + weight[3] * x * x + weight[4] * y * y + weight[5] * x * y
    log = log - log.mean()
    return np.exp(np.float32(strength) * log / log.std())


def scan(anatomy: Head, contrast: str, site: Site, rng: np.random.Generator) -> np.ndarray:
    """(z y x) uint16, 2000 a water's proton density.

    Args:
        anatomy: the head.
        contrast: of `CONTRASTS`.
        site: its scanner: receive field and noise.
        rng: of this acquisition.
    """
    signal = np.zeros(anatomy.grid.shape, np.float32)
    for name, filled in anatomy.tissue.items():
        signal += np.float32(spin_echo(name, *CONTRASTS[contrast])) * filled
    signal *= receive_field(anatomy.grid, site.mr_bias, rng)
    return np.clip(np.rint(2000 * rician(signal, site.mr_noise * float(signal.max()), rng)), 0, 65535).astype(np.uint16)


def mask(anatomy: Head) -> np.ndarray:
    """(z y x) uint8 of `MASK`."""
    brain = anatomy.tissue["grey"] + anatomy.tissue["white"] + anatomy.tissue["infarct"]
    return np.where(anatomy.tissue["infarct"] >= 0.5, MASK["infarct"], (brain >= 0.5) * MASK["brain"]).astype(np.uint8)


def to_world(grid: Grid) -> np.ndarray:
    """4x4 (x y z 1) index → mm in LPS."""
    matrix = np.diag([*grid.spacing_mm[::-1], 1.0])
    matrix[:3, 3] = [-(n - 1) / 2 * s for n, s in zip(grid.shape[::-1], grid.spacing_mm[::-1], strict=True)]
    return matrix
