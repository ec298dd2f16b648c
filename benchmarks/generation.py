"""Writing words with a cache: our LLaMA and GPT-2 beside those of `transformers`, with the same weights, word for word.

Width 384, 6 layers, 6 heads, a vocabulary of 8192; prompts of 16 words each, 64 further words, greedy, batch 1 and 16; the peer's
`generate` with its own cache, its own default attention and, at batch 16, its left padding that here pads nothing. Both in fp32 and,
where the CPU multiplies it, in bf16 by autocast. Every word of both must be the same in fp32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyclinic.models.systems import Gpt, Llama, load_system
from polyclinic.training.ranks import has_bf16

VOCABULARY, WIDTH, DEPTH, HEADS = 8192, 384, 6, 6
PROMPT, FURTHER, ROUNDS = 16, 64, 9
Write = Callable[[], list[list[int]]]
"""Writes, and gives the further words of every text."""


def peer(kind: str, depth: int) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "gpt2":
            return GPT2LMHeadModel(
                GPT2Config(vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=depth, n_head=HEADS, n_positions=256)
            ).eval()
        sizes: dict[str, Any] = {
            "hidden_size": WIDTH,
            "intermediate_size": 1024,
            "num_hidden_layers": depth,
            "num_attention_heads": HEADS,
        }
        return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=2, **sizes)).eval()


def writers(kind: str, batch: int, depth: int, further: int) -> dict[str, Write]:
    theirs = peer(kind, depth)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = load_system(Path(folder))
    assert isinstance(ours, Gpt | Llama)
    prompts = torch.randint(3, VOCABULARY, (batch, PROMPT), generator=torch.Generator().manual_seed(1))
    ask: dict[str, Any] = {"do_sample": False, "max_new_tokens": further, "min_new_tokens": further, "pad_token_id": 0}

    def peers() -> list[list[int]]:
        found: Tensor = theirs.generate(prompts, attention_mask=torch.ones_like(prompts), eos_token_id=None, **ask)
        return found[:, PROMPT:].tolist()

    return {"ours": lambda: [t.tolist() for t in ours.generate(list(prompts), None, further)], "peer": peers}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small model, few rounds: does it run?")
    quick = parser.parse_args().quick
    depth, further, rounds = (1, 4, 2) if quick else (DEPTH, FURTHER, ROUNDS)
    print(
        f"{PROMPT} words of a prompt and {further} further, {depth} layers of {WIDTH}, {torch.get_num_threads()} threads"
    )
    print(f"{'':8}{'batch':>6}{'':>6}{'ours, words/s':>16}{'peer, words/s':>16}{'ratio':>8}{'same words':>12}")
    rates: dict[tuple[str, int, bool], tuple[float, float]] = {}
    for kind in ("llama", "gpt2"):
        for batch in (1, 16):
            both = writers(kind, batch, depth, further)
            for bf16 in (False, True) if has_bf16() else (False,):
                seconds: dict[str, list[float]] = {name: [] for name in both}
                said: dict[str, list[list[int]]] = {}
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    for number in range(rounds + 1):  # the first is not counted
                        for name, write in both.items():
                            begun = time.perf_counter()
                            said[name] = write()
                            if number:
                                seconds[name].append(time.perf_counter() - begun)
                words = batch * further
                ours, theirs = (words / statistics.median(seconds[name]) for name in ("ours", "peer"))
                same = sum(
                    a == b for x, y in zip(said["ours"], said["peer"], strict=True) for a, b in zip(x, y, strict=True)
                )
                if not bf16 and same < words:
                    raise SystemExit(f"{kind}, batch {batch}: {words - same} of {words} words are not the peer's")
                rates[kind, batch, bf16] = ours, theirs
                print(
                    f"{kind:8}{batch:6}{'bf16' if bf16 else 'fp32':>6}{ours:16.0f}{theirs:16.0f}{ours / theirs:8.2f}{same / words:12.0%}"
                )
    ours, theirs = rates["llama", 16, False]
    worst = min(a / b for a, b in rates.values())
    print(
        json.dumps(
            {
                "name": "generation", "ours": ours, "peer": theirs, "unit": "words/s, LLaMA, batch 16, fp32", "ratio": ours / theirs,
                "n": rounds, "worst_ratio": worst,
                "equal_output": "every word that both networks write is the same in fp32, at batch 1 and 16",
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
