"""Early fusion: one trunk over the embeddings of all modalities; the encoders have none of their own."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from ..schema import Fused, Tokens
from ..tokens import Layout, Transformer
from ..tokens.packing import with_values
from .fusion import Fusion, FusionFields
from .pooling import balanced


class Early(FusionFields):
    """A trunk of `depth` blocks."""

    kind: Literal["early"] = "early"
    own_trunks: ClassVar[bool] = False
    depth: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)

    def build(self, width: int) -> EarlyFusion:
        """The module, freshly initialised."""
        return EarlyFusion(self, width)


class EarlyFusion(Fusion):
    """The trunk that every modality shares."""

    def __init__(self, spec: Early, width: int) -> None:
        super().__init__()
        self.trunk = Transformer(width, spec.depth, spec.heads)

    def forward(self, tokens: Tokens) -> Fused:
        """Embedded tokens (n d) → tokens and (b d)."""
        seen = with_values(tokens, self.trunk(tokens.values, Layout.of(tokens.patient)))
        return Fused(seen, balanced(seen), tokens.lengths > 0)
