"""LoRA: a low-rank addition to frozen linear layers (Hu et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..tokens.pretrained import Backbone
from ..tokens.transformer import Block


class LoraLinear(nn.Module):
    """W x + b + (alpha / r) B A x, with W and b frozen and B zero at the start.

    Args:
        linear: the frozen layer.
        a: (r d).
        b: (d' r).
        alpha: the scale.
    """

    def __init__(self, linear: nn.Linear, a: Tensor, b: Tensor, alpha: float) -> None:
        super().__init__()
        self.linear, self.scale = linear.requires_grad_(False), alpha / len(a)
        self.a, self.b = nn.Parameter(a), nn.Parameter(b)

    def forward(self, x: Tensor) -> Tensor:
        """(… d) → (… d')."""
        return self.linear(x) + self.scale * F.linear(F.linear(x, self.a), self.b)


def _layers(module: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    for name, layer in module.named_modules():
        if isinstance(layer, LoraLinear):
            yield name, layer


def _put(module: nn.Module, name: str, layer: nn.Module) -> None:
    owner, _, own = name.rpartition(".")
    setattr(module.get_submodule(owner), own, layer)


def inject(module: nn.Module, rank: int, alpha: float, seed: int) -> list[str]:
    """Freeze a module and put LoRA on every linear layer of its Transformers' blocks and of pretrained networks, in place.

    Returns:
        the layers' names, in the order of the module.
    """
    module.requires_grad_(False)
    blocks = [(name, block) for name, block in module.named_modules() if isinstance(block, Block | Backbone)]
    found = [
        (f"{outer}.{inner}", layer)
        for outer, block in blocks
        for inner, layer in block.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    draws = torch.Generator().manual_seed(seed)
    for name, linear in found:
        a = torch.randn(rank, linear.in_features, generator=draws) / math.sqrt(linear.in_features)
        _put(module, name, LoraLinear(linear, a, torch.zeros(linear.out_features, rank), alpha))
    return [name for name, _ in found]


def factors(module: nn.Module) -> dict[str, Tensor]:
    """`layer.a` and `layer.b` of the layers that learned something: those that no batch went through still have B = 0."""
    learned = [(name, layer) for name, layer in _layers(module) if bool(layer.b.any())]
    return {f"{name}.{f}": getattr(layer, f).detach() for name, layer in learned for f in ("a", "b")}


def restore(module: nn.Module, learned: Mapping[str, Tensor], alpha: float) -> None:
    """Put LoRA layers back, as `factors` gave them, in place.

    Raises:
        AttributeError, KeyError: the module has no such layer, or one of the two factors is missing.
    """
    for name in sorted({key.rpartition(".")[0] for key in learned}):
        linear = module.get_submodule(name)
        if not isinstance(linear, nn.Linear):
            raise AttributeError(f"{name} is not a linear layer")
        _put(module, name, LoraLinear(linear, learned[f"{name}.a"], learned[f"{name}.b"], alpha))


def merged(tensors: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """A state dictionary of a module with LoRA layers → that of the module with each folded into its linear one, as by `merge`."""
    found = dict(tensors)
    for name in [key.removesuffix(".linear.weight") for key in tensors if key.endswith(".linear.weight")]:
        if f"{name}.a" not in tensors:
            continue
        a, b = found.pop(f"{name}.a"), found.pop(f"{name}.b")
        found[f"{name}.weight"] = found.pop(f"{name}.linear.weight") + alpha / len(a) * b @ a
        if f"{name}.linear.bias" in found:
            found[f"{name}.bias"] = found.pop(f"{name}.linear.bias")
    return found


def merge(module: nn.Module) -> None:
    """Fold every LoRA layer into its linear one, in place: the same answers at the cost of none."""
    for name, layer in list(_layers(module)):
        with torch.no_grad():
            layer.linear.weight += layer.scale * layer.b @ layer.a
        _put(module, name, layer.linear)
