"""The nearest patients' votes, against scikit-learn's and against what they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from sklearn.neighbors import KNeighborsClassifier

from polyclinic.adaptation.neighbours import NEIGHBOURS, Votes, fit_votes, voting
from polyclinic.objectives.outcomes import log_probabilities
from polyclinic.tasks import ClassificationTask, Grade, GradeTask, LinearTask
from polyclinic.training.methods import Knn
from vectors import SPEC, among, both, four, normed, signs, two, views


def votes_of(head: LinearTask) -> Votes:
    assert isinstance(head.head, Votes)
    return head.head


def finding(temperature: float = 0.07) -> LinearTask:
    return voting(ClassificationTask("finding", SPEC, 64), 64, temperature)


def graded() -> LinearTask:
    spec = Grade(column="stage", grades=(("I",), ("II",), ("III",)))
    return voting(GradeTask("stage", spec, 64), 64, 0.1)


def peer(k: int, x: torch.Tensor, y: torch.Tensor, new: torch.Tensor) -> np.ndarray:
    """scikit-learn's shares of the votes (n classes), of vectors about the mean of x."""
    centre = normed(x).mean(0)
    weigh: Any = lambda distance: np.exp((1 - distance) / 0.1)
    return (
        KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=weigh)
        .fit(normed(x) - centre, y.numpy())
        .predict_proba(normed(new) - centre)
    )


@pytest.mark.parametrize("k", [1, 5, 15])
def test_neighbours_are_scikit_learn_s(k: int) -> None:
    (x, y), (new, _), head = two(60), two(40, seed=1), finding(0.1)
    assert fit_votes(head, Knn(k=k), views(x, y)) == k
    share, common = peer(k, x, y, new)[:, 1], float(y.mean())
    wanted = np.log((k * share + common) / (k * (1 - share) + 1 - common))
    np.testing.assert_allclose(head.read(new).numpy(), wanted, atol=1e-4)


@pytest.mark.parametrize("prior", ["training", "even"])
@pytest.mark.parametrize("k", [1, 5, 15])
def test_neighbours_of_several_classes_are_scikit_learn_s(k: int, prior: str) -> None:
    """An answer is the votes with the shares of the classes as one more; where these are not wanted, divided by them."""
    (x, y), (new, _), head = four(90), four(40, 1), voting(among(prior), 64, 0.1)
    fit_votes(head, Knn(k=k), views(x, y))
    head.to_prevalence(y.long().tolist())
    common = np.bincount(y.long().numpy(), minlength=3) / len(y)
    wanted = (k * peer(k, x, y, new) + common) / (k + 1)
    wanted = wanted / common if prior == "even" else wanted
    told = head.answer(head.read(new)).numpy()
    np.testing.assert_allclose(told[:, :3], wanted / wanted.sum(1, keepdims=True), atol=1e-4)
    assert told[:, 3].max() < 1e-6, "nobody was of that class"


def test_neighbours_of_each_finding_are_those_of_whom_it_is_known() -> None:
    (x, y), (new, _), head = signs(90), signs(40, 1), voting(both(), 64, 0.1)
    fit_votes(head, Knn(k=5), views(x, y))
    told = head.answer(head.read(new)).numpy()
    at = lambda rows: normed(rows) - normed(x).mean(0)  # about the mean of all, whatever is known of them
    weigh: Any = lambda distance: np.exp((1 - distance) / 0.1)
    for n in range(2):
        known = y[:, n].isfinite()
        peer = KNeighborsClassifier(5, metric="cosine", algorithm="brute", weights=weigh)
        share = peer.fit(at(x)[known], y[known, n].numpy()).predict_proba(at(new))[:, 1]
        np.testing.assert_allclose(told[:, n], (5 * share + float(y[known, n].mean())) / 6, atol=1e-4)


