"""Whether self-distillation learns: nearest neighbours and a linear probe of the encoder, before and after, on made-up textures.

Gratings of four directions and two wavelengths, at any phase, under noise as strong as they are; nobody says which is which. A small
ViT learns of them by DINO or by iBOT alone; then an unseen image is told by its nearest neighbours among the images that it learned of,
and by ridge regression on them. A class cannot be read from any pixel, for the phase is anything, but from every crop.

    python -m benchmarks.results.self_distillation [--steps 150] [--seeds 4] [--only dino] [--quick]

A seed has images, weights, views and batches of its own. A figure is the mean over seeds; the interval of a gain is 95%, Student's t
over the seeds' paired differences.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import numpy as np
import torch

from polyclinic.fusion import Late
from polyclinic.fusion.pooling import balanced
from polyclinic.harmonise import Fingerprint
from polyclinic.models import Model, TwoTower, build_model
from polyclinic.objectives import Dino, Ibot
from polyclinic.schema import Batch, Modality, Ragged
from polyclinic.tokens import Vit
from polyclinic.training.ranks import Ranks, fabric_for
from polyclinic.training.recipe import Stage
from polyclinic.training.step import Stepper, Trainee

SIZE, KNOWN, UNSEEN, BATCH, CLASSES = 24, 600, 300, 24, 8
NOISE, RIDGE, NEIGHBOURS = 1.0, 1.0, 10
VIEWS = {"smalls": 4, "jitter": 0.3, "prototypes": 256, "width": 128, "momentum": 0.98}
ARMS = {"dino": Dino(**VIEWS), "ibot": Ibot(**VIEWS)}
Told = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Of images that are known (n f) and their classes (n,), and of unseen ones."""


