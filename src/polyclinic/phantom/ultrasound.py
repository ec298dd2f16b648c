"""Echocardiography: a beating left ventricle across, seen through fully developed speckle.

Scatterers are complex Gaussian and move with the muscle; the beam's point spread sums them; what is shown is the envelope, in
decibels (Wagner et al. 1983, IEEE Trans Sonics Ultrason 30:156: its mean is 1.91 times its deviation).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .sites import Site

PIXELS, FRAMES = 96, 16
FIELD_MM, CYCLE_MS = 110.0, 800.0
FRAME_MS = CYCLE_MS / FRAMES
RANGE_DB = 50.0
SOUND_MM_US = 1.54
"""Speed of sound in tissue, mm/µs."""


def envelope(scatterers: np.ndarray, site: Site, pixel_mm: float) -> np.ndarray:
    """(y x) what the probe receives of complex scatterers (y x): along the beam (y) two periods, across it more, by the frequency."""
    from scipy.ndimage import gaussian_filter

    period_mm = SOUND_MM_US / site.us_mhz
    spread = (max(1.2 * period_mm, 0.5) / pixel_mm, 3.2 * period_mm / pixel_mm)
    real, imaginary = (
        gaussian_filter(part, spread, mode="wrap") for part in (np.real(scatterers), np.imag(scatterers))
    )
    return np.hypot(real, imaginary)


def compressed(received: np.ndarray, reference: float) -> np.ndarray:
    """uint8 grey of an envelope: 255 at the reference, 0 `RANGE_DB` below."""
    decibel = 20 * np.log10(np.maximum(received, 1e-9) / reference)
    return np.rint(255 * np.clip(1 + decibel / RANGE_DB, 0, 1)).astype(np.uint8)


def radii(person: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """(frames,) mm of the cavity and of the muscle around it: the cavity's area falls by the ejection fraction, the muscle's stays."""
    widest = 30.0 if person["heart_failure"] else 23.0
    phase = np.arange(FRAMES) / FRAMES
    squeeze = np.where(phase < 0.4, np.sin(np.pi * phase / 0.8) ** 2, np.cos(np.pi * (phase - 0.4) / 1.2) ** 2)
    cavity = widest * np.sqrt(1 - person["ejection"] * squeeze)
    return cavity, np.sqrt(cavity**2 + (widest + 10) ** 2 - widest**2)


def clip(person: Mapping[str, Any], site: Site, rng: np.random.Generator) -> np.ndarray:
    """(t y x) uint8, one heart cycle.

    Args:
        person: the graph's values; the ejection fraction shows.
        site: its probe.
        rng: of the patient's ultrasound.
    """
    pixel = FIELD_MM / PIXELS
    at = (np.arange(PIXELS) - (PIXELS - 1) / 2) * pixel
    y, x = at[:, None] - rng.uniform(-4, 4), at[None, :] - rng.uniform(-4, 4)
    far, turn = np.hypot(y, x), np.arctan2(y, x)
    field = rng.standard_normal((2, 4 * PIXELS, 4 * PIXELS), np.float32)
    material = field[0] + 1j * field[1]
    cavities, muscles = radii(person)
    depth = np.exp(-0.008 * (at[:, None] + FIELD_MM / 2))
    fan = np.abs(at[None, :]) < 12 + 0.62 * (at[:, None] + FIELD_MM / 2)
    received = []
    for cavity, muscle in zip(cavities, muscles, strict=True):
        # The ring keeps its area: a point at r was at sqrt(r² - cavity² + cavity(0)²), and there it took its scatterer along.
        home = np.sqrt(np.maximum(far**2 - cavity**2 + cavities[0] ** 2, 0.0))
        home = np.where(far < cavity, far, np.where(far < muscle, home, far + muscles[0] - muscle))
        index = [np.rint(home * f(turn) / pixel * 2).astype(int) % (4 * PIXELS) for f in (np.sin, np.cos)]
        echo = np.where(far < cavity, 0.04, np.where(far < muscle, 1.0, 0.45)) + 2.5 * np.exp(
            -(((far - muscle) / 1.5) ** 2)
        )
        received.append(envelope(material[index[0], index[1]] * echo * depth * fan, site, pixel))
    every = np.stack(received)
    return compressed(every, float(np.quantile(every, 0.998)))
