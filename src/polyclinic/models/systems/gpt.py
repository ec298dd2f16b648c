"""GPT-2 (Radford et al. 2019): a causal pre-norm Transformer with learned places, whose words' logits are their embeddings'.

Where it differs from the paper: nowhere but dropout, which ours has not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...objectives import WordDecoder
from ...tokens import Style
from .interchange import Same, expect, prefixed


class Gpt(WordDecoder):
    """GPT-2 of a `transformers` configuration (`GPT2LMHeadModel`, `GPT2Model`)."""

    kind = "gpt2"

    def __init__(self, config: Mapping[str, Any]) -> None:
        expect(
            config, activation_function=("gelu_new",), scale_attn_by_inverse_layer_idx=(False, None), add_cross_attention=(False, None),
            tie_word_embeddings=(True, None),
        )  # fmt: skip
        width, self.config = config["n_embd"], config
        style = Style(activation="gelu_tanh", causal=True, eps=config["layer_norm_epsilon"])
        ratio = (config.get("n_inner") or 4 * width) / width
        super().__init__(
            config["vocab_size"], width, config["n_layer"], config["n_head"], ratio, style, config["n_positions"]
        )

    def same(self) -> Iterator[Same]:
        """What its weights are in `transformers`."""
        of = prefixed(self.config, "transformer.", "GPT2Model")
        yield Same("words.weight", (f"{of}wte.weight",))
        yield Same("leave.weight", (f"{of}wte.weight",))
        yield Same("places.weight", (f"{of}wpe.weight",))
        for n in range(len(self.blocks.layers)):
            ours, theirs = f"blocks.blocks.{n}.", f"{of}h.{n}."
            for one, other in (("norm1", "ln_1"), ("norm2", "ln_2")):
                for part in ("weight", "bias"):
                    yield Same(f"{ours}{one}.{part}", (f"{theirs}{other}.{part}",))
            for one, other in (
                ("attention.qkv", "attn.c_attn"), ("attention.out", "attn.c_proj"), ("up", "mlp.c_fc"), ("down", "mlp.c_proj"),
            ):  # fmt: skip
                yield Same(f"{ours}{one}.weight", (f"{theirs}{other}.weight",), turned=True)
                yield Same(f"{ours}{one}.bias", (f"{theirs}{other}.bias",))
        for part in ("weight", "bias"):
            yield Same(f"blocks.norm.{part}", (f"{of}ln_f.{part}",))
