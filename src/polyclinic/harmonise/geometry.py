"""Grids: from the source's to the standard one, and the way back.

A grid is its axes. The standard grid keeps the source's own axes, permuted and flipped to lie nearest to LPS, so an oblique
volume stays oblique (its rotation lives in `to_world`) and every resampling is separable: one small matrix an axis.

Every step remembers `to_source`, the 4x4 matrix that takes a homogeneous index (x y z 1) of the new grid to one of the old.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..schema import Payload, PolyclinicError, Step


class GridError(PolyclinicError):
    """A mask that does not lie on its image."""


def finite(array: np.ndarray) -> np.ndarray:
    """The array with its least number where it has none: background that a program marked by NaN."""
    known = np.isfinite(array)
    return array if known.all() else np.where(known, array, array[known].min() if known.any() else 0.0)


def spacing_of(to_world: np.ndarray) -> np.ndarray:
    """(3,) mm a step along x, y, z index."""
    return np.linalg.norm(to_world[:3, :3], axis=0)


def nearest_axes(to_world: np.ndarray) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Which index axis, and with which sign, lies nearest to each of L, P and S.

    Returns:
        order: for world axis w, the index axis; sign: +1 or -1.
    """
    cosines = to_world[:3, :3] / spacing_of(to_world)
    order, sign, left = [0, 0, 0], [1, 1, 1], {0, 1, 2}
    for world in sorted(range(3), key=lambda w: -np.abs(cosines[w]).max()):
        axis = max(left, key=lambda a: abs(cosines[world, a]))
        left.discard(axis)
        order[world], sign[world] = axis, 1 if cosines[world, axis] >= 0 else -1
    return (order[0], order[1], order[2]), (sign[0], sign[1], sign[2])


def parallel(matrix: np.ndarray) -> bool:
    """Whether a 4x4 from one grid's index to another's only permutes, flips and scales the axes (within half a degree)."""
    cosines = np.abs(matrix[:3, :3] / spacing_of(matrix))
    return bool((cosines.max(axis=0) > 0.99996).all() and len(set(cosines.argmax(axis=0))) == 3)


