"""BitFit: only the biases learn (Ben Zaken et al. 2022)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from .addition import AdapterError, AdapterFields, additions


class Bitfit(AdapterFields):
    """Every bias of the model: of linear layers and norms."""

    kind: Literal["bitfit"] = "bitfit"
    lr: float = Field(default=2e-3, gt=0)

    def put(self, model: nn.Module, draws: torch.Generator) -> None:
        """Set the biases free."""
        added = {id(p) for _, _, one in additions(model) for p in one.parameters()}
        biases = [p for n, p in model.named_parameters() if n.rpartition(".")[2] == "bias" and id(p) not in added]
        if not biases:
            raise AdapterError("a model without biases", "at least one", "adapt by lora")
        for bias in biases:
            bias.requires_grad_(True)
