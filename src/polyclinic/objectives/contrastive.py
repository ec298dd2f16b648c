"""Contrastive: a patient's modalities lie near each other and far from other patients' (CLIP, Radford et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..schema import Batch, Losses, Modality, Tokens
from .objective import Backbone, Objective, ObjectiveFields, Structure

LARGEST_SCALE = 100.0
"""1 / temperature is kept below this (Radford et al. 2021, section 2.5)."""


def clip_loss(one: Tensor, other: Tensor, scale: Tensor) -> Tensor:
    """The symmetric InfoNCE of p pairs.

    Args:
        one, other: (p e) unit vectors; row i of both is one patient.
        scale: () the inverse of the temperature.
    """
    # bfloat16 has two digits, whose error the scale would multiply by up to 100.
    with torch.autocast(one.device.type, enabled=False):
        logits = scale * one @ other.T
    same = torch.arange(len(one), device=one.device)
    return (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2


class Contrastive(ObjectiveFields):
    """Which modalities are compared.

    Args:
        loss: "clip".
        pairs: pairs of modalities, or "all" that a patient may have together.
        temperature: at the start; it is learned.
        weight: in a hybrid objective.
    """

    kind: Literal["contrastive"] = "contrastive"
    loss: Literal["clip"] = "clip"
    pairs: Literal["all"] | tuple[tuple[Modality, Modality], ...] = "all"
    temperature: float = Field(default=0.07, gt=0)
    weight: float = Field(default=1.0, ge=0)

    def named(self) -> set[Modality]:
        """Those of its pairs."""
        return set() if self.pairs == "all" else {m for pair in self.pairs for m in pair}

    def build(self, model: Backbone, structures: Mapping[str, Structure]) -> ContrastiveObjective:
        """The module, with its learned temperature."""
        return ContrastiveObjective(self)


class ContrastiveObjective(Objective):
    """Each pair of modalities that at least two patients of the batch have both of gives a term."""

    def __init__(self, spec: Contrastive) -> None:
        super().__init__()
        self.spec = spec
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / spec.temperature)))

    def forward(
        self, model: Backbone, batch: Batch, generator: torch.Generator, tokens: Mapping[Modality, Tokens] | None = None
    ) -> Losses:
        """The terms `contrastive/a-b`."""
        towers = model.towers(model.encode(batch) if tokens is None else tokens)
        pairs = combinations(towers, 2) if self.spec.pairs == "all" else self.spec.pairs
        scale = self.log_scale.clamp(max=math.log(LARGEST_SCALE)).exp()
        found: dict[str, Tensor] = {}
        for a, b in pairs:
            if a not in towers or b not in towers:
                continue
            one, other = towers[a], towers[b]
            both = torch.isin(one.patient, other.patient), torch.isin(other.patient, one.patient)
            if int(both[0].sum()) >= 2:
                found[f"contrastive/{a}-{b}"] = clip_loss(one.vectors[both[0]], other.vectors[both[1]], scale)
        share = self.spec.weight / max(len(found), 1)
        return Losses(found, dict.fromkeys(found, share))
