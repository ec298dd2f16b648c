"""One training step on volumes beside MONAI's ViT of the same sizes, and beside its UNETR.

Of equal work: 8 volumes of 96³ voxels in boxes of 16³ through a ViT of width 384, depth 6 and 6 heads to one finding, as `adapt`
trains all weights; forward, backward and one step of the library's own `optimiser` (fused AdamW). MONAI's gets the fastest of its
embeddings and attention implementations; `ratio` is of these.

Of unequal work, and said so: a mask of 4 classes on 2 volumes, by a ViT of depth 12 and each one's own decoder, with the same loss.
UNETR convolves at full resolution, ours at half and below.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from polyclinic.fusion import Late
from polyclinic.harmonise import Fingerprint
from polyclinic.models import Model, TwoTower, build_model
from polyclinic.objectives import Structure
from polyclinic.objectives.segmentation import SegmentationPart, dice_cross_entropy
from polyclinic.schema import Modality, Target
from polyclinic.tasks import Classification
from polyclinic.tokens import Vit3d
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
SIZE, PATCH, CLASSES = 96, 16, 4
UNETR_DEPTH = 12
"""It has no other."""
ROUNDS, SLOW_ROUNDS, VOLUMES, MASKS = 25, 5, 8, 2
NAMES = {
    "norm1": ["norm1"], "norm2": ["norm2"], "attention.out": ["attn.out_proj"], "up": ["mlp.linear1"], "down": ["mlp.linear2"],
    "attention.qkv": ["attn.qkv"],
}  # fmt: skip
"""Of a block, and of the peer's."""


def our_model(size: int, depth: int) -> Model:
    spec = Vit3d(size=(size, size, size), patch=(PATCH, PATCH, PATCH), width=WIDTH, depth=depth, heads=HEADS)
    return build_model(TwoTower(width=WIDTH, fusion=Late()), {Modality.VOLUME: spec}, Fingerprint(), seed=0)


def our_finding(volumes: Tensor, truth: Tensor, depth: int, bf16: bool) -> Step:
    model = our_model(volumes.shape[-1], depth)
    task = Classification(column="finding", positive=("yes",)).build("finding", model)
    target = Target(truth, torch.ones_like(truth, dtype=torch.bool))
    batch = batch_of({Modality.VOLUME: volumes}, {"finding": target})

    def loss() -> Tensor:
        found = task.loss(task.output(model, batch), target)
        assert found is not None
        return found

    return training_step(nn.ModuleList([model, task]).train(), loss, bf16)


def vit(size: int, depth: int, embedding: str, fused: bool) -> Any:
    from monai.networks.nets.vit import ViT

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ViT(
            1, (size,) * 3, (PATCH,) * 3, WIDTH, MLP * WIDTH, depth, HEADS, embedding, classification=True, num_classes=1,
            post_activation="none", qkv_bias=True,
        )  # fmt: skip
    for block in model.blocks:
        block.attn.use_flash_attention = fused  # type: ignore[union-attr]
    return model.train()


def peer_finding(volumes: Tensor, truth: Tensor, depth: int, bf16: bool, embedding: str, fused: bool) -> Step:
    model, wanted = vit(volumes.shape[-1], depth, embedding, fused), truth.float()

    def loss() -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(model(volumes)[0][:, 0].float(), wanted)

    return training_step(model, loss, bf16)


def our_masks(volumes: Tensor, masks: Tensor, bf16: bool) -> Step:
    model = our_model(volumes.shape[-1], UNETR_DEPTH)
    organs = Structure(Modality.VOLUME, tuple(str(n) for n in range(1, CLASSES)))
    objective = SegmentationPart(task="organs").build(model, {"organs": organs})
    target = Target(list(masks), torch.ones(len(masks), dtype=torch.bool))
    return our_step(model, objective, batch_of({Modality.VOLUME: volumes}, {"organs": target}), bf16)


