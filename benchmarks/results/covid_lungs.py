"""The lungs on frontal chest radiographs, pieces of `covid.py`: their masks, and boxes and points taken from those.

The public masks have two parts each, one a lung; on a frontal view the one on the picture's left is the patient's right. A lung's
box is the least that holds its part, its apex and its base are the highest and the lowest pixel (of a row of several the middle one).
They are written as COCO JSON, and read as what people drew.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import polyclinic as pc
from polyclinic.adaptation import Adapted, adapt, open_adapted
from polyclinic.cohort import Cohort, ingest
from polyclinic.inference import predict
from polyclinic.schema import Modality
from polyclinic.tasks import Predictions
from polyclinic.tasks.segmentation import dice
from polyclinic.training import Recipe
from polyclinic.trust.comparisons.baselines import atlas
from polyclinic.trust.measures.surfaces import apart

SIDES = ("right lung", "left lung")
POINTS = ("right apex", "right base", "left apex", "left base")
SEED = 2
"""Of the folds; on those of others the settings were tried out, and these are not quoted."""
SCRATCH = {"kind": "scratch", "lr": 4e-3}


def parts_of(mask: np.ndarray) -> list[np.ndarray]:
    """The patient's right lung and the left one (y x) bool: the two largest parts of a mask, the picture's left one first."""
    from scipy.ndimage import label

    numbers, count = label(mask, np.ones((3, 3)))  # pyright: ignore[reportGeneralTypeIssues]
    if count < 2:
        raise ValueError(f"a mask of {count} part(s), two lungs expected")
    sizes = np.bincount(numbers.ravel())[1:]
    two = [numbers == 1 + n for n in np.argsort(-sizes, kind="stable")[:2]]
    return sorted(two, key=lambda part: float(np.nonzero(part)[1].mean()))


def box_of(part: np.ndarray) -> list[int]:
    """x, y, width and height in pixels, as COCO has them."""
    rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
    return [int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]


def ends_of(part: np.ndarray) -> list[float]:
    """x, y and COCO's visibility of the apex, then of the base; a pixel's centre is at a half."""
    rows, found = np.flatnonzero(part.any(1)), list[float]()
    for row in (rows[0], rows[-1]):
        found += [float(np.median(np.flatnonzero(part[row]))) + 0.5, float(row) + 0.5, 2]
    return found


def drawn(source: Path, cohort: Cohort, where: str, out: Path) -> Cohort:
    """A cohort of the masked pictures, each with its lungs' boxes and ends as COCO JSON beside it."""
    folder, catalogue = out / "lungs", out / "lungs-cohort"
    if (catalogue / "cohort.json").exists():
        return Cohort.open(catalogue)
    records = cohort.records(where)
    images = {r.id: r for r in records if r.kind == "image"}
    (folder / "images").mkdir(parents=True, exist_ok=True)
    pictures, boxes, points, people = (list[Any]() for _ in range(4))
    for number, mask in enumerate(sorted((r for r in records if r.kind == "MASK image"), key=lambda r: r.uri), start=1):
        image = images[str(mask.attributes["mask_of"])]
        place, lungs = folder / image.uri, parts_of(cohort.load(mask).array[0] > 0)
        if not place.exists():
            shutil.copyfile(source / image.uri, place)
        tall, wide = lungs[0].shape
        pictures.append({"id": number, "file_name": place.name, "height": tall, "width": wide})
        boxes += [{"image_id": number, "category_id": 1 + n, "bbox": box_of(part)} for n, part in enumerate(lungs)]
        points.append({"image_id": number, "category_id": 1, "keypoints": [v for part in lungs for v in ends_of(part)]})
        people.append(f"{image.patient},{place.name}")
    kinds = [{"id": 1 + n, "name": name, "supercategory": "lung"} for n, name in enumerate(SIDES)]
    chest = [{"id": 1, "name": "lungs", "supercategory": "chest", "keypoints": list(POINTS)}]
    for name, categories, items in (("boxes", kinds, boxes), ("ends", chest, points)):
        told = {"images": pictures, "categories": categories, "annotations": items}
        (folder / "images" / f"{name}.json").write_text(json.dumps(told))
    (folder / "people.csv").write_text("\n".join(["patientid,filename", *people, ""]))
    return ingest(folder, catalogue)


def masks_recipe(where: str, turn: int, folds: int, small: bool) -> Recipe:
    """A U-Net at full resolution, into whose lowest level the tokens of a small transformer enter."""
    task = {"kind": "segmentation", "structure": "image", "modality": "image", "classes": ["lung"], "full": True}
    return _recipe(f"lungs-{turn}", where, turn, folds, small, 128, {
        "lungs": task | {"channels": 4 if small else 16, "batch": 4, "augment": {"gain": 0.3, "offset": 0.3, "stretch": 0.1}},
    })  # fmt: skip


def placed_recipe(turn: int, folds: int, small: bool) -> Recipe:
    """The same transformer, beside the dense heads of boxes and of points."""
    return _recipe(f"placed-{turn}", None, turn, folds, small, 64, {
        "boxes": {"kind": "detection", "classes": list(SIDES)},
        "points": {"kind": "keypoints", "points": list(POINTS)},
    })  # fmt: skip


