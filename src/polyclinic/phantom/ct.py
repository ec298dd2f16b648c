"""Computed tomography: the painted chest, blurred by the scanner's point spread, with its noise, in whole Hounsfield units."""

from __future__ import annotations

import numpy as np

from .anatomy import FIELD_MM, coarse
from .sites import Site


def scan(hu: np.ndarray, site: Site, rng: np.random.Generator) -> np.ndarray:
    """(n n n) int16 Hounsfield units, -1024 to 3071.

    Args:
        hu: (2n n 2n) as painted.
        site: its scanner: point spread, noise, tube voltage (bone takes up more of a softer beam).
        rng: of the patient's CT.
    """
    from scipy.ndimage import gaussian_filter1d

    volume = coarse(hu)
    volume += np.maximum(volume - 150, 0) * np.float32((120 - site.kvp) / 200)
    spread = site.ct_psf_mm * len(volume) / FIELD_MM
    noise = rng.standard_normal(volume.shape, np.float32)
    for axis in (1, 2):
        volume = gaussian_filter1d(volume, spread, axis=axis, truncate=3)
        noise = gaussian_filter1d(noise, 0.6, axis=axis, truncate=3)  # a reconstruction's noise is smooth
    volume += noise * np.float32(site.ct_noise_hu / noise.std())
    return np.clip(np.rint(volume), -1024, 3071).astype(np.int16)


def to_world(size: int) -> np.ndarray:
    """4x4 (x y z 1) index → mm in LPS of a CT of size³."""
    step = FIELD_MM / size
    matrix = np.diag([step, step, step, 1.0])
    matrix[:3, 3] = -(size - 1) / 2 * step
    return matrix
