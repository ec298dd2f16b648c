"""Symile: three and more modalities at once (Saporta et al. 2024).

Pairs cannot see what only three modalities together say (that a dose and a weight fit a creatinine). The similarity of M vectors is
the sum of their product coordinate by coordinate, and each modality in turn asks which tuple of the others is the patient's own:
a lower bound on the total correlation (section 3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import product
from operator import mul
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..schema import Batch, Losses, Modality, Tokens
from .contrastive import scale_of
from .embeddings import embeddings
from .gather import agreed
from .objective import Backbone, Objective, ObjectiveFields, Structure


class Symile(ObjectiveFields):
    """Which modalities are compared all at once, of the patients who have all of them.

    Args:
        modalities: three or more.
        temperature: at the start; it is learned.
        tuples: against at most so many is a patient's own held. p patients and M modalities have p^(M - 1); where these are
            more, so many are drawn of them.
        weight: in a hybrid objective.
    """

    kind: Literal["symile"] = "symile"
    alike: ClassVar[tuple[str, ...]] = ("temperature",)
    modalities: tuple[Modality, ...] = Field(min_length=3)
    temperature: float = Field(default=0.07, gt=0)
    tuples: int = Field(default=4096, ge=2)
    weight: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if len(set(self.modalities)) < len(self.modalities):
            raise ValueError(f"names a modality twice: {', '.join(self.modalities)}")
        return self

    def named(self) -> set[Modality]:
        """All of them."""
        return set(self.modalities)

    def build(self, model: Backbone, structures: Mapping[str, Structure]) -> SymileObjective:
        """The module, with its learned temperature."""
        return SymileObjective(self)


def tuples_of(patients: int, others: int, most: int, generator: torch.Generator) -> Tensor:
    """Which patients' vectors make up each tuple: all tuples, or `most` drawn of them where these are more.

    Returns:
        (t, others) int64
    """
    if patients**others <= most:
        return torch.tensor(list(product(range(patients), repeat=others)), device="cpu")
    return torch.randint(patients, (most, others), generator=generator, device=generator.device)


def symile_loss(vectors: Sequence[Tensor], scale: Tensor, tuples: Tensor) -> Tensor:
    """The mean over the modalities of the cross-entropy of each patient's own tuple of the others among `tuples`.

    Products of unit vectors of e numbers shrink with each further vector; times e^((M - 2) / 2) those of three are as large as
    of two, and a temperature means the same.

    Args:
        vectors: M of (p e), of unit length; row i of all is one patient.
        scale: () the inverse of the temperature.
        tuples: (t M-1) rows of the others; of the patient's own among them, one counts.
    """
    (p, e), m = vectors[0].shape, len(vectors)
    itself = torch.arange(p, device=tuples.device)
    own = (tuples[None] == itself[:, None, None]).all(2)
    losses = []
    with torch.autocast(vectors[0].device.type, enabled=False):
        for number, anchor in enumerate(vectors):
            others = [v for n, v in enumerate(vectors) if n != number]
            rest = reduce(mul, (v[tuples[:, n]] for n, v in enumerate(others)))
            answer = reduce(mul, others)
            sharp = scale * e ** ((m - 2) / 2)
            negatives = (sharp * anchor @ rest.T).masked_fill(own, -torch.inf)
            positive = sharp * (anchor * answer).sum(1, keepdim=True)
            losses.append((torch.logsumexp(torch.cat([positive, negatives], 1), 1) - positive[:, 0]).mean())
    return torch.stack(losses).mean()


class SymileObjective(Objective):
    """One term, where at least two patients of the batch have all the modalities."""

    def __init__(self, spec: Symile) -> None:
        super().__init__()
        self.spec = spec
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / spec.temperature)))

    def forward(
        self, model: Backbone, batch: Batch, generator: torch.Generator, tokens: Mapping[Modality, Tokens] | None = None
    ) -> Losses:
        """The term `symile/a-b-c`."""
        seed = agreed(model, generator)
        towers = embeddings(model, batch, tokens, named=self.spec.named())
        if any(m not in towers for m in self.spec.modalities):
            return Losses({}, {})
        mine = [towers[m] for m in self.spec.modalities]
        whole = mine[0].patient
        for tower in mine[1:]:
            whole = whole[torch.isin(whole, tower.patient)]
        if len(whole) < 2:
            return Losses({}, {})
        vectors = [tower.vectors[torch.isin(tower.patient, whole)] for tower in mine]
        draws = torch.Generator().manual_seed(seed)
        tuples = tuples_of(len(whole), len(mine) - 1, self.spec.tuples, draws).to(whole.device)
        name = "symile/" + "-".join(self.spec.modalities)
        return Losses({name: symile_loss(vectors, scale_of(self.log_scale), tuples)}, {name: self.spec.weight})
