"""Grids: from the source's to the standard one, and the way back.

A grid is its axes. The standard grid keeps the source's own axes, permuted and flipped to lie nearest to LPS, so an oblique
volume stays oblique (its rotation lives in `to_world`) and every resampling is separable: axis by axis. A sheared volume
(a tilted gantry) is straightened: its standard grid has right angles, and is the only one that is resampled in space.

Every step remembers `to_source`, the 4x4 matrix that takes a homogeneous index (x y z 1) of the new grid to one of the old.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..schema import Payload, PolyclinicError, Step
from .resampling import resample, resample_labels


class GridError(PolyclinicError):
    """A mask that does not lie on its image."""


def finite(array: np.ndarray) -> np.ndarray:
    """The array with its least number where it has none: background that a program marked by NaN."""
    if array.dtype.kind != "f":
        return array
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


def sheared(to_world: np.ndarray) -> bool:
    """Whether the axes do not stand at right angles (by more than a tenth of a degree)."""
    cosines = to_world[:3, :3] / spacing_of(to_world)
    return bool(np.abs(cosines.T @ cosines - np.eye(3)).max() > 1.75e-3)


def straight(to_world: np.ndarray) -> np.ndarray:
    """The same grid with right angles: x as it is, y in the plane of both, z along their normal."""
    x, y, z = (to_world[:3, axis] for axis in range(3))
    along = x / np.linalg.norm(x)
    across = y - (y @ along) * along
    across /= np.linalg.norm(across)
    normal = np.cross(along, across)
    matrix = to_world.copy()
    matrix[:3, 1] = across * np.linalg.norm(y)
    matrix[:3, 2] = normal * (z @ normal)
    return matrix


def whole(
    shape: Sequence[int], to_world: np.ndarray, spacing_mm: Sequence[float], reorient: bool = True
) -> tuple[int, int, int]:
    """The size (z y x) at which a standard grid holds every sample of the source, from its first to its last."""
    order, _ = nearest_axes(to_world) if reorient else ((0, 1, 2), None)
    extent = (np.array(shape[::-1]) - 1) * spacing_of(to_world)
    x, y, z = (round(float(extent[order[new]] / spacing_mm[2 - new])) + 1 for new in range(3))
    return z, y, x


def plan(
    shape: Sequence[int],
    to_world: np.ndarray,
    spacing_mm: Sequence[float],
    size: Sequence[int] | None,
    reorient: bool = True,
) -> np.ndarray:
    """`to_source` of a standard grid about the source's centre, or from its first sample where the grid is to hold it whole.

    Args:
        shape: the source's (z y x).
        to_world: the source's index → mm.
        spacing_mm: the standard's (z y x).
        size: the standard's (z y x); None for as many as `whole` gives.
        reorient: turn the axes to LPS; False keeps them (an image that is only seen one way).
    """
    if sheared(to_world):
        upright = straight(to_world)
        shift = np.eye(4)  # about the same centre
        middle = np.append((np.array(shape[::-1]) - 1) / 2, 1.0)
        shift[:3, 3] = (to_world - upright)[:3] @ middle
        return np.linalg.inv(to_world) @ shift @ upright @ plan(shape, shift @ upright, spacing_mm, size, reorient)
    order, sign = nearest_axes(to_world) if reorient else ((0, 1, 2), (1, 1, 1))
    source_size = np.array(shape[::-1], float)  # x y z
    own = spacing_of(to_world)
    step = np.array(spacing_mm[::-1], float)
    matrix = np.eye(4)
    matrix[:3, :3] = 0.0
    for new in range(3):
        old = order[new]
        scale = step[new] / own[old]
        if size is None:
            start = 0.0 if sign[new] > 0 else source_size[old] - 1
        else:
            start = (source_size[old] - 1) / 2 - sign[new] * scale * (size[2 - new] - 1) / 2
            if abs(scale - 1) < 1e-6:
                start = (
                    np.floor(start) if sign[new] > 0 else np.ceil(start)
                )  # whole voxels: nothing is blurred for a crop
        matrix[old, new] = sign[new] * scale
        matrix[old, 3] = start
    return matrix


def apply(
    payload: Payload,
    to_source: np.ndarray,
    size: Sequence[int],
    name: str,
    order: int = 1,
    fill: float = 0.0,
    average: bool = True,
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
        resample(payload.array, to_source, size, order, fill, average),
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
