"""Embeddings: the unit vectors that contrastive objectives compare, and whose they are.

Every contrastive objective gets its vectors here and nowhere else: where a step is divided over ranks or
micro-batches, they are those of the whole step (`gather.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..fusion import Tower
from ..schema import Batch, Modality, Tokens
from ..tokens import compared
from .objective import Backbone

Unit = Literal["patient", "record"]


@dataclass(frozen=True, slots=True)
class Pieces:
    """One modality's token vectors of the patients who have it, side by side.

    Args:
        vectors: (p l e), of unit length; zeros where there is no token.
        inside: (p l) bool, where there is one; at least one a patient.
        patient: (p,) int64, ascending.
    """

    vectors: Tensor
    inside: Tensor
    patient: Tensor


def embeddings(
    model: Backbone, batch: Batch, tokens: Mapping[Modality, Tokens] | None, unit: Unit = "patient",
    named: Collection[Modality] = (),
) -> dict[Modality, Tower]:  # fmt: skip
    """Each modality's vectors, one a patient or one a record, of those who have it.

    Args:
        model: that is trained.
        batch: of any patients.
        tokens: the whole records', where they are read for others too.
        unit: what a vector is of. A patient's records are pooled, or each stands for itself.
        named: the modalities that are compared; all of the model's where empty.
    Returns:
        Towers, whose `patient` is ascending; of records it holds the number of each one's patient, which may repeat.
    """
    tokens = compared(model.encode(batch) if tokens is None else tokens, named)
    if unit == "patient":
        return dict(model.everyone(model.towers(tokens), len(batch.patients)))
    found = model.towers({m: by_record(t) for m, t in tokens.items()})
    own = {m: Tower(tower.vectors, batch.payloads[m].patient[tower.patient]) for m, tower in found.items()}
    return dict(model.everyone(own, len(batch.patients)))


def pieces(
    model: Backbone, batch: Batch, tokens: Mapping[Modality, Tokens] | None, named: Collection[Modality] = ()
) -> dict[Modality, Pieces]:
    """Each modality's vectors, one a token, of the patients who have it; the arguments are `embeddings`'."""
    tokens = model.encode(batch) if tokens is None else tokens
    placed = model.placed({m: tokens[m] for m in tokens if not named or m in named})
    everyone = model.everyone({m: Tower(t.values, t.patient) for m, t in placed.items()}, len(batch.patients))
    return {m: _side_by_side(tower) for m, tower in everyone.items()}


def by_record(tokens: Tokens) -> Tokens:
    """One modality's tokens with each record in a patient's place; a record without tokens beyond the last is left out."""
    lengths = torch.bincount(tokens.record)
    return replace(tokens, patient=tokens.record, lengths=lengths)


def _side_by_side(tokens: Tower) -> Pieces:
    there, lengths = torch.unique_consecutive(tokens.patient, return_counts=True)
    inside = torch.arange(int(lengths.max()) if len(there) else 0, device=there.device) < lengths[:, None]
    vectors = tokens.vectors.new_zeros(*inside.shape, tokens.vectors.shape[1])
    return Pieces(vectors.masked_scatter(inside[:, :, None], tokens.vectors), inside, there)


def of_both(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Which of two modalities' rows are of patients who have both.

    Args:
        one, other: (p,) and (q,) whose each row is.
    Returns:
        (p,) and (q,) bool
    """
    return torch.isin(one, other), torch.isin(other, one)
