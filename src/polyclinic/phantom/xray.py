"""Radiography: line integrals of the CT's attenuation, Beer and Lambert's law, photons counted one by one, the logarithm.

The beam is parallel and of one energy, from front to back; there is no scatter. Because counts are Poisson, the likelihood of
the radiograph with and without a nodule is known (`Radiograph.log_likelihood_ratio`), and with it the best possible reader.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .anatomy import MASK, NODULE_HU, SLICES, Grid, Lesions
from .sites import Site

MU_WATER = 0.0193
"""Linear attenuation of water at 70 keV, 1/mm (NIST XCOM)."""
BLUR_MM = 1.0
"""Standard deviation of the detector's point spread."""
SCALE = 500.0
"""Stored numbers a unit of the logarithm."""


@dataclass(frozen=True, slots=True)
class Radiograph:
    """A radiograph and what is known of it.

    Args:
        pixels: (y x) uint16, `SCALE` times minus the logarithm of the transmission: dense is bright, row 0 is the head.
        log_likelihood_ratio: of the counts, with against without the nodule that is or would be there.
        detectability: d' of the ideal observer who knows anatomy, place and size (Barrett & Myers 2004, 13.2).
    """

    pixels: np.ndarray
    log_likelihood_ratio: float
    detectability: float


def attenuation(hu: np.ndarray) -> np.ndarray:
    """1/mm from Hounsfield units, their definition turned round; nothing attenuates less than nothing."""
    found = hu / np.float32(1000)
    found += 1  # in place: the pages of a volume cost more than its sums
    found *= np.float32(MU_WATER)
    return np.maximum(found, 0, out=found)


def line_integrals(hu: np.ndarray, grid: Grid) -> np.ndarray:
    """(z x) ∫μ dy, front to back, dimensionless."""
    sums = [attenuation(hu[at : at + SLICES]).sum(axis=1) for at in range(0, len(hu), SLICES)]
    return np.concatenate(sums) * np.float32(grid.spacing_mm[1])


def expected(integrals: np.ndarray, grid: Grid, site: Site) -> np.ndarray:
    """(z x) photons that each pixel counts on average."""
    from scipy.ndimage import gaussian_filter

    open_beam = site.photons * grid.spacing_mm[0] * grid.spacing_mm[2]
    return gaussian_filter(
        open_beam * np.exp(-integrals.astype(np.float64)), (BLUR_MM / grid.spacing_mm[0], BLUR_MM / grid.spacing_mm[2])
    )


def expose(
    hu: np.ndarray, found: Lesions, nodule: bool, grid: Grid, site: Site, rng: np.random.Generator
) -> Radiograph:
    """A radiograph of a chest.

    Args:
        hu: (z y x) as painted, without a nodule.
        found: its lesions.
        nodule: whether the nodule is there.
        grid: of `hu`.
        site: its beam.
        rng: of the patient's radiograph.
    """
    without = line_integrals(hu, grid)
    where, filled = found.nodule
    more = attenuation(hu[where] + filled * (np.float32(NODULE_HU) - hu[where])) - attenuation(hu[where])
    present = without.copy()
    present[where[0], where[2]] += more.sum(axis=1) * np.float32(grid.spacing_mm[1])
    if_not, if_so = expected(without, grid, site), expected(present, grid, site)
    counts = rng.poisson(if_so if nodule else if_not)
    ratio = float((counts * np.log(if_so / if_not) - (if_so - if_not)).sum())
    seen = float(np.sqrt(((if_so - if_not) ** 2 / if_not).sum()))
    open_beam = site.photons * grid.spacing_mm[0] * grid.spacing_mm[2]
    dense = -np.log(np.maximum(counts, 0.5) / open_beam)
    pixels = np.clip(np.rint(SCALE * dense), 0, 4095).astype(np.uint16)
    return Radiograph(np.ascontiguousarray(pixels[::-1]), ratio, seen)


def shadow(lung: np.ndarray, found: Lesions, nodule: bool, grid: Grid) -> np.ndarray:
    """(y x) uint8 of `anatomy.MASK`: where the beam meets 40 mm of lung, 20 mm of fluid or consolidation, or 2 mm of a nodule."""
    labels = np.zeros((grid.shape[0], grid.shape[2]), np.uint8)
    parts = (("lung", lung, 40.0), ("effusion", found.effusion, 20.0), ("consolidation", found.consolidation, 20.0))
    for name, filled, least_mm in parts:
        if filled is not None:
            labels[filled.sum(axis=1) * grid.spacing_mm[1] >= least_mm] = MASK[name]
    if nodule:
        where, filled = found.nodule
        labels[where[0], where[2]][filled.sum(axis=1) * grid.spacing_mm[1] >= 2.0] = MASK["nodule"]
    return labels[::-1]
