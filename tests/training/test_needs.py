"""What a recipe takes before anything is loaded: exactly the weights, and about the memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from polyclinic.models import build_model
from polyclinic.objectives import ObjectiveError
from polyclinic.schema import Losses, Modality
from polyclinic.training import Recipe, RecipeError, Run, memory, needs
from polyclinic.training.needs import assumed, built, fingerprint_of, kinds_of, largest, unfilled
from polyclinic.training.reading import folder
from polyclinic.training.repeatable import generator

SHIPPED = sorted(folder().glob("*.yaml"))


def small(recipe: Recipe) -> Recipe:
    """With narrow networks of one block."""
    data = recipe.model_dump()
    for spec in data["encoders"].values():
        spec |= {"width": 16, "depth": 1, "heads": 2}
    data["model"] |= {"width": 24, "embedding": 16}  # which the heads of the decoders divide
    if "depth" in data["model"]["fusion"]:
        data["model"]["fusion"] |= {"depth": 1, "heads": 2}
    if "slide" in data["encoders"]:
        data["encoders"]["slide"] |= {"most": 64}
    return Recipe.model_validate(data)


@pytest.mark.parametrize("path", SHIPPED, ids=[p.stem for p in SHIPPED])
def test_made_up_patients_speak_to_every_term_of_a_shipped_recipe(path: Path) -> None:
    """Otherwise the estimate would be of a question that was not asked; and the count without weights is the count with them."""
    recipe = small(Recipe.load(path))
    fingerprint, _ = assumed(recipe)
    for number, stage in enumerate(recipe.stages):
        trainee = built(recipe, number, fingerprint)
        with unfilled():
            shapes = {
                n: (p.shape, p.requires_grad, p.is_meta)
                for n, p in built(recipe, number, fingerprint).named_parameters()
            }
        assert shapes == {n: (p.shape, p.requires_grad, True) for n, p in trainee.named_parameters()}
        terms, weights = trainee.train()(largest(recipe, stage, fingerprint), generator(0))
        total = Losses(terms, weights).total
        assert total is not None
        total.backward()
        trained = {n for n, p in trainee.objective.named_parameters() if p.requires_grad}
        asked = {n for n, p in trainee.objective.named_parameters() if p.grad is not None}
        # Prototypes of self-distillation stand still at first.
        assert {n for n in trained if not n.endswith("prototypes")} == asked


def test_weights_without_memory_are_made_only_meanwhile() -> None:
    with unfilled():
        empty = nn.ModuleList(
            nn.Linear(2**13, 2**13) for _ in range(2**10)
        )  # 256 GiB in all, and never two layers at a time
    assert all(weight.is_meta for weight in empty.parameters())
    assert sum(weight.numel() for weight in empty.parameters()) == 2**10 * (2**26 + 2**13)
    assert not nn.Linear(2, 2).weight.is_meta


PEAK = """
import pathlib, re, sys, torch
torch.set_num_threads(1)
from polyclinic.training import Recipe
from polyclinic.training.needs import assumed, built, largest
from polyclinic.training.ranks import Ranks, fabric_for
from polyclinic.training.step import Stepper
recipe = Recipe.load(sys.argv[1], sys.argv[2:])
fingerprint, _ = assumed(recipe)
stage = recipe.stages[0]
stepper = Stepper(Ranks(fabric_for(recipe.precision)), built(recipe, 0, fingerprint), stage)
made = stepper.take([largest(recipe, stage, fingerprint, stage.batch)], stage.batch, (0, 0, 0))
assert made.values and not made.wrong
# Not ru_maxrss, in which the peak of the process that started this one lives on.
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) * 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "batch"), [("generative-2d", 96), ("clip", 96), ("segmentation-3d", 6)])
def test_the_estimate_is_near_the_peak_of_a_process_that_takes_a_step(name: str, batch: int) -> None:
    """Within a factor of 1.5 to both sides, the program itself counted."""
    override = f"stages.0.batch={batch}"
    done = subprocess.run(
        [sys.executable, "-c", PEAK, name, override], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    took, expected = int(done.stdout), needs.needs(Recipe.load(name, [override])).most.total
    print(f"{name}: estimated {memory.gib(expected)}, took {memory.gib(took)}")
    assert took > needs.PROGRAM + 300e6  # or the program would hide it
    assert 1 / 1.5 < expected / took < 1.5


def test_what_is_assumed_is_said_and_a_fingerprint_needs_no_assumption(tiny_run: Run) -> None:
    recipe = tiny_run.recipe
    found = needs.needs(recipe)
    assert set(found.assumed) >= {
        f"assumed a vocabulary of all {recipe.standards()[Modality.TEXT].vocabulary} word pieces", "assumed 1000 codes in tables",
        "assumed 20000 genes",
    }  # fmt: skip
    known = needs.needs(recipe, fingerprint_of(tiny_run.path / "model/fingerprint.json"))
    assert known.assumed == ()
    weights = lambda module: sum(p.numel() for p in module.parameters())
    own = tiny_run.model()
    assert known.stages[-1].parameters == weights(own) + weights(tiny_run.objective(own))
    assert known.most.total < found.most.total
    with pytest.raises(RecipeError, match="is no fingerprint"):
        fingerprint_of(tiny_run.path / "recipe.yaml")


def test_what_does_not_fit_is_said_with_the_numbers_to_lower(light: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "machine", lambda: (2**30, 2**29))
    found = needs.needs(light)
    assert found.fits
    assert len(found.as_words(light)) == 2
    assert "this machine has 1.0 GiB, of which 0.5 GiB are free" in found.as_words(light)[0]
    stages = tuple(stage.model_copy(update={"batch": 6 * 5000}) for stage in light.stages)
    wide = light.model_copy(update={"stages": stages})
    found = needs.needs(wide)
    assert found.fits is False
    assert "too much for this machine" in found.as_words(wide)[2]
    assert "accumulate=2 halves" in found.as_words(wide)[2]
    assert found.most.stage == max(found.stages, key=lambda need: need.total).stage


def test_a_network_whose_weights_are_too_many_is_not_built(light: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "machine", lambda: (2**20, 2**20))
    monkeypatch.setattr(needs, "estimate_of", lambda *_: pytest.fail("it was tried"))
    found = needs.needs(light)
    assert found.most.estimate is None
    first, _, last = found.as_words(light)
    assert "needs more than" in first
    assert last.endswith("take smaller encoders")


def test_a_look_leaves_no_trace(light: Recipe) -> None:
    state = torch.random.get_rng_state()
    one = needs.needs(light)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [n.total for n in needs.needs(light).stages] == [n.total for n in one.stages]


def test_records_are_of_the_kinds_that_an_objective_tells_apart() -> None:
    recipe = Recipe.load("me_llama")
    last = recipe.stages[-1]
    asked = [(pair.instruction, pair.answer) for pair in last.objective.pairs]  # type: ignore[union-attr]
    assert kinds_of(recipe, last)[Modality.TEXT] == tuple(kind for pair in asked for kind in pair)
    objective = {"kind": "translation", "target": "volume", "target_kind": "CT", "source_kind": "MR"}
    translated = Recipe.model_validate({
        "name": "ct", "model": {"kind": "two_tower", "width": 16}, "encoders": {"volume": {"kind": "vit3d", "width": 16, "heads": 2}},
        "stages": [{"name": "t", "steps": 1, "objective": objective}],
    })  # fmt: skip
    batch = largest(translated, translated.stages[0], assumed(translated)[0])
    assert batch.payloads[Modality.VOLUME].kinds == ["CT", "MR"] * 2


def test_what_an_objective_refuses_when_it_is_built_is_said() -> None:
    """A recipe cannot know how many words a prompt has before there is a tokenizer."""
    recipe = Recipe.load("me_llama", ["encoders.text.words=8"])
    with pytest.raises(ObjectiveError, match="for a reader of 8"):
        needs.needs(recipe)
    assert build_model(recipe.model, recipe.encoders, assumed(recipe)[0], 0).modalities == [Modality.TEXT]
