"""One contrastive step of the image-text model beside `transformers.CLIPModel` of the same sizes on the same batch.

Both: a ViT and a text transformer of width 384, depth 6 and 6 heads; 32 pairs of a 112 px image in patches of 16 and a report of
8 to 48 words; pre-norm, GELU, MLP of 4 widths, a projection to 384, the symmetric InfoNCE with a learned temperature; forward,
backward and one step of the library's own `optimiser` (fused AdamW). Ours is what a recipe builds: `build_model`, the contrastive
objective, a `Batch`. The peer gets its reports padded to the longest with a mask, and the faster of its attention implementations.

`ratio` is of the precision that the library takes on this machine: bf16 where the CPU multiplies it (AVX-512 BF16 or AMX), else
fp32: without such a unit bf16 is emulated, ten times slower than fp32, and says nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polyclinic.fusion import Late
from polyclinic.harmonise import Fingerprint
from polyclinic.models import Model, TwoTower, build_model
from polyclinic.objectives import Contrastive, clip_loss
from polyclinic.schema import Batch, Losses, Modality, Ragged
from polyclinic.tokens import Bert, Layout, Transformer, Vit
from polyclinic.training.ranks import has_bf16
from polyclinic.training.schedule import optimiser
from polyclinic.training.step import Trainee

WIDTH, DEPTH, HEADS, MLP = 384, 6, 6, 4
SIZE, PATCH, VOCABULARY = 112, 16, 8192
SHORTEST, LONGEST = 8, 48
PATCHES = (SIZE // PATCH) ** 2
TEMPERATURE, LR, DECAY = 0.07, 1e-4, 0.05
ROUNDS, PAIRS = 25, 32
Step = Callable[[], float]
"""One optimiser step; gives the loss before it."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """What both models read.

    Args:
        images: (b 1 y x), standardised.
        words: b reports of (w,) word numbers, each ending with the last of the vocabulary.
    """

    images: Tensor
    words: list[Tensor]

    @property
    def lengths(self) -> list[int]:
        return [len(w) for w in self.words]


def pairs(count: int, seed: int) -> Pairs:
    draws = torch.Generator().manual_seed(seed)
    lengths = torch.randint(SHORTEST, LONGEST + 1, (count,), generator=draws).tolist()
    end = torch.tensor([VOCABULARY - 1])
    words = [torch.cat([torch.randint(3, VOCABULARY - 1, (n - 1,), generator=draws), end]) for n in lengths]
    return Pairs(torch.randn(count, 1, SIZE, SIZE, generator=draws), words)


def our_batch(data: Pairs) -> Batch:
    b = len(data.words)
    ragged = lambda values: Ragged(values, torch.arange(b), torch.zeros(b), None, b, [str(i) for i in range(b)])
    return Batch(
        {Modality.IMAGE: ragged(data.images), Modality.TEXT: ragged(data.words)}, {}, [str(i) for i in range(b)]
    )


def peer_batch(data: Pairs) -> dict[str, Any]:
    padded = nn.utils.rnn.pad_sequence(data.words, batch_first=True)
    inside = torch.arange(padded.shape[1]) < torch.tensor(data.lengths)[:, None]
    return {"pixel_values": data.images, "input_ids": padded, "attention_mask": inside.long(), "return_loss": True}


def our_model(depth: int) -> Model:
    encoders = {
        Modality.IMAGE: Vit(size=SIZE, patch=PATCH, width=WIDTH, depth=depth, heads=HEADS),
        Modality.TEXT: Bert(words=LONGEST, vocabulary=VOCABULARY, width=WIDTH, depth=depth, heads=HEADS),
    }
    tokenizer = json.dumps({"model": {"vocab": {str(n): n for n in range(VOCABULARY)}}})
    return build_model(TwoTower(width=WIDTH, embedding=WIDTH, fusion=Late()), encoders, Fingerprint(tokenizer), seed=0)


def peer_model(depth: int, attention: str) -> nn.Module:
    from transformers import CLIPConfig, CLIPModel

    sizes = {
        "hidden_size": WIDTH, "num_hidden_layers": depth, "num_attention_heads": HEADS, "intermediate_size": MLP * WIDTH,
        "projection_dim": WIDTH, "hidden_act": "gelu",
    }  # fmt: skip
    last = VOCABULARY - 1
    text = {"vocab_size": VOCABULARY, "max_position_embeddings": LONGEST, "bos_token_id": 0, "eos_token_id": last}
    vision = {"image_size": SIZE, "patch_size": PATCH, "num_channels": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = CLIPConfig(text_config=sizes | text, vision_config=sizes | vision, projection_dim=WIDTH)
        config._attn_implementation = attention
        return CLIPModel(config).train()


def our_step(data: Pairs, depth: int, bf16: bool) -> Step:
    model, batch = our_model(depth), our_batch(data)
    trainee = Trainee(model, Contrastive(temperature=TEMPERATURE).build(model, {})).train()
    draws = torch.Generator().manual_seed(0)

    def loss() -> Tensor:
        total = Losses(*trainee(batch, draws)).total
        assert total is not None
        return total

    return _step(trainee, loss, bf16)


def peer_step(data: Pairs, depth: int, bf16: bool, attention: str) -> Step:
    model, batch = peer_model(depth, attention), peer_batch(data)
    return _step(model, lambda: model(**batch).loss, bf16)


def _step(module: nn.Module, loss_of: Callable[[], Tensor], bf16: bool) -> Step:
    adam = optimiser(module, LR, DECAY)

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = loss_of()
        loss.backward()
        adam.step()
        adam.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def useful_flops(data: Pairs, depth: int) -> float:
    """Of one step: the products that both models must do, on patches and words and on nothing else (no padding, no class token).

    Linear layers and attention of every block, the patches' embedding, the projections; the backward is twice the forward.
    """
    lengths = [PATCHES] * len(data.words) + data.lengths
    block = 2 * sum(lengths) * (4 + 2 * MLP) * WIDTH**2 + 4 * WIDTH * sum(n * n for n in lengths)
    embedding = 2 * PATCHES * len(data.words) * PATCH**2 * WIDTH  # no gradient of the pixels
    return 3 * (depth * block + 2 * 2 * len(data.words) * WIDTH**2) + 2 * embedding


def products(count: int, bf16: bool) -> dict[str, Callable[[], float]]:
    """The machine's best: each gives GFLOP/s of one product of the block's shapes, or of a square one."""
    dtype = torch.bfloat16 if bf16 else torch.float32
    rows = PATCHES * count
    side = min(rows, 1024)
    out = {}
    for name, (m, k, n) in {
        "up": (rows, WIDTH, MLP * WIDTH), "down": (rows, MLP * WIDTH, WIDTH), "weights": (WIDTH, rows, MLP * WIDTH),
        "square": (side, side, side),
    }.items():  # fmt: skip
        a, b = torch.randn(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype)

        def rate(a: Tensor = a, b: Tensor = b) -> float:
            torch.mm(a, b)
            begun = time.perf_counter()
            torch.mm(a, b)
            return 2e-9 * a.shape[0] * a.shape[1] * b.shape[1] / (time.perf_counter() - begun)

        out[name] = rate
    return out


def sameness(data: Pairs, depth: int) -> str:
    """Ours with the peer's weights on the peer's embeddings, fp32: hidden states and gradients of both towers, and the loss."""
    from transformers.models.clip.modeling_clip import image_text_contrastive_loss

    peer: Any = peer_model(depth, "sdpa")
    batch = peer_batch(data)
    padded, inside = batch["input_ids"], batch["attention_mask"].bool()
    image = peer.vision_model.pre_layrnorm(peer.vision_model.embeddings(data.images))
    text = peer.text_model.embeddings(input_ids=padded)
    mask = torch.zeros(inside.shape).masked_fill(~inside, float("-inf"))[:, None, None, :]
    every = torch.ones(image.shape[:2], dtype=torch.bool)
    apart = [
        _apart(peer.vision_model.encoder, peer.vision_model.post_layernorm, image.detach(), None, every),
        _apart(peer.text_model.encoder, peer.text_model.final_layer_norm, text.detach(), mask, inside),
    ]
    one, other = (nn.functional.normalize(torch.randn(len(data.words), WIDTH), dim=1) for _ in range(2))
    scale = torch.tensor(1 / TEMPERATURE)
    loss = float((clip_loss(one, other, scale) - image_text_contrastive_loss(scale * other @ one.T)).abs())
    state, gradient = (max(pair[i] for pair in apart) for i in (0, 1))
    return (
        f"with the peer's weights both of our towers give its hidden states within {state:.0e} and its gradients within "
        f"{gradient:.0e} of their largest (fp32), and the loss of the same embeddings within {loss:.0e}. What differs: the peer adds "
        "a class token an image, learns a position an index and reads a report causally; ours averages tokens, maps mm and word "
        "order to positions, and has one more layer a tower (the bridge to the fusion), whose work is not counted as useful"
    )


def _apart(encoder: Any, norm: nn.LayerNorm, x: Tensor, mask: Tensor | None, inside: Tensor) -> tuple[float, float]:
    """How far our blocks are from the peer's: of the states, and of the gradient to the embeddings (relative)."""
    ours = Transformer(WIDTH, len(encoder.layers), HEADS, MLP)
    ours.load_state_dict(peer_weights(encoder, norm))
    theirs, mine = x.clone().requires_grad_(), x[inside].clone().requires_grad_()
    wanted = norm(encoder(inputs_embeds=theirs, attention_mask=mask).last_hidden_state)[inside]
    given = ours(mine, Layout.of(torch.nonzero(inside)[:, 0]))
    pull = torch.randn(given.shape, generator=torch.Generator().manual_seed(0))
    (wanted * pull).sum().backward()
    (given * pull).sum().backward()
    assert theirs.grad is not None
    assert mine.grad is not None
    gradient = (theirs.grad[inside] - mine.grad).abs().max() / theirs.grad.abs().max()
    return float((wanted - given).detach().abs().max()), float(gradient)


