"""Answers without training, against scikit-learn's and against what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from polyclinic.adaptation import AdaptError, adapt, open_adapted
from polyclinic.adaptation.shots import NEIGHBOURS, Neighbours, fit_class_prototypes, fit_prototypes, sentences
from polyclinic.cohort import Cohort
from polyclinic.inference import answer_cohort, embed, predict
from polyclinic.schema import Modality, Ragged, Target
from polyclinic.tasks import Classes, ClassesTask, Classification, ClassificationTask
from polyclinic.tokens.text import as_note
from polyclinic.training import Run
from polyclinic.training.methods import Knn, ZeroShot

SPEC = Classification(column="finding", positive=("COVID-19",))


def two(n: int, apart: float = 2.0, width: int = 64, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Patients of two normal distributions of unit spread, whose means are so far apart."""
    draws = torch.Generator().manual_seed(seed)
    y = (torch.arange(n) % 3 == 0).float()
    x = torch.randn(n, width, generator=draws)
    x[:, 0] += apart * y
    return x, y


def views(x: torch.Tensor, y: torch.Tensor) -> list[Any]:
    return [(x, Target(y, torch.ones(len(y), dtype=torch.bool)))]


def normed(x: torch.Tensor) -> np.ndarray:
    return F.layer_norm(x, x.shape[1:]).double().numpy()


def test_a_prototype_is_the_nearest_centroid() -> None:
    x, y = two(60)
    new, _ = two(200, seed=1)
    head = ClassificationTask("finding", SPEC, 64)
    fit_prototypes(head, views(x, y))
    peer = NearestCentroid().fit(normed(x), y.numpy()).predict(normed(new))
    np.testing.assert_array_equal((head.read(new).detach() > 0).numpy(), peer > 0)


