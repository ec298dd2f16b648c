"""Pictures and volumes whose truth is known, for the tests of what is drawn when it is shown: two discs of a picture, two balls of a
turned volume with oblong voxels; and runs that learned to draw them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import polyclinic as pc
from polyclinic.training import Run

TALL, WIDE, RADIUS = 48, 80, 9
DISCS = """
name: discs
cohort: {where: "modality = 'image'", split: {by: patient, test: 0.25, seed: 0}}
encoders:
  image: {kind: vit, size: 32, patch: 4, width: 32, depth: 2, heads: 2}
model: {kind: unified, width: 32, embedding: 32, fusion: {kind: intermediate, style: self_attention, depth: 1, heads: 2}}
tasks:
  disc: {kind: segmentation, structure: image, modality: image, classes: [left_disc, right_disc], inputs: [image]}
stages:
  - {name: show, steps: 220, batch: 16, lr: 3.0e-3, warmup: 20, objective: {kind: promptable, tasks: [disc], channels: 8}}
precision: fp32
"""
BALLS = """
name: balls
cohort: {where: "modality = 'volume'", split: {by: patient, test: 0.25, seed: 0}}
encoders:
  volume: {kind: vit3d, size: [28, 40, 28], patch: [4, 4, 4], spacing_mm: [2, 2, 2], width: 32, depth: 1, heads: 2}
  text: {kind: bert, words: 8, vocabulary: 64, width: 32, depth: 1, heads: 2}
model: {kind: two_tower, width: 32, embedding: 32, fusion: {kind: intermediate, style: self_attention, depth: 1, heads: 2}}
tasks:
  ball: {kind: segmentation, structure: balls, classes: [bright_ball, dim_ball], inputs: [volume]}
stages:
  - name: show
    steps: 60
    batch: 8
    lr: 4.0e-3
    warmup: 10
    objective: {kind: promptable, tasks: [ball], prompts: [point, box, text], channels: 8}
precision: fp32
"""
AFFINE = np.array([[0, 0, 3.0, -20], [-2.0, 0, 0, 35], [0, 2.0, 0, -9], [0, 0, 0, 1]])
"""The file's first axis runs from front to back, its second from feet to head, its third from left to right in steps of 3 mm (RAS)."""
SHAPE = (40, 28, 18)


def picture(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with two discs of one brightness; label 1 is the left one, 2 the right one."""
    draws = np.random.default_rng(number)
    y, x = np.mgrid[:TALL, :WIDE]
    mask = np.zeros((TALL, WIDE), np.uint8)
    for label, middle in ((1, 20), (2, 60)):
        at = draws.integers(12, TALL - 12), middle + draws.integers(-6, 7)
        mask[(y - at[0]) ** 2 + (x - at[1]) ** 2 < RADIUS**2] = label
    return (40 + 150 * (mask > 0) + draws.normal(0, 8, mask.shape)).clip(0, 255).astype(np.uint8), mask


def volume(number: int) -> tuple[np.ndarray, np.ndarray]:
    """(x y z) of the file: noise with a bright ball (label 1) towards the front and a dim one (2) towards the back."""
    draws = np.random.default_rng(number)
    places = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1) * [2, 2, 3]
    mask = np.zeros(SHAPE, np.uint8)
    for label, front in ((1, 20), (2, 60)):
        at = draws.uniform([front - 4, 16, 16], [front + 4, 40, 38])
        mask[((places - at) ** 2).sum(-1) < 10**2] = label
    return 40 + np.array([0, 160, 90])[mask] + draws.normal(0, 6, SHAPE), mask


def write_volume(values: np.ndarray, path: Path) -> Path:
    """As NIfTI, with the turned affine."""
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    kind = np.uint8 if values.dtype == np.uint8 else np.float32
    nibabel.save(nibabel.Nifti1Image(values.astype(kind), AFFINE), path)  # pyright: ignore[reportPrivateImportUsage]
    return path


def discs(place: Path) -> Path:
    """48 pictures and their masks."""
    for number in range(48):
        for folder, values in zip(("images", "masks"), picture(number), strict=True):
            (place / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(place / f"{folder}/D{number:02}.png")
    return place


def balls(place: Path) -> Path:
    """24 volumes and their masks."""
    for number in range(24):
        for folder, values in zip(("images", "masks"), volume(number), strict=True):
            write_volume(values, place / f"{folder}/balls/B{number:02}.nii.gz")
    return place


def pretrained(files: Path, recipe: str, place: Path) -> Run:
    """A run that learned to draw what it is shown of these."""
    (place / "recipe.yaml").write_text(recipe)
    return pc.pretrain(place / "recipe.yaml", pc.ingest(files, place / "cohort"), into=place / "runs")
