"""A run that reads notes as bags of terms: from records to answers, and what refuses it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from polyclinic.adaptation import adapt
from polyclinic.adaptation.adapted import open_adapted
from polyclinic.adaptation.plan import AdaptError
from polyclinic.cohort import Cohort
from polyclinic.harmonise.tfidf import terms
from polyclinic.inference import SearchError, index, predict
from polyclinic.inference.export import export
from polyclinic.objectives import ObjectiveError
from polyclinic.schema import Modality
from polyclinic.training import Recipe, Run, pretrain
from polyclinic.training.needs import assumed, built

STACKED = {"kind": "probe", "penalty": "directions", "modalities": "stacked"}


@pytest.fixture(scope="module")
def recipe(light: Recipe) -> Recipe:
    """The light recipe, of the terms of notes and the cells of tables."""
    told = light.model_dump()
    told["name"] = "terms"
    told["encoders"]["text"] = {"kind": "tfidf", "fewest": 2, "width": 16, "heads": 2}
    told["stages"] = told["stages"][:1]
    return Recipe.model_validate(told)


@pytest.fixture(scope="module")
def run(recipe: Recipe, tiny_cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Pretrained, read-only."""
    return pretrain(recipe, tiny_cohort, into=tmp_path_factory.mktemp("runs"))


def test_the_run_keeps_no_term_of_one_patient(run: Run, tiny_cohort: Cohort) -> None:
    notes = [r for r in tiny_cohort.records() if r.modality is Modality.TEXT and r.patient in set(run.split.train)]
    said = {r.patient: "" for r in notes}
    for record in notes:
        said[record.patient] += " ¶ " + (tiny_cohort.load(record).text or "").lower()
    assert run.fingerprint.terms
    for term in run.fingerprint.terms:
        assert sum(all(word in text for word in term.split()) for text in said.values()) >= 2
    assert run.fingerprint.tokenizer is None


@pytest.mark.parametrize("method", ["probe", STACKED, "full"])
def test_it_is_adapted_and_opened_again(
    run: Run, tiny_cohort: Cohort, tmp_path: Path, method: str | dict[str, str]
) -> None:
    made = adapt(
        run, "finding", method, cohort=tiny_cohort, inputs=["text", "table"], steps=2, seed=0, into=tmp_path / "made"
    )  # fmt: skip
    told, again = predict(made, tiny_cohort), predict(open_adapted(made.path), tiny_cohort)
    assert np.isfinite(told.outputs).all()
    np.testing.assert_array_equal(told.outputs, again.outputs)
    if method is STACKED:
        assert set(made.adapter["stacked"]) <= {"text", "table", "omics"}
        assert open_adapted(made.path).task.apart == (Modality.TEXT, Modality.TABLE, Modality.OMICS)  # type: ignore[attr-defined]


def test_what_asks_for_words_refuses_it(recipe: Recipe, run: Run, tiny_cohort: Cohort) -> None:
    def asked(**objective: object) -> Recipe:
        told = recipe.model_dump()
        told["stages"][0]["objective"] = objective
        return Recipe.model_validate(told)

    for kind in ("masked_language", "causal_language"):
        with pytest.raises(ValueError, match="learns its own words"):
            asked(kind=kind)
    fingerprint = run.fingerprint
    for told in ({"kind": "question", "tasks": ["finding"]}, {"kind": "caption"}):
        with pytest.raises(ObjectiveError, match="words"):
            built(asked(**told), 0, fingerprint)
    with pytest.raises(AdaptError, match="knows no word"):
        adapt(run, "finding", {"kind": "zero_shot", "yes": ["zzz"], "no": ["qqq"]}, cohort=tiny_cohort)


def test_a_note_is_found_by_its_own_words(run: Run, tiny_cohort: Cohort, tmp_path: Path) -> None:
    made = index(run, tiny_cohort, into=tmp_path / "index")
    notes = [r for r in tiny_cohort.records(run.recipe.cohort.where) if r.modality is Modality.TEXT]
    alone = [r for r in notes if sum(o.patient == r.patient for o in notes) == 1]
    texts = {r.patient: tiny_cohort.load(r).text or "" for r in alone}
    patient = next(p for p, text in texts.items() if any(term in run.fingerprint.terms for term in terms(text)))
    found = {hit.patient: hit.similarity for hit in made.say(texts[patient], to="text", k=len(notes))}
    assert found[patient] == pytest.approx(1, abs=1e-4)
    with pytest.raises(SearchError, match="nothing said"):
        made.say("zzz qqq")


def test_an_export_refuses_it_and_gives_its_weights(run: Run, tiny_cohort: Cohort, tmp_path: Path) -> None:
    made = adapt(run, "finding", STACKED, cohort=tiny_cohort, inputs=["text"], seed=0, into=tmp_path / "made")
    with pytest.raises(AdaptError, match="reads text"):
        export(made, "pt2")
    from safetensors.torch import load_file

    weights = load_file(export(made, "safetensors").path)
    directions = next(v for k, v in weights.items() if k.endswith("encoders.text.directions"))
    torch.testing.assert_close(directions, torch.tensor(run.fingerprint.directions))


def test_before_anything_is_read_its_size_is_known(recipe: Recipe) -> None:
    fingerprint, said = assumed(recipe)
    assert len(fingerprint.terms) == 5000
    assert any("5000 terms" in one for one in said)
    assert built(recipe, 0, fingerprint).model.encoder(Modality.TEXT).directions.shape == (100, 5000)
