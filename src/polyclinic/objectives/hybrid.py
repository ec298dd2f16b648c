"""Hybrid: any weighted sum of the others, which share the encoders' work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from ..schema import Batch, Losses, Modality, Tokens
from .contrastive import Contrastive
from .generative import Masked
from .segmentation import SegmentationPart

Part = Annotated[Contrastive | Masked | SegmentationPart, Field(discriminator="kind")]


class Hybrid(BaseModel):
    """Several objectives at once; each part has its own weight."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["hybrid"] = "hybrid"
    parts: tuple[Part, ...] = Field(min_length=1)

    def build(self, model: Any, classes: Mapping[str, int]) -> HybridObjective:
        """The module, with those of its parts."""
        return HybridObjective(self, model, classes)


class HybridObjective(nn.Module):
    """The parts' terms together."""

    def __init__(self, spec: Hybrid, model: Any, classes: Mapping[str, int]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({f"{n}_{p.kind}": p.build(model, classes) for n, p in enumerate(spec.parts)})

    def forward(
        self, model: Any, batch: Batch, generator: torch.Generator, tokens: Mapping[Modality, Tokens] | None = None
    ) -> Losses:
        """Every part's terms; whole records are encoded once."""
        tokens = model.encode(batch) if tokens is None else tokens
        terms, weights = {}, {}
        for part in self.parts.values():
            losses = part(model, batch, generator, tokens)
            terms |= losses.terms
            weights |= losses.weights
        return Losses(terms, weights)
