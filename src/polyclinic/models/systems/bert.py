"""BERT (Devlin et al. 2019): a bidirectional post-norm Transformer with learned places and kinds of sentence, asked for hidden words.

Where it differs from the paper: no dropout, and no question whether one sentence follows another, which RoBERTa (Liu et al. 2019)
found to be of no use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...objectives import numbers
from ...tokens import Layout, Style, Transformer
from .interchange import Same, expect, prefixed


class Bert(nn.Module):
    """BERT of a `transformers` configuration (`BertForMaskedLM`, or `BertModel` with its pooler)."""

    kind = "bert"

    def __init__(self, config: Mapping[str, Any]) -> None:
        expect(config, hidden_act=("gelu",), is_decoder=(False, None), position_embedding_type=("absolute", None))
        super().__init__()
        self.config, width, eps = config, config["hidden_size"], config["layer_norm_eps"]
        self.words = nn.Embedding(config["vocab_size"], width)
        self.places = nn.Embedding(config["max_position_embeddings"], width)
        self.sentences = nn.Embedding(config["type_vocab_size"], width)
        self.norm = nn.LayerNorm(width, eps)
        self.blocks = Transformer(
            width, config["num_hidden_layers"], config["num_attention_heads"], config["intermediate_size"] / width,
            Style(post=True, eps=eps),
        )  # fmt: skip
        self.asked = prefixed(config, "bert.", "BertModel") != ""
        if self.asked:
            self.transform, self.norm_answer = nn.Linear(width, width), nn.LayerNorm(width, eps)
            self.bias = nn.Parameter(torch.zeros(config["vocab_size"]))
        else:
            self.pooler = nn.Linear(width, width)

    def hidden(self, texts: Sequence[Tensor], sentences: Sequence[Tensor] | None = None) -> Tensor:
        """(n d) of all texts' words.

        Args:
            texts: (w,) int64 each.
            sentences: (w,) int64 each, 0 for a text's first sentence and 1 for its second; zeros where None.
        """
        words, layout = torch.cat(list(texts)), Layout.of(numbers(texts))
        kinds = torch.zeros_like(words) if sentences is None else torch.cat(list(sentences))
        x = self.words(words) + self.places(layout.order()) + self.sentences(kinds)
        return self.blocks(self.norm(x), layout)

    def forward(self, texts: Sequence[Tensor], sentences: Sequence[Tensor] | None = None) -> Tensor:
        """(n v) logits of every word, for hidden ones too; (s d) of each text where it is a `BertModel`."""
        hidden = self.hidden(texts, sentences)
        if self.asked:
            return self.norm_answer(F.gelu(self.transform(hidden))) @ self.words.weight.T + self.bias
        lengths = torch.tensor([len(text) for text in texts], device=hidden.device)
        return torch.tanh(self.pooler(hidden[lengths.cumsum(0) - lengths]))

    def same(self) -> Iterator[Same]:
        """What its weights are in `transformers`."""
        of = "bert." if self.asked else ""
        for ours, theirs in (("words", "word"), ("places", "position"), ("sentences", "token_type")):
            yield Same(f"{ours}.weight", (f"{of}embeddings.{theirs}_embeddings.weight",))
        pairs = {"norm": "embeddings.LayerNorm"}
        for n, block in enumerate(self.blocks.layers):
            one, other = f"blocks.blocks.{n}.", f"{of}encoder.layer.{n}."
            width = block.attention.out.out_features
            for part in ("weight", "bias"):
                qkv = tuple(f"{other}attention.self.{name}.{part}" for name in ("query", "key", "value"))
                yield Same(f"{one}attention.qkv.{part}", qkv, (width,) * 3)
            for ours, theirs in (
                ("attention.out", "attention.output.dense"), ("norm1", "attention.output.LayerNorm"), ("up", "intermediate.dense"),
                ("down", "output.dense"), ("norm2", "output.LayerNorm"),
            ):  # fmt: skip
                pairs[one + ours] = f"encoder.layer.{n}.{theirs}"
        for ours, theirs in pairs.items():
            for part in ("weight", "bias"):
                yield Same(f"{ours}.{part}", (f"{of}{theirs}.{part}",))
        heads = {"pooler": "pooler.dense"}
        if self.asked:
            heads = {
                "transform": "cls.predictions.transform.dense",
                "norm_answer": "cls.predictions.transform.LayerNorm",
            }
            yield Same("bias", ("cls.predictions.bias",))
        for ours, theirs in heads.items():
            for part in ("weight", "bias"):
                yield Same(f"{ours}.{part}", (f"{theirs}.{part}",))
