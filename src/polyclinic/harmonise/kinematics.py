"""Kinematics: one rate, one length, one order of channels; a channel that is not there is NaN, and so is time that is not.

Source: quaternions q and -q are one rotation (Shoemake 1985); the rotation nearest to a matrix by its singular vectors
(Higham 1986).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ..schema import Payload, Record, Step
from .fingerprint import Fingerprint

LONGEST_GAP = 5
"""Source steps: over a longer one nothing is interpolated."""
_TURNS = ("orientation", "quat", "rotation", "rot")


class KinematicsStandard(BaseModel):
    """`seconds` at `rate_hz`.

    Args:
        rate_hz: samples a second.
        seconds: the length; what a shorter recording lacks is NaN.
        start_s: where it begins in the recording; None takes it from the middle.
        channels: their names, in order, whatever their case; if empty, each recording's own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["kinematics"] = "kinematics"
    rate_hz: float = Field(default=30.0, gt=0)
    seconds: float = Field(default=10.0, gt=0)
    start_s: float | None = Field(default=None, ge=0)
    channels: tuple[str, ...] = ()


def quaternions(names: Sequence[str]) -> list[tuple[int, ...]]:
    """Which channels are x, y, z and w of one rotation: `pose orientation x` …, `quat_x` …, `qx` …"""
    rows = {name.lower(): row for row, name in enumerate(names)}
    return [
        tuple(rows[f"{stem}{axis}"] for axis in "xyzw")
        for stem in dict.fromkeys(name[:-1] for name in rows if name.endswith("w"))
        if all(f"{stem}{axis}" in rows for axis in "xyz")
        and (stem.endswith("q") or any(word in stem for word in _TURNS))
    ]


def matrices(names: Sequence[str]) -> list[tuple[int, ...]]:
    """Which channels are the nine numbers of one rotation matrix, row by row: `slave left rotation 11` … `33`."""
    rows = {name.lower(): row for row, name in enumerate(names)}
    places = [f"{i}{j}" for i in "123" for j in "123"]
    return [
        tuple(rows[f"{stem}{place}"] for place in places)
        for stem in dict.fromkeys(name[:-2] for name in rows if name.endswith("11"))
        if all(f"{stem}{place}" in rows for place in places) and any(word in stem for word in _TURNS)
    ]


def _continuous(array: np.ndarray, groups: Sequence[tuple[int, ...]]) -> np.ndarray:
    """The quaternions with the sign that keeps each nearest to the one before, the first with w not negative."""
    array = array.astype(np.float64)
    for group in map(list, groups):
        known = np.flatnonzero(np.isfinite(array[group]).all(axis=0))
        if len(known):
            turn = array[group][:, known]
            nearer = np.sign((turn[:, 1:] * turn[:, :-1]).sum(axis=0))
            sign = np.cumprod(np.concatenate([[1.0 if turn[3, 0] >= 0 else -1.0], np.where(nearer < 0, -1.0, 1.0)]))
            for row, values in zip(group, turn * sign, strict=True):
                array[row, known] = values
    return array


def _rotations(array: np.ndarray, names: Sequence[str]) -> None:
    """Between two rotations lies a rotation: quaternions to length one, matrices to the nearest rotation, in place."""
    for group in map(list, quaternions(names)):
        array[group] /= np.maximum(np.linalg.norm(array[group], axis=0), 1e-9)
    for group in map(list, matrices(names)):
        known = np.flatnonzero(np.isfinite(array[group]).all(axis=0))
        u, _, v = np.linalg.svd(array[group][:, known].T.reshape(-1, 3, 3))
        u[:, :, 2] *= np.sign(np.linalg.det(u @ v))[:, None]
        for row, values in zip(group, (u @ v).reshape(-1, 9).T, strict=True):
            array[row, known] = values


def source_times(payload: Payload) -> np.ndarray:
    """(t,) seconds of the source's samples from the first."""
    if payload.places is not None:
        return payload.places[:, 3] - payload.places[0, 3]
    assert payload.to_world is not None
    return np.arange(payload.array.shape[1]) * float(payload.to_world[0, 0])


def _at(row: np.ndarray, times: np.ndarray, ticks: np.ndarray, step: float) -> np.ndarray:
    """(n,) a channel at ticks that are 1 / rate apart: monotone between samples, filtered first where the ticks are coarser.

    NaN where nothing was measured: before and after, and in a gap of more than `LONGEST_GAP` steps.
    """
    from scipy.interpolate import PchipInterpolator
    from scipy.signal import firwin

    known = np.flatnonzero(np.isfinite(row))
    if len(known) < 2:
        return np.full(len(ticks), np.nan)
    at, ratio = times[known], (float(ticks[1] - ticks[0]) / step if len(ticks) > 1 else 1.0)
    curve = PchipInterpolator(at, row[known], extrapolate=False)
    if ratio > 1.05:
        half = ceil(10 * ratio)
        grid = np.arange(ticks[0] - step * half, ticks[-1] + step * (half + 1), step)
        even = curve(np.clip(grid, at[0], at[-1]))
        window = np.asarray(firwin(2 * half + 1, 0.9 / ratio), float)
        values = np.interp(ticks, grid[half:-half], np.convolve(even, window, "valid"))
    else:
        values = curve(np.clip(ticks, at[0], at[-1]))
    after = np.clip(np.searchsorted(at, ticks), 1, len(at) - 1)
    gap = (at[after] - at[after - 1] > LONGEST_GAP * step * 1.001) & (ticks > at[after - 1]) & (ticks < at[after])
    outside = (ticks < at[0] - 0.5 * step) | (ticks > at[-1] + 0.5 * step)
    return np.where(gap | outside, np.nan, values)


