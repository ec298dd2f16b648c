"""One step of a masked autoencoder beside `transformers.ViTMAEForPreTraining` of the same sizes on the same images.

Both: 32 images of 224 px in patches of 16, of which three quarters are hidden; a ViT of width 384, depth 6 and 6 heads on the visible
patches, a decoder of width 192, depth 4 and 3 heads on all of them, and the mean square of the hidden ones' standardised pixels;
forward, backward and one step of the library's own `optimiser` (fused AdamW). Ours is what a recipe builds: `build_model` and the
objective `masked`. The peer gets the faster of its attention implementations.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from polyclinic.fusion import Late
from polyclinic.harmonise import Fingerprint
from polyclinic.models import TwoTower, build_model
from polyclinic.objectives import Masked
from polyclinic.schema import Modality
from polyclinic.tokens import Vit
from polyclinic.training.ranks import has_bf16

from ._side_by_side import (
    Contender,
    Step,
    apart,
    batch_of,
    block_flops,
    command,
    our_step,
    peer_weights,
    side_by_side,
    training_step,
)

WIDTH, DEPTH, HEADS, MLP = 384, 6, 6, 4
INNER, DEEP, INNER_HEADS = 192, 4, 3
"""The decoder's."""
SIZE, PATCH, RATIO = 224, 16, 0.75
PATCHES = (SIZE // PATCH) ** 2
VISIBLE = round((1 - RATIO) * PATCHES)
ROUNDS, IMAGES = 25, 32
NAMES = {
    "norm1": ["layernorm_before"], "norm2": ["layernorm_after"], "attention.out": ["attention.o_proj"], "up": ["mlp.fc1"],
    "down": ["mlp.fc2"], "attention.qkv": ["attention.q_proj", "attention.k_proj", "attention.v_proj"],
}  # fmt: skip
"""Of a block, and of the peer's layer."""


def our(images: Tensor, depth: int, deep: int, bf16: bool) -> Step:
    spec = Vit(size=SIZE, patch=PATCH, width=WIDTH, depth=depth, heads=HEADS)
    model = build_model(TwoTower(width=WIDTH, fusion=Late()), {Modality.IMAGE: spec}, Fingerprint(), seed=0)
    masked = Masked(ratio=RATIO, width=INNER, depth=deep, heads=INNER_HEADS).build(model, {})
    return our_step(model, masked, batch_of({Modality.IMAGE: images}), bf16)


def peer_model(depth: int, deep: int, attention: str) -> Any:
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = ViTMAEConfig(
            hidden_size=WIDTH, num_hidden_layers=depth, num_attention_heads=HEADS, intermediate_size=MLP * WIDTH,
            decoder_hidden_size=INNER, decoder_num_hidden_layers=deep, decoder_num_attention_heads=INNER_HEADS,
            decoder_intermediate_size=MLP * INNER, image_size=SIZE, patch_size=PATCH, num_channels=1, mask_ratio=RATIO,
            norm_pix_loss=True, layer_norm_eps=1e-5,
        )  # fmt: skip
        config._attn_implementation = attention
        return ViTMAEForPreTraining(config).train()


def peer(images: Tensor, depth: int, deep: int, bf16: bool, attention: str) -> Step:
    model = peer_model(depth, deep, attention)
    return training_step(model, lambda: model(pixel_values=images).loss, bf16)


def useful_flops(count: int, depth: int, deep: int) -> float:
    """Of one step: the products that both models must do, on patches; answers of hidden ones only; the backward is twice the forward."""
    blocks = depth * block_flops([VISIBLE] * count, WIDTH, MLP) + deep * block_flops([PATCHES] * count, INNER, MLP)
    between = 2 * VISIBLE * count * WIDTH * INNER
    answers = 2 * (PATCHES - VISIBLE) * count * INNER * PATCH**2
    embedding = 2 * VISIBLE * count * PATCH**2 * WIDTH  # no gradient of the pixels
    return 3 * (blocks + between + answers) + 2 * embedding


def sameness(depth: int, deep: int) -> str:
    """Ours with the peer's weights on embeddings of its shape, fp32: states and gradients of the encoder and of the decoder."""
    model = peer_model(depth, deep, "sdpa")
    draws = torch.Generator().manual_seed(1)
    sides = [
        (model.vit.layers, model.vit.layernorm, HEADS, torch.randn(2, VISIBLE + 1, WIDTH, generator=draws)),
        (model.decoder.decoder_layers, model.decoder.decoder_norm, INNER_HEADS, torch.randn(2, PATCHES + 1, INNER, generator=draws)),
    ]  # fmt: skip
    found = [
        apart(peer_weights(layers, norm, NAMES), heads, nn.Sequential(*layers, norm), x, torch.ones(x.shape[:2], dtype=torch.bool))
        for layers, norm, heads, x in sides
    ]  # fmt: skip
    state, gradient = (max(pair[i] for pair in found) for i in (0, 1))
    return (
        f"with the peer's weights our encoder and our decoder give its hidden states within {state:.0e} and its gradients within "
        f"{gradient:.0e} of their largest (fp32). What differs: the peer adds a class token an image to both, has fixed sines for "
        "positions, and answers for every patch; ours maps mm to positions, answers for the hidden ones only, and has one more layer "
        "(the bridge to the fusion), whose work is not counted as useful"
    )


def main() -> None:
    quick = command(__doc__).parse_args().quick
    depth, deep, count, rounds = (1, 1, 2, 2) if quick else (DEPTH, DEEP, IMAGES, ROUNDS)
    images, bf16 = torch.randn(count, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0)), has_bf16()
    print(
        f"{count} images of {PATCHES} patches, {VISIBLE} of them visible, depth {depth} and {deep}, {torch.get_num_threads()} threads"
    )
    contenders = [
        Contender("polyclinic", lambda: our(images, depth, deep, bf16), bf16),
        Contender("ViTMAEForPreTraining, eager", lambda: peer(images, depth, deep, bf16, "eager"), bf16),
        Contender("ViTMAEForPreTraining, sdpa", lambda: peer(images, depth, deep, bf16, "sdpa"), bf16),
    ]
    found, work = side_by_side(contenders, VISIBLE * count, WIDTH, rounds), useful_flops(count, depth, deep)
    found.table(count, "images", work)
    found.report("mae_step", count, "images", work, sameness(depth, deep))


if __name__ == "__main__":
    main()