def peer_masks(volumes: Tensor, masks: Tensor, bf16: bool) -> Step:
    from monai.networks.nets.unetr import UNETR

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = UNETR(1, CLASSES, (volumes.shape[-1],) * 3, 16, WIDTH, MLP * WIDTH, HEADS, qkv_bias=True)
    for block in model.vit.blocks:
        block.attn.use_flash_attention = True  # type: ignore[union-attr]
    return training_step(model.train(), lambda: dice_cross_entropy(model(volumes).float(), masks), bf16)


def useful_flops(count: int, boxes: int, depth: int) -> float:
    """Of one step to a finding: the products that both must do, on boxes (no class token); the backward is twice the forward."""
    embedding = 2 * boxes * count * PATCH**3 * WIDTH  # no gradient of the voxels
    return 3 * depth * block_flops([boxes] * count, WIDTH, MLP) + 2 * embedding


def counted(step: Step) -> float:
    """FLOP of the products and convolutions of one step, as torch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter:
        step()
    return counter.get_total_flops()


def sameness(size: int, depth: int) -> str:
    """Ours with the peer's weights on embeddings of its shape, fp32: states and gradients."""
    model = vit(size, depth, "conv", False)
    x = torch.randn(2, (size // PATCH) ** 3 + 1, WIDTH, generator=torch.Generator().manual_seed(1))
    inside = torch.ones(x.shape[:2], dtype=torch.bool)
    weights = peer_weights(model.blocks, model.norm, NAMES)
    state, gradient = apart(weights, HEADS, nn.Sequential(*model.blocks, model.norm), x, inside)
    return (
        f"with the peer's weights our blocks give its hidden states within {state:.0e} and its gradients within {gradient:.0e} of "
        "their largest (fp32). What differs: the peer adds a class token a volume and learns a position an index; ours averages tokens, "
        "maps mm to positions, standardises the mean, and has one more layer (the bridge to the fusion), whose work is not counted as "
        "useful. The masks' networks are not the same, and their ratio is not the benchmark's"
    )


def main() -> None:
    quick = command(__doc__).parse_args().quick
    size, depth, count, rounds = (32, 1, 2, 2) if quick else (SIZE, DEPTH, VOLUMES, ROUNDS)
    few, slow = (1, 2) if quick else (MASKS, SLOW_ROUNDS)
    draws, boxes, bf16 = torch.Generator().manual_seed(0), (size // PATCH) ** 3, has_bf16()
    volumes = torch.randn(count, 1, size, size, size, generator=draws)
    truth = torch.arange(count) % 2
    print(f"{count} volumes of {boxes} boxes, depth {depth}, {torch.get_num_threads()} threads: one finding")
    contenders = [Contender("polyclinic", lambda: our_finding(volumes, truth, depth, bf16), bf16)]
    for embedding, fused in (("conv", False), ("perceptron", False), ("perceptron", True)):
        make = lambda e=embedding, f=fused: peer_finding(volumes, truth, depth, bf16, e, f)
        contenders.append(Contender(f"ViT, {embedding}, {'sdpa' if fused else 'einsum'}", make, bf16))
    found, work = side_by_side(contenders, boxes * count, WIDTH, rounds), useful_flops(count, boxes, depth)
    found.table(count, "volumes", work)

    masks = torch.randint(CLASSES, (few, size, size, size), generator=draws)
    print(f"\n{few} volumes, depth {UNETR_DEPTH}: a mask of {CLASSES} classes")
    both = [
        Contender("polyclinic", lambda: our_masks(volumes[:few], masks, bf16), bf16),
        Contender("UNETR", lambda: peer_masks(volumes[:few], masks, bf16), bf16),
    ]
    side_by_side(both, boxes * few, WIDTH, slow).table(few, "volumes", 0)
    ours, theirs = (counted(contender.step()) / 1e9 for contender in both)
    print(f"not of equal work: a step of ours is {ours:.0f} GFLOP, of UNETR {theirs:.0f}")
    found.report("volume_step", count, "volumes", work, sameness(size, depth))


if __name__ == "__main__":
    main()