def test_what_is_known_of_three_is_voted_on_by_three() -> None:
    """However many neighbours are asked; a patient of whom a finding is not known changes nothing of it."""
    (x, y), (new, _), head = signs(90), signs(40, 1), voting(both(), 64, 0.1)
    y[3:, 1] = torch.nan
    y[:3, 1] = torch.tensor([1.0, 0, 0])
    fit_votes(head, Knn(k=15), views(x, y))
    votes = votes_of(head)
    alike = torch.nn.functional.normalize(head.norm(new) - head.mean, dim=1) @ votes.vectors[:3].T
    share = torch.softmax(alike / 0.1, 1)[:, 0]
    torch.testing.assert_close(head.answer(head.read(new))[:, 1], (3 * share + 1 / 3) / 4)
    few = voting(both(), 64, 0.1)
    few.mean, fewer = head.mean, votes_of(few)
    fewer.vectors, fewer.answers, fewer.common, fewer.k = votes.vectors[:3], votes.answers[:3], votes.common, votes.k
    torch.testing.assert_close(few.read(new)[:, 1], head.read(new)[:, 1])


@pytest.mark.parametrize("k", [1, 5])
def test_neighbours_of_a_grade_are_scikit_learn_s(k: int) -> None:
    (x, y), (new, _), head = four(90), four(40, 1), graded()
    fit_votes(head, Knn(k=k), views(x, y))
    common = np.bincount(y.long().numpy(), minlength=3) / len(y)
    wanted = (k * peer(k, x, y, new) + common) / (k + 1)
    output = head.read(new)
    np.testing.assert_allclose(log_probabilities(output).exp().numpy(), wanted, atol=1e-4)
    np.testing.assert_allclose(head.answer(output).numpy(), wanted, atol=1e-4)


def test_k_is_the_one_by_which_the_others_tell_each_best() -> None:
    (x, y), head = two(60, apart=1.5), finding()
    chosen, votes = fit_votes(head, Knn(), views(x, y)), votes_of(head)

    def lost(k: int) -> float:
        answers = []
        for left_out in range(60):
            rest, fresh = torch.arange(60) != left_out, finding()
            fresh.mean, others = head.mean, votes_of(fresh)
            others.answers, others.vectors = votes.answers[rest], votes.vectors[rest]
            others.common, others.k = votes.common, torch.tensor(k)
            answers.append(float(torch.sigmoid(fresh.read(x[left_out : left_out + 1]))))
        return float(log_loss(y, answers))

    losses = {k: lost(k) for k in NEIGHBOURS}
    assert losses[chosen] == pytest.approx(min(losses.values()), abs=1e-4)
    assert len(set(losses.values())) == len(NEIGHBOURS)


def test_k_of_several_classes_and_of_findings_is_the_one_too() -> None:
    """Without the patient's own vote: scikit-learn's shares of each by all others, and the log loss of what they make."""
    x, y = four(60)
    head = voting(among(), 64, 0.1)
    chosen = fit_votes(head, Knn(), views(x, y))
    common = np.bincount(y.long().numpy(), minlength=3) / len(y)

    def lost(k: int) -> float:
        at, weigh = normed(x) - normed(x).mean(0), lambda distance: np.exp((1 - distance) / 0.1)
        told = []
        for left_out in range(60):
            rest = np.arange(60) != left_out
            others: Any = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=weigh)  # type: ignore[arg-type]
            share = others.fit(at[rest], y[rest].numpy()).predict_proba(at[left_out : left_out + 1])[0]
            told.append((k * share + common) / (k + 1))
        return float(log_loss(y, np.array(told)))

    losses = {k: lost(k) for k in NEIGHBOURS}
    assert chosen == min(NEIGHBOURS, key=lambda k: losses[k])
    several = voting(both(), 64, 0.07)
    (x, y), noise = signs(60), torch.randn(60, 64, generator=torch.Generator().manual_seed(3))
    assert fit_votes(several, Knn(), views(noise, y)) == NEIGHBOURS[-1]  # of noise the more the better


def test_a_patient_is_not_their_own_neighbour_in_another_view() -> None:
    """Shown whole and by one modality, a patient is one patient: votes of the same one would make any k look sure."""
    chosen = set()
    for seed in range(5):
        (x, y), head = two(24, apart=0.0, seed=seed), finding()
        chosen.add(fit_votes(head, Knn(), [*views(x, y), *views(x + 1e-3, y)]))
        assert len(votes_of(head).vectors) == 48
    assert chosen != {1}  # of noise one's own copy would be the best answer, each time
