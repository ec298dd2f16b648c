from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from lifelines import CoxPHFitter
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor

from polyclinic.adaptation.probe import (
    FEW_RIDGE,
    FEWEST,
    FOLDS,
    RIDGES,
    _fit,
    choose_ridge,
    fit_head,
    folds_of,
)  # fmt: skip
from polyclinic.schema import Target
from polyclinic.tasks import Classification, ClassificationTask, Survival, SurvivalTask
from polyclinic.tasks.task import SMALLEST_SPREAD


def finding(width: int) -> ClassificationTask:
    return ClassificationTask("finding", Classification(column="finding", positive=("Y",)), width)


def survival(width: int) -> SurvivalTask:
    return SurvivalTask("survival", Survival(time="t", event="e"), width)


def sample(n: int, width: int, seed: int = 0, strength: float = 1.0) -> tuple[Tensor, Tensor]:
    """Vectors, and a number that the first of their standardised coordinates shifts."""
    draws = torch.Generator().manual_seed(seed)
    x = torch.randn(n, width, generator=draws)
    return x, strength * x[:, 0] + torch.randn(n, generator=draws)


def standardised(x: Tensor) -> np.ndarray:
    return torch.nn.functional.layer_norm(x, x.shape[1:]).double().numpy()


@pytest.mark.parametrize("ridge", [0.02, 0.2])
def test_a_classification_is_the_optimum_of_ridge_logistic_regression(ridge: float) -> None:
    """scikit-learn minimises |w|²/2 + C Σ loss; ours a mean loss with both classes alike, + ridge |w|²."""
    x, score = sample(90, 6)
    y = (score > 0.7).float()
    head = finding(6)
    _fit(head, [(x, Target(y, torch.ones(90, dtype=torch.bool)))], ridge)
    peer = LogisticRegression(C=1 / (2 * ridge * 90), class_weight="balanced", tol=1e-8, max_iter=2000)
    peer.fit(standardised(x), y.numpy())
    np.testing.assert_allclose(head.head.weight.detach().numpy(), peer.coef_, atol=2e-3)
    np.testing.assert_allclose(head.head.bias.detach().numpy(), peer.intercept_, atol=2e-3)


def test_unlabelled_patients_do_not_count() -> None:
    x, score = sample(60, 5)
    y, known = (score > 0).float(), torch.arange(60) < 40
    all_of_them, labelled = finding(5), finding(5)
    fit_head(all_of_them, [(x, Target(torch.where(known, y, 1 - y), known))], seed=0)
    fit_head(labelled, [(x[known], Target(y[known], torch.ones(40, dtype=torch.bool)))], seed=0)
    torch.testing.assert_close(all_of_them.head.weight, labelled.head.weight, atol=1e-5, rtol=1e-5)


def test_a_head_answers_from_each_modality_alone() -> None:
    """Alone, a modality shows elsewhere in the vector than among others: only a head that saw it so can tell."""
    draws = torch.Generator().manual_seed(1)
    y = (torch.arange(200) % 2).float()
    having = lambda place: torch.randn(200, 12, generator=draws).index_add(1, torch.tensor([place]), 3 * y[:, None])
    everything, one, other = (
        (having(place), Target(y, torch.rand(200, generator=draws) < known))
        for place, known in ((0, 2.0), (2, 0.7), (4, 0.7))
    )
    whole, each = finding(12), finding(12)
    fit_head(whole, [everything], seed=0)
    fit_head(each, [everything, one, other], seed=0)
    told = lambda head, view: float(roc_auc_score(y, head.read(view[0]).detach()))
    assert min(told(each, view) for view in (everything, one, other)) > 0.7
    assert max(told(whole, view) for view in (one, other)) < 0.6


def test_what_all_vectors_share_is_taken_off_and_noise_is_not_blown_up() -> None:
    x, score = sample(300, 8)
    y, everybody = (score > 0).float(), torch.ones(300, dtype=torch.bool)
    shared = 0.02 * x + torch.tensor([0.0] * 6 + [5.0, -5.0])  # a vector of which a hundredth tells patients apart
    head = finding(8)
    fit_head(head, [(shared, Target(y, everybody))], seed=0)
    assert float(roc_auc_score(y, head.read(shared).detach())) > 0.7
    assert float(head.sd.min()) == pytest.approx(SMALLEST_SPREAD)
    scaled = (head.norm(shared) - head.mean) / head.sd
    assert scaled.mean(0).abs().max() < 1e-3
    assert scaled.std(0).max() < 1.001


