"""The leakage guard: no patient, no near-duplicate image and no copied note on two sides of a split.

Near-duplicate images are found by two measures that must agree: a 256-bit difference hash and a 32x32 thumbnail's correlation.
Either alone confuses chest X-rays of different people, which are alike by nature. Of many images that are all alike, such as one
scanner's or a simulator's, both would tie nearly everybody to somebody, and through them to all: there a third must agree, the
correlation of what is left of both thumbnails when the mean of all is taken away. What is turned, mirrored, inverted or cropped by
more than a little is not found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from ..records.raster import luminance
from ..schema import Modality, Payload, PolyclinicError, Record
from .candidates import buckets, pairs
from .copies import copied_notes
from .prints import kept

HAMMING = 24  # of 256
CORRELATION = 0.995
CROWD, OWN = 256, 0.98
"""Of so many images the mean is known well enough to be taken away; copies are to correlate so in what is left. JPEG copies of quality 50
have 0.99 and more on chest X-rays and 0.987 on simulated ones, of whose different people one pair in ten thousand has more than 0.98."""
BLOCK = 1024
EXACT = 4096
"""Images of which all pairs are compared."""
_PRINT = pa.schema([("hash", pa.binary(32)), ("thumbnail", pa.list_(pa.float16(), 1024))])


class LeakageError(PolyclinicError):
    """Something of the test side is on the training side."""


def fingerprint(payload: Payload) -> tuple[np.ndarray, np.ndarray]:
    """A 256-bit difference hash and the standardised 32x32 thumbnail of an image (c y x), of its luminance: a grey copy of one in
    colours is a copy.

    Blocks are averaged, so that a resaved, rescaled or brightness-shifted copy keeps its hash.
    """
    grey = luminance(payload.array)
    small = _shrink(grey, 32)
    tiny = _shrink(grey, 17)
    bits = (tiny[:16, 1:] > tiny[:16, :-1]).reshape(-1)
    return bits, ((small - small.mean()) / (small.std() + 1e-6)).reshape(-1)


def _shrink(grey: np.ndarray, side: int) -> np.ndarray:
    """(side side) by averaging blocks of near-equal size."""
    rows = np.linspace(0, grey.shape[0], side + 1).astype(int)
    columns = np.linspace(0, grey.shape[1], side + 1).astype(int)
    if grey.shape[0] < side or grey.shape[1] < side:
        return grey[np.arange(side) * grey.shape[0] // side][:, np.arange(side) * grey.shape[1] // side]
    sums = np.add.reduceat(np.add.reduceat(grey.astype(np.float64), rows[:-1], axis=0), columns[:-1], axis=1)
    return sums / np.outer(np.diff(rows), np.diff(columns))


def near_duplicates(images: Sequence[Record], load: Callable[[Record], Payload]) -> list[tuple[Record, Record]]:
    """Pairs of images of different patients that are copies of each other.

    Up to `EXACT` images all pairs are compared; of more, those that share a bucket, and neither time nor memory grows with the pairs.
    """
    if len(images) < 2:
        return []
    table = kept("images", images, load, _printed, _PRINT)
    bits = np.frombuffer(b"".join(table["hash"].to_pylist()), dtype=np.uint64).reshape(len(images), -1)
    small = table["thumbnail"].combine_chunks().flatten().to_numpy().reshape(len(images), -1)
    mean = small.mean(axis=0, dtype=np.float32) if len(images) >= CROWD else None
    patients = np.unique([r.patient for r in images], return_inverse=True)[1]
    found: set[tuple[int, int]] = set()
    for ones, others in _all(small) if len(images) <= EXACT else _promising(small):
        near = np.bitwise_count(bits[ones] ^ bits[others]).sum(axis=1) <= HAMMING
        near &= patients[ones] != patients[others]
        for start in range(0, int(near.sum()), BLOCK):  # memory grows with the images, not with their pairs
            a, b = (side[near][start : start + BLOCK] for side in (ones, others))
            one, other = small[a].astype(np.float32), small[b].astype(np.float32)
            same = np.einsum("nd,nd->n", one, other) / small.shape[1] >= CORRELATION
            if mean is not None:
                same &= _cosine(one - mean, other - mean) >= OWN
            found |= {(min(i, j), max(i, j)) for i, j in zip(a[same].tolist(), b[same].tolist(), strict=True)}
    return [(images[i], images[j]) for i, j in sorted(found)]


def _printed(payload: Payload) -> dict[str, object]:
    bits, small = fingerprint(payload)
    return {"hash": np.packbits(bits).tobytes(), "thumbnail": small.astype(np.float16)}


def _cosine(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n,) of the rows of (n d) and (n d)."""
    lengths = np.linalg.norm(ones, axis=1) * np.linalg.norm(others, axis=1)
    return np.einsum("nd,nd->n", ones, others) / np.maximum(lengths, 1e-9)


def _all(small: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every pair whose thumbnails correlate enough, but for rounding, those of a block of images at a time."""
    whole = small.astype(np.float32)
    for start in range(0, len(whole), BLOCK):
        alike = whole[start : start + BLOCK] @ whole.T >= (CORRELATION - 1e-3) * whole.shape[1]
        ones, others = np.nonzero(np.triu(alike, start + 1))
        yield ones + start, others


def _promising(small: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs that share a bucket; of blank images, whose thumbnail is zero and correlates with nothing, none."""
    told = np.flatnonzero(small.any(axis=1))
    for band in buckets(small[told]):
        for ones, others in pairs(band):
            yield told[ones], told[others]


def _images(found: Sequence[Record]) -> list[Record]:
    return [r for r in found if r.modality is Modality.IMAGE and not r.attributes.get("mask")]


def _copies(found: Sequence[Record], load: Callable[[Record], Payload]) -> list[tuple[str, Record, Record]]:
    """What is copied, and the pairs of records of different patients that are copies of each other."""
    notes = [r for r in found if r.modality is Modality.TEXT]
    images = [("images", *pair) for pair in near_duplicates(_images(found), load)]
    return images + [("notes", *pair) for pair in copied_notes(notes, load)]


def ties(found: Sequence[Record], load: Callable[[Record], Payload]) -> set[tuple[str, str]]:
    """Pairs of patients that share near-duplicate images or a copied note."""
    return {(one.patient, other.patient) for _, one, other in _copies(found, load)}


def guard(
    train: Sequence[str], test: Sequence[str], found: Sequence[Record], load: Callable[[Record], Payload]
) -> None:
    """Refuse a split that leaks.

    Raises:
        LeakageError: a patient, a near-duplicate image or a copied note is on both sides. It names record ids, not patients.
    """
    both = set(train) & set(test)
    if both:
        raise LeakageError(
            f"{len(both)} patients on both sides of the split", "each patient on one side", "make the split anew"
        )
    side = dict.fromkeys(train, 0) | dict.fromkeys(test, 1)
    for what, one, other in _copies(found, load):  # of all that were split: their mean decides too
        if {side.get(one.patient), side.get(other.patient)} == {0, 1}:
            raise LeakageError(
                f"the {what} {one.id} and {other.id} are near-duplicates on two sides of the split",
                "near-duplicates on one side",
                "make the split with `polyclinic cohort split`, which keeps them together",
            )
