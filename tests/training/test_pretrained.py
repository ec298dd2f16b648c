"""A run with somebody's networks as encoders: learned around, adapted, moved away from the folders that they came from."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import snapshots
from polyclinic.adaptation import adapt, open_adapted
from polyclinic.cohort import Cohort
from polyclinic.inference import predict
from polyclinic.models import Model
from polyclinic.schema import Modality
from polyclinic.tokens.pretrained import Backbone
from polyclinic.tokens.snapshot import SnapshotError
from polyclinic.training import InterruptedRunError, Recipe, Run, pretrain
from polyclinic.training.run import weights_config


def asked(tiny_recipe: Path, folder: Path) -> Recipe:
    """A frozen DINOv2 for images and a BERT that learns for notes."""
    image = f"{{kind: pretrained_image, folder: {folder / 'dinov2'}}}"
    text = f"{{kind: pretrained_text, folder: {folder / 'bert'}, frozen: false}}"
    return Recipe.load(
        tiny_recipe,
        (
            "name=borrowed",
            f"encoders={{image: {image}, text: {text}}}",
            "model={kind: two_tower, width: 16, embedding: 16, fusion: {kind: intermediate, depth: 1, heads: 2}}",
            "tasks={finding: {kind: classification, column: finding, positive: [COVID-19]}}",
            "stages=[{name: align, steps: 2, batch: 6, warmup: 1, objective: {kind: contrastive}}]",
        ),
    )


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("networks")
    for name in ("dinov2", "bert"):
        shutil.copytree(snapshots.folder(name), place / name)
    return place


@pytest.fixture(scope="module")
def run(tiny_recipe: Path, tiny_cohort: Cohort, there: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Pretrained for two steps; the folders that it was made from are gone."""
    made = pretrain(asked(tiny_recipe, there), tiny_cohort, into=tmp_path_factory.mktemp("runs"))
    shutil.rmtree(there)
    return Run.open(made.path)


def backbone(model: Model, modality: Modality) -> dict[str, torch.Tensor]:
    found = model.encoder(modality).get_submodule("backbone")
    assert isinstance(found, Backbone)
    return {name.replace(".linear.", "."): p for name, p in found.network.named_parameters()}


def moved(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> set[str]:
    assert one.keys() == other.keys()
    return {name for name in one if not torch.equal(one[name], other[name])}


def test_a_frozen_network_is_as_it_was_and_one_that_learns_is_not(run: Run) -> None:
    from safetensors import safe_open
    from transformers import AutoModel

    model = run.model()
    for modality, name in ((Modality.IMAGE, "dinov2"), (Modality.TEXT, "bert")):
        theirs = AutoModel.from_pretrained(snapshots.folder(name))
        ours = backbone(model, modality)
        before = {k: v for k, v in theirs.named_parameters() if not k.startswith("pooler")}
        assert bool(moved(ours, before)) == (modality is Modality.TEXT)
    with safe_open(run.weights, "pt") as file:
        saved = {key.split(".")[1] for key in file.keys() if ".backbone." in key}  # noqa: SIM118
    assert saved == {"text"}  # the frozen one's weights are in the run's copy of the snapshot, once


def test_the_note_is_cut_by_the_snapshots_tokenizer(run: Run) -> None:
    assert run.fingerprint.tokenizer == (snapshots.folder("bert") / "tokenizer.json").read_text()


def test_the_same_network_with_fresh_weights_is_the_one_that_was_brought(run: Run) -> None:
    """What pretraining gave is what is added to it: from scratch means from the snapshot, in the rest from nothing."""
    fresh = run.model(pretrained=False, seed=5)
    assert not moved(backbone(fresh, Modality.IMAGE), backbone(run.model(), Modality.IMAGE))
    assert moved(backbone(fresh, Modality.TEXT), backbone(run.model(), Modality.TEXT))


@pytest.mark.parametrize("method", ["probe", "lora", "full", "scratch"])
def test_it_is_adapted_and_answers_again_after_a_move(
    run: Run, method: str, tiny_cohort: Cohort, tmp_path: Path
) -> None:
    here = tmp_path / "here/borrowed"
    shutil.copytree(run.path, here)
    adapted = adapt(here, "finding", method, cohort=tiny_cohort, steps=3)  # type: ignore[arg-type]
    answers = predict(adapted, tiny_cohort)
    image = {m: backbone(open_adapted(adapted).model, m) for m in (Modality.IMAGE, Modality.TEXT)}
    before = {m: backbone(run.model(), m) for m in image}
    changed = {m.value for m in image if moved(image[m], before[m])}
    assert changed == {"probe": set(), "lora": {"image", "text"}, "full": {"text"}, "scratch": {"text"}}[method]
    shutil.move(tmp_path / "here", tmp_path / "there")
    again = predict(tmp_path / "there/borrowed" / adapted.path.relative_to(here), tiny_cohort)
    np.testing.assert_array_equal(answers.outputs, again.outputs)


def test_stopped_and_resumed_is_never_stopped(
    run: Run, tiny_recipe: Path, tiny_cohort: Cohort, there: Path, tmp_path: Path
) -> None:
    for name in ("dinov2", "bert"):
        shutil.copytree(snapshots.folder(name), there / name)
    recipe = asked(tiny_recipe, there)
    with pytest.raises(InterruptedRunError):
        pretrain(recipe, tiny_cohort, into=tmp_path, progress=lambda *_: os.kill(os.getpid(), signal.SIGINT))
    shutil.rmtree(there)  # it goes on from its own copy
    resumed = pretrain(recipe, tiny_cohort, into=tmp_path)
    assert resumed.weights.read_bytes() == run.weights.read_bytes()


def test_a_frozen_network_that_was_changed_is_refused(run: Run, tmp_path: Path) -> None:
    place = tmp_path / "borrowed"
    shutil.copytree(run.path, place)
    snapshots.save("dinov2", tmp_path / "other", seed=1)
    shutil.copy(tmp_path / "other/model.safetensors", place / "model/encoders/image")
    with pytest.raises(SnapshotError, match="not as it was when the run was made"):
        Run.open(place).model()


def test_where_it_came_from_is_not_what_it_is(run: Run, tiny_recipe: Path) -> None:
    asked_once = Recipe.load(run.path / "recipe.yaml")
    assert weights_config(asked_once) == weights_config(run.recipe)
    assert asked_once.encoders[Modality.IMAGE] != run.recipe.encoders[Modality.IMAGE]
    thawed = run.recipe.encoders[Modality.IMAGE].model_copy(update={"frozen": False})
    other = run.recipe.model_copy(update={"encoders": {**run.recipe.encoders, Modality.IMAGE: thawed}})
    assert weights_config(other) != weights_config(run.recipe)


def test_a_folder_that_is_not_there_is_an_error_before_anything_is_read(
    tiny_recipe: Path, tiny_cohort: Cohort, tmp_path: Path
) -> None:
    with pytest.raises(SnapshotError, match="no folder"):
        asked(tiny_recipe, tmp_path / "nowhere")
    image = snapshots.folder("vit")
    recipe = asked(tiny_recipe, image.parent)
    spec = recipe.encoders[Modality.IMAGE].model_copy(update={"folder": str(tmp_path / "gone")})
    gone = recipe.model_copy(update={"encoders": {Modality.IMAGE: spec}})
    with pytest.raises(SnapshotError, match="no folder"):
        pretrain(gone, tiny_cohort, into=tmp_path)
    assert not (tmp_path / "borrowed/recipe.yaml").exists()