def peer_weights(encoder: Any, norm: nn.LayerNorm) -> dict[str, Tensor]:
    """The peer's encoder and final norm under our names."""
    state = {"norm.weight": norm.weight, "norm.bias": norm.bias}
    for number, layer in enumerate(encoder.layers):
        a = layer.self_attn
        for kind in ("weight", "bias"):
            state |= {
                f"blocks.{number}.{name}.{kind}": getattr(module, kind)
                for name, module in {
                    "norm1": layer.layer_norm1, "norm2": layer.layer_norm2, "attention.out": a.out_proj,
                    "up": layer.mlp.fc1, "down": layer.mlp.fc2,
                }.items()
            } | {
                f"blocks.{number}.attention.qkv.{kind}": torch.cat([getattr(m, kind) for m in (a.q_proj, a.k_proj, a.v_proj)])
            }  # fmt: skip
    return state


@dataclass(frozen=True, slots=True)
class Measured:
    """One precision.

    Args:
        seconds: of every round, by contender: ours, eager, sdpa.
        losses: first and last, by contender.
        peak: GFLOP/s.
    """

    seconds: dict[str, list[float]]
    losses: dict[str, tuple[float, float]]
    peak: float

    @property
    def peer(self) -> str:
        return min(("eager", "sdpa"), key=lambda name: statistics.median(self.seconds[name]))

    def ratios(self) -> list[float]:
        """Of each round, the peer's time over ours."""
        return sorted(p / o for p, o in zip(self.seconds[self.peer], self.seconds["ours"], strict=True))


