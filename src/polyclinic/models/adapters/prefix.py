"""Prefix tuning: keys and values that are learned in every layer (Li & Liang 2021)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...tokens.attention import Attention, Remembered, Sight, triangle
from ...tokens.pretrained import Backbone
from ...tokens.transformer import Block
from .addition import AdapterError, AdapterFields, Addition

KEYS = ("k_proj", "key", "k_lin", "Wqkv")
"""How transformers call the layer that makes keys; whose part it is, asks for attention."""
ATTENTION = "polyclinic_prefix"
SPREAD = 0.02


class Prefix(AdapterFields):
    """Learned keys and values that the tokens of every sequence see beside each other's, a set in every self-attention.

    They are learned as they are: the authors' reparametrisation by a perceptron steadies their learning and is thrown away after it.

    Args:
        length: how many.
    """

    kind: Literal["prefix"] = "prefix"
    lr: float = Field(default=5e-3, gt=0)
    length: int = Field(default=10, ge=1)

    def put(self, model: nn.Module, draws: torch.Generator) -> None:
        """One in every self-attention of Transformers' blocks and of pretrained networks."""
        own = [block.attention for block in model.modules() if isinstance(block, Block)]
        borrowed = [b for b in model.modules() if isinstance(b, Backbone)]
        if not own and not borrowed:
            raise AdapterError("no self-attention", "at least one", "adapt by probe or full, or deepen the encoders")
        for attention in own:
            AttentionPrefix(self.length, attention.groups * attention.head, draws).attach(attention)
        for backbone in borrowed:
            _ask_for_ours(backbone.config)
            for attention in list(backbone.network.modules()):
                made = {name: layer for name, layer in attention.named_children() if name in KEYS}
                for name, layer in made.items():
                    assert isinstance(layer, nn.Linear)
                    width = layer.out_features // (3 if name == "Wqkv" else 1)
                    NetworkPrefix(self.length, width, draws).attach(attention)


class Learned(Addition):
    """p keys and values.

    Args:
        length: p.
        width: of all heads of keys together.
        draws: of the first ones.
    """

    kind: ClassVar[str] = "prefix"

    def __init__(self, length: int, width: int, draws: torch.Generator) -> None:
        super().__init__()
        self.keys = nn.Parameter(SPREAD * torch.randn(length, width, generator=draws))
        self.values = nn.Parameter(SPREAD * torch.randn(length, width, generator=draws))

    def before(self, k: Tensor, v: Tensor, heads: int) -> tuple[Tensor, Tensor]:
        """Keys and values with the learned ones before them; their shapes end in (length, e).

        Args:
            heads: the axis of the heads.
        """
        found = []
        for own, x in ((self.keys, k), (self.values, v)):
            rows = own.view(len(own), x.shape[heads], x.shape[-1]).transpose(0, 1).to(x.dtype)  # (g p e)
            rows = rows.unsqueeze(1 - heads).expand(*x.shape[:2], -1, -1)
            found.append(torch.cat([rows, x], 2))
        return found[0], found[1]


class AttentionPrefix(Learned):
    """Of our own attention: it is handed other keys where it would remember them, and a sight with room for them."""

    def hook(self, host: Attention) -> list[RemovableHandle]:
        """Change what attention is given."""
        return [host.register_forward_pre_hook(self.given)]

    def given(self, host: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Tokens, sight and memory → those with the learned keys."""
        x, sight, *rest = args
        assert isinstance(sight, Sight)
        remembered = rest[0] if rest else None
        biases = []
        for bias, (_, _, length) in zip(sight.biases, sight.enter.shapes, strict=True):
            if sight.causal:
                after = triangle(length, length, x.device)
                bias = after if bias is None else bias + after
            biases.append(None if bias is None else F.pad(bias, (len(self.keys), 0)))
        return x, replace(sight, biases=biases, causal=False), _Before(self, remembered)


@dataclass(slots=True)
class _Before:
    """Stands where attention remembers: what it remembers, with the learned keys before it."""

    prefix: AttentionPrefix
    remembered: Remembered | None

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """(g s l e) → (g s p+l e)."""
        if self.remembered is not None:
            k, v = self.remembered.extend(k, v)
        return self.prefix.before(k, v, heads=0)


class NetworkPrefix(Learned):
    """Of a network of transformers, whose attention is asked for by name."""

    def hook(self, host: nn.Module) -> list[RemovableHandle]:
        """Nothing: `_attend` looks for it."""
        return []


def _ask_for_ours(config: Any) -> None:
    """Make a network ask for `_attend`, with masks as torch's own attention wants them."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, sdpa_mask)
    config._attn_implementation = ATTENTION


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attention (b h l e) as transformers' by torch, where a module has a prefix with that before it."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    prefix = getattr(module, "prefix", None)
    if isinstance(prefix, NetworkPrefix):
        causal = options.get("is_causal")
        causal = getattr(module, "is_causal", True) if causal is None else causal
        length = query.shape[2]
        if attention_mask is None and causal and length > 1:
            attention_mask = torch.ones(length, key.shape[2], dtype=torch.bool, device=query.device).tril()[None, None]
        if attention_mask is not None:
            seen = True if attention_mask.dtype == torch.bool else 0.0
            attention_mask = F.pad(attention_mask, (len(prefix.keys), 0), value=seen)
        key, value = prefix.before(key, value, heads=1)
        options["is_causal"] = False
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
