"""Boxes and points from end to end: pictures of made-up patients, on which bright squares and dark discs were drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from polyclinic.adaptation import AdaptError, adapt, open_adapted
from polyclinic.clinic import Desk
from polyclinic.cohort import Cohort, LabelError, ingest, labels_of
from polyclinic.harmonise.shapes import overlaps
from polyclinic.inference import answer_cohort, predict, predict_files
from polyclinic.records import RecordError
from polyclinic.tasks import DetectionTask, KeypointsTask
from polyclinic.training import Recipe, Run, pretrain
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


def drawn_on(folder: Path, patient: str) -> list[tuple[str, list[float]]]:
    """The label and x, y, x, y of what was drawn on a picture."""
    data = json.loads((folder / "boxes.json").read_text())
    names = {c["id"]: c["name"] for c in data["categories"]}
    mine = [a for a in data["annotations"] if a["image_id"] == int(patient[1:])]
    corners = lambda x, y, w, h: [float(x), float(y), float(x + w), float(y + h)]
    return [(names[a["category_id"]], corners(*a["bbox"])) for a in mine]


def test_things_are_found_in_pictures_that_it_never_saw(measured: Evidence, detector: Run, cohort: Cohort) -> None:
    assert measured.figure("froc").value > 0.85
    assert measured.figure("map_50").value > 0.6
    answers = predict(detector, cohort)
    assert measured.figure("froc").n == int(answers.mask.sum())
    task = open_adapted(detector).task
    assert isinstance(task, DetectionTask)
    assert task.score(answers) == {f.name: pytest.approx(f.value) for f in measured.figures}
    assert all(0.1 < c < 0.9 for c in task.cuts.tolist()), "chosen by the training pictures, and kept"
    assert "froc" in (detector.path / "card.md").read_text()


def test_who_is_not_annotated_takes_no_part_and_who_has_nothing_is_negative(
    detector: Run, cohort: Cohort, folder: Path
) -> None:
    answers = predict(detector, cohort, patients=[f"P{n:03d}" for n in range(PATIENTS)])
    assert len(answers.patients) == PATIENTS
    for patient, known, records, truth in zip(
        answers.patients, answers.mask, answers.records, answers.targets, strict=True
    ):
        assert known == (int(patient[1:]) >= UNSEEN)
        assert len(records) == int(known)
        assert len(truth) == (len(drawn_on(folder, patient)) if known else 0)
    assert sum(known and not len(t) for known, t in zip(answers.mask, answers.targets, strict=True)) > 3
    assert not {f"P{n:03d}" for n in range(UNSEEN)} & set(detector.adapter["labelled"])


def test_what_is_told_lies_on_the_files_own_pixels(detector: Run, cohort: Cohort, folder: Path, tmp_path: Path) -> None:
    who = list(detector.split.test)
    place = answer_cohort(detector, cohort, patients=who, into=tmp_path / "answers")
    rows = {r["patient"]: r for r in pq.read_table(place / "answers-00000.parquet").to_pylist()}
    hits = things = 0
    for patient in (p for p in who if int(p[1:]) >= UNSEEN):
        told = np.array(rows[patient]["outputs"] or []).reshape(-1, 6)  # class, score, x, y, x, y
        for name, corners in drawn_on(folder, patient):
            mine = told[told[:, 0] == ("square", "disc").index(name)][:, 2:]
            hits += bool(len(mine)) and float(overlaps(mine, np.array([corners])).max()) > 0.4
            things += 1
    assert hits > 0.75 * things
    first = next(p for p in who if rows[p]["outputs"])
    answer = predict_files(detector, [folder / f"{first}.png"])
    assert answer.headline == rows[first]["headline"]
    assert answer.headline.endswith("a person decides")
    assert dict(rows[first]["values"]) == {k: str(v) for k, v in answer.values.items()}
    assert answer.overlay is not None
    assert answer.overlay.shape == (SIDE // 2, SIDE)
    thing = answer.extra["things"][0]
    assert thing.size_mm is None, "a PNG has no scale"
    edge = answer.overlay[int(thing.low[1]), int((thing.low[0] + thing.high[0]) / 2)]
    assert edge == ("square", "disc").index(thing.name) + 1


def test_the_desk_draws_outlines_and_says_how_good_it_is(detector: Run, measured: Evidence, folder: Path) -> None:
    reply = Desk(detector).answer([folder / f"{detector.split.test[0]}.png"])
    assert [(s.name, s.unit, s.number) for s in reply.structures] == [("square", "found", 1), ("disc", "found", 2)]
    assert reply.overlay
    assert "false alarms an image" in reply.uncertainty
    with pytest.raises(RecordError, match="2 images"):
        Desk(detector).answer([folder / f"P00{n}.png" for n in (1, 2)])


def test_points_are_placed(pointer: Run, cohort: Cohort, folder: Path) -> None:
    found = evaluate(pointer, cohort, draws=200)
    assert found.figure("pck_10").value > 0.9
    assert np.isnan(found.figure("mre_mm").value), "a PNG has no scale"
    assert isinstance(open_adapted(pointer).task, KeypointsTask)
    patient = next(p for p in pointer.split.test if int(p[1:]) >= UNSEEN)
    answer = predict_files(pointer, [folder / f"{patient}.png"])
    data = json.loads((folder / "ends.json").read_text())
    ends = next(a["keypoints"] for a in data["annotations"] if a["image_id"] == int(patient[1:]))
    for thing, (x, y) in zip(answer.extra["things"], (ends[:2], ends[3:5]), strict=True):
        assert np.hypot(thing.low[0] - x, thing.low[1] - y) < 4


@pytest.mark.parametrize("method", ["full", "scratch", "prefix"])
def test_every_way_to_learn_learns(run: Run, cohort: Cohort, method: str, tmp_path: Path) -> None:
    adapted = adapt(run, "lesions", method, labels=4, steps=2, into=tmp_path / method)
    assert len(adapted.adapter["labelled"]) == 4
    assert len(predict(adapted, cohort).patients) > 0


def test_what_nobody_drew_is_refused_with_what_there_is(run: Run, cohort: Cohort, tmp_path: Path) -> None:
    for wrong, message in (("sqare", "did you mean 'square'"), ("fracture", "one of disc, square")):
        (tmp_path / "wrong.yaml").write_text(RECIPE.replace("[square, disc]", f"[{wrong}]"))
        recipe = Recipe.load(tmp_path / "wrong.yaml")
        with pytest.raises(LabelError, match=f"no boxes are labelled '{wrong}'") as caught:
            labels_of(cohort.records(), recipe.tasks["lesions"].label("lesions"))  # type: ignore[arg-type]
        assert message in str(caught.value)
    with pytest.raises(AdaptError, match="the method knn for 'lesions', a detection"):
        adapt(run, "lesions", "knn")
