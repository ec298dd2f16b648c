"""Views of a record: a part of its tokens, as a crop is a part of its samples.

A token keeps its place in mm and seconds, so that a box of tokens is a crop at the record's own scale, and no record is loaded or
harmonised twice. Where tokens lie in no place (the events of a table, programmes of genes) a view is a random few of them, as in MSN
(Assran et al. 2022).

Each view can be given a brightness and a contrast of its own, as the papers do.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..schema import Modality, Ragged, Tokens
from ..tokens.packing import counts

UNPLACED = (Modality.TABLE.number, Modality.OMICS.number)
"""Whose positions say which event or programme a token is, and not where it lies."""


@dataclass(frozen=True, slots=True)
class Views:
    """v views, and the t tokens that they hold.

    Args:
        token: (t,) which of the records' tokens; within a view in their order.
        view: (t,) ascending, 0..v-1.
        record: (v,) whose each is.
    """

    token: Tensor
    view: Tensor
    record: Tensor

    def first(self, count: int) -> Views:
        """The first `count` of them."""
        t = int((self.view < count).sum())
        return Views(self.token[:t], self.view[:t], self.record[:count])

    def of(self, tokens: Tokens, values: Sequence[Tensor] = ()) -> Tokens:
        """The views' tokens; each view is a record of a patient of its own.

        Args:
            tokens: of the records.
            values: (n d) for each share, where they differ; the tokens' own for all by default.
        """
        take = lambda x: x.index_select(0, self.token)
        own = take(tokens.values) if not values else self._from(values)
        return Tokens(
            own, self.view, take(tokens.modality), self.view, take(tokens.position), take(tokens.time_h),
            counts(self.view, len(self.record)),
        )  # fmt: skip

    def _from(self, values: Sequence[Tensor]) -> Tensor:
        each = len(self.record) // len(values)
        share = self.view // each if each else self.view
        return torch.cat(list(values)).index_select(0, self.token + share * len(values[0]))


def draw(
    tokens: Tokens, ids: Sequence[str], shares: Sequence[tuple[float, float]], seed: int, scale: Tensor, fewest: int = 2,
    region: int | None = None,
) -> Views:  # fmt: skip
    """Views of each record, the first share's of all records first.

    A record's views depend on the seed and its id, and on no other record.

    Args:
        tokens: of one modality.
        ids: of its records.
        shares: least and most of a record's tokens, of each view; which within, is drawn.
        seed: of the draws.
        scale: (4,) what one unit of x, y, z and s is divided by: a box is as long in each.
        fewest: tokens of a record that has views.
        region: tokens of the box of a larger record in which all its views lie, and of which their shares are; None for all.
    """
    device, number = tokens.record.device, tokens.modality[:1].tolist()
    place = torch.cat([tokens.position / scale, tokens.time_h[:, None]], 1).to("cpu", torch.float32)
    if number and number[0] in UNPLACED:
        place = torch.zeros_like(place)
    unique, counted = torch.unique_consecutive(tokens.record, return_counts=True)
    found: list[list[tuple[int, Tensor]]] = [[] for _ in shares]
    start = 0
    for record, n in zip(unique.tolist(), counted.tolist(), strict=True):
        if n >= fewest:
            own = _boxes(place[start : start + n], shares, _generator(seed, ids[int(record)]), region)
            for views, box in zip(found, own, strict=True):
                views.append((record, box + start))
        start += n
    flat = [view for views in found for view in views]
    sizes = torch.tensor([len(box) for _, box in flat], dtype=torch.int64, device="cpu")
    token = torch.cat([box for _, box in flat]) if flat else sizes
    view = torch.arange(len(flat), device="cpu").repeat_interleave(sizes)
    whose = torch.tensor([record for record, _ in flat], dtype=torch.int64, device="cpu")
    return Views(token.to(device), view.to(device), whose.to(device))


def _boxes(
    place: Tensor, shares: Sequence[tuple[float, float]], generator: torch.Generator, region: int | None = None
) -> list[Tensor]:
    """Of one record (n 5), for each share the tokens nearest to a random one, by their largest difference along an axis."""
    if region is not None and region < len(place):
        share = region / len(place)
        (inside,) = _boxes(place, [(share, share)], generator)
        return [inside[box] for box in _boxes(place[inside], shares, generator)]
    n, v = len(place), len(shares)
    rand = lambda *shape: torch.rand(shape, generator=generator, device="cpu", dtype=torch.float64)
    low, high = torch.tensor(shares, device="cpu", dtype=torch.float64).unbind(1)
    sizes = ((low + (high - low) * rand(v)) * n).round().long().clamp(1, n).tolist()
    middle = (rand(v) * n).long()
    apart = (place[middle][:, None] - place).abs().amax(2)  # (v n)
    shuffled = torch.argsort(rand(v, n), 1)  # among the equally near, chance decides
    nearest = shuffled.gather(1, torch.argsort(apart.gather(1, shuffled), dim=1, stable=True))
    return [row[:k].sort().values for row, k in zip(nearest, sizes, strict=True)]


def jittered(ragged: Ragged, modality: Modality, count: int, strength: float, seed: int) -> list[Ragged]:
    """The records with other brightness and contrast, `count` times; the same as they are where samples are words, events or genes.

    A record's mean is moved by `strength` of its spread and the spread changed by as much: standard deviations of the shift and of
    the logarithm of the factor. They depend on the seed and the record's id, and on no other record.
    """
    first = ragged.values[0] if len(ragged) else torch.zeros(0)
    if not strength or modality.number in UNPLACED or not first.is_floating_point():
        return [ragged] * count
    draws = [
        torch.randn(count, 2, generator=_generator(seed, f"{name}/jitter"), device="cpu") * strength
        for name in ragged.ids
    ]
    changed = [
        [_changed(x, *d.tolist()) for x, d in zip(ragged.values, draw, strict=True)]
        for draw in zip(*draws, strict=True)
    ]
    return [replace(ragged, values=torch.stack(own) if isinstance(ragged.values, Tensor) else own) for own in changed]


def _changed(x: Tensor, shift: float, factor: float) -> Tensor:
    """Samples of one record, NaN where a lead is not there."""
    known = x[torch.isfinite(x)]
    if not len(known):
        return x
    mean, spread = known.mean(), known.std(correction=0)
    return (x - mean) * math.exp(factor) + mean + shift * spread


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}\x00{name}".encode(), digest_size=7).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest, "big"))