def test_a_view_in_which_nobody_is_known_does_not_count() -> None:
    x, score = sample(60, 5)
    y, everybody = (score > 0).float(), torch.ones(60, dtype=torch.bool)
    one, two = finding(5), finding(5)
    fit_head(one, [(x, Target(y, everybody))], seed=0)
    fit_head(two, [(x, Target(y, everybody)), (torch.zeros(60, 5), Target(y, ~everybody))], seed=0)
    torch.testing.assert_close(one.head.weight, two.head.weight, atol=1e-5, rtol=1e-5)


def test_survival_is_the_optimum_of_a_cox_model() -> None:
    pd = pytest.importorskip("pandas")
    x, risk = sample(150, 4, strength=0.8)
    draws = torch.Generator().manual_seed(3)
    time = torch.rand(150, generator=draws).clamp(min=1e-6).log().neg() * torch.exp(-risk)
    event = (torch.rand(150, generator=draws) < 0.7).float()
    head = survival(4)
    _fit(head, [(x, Target(torch.stack([time, event], 1), torch.ones(150, dtype=torch.bool)))], 1e-6)
    # A standardised vector's coordinates sum to zero: the last says nothing that the others do not.
    frame = pd.DataFrame(standardised(x)[:, :3]).add_prefix("x").assign(time=time.numpy(), event=event.numpy())
    peer = CoxPHFitter().fit(frame, "time", "event").predict_log_partial_hazard(frame).to_numpy()
    ours = head.read(x).detach().numpy()
    np.testing.assert_allclose(ours - ours.mean(), peer - peer.mean(), atol=5e-3)


def test_the_ridge_is_chosen_among_the_candidates_by_patients_left_out() -> None:
    x, score = sample(120, 40, strength=0.3)  # many coordinates that say nothing
    y = (score > 0).float()
    everybody = torch.ones(120, dtype=torch.bool)
    noisy = choose_ridge(finding(40), [(x, Target(y, everybody))], seed=0)
    x, score = sample(400, 4, strength=6.0)
    clear = choose_ridge(finding(4), [(x, Target((score > 0).float(), torch.ones(400, dtype=torch.bool)))], seed=0)
    assert noisy in RIDGES
    assert clear in RIDGES
    assert noisy > clear


def test_with_few_of_a_class_it_is_not_chosen() -> None:
    x, _ = sample(30, 4)
    y = torch.zeros(30)
    y[: FEWEST - 1] = 1
    assert choose_ridge(finding(4), [(x, Target(y, torch.ones(30, dtype=torch.bool)))], seed=0) == FEW_RIDGE
    times = torch.stack([torch.arange(30.0), y], 1)
    assert choose_ridge(survival(4), [(x, Target(times, torch.ones(30, dtype=torch.bool)))], seed=0) == FEW_RIDGE


def test_folds_deal_each_class_evenly_and_depend_on_the_seed() -> None:
    groups = np.array([1] * 7 + [0] * 20)
    fold = folds_of(groups, 0, FOLDS)
    for group in (0, 1):
        counts = np.bincount(fold[groups == group], minlength=FOLDS)
        assert counts.max() - counts.min() <= 1
    assert (fold == folds_of(groups, 0, FOLDS)).all()
    assert (fold != folds_of(groups, 1, FOLDS)).any()


def test_the_reference_of_a_survival_head_is_its_training_patients() -> None:
    x, risk = sample(50, 4)
    head = survival(4)
    fit_head(
        head,
        [(x, Target(torch.stack([torch.exp(-risk), torch.ones(50)], 1), torch.ones(50, dtype=torch.bool)))],
        seed=0,
    )
    hazards = head.read(x).detach()
    torch.testing.assert_close(head.reference[[0, 50, 100]], torch.quantile(hazards, torch.tensor([0.0, 0.5, 1.0])))


def test_prevalence_is_given_back() -> None:
    """Of a head that says nothing, the answer is the share of the finding; the order of patients stays."""
    head = finding(3)
    head.to_prevalence([1] * 9 + [0])
    assert float(head.read(torch.randn(1, 3)).detach().sigmoid()) == pytest.approx(0.9)
    x, score = sample(4000, 3, strength=2.0)
    y = (score > 2.0).float()
    head = finding(3)
    fit_head(head, [(x, Target(y, torch.ones(4000, dtype=torch.bool)))], seed=0)
    before = head.read(x).detach()
    assert float(before.sigmoid().mean()) > 1.5 * float(y.mean())  # as if both were as common
    head.to_prevalence(y.int().tolist())
    after = head.read(x).detach()
    assert float(after.sigmoid().mean()) == pytest.approx(float(y.mean()), abs=0.02)
    torch.testing.assert_close(
        after - before, torch.full((4000,), math.log(y.mean() / (1 - y.mean()))), atol=1e-4, rtol=0
    )


def test_prevalence_means_nothing_to_other_tasks() -> None:
    head = survival(3)
    head.to_prevalence([])
    assert all(not p.any() for p in head.parameters())
