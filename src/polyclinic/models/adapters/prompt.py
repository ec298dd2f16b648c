"""Prompt tuning: learned tokens before a sequence's own (Lester et al. 2021; of images: Jia et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...fusion.bottleneck import BottleneckFusion
from ...fusion.cross_attention import CrossAttentionFusion
from ...tokens import Layout, Memory, Transformer
from ...tokens.pretrained import Backbone
from .addition import AdapterError, AdapterFields, Addition

SPREAD = 0.1
"""Of the first tokens, as of a fusion's own learned ones."""


class Prompt(AdapterFields):
    """Learned tokens that see and are seen, and are taken out again at the end.

    Args:
        length: how many.
        where: "bag" puts them among the tokens of each patient where the fusion reads these; "encoders" among those of each record,
            in every encoder. A patient or a record without tokens gets none.
    """

    kind: Literal["prompt"] = "prompt"
    lr: float = Field(default=1e-2, gt=0)
    length: int = Field(default=20, ge=1)
    where: Literal["bag", "encoders"] = "bag"

    def put(self, model: nn.Module, draws: torch.Generator) -> None:
        """Before each Transformer's sequences."""
        inside = getattr(model, "fusion" if self.where == "bag" else "encoders", model)
        hosts = [] if isinstance(inside, BottleneckFusion | CrossAttentionFusion) else _read_whole(inside)
        if not hosts:
            raise AdapterError(
                f"a prompt in the {self.where} of a model that reads it through no trunk of one piece ({type(inside).__name__})",
                "a fusion with one (early, or self_attention, class_tokens or perceiver)"
                if self.where == "bag"
                else "encoders with blocks",
                "say where: encoders, or adapt by prefix" if self.where == "bag" else "say where: bag",
            )
        for host in hosts:
            width = host.config.hidden_size if isinstance(host, Backbone) else _width(host)
            tokens = SPREAD * torch.randn(self.length, width, generator=draws)
            (NetworkPrompt if isinstance(host, Backbone) else TokensPrompt)(tokens).attach(host)


def _read_whole(inside: nn.Module) -> list[Transformer | Backbone]:
    """What reads sequences of tokens and of nothing else."""
    found = [m for m in inside.modules() if isinstance(m, Backbone) or (isinstance(m, Transformer) and m.layers)]
    return [m for m in found if isinstance(m, Backbone) or m.layers[0].cross is None]


def _width(transformer: Transformer) -> int:
    return transformer.layers[0].up.in_features


class _Tokens(Addition):
    kind: ClassVar[str] = "prompt"

    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        self.tokens = nn.Parameter(tokens)


class TokensPrompt(_Tokens):
    """Of our own Transformer: p tokens before each of its layout's sequences.

    Args:
        tokens: (p d).
    """

    def hook(self, host: Any) -> list[RemovableHandle]:
        """Put the tokens in before, and take them out after."""
        return [
            host.register_forward_pre_hook(self.given, with_kwargs=True),
            host.register_forward_hook(self.said, with_kwargs=True),
        ]

    def given(self, host: Any, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Packed tokens (n d) and their layout → (n + w·p d) and theirs; where a memory has begun, nothing comes before."""
        x, layout, place, context, memory = _arguments(args, named)
        if memory is not None and memory.lengths is not None:
            return args, named
        p, first = len(self.tokens), layout.order() == 0
        group, count = torch.cumsum(first, 0) - 1, int(first.sum())
        both = torch.cat([torch.arange(count, device=x.device).repeat_interleave(p), group])
        order = torch.argsort(both, stable=True)
        values = torch.cat([self.tokens.to(x.dtype).repeat(count, 1), x]).index_select(0, order)
        if place is not None:
            place = torch.cat([place.new_zeros(count * p, *place.shape[1:]), place]).index_select(0, order)
        return (values, Layout.of(both[order], together=memory is not None), place, context, memory), {}

    def said(self, host: Any, args: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> Tensor:
        """(n + w·p d) → (n d)."""
        _, layout, _, _, memory = _arguments(args, named)
        if memory is not None and len(output) == len(layout.buckets[0].token):
            return output  # a further token a sequence
        return output.index_select(0, torch.nonzero(layout.order() >= len(self.tokens)).flatten())


def _arguments(args: Sequence[Any], named: dict[str, Any]) -> tuple[Tensor, Layout, Tensor | None, Any, Memory | None]:
    """A Transformer's, however they were given."""
    names = ("x", "layout", "place", "context", "memory")
    every = dict.fromkeys(names) | dict(zip(names, args, strict=False)) | named
    return tuple(every[name] for name in names)  # type: ignore[return-value]


class NetworkPrompt(_Tokens):
    """Of a network of transformers: p tokens between its embeddings and its layers.

    Args:
        tokens: (p d).
    """

    def hook(self, host: Any) -> list[RemovableHandle]:
        """Lengthen the mask, put the tokens in after the embeddings, and take them out at the end."""
        network = host.network
        embedding = next(
            getattr(network, name)
            for name in ("embeddings_project", "embeddings", "embed_tokens")  # Electra's are narrower than its layers
            if isinstance(getattr(network, name, None), nn.Module)
        )
        return [
            host.register_forward_pre_hook(self.given, with_kwargs=True),
            embedding.register_forward_hook(self.embedded),
            host.register_forward_hook(self.said),
        ]

    def given(self, host: Any, args: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """A mask (m t) → (m p+t), and places where a network counts its words before it embeds them."""
        p, told = len(self.tokens), dict(named)
        if "attention_mask" in told:
            told["attention_mask"] = F.pad(told["attention_mask"], (p, 0), value=1)
        if host.config.model_type == "modernbert":
            words = told["input_ids"]
            told["position_ids"] = torch.arange(p + words.shape[1], device=words.device)[None]
        return args, told

    def embedded(self, host: Any, args: Any, output: Tensor) -> Tensor:
        """(m t d) → (m p+t d)."""
        return torch.cat([self.tokens.to(output.dtype).expand(len(output), -1, -1), output], 1)

    def said(self, host: Any, args: Any, output: Tensor) -> Tensor:
        """(m p+t d) → (m t d)."""
        return output[:, len(self.tokens) :]