def measure(data: Pairs, depth: int, bf16: bool, rounds: int) -> Measured:
    """All contenders in turn, `rounds` times after one that is not counted; between them the machine's products."""
    steps = {"ours": our_step(data, depth, bf16)}
    steps |= {name: peer_step(data, depth, bf16, name) for name in ("eager", "sdpa")}
    rates = products(len(data.words), bf16)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    peaks: dict[str, list[float]] = {name: [] for name in rates}
    losses = {name: [step()] for name, step in steps.items()}
    for _ in range(rounds):
        for name, step in steps.items():
            begun = time.perf_counter()
            losses[name].append(step())
            seconds[name].append(time.perf_counter() - begun)
        for name, rate in rates.items():
            peaks[name].append(rate())
    peak = max(statistics.median(found) for found in peaks.values())
    return Measured(seconds, {name: (found[0], found[-1]) for name, found in losses.items()}, peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small model, few rounds: does it run?")
    quick = parser.parse_args().quick
    depth, count, rounds = (1, 2, 2) if quick else (DEPTH, PAIRS, ROUNDS)
    data = pairs(count, seed=0)
    work, best = useful_flops(data, depth), "bf16" if has_bf16() else "fp32"
    padded = len(data.words) * max(data.lengths)
    print(
        f"{count} pairs, {sum(data.lengths)} words ({padded} with padding), depth {depth}, {torch.get_num_threads()} threads"
    )
    print(f"{'':6}{'model':26}{'ms a step':>10}{'pairs/s':>10}{'of peak':>9}{'loss':>16}")
    found: dict[str, Measured] = {}
    for precision in ("fp32", "bf16") if quick or best == "bf16" else ("fp32",):
        found[precision] = one = measure(data, depth, precision == "bf16", rounds)
        for name, label in {"ours": "polyclinic", "eager": "CLIPModel, eager", "sdpa": "CLIPModel, sdpa"}.items():
            s, (first, last) = statistics.median(one.seconds[name]), one.losses[name]
            share = 1e-9 * work / s / one.peak
            print(
                f"{precision:6}{label:26}{s * 1e3:10.1f}{count / s:10.1f}{share:9.0%}{f'{first:.2f} → {last:.2f}':>16}"
            )
        low, middle, high = statistics.quantiles(one.ratios(), n=4)
        print(f"{precision:6}ours over {one.peer}: {middle:.2f} (quartiles of the rounds {low:.2f} to {high:.2f})")
        print(
            f"{precision:6}peak of matrix products: {one.peak:.0f} GFLOP/s; a step's useful work: {work / 1e9:.1f} GFLOP"
        )
    if "bf16" not in found:
        rate = max(rate() for rate in products(count, True).values())
        print(f"bf16  not timed: this CPU has no unit for it; its products run at {rate:.0f} GFLOP/s")
    one = found[best]
    ours, peer = (count / statistics.median(one.seconds[name]) for name in ("ours", one.peer))
    print(
        json.dumps(
            {
                "name": "pretrain_step", "ours": ours, "peer": peer, "unit": f"pairs/s, {best}", "ratio": ours / peer, "n": rounds,
                "share_of_peak": 1e-9 * work * ours / count / one.peak, "equal_output": sameness(data, depth),
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
