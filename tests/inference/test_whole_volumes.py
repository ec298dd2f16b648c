"""Volumes larger than what is read at a time: boxes in training, a blended answer about the whole, wherever the structure lies."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from polyclinic.adaptation import adapt, open_adapted
from polyclinic.cohort import Cohort, ingest
from polyclinic.inference import answer_cohort, predict, predict_files, predict_masks
from polyclinic.models import Model
from polyclinic.schema import Batch, Modality
from polyclinic.tasks import SegmentationTask
from polyclinic.tasks.boxes import boxed
from polyclinic.tasks.segmentation import dice
from polyclinic.tasks.sliding import sliding
from polyclinic.training import Run, pretrain

SHAPE, BOX, PATIENTS = (26, 44, 38), (16, 16, 16), 14
RECIPE = f"""
name: balls
cohort: {{split: {{by: patient, test: 0.3, seed: 0}}}}
encoders:
  volume: {{kind: vit3d, size: {list(BOX)}, whole: true, spacing_mm: [1, 1, 1], patch: [8, 8, 8], width: 32, depth: 1, heads: 2}}
model: {{kind: unified, width: 32, embedding: 16, fusion: {{kind: intermediate, style: self_attention, depth: 1, heads: 2}}}}
tasks:
  ball: {{kind: segmentation, structure: MASK, classes: [ball], inputs: [volume]}}
stages:
  - {{name: segment, steps: 60, batch: 4, lr: 3.0e-3, objective: {{kind: segmentation, task: ball}}}}
