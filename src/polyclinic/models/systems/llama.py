"""LLaMA (Touvron et al. 2023; grouped keys and stretched positions since LLaMA 2 and 3), and Qwen2, which adds biases to q, k, v.

Where it differs from the papers: nowhere; positions other than RoPE's own and LLaMA 3's stretch of them are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...objectives import WordDecoder
from ...tokens import Rotary, Style
from .interchange import Same, expect


def rotary(config: Mapping[str, Any]) -> Rotary:
    """Its positions, in the words of `transformers` 5 (`rope_parameters`) or before (`rope_theta`, `rope_scaling`)."""
    told = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    theta = float(told.get("rope_theta") or config.get("rope_theta") or 10000.0)
    kind = told.get("rope_type") or told.get("type") or "default"
    expect({"rope_type": kind}, rope_type=("default", "llama3"))
    if kind == "default":
        return Rotary(theta)
    return Rotary(
        theta,
        told["factor"],
        told["low_freq_factor"],
        told["high_freq_factor"],
        told["original_max_position_embeddings"],
    )


class Llama(WordDecoder):
    """LLaMA or Qwen2 of a `transformers` configuration (`LlamaForCausalLM`, `Qwen2ForCausalLM`)."""

    kind = "llama"

    def __init__(self, config: Mapping[str, Any]) -> None:
        expect(config, hidden_act=("silu",), mlp_bias=(False, None), use_sliding_window=(False, None))
        self.config, width = config, config["hidden_size"]
        qwen = config["model_type"] == "qwen2"
        expect(config, attention_bias=(False, None))
        style = Style(
            norm="rms", eps=config["rms_norm_eps"], activation="swiglu", bias=False, qkv_bias=qwen, causal=True,
            groups=config.get("num_key_value_heads"), head=config.get("head_dim"), rotary=rotary(config),
        )  # fmt: skip
        super().__init__(
            config["vocab_size"], width, config["num_hidden_layers"], config["num_attention_heads"],
            config["intermediate_size"] / width, style, tied=bool(config.get("tie_word_embeddings")),
        )  # fmt: skip

    def same(self) -> Iterator[Same]:
        """What its weights are in `transformers`."""
        yield Same("words.weight", ("model.embed_tokens.weight",))
        tied = bool(self.config.get("tie_word_embeddings"))
        yield Same("leave.weight", ("model.embed_tokens.weight" if tied else "lm_head.weight",))
        for n, block in enumerate(self.blocks.layers):
            ours, theirs = f"blocks.blocks.{n}.", f"model.layers.{n}."
            attention = block.attention
            h, g = attention.heads * attention.head, attention.groups * attention.head
            for part in ("weight", "bias") if attention.qkv.bias is not None else ("weight",):
                qkv = tuple(f"{theirs}self_attn.{name}_proj.{part}" for name in "qkv")
                yield Same(f"{ours}attention.qkv.{part}", qkv, (h, g, g))
            yield Same(f"{ours}attention.out.weight", (f"{theirs}self_attn.o_proj.weight",))
            hidden = block.down.in_features
            gated = (f"{theirs}mlp.gate_proj.weight", f"{theirs}mlp.up_proj.weight")
            yield Same(f"{ours}up.weight", gated, (hidden, hidden))
            yield Same(f"{ours}down.weight", (f"{theirs}mlp.down_proj.weight",))
            yield Same(f"{ours}norm1.weight", (f"{theirs}input_layernorm.weight",))
            yield Same(f"{ours}norm2.weight", (f"{theirs}post_attention_layernorm.weight",))
        yield Same("blocks.norm.weight", ("model.norm.weight",))
