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
from polyclinic.inference.places import outlines, thing_of
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
STEPS = 800
Where = dict[str, tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def where() -> Where:
    """The corners in voxels (x y z) of each case's cube."""
    return {}


@pytest.fixture(scope="module")
def folder(where: Where, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Volumes in each of which a bright cube lies; a stray voxel of its mask, of 2 mm, is no thing."""
    place, random = tmp_path_factory.mktemp("cubes"), np.random.default_rng(0)
    affine = np.diag([*STEP, 1.0])
    affine[:3, 3] = ORIGIN
    for name in ("images", "labels"):
        (place / name).mkdir()
    for number in range(24):
        array, mask = random.normal(0, 1, SHAPE), np.zeros(SHAPE, np.uint8)
        size = random.integers([5, 5, 3], [9, 9, 5])
        low = random.integers(2, np.array(SHAPE) - size)
        inside = tuple(slice(a, a + b) for a, b in zip(low, size, strict=True))
        array[inside] += 6
        mask[inside] = mask[0, 0, 0] = 1
        for name, data in (("images", array.astype(np.float32)), ("labels", mask)):
            nib.save(nib.Nifti1Image(data, affine), place / name / f"case_{number:03d}.nii.gz")  # pyright: ignore[reportPrivateImportUsage]
        where[f"case_{number:03d}"] = low, low + size
    return place


@pytest.fixture(scope="module")
def cohort(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return ingest(folder, tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def run(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("runs")
    (place / "cubes.yaml").write_text(RECIPE)
    return pretrain(place / "cubes.yaml", cohort, into=place)


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


def test_a_box_goes_back_to_voxels_and_mm(folder: Path, cohort: Cohort, run: Run, where: Where) -> None:
    """The box that training asks for is, told of the file, where the cube was put."""
    loader = run.loader(cohort, run.split.test, ("cubes",))
    told = 0
    for batch in loader.each(8, whole=True):
        names = {r.id: r for p in batch.patients for r in loader.by_patient[p][Modality.VOLUME]}
        drawn = batch.targets["cubes"].values
        for name, boxes in zip(batch.payloads[Modality.VOLUME].ids, drawn, strict=True):
            (box,) = boxes.double().numpy()
            thing = thing_of("cube", 0.9, box[1:4], box[4:], loader.payload(names[name]))
            assert thing is not None
            low, high = where[Path(names[name].uri).name.split(".")[0]]
            np.testing.assert_allclose(thing.low, low, atol=1e-3)  # 0 is the first voxel's first corner
            np.testing.assert_allclose(thing.high, high, atol=1e-3)
            assert thing.size_mm is not None
            np.testing.assert_allclose(thing.size_mm, (high - low) * STEP, atol=1e-3)
            # NIfTI's world is RAS, ours LPS.
            middle = (((low + high) / 2 - 0.5) * STEP + ORIGIN) * np.array([-1, -1, 1])
            assert thing.centre_mm is not None
            np.testing.assert_allclose(thing.centre_mm, middle, atol=1e-3)
            overlay = outlines([thing], ("cube",), SHAPE[::-1])
            assert overlay[low[2], low[1], low[0]] == 1
            assert overlay[low[2], low[1] + 1, low[0] + 1] == 0, "the plane's inside stays to be seen"
            told += 1
    assert told == len(run.split.test)


def test_it_learns_to_find_boxes_of_whole_volumes(
    run: Run, cohort: Cohort, folder: Path, where: Where, tmp_path: Path
) -> None:
    found = adapt(run, "cubes", "full", steps=STEPS, into=tmp_path / "found")
    evidence = evaluate(found, cohort, draws=100)
    assert evidence.figure("froc").value > 0.6
    close = 0
    for patient in found.split.test:
        (record,) = [r for r in cohort.records() if r.patient == patient and "mask_of" not in r.attributes]
        low, high = where[Path(record.uri).name.split(".")[0]]
        for thing in predict_files(found, [folder / record.uri]).extra["things"][:1]:
            close += bool(np.abs(np.array(thing.low) - low).max() < 3 and np.abs(np.array(thing.high) - high).max() < 3)
    assert close >= len(found.split.test) / 2


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
