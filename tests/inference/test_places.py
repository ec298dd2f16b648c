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
from polyclinic.inference import answer_cohort, export, predict, predict_files
from polyclinic.records import RecordError
from polyclinic.schema import Modality
from polyclinic.tasks import DetectionTask, KeypointsTask
from polyclinic.training import Recipe, Run, pretrain
from polyclinic.trust import Cell, Evidence, compare, continual, evaluate, gather, label_curve, write_report
from polyclinic.trust.comparisons.simple import baseline
from polyclinic.trust.pages.placed import placed_pictures

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


def test_the_report_shows_what_was_drawn_beside_what_was_told(
    detector: Run, pointer: Run, measured: Evidence, cohort: Cohort, folder: Path, tmp_path: Path
) -> None:
    shown = placed_pictures(detector, cohort)
    assert [p.rank for p in shown] == ["best", "middle", "worst"]
    for one in shown:
        with Image.open(folder / f"{one.patient}.png") as picture:
            grey = np.asarray(picture, float)
        low, high = np.percentile(grey, [1, 99])
        np.testing.assert_allclose(one.picture, np.clip((grey - low) / (high - low), 0, 1), atol=1e-6)
        drawn = [(("square", "disc").index(name) + 1, *corners) for name, corners in drawn_on(folder, one.patient)]
        np.testing.assert_allclose(sorted((m.label, *m.low, *m.high) for m in one.drawn), sorted(drawn), atol=1e-3)
        assert one.found + one.missed == len(drawn)
        told = predict_files(detector, [folder / f"{one.patient}.png"]).extra["things"]
        np.testing.assert_allclose([(m.low, m.high) for m in one.told], [(t.low, t.high) for t in told], atol=1e-3)
    assert shown[0].missed <= shown[-1].missed or shown[-1].alarms
    path = folder / f"{shown[0].patient}.png"
    moved = path.rename(tmp_path / path.name)
    left = placed_pictures(detector, cohort)  # the run has harmonised it, but there is nothing to show
    moved.rename(path)
    assert [p.rank for p in left] == ["best", "middle", "worst"]
    assert left[0].patient != shown[0].patient
    assert (left[-1].patient, left[-1].of) == (shown[-1].patient, shown[-1].of)
    points = placed_pictures(pointer, cohort)
    assert points[0].apart < points[-1].apart
    assert {p.unit for p in points} == {"px"}
    inputs = gather(detector, cohort, evidence=[measured], placed=[detector, pointer])
    page = write_report(tmp_path / "report.html", inputs).read_text()
    assert page.count("<figcaption><strong>The worst:") == 2
    assert "Free-response curve" in page
    assert Evidence.open(detector.path).curves == measured.curves


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


IMAGE = (Modality.IMAGE,)


def test_they_are_compared_with_where_things_usually_are(run: Run, cohort: Cohort, tmp_path: Path) -> None:
    cells = [Cell("lesions", IMAGE, None), Cell("tips", IMAGE, 8)]
    found = compare(run, cohort, cells=cells, arms=("probe", "baseline", "null"), steps=2, draws=100)
    assert not found.skipped
    rows = {(r.task, r.arm): r for r in found.rows}
    assert set(rows) == {(t, a) for t in ("lesions", "tips") for a in ("probe", "baseline")}
    assert {r.figure.name for r in found.rows} == {"froc", "pck_10"}
    for task in ("lesions", "tips"):
        assert rows[task, "probe"].figure.n == rows[task, "baseline"].figure.n > 20
        over = rows[task, "probe"].over_baseline
        assert over is not None
        assert over.value == pytest.approx(rows[task, "probe"].figure.value - rows[task, "baseline"].figure.value)
    assert rows["tips", "baseline"].figure.value > rows["lesions", "baseline"].figure.value + 0.2, (
        "bars stand in one place"
    )


def test_a_prior_says_the_training_pictures_places_of_every_one(run: Run, cohort: Cohort, folder: Path) -> None:
    """Each picture is 96 by 48 pixels on a grid of 64, of which it fills a half: in mm of a nominal pixel all are alike."""
    train = tuple(p for p in run.split.train if int(p[1:]) >= UNSEEN)
    test = tuple(p for p in run.split.test if int(p[1:]) >= UNSEEN)
    told = baseline(run, cohort, Cell("lesions", IMAGE, None), train, test)
    first = told.outputs[0]
    assert all(np.allclose(rows, first) for rows in told.outputs)
    assert (np.diff(first[:, 2]) <= 0).all()
    share = np.mean([any(k == "square" for k, _ in drawn_on(folder, p)) for p in train])
    assert 0 < first[first[:, 1] == 0][:, 2].max() <= share, "no box is more frequent than its class"
    points = baseline(run, cohort, Cell("tips", IMAGE, None), train, test)
    assert points.outputs[0].shape == (1, 2)
    assert np.concatenate(list(points.outputs)).mean() > 0


