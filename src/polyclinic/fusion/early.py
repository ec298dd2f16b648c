"""Early fusion: one trunk over the embeddings of all modalities; the encoders' own trunks are not used."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from ..schema import Fused, Tokens
from ..tokens import Layout, Transformer
from ..tokens.packing import with_values
from .pooling import balanced


class Early(BaseModel):
    """A trunk of `depth` blocks."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["early"] = "early"
    depth: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)

    def build(self, width: int) -> EarlyFusion:
        """The module, freshly initialised."""
        return EarlyFusion(self, width)


class EarlyFusion(nn.Module):
    """The trunk that every modality shares."""

    embeds_only = True

    def __init__(self, spec: Early, width: int) -> None:
        super().__init__()
        self.trunk = Transformer(width, spec.depth, spec.heads)

    def forward(self, tokens: Tokens) -> Fused:
        """Embedded tokens (n d) → tokens and (b d)."""
        seen = with_values(tokens, self.trunk(tokens.values, Layout.of(tokens.patient)))
        return Fused(seen, balanced(seen), tokens.lengths > 0)
