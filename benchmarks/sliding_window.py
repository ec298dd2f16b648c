"""A volume of 192×192×128 voxels segmented box by box, beside MONAI's `sliding_window_inference` with the same network.

The network is MONAI's UNet (16, 32, 64, 128), trained for a minute on boxes of 64³ with ellipsoids of four intensities in noise. MONAI
asks 18 boxes of 96³ that overlap by half, as its documents and nnU-Net do, in bf16 and in fp32; ours asks as few boxes as there
can be of up to twice that size (`grow`): a network of convolutions was never told how large its box is. Up to a quarter larger,
overlapping by an eighth, and MONAI's own boxes stand beside it. `equal_output` is how right both are: Dice with the truth on
volumes that were not trained on.
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

from polyclinic.objectives.segmentation import dice_cross_entropy
from polyclinic.tasks.sliding import Axis, sliding
from polyclinic.training.ranks import has_bf16

SHAPE, BOX, CLASSES, ROUNDS, TESTED = (192, 192, 128), (96, 96, 96), 4, 9, 3
OVERLAP, GROW = 0.125, 2.0
LEARNED = (64, 64, 64)


def drawn(shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    """(1 z y x) noise with ellipsoids of four intensities, and which they are, (z y x)."""
    draw = torch.Generator().manual_seed(seed)
    grid = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in shape), indexing="ij")
    mask = torch.zeros(shape, dtype=torch.int64)
    for number in range(max(4, int(torch.tensor(shape).prod() / 60_000))):
        centre = [float(torch.rand((), generator=draw)) * n for n in shape]
        radius = [4 + float(torch.rand((), generator=draw)) * 14 for _ in shape]
        inside = sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radius, strict=True))
        mask[inside < 1] = 1 + number % CLASSES  # type: ignore[operator]
    return (mask.float() - 1.5 + 0.7 * torch.randn(shape, generator=draw))[None], mask


def network(steps: int, box: tuple[int, ...]) -> Any:
    """MONAI's UNet, trained a little."""
    from monai.networks.nets.unet import UNet

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = UNet(3, 1, CLASSES + 1, (16, 32, 64, 128), (2, 2, 2), num_res_units=0)
    adam = torch.optim.AdamW(made.parameters(), 2e-3, fused=True)
    for step in range(steps):
        x, mask = drawn(box, 1000 + step)
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16()):
            logits = made(x[None])
        dice_cross_entropy(logits.float(), mask[None]).backward()
        adam.step()
        adam.zero_grad(set_to_none=True)
    return made.eval()


def dice(found: Tensor, mask: Tensor) -> float:
    """The mean over the classes."""
    each = [
        2 * float(((found == k) & (mask == k)).sum()) / max(1.0, float((found == k).sum() + (mask == k).sum()))
        for k in range(1, CLASSES + 1)
    ]
    return sum(each) / len(each)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small volume, few rounds: does it run?")
    quick = parser.parse_args().quick
    from monai.inferers.utils import sliding_window_inference

    shape, box, rounds, steps, tested = (
        ((48, 48, 32), (24, 24, 24), 2, 4, 1) if quick else (SHAPE, BOX, ROUNDS, 250, TESTED)
    )
    made = network(steps, box if quick else LEARNED)
    ours = lambda x: sliding(made, x, box, overlap=OVERLAP, grow=GROW, step=8)
    grown = lambda x: sliding(made, x, box, overlap=OVERLAP, grow=1.25, step=8)
    alike = lambda x: sliding(made, x, box, overlap=0.5)
    monai = lambda x: sliding_window_inference(x[None], box, 1, made, overlap=0.5, mode="gaussian")[0]
    ways: dict[str, tuple[Callable[[Tensor], Any], bool]] = {
        "polyclinic": (ours, True), "MONAI": (monai, True), "polyclinic, a quarter larger": (grown, True),
        "polyclinic, MONAI's boxes": (alike, True),
        "MONAI, fp32": (monai, False), "polyclinic, fp32": (ours, False),
    }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    right: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode():
        volumes = [drawn(shape, seed) for seed in range(tested)]
        for number in range(rounds + 1):  # the first is not counted
            x, mask = volumes[number % tested]
            for name, (way, bf16) in ways.items():
                begun = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16 and has_bf16()):
                    found = way(x)
                if number:
                    seconds[name].append(time.perf_counter() - begun)
                if len(right[name]) < tested:
                    right[name].append(dice(found.argmax(0), mask))
    boxes = [Axis.over(n, b, OVERLAP, GROW, 8) for n, b in zip(shape, box, strict=True)]
    asked = "×".join(str(len(a.starts)) for a in boxes), "×".join(str(a.size) for a in boxes)
    print(f"{'×'.join(map(str, shape))} voxels; ours {asked[0]} boxes of {asked[1]}; {torch.get_num_threads()} threads")
    print(f"{'':30}{'seconds':>10}{'Dice, n = ' + str(tested):>14}")
    for name, each in seconds.items():
        print(f"{name:30}{statistics.median(each):10.3f}{statistics.mean(right[name]):14.4f}")
    mine, theirs = (statistics.median(seconds[name]) for name in ("polyclinic", "MONAI"))
    print(
        json.dumps(
            {
                "name": "sliding_window", "ours": mine, "peer": theirs, "unit": "s a volume, bf16" if has_bf16() else "s a volume, fp32",
                "ratio": theirs / mine, "n": rounds,
                "equal_output": "Dice with the truth, mean of "
                f"{tested} unseen volumes: ours {statistics.mean(right['polyclinic']):.4f}, MONAI {statistics.mean(right['MONAI']):.4f}",
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
