"""What each modality has of its own: its weights, and its tokens as one packed array."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..schema import Modality, Tokens
from ..tokens.packing import with_values


@dataclass(frozen=True, slots=True)
class Stream:
    """Where one modality's tokens are in the bag.

    Args:
        token: (m,) int64, ascending: their rows.
        patient: (m,) int64, ascending: whose they are.
    """

    token: Tensor
    patient: Tensor

    def of(self, values: Tensor) -> Tensor:
        """The bag's (n d) → this modality's (m d)."""
        return values.index_select(0, self.token)


def streams(tokens: Tokens) -> dict[Modality, Stream]:
    """The modalities that anybody in the bag has, in their order."""
    kinds = list(Modality)
    found = {kinds[n]: torch.nonzero(tokens.modality == n).flatten() for n in tokens.modality.unique().tolist()}
    return {modality: Stream(token, tokens.patient[token]) for modality, token in found.items()}


def merged(tokens: Tokens, parts: Mapping[Modality, Stream], values: Mapping[Modality, Tensor]) -> Tokens:
    """The bag's tokens with the values (m d) that its modalities have now."""
    place = torch.cat([tokens.patient[:0], *(part.token for part in parts.values())])
    rows = torch.cat([tokens.values[:0], *(values[m] for m in parts)])
    return with_values(tokens, torch.empty_like(rows).index_copy(0, place, rows))


def own(modalities: Sequence[Modality], make: Callable[[], nn.Module]) -> nn.ModuleDict:
    """A module a modality, whose first weights do not depend on which others there are; the draws go on as after one number."""
    seed = int(torch.randint(2**62, (), device="cpu"))
    made = nn.ModuleDict()
    for modality in modalities:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed + modality.number)
            made[modality.value] = make()
    return made
