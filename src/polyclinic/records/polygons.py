"""Drawn shapes → masks: polygons by their pixels' centres, and COCO's run-length codes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .source import RecordError


def polygon(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The pixels whose centres lie inside, by the even-odd rule.

    Args:
        points: (n 2) x, y in pixels; pixel (0, 0) reaches from (0, 0) to (1, 1).
        shape: y, x of the image.
    Returns:
        (y x) bool
    """
    out = np.zeros(shape, dtype=bool)
    x, y = points.T
    x2, y2 = np.roll(x, -1), np.roll(y, -1)
    top, bottom = max(int(np.floor(y.min())), 0), min(int(np.ceil(y.max())), shape[0])
    for row in range(top, bottom):
        centre = row + 0.5
        crosses = (y <= centre) != (y2 <= centre)
        at = x[crosses] + (centre - y[crosses]) * (x2[crosses] - x[crosses]) / (y2[crosses] - y[crosses])
        # A pixel's centre is inside where an odd number of edges lies left of it.
        steps = np.clip(np.ceil(at - 0.5), 0, shape[1]).astype(int)
        out[row] = np.cumsum(np.bincount(steps, minlength=shape[1] + 1)[: shape[1]]) % 2 == 1
    return out


def runs(counts: Sequence[int], shape: tuple[int, int]) -> np.ndarray:
    """A run-length code: numbers of zeros and ones in turn, down the columns (COCO API, `mask`).

    Args:
        counts: as COCO lists them.
        shape: y, x of the image.
    Returns:
        (y x) bool
    Raises:
        RecordError: the runs are not as long as the image.
    """
    lengths = np.array(counts, dtype=np.int64)
    if (lengths < 0).any() or (lengths > shape[0] * shape[1]).any() or lengths.sum() != shape[0] * shape[1]:
        raise RecordError("runs that are not as long as the image", f"{shape[0] * shape[1]} pixels", "export it again")
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(shape[::-1]).T


def run_lengths(packed: str) -> list[int]:
    """COCO's text form of runs: five bits a character from '0' on, the sixth says that more follow, the third run on as differences.

    Raises:
        RecordError: it is none.
    """
    counts: list[int] = []
    value = shift = 0
    for character in packed:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise RecordError("a run-length code that is none", "COCO's", "export it again")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    return counts
