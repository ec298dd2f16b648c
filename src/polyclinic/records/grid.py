"""Where a volume's voxels lie, whichever way their axes run: how a label map is laid on its image when their names do not say.

A DICOM series and a NIfTI file of the same voxels differ in the order and the direction of their axes. Both are written here as
if the axes ran to the patient's left, back and head: how many voxels along each, the middle of the first voxel, and of the last
one along each axis, in mm (LPS).
"""

from __future__ import annotations

from itertools import permutations

import numpy as np

_MOST_LABEL, _MOST_LABELS = 2**16, 256
"""The largest number of a region, and how many there may be."""
_ALIKE = 0.5
"""Share of neighbours within regions that are alike; thin and small regions have more of a border."""


def grid_of(shape: tuple[int, int, int], to_world: np.ndarray) -> str:
    """The grid as the attribute `grid` has it: `122x101x30 -177.956 …`, the shape and twelve numbers in mm.

    Args:
        shape: (x y z), as the columns of `to_world` count.
        to_world: 4x4, index → mm in LPS.
    """
    steps, origin = to_world[:3, :3].copy(), to_world[:3, 3].copy()
    cosines = np.abs(steps / np.linalg.norm(steps, axis=0))
    order = list(max(permutations(range(3)), key=lambda o: sum(cosines[world, axis] for world, axis in enumerate(o))))
    steps, counts = steps[:, order], np.array(shape)[order]
    for axis in range(3):
        if steps[axis, axis] < 0:
            origin += (counts[axis] - 1) * steps[:, axis]
            steps[:, axis] *= -1
    ends = origin + (steps * np.maximum(counts - 1, 1)).T
    places = np.round(np.concatenate([origin, *ends]), 4) + 0.0  # no negative zero
    return " ".join(["x".join(map(str, counts.tolist())), *(f"{v:.12g}" for v in places)])


def parted(grid: str) -> tuple[str, list[float], float]:
    """The shape, the twelve numbers, and how far apart in mm two grids may be and still be one: a quarter of the finest spacing."""
    shape, *places = grid.split()
    numbers = [float(v) for v in places]
    points = np.array(numbers).reshape(4, 3)
    steps = np.linalg.norm(points[1:] - points[0], axis=1) / np.maximum(
        np.array([int(n) for n in shape.split("x")]) - 1, 1
    )
    return shape, numbers, float(steps.min()) / 4


def is_label_map(voxels: np.ndarray) -> bool:
    """Whether they are numbers of regions and no picture: few whole numbers, 0 among them, and neighbours mostly alike.

    A picture of few grey levels has other neighbours: of the pairs that are not both 0, fewer than a tenth are alike in MR and
    CT, more than three quarters in maps of organs.

    Args:
        voxels: (x y z), or some of its slices.
    """
    some = voxels[:: max(voxels.shape[0] // 64, 1), :: max(voxels.shape[1] // 64, 1)]
    for part in (some, voxels):  # most pictures are known by a few of their voxels
        if not np.isfinite(part).all() or part.min() < 0 or part.max() > _MOST_LABEL or (part != np.round(part)).any():
            return False
        if np.count_nonzero(np.bincount(part.astype(np.int64).reshape(-1))) > _MOST_LABELS:
            return False
    if voxels.min() != 0 or voxels.max() == 0:
        return False
    alike = pairs = 0
    for axis in (0, 1):
        along = np.moveaxis(voxels, axis, 0)
        here, there = along[:-1], along[1:]
        drawn = (here != 0) | (there != 0)
        alike, pairs = alike + int((here == there)[drawn].sum()), pairs + int(drawn.sum())
    return pairs > 0 and alike >= _ALIKE * pairs
