"""Two towers and more (CLIP, Radford et al. 2021): modalities are compared before they meet in the fusion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from ..fusion.pooling import balanced
from ..harmonise import Fingerprint
from ..schema import Modality, Tokens
from ..tokens import EncoderFields
from .model import Model, ModelFields


class TwoTower(ModelFields):
    """A tower a modality ends at its encoder."""

    kind: Literal["two_tower"] = "two_tower"

    def build(self, encoders: Mapping[Modality, EncoderFields], fingerprint: Fingerprint, seed: int) -> TwoTowerModel:
        """The module, freshly initialised."""
        return TwoTowerModel(self, encoders, fingerprint, seed)


class TwoTowerModel(Model):
    """Its towers are pooled before the fusion."""

    def alone(self, tokens: Tokens) -> Tokens:
        """The encoder's; early fusion's trunk in its stead, where the encoder has none."""
        return tokens if self.own_trunks else self.fusion(tokens).tokens

    def pool(self, tokens: Tokens) -> Tensor:
        """(b d) the mean of a patient's tokens."""
        return balanced(tokens)
