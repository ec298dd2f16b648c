"""Hybrid: any weighted sum of the others, which share the encoders' work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..schema import Batch, Losses, Modality, Tokens
from .caption import Caption
from .contrastive import Contrastive
from .generative import Masked
from .language import CausalLanguage, MaskedLanguage
from .objective import Backbone, Objective, ObjectiveFields, Structure
from .promptable import Promptable
from .segmentation import SegmentationPart

Part = Annotated[
    Contrastive | Masked | MaskedLanguage | CausalLanguage | Caption | SegmentationPart | Promptable,
    Field(discriminator="kind"),
]


class Hybrid(ObjectiveFields):
    """Several objectives at once; each part has its own weight."""

    kind: Literal["hybrid"] = "hybrid"
    parts: tuple[Part, ...] = Field(min_length=1)

    def named(self) -> set[Modality]:
        """Those of its parts."""
        return set().union(*(part.named() for part in self.parts))

    def build(self, model: Backbone, structures: Mapping[str, Structure]) -> HybridObjective:
        """The module, with those of its parts."""
        return HybridObjective(self, model, structures)


class HybridObjective(Objective):
    """The parts' terms together."""

    def __init__(self, spec: Hybrid, model: Backbone, structures: Mapping[str, Structure]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({f"{n}_{p.kind}": p.build(model, structures) for n, p in enumerate(spec.parts)})

    def forward(
        self, model: Backbone, batch: Batch, generator: torch.Generator, tokens: Mapping[Modality, Tokens] | None = None
    ) -> Losses:
        """Every part's terms; whole records are encoded once. The second of two terms of one name bears its part's number."""
        parts = [part for part in self.parts.values() if isinstance(part, Objective)]
        if tokens is None and any(part.whole for part in parts):
            tokens = model.encode(batch)
        terms: dict[str, Tensor] = {}
        weights: dict[str, float] = {}
        for number, part in enumerate(parts):
            losses = part(model, batch, generator, tokens)
            for name, term in losses.terms.items():
                free = name if name not in terms else f"{name} ({number})"
                terms[free], weights[free] = term, losses.weights[name]
        return Losses(terms, weights)
