"""Pictures in colours, from files to what is shown of an answer: retinas whose disc has the brightness of its ground and another hue."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from polyclinic.adaptation import adapt
from polyclinic.clinic.views import stack_of
from polyclinic.cohort import Cohort, ingest
from polyclinic.inference import predict_files
from polyclinic.records import load, read
from polyclinic.schema import Modality, Record
from polyclinic.training import Recipe, Run, pretrain
from polyclinic.trust.measures.retrieval import look
from polyclinic.trust.pages.overlays import overlays

GROUND, DISC = (180, 62, 70), (60, 122, 72)
"""Of one luminance, 98: whoever reads grey sees nothing."""
RECIPE = """
name: retinas
cohort: {split: {by: patient, test: 0.25, seed: 0}}
encoders:
  image: {kind: vit, size: 32, patch: 8, channels: 3, width: 16, depth: 1, heads: 2}
model: {kind: two_tower, width: 16, embedding: 16, fusion: {kind: intermediate, depth: 1, heads: 2}}
tasks:
  disc: {kind: segmentation, structure: MASK, classes: [disc], modality: image, channels: 4}
stages: [{name: hide, steps: 2, batch: 4, objective: {kind: masked}}]
precision: fp32
"""


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place, draw = tmp_path_factory.mktemp("eyes"), np.random.default_rng(0)
    (place / "masks").mkdir()
    y, x = np.mgrid[:48, :48]
    for number in range(16):
        row, column = draw.integers(14, 34, 2)
        disc = (y - row) ** 2 + (x - column) ** 2 < 100
        seen = np.where(disc[..., None], DISC, GROUND) + draw.normal(0, 4, (48, 48, 1))
        Image.fromarray(np.clip(seen, 0, 255).astype(np.uint8)).save(place / f"eye{number:02}.png")
        Image.fromarray(disc.astype(np.uint8)).save(place / "masks" / f"eye{number:02}.png")
    return place


@pytest.fixture(scope="module")
def cohort(eyes: Path, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return ingest(eyes, tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def segmenting(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("recipe") / "retinas.yaml"
    path.write_text(RECIPE)
    run = pretrain(Recipe.load(path), cohort, into=tmp_path_factory.mktemp("runs"))
    return adapt(run, "disc", "full", steps=60)


def test_the_catalogue_says_what_is_in_colours(cohort: Cohort) -> None:
    said = {bool(r.attributes["mask"]): r.attributes["channels"] for r in cohort.records()}
    assert said == {False: 3, True: 1}


def test_what_only_hue_tells_apart_is_found(segmenting: Run, cohort: Cohort) -> None:
    found = overlays(segmenting, cohort)
    assert len(found) == 3
    assert np.mean([o.dice[0] for o in found]) > 0.7
    for overlay in found:  # the picture below the lines is grey, and there the disc cannot be seen
        assert overlay.truth is not None
        disc = overlay.truth > 0
        assert abs(float(overlay.picture[disc].mean() - overlay.picture[~disc].mean())) < 0.1


def test_an_answer_to_a_file_lies_on_it_and_is_shown_in_colours(segmenting: Run, eyes: Path) -> None:
    path = eyes / "eye03.png"
    answer = predict_files(segmenting, [path])
    assert answer.overlay is not None
    assert answer.overlay.shape == (48, 48) == answer.extra["image"].shape
    (record,) = (r for r in read(path) if isinstance(r, Record))
    picture = np.asarray(stack_of(record, load(record, eyes), answer.overlay).picture(0)).astype(int)
    disc = np.asarray(Image.open(eyes / "masks/eye03.png")) > 0
    assert (picture[disc][:, 1] > picture[disc][:, 0]).all()
    assert (picture[~disc][:, 1] < picture[~disc][:, 0]).all()


def test_an_example_s_picture_is_its_luminance(cohort: Cohort) -> None:
    record = next(r for r in cohort.records() if r.modality is Modality.IMAGE and not r.attributes["mask"])
    words, picture = look(cohort, record)
    assert words == ""
    assert picture is not None
    assert picture.shape == (48, 48)
    luminance = np.tensordot([0.299, 0.587, 0.114], cohort.load(record).array, 1)  # ITU-R BT.601
    assert np.corrcoef(picture.ravel(), luminance.ravel())[0, 1] > 0.99
