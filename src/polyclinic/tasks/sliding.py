"""Answers of boxes, blended to the answer of the whole: what does not fit a network at once is asked box by box.

        ┌────┬──┬────┐        boxes of equal size, evenly spread, that overlap;
        │    │▒▒│    │        each weighs most in its middle (Gaussian, Isensee et al. 2021, nnU-Net)
        └────┴──┴────┘

A box's weights are divided by the sum of all boxes' there beforehand: that sum is a product of one of each axis, so that nothing but
the answer itself is as large as the volume.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SIGMA = 1 / 8
"""Of the Gaussian, in sizes of a box."""
OVERLAP = 0.25
"""How much of a box its neighbour sees too, at least."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Boxes along one axis.

    Args:
        size: samples of a box.
        starts: where each begins.
        weights: of each box (size,), so that those of all sum to 1 everywhere.
    """

    size: int
    starts: tuple[int, ...]
    weights: tuple[Tensor, ...]

    @classmethod
    def over(cls, length: int, size: int, overlap: float, grow: float, step: int) -> Axis:
        """As few boxes as cover so many samples, none of them more than `grow` times `size`, a multiple of `step`.

        Args:
            length: samples, at least `size`.
            size: of a box.
            overlap: of `size`, at least.
            grow: how much larger a box may be where fewer suffice then.
            step: what a grown box is a multiple of.
        """
        shared, most = min(math.ceil(overlap * size), size - 1), max(size, int(grow * size) // step * step)
        count = max(1, math.ceil((length - shared) / (most - shared)))
        size = max(size, min(most, math.ceil((length + (count - 1) * shared) / count / step) * step))
        size = min(size, length)
        last = length - size
        starts = tuple(round(last * n / (count - 1)) for n in range(count)) if count > 1 else (0,)
        place = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
        gaussian = torch.exp(-0.5 * (place / (SIGMA * size)) ** 2)
        total = torch.zeros(length)
        for start in starts:
            total[start : start + size] += gaussian
        return cls(size, starts, tuple(gaussian / total[start : start + size] for start in starts))


def sliding(
    say: Callable[[Tensor], Tensor], x: Tensor, box: Sequence[int], *, overlap: float = OVERLAP, grow: float = 1.0, step: int = 1,
    batch: int = 1, told: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """What a network says of a whole volume or image.

    Args:
        say: boxes (w c z y x) or (w c y x) → (w k z y x) or (w k y x).
        x: (c z y x) or (c y x); along an axis shorter than the box it is filled up with its least value for the asking.
        box: (z y x) or (y x), the size that the network was trained at.
        overlap: share of a box that its neighbour sees too, at least; from 0 to below 1.
        grow: a network of convolutions may be asked larger boxes, up to so many times, where fewer suffice then.
        step: what larger boxes are a multiple of: what the network halves.
        batch: boxes asked at once.
        told: of planes (k n …) that no further box reaches, what is kept of them (n …), such as the likeliest class. Then no more than a
            box's planes are held of the answer itself, however many classes there are.
    Returns:
        (k z y x) or (k y x) float32; or what `told` gave, (z y x) or (y x).
    """
    shape = x.shape[1:]
    lack = [max(0, b - n) for b, n in zip(box, shape, strict=True)]
    if any(lack):
        x = F.pad(x, [side for n in reversed(lack) for side in (0, n)], value=float(x.min()))
    axes = [Axis.over(n, b, overlap, grow, step) for n, b in zip(x.shape[1:], box, strict=True)]
    crop = (*([slice(None)] if told is None else []), *(slice(n) for n in shape))
    if all(len(axis.starts) == 1 for axis in axes):  # one box is the whole
        whole = say(x[None])[0].float()
        return (whole if told is None else told(whole))[crop]
    answer = _Planes(x.shape[1:], axes[0].size, told)
    for places in _groups(product(*(range(len(axis.starts)) for axis in axes)), batch):
        where = [
            [slice(a.starts[n], a.starts[n] + a.size) for a, n in zip(axes, place, strict=True)] for place in places
        ]
        boxes = [x[(slice(None), *spans)] for spans in where]
        said = say(torch.stack(boxes) if len(boxes) > 1 else boxes[0][None])
        for one, place, spans in zip(said, places, where, strict=True):
            answer.add(_weighed(one, [a.weights[n] for a, n in zip(axes, place, strict=True)]), spans)
    return answer.done()[crop]


class _Planes:
    """An answer that grows from its first plane to its last.

    Args:
        shape: (z y x) or (y x) of the whole.
        deep: planes of a box.
        told: what is kept of planes that are done; None keeps all.
    """

    def __init__(self, shape: Sequence[int], deep: int, told: Callable[[Tensor], Tensor] | None) -> None:
        self.shape, self.told = tuple(shape), told
        self.deep, self.first = (shape[0] if told is None else deep), 0
        self.answer: Tensor | None = None
        self.kept: list[Tensor] = []

    def add(self, said: Tensor, spans: Sequence[slice]) -> None:
        """A weighed box (k …), in the order of where boxes begin along the first axis."""
        if self.answer is None:
            self.answer = torch.zeros(len(said), self.deep, *self.shape[1:], device=said.device)
        first, *rest = spans
        if self.told is not None and first.start > self.first:
            self._on(self.told, self.answer, first.start - self.first)
        self.answer[(slice(None), slice(first.start - self.first, first.stop - self.first), *rest)] += said

    def _on(self, told: Callable[[Tensor], Tensor], answer: Tensor, by: int) -> None:
        """Be done with so many planes."""
        self.kept.append(told(answer[:, :by]))
        answer[:, : self.deep - by] = answer[:, by:].clone()
        answer[:, self.deep - by :] = 0
        self.first += by

    def done(self) -> Tensor:
        """The whole."""
        assert self.answer is not None
        return self.answer if self.told is None else torch.cat([*self.kept, self.told(self.answer)])


def tiles(
    shape: Sequence[int], box: Sequence[int], overlap: float = OVERLAP
) -> Iterator[tuple[tuple[int, ...], np.ndarray, np.ndarray]]:
    """Boxes over a whole, and the part of it in which each sees better than its neighbours: up to the middle of what they share.

    Args:
        shape: of the whole, at least the box's along each axis.
        box: of what is seen at a time.
        overlap: share of a box that its neighbour sees too, at least.
    Yields:
        where it begins; the lower and the upper corner of its part, infinite at the edges of the whole. The parts fill everything.
    """
    axes = [Axis.over(n, b, overlap, 1.0, 1) for n, b in zip(shape, box, strict=True)]
    cuts = [
        [-math.inf, *((a + size + b) / 2 - 0.5 for a, b in pairwise(starts)), math.inf]
        for size, starts in ((axis.size, axis.starts) for axis in axes)
    ]
    for place in product(*(range(len(axis.starts)) for axis in axes)):
        low = np.array([cut[n] for cut, n in zip(cuts, place, strict=True)])
        high = np.array([cut[n + 1] for cut, n in zip(cuts, place, strict=True)])
        yield tuple(a.starts[n] for a, n in zip(axes, place, strict=True)), low, high


def _weighed(said: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """(k …), each axis times its own weights: the small products first, so that what is as large as the answer is multiplied once."""
    first, *rest = (own.to(said.device) for own in weights)
    for own in rest:
        first = first[..., None] * own
    return said * first


def _groups(places: Iterator[tuple[int, ...]], size: int) -> Iterator[list[tuple[int, ...]]]:
    group: list[tuple[int, ...]] = []
    for place in places:
        group.append(place)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
