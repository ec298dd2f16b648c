"""Intermediate fusion: every modality through its own encoder, then all tokens of a patient through one trunk."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..schema import Fused, Tokens
from ..tokens import Layout, Transformer
from ..tokens.packing import with_values
from .fusion import Fusion, FusionFields
from .pooling import balanced


class Intermediate(FusionFields):
    """How the tokens meet.

    Args:
        style: "self_attention": all tokens see each other and their mean answers; "latents": `latents` learned tokens join
            each patient's and answer for them, as BERT's [CLS] does (Devlin et al. 2019).
        depth, heads: of the trunk.
        latents: how many, with that style.
    """

    kind: Literal["intermediate"] = "intermediate"
    style: Literal["self_attention", "latents"] = "self_attention"
    depth: int = Field(default=2, ge=1)
    heads: int = Field(default=4, ge=1)
    latents: int = Field(default=8, ge=1)

    def build(self, width: int) -> IntermediateFusion:
        """The module, freshly initialised."""
        return IntermediateFusion(self, width)


class IntermediateFusion(Fusion):
    """A trunk over each patient's bag."""

    def __init__(self, spec: Intermediate, width: int) -> None:
        super().__init__()
        self.trunk = Transformer(width, spec.depth, spec.heads)
        self.latents = nn.Parameter(torch.randn(spec.latents, width) * 0.1) if spec.style == "latents" else None

    def forward(self, tokens: Tokens) -> Fused:
        """Tokens (n d) → the same tokens having seen each other, and (b d)."""
        present = tokens.lengths > 0
        if self.latents is None:
            seen = with_values(tokens, self.trunk(tokens.values, Layout.of(tokens.patient)))
            return Fused(seen, balanced(seen), present)
        return self._with_latents(tokens, self.latents, present)

    def _with_latents(self, tokens: Tokens, latents: Tensor, present: Tensor) -> Fused:
        who = torch.nonzero(present).flatten()
        patient = torch.cat([tokens.patient, who.repeat_interleave(len(latents))])
        order = torch.argsort(patient, stable=True)
        values = torch.cat([tokens.values, latents.to(tokens.values.dtype).repeat(len(who), 1)])[order]
        seen = self.trunk(values, Layout.of(patient[order]))
        back = torch.empty_like(seen).index_copy(0, order, seen)
        pooled = back.new_zeros(len(present), back.shape[1])
        pooled = pooled.index_copy(0, who, back[len(tokens.values) :].view(len(who), *latents.shape).mean(1))
        return Fused(with_values(tokens, back[: len(tokens.values)]), pooled, present)
