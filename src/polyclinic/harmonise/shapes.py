"""Boxes and named points on the standard grid of the image or volume that they were drawn on, or of whose mask's parts they are.

A place is an index along (z y x) or (y x), 0 being the centre of the first sample, so that a box about one sample reaches from
-0.5 to 0.5. What lies beyond the grid stays where it is: an encoder that sees only the middle misses it, and that is a miss.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..cohort.masks import UNION
from ..schema import Modality, Payload, Record
from . import image as images
from . import volume as volumes
from .geometry import GridError, spacing_of

TWICE = 0.5
"""Overlap from which on boxes of one class in several files are the same thing, drawn by several readers."""


def overlaps(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union (n m) of boxes (n 2d) and (m 2d): the lower corner first, along any axes (Jaccard 1912)."""
    d = one.shape[1] // 2
    low, high = np.maximum(one[:, None, :d], other[None, :, :d]), np.minimum(one[:, None, d:], other[None, :, d:])
    shared = np.clip(high - low, 0, None).prod(-1)
    size = lambda boxes: (boxes[:, d:] - boxes[:, :d]).prod(1)
    union = size(one)[:, None] + size(other)[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def boxes(
    drawn: Sequence[tuple[Record, Payload]], image: Payload, modality: Modality, classes: Sequence[str], least_mm: float = 0.0
) -> np.ndarray:  # fmt: skip
    """What was drawn on an image, as boxes on its standard grid.

    Args:
        drawn: boxes with labels (n 4), or masks, of each of whose parts that hang together there is one.
        image: harmonised.
        modality: of it.
        classes: names of the labels; of a mask, of its numbers 1, 2 …; "" where nobody asks.
        least_mm: the longest side from which on a part of a mask counts.
    Returns:
        (n 1+2d) float32: which of the classes that are asked for, from 0; the lower and the upper corner, each (z y x) or (y x).
    Raises:
        GridError: it was not drawn on this image.
    """
    found = [
        _drawn(record, payload, image, classes)
        if record.attributes.get("annotation") == "boxes"
        else _parts(record, payload, image, modality, classes, least_mm)
        for record, payload in drawn
    ]
    kept = found[0] if found else np.zeros((0, 1 + 2 * (image.array.ndim - 1)))
    for more in found[1:]:
        same = (overlaps(more[:, 1:], kept[:, 1:]) > TWICE) & (more[:, None, 0] == kept[None, :, 0])
        kept = np.concatenate([kept, more[~same.any(1)]])
    return kept.astype(np.float32)


def points(
    drawn: Sequence[tuple[Record, Payload]], image: Payload, modality: Modality, classes: Sequence[str]
) -> np.ndarray:
    """Named points on an image's standard grid: drawn ones, or the centres of gravity of a mask's labels.

    Args:
        drawn, image, modality, classes: as of `boxes`.
    Returns:
        (k d) float32 in the classes' order, each (z y x) or (y x); NaN where it is not drawn.
    Raises:
        GridError: it was not drawn on this image; a point of one name in several places.
    """
    asked = [name for name in classes if name]
    found = np.full((len(asked), image.array.ndim - 1), np.nan)
    for record, payload in drawn:
        if record.attributes.get("annotation") == "keypoints":
            more = _keypoints(record, payload, image, asked)
        else:
            more = _centres(record, payload, image, modality, classes)
        found = np.where(np.isnan(found), more, found)
    return found.astype(np.float32)


def _standard(places: np.ndarray, onto: np.ndarray, d: int) -> np.ndarray:
    """Places (n 3) x y z of a drawing, on the standard grid (n d) in the axes' order; `onto` goes the other way."""
    homogeneous = np.concatenate([places, np.ones((len(places), 1))], axis=1)
    return (homogeneous @ np.linalg.inv(onto).T)[:, :d][:, ::-1]


def _boxed(low: np.ndarray, high: np.ndarray, onto: np.ndarray, d: int) -> np.ndarray:
    """Corners (n 3) x y z of boxes in a drawing → (n 2d): about all their corners, where the axes are turned."""
    ends = np.stack([low, high])
    corner = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), -1).reshape(-1, 3)
    placed = np.stack([_standard(np.stack([ends[c[a], :, a] for a in range(3)], 1), onto, d) for c in corner])
    return np.concatenate([placed.min(0), placed.max(0)], axis=1)


def _onto_page(record: Record, image: Payload) -> np.ndarray:
    """`onto` of what was drawn on a picture that may have been made smaller since."""
    rows, columns = record.attributes.get("rows"), record.attributes.get("columns")
    assert isinstance(rows, int | float)  # every reader of drawings says so
    assert isinstance(columns, int | float)
    try:
        return images.onto_drawn((int(rows), int(columns)), image)
    except GridError as error:
        raise GridError(f"{record.uri}: {error.found}", error.expected, error.remedy) from error


