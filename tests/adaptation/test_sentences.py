"""Sentences instead of labels, and that what trains nothing is a run like any other: with images and notes, from end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from polyclinic.adaptation import AdaptError, adapt, open_adapted
from polyclinic.adaptation.sentences import YES, sentences
from polyclinic.cohort import Cohort
from polyclinic.inference import answer_cohort, embed, predict, predict_files
from polyclinic.inference.export import export
from polyclinic.schema import Modality, Ragged
from polyclinic.tasks import Classes, Findings, LinearTask
from polyclinic.tokens.text import as_note
from polyclinic.training import Recipe, Run, pretrain
from polyclinic.training.methods import ZeroShot
from polyclinic.trust import evaluate
from vectors import SPEC

CAUSE = Classes(column="finding", classes=(("COVID-19",), ("Pneumocystis", "ARDS"), ("No Finding",)))
SIGNS = Findings.model_validate(
    {"findings": {"COVID_19": {"column": "finding", "positive": ["COVID-19"]}, "woman": {"column": "sex", "positive": ["F"]}}}
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tiny_cohort: Cohort, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Images and notes that were aligned for a few steps."""
    recipe = yaml.safe_load(tiny_recipe.read_text())
    recipe["encoders"] = {m: recipe["encoders"][m] for m in ("image", "text")}
    recipe["tasks"] = {
        "finding": recipe["tasks"]["finding"] | {"inputs": ["image", "text"]},
        "cause": CAUSE.model_dump(mode="json"), "signs": SIGNS.model_dump(mode="json"),
    }  # fmt: skip
    recipe["stages"] = [{"name": "first", "steps": 4, "batch": 6, "objective": {"kind": "contrastive"}}]
    made = Recipe.model_validate(recipe | {"name": "aligned"})
    return pretrain(made, tiny_cohort, into=tmp_path_factory.mktemp("aligned"))


def spoken(run: Run, said: tuple[str, ...]) -> np.ndarray:
    """(s e) one sentence at a time."""
    model, standard, vectors = run.model(), run.recipe.standards()[Modality.TEXT], []
    for sentence in said:
        words = [as_note(sentence, standard, run.fingerprint)]
        one = Ragged(words, torch.zeros(1, dtype=torch.int64), torch.zeros(1), None, 1, ["0"])
        tokens = model.bridged(Modality.TEXT, model.encoder(Modality.TEXT)(one))
        vectors.append(model.towers({Modality.TEXT: tokens})[Modality.TEXT].vectors[0].detach().numpy())
    return np.stack(vectors)


@pytest.mark.parametrize("method", ["prototype", "knn", "zero_shot"])
@pytest.mark.parametrize("task", ["finding", "cause", "signs"])
def test_they_are_runs_like_any_other(method: str, task: str, run: Run, tiny_cohort: Cohort, tmp_path: Path) -> None:
    adapted = adapt(run, task, method, into=tmp_path / "a")
    again = adapt(run, task, method, into=tmp_path / "b")
    assert (adapted.path / "adapter.safetensors").read_bytes() == (again.path / "adapter.safetensors").read_bytes()
    answers, opened = predict(adapted, tiny_cohort), open_adapted(adapted)
    assert answers.mask.any()
    assert np.isfinite(answers.outputs[answers.mask]).all()
    assert ((answers.outputs >= 0) & (answers.outputs <= 1)).all()
    if task == "cause":
        assert answers.outputs.sum(1) == pytest.approx(np.ones(len(answers.patients)), abs=1e-5)
    assert adapted.adapter["labels"] == (0 if method == "zero_shot" else len(adapted.adapter["labelled"]))
    before, after = run.model().state_dict(), opened.model.state_dict()
    assert all(torch.equal(t, after[n]) for n, t in before.items())
    place = answer_cohort(adapted, tiny_cohort, into=tmp_path / "c", patients=answers.patients)
    told = {r["patient"]: r for r in pq.read_table(next(place.glob("answers-*.parquet"))).to_pylist()}
    for patient, output in zip(answers.patients, answers.outputs, strict=True):
        row = told[patient]["output"] if task == "finding" else told[patient]["outputs"]
        np.testing.assert_allclose(row, output, atol=1e-5)


@pytest.mark.parametrize(
    ("task", "method"), [("cause", "knn"), ("signs", "knn"), ("cause", "zero_shot"), ("signs", "zero_shot")]
)
def test_they_are_measured_answer_files_and_leave(
    task: str, method: str, run: Run, tiny_cohort: Cohort, small_hospital: Path, tmp_path: Path
) -> None:
    """A graph for other programs gives the answers that we give, and a person's file the answer that the catalogue has."""
    adapted = adapt(run, task, method, into=tmp_path / "a")
    found, head = evaluate(adapted, tiny_cohort, draws=50), open_adapted(adapted).task
    assert isinstance(head, LinearTask)
    score = head.score(predict(adapted, tiny_cohort))
    assert {n for n, v in score.items() if np.isfinite(v)}
    assert all(found.figure(n).value == pytest.approx(v) for n, v in score.items() if np.isfinite(v))
    assert {s.modalities for s in found.subsets} == {("image",), ("text",), ("image", "text")}
    (image,) = [r for r in tiny_cohort.records("modality = 'image'") if r.patient == "CXR-0256"][:1]
    answer = predict_files(adapted, [small_hospital / image.uri])
    assert answer.used == (Modality.IMAGE,)
    (told,) = predict(adapted, tiny_cohort, patients=["CXR-0256"], modalities=["image"]).outputs
    assert [v for k, v in answer.values.items() if k.startswith(("probability", "score"))] == pytest.approx(
        list(told), abs=1e-3
    )
    if method == "zero_shot":
        with pytest.raises(AdaptError, match=f"a graph of '{task}' by zero_shot"):
            export(adapted, "pt2", modality="image", into=tmp_path / "model.pt2")
        return
    made = export(adapted, "pt2", modality="image", into=tmp_path / "model.pt2")
    assert made.difference < 1e-5
    assert made.output.startswith(f"(1 {len(told)})")