def pictures(n: int, draws: np.random.Generator) -> tuple[torch.Tensor, np.ndarray]:
    """(n 1 24 24) of mean 0 and spread 1, and (n,) their classes."""
    kind, (y, x) = draws.integers(0, CLASSES, n), np.mgrid[:SIZE, :SIZE]
    angle = (kind % 4) * np.pi / 4 + draws.normal(0, 0.12, n)
    wave = 2 * np.pi / (np.where(kind // 4, 8.0, 5.0) * np.exp(draws.normal(0, 0.08, n)))
    across = np.cos(angle)[:, None, None] * x + np.sin(angle)[:, None, None] * y
    clean = np.sin(wave[:, None, None] * across + draws.uniform(0, 2 * np.pi, (n, 1, 1)))
    slant = draws.normal(0, 0.3, (2, n, 1, 1)) * np.stack([x, y])[:, None] / SIZE
    images = clean * np.exp(draws.normal(0, 0.3, (n, 1, 1))) + slant.sum(0) + draws.normal(0, NOISE, clean.shape)
    images = (images - images.mean((1, 2), keepdims=True)) / images.std((1, 2), keepdims=True)
    return torch.from_numpy(images[:, None].astype(np.float32)), kind


def batch_of(images: torch.Tensor, names: list[str]) -> Batch:
    """A patient an image."""
    n = len(images)
    ragged = Ragged(images, torch.arange(n), torch.zeros(n), None, n, names)
    return Batch({Modality.IMAGE: ragged}, {}, names)


@torch.no_grad()
def vectors(model: Model, images: torch.Tensor) -> np.ndarray:
    """(n d) the mean of each image's tokens where the encoder ends."""
    made = []
    for part in images.split(100):
        tokens = model.encode(batch_of(part, [str(n) for n in range(len(part))])).own(Modality.IMAGE)
        made.append(balanced(tokens))
    return torch.cat(made).numpy()


def nearest(told: Told) -> float:
    """The share that is told right by the majority of the nearest, by cosine."""
    known, classes, unseen, truth = told
    centre, spread = known.mean(0), known.std(0) + 1e-6
    one, other = ((v - centre) / spread for v in (known, unseen))
    unit = lambda v: v / np.linalg.norm(v, axis=1, keepdims=True)
    near = classes[np.argsort(-(unit(other) @ unit(one).T), axis=1)[:, :NEIGHBOURS]]
    votes = np.stack([(near == kind).sum(1) for kind in range(CLASSES)], 1)
    return float((votes.argmax(1) == truth).mean())


def linear(told: Told) -> float:
    """The share that is told right by ridge regression on the classes."""
    known, classes, unseen, truth = told
    centre, spread = known.mean(0), known.std(0) + 1e-6
    one, other = (np.c_[(v - centre) / spread, np.ones(len(v))] for v in (known, unseen))
    weights = np.linalg.solve(one.T @ one + RIDGE * np.eye(one.shape[1]), one.T @ np.eye(CLASSES)[classes])
    return float(((other @ weights).argmax(1) == truth).mean())


def seed_of(arm: str, seed: int, steps: int) -> dict[str, float]:
    """Both shares before and after, those of the pixels, and the loss at the end."""
    draws = np.random.default_rng(seed)
    (known, classes), (unseen, truth) = pictures(KNOWN, draws), pictures(UNSEEN, draws)
    encoders = {Modality.IMAGE: Vit(size=SIZE, patch=4, width=48, depth=2, heads=4)}
    model = build_model(TwoTower(width=48, embedding=48, fusion=Late()), encoders, Fingerprint(), seed)
    told = lambda: (vectors(model.eval(), known), classes, vectors(model, unseen), truth)
    pixels = (known.flatten(1).numpy(), classes, unseen.flatten(1).numpy(), truth)
    found = {"pixels nearest": nearest(pixels), "pixels linear": linear(pixels)}
    fresh = told()
    found |= {"fresh nearest": nearest(fresh), "fresh linear": linear(fresh)}
    stage = Stage(name=arm, objective=ARMS[arm], steps=steps, batch=BATCH, lr=1e-3, warmup=steps // 10)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        objective = ARMS[arm].build(model, {})
    stepper = Stepper(Ranks(fabric_for("fp32")), Trainee(model, objective), stage)
    for step in range(steps):
        rows = draws.choice(KNOWN, BATCH, replace=False)
        made = stepper.take([batch_of(known[rows], [str(n) for n in rows])], BATCH, (seed, 0, step))
        found["loss"] = made.values["dino/image"]
    after = told()
    return found | {"trained nearest": nearest(after), "trained linear": linear(after)}


T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 8: 2.365, 10: 2.262}
"""Student's t, two-sided, by how many seeds."""


def main() -> None:
    """Print a table, and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=4, choices=T95)
    parser.add_argument("--only", choices=ARMS, help="one of the objectives")
    parser.add_argument("--quick", action="store_true", help="two seeds of ten steps: whether it runs")
    asked = parser.parse_args()
    steps, seeds = (10, 2) if asked.quick else (asked.steps, asked.seeds)
    began, rows = time.process_time(), {arm: list[dict[str, float]]() for arm in ARMS if asked.only in (None, arm)}
    for seed in range(seeds):
        for arm in rows:
            rows[arm].append(seed_of(arm, seed, steps))
            print(arm, seed, {k: round(v, 3) for k, v in rows[arm][-1].items()}, file=sys.stderr, flush=True)
    result = {
        "name": "self_distillation",
        "steps": steps,
        "seeds": seeds,
        "seconds": round(time.process_time() - began),
    }
    print("| objective | told by | pixels | fresh | trained | gain (95%) |\n|---|---|---|---|---|---|")
    for arm, found in rows.items():
        for how in ("nearest", "linear"):
            of = lambda what, how=how, found=found: np.array([row[f"{what} {how}"] for row in found])
            gain = of("trained") - of("fresh")
            half = T95[seeds] * gain.std(ddof=1) / seeds**0.5
            interval = [round(float(gain.mean() + side * half), 3) for side in (-1, 1)]
            means = {what: round(float(of(what).mean()), 3) for what in ("pixels", "fresh", "trained")}
            result[f"{arm} {how}"] = means | {"gain": round(float(gain.mean()), 3), "interval": interval}
            shown = " | ".join(f"{value:.2f}" for value in means.values())
            print(f"| `{arm}` | {how} | {shown} | {gain.mean():+.2f} ({interval[0]:+.2f} to {interval[1]:+.2f}) |")
        result[f"{arm} loss"] = round(float(np.mean([row["loss"] for row in found])), 3)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
