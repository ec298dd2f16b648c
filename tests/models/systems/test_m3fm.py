"""M3FM: the recipe's two stages on made-up notes in two languages; what it writes and how it answers by prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import polyclinic as pc
from polyclinic.harmonise import Fingerprint
from polyclinic.harmonise.text import train_tokenizer
from polyclinic.models import Model, build_model
from polyclinic.models.systems.m3fm import M3fm
from polyclinic.objectives import ObjectiveError, Retell, RetellObjective
from polyclinic.schema import Batch, Modality, Ragged
from polyclinic.training import Recipe
from polyclinic.training.curves import is_loss

SAID = {
    "en": ["No effusion.", "There is an effusion on the left.", "Possible nodule."],
    "es": ["Sin derrame.", "Se observa un derrame en el lado izquierdo.", "Posible nódulo."],
}
SMALL = (
    "encoders={image: {kind: vit, size: 32, patch: 16, width: 16, depth: 1, heads: 2},"
    " text: {kind: bert, words: 24, vocabulary: 256, languages: [en, es], width: 16, depth: 1, heads: 2}}",
    "model.width=16", "model.embedding=16", "stages.0.objective.parts.0.pairs=[[image, text]]", "stages.0.steps=2", "stages.1.steps=3",
    "stages.0.warmup=1", "stages.1.warmup=1", "stages.0.batch=6", "stages.1.batch=6", "stages.1.objective.width=16",
    "stages.1.objective.heads=2", "precision=fp32", "cohort.split.test=0.25",
)  # fmt: skip


@pytest.fixture(scope="module")
def m3fm() -> M3fm:
    """Untrained."""
    recipe = Recipe.load("m3fm", SMALL)
    texts = [text for told in SAID.values() for text in told] * 2
    fingerprint = Fingerprint(train_tokenizer(texts, 256, ("en", "es")))
    model = build_model(recipe.model, recipe.encoders, fingerprint, 0).eval()
    retell = Retell(width=16, heads=2).build(model, {}).eval()
    return M3fm(model, retell, recipe.standards()[Modality.TEXT], fingerprint)


def images(values: Tensor, of: list[int], patients: int) -> Batch:
    n = len(of)
    ragged = Ragged(values, torch.tensor(of), torch.zeros(n), torch.ones(n, 2), patients, [str(i) for i in range(n)])
    return Batch({Modality.IMAGE: ragged}, {}, [str(i) for i in range(patients)])


def notes(folder: Path, patients: int) -> None:
    """Even patients' notes are English, odd ones' Spanish, and every fourth has both."""
    folder.mkdir()
    for n in range(patients):
        for language in ("en", "es") if n % 4 == 0 else (("en", "es")[n % 2],):
            text = f"Patient: P{n}\nType: radiology report\nLanguage: {language}\n\n{SAID[language][n % 3]} {n}\n"
            (folder / f"P{n}_{language}.txt").write_text(text, encoding="utf-8")


def test_both_stages_train_and_what_comes_of_them_writes_words_of_the_notes(tmp_path: Path) -> None:
    """Of notes alone, as the second stage learns; the recipe's image encoder has nothing to read here."""
    notes(tmp_path / "notes", 16)
    cohort = pc.ingest(tmp_path / "notes", tmp_path / "cohort")
    run = pc.pretrain(Recipe.load("m3fm", SMALL), cohort, into=tmp_path / "runs")
    rows = run.metrics().to_pylist()
    terms = {(row["stage"], row["name"]) for row in rows if is_loss(row["name"])}
    assert terms == {
        ("align", "contrastive/text-text"),
        ("align", "loss"),
        ("retell", "retell/text"),
        ("retell", "loss"),
    }
    model = run.model()
    retell = run.objective(model)
    assert isinstance(retell, RetellObjective)
    system = M3fm(model, retell, run.recipe.standards()[Modality.TEXT], run.fingerprint)
    loader = run.loader(cohort, run.split.test)
    batch = next(loader.each(16))
    begun = {int(words[0]) for words in batch.payloads[Modality.TEXT].values}
    assert begun <= {4, 5}
    found = system.write(batch, "es", [Modality.TEXT], most=5)
    assert sorted(found) == list(range(len(batch.patients)))
    assert all("[" not in text and "#" not in text for text in found.values())
    assert system.write(batch, "es") == {}  # nobody has anything but notes


def test_prompts_are_answered_by_the_nearest(m3fm: M3fm) -> None:
    """Against the cosines themselves; a patient without an image has no answer."""
    draws = torch.Generator().manual_seed(0)
    batch = images(torch.randn(3, 1, 32, 32, generator=draws), [0, 2, 2], 3)
    questions = {"effusion": [SAID["en"][1:2], SAID["en"][:1]], "which": [[text] for text in SAID["en"]]}
    found = m3fm.diagnose(batch, questions, "en", Modality.IMAGE, temperature=0.5)
    assert found["effusion"][1].isnan().all()
    tower = m3fm.model.towers(m3fm.model.encode(batch))[Modality.IMAGE]
    cosine = (tower.vectors @ m3fm.placed(SAID["en"], "en").T).detach()
    torch.testing.assert_close(found["which"][[0, 2]], (cosine / 0.5).softmax(1))
    torch.testing.assert_close(found["effusion"][[0, 2], 0], ((cosine[:, 1] - cosine[:, 0]) / 0.5).sigmoid())
    # Several prompts of an answer are their mean's direction.
    mean = m3fm.diagnose(batch, {"one": [SAID["en"], SAID["en"][:1]]}, "en", Modality.IMAGE)["one"][0]
    centre = torch.nn.functional.normalize(m3fm.placed(SAID["en"], "en").mean(0), dim=0)
    expected = torch.stack([tower.vectors[0] @ centre, cosine[0, 0]]) / 0.07
    torch.testing.assert_close(mean, expected.softmax(0).detach())


def test_the_same_words_in_another_language_are_another_text(m3fm: M3fm) -> None:
    same = ["nodule"]
    assert not torch.allclose(m3fm.placed(same, "en"), m3fm.placed(same, "es"))
    torch.testing.assert_close(m3fm.placed(same, "fr"), m3fm.placed(same, ""))


def test_a_language_without_a_word_is_refused(m3fm: M3fm) -> None:
    with pytest.raises(ObjectiveError, match="a note in the language 'fr'"):
        m3fm.write(images(torch.zeros(1, 1, 32, 32), [0], 1), "fr")


def test_the_shipped_recipe_builds() -> None:
    """At its own size, with a vocabulary of nothing but the special words."""
    recipe = Recipe.load("m3fm")
    model: Model = build_model(
        recipe.model, recipe.encoders, Fingerprint(train_tokenizer(["a a"], 64, ("en", "es"))), 0
    )
    for stage in recipe.stages:
        stage.objective.build(model, {})
    assert model.encoder(Modality.TEXT).begins == {"en": 4, "es": 5}
    assert np.isfinite(sum(float(p.detach().sum()) for p in model.parameters()))
