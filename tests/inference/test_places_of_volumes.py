"""Boxes and points of volumes larger than what is read at a time, from masks: in voxels and in mm."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from polyclinic.adaptation import adapt
from polyclinic.cohort import Cohort, Label, ingest
from polyclinic.harmonise import Fingerprint, VolumeStandard
from polyclinic.harmonise.loader import Loader
from polyclinic.inference import predict_files
from polyclinic.schema import Modality
from polyclinic.tasks import Detection
from polyclinic.training import Run, pretrain
from polyclinic.trust import evaluate

SHAPE, STEP, ORIGIN, BOX = (28, 26, 16), (1.0, 1.0, 2.0), (-11.0, -12.0, 5.0), (8, 16, 16)
RECIPE = """
name: cubes
cohort: {split: {by: patient, test: 0.3, seed: 0}}
encoders:
  volume: {kind: vit3d, size: [8, 16, 16], whole: true, spacing_mm: [2, 1, 1], patch: [4, 8, 8], width: 16, depth: 1, heads: 2}
model: {kind: two_tower, width: 16, embedding: 16, fusion: {kind: early, depth: 1, heads: 2}}
tasks:
  cubes:   {kind: detection, modality: volume, source: masks, structure: MASK, classes: [cube], least_mm: 3, channels: 16}
  middles: {kind: keypoints, modality: volume, source: masks, structure: MASK, points: [cube], channels: 16}
stages: [{name: first, steps: 2, batch: 4, lr: 1.0e-3, warmup: 1, objective: {kind: masked, modalities: [volume], ratio: 0.5}}]
precision: fp32
"""
Where = dict[str, tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def where() -> Where:
    """The corners in voxels (x y z) of each case's cube."""
    return {}


