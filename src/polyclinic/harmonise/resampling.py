"""Arrays from one grid onto another: axis by axis where the axes agree up to order and sign, else in space."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

SLAB = 2**21
"""Voxels that the path in space takes at a time: each has three coordinates."""


def separable(to_source: np.ndarray) -> bool:
    """Whether a 4x4 from one grid's index to another's sends each axis along one axis."""
    size = np.abs(to_source[:3, :3])
    strongest = size.argmax(axis=0)
    rest = size.copy()
    rest[strongest, [0, 1, 2]] = 0
    return len(set(strongest.tolist())) == 3 and bool((rest <= 1e-4 * size.max(axis=0)).all())


def taps(sources: np.ndarray, length: int, order: int, average: bool) -> tuple[np.ndarray, np.ndarray]:
    """Which samples count for each of n places, and how much: (n k) of each; the edge is repeated.

    Args:
        sources: (n,) places in samples.
        length: how many samples there are.
        order: 0 the nearest one; 1 a triangle over the neighbours.
        average: widen the triangle when the new grid is coarser, so that no sample is passed over.
    """
    if order == 0:
        return np.clip(np.rint(sources).astype(int), 0, length - 1)[:, None], np.ones((len(sources), 1), np.float32)
    width = max(1.0, abs(float(sources[1] - sources[0])) if average and len(sources) > 1 else 1.0)
    place = np.clip(sources, 0, length - 1)
    first = np.ceil(place - width).astype(int)
    index = first[:, None] + np.arange(int(2 * width) + 1)
    weight = np.clip(1 - np.abs(place[:, None] - index) / width, 0, None)
    weight[(index < 0) | (index >= length)] = 0
    used = weight.max(axis=0) > 0
    index, weight = np.clip(index, 0, length - 1)[:, used], weight[:, used]
    return index, (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)


def resample(
    array: np.ndarray,
    to_source: np.ndarray,
    size: Sequence[int],
    order: int | Sequence[int] = 1,
    fill: float = 0.0,
    average: bool = True,
) -> np.ndarray:
    """The array on another grid.

    Args:
        array: (c z y x) of any number type.
        to_source: index (x y z 1) of the new grid → index of the array.
        size: the new (z y x).
        order: 0 nearest, 1 linear; or one for each of x, y, z.
        fill: the value outside the source.
        average: where the new grid is coarser along an axis of the source, every sample counts; False interpolates only.
    Returns:
        (c z y x) float32.
    """
    orders = (order,) * 3 if isinstance(order, int) else tuple(order)
    if not separable(to_source):
        return _in_space(array, to_source, size, max(orders), fill)
    old_of_new = [int(np.argmax(np.abs(to_source[:3, new]))) for new in range(3)]
    turned = _tensor(array.transpose(0, *(1 + 2 - old_of_new[2 - axis] for axis in range(3))))
    outside: list[tuple[int, np.ndarray]] = []
    # The axis that shrinks most comes first: there is less to do along the others.
    for new in sorted(range(3), key=lambda n: size[2 - n] / array.shape[3 - old_of_new[n]]):
        old, axis, count = old_of_new[new], 3 - new, size[2 - new]
        length = turned.shape[axis]
        sources = to_source[old, new] * np.arange(count) + to_source[old, 3]
        first = round(float(sources[0]))
        if first >= 0 and first + count <= length and np.allclose(sources, first + np.arange(count), atol=1e-6):
            turned = turned.narrow(axis, first, count)
            continue
        turned = _along(turned, axis, *taps(sources, length, orders[new], average))
        if (beyond := (sources <= -0.5) | (sources >= length - 0.5)).any():
            outside.append((axis, np.flatnonzero(beyond)))
    result = np.ascontiguousarray(turned.float().numpy())
    result = result.copy() if np.shares_memory(result, array) else result
    for axis, beyond in outside:
        result[(slice(None),) * axis + (beyond,)] = fill
    return result


def _tensor(array: np.ndarray) -> torch.Tensor:
    """Without a copy where it can be: pixels stay the integers that they are until they are weighed."""
    import torch

    known = array.dtype if array.dtype in (np.int16, np.uint8, np.float32) else np.dtype(np.float32)
    native = array.astype(
        known.newbyteorder("="), copy=any(step < 0 for step in array.strides) or not array.flags.writeable
    )
    return torch.from_numpy(native)


def _along(values: torch.Tensor, axis: int, index: np.ndarray, weight: np.ndarray) -> torch.Tensor:
    """Each place's weighed samples along one axis: (… n …) float32.

    Samples that lie side by side in memory are weighed by a product with a matrix, others slice by slice.
    """
    import torch

    if axis == values.dim() - 1 and weight.shape[1] > 1:
        matrix = torch.zeros(values.shape[axis], len(index))
        matrix.index_put_(
            (torch.from_numpy(index.T), torch.arange(len(index)).expand(index.shape[1], -1)),
            torch.from_numpy(weight.T.copy()),
            accumulate=True,
        )
        return values.float() @ matrix
    shape = [1] * values.dim()
    shape[axis] = len(index)
    share = [torch.from_numpy(w.copy()).view(shape) for w in weight.T]
    part = lambda k: values.index_select(axis, torch.from_numpy(index[:, k].copy())).float()
    total = part(0)
    if len(share) == 2:  # two neighbours: one product instead of two
        return total.add_((part(1) - total).mul_(share[1]))
    if len(share) > 1:
        total.mul_(share[0])
    for k in range(1, len(share)):
        total.addcmul_(part(k), share[k])
    return total


def _in_space(array: np.ndarray, to_source: np.ndarray, size: Sequence[int], order: int, fill: float) -> np.ndarray:
    """As `resample`, for grids that lie askew: each voxel by where it lies."""
    from scipy.ndimage import map_coordinates

    result = np.empty((len(array), *size), dtype=np.float32)
    rows, columns = np.indices(size[1:], dtype=np.float64)
    step = max(1, SLAB // (size[1] * size[2]))
    for start, stop in pairwise([*range(0, size[0], step), size[0]]):
        deep = np.arange(start, stop, dtype=np.float64)[:, None, None]
        place = [m[0] * columns + m[1] * rows + m[2] * deep + m[3] for m in to_source[:3]][::-1]
        inside = np.logical_and.reduce(
            [(p > -0.5) & (p < n - 0.5) for p, n in zip(place, array.shape[1:], strict=True)]
        )
        for channel, values in zip(result, array, strict=True):
            found = map_coordinates(
                values.astype(np.float32, copy=False), place, order=order, mode="nearest", prefilter=False
            )
            channel[start:stop] = np.where(inside, found, np.float32(fill))
    return result


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
