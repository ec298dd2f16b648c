"""Crops of a volume at one or several scales, each with its own way back.

A lesion is seen sharply in a small box and understood in a large one: concentric crops of one size in voxels and growing
spacing are what multi-scale encoders read (Niu et al. 2025, M3FM for chest CT), and crops of two sizes what
self-distillation compares (Caron et al. 2021, DINO).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..schema import Payload
from .geometry import GridError, apply, plan, spacing_of


def crop(
    payload: Payload,
    centre_mm: Sequence[float],
    size: Sequence[int],
    spacing_mm: Sequence[float],
    fill: float | None = None,
) -> Payload:
    """A box of a volume.

    Args:
        payload: (c z y x) with its place in mm; harmonised or not.
        centre_mm: (x y z) in LPS; of the box, to within half a voxel where the voxels are the payload's own.
        size: (z y x) voxels.
        spacing_mm: (z y x).
        fill: beyond the payload's edge; None for its least value.
    Returns:
        (c z y x) float32 whose history ends with this step.
    Raises:
        GridError: a payload without a place.
    """
    if payload.to_world is None:
        raise GridError("a volume without a place in mm", "a volume with `to_world`", "harmonise it first")
    to_source = plan(payload.array.shape[1:], payload.to_world, spacing_mm, size)
    wanted = np.linalg.solve(payload.to_world, np.append(np.asarray(centre_mm, float), 1.0))[:3]
    middle = to_source[:3] @ np.append((np.array(size[::-1]) - 1) / 2, 1.0)
    shift = wanted - middle
    own = np.abs(np.abs(to_source[:3, :3]).max(axis=1) - 1) < 1e-6
    to_source[:3, 3] += np.where(own, np.rint(shift), shift)  # the payload's own voxels: nothing is blurred
    least = float(payload.array.min()) if fill is None else fill
    return apply(payload, to_source, size, "crop", fill=least)


def scales(
    payload: Payload,
    centre_mm: Sequence[float],
    size: Sequence[int],
    spacings_mm: Sequence[Sequence[float]],
    fill: float | None = None,
) -> list[Payload]:
    """Concentric crops, of the same size in voxels at each spacing (z y x)."""
    return [crop(payload, centre_mm, size, spacing, fill) for spacing in spacings_mm]


def draw(
    payload: Payload,
    size: Sequence[int],
    count: int,
    random: np.random.Generator,
    scale: tuple[float, float] = (1.0, 1.0),
    inside: np.ndarray | None = None,
) -> list[Payload]:
    """Crops at random places and scales.

    Args:
        payload: (c z y x) with its place in mm.
        size: (z y x) voxels of each.
        count: how many.
        random: decides all.
        scale: least and most of a crop's spacing over the payload's own; drawn evenly in its logarithm.
        inside: (z y x) bool: where centres may lie (a lesion, a lung); anywhere in the payload by default.
    """
    if payload.to_world is None:
        raise GridError("a volume without a place in mm", "a volume with `to_world`", "harmonise it first")
    shape = payload.array.shape[1:]
    own = spacing_of(payload.to_world)[::-1]
    places = np.flatnonzero(inside) if inside is not None and inside.any() else None
    crops = []
    for _ in range(count):
        factor = float(np.exp(random.uniform(*np.log(scale))))
        flat = random.integers(np.prod(shape)) if places is None else places[random.integers(len(places))]
        index = np.array(np.unravel_index(int(flat), shape))[::-1]
        centre = payload.to_world[:3] @ np.append(index, 1.0)
        crops.append(crop(payload, centre.tolist(), size, (own * factor).tolist()))
    return crops
