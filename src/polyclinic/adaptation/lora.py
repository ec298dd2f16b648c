"""LoRA: a low-rank addition to frozen linear layers (Hu et al. 2022)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..tokens.transformer import Block


class LoraLinear(nn.Module):
    """W x + b + (alpha / r) B A x, with W and b frozen and B zero at the start.

    Args:
        linear: the frozen layer.
        rank: r.
        alpha: the scale.
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.linear, self.scale = linear.requires_grad_(False), alpha / rank
        self.a = nn.Parameter(torch.randn(rank, linear.in_features) / math.sqrt(linear.in_features))
        self.b = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """(… d) → (… d')."""
        return self.linear(x) + self.scale * F.linear(F.linear(x, self.a), self.b)


def inject(module: nn.Module, rank: int, alpha: float, seed: int) -> list[LoraLinear]:
    """Freeze a module and put LoRA on every linear layer of its Transformers' blocks, in place.

    Returns:
        the added layers, in the order of the module.
    """
    module.requires_grad_(False)
    added = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for block in [b for b in module.modules() if isinstance(b, Block)]:
            for owner, name in ((block.attention, "qkv"), (block.attention, "out"), (block, "up"), (block, "down")):
                layer = LoraLinear(getattr(owner, name), rank, alpha)
                setattr(owner, name, layer)
                added.append(layer)
    return added


def merge(module: nn.Module) -> None:
    """Fold every LoRA layer into its linear one, in place: the same answers at the cost of none."""
    for owner in list(module.modules()):
        for name, layer in list(owner.named_children()):
            if isinstance(layer, LoraLinear):
                with torch.no_grad():
                    layer.linear.weight += layer.scale * layer.b @ layer.a
                setattr(owner, name, layer.linear)