precision: fp32
"""


def volume(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(z y x) noise with a bright ball near one of the corners, and where it is."""
    draw = np.random.default_rng(seed)
    corner = np.array([draw.integers(2) for _ in range(3)])
    centre = np.where(corner, np.array(SHAPE) - 8, 7) + draw.integers(-1, 2, 3)
    z, y, x = np.indices(SHAPE)
    ball = (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 <= 25
    return (draw.normal(size=SHAPE) + 4 * ball).astype(np.float32), ball.astype(np.uint8)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    place = tmp_path_factory.mktemp("in")
    for seed in range(PATIENTS):
        for folder, array in zip(("images", "labels"), volume(seed), strict=True):
            path = place / folder / f"case_{seed:02}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array.transpose(), np.diag([-1.0, -1, 1, 1])), path)  # pyright: ignore[reportPrivateImportUsage]
    return ingest(place, tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def run(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Run:
    recipe = tmp_path_factory.mktemp("recipe") / "balls.yaml"
    recipe.write_text(RECIPE)
    return pretrain(recipe, cohort, into=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def adapted(run: Run, cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return adapt(run, "ball", "full", cohort=cohort, steps=60, into=tmp_path_factory.mktemp("adapted") / "ball")


def test_training_sees_boxes_with_their_masks(run: Run, cohort: Cohort) -> None:
    loader = run.loader(cohort, run.split.train, ("ball",))
    with_ball = boxes = 0
    for step in range(40):
        batch = loader.batch(step)
        values, masks = batch.payloads[Modality.VOLUME].values, batch.targets["ball"].values
        assert isinstance(values, torch.Tensor)
        assert values.shape[1:] == (1, *BOX)
        for value, mask in zip(values, masks, strict=True):
            assert mask.shape == BOX
            boxes += 1
            with_ball += bool(mask.any())
            if int(mask.sum()) > 20:  # the mask was cut where the volume was
                assert float(value[0][mask > 0].mean()) > float(value[0][mask == 0].mean()) + 1
    assert with_ball / boxes > 1 / 3  # at least those drawn about it
    one, other = loader.batch(3), loader.batch(3)
    assert torch.equal(one.payloads[Modality.VOLUME].values, other.payloads[Modality.VOLUME].values)  # type: ignore[arg-type]


def test_else_the_box_in_the_middle_or_the_whole(run: Run, cohort: Cohort) -> None:
    loader = run.loader(cohort, run.split.test, ("ball",))
    middle, whole = (next(loader.each(1, whole=w)) for w in (False, True))
    small, large = (b.payloads[Modality.VOLUME].values[0] for b in (middle, whole))
    assert large.shape == (1, *SHAPE)
    cut = tuple(slice((n - b) // 2, (n - b) // 2 + b) for n, b in zip(SHAPE, BOX, strict=True))
    assert torch.equal(small, large[(slice(None), *cut)])
    assert torch.equal(middle.targets["ball"].values[0], whole.targets["ball"].values[0][cut])
    assert int(whole.targets["ball"].values[0].sum()) > 400


def test_one_patient_s_masks_are_held_at_a_time(
    adapted: Run, cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole volume may be as large as memory allows: several at once may not."""
    together, masks = list[int](), SegmentationTask.masks

    def watched(task: SegmentationTask, model: Model, batch: Batch) -> list[torch.Tensor]:
        together.append(len(batch.patients))
        return masks(task, model, batch)

    monkeypatch.setattr(SegmentationTask, "masks", watched)
    seen = list[tuple[str, tuple[int, ...]]]()
    found = predict(adapted, cohort, look=lambda who, mask, truth, _: seen.append((who, mask.shape)))
    assert seen == [(p, SHAPE) for p in found.patients]
    answer_cohort(adapted, cohort, patients=found.patients, into=tmp_path)
    assert together == [1] * (2 * len(found.patients))


def test_the_ball_is_found_wherever_it_is(adapted: Run, cohort: Cohort) -> None:
    found = predict(adapted, cohort)
    assert len(found.patients) >= 4
    assert float(np.nanmean(found.outputs)) > 0.7  # of the middle alone it could not be a tenth
    for answer in predict_masks(adapted, cohort, patients=found.patients):
        assert answer.on_source.shape == SHAPE
        assert answer.truth is not None
        assert answer.truth.shape == SHAPE


def test_files_and_cohorts_are_answered_alike(adapted: Run, cohort: Cohort, tmp_path: Path) -> None:
    patient = adapted.split.test[0]
    (mask,) = predict_masks(adapted, cohort, patients=[patient])
    file = cohort._roots[mask.record.id] / mask.record.uri
    overlay = predict_files(adapted, [file]).overlay
    assert overlay is not None
    assert np.array_equal(overlay, mask.on_source)
    place = answer_cohort(adapted, cohort, patients=[patient], into=tmp_path / "answers")
    (row,) = pq.read_table(place / "answers-00000.parquet").to_pylist()
    assert float(dict(row["values"])["ball_ml"]) == pytest.approx(int((mask.on_source == 1).sum()) / 1000, abs=1e-3)


def test_two_patients_together_are_each_alone(adapted: Run, cohort: Cohort) -> None:
    opened, every = open_adapted(adapted), adapted.loader(cohort, adapted.split.test, ("ball",))
    assert isinstance(opened.task, SegmentationTask)
    with torch.no_grad():
        together = opened.task.masks(opened.model, next(every.each(2, whole=True)))
        alone = [opened.task.masks(opened.model, b)[0] for b in list(every.each(1, whole=True))[:2]]
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))


def test_a_bundle_blends_boxes_as_we_do(adapted: Run, cohort: Cohort, tmp_path: Path) -> None:
    """By `monai.bundle` itself: the mask of a volume larger than a box; and the logits beside those of MONAI's own inferer."""
    from monai.inferers.inferer import SlidingWindowInferer

    from polyclinic.inference.bundle import Reading, blending
    from polyclinic.inference.export import export

    place = export(adapted, "monai", into=tmp_path / "bundle").path
    (true,) = predict_masks(adapted, cohort, patients=[adapted.split.test[0]])
    scan = shutil.copy(cohort._roots[true.record.id] / true.record.uri, tmp_path / "scan.nii.gz")
    code = "import sys; from monai.bundle import run; run(config_file=sys.argv[1], bundle_root=sys.argv[2], files=[sys.argv[3]])"
    words = [sys.executable, "-c", code, place / "configs/inference.json", place, scan]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    image: Any = nib.load(place / "eval/scan_mask.nii.gz")  # pyright: ignore[reportPrivateImportUsage]
    assert image.shape == SHAPE[::-1]
    assert np.array_equal(np.asarray(image.dataobj).transpose(), true.on_source)

    config = json.loads((place / "configs/inference.json").read_text())["inferer"]
    assert config == {"_target_": "polyclinic.inference.bundle.blending", "roi_size": list(BOX), "overlap": 0.25}
    network, opened = torch.export.load(place / "models/model.pt2").module(), open_adapted(adapted)
    assert isinstance(opened.task, SegmentationTask)
    values = torch.from_numpy(Reading(place)(scan)[1].array)[None]
    spacing, batch = torch.ones(1, 3), next(adapted.loader(cohort, (adapted.split.test[0],)).each(1, whole=True))
    ragged = batch.payloads[Modality.VOLUME]
    assert torch.equal(values[0], ragged.values[0])
    with torch.no_grad():
        model, decoder = opened.model, opened.task.decoder
        seen = lambda boxes: boxed(batch, ragged, Modality.VOLUME, boxes)
        ours = sliding(lambda boxes: decoder(model(seen(boxes)).tokens, boxes), ragged.values[0], BOX)
        mask = opened.task._whole(opened.model, batch, ragged, BOX)
        theirs = blending(BOX)(values, network, spacing)
        monais = SlidingWindowInferer(BOX, 1, 0.25, "gaussian", 0.125)(values, network, spacing)
    assert theirs.shape == (1, 2, *SHAPE)
    assert float((theirs[0] - ours).abs().max()) < 1e-3
    assert torch.equal(mask, ours.argmax(0))
    assert float((monais[0] - ours).abs().max()) > 1e-3  # why the configuration does not name it
    assert dice(monais[0].argmax(0).numpy(), ours.argmax(0).numpy(), 2)[0] > 0.9  # it is no other answer either


def test_a_bundle_of_a_classification_reads_the_box_in_the_middle(tmp_path: Path) -> None:
    from polyclinic.inference.bundle import middle

    array = np.arange(5 * 6 * 8.0).reshape(1, 5, 6, 8)
    assert np.array_equal(middle(array, (3, 6, 3)), array[:, 1:4, :, 2:5])
