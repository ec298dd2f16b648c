"""Comparing across the parts of a step: what a contrastive loss needs when ranks and micro-batches share one batch.

A contrastive loss is of all the step's patients together and is no mean over parts of them. Where a step is divided, every part
computes the same loss of everybody's vectors, of which only its own carry a gradient:

    part 0   v0 ──┐                        ┌─► loss(v0 · v1' · v2')      ' : the value alone
    part 1   v1 ──┼── values of everybody ─┼─► loss(v0'· v1 · v2')
    part 2   v2 ──┘                        └─► loss(v0'· v1'· v2 )

The parts' gradients are then averaged by their share of the patients. An encoder's gradient through its own vectors is weighed by
the inverse of that share, so that the average is the sum, and the gradient that of one process with the whole batch; what belongs
to no patient (a temperature) has the loss's whole gradient in every part, and the average is it. Between ranks this is the gather of
CLIP's training (Radford et al. 2021) with gradients; between micro-batches it is GradCache (Gao et al. 2021): vectors are made once
without a gradient, then each micro-batch again with one.

The gather itself has no backward: nothing has to travel then, and ranks cannot wait for each other in another order.

What compares nobody but is a mean over what not every patient has as much of (views of records, DINO's centres) needs only sums.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..fusion import Tower
from ..schema import Modality
from .objective import Backbone, ObjectiveError


@dataclass(frozen=True, slots=True)
class Piece:
    """What one part of a step has: its towers, without gradients, and how many patients it is of."""

    towers: Mapping[Modality, Tower]
    patients: int

    @classmethod
    def of(cls, towers: Mapping[Modality, Tower], patients: int) -> Piece:
        """The values alone."""
        return cls({m: Tower(t.vectors.detach(), t.patient) for m, t in towers.items()}, patients)


class Seen:
    """A model as an objective sees it while a step's vectors are made for the first time: it keeps what is to be compared.

    Args:
        model: everything else is asked of it.
        place: of the step's parts, which.
    """

    def __init__(self, model: Backbone, place: int) -> None:
        self.model, self.place, self.pieces = model, place, list[Piece | Tensor]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def everyone(self, towers: Mapping[Modality, Tower], patients: int) -> dict[Modality, Tower]:
        """The part's own; they are noted."""
        self.pieces.append(Piece.of(towers, patients))
        return dict(towers)

    def summed(self, numbers: Tensor) -> Tensor:
        """The part's own; they are noted."""
        self.pieces.append(numbers.detach())
        return numbers.detach()


class Part:
    """A model as an objective sees it in one part of a divided step.

    Args:
        model: everything else is asked of it.
        share: of the step's patients, those of this part: the weight of its loss in the step's.
        world: how many processes share the step.
        place: of the step's parts, which; a rank's follow each other.
        known: at each call of `everyone` the pieces of every part, of `summed` the sum over them; None where the ranks are asked at
            the call.
    """

    def __init__(
        self, model: Backbone, share: float, world: int = 1, place: int = 0, known: Sequence[list[Piece] | Tensor] | None = None
    ) -> None:  # fmt: skip
        self.model, self.share, self.world, self.place, self.known = model, share, world, place, known
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def everyone(self, towers: Mapping[Modality, Tower], patients: int) -> dict[Modality, Tower]:
        """The towers of the whole step. Every part must compute the same of what this gives.

        Args:
            towers: the part's own.
            patients: b, of the part; the patients of part n are numbered on after those of part n - 1.
        """
        pieces = self._known(lambda: across(Piece.of(towers, patients), self.model.modalities, self.world))
        assert isinstance(pieces, list)
        starts = [sum(p.patients for p in pieces[:n]) for n in range(len(pieces))]
        out: dict[Modality, Tower] = {}
        for modality in (m for m in Modality if any(m in p.towers for p in pieces)):
            vectors, patient = [], []
            for number, (piece, start) in enumerate(zip(pieces, starts, strict=True)):
                if modality in piece.towers:
                    tower = towers[modality] if number == self.place else piece.towers[modality]
                    vectors.append(weighed(tower.vectors, 1 / self.share) if number == self.place else tower.vectors)
                    patient.append(tower.patient + start)
            out[modality] = Tower(torch.cat(vectors), torch.cat(patient))
        return out

    def summed(self, numbers: Tensor) -> Tensor:
        """The sums of the whole step. Where a part's loss is divided by them and by the part's share of the patients, it is the
        step's mean that the parts come to."""
        found = self._known(lambda: over_ranks(numbers.detach(), self.world))
        assert isinstance(found, Tensor)
        return found

    def _known(self, ask: Callable[[], list[Piece] | Tensor]) -> list[Piece] | Tensor:
        """What this call is answered with."""
        self.calls += 1
        return ask() if self.known is None else self.known[self.calls - 1]