def _onto(record: Record, payload: Payload, image: Payload, modality: Modality) -> np.ndarray:
    """`onto` of a mask."""
    try:
        if modality is Modality.IMAGE:
            return images.onto_drawn(payload.array.shape[1:], image)
        return volumes.onto_mask(payload, image)
    except GridError as error:
        raise GridError(f"{record.uri}: {error.found}", error.expected, error.remedy) from error


def _drawn(record: Record, payload: Payload, image: Payload, classes: Sequence[str]) -> np.ndarray:
    number = {name.lower(): n for n, name in enumerate(name for name in classes if name)}
    asked = [n for n, name in enumerate(payload.names) if name.lower() in number]
    corners = payload.array[asked].astype(float).reshape(-1, 2, 2) - 0.5  # pixel (0, 0) reached from 0 to 1
    flat = np.zeros((len(corners), 2, 1))
    low, high = np.concatenate([corners, flat], 2).transpose(1, 0, 2)
    placed = _boxed(low, high, _onto_page(record, image), 2)
    which = [number[payload.names[n].lower()] for n in asked]
    return np.concatenate([np.array(which, float).reshape(-1, 1), placed], axis=1)


def _keypoints(record: Record, payload: Payload, image: Payload, asked: Sequence[str]) -> np.ndarray:
    found = np.full((len(asked), 2), np.nan)
    onto = _onto_page(record, image)
    for number, name in enumerate(asked):
        mine = [i for i, part in enumerate(payload.names) if part.lower() == name.lower()]
        seen = [one[i] for one in payload.array for i in mine if one[i, 2] > 0]  # 0: not labelled; 1: hidden, and known
        if len(seen) > 1:
            raise GridError(
                f"{record.uri}: {len(seen)} points {name!r} on an image", "one", "leave one, or ask for boxes"
            )
        if seen:
            found[number] = _standard(np.array([[*(seen[0][:2] - 0.5), 0.0]]), onto, 2)[0]
    return found


def _labels(record: Record, payload: Payload, classes: Sequence[str]) -> list[tuple[int, int]]:
    """Of each class that is asked for, in their order, its number in the answer and in a mask.

    A mask whose numbers have names is understood by these, where any of them is asked for.
    """
    asked = [(n, name.lower()) for n, name in enumerate(classes, start=1) if name]
    own = [name.lower() for name in payload.names] if UNION not in record.attributes else []
    if any(name in own for _, name in asked):
        return [(k, own.index(name) + 1) for k, (_, name) in enumerate(asked) if name in own]
    return [(k, n) for k, (n, _) in enumerate(asked)]


def _parts(
    record: Record, payload: Payload, image: Payload, modality: Modality, classes: Sequence[str], least_mm: float
) -> np.ndarray:
    """A box about each part of a mask that hangs together, also over its samples' corners."""
    from scipy.ndimage import find_objects, label

    onto, d = _onto(record, payload, image, modality), image.array.ndim - 1
    drawn = np.rint(payload.array[0])
    rows: list[np.ndarray] = []
    for number, value in _labels(record, payload, classes):
        parts, _ = label(drawn == value, np.ones((3,) * d))  # type: ignore[misc]  # its stubs know one result only
        spans = np.array([[(s.start, s.stop) for s in part] for part in find_objects(parts)]).reshape(-1, d, 2)
        ends = np.zeros((len(spans), 3, 2))
        ends[:, :d] = spans[:, ::-1] - 0.5  # z y x → x y z
        placed = _boxed(ends[..., 0], ends[..., 1], onto, d)
        rows.append(np.concatenate([np.full((len(placed), 1), float(number)), placed], axis=1))
    found = np.concatenate(rows)
    assert image.to_world is not None
    sides = (found[:, 1 + d :] - found[:, 1 : 1 + d]) * spacing_of(image.to_world)[:d][::-1]
    return found[sides.max(1, initial=0.0) >= least_mm]


def _centres(
    record: Record, payload: Payload, image: Payload, modality: Modality, classes: Sequence[str]
) -> np.ndarray:
    onto, d = _onto(record, payload, image, modality), image.array.ndim - 1
    drawn, found = np.rint(payload.array[0]), np.full((sum(map(bool, classes)), d), np.nan)
    for number, value in _labels(record, payload, classes):
        if len(inside := np.argwhere(drawn == value)):
            centre = np.zeros((1, 3))
            centre[0, :d] = inside.mean(0)[::-1]
            found[number] = _standard(centre, onto, d)[0]
    return found