def four(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Patients of three of four classes, normally about means that are two apart, and of the third fewer."""
    draws = torch.Generator().manual_seed(seed)
    y = torch.tensor([0, 0, 1, 1, 2])[torch.randint(5, (n,), generator=draws)]
    x = torch.randn(n, 64, generator=draws)
    x[torch.arange(n), y] += 2.0
    return x, y.float()


def among() -> ClassesTask:
    return ClassesTask("site", Classes(column="site", classes=(("a",), ("b",), ("c",), ("nowhere",)), prior="even"), 64)


def test_of_several_classes_the_nearest_centroid_is_said() -> None:
    (x, y), (new, _), head = four(90), four(200, 1), among()
    fit_class_prototypes(head, views(x, y))
    head.to_prevalence(y.long().tolist())
    told = head.answer(head.read(new)).detach()
    peer = NearestCentroid().fit(normed(x), y.numpy()).predict(normed(new))
    np.testing.assert_array_equal(told.argmax(1).numpy(), peer)
    assert told[:, 3].max() < 1e-4, "nobody was of that class"


def test_of_several_classes_a_prototype_is_as_sure_as_it_may_be() -> None:
    """No steeper or flatter one explains new patients better by more than a hair, whether a class has many or two patients."""
    for many, hair in ((2000, 0.002), (40, 0.05)):
        (x, y), (new, truth), head = four(many), four(2000, 1), among()
        fit_class_prototypes(head, views(x, y))
        with torch.no_grad():
            said = head.read(new)[:, :3]
        weight = 1 / torch.bincount(truth.long()).float()
        lost = [float(F.cross_entropy(s * said, truth.long(), weight)) for s in (0.5, 0.7, 0.85, 1.0, 1.2, 1.4, 2.0)]
        assert lost[3] < min(lost) + hair
        assert lost[3] < np.log(3)
    one_each = among()
    fit_class_prototypes(one_each, views(x[:3], torch.tensor([0.0, 1.0, 2.0])))
    assert one_each.read(x[:3]).argmax(1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("apart", [0.5, 2.0])
def test_a_prototype_is_as_sure_as_a_logistic_regression_along_its_line(apart: float) -> None:
    x, y = two(3000, apart)
    head = ClassificationTask("finding", SPEC, 64)
    fit_prototypes(head, views(x, y))
    new, truth = two(3000, apart, seed=1)
    with torch.no_grad():
        at, logits = head.read(x)[:, None].numpy(), head.read(new)[:, None].numpy()
    peer = LogisticRegression(C=np.inf, class_weight="balanced").fit(at, y.numpy())
    weights = np.where(truth > 0, 2.0, 1.0)
    ours = log_loss(truth, 1 / (1 + np.exp(-logits)), sample_weight=weights)
    assert ours == pytest.approx(log_loss(truth, peer.predict_proba(logits), sample_weight=weights), abs=0.01)


def test_patients_who_cannot_be_told_apart_leave_a_prototype_less_sure_than_they_seem() -> None:
    """In 64 numbers 30 patients are told apart by chance; what others' means say of each is worth as much as of a new one."""
    ours, naive = [], []
    for seed in range(10):
        (x, y), (new, truth) = two(30, 0.0, seed=seed), two(300, 0.0, seed=seed + 100)
        head = ClassificationTask("finding", SPEC, 64)
        fit_prototypes(head, views(x, y))
        with torch.no_grad():
            seen, logits = head.read(x), head.read(new)
        spread = torch.cat([seen[y > 0] - seen[y > 0].mean(), seen[y < 1] - seen[y < 1].mean()]).var()
        steep = (seen[y > 0].mean() - seen[y < 1].mean()) / spread
        ours.append(log_loss(truth, torch.sigmoid(logits).numpy()))
        naive.append(log_loss(truth, torch.sigmoid(steep * logits).numpy()))
        assert len(logits.unique()) == 300  # and still they are ranked
    assert np.mean(ours) < 0.9 < np.mean(naive)


def test_one_patient_of_each_class_stands_at_two() -> None:
    x, y = torch.randn(2, 8), torch.tensor([0.0, 1.0])
    head = ClassificationTask("finding", SPEC, 8)
    fit_prototypes(head, views(x, y))
    torch.testing.assert_close(head.read(x).detach(), torch.tensor([-2.0, 2.0]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("k", [1, 5, 15])
def test_neighbours_are_scikit_learn_s(k: int) -> None:
    x, y = two(60)
    new, _ = two(40, seed=1)
    head = Neighbours("finding", SPEC, 64, 0.1)
    assert head.fit(Knn(k=k), views(x, y)) == k
    centred = normed(x) - normed(x).mean(0)
    weigh: Any = lambda distance: np.exp((1 - distance) / 0.1)
    peer = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=weigh).fit(centred, y.numpy())
    share = peer.predict_proba(normed(new) - normed(x).mean(0))[:, 1]
    common = float(y.mean())
    wanted = np.log((k * share + common) / (k * (1 - share) + 1 - common))
    np.testing.assert_allclose(head.read(new).numpy(), wanted, atol=1e-4)


def test_k_is_the_one_by_which_the_others_tell_each_best() -> None:
    x, y = two(60, apart=1.5)
    head = Neighbours("finding", SPEC, 64, 0.07)
    chosen = head.fit(Knn(), views(x, y))

    def lost(k: int) -> float:
        answers = []
        for left_out in range(60):
            rest, fresh = torch.arange(60) != left_out, Neighbours("finding", SPEC, 64, 0.07)
            fresh.mean = head.mean
            fresh.classes, fresh.vectors, fresh.k = y[rest], head.vectors[rest], torch.tensor(k)
            share = float(torch.sigmoid(fresh.read(x[left_out : left_out + 1])))
            answers.append(share)
        return float(log_loss(y, answers))

    losses = {k: lost(k) for k in NEIGHBOURS}
    assert losses[chosen] == pytest.approx(min(losses.values()), abs=0.01)
    assert chosen in NEIGHBOURS


def test_a_patient_is_not_their_own_neighbour_in_another_view() -> None:
    """Shown whole and by one modality, a patient is one patient: votes of the same one would make any k look sure."""
    chosen = set()
    for seed in range(5):
        x, y = two(24, apart=0.0, seed=seed)
        head = Neighbours("finding", SPEC, 64, 0.07)
        chosen.add(head.fit(Knn(), [*views(x, y), *views(x + 1e-3, y)]))
        assert len(head.vectors) == 48
    assert chosen != {1}  # of noise one's own copy would be the best answer, each time


@pytest.mark.parametrize("method", ["prototype", "knn", "zero_shot"])
def test_they_are_runs_like_any_other(method: str, tiny_run: Run, tiny_cohort: Cohort, tmp_path: Path) -> None:
    run = adapt(tiny_run, "finding", method, into=tmp_path / "a")
    again = adapt(tiny_run, "finding", method, into=tmp_path / "b")
    assert (run.path / "adapter.safetensors").read_bytes() == (again.path / "adapter.safetensors").read_bytes()
    answers = predict(run, tiny_cohort)
    assert answers.mask.any()
    assert np.isfinite(answers.outputs[answers.mask]).all()
    assert ((answers.outputs >= 0) & (answers.outputs <= 1)).all()
    assert run.adapter["labels"] == (0 if method == "zero_shot" else len(run.adapter["labelled"]))
    before, after = tiny_run.model().state_dict(), open_adapted(run).model.state_dict()
    assert all(torch.equal(t, after[n]) for n, t in before.items())
    place = answer_cohort(run, tiny_cohort, into=tmp_path / "c", patients=answers.patients)
    told = {row["patient"]: row["output"] for row in pq.read_table(next(place.glob("answers-*.parquet"))).to_pylist()}
    for patient, output in zip(answers.patients, answers.outputs, strict=True):
        assert told[patient] == pytest.approx(float(output), abs=1e-5)


def test_zero_shot_is_the_difference_of_mean_cosines(tiny_run: Run, tiny_cohort: Cohort, tmp_path: Path) -> None:
    """Worked out patient by patient from the embeddings that `embed` gives."""
    yes, no = ("COVID-19 pneumonia.", "Positive for SARS-CoV-2."), ("Clear lungs.",)
    method = {"kind": "zero_shot", "yes": yes, "no": no, "temperature": 0.5}
    run = adapt(tiny_run, "finding", method, inputs=["image"], into=tmp_path)
    model, standard = tiny_run.model(), tiny_run.recipe.standards()[Modality.TEXT]
    vectors = []
    for sentence in (*yes, *no):
        words = [as_note(sentence, standard, tiny_run.fingerprint)]
        one = Ragged(words, torch.zeros(1, dtype=torch.int64), torch.zeros(1), None, 1, ["0"])
        tokens = model.bridged(Modality.TEXT, model.encoder(Modality.TEXT)(one))
        vectors.append(model.towers({Modality.TEXT: tokens})[Modality.TEXT].vectors[0].detach().numpy())
    whose, images = embed(tiny_run, tiny_cohort)[Modality.IMAGE]
    cosines = images @ np.stack(vectors).T
    wanted = dict(zip(whose, (cosines[:, :2].mean(1) - cosines[:, 2]) / 0.5, strict=True))
    answers = predict(run, tiny_cohort)
    assert set(answers.patients) == set(wanted)
    logits = np.log(answers.outputs / (1 - answers.outputs))
    np.testing.assert_allclose(logits, [wanted[p] for p in answers.patients], atol=1e-4)


def test_sentences_are_made_of_the_finding_where_none_are_given() -> None:
    yes, no = sentences(ZeroShot(), SPEC)
    assert "There is COVID-19." in yes
    assert "No evidence of COVID-19." in no
    assert sentences(ZeroShot(yes=("Ill.",)), SPEC) == (("Ill.",), no)


@pytest.mark.parametrize("method", ["prototype", "knn", "zero_shot"])
@pytest.mark.parametrize("task", ["hippocampus", "survival"])
def test_what_has_no_classes_is_refused(method: str, task: str, tiny_run: Run) -> None:
    with pytest.raises(AdaptError, match=f"the method {method} for '{task}'"):
        adapt(tiny_run, task, method)
