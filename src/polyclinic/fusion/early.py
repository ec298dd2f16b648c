"""Early fusion: one trunk over the concatenated embeddings of all modalities; the encoders have none of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from ..schema import Fused, Modality, Tokens
from ..tokens import Layout, Transformer
from ..tokens.packing import with_values
from .fusion import Fusion, FusionFields
from .pooling import balanced


class Early(FusionFields):
    """A trunk of `depth` blocks, as ViLT's (Kim et al. 2021). A token's place is in its embedding, and not in its order."""

    kind: Literal["early"] = "early"
    own_trunks: ClassVar[bool] = False
    depth: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)

    def build(self, width: int, modalities: Sequence[Modality]) -> EarlyFusion:
        """The module, freshly initialised."""
        return EarlyFusion(width, self.depth, self.heads)


class EarlyFusion(Fusion):
    """The trunk that every modality shares."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.trunk = Transformer(width, depth, heads)

    def forward(self, tokens: Tokens) -> Fused:
        """Embedded tokens (n d) → tokens and (b d)."""
        seen = with_values(tokens, self.trunk(tokens.values, Layout.of(tokens.patient)))
        return Fused(seen, balanced(seen), tokens.lengths > 0)