def test_the_curve_of_labels_and_sequences_of_tasks_take_them(run: Run, cohort: Cohort, tmp_path: Path) -> None:
    told = {"cohort": cohort, "steps": 2, "draws": 50}
    found = label_curve(
        run, "lesions", [8, 16], "probe", baselines=("scratch", "plain"), seeds=(0, 1), into=tmp_path / "curve", **told
    )
    assert not found.skipped
    assert {(p.arm, p.labels) for p in found.points} == {
        (a, n) for a in ("pretrained", "scratch", "plain") for n in (8, 16)
    }
    again = label_curve(
        run, "lesions", [8, 16], "probe", baselines=("scratch", "plain"), seeds=(0, 1), into=tmp_path / "curve", **told
    )
    assert again == found, "from the answers that were kept"
    taught = continual(run, ["lesions", "tips"], "full", seeds=(0,), protect=("none",), into=tmp_path / "both", **told)
    assert taught.tasks == ("lesions", "tips")


def _asked(run: Run, cohort: Cohort, patient: str) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """A picture as the network reads it, its spacing, and what we find in it."""
    adapted = open_adapted(run)
    batch = next(iter(adapted.run.loader(cohort, (patient,)).each(1)))
    ragged = batch.payloads[Modality.IMAGE]
    spacing = np.full((1, 2), np.nan, np.float32) if ragged.spacing is None else ragged.spacing.numpy()
    assert not isinstance(ragged.values, list)
    return ragged.values.numpy(), spacing, adapted.task.found(adapted.model, batch)  # type: ignore[operator]


def test_an_export_s_cells_are_read_by_the_rule_beside_it(
    detector: Run, pointer: Run, cohort: Cohort, tmp_path: Path
) -> None:
    """By numpy alone, from what the JSON beside it says."""
    onnxruntime = pytest.importorskip("onnxruntime")
    patient = next(p for p in detector.split.test if int(p[1:]) >= UNSEEN)
    sigmoid = lambda v: 1 / (1 + np.exp(-v))
    for run in (detector, pointer):
        made = export(run, "onnx", into=tmp_path / f"{run.adapter['task']}.onnx")
        assert made.difference < 1e-3
        rule = json.loads(made.path.with_suffix(".json").read_text())["reading"]
        values, spacing, (ours,) = _asked(run, cohort, patient)
        (told,) = onnxruntime.InferenceSession(made.path).run(None, {"image": values, "spacing": spacing})
        cells, at, stride = told[0], np.array(rule["first_cell_at"]), np.array(rule["stride"])
        if run is pointer:
            for n in range(2):
                y, x = np.unravel_index(cells[n].argmax(), cells[n].shape)
                place = (np.array([y, x]) + cells[2 + 2 * n : 4 + 2 * n, y, x]) * stride + at
                np.testing.assert_allclose(ours[n], [sigmoid(cells[n, y, x]), *place], atol=1e-3)
            continue
        kind, y, x = np.unravel_index(cells[:2].argmax(), cells[:2].shape)
        middle = np.array([y, x]) + cells[2:4, y, x]
        half = np.exp(cells[4:6, y, x]) / 2
        corners = [*((middle - half) * stride + at), *((middle + half) * stride + at)]
        np.testing.assert_allclose(ours[0], [kind, sigmoid(cells[kind, y, x]), *corners], atol=1e-3)
        assert rule["told_from"] == open_adapted(run).task.cuts.tolist()  # type: ignore[union-attr]


def test_boxes_leave_as_a_program_and_as_weights_and_not_as_a_bundle(detector: Run, tmp_path: Path) -> None:
    assert export(detector, "pt2", into=tmp_path / "net.pt2").difference < 1e-3
    assert export(detector, "safetensors", into=tmp_path / "net.safetensors").difference == 0
    with pytest.raises(AdaptError, match="a MONAI bundle of a detection"):
        export(detector, "monai", into=tmp_path / "bundle")