@pytest.fixture(scope="module")
def hospital(where: Where, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Volumes in each of which a bright cube lies; a stray voxel of its mask, of 2 mm, is no thing."""
    place, random = tmp_path_factory.mktemp("cubes"), np.random.default_rng(0)
    affine = np.diag([*STEP, 1.0])
    affine[:3, 3] = ORIGIN
    for folder in ("images", "labels"):
        (place / folder).mkdir()
    for number in range(24):
        array, mask = random.normal(0, 1, SHAPE), np.zeros(SHAPE, np.uint8)
        size = random.integers([5, 5, 3], [9, 9, 5])
        low = random.integers(2, np.array(SHAPE) - size)
        inside = tuple(slice(a, a + b) for a, b in zip(low, size, strict=True))
        array[inside] += 6
        mask[inside] = mask[0, 0, 0] = 1
        for folder, data in (("images", array.astype(np.float32)), ("labels", mask)):
            nib.save(nib.Nifti1Image(data, affine), place / folder / f"case_{number:03d}.nii.gz")  # pyright: ignore[reportPrivateImportUsage]
        where[f"case_{number:03d}"] = low, low + size
    return place


@pytest.fixture(scope="module")
def cohort(hospital: Path, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return ingest(hospital, tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def run(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("runs")
    (place / "cubes.yaml").write_text(RECIPE)
    return pretrain(place / "cubes.yaml", cohort, into=place)


def file_of(hospital: Path, cohort: Cohort, patient: str) -> Path:
    (record,) = [r for r in cohort.records() if r.patient == patient and "mask_of" not in r.attributes]
    return hospital / record.uri


def test_training_sees_boxes_with_what_lies_in_them(run: Run, cohort: Cohort) -> None:
    loader, seen = run.loader(cohort, run.split.train, ("cubes",)), 0
    for step in range(20):
        batch = loader.batch(step)
        values = batch.payloads[Modality.VOLUME].values
        assert isinstance(values, torch.Tensor)
        assert values.shape[1:] == (1, *BOX)
        for value, drawn in zip(values, batch.targets["cubes"].values, strict=True):
            assert len(drawn) == 1, "the stray voxel is too small"
            low, high = (drawn[0, 1:4] + 0.5).round().long(), (drawn[0, 4:] + 0.5).round().long()
            inside = value[0][tuple(slice(max(0, int(a)), max(0, int(b))) for a, b in zip(low, high, strict=True))]
            if inside.numel() > 20:
                seen += 1
                assert float(inside.mean()) > float(value.mean())
    assert seen > 10


def test_boxes_in_voxels_and_mm(run: Run, cohort: Cohort, hospital: Path, where: Where, tmp_path: Path) -> None:
    found = adapt(run, "cubes", "full", steps=120, into=tmp_path / "found")
    evidence = evaluate(found, cohort, draws=100)
    assert evidence.figure("froc").value > 0.8
    assert evidence.figure("map_10").value > 0.7
    close = 0
    for patient in found.split.test:
        path = file_of(hospital, cohort, patient)
        things = predict_files(found, [path]).extra["things"]
        low, high = where[path.name.split(".")[0]]
        for thing in things[:1]:
            close += bool(np.abs(np.array(thing.low) - low).max() < 3 and np.abs(np.array(thing.high) - high).max() < 3)
            np.testing.assert_allclose(thing.size_mm, (np.array(thing.high) - thing.low) * STEP, rtol=1e-5)
            # NIfTI's world is RAS, ours LPS; 0 is the first voxel's first corner.
            middle = (np.array(thing.low) + thing.high) / 2 - 0.5
            expected = (middle * STEP + ORIGIN) * np.array([-1, -1, 1])
            np.testing.assert_allclose(thing.centre_mm, expected, atol=1e-3)
    assert close >= len(found.split.test) / 2


def test_middles_in_mm(run: Run, cohort: Cohort, hospital: Path, where: Where, tmp_path: Path) -> None:
    placed = adapt(run, "middles", "full", steps=80, into=tmp_path / "placed")
    evidence = evaluate(placed, cohort, draws=100)
    assert evidence.figure("mre_mm").value < 5
    path = file_of(hospital, cohort, placed.split.test[0])
    (thing,) = predict_files(placed, [path]).extra["things"]
    assert thing.low == thing.high
    assert thing.centre_mm is not None
    assert thing.size_mm is None
    answer = predict_files(placed, [path])
    assert answer.overlay is not None
    assert answer.overlay.shape == SHAPE[::-1]
    assert answer.overlay.any()


def test_boxes_of_real_masks_enclose_them(tiny_cohort: Cohort) -> None:
    spec = Detection.model_validate(
        {
            "classes": ["anterior", "posterior"],
            "modality": "volume",
            "source": "masks",
            "structure": "hippocampus",
            "least_mm": 5,
        }
    )
    mask = Label("masks", "mask", modality=Modality.VOLUME, kind_like="hippocampus")
    records = tiny_cohort.records()
    standard = {Modality.VOLUME: VolumeStandard(size=(40, 56, 40))}
    patients = sorted({r.patient for r in records if r.modality is Modality.VOLUME})
    loader = Loader(records, patients, standard, Fingerprint(), tiny_cohort.load, (spec.label("boxes"), mask))
    (batch,) = loader.each(32)
    assert len(batch.targets["boxes"].values) == len(loader.patients) > 3
    for boxes, labels in zip(batch.targets["boxes"].values, batch.targets["masks"].values, strict=True):
        assert {0.0, 1.0} <= set(boxes[:, 0].tolist())
        for number in (0, 1):
            mine = boxes[boxes[:, 0] == number]
            place = torch.nonzero(labels == number + 1).float()
            inside = ((place[:, None] >= mine[:, 1:4] - 0.5) & (place[:, None] <= mine[:, 4:] + 0.5)).all(-1).any(1)
            assert float(inside.float().mean()) > 0.95  # what is left are parts too small to be a thing
            largest = mine[(mine[:, 4:] - mine[:, 1:4]).prod(1).argmax()]
            assert float((place.amin(0) - largest[1:4]).abs().min()) < 1