def test_zero_shot_is_the_difference_of_mean_cosines(tiny_run: Run, tiny_cohort: Cohort, tmp_path: Path) -> None:
    """Worked out patient by patient from the embeddings that `embed` gives."""
    yes, no = ("COVID-19 pneumonia.", "Positive for SARS-CoV-2."), ("Clear lungs.",)
    method = {"kind": "zero_shot", "yes": yes, "no": no, "temperature": 0.5}
    run = adapt(tiny_run, "finding", method, inputs=["image"], into=tmp_path)
    whose, images = embed(tiny_run, tiny_cohort)[Modality.IMAGE]
    cosines = images @ spoken(tiny_run, (*yes, *no)).T
    wanted = dict(zip(whose, (cosines[:, :2].mean(1) - cosines[:, 2]) / 0.5, strict=True))
    answers = predict(run, tiny_cohort)
    assert set(answers.patients) == set(wanted)
    logits = np.log(answers.outputs / (1 - answers.outputs))
    np.testing.assert_allclose(logits, [wanted[p] for p in answers.patients], atol=1e-4)


def test_of_classes_it_is_a_softmax_of_mean_cosines(run: Run, tiny_cohort: Cohort, tmp_path: Path) -> None:
    method = {
        "kind": "zero_shot",
        "yes": ["{}.", "A note of {}."],
        "words": {"No Finding": "health"},
        "temperature": 0.2,
    }
    adapted = adapt(run, "cause", method, inputs=["image"], into=tmp_path)
    words = ("COVID-19", "Pneumocystis", "health")
    whose, images = embed(run, tiny_cohort)[Modality.IMAGE]
    means = np.stack([images @ spoken(run, (f"{w}.", f"A note of {w}.")).T for w in words]).mean(2).T / 0.2
    wanted = np.exp(means) / np.exp(means).sum(1, keepdims=True)
    answers = predict(adapted, tiny_cohort)
    np.testing.assert_allclose(answers.outputs, [wanted[list(whose).index(p)] for p in answers.patients], atol=1e-4)
    assert adapted.adapter["sentences"]["No Finding"] == {"yes": ["health.", "A note of health."]}


def test_each_finding_is_a_classification_of_its_own(run: Run, tiny_cohort: Cohort, tmp_path: Path) -> None:
    answers = predict(adapt(run, "signs", "zero_shot", into=tmp_path / "all"), tiny_cohort)
    alone = predict(
        adapt(run, "finding", {"kind": "zero_shot", "words": {"COVID-19": "COVID 19"}}, into=tmp_path / "one"),
        tiny_cohort,
    )
    assert answers.patients == alone.patients
    np.testing.assert_allclose(answers.outputs[:, 0], alone.outputs, atol=1e-5)
    assert not np.allclose(answers.outputs[:, 1], alone.outputs, atol=1e-3)


def test_sentences_are_made_of_the_finding_where_none_are_given() -> None:
    made = sentences(ZeroShot(), SPEC)["COVID-19"]
    assert "There is COVID-19." in made["yes"]
    assert "No evidence of COVID-19." in made["no"]
    assert sentences(ZeroShot(yes=("Ill.",)), SPEC) == {"COVID-19": {"yes": ("Ill.",), "no": made["no"]}}


def test_of_classes_and_findings_they_are_made_of_each_one_s_words() -> None:
    made = sentences(ZeroShot(words={"No Finding": "a normal lung"}), CAUSE)
    assert list(made) == ["COVID-19", "Pneumocystis", "No Finding"]
    assert made["No Finding"] == {"yes": tuple(t.replace("{}", "a normal lung") for t in YES)}
    graded = Classes(column="tumour_stage", classes=(("I",), ("II",), ("benign",)))
    assert [m["yes"][0] for m in sentences(ZeroShot(), graded).values()] == [
        "tumour stage I.",
        "tumour stage II.",
        "benign.",
    ]
    found = sentences(ZeroShot(yes=("With {}.",), no=("Without {}.",)), SIGNS)
    assert found["COVID_19"] == {"yes": ("With COVID 19.",), "no": ("Without COVID 19.",)}


@pytest.mark.parametrize(("method", "spec", "found"), [
    ({"no": ["No {}."]}, CAUSE, "say no, of classes"),
    ({"yes": ["Ill."]}, CAUSE, "the sentence 'Ill.' for 3 classes"),
    ({"no": ["Clear lungs."]}, SIGNS, "the sentence 'Clear lungs.' for 2 findings"),
    ({"words": {"No Findings": "health"}}, CAUSE, "words of 'No Findings', which is none of the classes"),
])  # fmt: skip
def test_sentences_that_tell_nothing_apart_are_refused(method: dict[str, Any], spec: Any, found: str) -> None:
    with pytest.raises(AdaptError, match=found):
        sentences(ZeroShot.model_validate(method), spec)


@pytest.mark.parametrize("method", ["prototype", "knn", "zero_shot"])
@pytest.mark.parametrize("task", ["hippocampus", "survival"])
def test_what_has_no_classes_is_refused(method: str, task: str, tiny_run: Run) -> None:
    with pytest.raises(AdaptError, match=f"the method {method} for '{task}'"):
        adapt(tiny_run, task, method)
