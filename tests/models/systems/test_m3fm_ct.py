"""M3FM for CT: the recipe's stages on a small phantom; what it answers to questions it learned and to others."""

from __future__ import annotations

import numpy as np
import pytest

import polyclinic as pc
from polyclinic.adaptation import AdaptError
from polyclinic.cohort import Cohort
from polyclinic.inference.ask import system_of
from polyclinic.objectives import ObjectiveError
from polyclinic.phantom import simulate
from polyclinic.schema import Batch, Modality
from polyclinic.training import Recipe, Run
from polyclinic.trust.measures.figures import figures

pytestmark = pytest.mark.slow
SMALL = (
    "encoders.volume={kind: vit3d, size: [32, 32, 32], spacing_mm: null, patch: [8, 8, 8], scales: [1, 2], width: 32, depth: 1, heads: 2}",
    "encoders.table={kind: events, width: 32, depth: 1, heads: 2, exclude: [date, admitted, malignant, fibrillation, infarct, treated]}",
    "encoders.text={kind: bert, words: 48, vocabulary: 512, width: 32, depth: 1, heads: 2}", "model.width=32", "model.embedding=16",
    "model.fusion.depth=1", "model.fusion.heads=2", "precision=fp32", "cohort.split.test=0.3", "stages.0.steps=10", "stages.0.batch=8",
    "stages.0.warmup=2", "stages.0.lr=2e-3", "stages.1.steps=120", "stages.1.batch=24", "stages.1.warmup=5", "stages.1.lr=3e-3",
    "stages.0.objective.parts.0.width=32", "stages.0.objective.parts.0.depth=1",
    "stages.1.objective.tasks=[emphysema, heart_failure, survival]",
)  # fmt: skip


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    at = tmp_path_factory.mktemp("screening")
    return pc.ingest(simulate(at / "made", 120, size=32, modalities=["ct", "report"]).hospital, at / "cohort")


@pytest.fixture(scope="module")
def run(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return pc.pretrain(Recipe.load("m3fm-ct", SMALL), cohort, into=tmp_path_factory.mktemp("runs"))


def test_it_learns(run: Run) -> None:
    rows = [r for r in run.metrics().to_pylist() if r["stage"] == "questions"]
    loss = [r["value"] for r in rows if r["name"] == "loss"]
    assert {r["name"] for r in rows} >= {"loss", *(f"question/{t}" for t in ("emphysema", "heart_failure", "survival"))}
    assert np.mean(loss[-30:]) < np.mean(loss[:30]) - 0.08


def test_the_words_say_which_task_is_meant(run: Run, cohort: Cohort) -> None:
    """Of the training patients, whose labels it has seen: one answer for all tasks, and yet each as common as its finding."""
    for task in ("emphysema", "heart_failure"):
        found = pc.ask(run, task, cohort=cohort, patients=run.split.train)
        assert found.outputs.mean() == pytest.approx(found.targets[found.mask].mean(), abs=0.15)
    heart = pc.ask(run, "heart_failure", cohort=cohort, patients=run.split.train)
    assert figures("classification", heart, run.split.hash, draws=200)[0].value > 0.7


def test_its_answers_are_predictions_of_the_test_patients(run: Run, cohort: Cohort) -> None:
    found = pc.ask(run, "emphysema", cohort=cohort)
    assert set(found.patients) == set(run.split.test)
    assert set(found.targets[found.mask]) == {0, 1}
    assert 0 < found.mask.mean() < 1  # whom nobody coded
    figure = figures("classification", found, run.split.hash, draws=200)[0]
    assert (figure.name, figure.n) == ("auroc", found.mask.sum())
    hazards = pc.ask(run, "survival", cohort=cohort)
    assert figures("survival", hazards, run.split.hash, draws=200)[0].value > 0.6  # age tells much
    assert hazards.targets.shape == (len(hazards.patients), 2)


def test_what_is_missing_is_no_obstacle_and_what_may_not_be_read_is_not(run: Run, cohort: Cohort) -> None:
    both, table, volume = (pc.ask(run, "emphysema", cohort=cohort, inputs=i) for i in (None, ["table"], ["volume"]))
    alone = np.array([m == (Modality.TABLE,) for m in both.modalities])
    assert 0 < alone.mean() < 1
    np.testing.assert_allclose(both.outputs[alone], table.outputs[alone], atol=1e-5)
    assert not np.isclose(both.outputs[~alone], table.outputs[~alone], atol=1e-5).any()
    assert set(volume.patients) == {
        p for p, m in zip(both.patients, both.modalities, strict=True) if Modality.VOLUME in m
    }


def test_other_words_may_be_asked(run: Run, cohort: Cohort) -> None:
    """By free text: the answer hears the words."""
    own = pc.ask(run, "emphysema", cohort=cohort)
    same = pc.ask(run, "emphysema", "Is there emphysema?", cohort=cohort)
    np.testing.assert_array_equal(own.outputs, same.outputs)
    other = pc.ask(run, "emphysema", "Is there cardiomegaly?", cohort=cohort)
    assert not np.allclose(own.outputs, other.outputs, atol=1e-3)
    untrained = pc.ask(run, "nodule", cohort=cohort)
    assert np.isfinite(untrained.outputs).all()
    system = system_of(run)
    batch = next(run.loader(cohort, run.split.test).each(4))
    logits = system.answer(batch, "Is there emphysema?", inputs=[Modality.VOLUME, Modality.TABLE])
    np.testing.assert_allclose(logits.sigmoid(), own.outputs[:4], atol=1e-5)
    assert system.answer(Batch({}, {}, ["nobody"]), "Is there emphysema?").isnan().all()


def test_what_cannot_be_asked_is_refused(run: Run, cohort: Cohort, tiny_run: Run) -> None:
    with pytest.raises(AdaptError, match="did not learn to answer"):
        pc.ask(tiny_run, "finding")
    with pytest.raises(AdaptError, match="grade or survival 'emphysima'"):
        pc.ask(run, "emphysima", cohort=cohort)
    with pytest.raises(AdaptError, match="does not read"):
        pc.ask(run, "emphysema", cohort=cohort, inputs=["image"])
    system = system_of(run)
    del system.questions.answers["survival"]
    with pytest.raises(ObjectiveError, match="of kind 'survival'"):
        system.answer(next(run.loader(cohort, run.split.test).each(2)), "How soon?", "survival")
