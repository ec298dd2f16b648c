"""Bottleneck adapters (Houlsby et al. 2019)."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .addition import AdapterError, AdapterFields, Addition, linears

BACK = ("out", "down", "o_proj", "out_proj", "out_lin", "output.dense", "Wo", "fc2", "lin2", "down_proj")
"""How the layers are called that attention and perceptron end in: ours first, then transformers'."""


class Bottleneck(AdapterFields):
    """h + U gelu(D h) after every attention and every perceptron, before they are added to what they were given (section 2.1).

    Args:
        size: of the bottleneck; theirs are 8 to 256 at a width of 1024.
    """

    kind: Literal["adapter"] = "adapter"
    lr: float = Field(default=1e-3, gt=0)
    size: int = Field(default=16, ge=1)

    def put(self, model: nn.Module, draws: torch.Generator) -> None:
        """Two a block."""
        hosts = [layer for name, layer in linears(model) if f".{name}".endswith(tuple(f".{end}" for end in BACK))]
        if not hosts:
            raise AdapterError(
                "no block of a Transformer", "at least one", "adapt by probe or full, or deepen the encoders"
            )
        for host in hosts:
            BottleneckAdapter(host.out_features, self.size, draws).attach(host)


class BottleneckAdapter(Addition):
    """Down, a nonlinearity, up; up is zero at the start.

    Args:
        width: d.
        size: of the bottleneck.
        draws: of the first weights.
    """

    kind: ClassVar[str] = "adapter"

    def __init__(self, width: int, size: int, draws: torch.Generator) -> None:
        super().__init__()
        self.narrow = nn.Parameter(torch.randn(size, width, generator=draws) / math.sqrt(width))
        self.narrow_bias = nn.Parameter(torch.zeros(size))
        self.widen = nn.Parameter(torch.zeros(width, size))
        self.widen_bias = nn.Parameter(torch.zeros(width))

    def hook(self, host: Any) -> list[RemovableHandle]:
        """Add to what the layer says."""
        return [host.register_forward_hook(self.said)]

    def said(self, host: Any, args: Any, output: Tensor) -> Tensor:
        """(… d) → (… d)."""
        return output + F.linear(F.gelu(F.linear(output, self.narrow, self.narrow_bias)), self.widen, self.widen_bias)