def fills(matrix: np.ndarray, shape: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two parallel grids (z y x) fill the same box, to within a voxel: `matrix` takes an index of one to the other's."""
    far = np.array(shape[::-1], float)
    corners = np.array([matrix[:3] @ np.array([*corner, 1.0]) for corner in (np.full(3, -0.5), far - 0.5)])
    expected = np.stack([np.full(3, -0.5), np.array(other[::-1], float) - 0.5])
    return bool((np.abs(np.sort(corners, axis=0) - expected) < 1.0).all())


def plan(
    shape: Sequence[int], to_world: np.ndarray, spacing_mm: Sequence[float], size: Sequence[int], reorient: bool = True
) -> np.ndarray:
    """`to_source` of a standard grid about the source's centre.

    Args:
        shape: the source's (z y x).
        to_world: the source's index → mm.
        spacing_mm: the standard's (z y x).
        size: the standard's (z y x).
        reorient: turn the axes to LPS; False keeps them (an image that is only seen one way).
    """
    order, sign = nearest_axes(to_world) if reorient else ((0, 1, 2), (1, 1, 1))
    source_size = np.array(shape[::-1], float)  # x y z
    own = spacing_of(to_world)
    step = np.array(spacing_mm[::-1], float)
    target = np.array(size[::-1], float)
    matrix = np.eye(4)
    matrix[:3, :3] = 0.0
    for new in range(3):
        old = order[new]
        scale = step[new] / own[old]
        centre = (source_size[old] - 1) / 2
        offset = sign[new] * scale * (target[new] - 1) / 2
        start = centre - offset
        if abs(scale - 1) < 1e-6:
            start = np.floor(start) if sign[new] > 0 else np.ceil(start)  # whole voxels: nothing is blurred for a crop
        matrix[old, new] = sign[new] * scale
        matrix[old, 3] = start
    return matrix


def _weights(sources: np.ndarray, length: int, order: int, outside: bool) -> np.ndarray:
    """(n length): how each source sample counts for n places; zero outside when `outside`, else the edge is repeated.

    order 0 is nearest; order 1 a triangle, widened when the new grid is coarser, so that it averages.
    """
    count = len(sources)
    weights = np.zeros((count, length), dtype=np.float32)
    inside = (sources > -0.5) & (sources < length - 0.5)
    if order == 0:
        nearest = np.clip(np.rint(sources).astype(int), 0, length - 1)
        weights[np.arange(count), nearest] = 1.0
    else:
        width = max(1.0, abs(float(sources[1] - sources[0])) if count > 1 else 1.0)
        place = np.clip(sources, 0, length - 1)
        weights = np.clip(1 - np.abs(place[:, None] - np.arange(length)[None]) / width, 0, None).astype(np.float32)
        weights /= weights.sum(axis=1, keepdims=True)
    if outside:
        weights[~inside] = 0.0
    return weights


def resample(
    array: np.ndarray, to_source: np.ndarray, size: Sequence[int], order: int | Sequence[int] = 1, fill: float = 0.0
) -> np.ndarray:
    """The array on another grid with the same axes up to permutation and sign.

    Args:
        array: (c z y x).
        to_source: index (x y z 1) of the new grid → index of the array.
        size: the new (z y x).
        order: 0 nearest, 1 linear; or one for each of x, y, z.
        fill: the value outside the source.
    Returns:
        (c z y x) float32.
    """
    orders = (order,) * 3 if isinstance(order, int) else order
    old_of_new = [int(np.argmax(np.abs(to_source[:3, new]))) for new in range(3)]
    turned = array.transpose(0, *(1 + 2 - old_of_new[2 - axis] for axis in range(3))).astype(
        np.float32, copy=False
    ) - np.float32(fill)
    for new in range(3):  # x, y, z: array axis 3, 2, 1
        old, axis = old_of_new[new], 3 - new
        length, count = turned.shape[axis], size[2 - new]
        sources = to_source[old, new] * np.arange(count) + to_source[old, 3]
        first = round(float(sources[0]))
        if np.allclose(sources, first + np.arange(count), atol=1e-6) and first >= 0 and first + count <= length:
            turned = turned[(slice(None),) * axis + (slice(first, first + count),)]
            continue
        weights = _weights(sources, length, orders[new], outside=True)
        turned = np.moveaxis(np.moveaxis(turned, axis, -1) @ weights.T, -1, axis)
    return np.ascontiguousarray(turned + np.float32(fill))


def resample_labels(array: np.ndarray, to_source: np.ndarray, size: Sequence[int], back: bool = False) -> np.ndarray:
    """A label map (z y x) on another grid.

    Along an axis on which the standard grid is no coarser than the source, each voxel takes the nearest one's label, there
    and back: then the way back gives the source's own map again, to the voxel. Along any other, each label's share is
    resampled linearly and the largest wins.

    Args:
        array: label numbers.
        to_source: index (x y z 1) of the new grid → index of the array.
        size: the new (z y x).
        back: from the standard grid to the source's.
    """
    steps = np.abs(to_source[:3, :3]).max(axis=0)
    orders = [int(step < 1 - 1e-6 if back else step > 1 + 1e-6) for step in steps]
    if not any(orders):
        return np.rint(resample(array[None], to_source, size, 0)[0]).astype(np.int64)
    best = np.zeros(tuple(size), dtype=np.float32)
    winner, none = np.zeros(tuple(size), dtype=np.int64), np.ones(tuple(size), dtype=np.float32)
    for label, part in _parts(np.rint(array).astype(np.int64), int(steps.max()) + 2):
        shifted = to_source.copy()
        shifted[:3, 3] -= [piece.start for piece in reversed(part)]
        share = resample((array[part] == label)[None], shifted, size, orders)[0]
        none -= share
        better = share > best
        winner[better], best[better] = label, share[better]
    return np.where(best > np.maximum(none, 0.0), winner, 0)


def _parts(array: np.ndarray, margin: int) -> Iterator[tuple[int, tuple[slice, ...]]]:
    """Each label and its box with a margin: a map of a hundred organs is taken one by one, and no larger than each is."""
    from scipy.ndimage import find_objects

    for number, box in enumerate(find_objects(np.maximum(array, 0)), start=1):
        if box is not None:
            grown = (
                slice(max(0, s.start - margin), min(n, s.stop + margin)) for s, n in zip(box, array.shape, strict=True)
            )
            yield number, tuple(grown)


def apply(
    payload: Payload, to_source: np.ndarray, size: Sequence[int], name: str, order: int = 1, fill: float = 0.0
) -> Payload:
    """The payload (c z y x) on the new grid, its step remembered."""
    source_to_world = payload.to_world if payload.to_world is not None else np.eye(4)
    step = Step(
        name,
        tuple(payload.array.shape[1:]),
        None if payload.to_world is None else tuple(tuple(map(float, row)) for row in payload.to_world),
        {"to_source": to_source.tolist()},
    )
    return Payload(
        resample(payload.array, to_source, size, order, fill),
        source_to_world @ to_source,
        (*payload.history, step),
        payload.nominal or payload.to_world is None,
        payload.names,
    )


def _to_source(step: Step) -> np.ndarray:
    return np.array(step.parameters["to_source"], dtype=float)


def way_back(array: np.ndarray, history: Sequence[Step], labels: bool = True) -> np.ndarray:
    """An answer on the standard grid, on the source's.

    Args:
        array: (z y x) label numbers, or with `labels=False` a map of values.
        history: the steps of the payload that the answer is about.
    Returns:
        the source's shape: (z y x), or (y x) for an image.
    """
    flat = array[None] if array.ndim == 2 else array
    shape: tuple[int, ...] = flat.shape
    for step in reversed(history):
        shape = step.shape
        size = shape if len(shape) == 3 else (1, *shape)
        back = np.linalg.inv(_to_source(step))
        flat = resample_labels(flat, back, size, back=True) if labels else resample(flat[None], back, size)[0]
    return flat[0] if len(shape) == 2 else flat


def points_back(points: np.ndarray, history: Sequence[Step]) -> np.ndarray:
    """Places (n 3), index x y z of the standard grid, as index x y z of the source."""
    homogeneous = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    for step in reversed(history):
        homogeneous = homogeneous @ _to_source(step).T
    return homogeneous[:, :3]


def points_forth(points: np.ndarray, history: Sequence[Step]) -> np.ndarray:
    """Places (n 3), index x y z of the source, as index x y z of the standard grid."""
    homogeneous = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    for step in history:
        homogeneous = homogeneous @ np.linalg.inv(_to_source(step)).T
    return homogeneous[:, :3]
