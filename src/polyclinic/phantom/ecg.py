"""The 12-lead ECG of a moving heart dipole.

Each wave of a beat is a Gaussian in time along a direction of its own (McSharry et al. 2003, IEEE Trans Biomed Eng 50:289; in
three dimensions Sameni et al. 2007), which turns with the heart's axis. The leads are the dipole through Dower's lead field (Dower,
Machado & Osborne 1980, Clin Cardiol 3:87), in Frank's coordinates: x to the left, y to the feet, z to the back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from .sites import Site

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
SECONDS = 10.0
UNITS_MV = 1000
"""Stored numbers a millivolt."""
DOWER = np.array([
    [0.632, -0.235, 0.059], [0.235, 1.066, -0.132], [-0.515, 0.157, -0.917], [0.044, 0.164, -1.387],
    [0.882, 0.098, -1.277], [1.213, 0.127, -0.601], [1.125, 0.127, -0.086], [0.831, 0.076, 0.230],
])  # fmt: skip
"""I, II, V1 to V6 from x, y, z; the other four follow from I and II."""


@dataclass(frozen=True, slots=True)
class Wave:
    """A part of the beat: when after the R wave (s, of a beat of one second where it stretches), how long (s), which way (mV)."""

    at: float
    width: float
    way: tuple[float, float, float]
    stretches: bool = False


def waves(person: Mapping[str, Any]) -> list[Wave]:
    """The waves of a person's beat.

    Fibrillation takes the P wave away; a left bundle branch block widens the QRS, sends it to the back and turns the T wave
    against it; failing kidneys (potassium) raise the T wave.
    """
    turn = np.radians(person["axis_deg"])
    x, y = float(np.cos(turn)), float(np.sin(turn))
    big = 1.0 + 0.25 * person["heart_failure"]
    tall = 0.34 * (1.5 if person["kidney"] else 1.0)
    if person["bundle_block"]:
        qrs = [Wave(0.0, 0.026, (0.8 * big * x, 0.8 * big * y, 0.75)), Wave(0.045, 0.024, (0.55 * x, 0.55 * y, 0.35))]
        repolarise = Wave(0.30, 0.06, (-0.3 * x, -0.3 * y, -0.30), True)
    else:
        qrs = [
            Wave(-0.026, 0.009, (-0.12 * x, -0.12 * y, -0.18)),  # the septum, to the front
            Wave(0.0, 0.012, (1.25 * big * x, 1.25 * big * y, 0.25)),
            Wave(0.028, 0.012, (-0.22 * x + 0.1 * y, -0.22 * y - 0.1 * x, 0.42)),
        ]
        repolarise = Wave(0.29, 0.052, (tall * 0.75, tall * 0.65, -0.45 * tall), True)
    atria = [] if person["rhythm"] else [Wave(-0.155, 0.022, (0.06, 0.105, -0.02))]
    return [*atria, *qrs, repolarise]


def beats(person: Mapping[str, Any], rng: np.random.Generator) -> np.ndarray:
    """(n,) seconds of the R waves, from before the recording to after it.

    In sinus rhythm the intervals breathe by 3%; in fibrillation each is drawn apart (log-normal, 22%), never under the
    node's refractory 0.32 s.
    """
    rate = 66 + 5 * person["severity"] + 18 * person["rhythm"] + 6 * rng.standard_normal()
    period = 60 / np.clip(rate, 42, 150)
    count = int((SECONDS + 4) / period * 1.6) + 6
    if person["rhythm"]:
        intervals = np.maximum(period * np.exp(0.22 * rng.standard_normal(count) - 0.024), 0.32)
    else:
        phase = 2 * np.pi * (0.25 * period * np.arange(count) + rng.random())
        intervals = period * (1 + 0.03 * np.sin(phase) + 0.01 * rng.standard_normal(count))
    return np.cumsum(intervals) - 2


def _bumps(centres: np.ndarray, width: float, rate_hz: int, length: int) -> np.ndarray:
    """(t,) Gaussians of height 1 at the centres (s), each out to six widths, where nothing is left."""
    reach = int(6 * width * rate_hz) + 1
    index = np.round(centres * rate_hz).astype(int)[:, None] + np.arange(-reach, reach + 1)
    height = np.exp(-0.5 * ((index / rate_hz - centres[:, None]) / width) ** 2)
    inside = (index >= 0) & (index < length)
    return np.bincount(index[inside], height[inside], length)


def dipole(person: Mapping[str, Any], rate_hz: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(t 3) mV the heart's dipole over `SECONDS`, and (n,) seconds of its R waves."""
    times = np.arange(int(SECONDS * rate_hz)) / rate_hz
    at = beats(person, rng)
    moment = np.zeros((len(times), 3))
    before = np.sqrt(np.diff(at, prepend=2 * at[0] - at[1]))  # the QT follows the interval before (Bazett)
    for wave in waves(person):
        centres = at + wave.at * (before if wave.stretches else 1.0)
        moment += _bumps(centres, wave.width, rate_hz, len(times))[:, None] * np.array(wave.way)
    if person["rhythm"]:  # the atria flicker, 5 to 7 a second
        wander = np.cumsum(rng.standard_normal(len(times))) / np.sqrt(rate_hz)
        moment += (
            0.05
            * np.sin(2 * np.pi * (5 + 2 * rng.random()) * times + 0.8 * wander)[:, None]
            * np.array([0.3, 0.5, -0.8])
        )
    return moment, at[(at >= 0) & (at < SECONDS)]


