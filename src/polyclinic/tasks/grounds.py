"""Parts of a picture or of a volume, to be painted over one at a time: what a sentence rests on is what it is less likely without.

Source: occlusion (Zeiler & Fergus 2014, section 4.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise, product

import torch
from torch import Tensor

from ..schema import Batch, Modality

PARTS = tuple(f"{row} {side}" for row in ("upper", "middle", "lower") for side in ("left", "right"))
"""The parts of a picture, as it is looked at: the patient's right lies on a radiograph's left."""
LEVELS = ("lowest", "lower", "upper", "uppermost")
BLOCKS = tuple(
    f"{level} {side} {depth}" for level, depth, side in product(LEVELS, ("front", "back"), ("right", "left"))
)
"""The parts of a volume, as they lie in the patient: a quarter of its slices, from the feet to the head, and a quarter of each."""


def parts_of(modality: Modality) -> tuple[str, ...]:
    """What the parts of an image or a volume are called."""
    return BLOCKS if modality is Modality.VOLUME else PARTS


def drawn_on(part: str) -> Modality:
    """Of what a part is one."""
    return Modality.VOLUME if part in BLOCKS else Modality.IMAGE


def part_of(part: int, shape: tuple[int, int]) -> tuple[slice, slice]:
    """The rows and columns of one of `PARTS` of a picture (y x)."""
    row, column = divmod(part, 2)
    return _span(row, 3, shape[0]), _span(column, 2, shape[1])


def region_of(part: str, shape: Sequence[int]) -> tuple[slice, ...]:
    """What samples of a picture (y x) or of a volume on the standard grid (z y x), whose axes point to the head, the back and the left."""
    if part in PARTS:
        return part_of(PARTS.index(part), (shape[0], shape[1]))
    level, rest = divmod(BLOCKS.index(part), 4)
    depth, side = divmod(rest, 2)
    return _span(level, 4, shape[0]), _span(depth, 2, shape[1]), _span(side, 2, shape[2])


def _span(which: int, of: int, size: int) -> slice:
    return slice(*list(pairwise(round(n * size / of) for n in range(of + 1)))[which])


def alone(own: Batch, every: Batch) -> Mapping[Modality, int]:
    """Image and volume → which of the records of that modality is the study's only one; without the modality where it has none or several.

    Args:
        own: of the study.
        every: that are shown.
    """
    found = {}
    for modality in (Modality.IMAGE, Modality.VOLUME):
        mine = own.payloads.get(modality)
        if mine is not None and len(mine) == 1:
            found[modality] = every.payloads[modality].ids.index(mine.ids[0])
    return found


def without(told: Batch, row: int, part: str) -> Batch:
    """The same, with a part of one of the records painted over with the record's mean."""
    modality = drawn_on(part)
    ragged = told.payloads[modality]
    values = [v.clone() for v in ragged.values]
    axes = tuple(range(1, values[row].ndim))
    values[row][(..., *region_of(part, values[row].shape[1:]))] = values[row].mean(axes, keepdim=True)
    painted = replace(ragged, values=torch.stack(values) if isinstance(ragged.values, Tensor) else values)
    return Batch({**told.payloads, modality: painted}, {}, told.patients)
