"""Me-LLaMA in small: a mixture, then LoRA on pairs, and what of the general part is forgotten."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import polyclinic as pc
from polyclinic.cohort import Cohort
from polyclinic.cohort.mixture import MixtureError
from polyclinic.models.systems.me_llama import ADAMW, SHARES
from polyclinic.schema import Modality
from polyclinic.training import InterruptedRunError, Recipe, Run, RunError, pretrain
from polyclinic.training.checkpoint import read
from polyclinic.training.recipe import RecipeError
from polyclinic.trust.measures.forgetting import perplexities, table

PARTS = {"biomedical": "kind = 'abstract'", "clinical": "kind = 'section text'", "general": "kind = 'passage'"}
OVER = ["encoders.text.words=64", "encoders.text.vocabulary=256", "encoders.text.width=16", "encoders.text.depth=1",
        "encoders.text.heads=2", "model.width=16", "model.embedding=16", "precision=fp32", "stages.0.steps=8",
        "stages.1.steps=4", "stages.2.steps=5", "stages.0.batch=8", "stages.1.batch=8", "stages.2.batch=8",
        "stages.1.mixture.biomedical.where=kind = 'abstract'"]  # fmt: skip


def written(place: Path, column: dict[str, list[str]]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["number", *column], *([n, *row] for n, row in enumerate(zip(*column.values(), strict=True)))]
        )


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Three languages of made-up words, and conversations with the section that tells them."""
    place, draws = tmp_path_factory.mktemp("texts"), np.random.default_rng(0)

    def said(words: str, number: int = 24) -> str:
        return " ".join(draws.choice(words.split(), number).tolist())

    general, bio = (
        "river garden window paper morning street music letter winter bread",
        "kinase cell gene mouse receptor",
    )
    complaints = [said("headache cough fever nausea dizziness fatigue rash", 4) for _ in range(30)]
    written(place / "in/general/general.csv", {"passage": [said(general) for _ in range(40)]})
    written(place / "in/papers/papers.csv", {"abstract": [said(bio) for _ in range(60)]})
    conversations = {"dialogue": [f"doctor: what is wrong today? patient: i have {c} {said(general, 9)}" for c in complaints],
                     "section_text": [f"the patient reports {c} since a few days and nothing else" for c in complaints]}  # fmt: skip
    written(place / "in/clinic/clinic.csv", conversations)
    return pc.ingest(place / "in", into=place / "cohort")


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """The shipped one in small, of conversations alone."""
    told = Recipe.load("recipes/me_llama.yaml", OVER).model_dump()
    del told["stages"][2]["mixture"]["questions"]
    told["cohort"] = {"split": told["cohort"]["split"]}
    return Recipe.model_validate(told)


@pytest.fixture(scope="module")
def run(recipe: Recipe, texts: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return pretrain(recipe, texts, into=tmp_path_factory.mktemp("runs"))


def test_the_shipped_recipe_has_the_papers_mixture_and_optimiser() -> None:
    told = Recipe.load("recipes/me_llama.yaml")
    assert [s.name for s in told.stages if s.keep] == ["general", "continual", "instruct"]
    assert {n: p.share for n, p in told.stages[1].mixture.items()} == SHARES
    assert (told.stages[1].betas, told.stages[1].schedule) == (ADAMW["betas"], ADAMW["schedule"])
    assert [s.lora is not None for s in told.stages] == [False, False, True]


def linear(weights: dict[str, torch.Tensor]) -> set[str]:
    return {n for n in weights if "blocks." in n and n.endswith(".weight") and weights[n].ndim == 2}


def test_a_stage_of_lora_leaves_all_but_the_linear_layers_and_adds_what_has_its_rank(run: Run) -> None:
    before, after = load_file(run.stage_weights("continual")), load_file(run.stage_weights("instruct"))
    assert before.keys() == after.keys()
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert moved
    assert moved <= linear(before)
    for name in moved:
        assert torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-3) <= 8
    last = load_file(run.weights)
    assert all(torch.equal(last[n], after[n]) for n in after)
    first = load_file(run.stage_weights("general"))
    assert not torch.equal(first["encoders.text.words.weight"], before["encoders.text.words.weight"])


