"""One contrastive step of the image-text model beside `transformers.CLIPModel` of the same sizes on the same batch.

Both: a ViT and a text transformer of width 384, depth 6 and 6 heads; 32 pairs of a 112 px image in patches of 16 and a report of
8 to 48 words; pre-norm, GELU, MLP of 4 widths, a projection to 384, the symmetric InfoNCE with a learned temperature; forward,
backward and one step of the library's own `optimiser` (fused AdamW). Ours is what a recipe builds: `build_model`, the contrastive
objective, a `Batch`. The peer gets its reports padded to the longest with a mask, and the faster of its attention implementations.

Beside it the peer as a user gets it: fp32, its own choice of attention, `torch.optim.AdamW` as it comes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polyclinic.fusion import Late
from polyclinic.models import Model, TwoTower, build_model
from polyclinic.objectives import Contrastive, clip_loss
from polyclinic.schema import Batch, Modality
from polyclinic.tokens import Bert, Vit
from polyclinic.training.ranks import has_bf16

from ._side_by_side import (
    DECAY,
    LR,
    Contender,
    Step,
    apart,
    batch_of,
    block_flops,
    command,
    our_step,
    peer_weights,
    reading,
    side_by_side,
    training_step,
)

WIDTH, DEPTH, HEADS, MLP = 384, 6, 6, 4
SIZE, PATCH, VOCABULARY = 112, 16, 8192
SHORTEST, LONGEST = 8, 48
PATCHES = (SIZE // PATCH) ** 2
TEMPERATURE = 0.07
ROUNDS, PAIRS = 25, 32
NAMES = {
    "norm1": ["layer_norm1"], "norm2": ["layer_norm2"], "attention.out": ["self_attn.out_proj"], "up": ["mlp.fc1"],
    "down": ["mlp.fc2"], "attention.qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
}  # fmt: skip
"""Of a block, and of the peer's layer."""


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
    return batch_of({Modality.IMAGE: data.images, Modality.TEXT: data.words})


def peer_batch(data: Pairs) -> dict[str, Any]:
    padded = nn.utils.rnn.pad_sequence(data.words, batch_first=True)
    inside = torch.arange(padded.shape[1]) < torch.tensor(data.lengths)[:, None]
    return {"pixel_values": data.images, "input_ids": padded, "attention_mask": inside.long(), "return_loss": True}


def our_model(depth: int) -> Model:
    encoders = {
        Modality.IMAGE: Vit(size=SIZE, patch=PATCH, width=WIDTH, depth=depth, heads=HEADS),
        Modality.TEXT: Bert(words=LONGEST, vocabulary=VOCABULARY, width=WIDTH, depth=depth, heads=HEADS),
    }
    return build_model(TwoTower(width=WIDTH, embedding=WIDTH, fusion=Late()), encoders, reading(VOCABULARY), seed=0)


def peer_model(depth: int, attention: str | None) -> nn.Module:
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
        if attention is not None:
            config._attn_implementation = attention
        return CLIPModel(config).train()


def our(data: Pairs, depth: int, bf16: bool) -> Step:
    model = our_model(depth)
    return our_step(model, Contrastive(temperature=TEMPERATURE).build(model, {}), our_batch(data), bf16)


def peer(data: Pairs, depth: int, bf16: bool, attention: str) -> Step:
    model, batch = peer_model(depth, attention), peer_batch(data)
    return training_step(model, lambda: model(**batch).loss, bf16)


def as_it_comes(data: Pairs, depth: int) -> Step:
    model, batch = peer_model(depth, None), peer_batch(data)
    adam = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=DECAY)
    return training_step(model, lambda: model(**batch).loss, False, adam)


