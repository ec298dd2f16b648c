"""Masked and causal language are BERT's and GPT's, and what a note does not say is not asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from polyclinic.fusion import Early, Late
from polyclinic.harmonise.text import MASK
from polyclinic.models import Model, TwoTower, build_model
from polyclinic.objectives import CausalLanguage, MaskedLanguage, ObjectiveError
from polyclinic.objectives.language import END, words_of
from polyclinic.objectives.words import UNTOLD
from polyclinic.schema import Batch, Modality, Ragged
from polyclinic.tokens import Bert, Gpt, phantom
from polyclinic.training.recipe import Recipe

TEXTS = [[2, 7, 9, 11], [2], [2, 9, 7, 30, 31, 32, 33, 34]]


def notes(texts: list[list[int]] = TEXTS) -> Ragged:
    values = [torch.tensor(t) for t in texts]
    patient = torch.arange(len(texts))
    return Ragged(values, patient, torch.zeros(len(texts)), None, len(texts), [str(n) for n in patient.tolist()])


def batch(texts: list[list[int]] = TEXTS) -> Batch:
    return Batch({Modality.TEXT: notes(texts)}, {}, [str(n) for n in range(len(texts))])


def model(causal: bool, fusion: Any = None) -> Model:
    size: dict[str, Any] = {"words": 8, "width": 16, "depth": 2, "heads": 2}
    encoder = Gpt(**size) if causal else Bert(**size)
    spec = TwoTower(width=16, embedding=16, fusion=fusion or Late())
    return build_model(spec, {Modality.TEXT: encoder}, phantom.fingerprint(), 0)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_next_word_of_each_note_and_the_end_of_those_that_were_not_cut() -> None:
    gpt = model(causal=True)
    found = CausalLanguage().build(gpt, {})(gpt, batch(), draws()).terms["causal_language/text"]
    encoder = words_of(gpt, "it")
    logits = encoder(notes()).values @ encoder.words.weight.T
    wanted = [
        7,
        9,
        11,
        END,
        END,
        9,
        7,
        30,
        31,
        32,
        33,
        34,
    ]  # the last note fills its eight words: who knows how it goes on
    torch.testing.assert_close(found, F.cross_entropy(logits[:12], torch.tensor(wanted)))


@pytest.mark.parametrize("seed", range(3))
def test_words_are_hidden_as_berts(seed: int) -> None:
    bert = model(causal=False)
    objective = MaskedLanguage(ratio=0.4).build(bert, {})
    long = notes([[2, *torch.randint(4, 50, (3000,), generator=draws(9)).tolist()]] * 2)
    words = torch.cat(list(long.values))
    hidden, asked = objective.hide(long, words, 50, draws(seed))
    put = torch.cat(list(hidden.values))
    assert torch.equal(put[~asked], words[~asked])
    assert not asked[[0, 3001]].any()  # the word that begins a note
    assert float(asked.float().mean()) == pytest.approx(0.4, abs=0.01)
    masked, same = (put == MASK) & asked, (put == words) & asked
    assert float(masked.sum() / asked.sum()) == pytest.approx(0.8, abs=0.03)
    assert float(same.sum() / asked.sum()) == pytest.approx(0.1 + 0.1 / 46, abs=0.025)
    assert int(put[asked].min()) >= MASK


def test_the_answer_is_of_the_hidden_words_alone() -> None:
    bert = model(causal=False)
    objective = MaskedLanguage(ratio=0.5).build(bert, {})
    found = objective(bert, batch(), draws(1)).terms["masked_language/text"]
    seed = int(torch.randint(2**62, (), generator=draws(1)))
    words = torch.cat(list(notes().values))
    hidden, asked = objective.hide(notes(), words, phantom.WORDS, draws(seed))
    encoder = words_of(bert, "it")
    logits = objective.transform(encoder(hidden).values) @ encoder.words.weight.T + objective.bias
    torch.testing.assert_close(found, F.cross_entropy(logits[asked], words[asked]))


@pytest.mark.parametrize("causal", [False, True])
def test_it_is_learned(causal: bool) -> None:
    net = model(causal)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        objective = (CausalLanguage() if causal else MaskedLanguage(ratio=0.3)).build(net, {})
    data = batch([[2, 5, 6, 7, 5, 6, 8]] * 16)
    adam = torch.optim.AdamW([*net.parameters(), *objective.parameters()], 1e-2)
    losses = []
    for step in range(60 if causal else 200):
        total = objective(net, data, draws(step)).total
        assert total is not None
        adam.zero_grad()
        total.backward()
        adam.step()
        losses.append(float(total.detach()))
    assert sum(losses[-10:]) / 10 < 0.35 < losses[0] / 5


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(ObjectiveError, match="reads both ways"):
        CausalLanguage().build(model(causal=False), {})
    with pytest.raises(ObjectiveError, match="sees no later word"):
        MaskedLanguage().build(model(causal=True), {})
    with pytest.raises(ObjectiveError, match="no trunk"):
        CausalLanguage().build(model(True, Early(depth=1, heads=2)), {})
    without = build_model(
        TwoTower(width=16, embedding=16), {Modality.IMAGE: phantom.encoders()[Modality.IMAGE]}, phantom.fingerprint(), 0
    )
    with pytest.raises(ObjectiveError, match="without an encoder of words"):
        CausalLanguage().build(without, {})


@pytest.mark.parametrize(
    ("text", "fusion", "objective", "told"),
    [
        ("bert", "late", "causal_language", "kind gpt or llama; bert reads both ways"),
        ("llama", "late", "masked_language", "kind bert; llama sees no later word"),
        ("gpt", "early", "causal_language", "early fusion leaves the text encoder no trunk"),
    ],
)
def test_a_recipe_that_asks_it_is_refused_before_anything_is_read(
    text: str, fusion: str, objective: str, told: str
) -> None:
    recipe = {
        "name": "r", "encoders": {"text": {"kind": text}}, "model": {"kind": "two_tower", "fusion": {"kind": fusion}},
        "stages": [{"name": "s", "steps": 1, "objective": {"kind": objective}}],
    }  # fmt: skip
    with pytest.raises(ValidationError, match=told):
        Recipe.model_validate(recipe)


def test_a_note_of_one_word_that_was_cut_asks_nothing() -> None:
    gpt = model(causal=True)
    objective = CausalLanguage().build(gpt, {})
    words_of(gpt, "it").longest = 1
    assert objective(gpt, batch([[2], [2]]), draws()).terms == {}
    assert UNTOLD < 0
    assert replace(notes(), ids=[]).ids == []