def at_step(wanted: int, then: Callable[[], object]) -> Callable[[int, int, str], None]:
    return lambda done, total, what: then() if done == wanted else None  # type: ignore[func-returns-value]


def test_within_the_stage_the_base_is_the_same_bits_and_resumed_is_never_stopped(
    run: Run, recipe: Recipe, texts: Cohort, tmp_path: Path
) -> None:
    with pytest.raises(InterruptedRunError):  # three steps into the last stage
        pretrain(recipe, texts, into=tmp_path, progress=at_step(15, lambda: os.kill(os.getpid(), signal.SIGINT)))
    before = load_file(run.stage_weights("continual"))
    state = read(tmp_path / recipe.name / "checkpoints/last.pt")
    assert state is not None
    names = {n.removeprefix("weights/model."): t for n, t in state["tensors"].items() if n.startswith("weights/model.")}
    learned = {n for n in names if n.endswith((".lora.a", ".lora.b"))}
    assert len(learned) == 2 * len(linear(before))
    for name in names.keys() - learned:
        assert torch.equal(names[name], before[name])
    assert any(bool(names[n].any()) for n in learned if n.endswith(".lora.b"))
    again = pretrain(recipe, texts, into=tmp_path)
    for stage in ("general", "continual", "instruct"):
        assert again.stage_weights(stage).read_bytes() == run.stage_weights(stage).read_bytes()
    assert again.weights.read_bytes() == run.weights.read_bytes()


def test_perplexity_is_that_of_each_text_read_alone(run: Run, texts: Cohort) -> None:
    found = perplexities(run, texts, PARTS)
    assert [(p.part, p.stage) for p in found] == [(p, s) for p in PARTS for s in ("general", "continual", "instruct")]
    general = found[6:]
    model, nats, words, records = run.model(stage="continual"), 0.0, 0, 0
    encoder = model.encoder(Modality.TEXT)
    loader = run.loader(texts, run.split.test)
    for patient in run.split.test:
        batch = loader.of([patient])
        ragged = batch.payloads[Modality.TEXT]
        if ragged.kinds != ["passage"]:
            continue
        text = ragged.values[0]
        logits = encoder(ragged).values @ encoder.words.weight.T  # type: ignore[union-attr]
        wanted = torch.cat([text[1:], torch.zeros(1, dtype=torch.int64)])[: len(text) - (len(text) == 64)]
        nats += float(F.cross_entropy(logits[: len(wanted)], wanted, reduction="sum").detach())
        words, records = words + len(wanted), records + 1
    assert (general[1].words, general[1].nats.n) == (words, records)
    assert general[1].nats.value == pytest.approx(nats / words, rel=1e-5)
    assert general[1].nats.low < general[1].nats.value < general[1].nats.high
    assert general[1].change.value == pytest.approx(general[1].nats.value - general[0].nats.value)
    assert general[0].change.value == 0
    assert general[1].nats.split == run.split.hash
    assert "records" in general[1].nats.note
    assert len(table(found).splitlines()) == 10


def test_what_cannot_be_done_is_refused(run: Run, recipe: Recipe, texts: Cohort, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no weights of a stage 'nine'[\s\S]*general, continual, instruct"):
        run.model(stage="nine")
    with pytest.raises(MixtureError, match="'none'"):
        perplexities(run, texts, {"none": "kind = 'no such'"})
    told = recipe.model_dump()
    told["stages"][2]["mixture"]["again"] = {"where": "kind = 'dialogue'", "share": 1}
    with pytest.raises(MixtureError, match="both in the part 'conversations' and in the part 'again'"):
        pretrain(Recipe.model_validate(told), texts, into=tmp_path)  # before the first stage, not when its turn comes
    assert not list(tmp_path.rglob("*.safetensors"))
    with pytest.raises(RecipeError, match="most: null"):
        Recipe.load("recipes/me_llama.yaml", ["stages.2.most=2"])
    with pytest.raises(RecipeError, match="a file's"):
        Recipe.load("recipes/me_llama.yaml", ["stages.0.name=a/b"])
