"""Views of a record: a part of its tokens, as a crop is a part of its samples.

A token keeps its place in mm and seconds, so that a box of tokens is a crop at the record's own scale, and no record is loaded or
harmonised twice. Where tokens lie in no place (the events of a table, programmes of genes) a view is a random few of them, as in MSN
(Assran et al. 2022).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..schema import Modality, Tokens
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

    def of(self, tokens: Tokens) -> Tokens:
        """The views' tokens; each view is a record of a patient of its own."""
        take = lambda x: x.index_select(0, self.token)
        return Tokens(
            take(tokens.values), self.view, take(tokens.modality), self.view, take(tokens.position), take(tokens.time_h),
            counts(self.view, len(self.record)),
        )  # fmt: skip


def draw(
    tokens: Tokens, ids: Sequence[str], shares: Sequence[tuple[float, float]], seed: int, scale: Tensor, fewest: int = 2
) -> Views:
    """Views of each record, the first share's of all records first.

    A record's views depend on the seed and its id, and on no other record.

    Args:
        tokens: of one modality.
        ids: of its records.
        shares: least and most of a record's tokens, of each view; which within, is drawn.
        seed: of the draws.
        scale: (4,) what one unit of x, y, z and s is divided by: a box is as long in each.
        fewest: tokens of a record that has views.
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
            own = _boxes(place[start : start + n], shares, _generator(seed, ids[int(record)]))
            for views, box in zip(found, own, strict=True):
                views.append((record, box + start))
        start += n
    flat = [view for views in found for view in views]
    sizes = torch.tensor([len(box) for _, box in flat], dtype=torch.int64, device="cpu")
    token = torch.cat([box for _, box in flat]) if flat else sizes
    view = torch.arange(len(flat), device="cpu").repeat_interleave(sizes)
    whose = torch.tensor([record for record, _ in flat], dtype=torch.int64, device="cpu")
    return Views(token.to(device), view.to(device), whose.to(device))


def _boxes(place: Tensor, shares: Sequence[tuple[float, float]], generator: torch.Generator) -> list[Tensor]:
    """Of one record (n 5), for each share the tokens nearest to a random one, by their largest difference along an axis."""
    n, v = len(place), len(shares)
    rand = lambda *shape: torch.rand(shape, generator=generator, device="cpu", dtype=torch.float64)
    low, high = torch.tensor(shares, device="cpu", dtype=torch.float64).unbind(1)
    sizes = ((low + (high - low) * rand(v)) * n).round().long().clamp(1, n).tolist()
    middle = (rand(v) * n).long()
    apart = (place[middle][:, None] - place).abs().amax(2)  # (v n)
    shuffled = torch.argsort(rand(v, n), 1)  # among the equally near, chance decides
    nearest = shuffled.gather(1, torch.argsort(apart.gather(1, shuffled), dim=1, stable=True))
    return [row[:k].sort().values for row, k in zip(nearest, sizes, strict=True)]


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}\x00{name}".encode(), digest_size=7).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest, "big"))
