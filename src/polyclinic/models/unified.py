"""A unified model: every modality alone goes through the fusion before it is compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from ..harmonise import Fingerprint
from ..schema import Modality, Tokens
from ..tokens import EncoderFields
from .model import Model, ModelFields


class Unified(ModelFields):
    """A tower a modality ends behind the fusion."""

    kind: Literal["unified"] = "unified"

    def build(self, encoders: Mapping[Modality, EncoderFields], fingerprint: Fingerprint, seed: int) -> UnifiedModel:
        """The module, freshly initialised."""
        return UnifiedModel(self, encoders, fingerprint, seed)


class UnifiedModel(Model):
    """Its towers are pooled after the fusion."""

    def alone(self, tokens: Tokens) -> Tokens:
        """The shared trunk's, of patients of whom only this modality is seen."""
        return self.fusion(tokens).tokens

    def pool(self, tokens: Tokens) -> Tensor:
        """(b d) the fusion's vector of patients of whom only this modality is seen."""
        return self.fusion(tokens).pooled
