"""Boxes and points from end to end: pictures of made-up patients, on which bright squares and dark discs were drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from polyclinic.adaptation import adapt, open_adapted
from polyclinic.cohort import Cohort, ingest
from polyclinic.inference import predict
from polyclinic.tasks import DetectionTask
from polyclinic.training import Run, pretrain
from polyclinic.trust import Evidence, evaluate

SIDE, PATIENTS, UNSEEN = 96, 64, 4
RECIPE = """
name: places
cohort: {split: {by: patient, test: 0.4, seed: 0}}
encoders: {image: {kind: vit, size: 64, patch: 8, width: 32, depth: 1, heads: 2}}
model: {kind: two_tower, width: 32, embedding: 16, fusion: {kind: early, depth: 1, heads: 2}}
tasks:
  lesions: {kind: detection, classes: [square, disc]}
  tips: {kind: keypoints, points: [top, bottom]}
stages: [{name: first, steps: 2, batch: 4, lr: 1.0e-3, warmup: 1, objective: {kind: masked, modalities: [image], ratio: 0.5}}]
precision: fp32
"""


def scene(random: np.random.Generator) -> tuple[np.ndarray, list[tuple[str, list[int]]], list[float]]:
    """A noisy picture twice as wide as it is high, up to three things (x, y, width, height) apart, and two ends of a bar."""
    pixels, things = random.normal(100, 8, (SIDE // 2, SIDE)), list[tuple[str, list[int]]]()
    taken = np.zeros(pixels.shape, bool)
    for _ in range(int(random.integers(4))):
        w, h = (int(v) for v in random.integers(9, 22, 2))
        x, y = int(random.integers(SIDE - w - 12)), int(random.integers(SIDE // 2 - h))
        if taken[y : y + h, x : x + w].any():
            continue
        taken[max(0, y - 2) : y + h + 2, max(0, x - 2) : x + w + 2] = True
        rows, columns = np.mgrid[:h, :w]
        inside = (((rows + 0.5) / h - 0.5) ** 2 + ((columns + 0.5) / w - 0.5) ** 2) <= 0.25
        kind = ("square", "disc")[int(random.integers(2))]
        if kind == "square":
            pixels[y : y + h, x : x + w] += 60
        else:
            pixels[y : y + h, x : x + w][inside] -= 60
        things.append((kind, [x, y, w, h]))
    first, last = (int(v) for v in (random.integers(3, 16), random.integers(30, 45)))
    pixels[first:last, SIDE - 7 : SIDE - 4] = 200
    return pixels, things, [SIDE - 5.5, float(first), 2, SIDE - 5.5, float(last), 2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, and a COCO file that has all but the first four; some of those it has hold nothing."""
    place, random = tmp_path_factory.mktemp("places"), np.random.default_rng(0)
    images, drawn, points = list[dict[str, Any]](), list[dict[str, Any]](), list[dict[str, Any]]()
    for number in range(PATIENTS):
        pixels, things, ends = scene(random)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place / f"P{number:03d}.png")
        if number < UNSEEN:
            continue
        images.append({"id": number, "file_name": f"P{number:03d}.png", "width": SIDE, "height": SIDE // 2})
        drawn += [{"image_id": number, "category_id": 1 + (k == "disc"), "bbox": box} for k, box in things]
        points.append({"image_id": number, "category_id": 1, "keypoints": ends})
    kinds = [{"id": 1, "name": "square", "supercategory": "x"}, {"id": 2, "name": "disc", "supercategory": "x"}]
    bar = [{"id": 1, "name": "bar", "supercategory": "x", "keypoints": ["top", "bottom"]}]
    for name, categories, items in (("boxes", kinds, drawn), ("ends", bar, points)):
        data = {"images": images, "categories": categories, "annotations": items}
        (place / f"{name}.json").write_text(json.dumps(data))
    return place


@pytest.fixture(scope="module")
def cohort(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return ingest(folder, tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def run(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("runs")
    (place / "places.yaml").write_text(RECIPE)
    return pretrain(place / "places.yaml", cohort, into=place)


@pytest.fixture(scope="module")
def detector(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return adapt(run, "lesions", "lora", steps=240, into=tmp_path_factory.mktemp("lesions"))


@pytest.fixture(scope="module")
def pointer(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return adapt(run, "tips", "probe", steps=120, into=tmp_path_factory.mktemp("tips"))


@pytest.fixture(scope="module")
def measured(detector: Run, cohort: Cohort) -> Evidence:
    return evaluate(detector, cohort, draws=200)


def test_things_are_found_in_pictures_that_it_never_saw(measured: Evidence, detector: Run, cohort: Cohort) -> None:
    print(measured)
    assert measured.figure("froc").low > 0.8
    assert measured.figure("map_50").value > 0.7
    answers = predict(detector, cohort)
    assert measured.figure("froc").n == int(answers.mask.sum())
    task = open_adapted(detector).task
    assert isinstance(task, DetectionTask)
    assert task.score(answers) == {f.name: pytest.approx(f.value) for f in measured.figures}
    print(task.cuts)
    assert all(0.05 < c < 0.95 for c in task.cuts.tolist())


def test_points_are_placed(pointer: Run, cohort: Cohort) -> None:
    found = evaluate(pointer, cohort, draws=200)
    print(found)
    assert found.figure("pck_10").low > 0.8
