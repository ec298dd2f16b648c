"""Which pairs of many images are worth comparing: signs of random projections, in bands (Charikar 2002; Indyk and Motwani 1998).

Hashes of chest X-rays are alike by nature, so that bands of their bits put a set of X-rays into a few full buckets. What a picture has
apart from the set's mean is not alike: thumbnails of different people correlate by about 0 there, and two whose correlation is 0.995,
in a set whose pictures correlate by 0.7 with each other, by 0.98. A hyperplane parts those with a chance of 6%, so a band of 14 signs
holds them together with a chance of 0.42, and all of 32 bands part them once in thirty million times; strangers meet in one once in 2^14.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BANDS, SIGNS = 32, 14
ROWS = 8192
"""Pictures that are projected at once."""


def buckets(vectors: np.ndarray) -> np.ndarray:
    """(BANDS n) uint16: which bucket of each band a vector falls into.

    Args:
        vectors: (n d), of any float type.
    """
    planes = np.random.default_rng(0).standard_normal((vectors.shape[1], BANDS * SIGNS), dtype=np.float32)
    middle = np.mean(vectors, axis=0, dtype=np.float64).astype(np.float32)
    powers = 1 << np.arange(SIGNS, dtype=np.uint16)
    made = np.empty((BANDS, len(vectors)), dtype=np.uint16)
    for start in range(0, len(vectors), ROWS):
        mine = slice(start, start + ROWS)
        signs = (vectors[mine].astype(np.float32) - middle) @ planes > 0
        made[:, mine] = (signs.reshape(-1, BANDS, SIGNS) * powers).sum(axis=2, dtype=np.uint16).T
    return made


def pairs(band: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs that share a bucket, some at a time, each pair once.

    Args:
        band: (n,) bucket of each.
    """
    order = np.argsort(band, kind="stable")
    held = band[order]
    left = np.arange(len(order))
    apart = 1
    while len(left := left[left + apart < len(order)]):
        left = left[held[left] == held[left + apart]]  # who has no neighbour so far away has none further away
        if len(left):
            yield order[left], order[left + apart]
        apart += 1
