"""Translation and synthesis as stages of a run: from the cohort's files to records that nobody has."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from polyclinic.cohort import Cohort
from polyclinic.harmonise.loader import Loader
from polyclinic.objectives import LatentDiffusion, LatentDiffusionObjective
from polyclinic.schema import Modality
from polyclinic.training import InterruptedRunError, Recipe, Run, pretrain

RECIPE = """
name: synthesis
cohort: {where: "modality in ('image', 'text')", split: {by: patient, test: 0.2, seed: 0}}
encoders:
  image: {kind: vit, size: 32, patch: 16, width: 16, depth: 1, heads: 2}
  text: {kind: bert, words: 16, vocabulary: 128, width: 16, depth: 1, heads: 2}
model: {kind: two_tower, width: 16, embedding: 16, fusion: {kind: late}}
stages:
  - {name: translate, steps: 2, batch: 4, warmup: 1, objective: {kind: translation, target: image, width: 16, heads: 2}}
  - name: synthesise
    steps: 4
    batch: 4
    warmup: 1
    objective: {kind: latent_diffusion, target: image, share: 0.5, channels: 4, width: 16, depth: 1, heads: 2}
precision: fp32
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    place = tmp_path_factory.mktemp("recipe") / "synthesis.yaml"
    place.write_text(RECIPE)
    return Recipe.load(place)


@pytest.fixture(scope="module")
def run(recipe: Recipe, tiny_cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return pretrain(recipe, tiny_cohort, into=tmp_path_factory.mktemp("runs"))


def test_the_autoencoder_is_asked_in_its_share_of_the_steps(run: Run) -> None:
    rows = run.metrics().to_pylist()
    steps = lambda name: [row["step"] for row in rows if row["name"] == name]
    assert set(steps("translation/image")) <= {0, 1}
    assert steps("denoising/image") == [2, 3, 4, 5]
    assert steps("reconstruction/image") == steps("kl/image") == [2, 3]


def test_a_run_that_was_stopped_while_the_autoencoder_learned_goes_on_to_the_same_bits(
    run: Run, recipe: Recipe, tiny_cohort: Cohort, tmp_path: Path
) -> None:
    def stop(done: int, total: int, what: str) -> None:
        if done == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(InterruptedRunError):
        pretrain(recipe, tiny_cohort, into=tmp_path, progress=stop)
    again = pretrain(recipe, tiny_cohort, into=tmp_path)
    one, other = (load_file(r.objective_weights) for r in (run, again))
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_run_is_drawn_from(run: Run, tiny_cohort: Cohort) -> None:
    recipe, spec = run.recipe, run.recipe.stages[1].objective
    assert isinstance(spec, LatentDiffusion)
    model = run.model()
    objective = run.objective(model)
    assert isinstance(objective, LatentDiffusionObjective)
    assert float(objective.done) == 1
    assert not torch.equal(objective.spread, torch.ones_like(objective.spread))
    standards = recipe.standards()
    loader = Loader(tiny_cohort.records(), run.split.test, standards, run.fingerprint, tiny_cohort.load)
    batch = next(b for b in loader.each() if Modality.IMAGE in b.payloads)
    at, found = objective.sample(model, batch, 4, 2.0, torch.Generator().manual_seed(0))
    assert at.ids == batch.payloads[Modality.IMAGE].ids
    assert found.shape == (len(at), 1, 32, 32)
    assert found.isfinite().all()
