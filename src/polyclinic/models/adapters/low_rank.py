"""Low-rank additions to linear layers: LoRA (Hu et al. 2022) and DoRA (Liu et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .addition import AdapterError, AdapterFields, Addition, linears


class LowRankFields(AdapterFields):
    """What LoRA and DoRA share.

    Args:
        rank: r.
        alpha: the addition is alpha / r · B A.
    """

    first: ClassVar[bool] = True
    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=16.0, gt=0)

    def _put(self, model: nn.Module, draws: torch.Generator, make: type[LowRank]) -> None:
        hosts = linears(model)
        if not hosts:
            raise AdapterError(
                "no block of a Transformer", "at least one", "adapt by probe or full, or deepen the encoders"
            )
        for _, linear in hosts:
            a = torch.randn(self.rank, linear.in_features, generator=draws) / math.sqrt(linear.in_features)
            make(linear, a, torch.zeros(linear.out_features, self.rank), self.alpha).attach(linear)


class Lora(LowRankFields):
    """W x + b + (alpha / r) B A x on every linear layer of the Transformers' blocks, with W and b frozen and B zero at the start."""

    kind: Literal["lora"] = "lora"

    def put(self, model: nn.Module, draws: torch.Generator) -> None:
        """One on every linear layer."""
        self._put(model, draws, LoraLinear)


class Dora(LowRankFields):
    """m (W + (alpha / r) B A) / |W + (alpha / r) B A| x + b: LoRA turns each row of the weight, and m says how long it is."""

    kind: Literal["dora"] = "dora"

    def put(self, model: nn.Module, draws: torch.Generator) -> None:
        """One on every linear layer."""
        self._put(model, draws, DoraLinear)


class LowRank(Addition):
    """B A beside a linear layer.

    Args:
        linear: the host.
        a: (r d).
        b: (d' r).
        alpha: the scale.
    """

    foldable: ClassVar[bool] = True

    def __init__(self, linear: nn.Linear, a: Tensor, b: Tensor, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / len(a)
        self.a, self.b = nn.Parameter(a), nn.Parameter(b)

    def hook(self, host: Any) -> list[RemovableHandle]:
        """Add to what the layer says."""
        return [host.register_forward_hook(self.said)]

    def low(self, x: Tensor) -> Tensor:
        """(… d) → (… d')."""
        return F.linear(F.linear(x, self.a), self.b)

    def said(self, host: Any, args: tuple[Tensor], output: Tensor) -> Tensor:
        """The layer's answer (… d') with the addition."""
        raise NotImplementedError


class LoraLinear(LowRank):
    """LoRA's addition (section 4.1)."""

    kind: ClassVar[str] = "lora"

    def said(self, host: nn.Linear, args: tuple[Tensor], output: Tensor) -> Tensor:
        """W x + b + scale B A x."""
        return output + self.scale * self.low(args[0])

    def fold(self, host: nn.Linear) -> None:
        """W + scale B A."""
        host.weight = nn.Parameter(folded(host.weight, self.a, self.b, self.scale), host.weight.requires_grad)


class DoraLinear(LowRank):
    """DoRA's (equation 5); its gradient takes the rows' length as given (section 4.3)."""

    kind: ClassVar[str] = "dora"

    def __init__(self, linear: nn.Linear, a: Tensor, b: Tensor, alpha: float) -> None:
        super().__init__(linear, a, b, alpha)
        self.m = nn.Parameter(self._length(linear.weight))

    def _length(self, weight: Tensor) -> Tensor:
        """(d') of each row of W + scale B A."""
        with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
            return folded(weight, self.a, self.b, self.scale).norm(dim=1)

    def said(self, host: nn.Linear, args: tuple[Tensor], output: Tensor) -> Tensor:
        """m (W + scale B A) x / |W + scale B A| + b."""
        gain = self.m / self._length(host.weight)
        plain = output if host.bias is None else output - host.bias
        # The host's own answer as it is and what is to be added: at the start that is nothing, to the bit.
        return output + (gain - 1) * plain + gain * self.scale * self.low(args[0])

    def fold(self, host: nn.Linear) -> None:
        """m (W + scale B A) / |W + scale B A|."""
        gain = self.m / self._length(host.weight)
        turned = gain[:, None] * folded(host.weight, self.a, self.b, self.scale)
        host.weight = nn.Parameter(turned.detach(), host.weight.requires_grad)


def folded(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """(d' d) W + scale B A."""
    return (weight + scale * b @ a).detach()


def merged(tensors: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """A state dictionary of a module with LoRA's additions → that of the module with each folded into its layer, as by `fold`."""
    found = dict(tensors)
    for name in [key.removesuffix(".lora.a") for key in tensors if key.endswith(".lora.a")]:
        a, b = found.pop(f"{name}.lora.a"), found.pop(f"{name}.lora.b")
        found[f"{name}.weight"] = folded(found[f"{name}.weight"], a, b, alpha / len(a))
    return found
