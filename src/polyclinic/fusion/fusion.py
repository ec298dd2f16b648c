"""What every fusion is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from pydantic import BaseModel, ConfigDict
from torch import nn

from ..schema import Fused, Modality, Tokens


class FusionFields(BaseModel, ABC):
    """What every fusion's specification has; a subclass adds its `kind` and its own fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    own_trunks: ClassVar[bool] = True
    """Whether a modality's tokens go through their encoder's trunk before they come here."""

    @abstractmethod
    def build(self, width: int, modalities: Sequence[Modality]) -> Fusion:
        """The module, freshly initialised.

        Args:
            width: d of the tokens.
            modalities: that may come. The weights of one depend on no other: see `streams.own`.
        """


class Fusion(nn.Module, ABC):
    """A bag of tokens a patient → tokens and one vector a patient."""

    @abstractmethod
    def forward(self, tokens: Tokens) -> Fused:
        """Tokens (n d), sorted by patient, of any modalities → the same tokens and (b d), zeros for a patient without any."""