def stored(eight: np.ndarray) -> np.ndarray:
    """(t 12) int16 of `LEADS` from I, II and V1 to V6 (t 8) in mV.

    I and II are even numbers, so that the leads that follow from them (Einthoven, Goldberger) do so without any rounding.
    """
    even = 2 * np.round(eight * UNITS_MV / 2)
    one, two = even[:, 0], even[:, 1]
    limbs = np.stack([one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2], axis=1)
    return np.clip(np.concatenate([limbs, even[:, 2:]], axis=1), -32767, 32767).astype(np.int16)


def record(person: Mapping[str, Any], site: Site, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A person's ECG as a site's device stores it.

    Returns:
        (t 12) int16, `UNITS_MV` a millivolt, and (n,) seconds of the R waves.
    """
    moment, at = dipole(person, site.ecg_rate_hz, rng)
    eight = moment @ DOWER.T
    times = np.arange(len(eight))[:, None] / site.ecg_rate_hz
    drift = 0.06 * np.sin(2 * np.pi * ((0.15 + 0.2 * rng.random(8)) * times + rng.random(8)))
    mains = 0.3 * site.ecg_noise_mv * np.sin(2 * np.pi * (50 * times + rng.random(8)))
    noise = site.ecg_noise_mv * rng.standard_normal(eight.shape)
    return stored(eight + drift + mains + noise), at


def wfdb(name: str, signal: np.ndarray, rate_hz: int, when: datetime, comments: Sequence[str]) -> tuple[bytes, bytes]:
    """A record in WFDB format 16 (WFDB Applications Guide, header(5), signal(5)): the header and the samples.

    Byte for byte what `wfdb.wrsamp` writes, forty times as fast.

    Args:
        name: of the record, and of the samples' file before its `.dat`.
        signal: (t 12) int16 of `LEADS`.
        rate_hz: samples a second.
        when: it begins.
        comments: a line each.
    """
    lines = [f"{name} {len(LEADS)} {rate_hz} {len(signal)} {when:%H:%M:%S %d/%m/%Y}"]
    for lead, samples in zip(LEADS, signal.T, strict=True):
        check = int(samples.sum(dtype=np.int64)) % 65536
        lines.append(f"{name}.dat 16 {UNITS_MV}(0)/mV 16 0 {samples[0]} {check} 0 {lead}")
    lines += [f"# {comment}" for comment in comments]
    return ("\n".join(lines) + "\n").encode(), signal.astype("<i2").tobytes()
