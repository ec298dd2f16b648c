"""Stains: what of a picture's colours is the tissue's, and what the laboratory's; one slide's colours → the reference's.

Source: Macenko et al., "A method for normalizing histology slides for quantitative analysis", ISBI 2009; Reinhard et al.,
"Color transfer between images", IEEE CG&A 21(5), 2001, in the lαβ space of Ruderman et al. 1998. Both are given the slide's own
light, the colour of its glass: Beer and Lambert's law is about what the tissue takes of it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Recolour = Callable[[np.ndarray], np.ndarray]

REFERENCE_STAINS = np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]])
"""(2 3) optical density of hematoxylin and eosin in R, G, B, of length 1: the reference that Macenko's authors gave out."""
REFERENCE_MOST = np.array([1.9705, 1.0308])
"""(2,) the 99th percentile of each one's concentration in that reference."""
REFERENCE_LAB = np.array([[8.74108109, -0.12440419, 0.0444982], [0.6135447, 0.10989545, 0.0286032]])
"""(2 3) mean and spread of l, α, β of the tissue of TCGA-A2-A3XS-DX1 (Amgad et al. 2019)."""
REFERENCE_LIGHT = np.full(3, 240.0)
"""Of its glass, out of 255."""

_THIN = 0.15
"""Optical density below which a pixel shows too little stain to tell which."""
_FEWEST = 256
"""Pixels of tissue from which the stains are estimated; of fewer, the colours are left as they are."""
_TO_LMS = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
"""Reinhard's equation 4."""
_TO_LAB = np.diag([3**-0.5, 6**-0.5, 2**-0.5]) @ np.array([[1.0, 1.0, 1.0], [1.0, 1.0, -2.0], [1.0, -1.0, 0.0]])
"""Reinhard's equation 6."""


def density(pixels: np.ndarray, light: np.ndarray = REFERENCE_LIGHT) -> np.ndarray:
    """(... 3) 0..255 → optical density, natural logarithm, under a light of (3,) 0..255."""
    return -np.log((pixels.astype(np.float64) + 1) / (light + 1))


def stains_of(pixels: np.ndarray, light: np.ndarray = REFERENCE_LIGHT, percent: float = 1.0) -> np.ndarray | None:
    """The two stains of a slide by Macenko's method: the outermost directions of the plane that its densities lie in.

    Args:
        pixels: (n 3) uint8, glass among them or not.
        light: (3,) of the glass.
        percent: of the angles that count as outliers, at either end.
    Returns:
        (2 3) hematoxylin, eosin, of length 1; None where there is too little stain to tell two.
    """
    seen = _stained(density(pixels, light))
    if len(seen) < _FEWEST:
        return None
    values, vectors = np.linalg.eigh(np.cov(seen.T))
    if values[1] <= 1e-6 * max(float(values[2]), 1e-12):
        return None  # one colour only
    plane = vectors[:, [2, 1]]
    plane = plane * np.where(plane.sum(axis=0) < 0, -1.0, 1.0)
    angles = np.arctan2(seen @ plane[:, 1], seen @ plane[:, 0])
    ends = [plane @ [np.cos(a), np.sin(a)] for a in np.percentile(angles, [percent, 100 - percent])]
    ends.sort(key=lambda v: -float(v[0]))  # hematoxylin takes more of the red
    return np.array(ends)


def _stained(densities: np.ndarray) -> np.ndarray:
    return densities[(densities >= _THIN).all(axis=1)]


def macenko(pixels: np.ndarray, light: np.ndarray = REFERENCE_LIGHT) -> Recolour:
    """What takes a slide's pixels to the reference's stains and light, learned of a sample of them.

    Args:
        pixels: (n 3) uint8, glass among them or not.
        light: (3,) of the glass.
    Returns:
        (... 3) uint8 → the same; that does nothing where the tissue shows no two stains.
    """
    own = stains_of(pixels, light)
    if own is None:
        return _unchanged
    amounts = _stained(density(pixels, light)) @ np.linalg.pinv(own)
    scale = REFERENCE_MOST / np.maximum(np.percentile(amounts, 99, axis=0), 1e-6)
    across = (np.linalg.pinv(own) * scale) @ REFERENCE_STAINS

    def recolour(some: np.ndarray) -> np.ndarray:
        return _bytes((REFERENCE_LIGHT + 1) * np.exp(-(density(some, light) @ across)) - 1)

    return recolour


def lab_of(pixels: np.ndarray) -> np.ndarray:
    """(... 3) 0..255 → l, α, β."""
    return np.log(np.maximum(pixels.astype(np.float64), 1.0) @ _TO_LMS.T) @ _TO_LAB.T


def reinhard(pixels: np.ndarray, light: np.ndarray = REFERENCE_LIGHT) -> Recolour:
    """What takes the mean and the spread of a slide's l, α and β to the reference's, learned of a sample of its pixels.

    Glass, which is no tissue of another colour, takes the reference's light only.

    Args:
        pixels: (n 3) uint8, glass among them or not.
        light: (3,) of the glass.
    """
    stained = pixels[(density(pixels, light) >= _THIN).any(axis=1)]
    if len(stained) < _FEWEST:
        return _unchanged
    own = lab_of(stained)
    mean, spread = own.mean(axis=0), np.maximum(own.std(axis=0), 1e-6)
    from_lab, from_lms = np.linalg.inv(_TO_LAB).T, np.linalg.inv(_TO_LMS).T

    def recolour(some: np.ndarray) -> np.ndarray:
        moved = (lab_of(some) - mean) / spread * REFERENCE_LAB[1] + REFERENCE_LAB[0]
        glass = (density(some, light) < _THIN).all(axis=-1, keepdims=True)
        return _bytes(np.where(glass, some * (REFERENCE_LIGHT / light), np.exp(moved @ from_lab) @ from_lms))

    return recolour


def _unchanged(pixels: np.ndarray) -> np.ndarray:
    return pixels


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)
