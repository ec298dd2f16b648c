"""What a run makes is written so that nobody takes it for a patient's: names, headers, the picture, the manifest, and our own readers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

import made
from polyclinic.adaptation.plan import AdaptError
from polyclinic.cohort import Cohort, EmptyCohortError, ingest
from polyclinic.inference import synthesise
from polyclinic.inference.synthesis import Maker, makes, templates, there
from polyclinic.records import RecordError
from polyclinic.training import Recipe, Run, pretrain

IMAGES = """
name: pictures
cohort: {where: "modality in ('image', 'text')", split: {by: patient, test: 0.2, seed: 0}}
encoders:
  image: {kind: vit, size: 32, patch: 16, width: 16, depth: 1, heads: 2}
  text: {kind: bert, words: 16, vocabulary: 128, width: 16, depth: 1, heads: 2}
model: {kind: two_tower, width: 16, embedding: 16, fusion: {kind: late}}
stages:
  - name: draw
    steps: 4
    batch: 4
    warmup: 1
    objective: {kind: latent_diffusion, target: image, channels: 4, width: 16, depth: 1, heads: 2}
precision: fp32
"""


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("in")
    made.write_heads(place, 12)
    return place


@pytest.fixture(scope="module")
def cohort(heads: Path, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return ingest(heads, tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def run(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Run:
    recipe = tmp_path_factory.mktemp("recipe") / "heads.yaml"
    recipe.write_text(made.RECIPE.replace("steps: 40", "steps: 6"))
    return pretrain(recipe, cohort, into=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def pictures(tiny_cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Run:
    recipe = tmp_path_factory.mktemp("recipe") / "pictures.yaml"
    recipe.write_text(IMAGES)
    return pretrain(recipe, tiny_cohort, into=tmp_path_factory.mktemp("runs"))


def array(path: Path) -> np.ndarray:
    image: Any = nib.load(path)  # pyright: ignore[reportPrivateImportUsage]
    return np.asarray(image.dataobj)


def manifest(place: Path) -> dict[str, Any]:
    return json.loads((place / "manifest.json").read_text())


def test_volumes_say_what_they_are_and_are_refused_by_our_own_readers(run: Run, cohort: Cohort, tmp_path: Path) -> None:
    place = synthesise(run, 3, cohort=cohort, by="latent_diffusion", steps=4, into=tmp_path / "out")
    told = manifest(place)
    assert told["synthetic"] is True
    assert "SYNTHETIC" in told["notice"]
    assert (told["made_by"], told["what"], told["steps"], told["seed"]) == ("latent_diffusion", "volume", 4, 0)
    assert told["lineage"]["split"] == run.split.hash
    assert [r["file"] for r in told["records"]] == [f"synthetic-0000{n}.nii.gz" for n in (1, 2, 3)]
    assert all(r["shown"] == {"patient": None, "side": None, "records": [], "modalities": []} for r in told["records"])
    assert all(r["unit"] == "HU" and r["spacing_mm"] == [2, 2, 2] for r in told["records"])
    assert {p.name for p in place.iterdir()} == {"manifest.json", *(r["file"] for r in told["records"])}
    image: Any = nib.load(place / "synthetic-00001.nii.gz")  # pyright: ignore[reportPrivateImportUsage]
    assert b"SYNTHETIC" in image.header["descrip"].tobytes()
    assert image.shape == (made.SIDE,) * 3
    middle = image.affine @ np.array([*(np.array(image.shape) - 1) / 2, 1])
    assert np.allclose(middle[:3], 0)  # in nobody's frame
    assert len({r["hash"] for r in told["records"]}) == 3
    with pytest.raises(EmptyCohortError, match="a model made"):
        ingest(place, tmp_path / "again")
    with pytest.raises(RecordError, match="a model made"):
        synthesise(
            run, cohort=cohort, by="translation", files=[place / "synthetic-00001.nii.gz"], into=tmp_path / "more"
        )


def test_the_same_seed_gives_the_same_and_another_another(run: Run, cohort: Cohort, tmp_path: Path) -> None:
    def second(seed: int, name: str) -> np.ndarray:
        place = synthesise(run, 2, cohort=cohort, by="latent_diffusion", steps=3, seed=seed, into=tmp_path / name)
        return array(place / "synthetic-00002.nii.gz")

    one, same, other = second(0, "a"), second(0, "b"), second(1, "c")
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_translation_lies_in_its_patients_frame(run: Run, cohort: Cohort, heads: Path, tmp_path: Path) -> None:
    who = run.split.test[0]
    place = synthesise(run, cohort=cohort, by="translation", patients=[who], into=tmp_path / "out")
    (row,) = manifest(place)["records"]
    mr = next(
        r for r in cohort.records() if r.patient == who and r.kind.startswith("MR") and not r.attributes.get("mask")
    )
    assert row["shown"] == {"patient": who, "side": "test", "records": [mr.id], "modalities": ["volume"]}
    found: Any = nib.load(place / row["file"])  # pyright: ignore[reportPrivateImportUsage]
    source: Any = nib.load(next(heads.glob(f"{who}/mr/**/*.nii.gz")))  # pyright: ignore[reportPrivateImportUsage]
    assert np.allclose(found.affine, source.affine)  # the harmonised grid is the source's own here
    maker = Maker.of(run, "translation")
    loader = run.loader(cohort, (who,))
    batch = loader.of([who])
    at = maker.spec.wanted(batch)
    assert at is not None
    wanted = maker.make(batch, at, 1, 1.0, torch.Generator())
    hu = np.asarray(found.dataobj).transpose()
    assert np.abs(hu - 500 * wanted[0][0].numpy()).max() <= 1  # HU / 500 is what was harmonised


def test_files_are_shown_instead_of_patients(run: Run, cohort: Cohort, heads: Path, tmp_path: Path) -> None:
    file = heads / "case_03/mr/images/mr.nii.gz"
    place = synthesise(run, cohort=cohort, by="translation", files=[file], into=tmp_path / "files")
    (row,) = manifest(place)["records"]
    assert (row["shown"]["patient"], row["shown"]["side"]) == ("patient", "new")
    by_name = synthesise(run, cohort=cohort, by="translation", patients=["case_03"], into=tmp_path / "names")
    one, other = (array(folder / "synthetic-00001.nii.gz") for folder in (place, by_name))
    assert np.abs(one - other).max() <= 1
    (tmp_path / "note.txt").write_text("A note, which this run does not read.")
    with pytest.raises(RecordError, match="files of text"):
        synthesise(run, cohort=cohort, by="translation", files=[tmp_path / "note.txt"], into=tmp_path / "none")


def test_what_is_asked_for_is_never_shown(run: Run, cohort: Cohort) -> None:
    maker = Maker.of(run, "translation")
    loader = run.loader(cohort, run.split.test)
    assert there(maker, loader, run.split.test) == [p for p in run.split.test if p in loader.by_patient]
    ct_only = {
        p: {m: [r for r in rs if r.kind.startswith("CT")] for m, rs in own.items()}
        for p, own in loader.by_patient.items()
    }
    loader.by_patient = ct_only
    assert there(maker, loader, run.split.test) == []
    models = templates(maker, cohort, 0, 3)
    assert len(models) == 3
    assert all(t.record.kind.startswith("CT") and t.record.patient in run.split.train for t in models)


def test_pictures_have_a_strip_below_them(pictures: Run, tiny_cohort: Cohort, tmp_path: Path) -> None:
    place = synthesise(pictures, 2, cohort=tiny_cohort, steps=3, into=tmp_path / "out")
    for row in manifest(place)["records"]:
        image = Image.open(place / row["file"])
        assert "SYNTHETIC" in image.info
        pixels = np.asarray(image)
        assert row["picture"] == [32, 32]
        assert pixels.shape[0] > 32
        assert (pixels[32:] > 0).sum() > 50  # words
        assert (pixels[:32, 32:] == 0).all()
    with pytest.raises(EmptyCohortError, match="a model made"):
        ingest(place, tmp_path / "again")
    text = tiny_cohort.records("modality = 'text'")[0].patient
    shown = synthesise(
        pictures, 3, cohort=tiny_cohort, patients=[text], steps=3, into=place
    )  # the former one is replaced
    rows = manifest(shown)["records"]
    assert len(rows) == 3
    assert {r["shown"]["patient"] for r in rows} == {text}
    assert all(r["shown"]["modalities"] == ["text"] for r in rows)
    assert {p.name for p in shown.iterdir()} == {"manifest.json", *(r["file"] for r in rows)}


def test_what_cannot_be_is_refused(
    run: Run, pictures: Run, tiny_run: Run, cohort: Cohort, tiny_cohort: Cohort, tmp_path: Path
) -> None:
    assert makes(tiny_run) == {}
    assert set(makes(run)) == {"translation", "latent_diffusion"}
    for what, words in (
        (lambda: synthesise(tiny_run, into=tmp_path / "x"), "did not learn"),
        (lambda: synthesise(run, cohort=cohort, into=tmp_path / "x"), "learned .* and .*"),
        (
            lambda: synthesise(pictures, by="translation", cohort=tiny_cohort, into=tmp_path / "x"),
            "did not learn translation",
        ),
        (
            lambda: synthesise(run, by="translation", patients=["nobody"], cohort=cohort, into=tmp_path / "x"),
            "1 patients of whom nothing",
        ),
        (lambda: synthesise(run, 0, by="latent_diffusion", cohort=cohort, into=tmp_path / "x"), "0 records"),
        (
            lambda: synthesise(run, by="translation", patients=["a"], files=["b"], cohort=cohort, into=tmp_path / "x"),
            "patients and files",
        ),
    ):
        with pytest.raises(AdaptError, match=words):
            what()
    assert not (tmp_path / "x").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("four years")
    with pytest.raises(AdaptError, match="other files"):
        synthesise(run, 1, by="latent_diffusion", cohort=cohort, steps=2, into=tmp_path / "mine")
    place = synthesise(run, 1, by="latent_diffusion", cohort=cohort, steps=2, into=tmp_path / "former")
    (place / "note.txt").write_text("mine")
    with pytest.raises(AdaptError, match="other files"):
        synthesise(run, 1, by="latent_diffusion", cohort=cohort, steps=2, into=place)
    assert (place / "synthetic-00001.nii.gz").exists()


def test_a_run_that_draws_of_nobody_is_shown_nobody(tiny_cohort: Cohort, pictures: Run, tmp_path: Path) -> None:
    recipe = Recipe.load(
        pictures.path / "recipe.yaml", ["stages.0.objective.source=[]", "stages.0.steps=1", "name=alone"]
    )
    alone = pretrain(recipe, tiny_cohort, into=tmp_path)
    with pytest.raises(AdaptError, match="draws of nobody"):
        synthesise(alone, 1, cohort=tiny_cohort, patients=[alone.split.test[0]], into=tmp_path / "x")
    assert len(manifest(synthesise(alone, 1, cohort=tiny_cohort, steps=2, into=tmp_path / "out"))["records"]) == 1