def _recipe(
    name: str, where: str | None, turn: int, folds: int, small: bool, side: int, tasks: dict[str, Any]
) -> Recipe:
    """A small transformer on pictures of so many pixels a side, in 8 × 8 patches; it is not pretrained."""
    width, depth = (16, 1) if small else (64, 2)
    size = {"size": 64 if small else side, "patch": 8 if small else side // 8}
    fusion = {"kind": "intermediate", "depth": 1, "heads": 2}
    return Recipe.model_validate(
        {
            "name": name,
            "cohort": {"where": where, "split": {"folds": folds, "turn": turn, "seed": SEED}},
            "encoders": {"image": {"kind": "vit", "width": width, "depth": depth, "heads": 2, **size}},
            "model": {"kind": "unified", "width": width, "embedding": width, "fusion": fusion},
            "tasks": tasks,
            "stages": [{
                "name": "none", "steps": 1, "batch": 8, "lr": 1e-30, "warmup": 0, "objective": {"kind": "masked", "ratio": 0.5},
            }],
            "precision": "bf16",
        }
    )  # fmt: skip


def masked(run: pc.Run, cohort: Cohort, steps: int) -> Predictions:
    """Dice, surface Dice, HD95 and the share missed of each test patient's lungs, by a network from scratch."""
    adapted = adapt(run, "lungs", SCRATCH, cohort=cohort, steps=steps, into=run.path / "adapted/lungs")
    return _near(open_adapted(adapted), cohort)


def atlas_of(run: pc.Run, cohort: Cohort) -> Predictions:
    """Dice of the mean of the training masks."""
    loader = run.loader(cohort, (*run.split.train, *run.split.test), ("lungs",))
    return atlas(loader, "lungs", run.split.train, run.split.test, 1, Modality.IMAGE).labelled()


def _near(adapted: Adapted, cohort: Cohort) -> Predictions:
    """(p 4) Dice, surface Dice within 1% of the picture's side, HD95 in % of it, the share missed; of several pictures the mean."""
    rows: dict[str, list[np.ndarray]] = {}

    def look(patient: str, mask: np.ndarray, truth: np.ndarray, _: Sequence[float]) -> None:
        surface, far, _, missed = apart(mask, truth, 1, [100 / n for n in truth.shape])[0]  # a JPEG says no mm
        rows.setdefault(patient, []).append(np.array([dice(mask, truth, 2)[0], surface, far, missed]))

    predict(adapted, cohort, look=look)
    means = np.array([np.nanmean(mine, axis=0) for mine in rows.values()])
    return Predictions("lungs", tuple(rows), means, np.zeros_like(means), np.ones(len(rows), dtype=bool))


def placed(run: pc.Run, cohort: Cohort, task: str, steps: int) -> Predictions:
    """What is found in each test patient's pictures, beside what was drawn."""
    adapted = adapt(run, task, SCRATCH, cohort=cohort, steps=steps, into=run.path / f"adapted/{task}")
    return predict(adapted, cohort).labelled()


def mean_boxes(run: pc.Run, cohort: Cohort) -> Predictions:
    """The floor: on each test picture the mean box of each lung over the training pictures, as surely everywhere."""
    loader = run.loader(cohort, (*run.split.train, *run.split.test), ("boxes",))
    side = {p: [] for p in loader.patients}
    for batch in loader.each(16, loader.patients, (Modality.IMAGE,)):
        target, ragged = batch.targets["boxes"], batch.payloads[Modality.IMAGE]
        for row, owner in enumerate(ragged.patient.tolist()):
            side[batch.patients[owner]].append(target.values[row].numpy())
    train = np.concatenate([b for p in run.split.train for b in side.get(p, [])])
    mean = np.array([train[train[:, 0] == k].mean(0) for k in range(len(SIDES))])
    said = np.insert(mean, 1, 1.0, axis=1)
    numbered = lambda image, rows: np.insert(rows, 0, image, axis=1)
    whole = lambda of: _rows(
        [np.concatenate([numbered(i, of(b)) for i, b in enumerate(side[p])]) for p in run.split.test]
    )
    outputs, targets = whole(lambda _: said), whole(lambda boxes: boxes)
    ids = tuple(tuple(str(i) for i in range(len(side[p]))) for p in run.split.test)
    return Predictions("boxes", run.split.test, outputs, targets, np.ones(len(ids), dtype=bool), (), ids)


def kept_places(place: Path, make: Callable[[], Predictions]) -> Predictions:
    """Answers of any number a patient from a file, or made and written there."""
    if not place.exists():
        made = make()
        place.parent.mkdir(parents=True, exist_ok=True)
        rows = {n: [np.asarray(one).tolist() for one in getattr(made, n)] for n in ("outputs", "targets")}
        place.with_suffix(".part").write_text(json.dumps({"patients": made.patients, "records": made.records, **rows}))
        place.with_suffix(".part").rename(place)
    rows = json.loads(place.read_text())
    ids = tuple(tuple(each) for each in rows["records"])
    outputs, targets = (_rows(rows[name]) for name in ("outputs", "targets"))
    return Predictions("placed", tuple(rows["patients"]), outputs, targets, np.ones(len(ids), dtype=bool), (), ids)


def _rows(each: Sequence[Any]) -> np.ndarray:
    """(p,) of arrays, which may be as long as each other."""
    out, width = np.empty(len(each), object), max((len(one[0]) for one in each if len(one)), default=0)
    for number, one in enumerate(each):
        out[number] = np.reshape(np.array(one, dtype=float), (len(one), width))
    return out


def joined(folds: Sequence[Predictions]) -> Predictions:
    """The answers of several folds, whose patients are different ones."""
    names = tuple(p for one in folds for p in one.patients)
    outputs, targets, mask = (
        np.concatenate([getattr(one, n) for one in folds]) for n in ("outputs", "targets", "mask")
    )
    return Predictions(folds[0].task, names, outputs, targets, mask, (), tuple(i for one in folds for i in one.records))