def agreed(model: Backbone, generator: torch.Generator) -> int:
    """A seed of what all parts of a step must draw alike: the first part's, which is that of a step in one piece."""
    own = torch.randint(2**62, (), generator=generator, device=generator.device)
    return int(model.summed(own if model.place == 0 else torch.zeros_like(own)))


def weighed(values: Tensor, weight: float) -> Tensor:
    """The same values, with their gradient times a weight."""
    return values.detach() + weight * (values - values.detach())


def across(own: Piece, modalities: Sequence[Modality], world: int) -> list[Piece]:
    """Every rank's piece, this one's among them, in the order of the ranks. All ranks must call it at the same point.

    Ranks may have other modalities and any number of rows: what travels is one table of all of a rank's rows in float32,
    filled up to the longest.

    Args:
        own: this rank's.
        modalities: of the model, in an order that all ranks have.
        world: how many ranks there are.
    """
    if world == 1:
        return [own]
    device = next((t.vectors.device for t in own.towers.values()), torch.device("cpu"))
    there = [own.towers[m] for m in modalities if m in own.towers]
    sizes = [len(own.towers[m].vectors) if m in own.towers else 0 for m in modalities]
    width = max((t.vectors.shape[1] for t in there), default=0)
    every = _exchange(torch.tensor([own.patients, width, *sizes], device=device), world).tolist()
    longest, width = max(sum(row[2:]) for row in every), max(row[1] for row in every)
    vectors = torch.zeros(longest, width, device=device)
    patient = torch.zeros(longest, dtype=torch.int64, device=device)
    if there:
        vectors[: sum(sizes)] = torch.cat([t.vectors for t in there]).float()
        patient[: sum(sizes)] = torch.cat([t.patient for t in there])
    found = []
    for row, all_vectors, all_patient in zip(every, _exchange(vectors, world), _exchange(patient, world), strict=True):
        split = lambda rows, counts=row[2:]: rows[: sum(counts)].split(counts)
        towers = map(Tower, split(all_vectors), split(all_patient))
        there_too = {m: t for m, t in zip(modalities, towers, strict=True) if len(t.vectors)}
        found.append(Piece(there_too, row[0]))
    return found


def over_ranks(numbers: Tensor, world: int) -> Tensor:
    """The sum of every rank's numbers. All ranks must call it at the same point, with as many."""
    if world == 1:
        return numbers
    total = numbers.clone()
    dist.all_reduce(total)
    return total


def _exchange(tensor: Tensor, world: int) -> Tensor:
    """(world …) every rank's tensor, all of one shape."""
    out = [torch.empty_like(tensor) for _ in range(world)]
    dist.all_gather(out, tensor.contiguous())
    return torch.stack(out)


def pieces_of(seen: Sequence[Seen], modalities: Sequence[Modality], world: int) -> list[list[Piece] | Tensor]:
    """What `Part` must know: at each call of `everyone` the pieces of all micro-batches of all ranks, of `summed` their sum.

    Raises:
        ObjectiveError: the micro-batches did not compare equally often.
    """
    if len(calls := {len(s.pieces) for s in seen}) > 1:
        raise ObjectiveError(
            f"an objective that compares {min(calls)} times in one micro-batch and {max(calls)} in another",
            "that it calls `everyone` and `summed` equally often whatever the batch holds",
            "call it before looking at what the batch has",
        )
    found: list[list[Piece] | Tensor] = []
    for call in range(calls.pop()):
        noted = [s.pieces[call] for s in seen]
        numbers = [n for n in noted if isinstance(n, Tensor)]
        if numbers:
            found.append(over_ranks(torch.stack(numbers).sum(0), world))
            continue
        ranks = [across(n, modalities, world) for n in noted if isinstance(n, Piece)]
        found.append([ranks[micro][rank] for rank in range(world) for micro in range(len(seen))])
    return found
