"""Pictures and reports whose truth is known, for the tests: a spot in a corner is a nodule there; and a run that writes such reports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import polyclinic as pc
from polyclinic.cohort import Cohort
from polyclinic.training import Run

PLACES = {"right upper": (0, 0), "left upper": (0, 1), "right lower": (1, 0), "left lower": (1, 1), None: None}
RECIPE = """
name: corners
cohort: {where: "modality in ('image', 'text')", split: {by: patient, test: 0.25, seed: 0}}
encoders:
  image: {kind: vit, size: 24, patch: 4, width: 32, depth: 2, heads: 2}
  text: {kind: bert, words: 40, vocabulary: 128, languages: [en], width: 32, depth: 1, heads: 2}
model: {kind: two_tower, width: 32, embedding: 32, fusion: {kind: late}}
tasks:
  report: {kind: report, language: en, inputs: [image]}
stages:
  - name: write
    steps: 260
    batch: 24
    lr: 4.0e-3
    warmup: 20
    objective: {kind: hybrid, parts: [{kind: contrastive, loss: clip}, WRITER]}
precision: fp32
"""
WRITERS = {
    "caption": "{kind: caption, width: 32, depth: 1, heads: 2, weight: 2.0}",
    "on top": "{kind: caption, width: 32, depth: 1, heads: 2, weight: 2.0}",
    "queries": "{kind: caption, queries: 8, width: 32, depth: 1, heads: 2, weight: 2.0}",
    "retell": "{kind: retell, noise: 0.3, tokens: 2, width: 32, depth: 1, heads: 2, teach: true}",
}


def words_of(place: str | None) -> str:
    return (
        "No nodule. No pleural effusion."
        if place is None
        else f"There is a nodule in the {place} lobe. No pleural effusion."
    )


def draw(place: Path) -> Path:
    """Patients with a picture and a report each; a few have no report."""
    place.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for number in range(160):
        where = list(PLACES)[number % 5]
        picture = random.normal(60, 12, (24, 24))
        if (corner := PLACES[where]) is not None:
            y, x = 16 * corner[0] + 1, 12 * corner[1] + 3
            picture[y : y + 6, x : x + 6] += 150
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(place / f"C{number:03}_1.png")
        if number % 20 != 19:
            head = f"Patient: C{number:03}\nType: radiology report\nLanguage: en\n\n"
            (place / f"C{number:03}_1.txt").write_text(head + words_of(where))
    return place


def pretrained(kind: str, cohort: Cohort, place: Path, steps: int) -> Run:
    text = RECIPE.replace("WRITER", WRITERS[kind]).replace("steps: 260", f"steps: {steps}")
    text = text.replace("kind: bert", "kind: gpt") if kind == "on top" else text
    (place / "recipe.yaml").write_text(text)
    return pc.pretrain(place / "recipe.yaml", cohort, into=place / "runs")
