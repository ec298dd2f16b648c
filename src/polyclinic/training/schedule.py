"""How weights move: the optimiser, the learning rate over the steps, and the running average of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..schema import Modality

Schedule = Literal["cosine", "linear", "constant", "wsd"]

FLOOR = 0.1
"""The share of the learning rate that a falling schedule ends at."""
COOLDOWN = 0.2
"""The share of the steps over which "wsd" falls (Hägele et al. 2024, section 3)."""


def optimiser(
    module: nn.Module, lr: float, weight_decay: float, betas: tuple[float, float] = (0.9, 0.95),
    apart: Mapping[Modality, Sequence[nn.Parameter]] | None = None,
) -> torch.optim.AdamW:  # fmt: skip
    """Fused AdamW; weight decay on matrices only.

    Args:
        apart: weights whose groups bear a `modality` and can be given a learning rate of their own.
    """
    owner = {id(p): m for m, own in (apart or {}).items() for p in own}
    groups: list[dict[str, Any]] = []
    for m in (None, *(apart or {})):
        wanted = [p for p in module.parameters() if p.requires_grad and owner.get(id(p)) is m]
        named = {} if m is None else {"modality": m}
        groups += [
            {"params": [p for p in wanted if p.ndim >= 2], "weight_decay": weight_decay, **named},
            {"params": [p for p in wanted if p.ndim < 2], "weight_decay": 0.0, **named},
        ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, fused=True)


def schedule(step: int, steps: int, warmup: int, kind: Schedule = "cosine") -> float:
    """The share of the learning rate at a step: a linear rise, then what the kind says.

    Args:
        kind: "cosine" and "linear" fall to a tenth over all steps; "constant" does not fall; "wsd" stays, and falls in a line
            to a tenth over the last fifth (warmup, stable, decay: Hu et al. 2024), so that a longer run shares its beginning.
    """
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    match kind:
        case "cosine":
            left = (1 + math.cos(math.pi * done)) / 2
        case "linear":
            left = 1 - done
        case "constant":
            left = 1.0
        case "wsd":
            left = min(1.0, (1 - done) / COOLDOWN)
    return FLOOR + (1 - FLOOR) * left


class Average:
    """The exponential moving average of a module's weights and floating buffers (Polyak & Juditsky 1992).

    The first steps count less: the decay is at most (1 + n) / (10 + n) after n updates, or the average would be of the fresh
    weights for long.

    Args:
        module: whose weights are averaged; a shard of them, where they are sharded.
        decay: such as 0.999.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in floating(module).items()}

    @torch.no_grad()
    def update(self, module: nn.Module, updates: int) -> None:
        """Take a step's weights in.

        Args:
            updates: how many there were before.
        """
        decay = min(self.decay, (1 + updates) / (10 + updates))
        for name, tensor in floating(module).items():
            self.tensors[name].mul_(decay).add_(tensor.detach(), alpha=1 - decay)

    @torch.no_grad()
    def give(self, module: nn.Module) -> None:
        """Put the averages into a module, in place of its weights."""
        for name, tensor in floating(module).items():
            tensor.copy_(self.tensors[name])


def floating(module: nn.Module) -> Mapping[str, Tensor]:
    """A module's weights that are trained, and its buffers of numbers, by name."""
    buffers = {name: b for name, b in module.named_buffers() if b.is_floating_point()}
    return {name: p for name, p in module.named_parameters() if p.requires_grad} | buffers
