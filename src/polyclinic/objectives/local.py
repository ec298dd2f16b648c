"""Local: each word finds its region (GLoRIA, Huang et al. 2021, section 3; both ways, MGCA, Wang et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from ..schema import Batch, Losses, Modality, Tokens
from .embeddings import Pieces, of_both, pieces
from .objective import Backbone, Objective, ObjectiveFields, Structure


class Local(ObjectiveFields):
    """Tokens of one modality attend to another's; who is described best by what was attended to, is the same patient.

    Args:
        pairs: (seeker, sought): by default the words of texts seek the regions of images. Name a pair both ways for both.
        attention: temperature of the attention over what is sought.
        pooling: temperature of the mean over the seekers: low, and the best found piece decides.
        temperature: of the comparison of patients.
        weight: in a hybrid objective.
    """

    kind: Literal["local"] = "local"
    pairs: tuple[tuple[Modality, Modality], ...] = Field(default=((Modality.TEXT, Modality.IMAGE),), min_length=1)
    attention: float = Field(default=1 / 4, gt=0)
    pooling: float = Field(default=1 / 5, gt=0)
    temperature: float = Field(default=1 / 10, gt=0)
    weight: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if same := [a for a, b in self.pairs if a is b]:
            raise ValueError(f"a pair of {same[0]} with itself")
        return self

    def named(self) -> set[Modality]:
        """Those of its pairs."""
        return {m for pair in self.pairs for m in pair}

    def build(self, model: Backbone, structures: Mapping[str, Structure]) -> LocalObjective:
        """The module; it learns nothing besides the model."""
        return LocalObjective(self)


def local_similarity(seeker: Pieces, sought: Pieces, attention: float, pooling: float) -> Tensor:
    """How well each patient's pieces are answered by each patient's.

    A piece t_i attends to the other patient's pieces v_j by softmax(t_i·v_j / attention), which gives c_i; the similarity is
    log-mean-exp of cos(c_i, t_i) / pooling over the pieces. The paper has a sum for the mean: a long note would be liked better
    for its length (the authors' code has both).

    Args:
        seeker: of p patients.
        sought: of q patients.
        attention, pooling: temperatures.
    Returns:
        (p q)
    """
    with torch.autocast(seeker.vectors.device.type, enabled=False):
        scores = torch.einsum("pie,qje->pqij", seeker.vectors, sought.vectors) / attention
        weights = torch.softmax(scores.masked_fill(~sought.inside[None, :, None], -torch.inf), -1)
        found = F.normalize(torch.einsum("pqij,qje->pqie", weights, sought.vectors), dim=-1)
        alike = torch.einsum("pqie,pie->pqi", found, seeker.vectors) / pooling
        alike = alike.masked_fill(~seeker.inside[:, None], -torch.inf)
        return torch.logsumexp(alike, -1) - seeker.inside.sum(1).log()[:, None]


def local_loss(seeker: Pieces, sought: Pieces, attention: float, pooling: float, temperature: float) -> Tensor:
    """The symmetric InfoNCE of p patients' similarities; the arguments are `local_similarity`'s, of the same patients."""
    logits = local_similarity(seeker, sought, attention, pooling) / temperature
    same = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2


class LocalObjective(Objective):
    """Each pair that at least two patients of the batch, or of the whole step, have both of gives a term.

    Its memory is the product of the tokens of all patients of both modalities: 16 patients of 96 words and 64 regions are
    1.6 million attention weights. Where a step is divided these are the whole step's patients, in every part of it.
    """

    def __init__(self, spec: Local) -> None:
        super().__init__()
        self.spec = spec

    def forward(
        self, model: Backbone, batch: Batch, generator: torch.Generator, tokens: Mapping[Modality, Tokens] | None = None
    ) -> Losses:
        """The terms `local/seeker-sought`."""
        spec, found = self.spec, dict[str, Tensor]()
        there = pieces(model, batch, tokens, spec.named())
        for a, b in spec.pairs:
            if a not in there or b not in there:
                continue
            mine, theirs = of_both(there[a].patient, there[b].patient)
            if int(mine.sum()) >= 2:
                one, other = _of(there[a], mine), _of(there[b], theirs)
                found[f"local/{a}-{b}"] = local_loss(one, other, spec.attention, spec.pooling, spec.temperature)
        share = spec.weight / max(len(found), 1)
        return Losses(found, dict.fromkeys(found, share))


def _of(some: Pieces, rows: Tensor) -> Pieces:
    """Of some of the patients, and no wider than they need."""
    inside = some.inside[rows]
    most = int(inside.sum(1).max())
    return Pieces(some.vectors[rows, :most], inside[:, :most], some.patient[rows])