def useful_flops(data: Pairs, depth: int) -> float:
    """Of one step: the products that both models must do, on patches and words and on nothing else (no padding, no class token).

    Linear layers and attention of every block, the patches' embedding, the projections; the backward is twice the forward.
    """
    lengths = [PATCHES] * len(data.words) + data.lengths
    embedding = 2 * PATCHES * len(data.words) * PATCH**2 * WIDTH  # no gradient of the pixels
    return 3 * (depth * block_flops(lengths, WIDTH, MLP) + 2 * 2 * len(data.words) * WIDTH**2) + 2 * embedding


def sameness(data: Pairs, depth: int) -> str:
    """Ours with the peer's weights on the peer's embeddings, fp32: hidden states and gradients of both towers, and the loss."""
    from transformers.models.clip.modeling_clip import image_text_contrastive_loss

    peer: Any = peer_model(depth, "sdpa")
    batch = peer_batch(data)
    padded, inside = batch["input_ids"], batch["attention_mask"].bool()
    image = peer.vision_model.pre_layrnorm(peer.vision_model.embeddings(data.images))
    text = peer.text_model.embeddings(input_ids=padded)
    mask = torch.zeros(inside.shape).masked_fill(~inside, float("-inf"))[:, None, None, :]
    vision, words = peer.vision_model, peer.text_model
    found = [
        apart(
            peer_weights(vision.encoder.layers, vision.post_layernorm, NAMES), HEADS,
            lambda x: vision.post_layernorm(vision.encoder(inputs_embeds=x).last_hidden_state),
            image.detach(), torch.ones(image.shape[:2], dtype=torch.bool),
        ),
        apart(
            peer_weights(words.encoder.layers, words.final_layer_norm, NAMES), HEADS,
            lambda x: words.final_layer_norm(words.encoder(inputs_embeds=x, attention_mask=mask).last_hidden_state),
            text.detach(), inside,
        ),
    ]  # fmt: skip
    one, other = (nn.functional.normalize(torch.randn(len(data.words), WIDTH), dim=1) for _ in range(2))
    scale = torch.tensor(1 / TEMPERATURE)
    loss = float((clip_loss(one, other, scale) - image_text_contrastive_loss(scale * other @ one.T)).abs())
    state, gradient = (max(pair[i] for pair in found) for i in (0, 1))
    return (
        f"with the peer's weights both of our towers give its hidden states within {state:.0e} and its gradients within "
        f"{gradient:.0e} of their largest (fp32), and the loss of the same embeddings within {loss:.0e}. What differs: the peer adds "
        "a class token an image, learns a position an index and reads a report causally; ours averages tokens, maps mm and word "
        "order to positions, and has one more layer a tower (the bridge to the fusion), whose work is not counted as useful"
    )


def main() -> None:
    quick = command(__doc__).parse_args().quick
    depth, count, rounds = (1, 2, 2) if quick else (DEPTH, PAIRS, ROUNDS)
    data, bf16 = pairs(count, seed=0), has_bf16()
    padded = len(data.words) * max(data.lengths)
    print(
        f"{count} pairs, {sum(data.lengths)} words ({padded} with padding), depth {depth}, {torch.get_num_threads()} threads"
    )
    contenders = [
        Contender("polyclinic", lambda: our(data, depth, bf16), bf16),
        Contender("CLIPModel, eager", lambda: peer(data, depth, bf16, "eager"), bf16),
        Contender("CLIPModel, sdpa", lambda: peer(data, depth, bf16, "sdpa"), bf16),
        Contender("CLIPModel as a user gets it", lambda: as_it_comes(data, depth), False, tuned=False),
    ]
    if bf16:
        contenders.append(Contender("polyclinic", lambda: our(data, depth, False), False, tuned=False))
    found, work = side_by_side(contenders, PATCHES * count, WIDTH, rounds), useful_flops(data, depth)
    found.table(count, "pairs", work)
    print(f"ours over CLIPModel as a user gets it: {found.over(3):.2f}")
    found.report("contrastive_step", count, "pairs", work, sameness(data, depth), over_default=found.over(3))


if __name__ == "__main__":
    main()
