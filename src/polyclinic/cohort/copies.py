"""Copies of a note: MinHash finds candidates (Broder 1997), banding keeps from comparing all with all, the shingles themselves decide."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from ..schema import Payload, Record
from .prints import kept

WORDS, SHINGLE = 25, 4
"""A shorter note says what many say ("no acute finding") and is nobody's copy; so many words are a shingle."""
JACCARD = 0.7
"""Of the shingles that two notes have, the share that both have."""
BANDS, ROWS = 32, 4
"""Two notes of a Jaccard of 0.7 miss each other in every band once in six thousand times."""

_PRINT = pa.schema([("shingles", pa.list_(pa.uint64()))])


def shingles(text: str) -> np.ndarray:
    """(s,) uint64, sorted: hashes of all runs of `SHINGLE` words; empty for a note of fewer than `WORDS` words."""
    words = re.findall(r"\w+", text.lower())
    if len(words) < WORDS:
        return np.zeros(0, dtype=np.uint64)
    runs = {" ".join(words[i : i + SHINGLE]) for i in range(len(words) - SHINGLE + 1)}
    hashes = [int.from_bytes(hashlib.blake2b(run.encode(), digest_size=8).digest(), "big") for run in runs]
    return np.sort(np.array(hashes, dtype=np.uint64))


def sketch(found: np.ndarray) -> np.ndarray:
    """(BANDS, ROWS) uint64: the least of the shingles' hashes under each of so many fixed permutations."""
    random = np.random.default_rng(0)
    times, plus = (random.integers(1, 2**63, BANDS * ROWS, dtype=np.uint64) for _ in range(2))
    mixed = found[:, None] * (times | np.uint64(1)) + plus  # modulo 2^64
    return (mixed ^ (mixed >> np.uint64(32))).min(axis=0).reshape(BANDS, ROWS)


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """Of two notes' shingles, the share that both have."""
    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / max(len(one) + len(other) - both, 1)


def copied_notes(notes: Sequence[Record], load: Callable[[Record], Payload]) -> list[tuple[Record, Record]]:
    """Pairs of notes of different patients that are copies of each other, but for a few words."""
    table = kept("notes", notes, load, lambda payload: {"shingles": shingles(payload.text or "")}, _PRINT)
    said = [row.values.to_numpy() for row in table["shingles"]]
    buckets: dict[bytes, list[int]] = {}
    for number, found in enumerate(said):
        if len(found):
            for band, rows in enumerate(sketch(found)):
                buckets.setdefault(bytes([band]) + rows.tobytes(), []).append(number)
    near = {
        (one, other)
        for mine in buckets.values()
        for place, one in enumerate(mine)
        for other in mine[place + 1 :]
        if notes[one].patient != notes[other].patient
    }
    return [(notes[a], notes[b]) for a, b in sorted(near) if jaccard(said[a], said[b]) >= JACCARD]