def _scales(moved: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Each channel's median and spread; 0 and 1 of what is part of a rotation."""
    turns = {row for group in (*quaternions(names), *matrices(names)) for row in group}
    centre, scale = np.zeros(len(names)), np.ones(len(names))
    for row, values in enumerate(moved):
        known = values[np.isfinite(values)]
        if row not in turns and len(known):
            centre[row], scale[row] = float(np.median(known)), max(float(known.std()), 1e-6)
    return centre, scale


def harmonise(payload: Payload, record: Record, standard: KinematicsStandard, fingerprint: Fingerprint) -> Payload:
    """(c t) float32; each channel about zero median and unit spread, rotations as they are: they have a scale of their own.

    names are the standard's channels, or the source's. The step remembers what is needed to go back: times and scales. A recording
    that has none of the standard's channels is (c 0): there is nothing in it to read.
    """
    names, times = payload.names, source_times(payload)
    step = float(np.median(np.diff(times)))
    spare = float(times[-1]) + step - standard.seconds
    start = max(0.0, spare / 2) if standard.start_s is None else standard.start_s
    ticks = start + np.arange(round(standard.seconds * standard.rate_hz)) / standard.rate_hz
    continuous = _continuous(payload.array, quaternions(names))
    moved = np.stack([_at(row, times, ticks, step) for row in continuous])
    _rotations(moved, names)
    centre, scale = _scales(moved, names)
    moved = np.clip((moved - centre[:, None]) / scale[:, None], -10, 10)
    at = {name.lower(): row for row, name in enumerate(names)}
    rows = [at.get(name.lower()) for name in standard.channels or names]
    out = np.stack([np.full(len(ticks), np.nan) if row is None else moved[row] for row in rows]).astype(np.float32)
    out = out if any(row is not None for row in rows) else out[:, :0]
    parameters: dict[str, Any] = {
        "start_s": start, "to_rate_hz": standard.rate_hz, "step_s": step,
        "times_s": times.tolist() if payload.places is not None else None,
        "centre": [0.0 if row is None else float(centre[row]) for row in rows],
        "scale": [1.0 if row is None else float(scale[row]) for row in rows],
    }  # fmt: skip
    history = (Step("resample", (payload.array.shape[1],), None, parameters),)
    to_world = np.diag([1.0 / standard.rate_hz, 1.0, 1.0, 1.0])
    return Payload(out, to_world, history, names=standard.channels or names)


def time_of(samples: np.ndarray, history: Sequence[Step]) -> np.ndarray:
    """(n,) seconds of the source at which samples of the standard grid lie."""
    said = history[-1].parameters
    return _number(said["start_s"]) + np.asarray(samples) / _number(said["to_rate_hz"])


def sample_at(times_s: np.ndarray, history: Sequence[Step]) -> np.ndarray:
    """(n,) places on the standard grid, not rounded, of moments of the source."""
    said = history[-1].parameters
    return (np.asarray(times_s) - _number(said["start_s"])) * _number(said["to_rate_hz"])


def source_sample(samples: np.ndarray, history: Sequence[Step]) -> np.ndarray:
    """(n,) int64 the source's sample nearest to each of the standard grid."""
    said, moments = history[-1].parameters, time_of(samples, history)
    times = said["times_s"]
    every = np.arange(history[-1].shape[0]) * _number(said["step_s"]) if times is None else np.asarray(times, float)
    after = np.clip(np.searchsorted(every, moments), 1, len(every) - 1)
    return np.where(moments - every[after - 1] <= every[after] - moments, after - 1, after)


def values_back(array: np.ndarray, history: Sequence[Step]) -> np.ndarray:
    """(c t) values of the standard's channels in the source's units; not clipped ones come back as they were."""
    said = history[-1].parameters
    return array * np.asarray(said["scale"])[:, None] + np.asarray(said["centre"])[:, None]


def harmonise_mask(mask: Payload, history: Sequence[Step], length: int) -> np.ndarray:
    """A transcription's labels (1 t) at the samples of the standard grid: (length,) int64, 0 beyond its end."""
    assert mask.to_world is not None
    place = np.rint(time_of(np.arange(length), history) / float(mask.to_world[0, 0])).astype(int)
    inside = (place >= 0) & (place < mask.array.shape[1])
    return np.where(inside, np.rint(mask.array[0, np.where(inside, place, 0)]), 0).astype(np.int64)


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)
