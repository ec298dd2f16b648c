"""Writing a report of an image with a cache: our decoder beside `transformers`' GPT-2 with cross-attention, word for word.

Width 384, 6 layers, 6 heads, a vocabulary of 8192, the same weights in both; each text is of an image of 196 tokens of width 384
(224 × 224 pixels in patches of 16), begins with one word, and gets 64 further ones, greedy, at batch 1 and 16. Keys and values of
the image are made once by both. The image's own encoder is not in it: it runs once a report. Both in fp32 and, where the CPU
multiplies it, in bf16 by autocast. Every word of both must be the same in fp32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from polyclinic.objectives.words import Seen, WordDecoder
from polyclinic.training.ranks import has_bf16

VOCABULARY, WIDTH, DEPTH, HEADS, PLACES = 8192, 384, 6, 6, 128
TOKENS, FURTHER, ROUNDS = 196, 64, 9
Write = Callable[[], list[list[int]]]
"""Writes, and gives the further words of every text."""


def ours(depth: int) -> WordDecoder:
    """The decoder, with larger weights than a fresh one's: of those nearly all words are equally likely, and rounding would choose."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = WordDecoder(VOCABULARY, WIDTH, depth, HEADS, places=PLACES, context=WIDTH).eval()
        for parameter in made.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.08)
    return made


def peer(decoder: WordDecoder, depth: int) -> Any:
    """GPT-2 that looks at an encoder's states, with our weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=WIDTH,
        n_layer=depth,
        n_head=HEADS,
        n_positions=PLACES,
        add_cross_attention=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    made = GPT2LMHeadModel(config).eval()
    state = {"wte": decoder.words, "wpe": decoder.places, "ln_f": decoder.blocks.norm}
    for number, block in enumerate(decoder.blocks.layers):
        assert block.cross is not None
        parts = {
            "ln_1": block.norm1, "attn.c_attn": block.attention.qkv, "attn.c_proj": block.attention.out,
            "ln_cross_attn": block.norm_cross, "crossattention.q_attn": block.cross.query, "crossattention.c_attn": block.cross.kv,
            "crossattention.c_proj": block.cross.out, "ln_2": block.norm2, "mlp.c_fc": block.up, "mlp.c_proj": block.down,
        }  # fmt: skip
        state |= {f"h.{number}.{name}": module for name, module in parts.items()}
    with torch.no_grad():
        for name, module in state.items():
            theirs = made.transformer.get_submodule(name)
            for kind, own in module.named_parameters(recurse=False):
                other = getattr(theirs, kind)
                other.copy_(
                    own.T if isinstance(module, torch.nn.Linear) and kind == "weight" else own
                )  # a Conv1D is turned
    return made


def writers(batch: int, depth: int, further: int) -> dict[str, Write]:
    """Ours and the peer's, of the same images."""
    decoder = ours(depth)
    theirs = peer(decoder, depth)
    draws = torch.Generator().manual_seed(1)
    images = torch.randn(batch, TOKENS, WIDTH, generator=draws)
    begin = torch.randint(3, VOCABULARY, (batch, 1), generator=draws)
    ask: dict[str, Any] = {"do_sample": False, "max_new_tokens": further, "min_new_tokens": further, "pad_token_id": 0}

    def mine() -> list[list[int]]:
        seen = Seen(images.flatten(0, 1), torch.arange(batch).repeat_interleave(TOKENS))
        return [t.tolist() for t in decoder.generate(list(begin), None, further, seen)]

    def peers() -> list[list[int]]:
        inside = torch.ones(batch, TOKENS, dtype=torch.int64)
        found: Tensor = theirs.generate(
            begin, attention_mask=torch.ones_like(begin), encoder_hidden_states=images, encoder_attention_mask=inside,
            eos_token_id=None, **ask,
        )  # fmt: skip
        return found[:, 1:].tolist()

    return {"ours": mine, "peer": peers}


def measured(both: dict[str, Write], bf16: bool, rounds: int) -> tuple[dict[str, float], dict[str, list[list[int]]]]:
    """Median seconds of each, and what each wrote; both in turn, the first time not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in both}
    said: dict[str, list[list[int]]] = {}
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        for number in range(rounds + 1):
            for name, write in both.items():
                begun = time.perf_counter()
                said[name] = write()
                if number:
                    seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(spent) for name, spent in seconds.items()}, said


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small model, few rounds: does it run?")
    quick = parser.parse_args().quick
    depth, further, rounds = (1, 4, 2) if quick else (DEPTH, FURTHER, ROUNDS)
    print(f"{TOKENS} tokens of an image, {further} words, {depth} layers of {WIDTH}, {torch.get_num_threads()} threads")
    print(
        f"{'batch':>6}{'':>6}{'ours, words/s':>16}{'peer, words/s':>16}{'ratio':>8}{'same words':>12}{'kinds of words':>16}"
    )
    rates: dict[tuple[int, bool], tuple[float, float]] = {}
    for batch in (1, 16):
        both = writers(batch, depth, further)
        for bf16 in (False, True) if has_bf16() else (False,):
            took, said = measured(both, bf16, rounds)
            words = batch * further
            mine, theirs = (words / took[name] for name in ("ours", "peer"))
            pairs = zip(said["ours"], said["peer"], strict=True)
            same = sum(a == b for x, y in pairs for a, b in zip(x, y, strict=True))
            if not bf16 and same < words:
                raise SystemExit(f"batch {batch}: {words - same} of {words} words are not the peer's")
            rates[batch, bf16] = mine, theirs
            kinds = len({w for text in said["ours"] for w in text})
            name = "bf16" if bf16 else "fp32"
            print(f"{batch:6}{name:>6}{mine:16.0f}{theirs:16.0f}{mine / theirs:8.2f}{same / words:12.0%}{kinds:16}")
    mine, theirs = rates[16, False]
    print(
        json.dumps(
            {
                "name": "report_tokens", "ours": mine, "peer": theirs, "unit": "words/s of an image, batch 16, fp32",
                "ratio": mine / theirs, "n": rounds, "worst_ratio": min(a / b for a, b in rates.values()),
                "equal_output": "every word that both write of an image is the same in fp32, at batch 1 and 16",
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
