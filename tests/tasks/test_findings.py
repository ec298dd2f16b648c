from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score, roc_curve

from polyclinic.adaptation.probe import fit_head
from polyclinic.schema import Modality, Target
from polyclinic.tasks import Classification, ClassificationTask, Findings, FindingsTask, Predictions
from polyclinic.tasks.classification import threshold

NAMES = ("effusion", "nodule", "fracture")
SPEC = Findings.model_validate({"findings": {n: {"column": n, "positive": ["Y"], "negative": ["N"]} for n in NAMES}})
NAN = float("nan")


def head(width: int = 4) -> FindingsTask:
    return FindingsTask("chest", SPEC, width)


def partly(n: int, seed: int = 0) -> tuple[torch.Tensor, Target]:
    """Vectors (n 4) and findings (n 3), some unknown of some."""
    draws = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=draws)
    logits = x @ torch.randn(4, 3, generator=draws) * 1.5 - 0.5
    y = (torch.rand(n, 3, generator=draws) < logits.sigmoid()).float()
    y[torch.rand(n, 3, generator=draws) < 0.3] = NAN
    return x, Target(y, y.isfinite().any(1))


def test_the_loss_is_the_mean_of_the_findings_own() -> None:
    _, target = partly(40)
    output = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
    one = ClassificationTask("f", Classification(column="f", positive=("Y",)), 4)
    assert isinstance(target.values, torch.Tensor)
    each = [
        one.loss(output[:, k], Target(target.values[:, k].nan_to_num(), target.values[:, k].isfinite()))
        for k in range(3)
    ]
    torch.testing.assert_close(head().loss(output, target), torch.stack([e for e in each if e is not None]).mean())


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0, NAN]), min_size=3, max_size=3), min_size=1, max_size=8))
def test_a_masked_finding_gives_no_gradient(rows: list[list[float]]) -> None:
    values, output = torch.tensor(rows), torch.zeros(len(rows), 3, requires_grad=True)
    loss = head().loss(output, Target(values, torch.ones(len(rows), dtype=torch.bool)))
    if loss is None:
        assert not values.isfinite().any()
        return
    (gradient,) = torch.autograd.grad(loss, output)
    assert torch.equal(gradient != 0, values.isfinite())
    hidden = head().loss(output, Target(values, torch.arange(len(rows)) > 0))
    if hidden is not None:
        assert not torch.autograd.grad(hidden, output)[0][0].any()


def test_each_finding_is_a_logistic_regression_of_those_of_whom_it_is_known() -> None:
    x, target = partly(300)
    assert isinstance(target.values, torch.Tensor)
    task = head()
    fit_head(task, [(x, target)], seed=0, ridge=1e-7)
    task.to_prevalence(target.values[target.mask].tolist())
    read = ((task.norm(x) - task.mean) / task.sd).numpy()
    for k in range(3):
        known = target.values[:, k].isfinite().numpy()
        y = target.values[:, k].numpy()[known]
        peer = LogisticRegression(class_weight="balanced", C=1e6, max_iter=5000).fit(read[known], y)
        wanted = peer.decision_function(read) + np.log(y.mean() / (1 - y.mean()))
        np.testing.assert_allclose(task.read(x).detach()[:, k].numpy(), wanted, atol=2e-2)


def test_thresholds_are_the_best_on_the_training_patients_and_move_with_the_prevalence() -> None:
    draws = np.random.default_rng(0)
    truth = draws.integers(0, 2, 60)
    scores = truth + draws.normal(size=60)
    cut = threshold(torch.tensor(scores), torch.tensor(truth), "f1")
    assert f1_score(truth, scores >= cut) == max(f1_score(truth, scores >= level) for level in scores)
    fall, rise, _ = roc_curve(truth, scores)
    cut = threshold(torch.tensor(scores), torch.tensor(truth), "youden")
    assert (scores >= cut)[truth == 1].mean() - (scores >= cut)[truth == 0].mean() == pytest.approx((rise - fall).max())
    x, target = partly(200)
    task = head()
    fit_head(task, [(x, target)], seed=0, ridge=0.01)
    called = task.answer(task.read(x)).detach().numpy() >= np.array(task.thresholds)
    assert isinstance(target.values, torch.Tensor)
    task.to_prevalence(target.values[target.mask].tolist())
    again = task.answer(task.read(x)).detach().numpy() >= np.array(task.thresholds)
    assert (called == again).mean() > 0.995  # rounding


def test_metrics_are_scikit_learns_over_those_of_whom_a_finding_is_known() -> None:
    _, target = partly(80)
    assert isinstance(target.values, torch.Tensor)
    truth, said = target.values.numpy(), np.random.default_rng(0).random((80, 3))
    truth[:, 2] = np.where(np.isfinite(truth[:, 2]), 0, np.nan)  # nobody has a fracture
    found = head().score(Predictions("chest", tuple(map(str, range(80))), said, truth, target.mask.numpy()))
    each = []
    for k, name in enumerate(NAMES[:2]):
        known = np.isfinite(truth[:, k])
        each.append(roc_auc_score(truth[known, k], said[known, k]))
        assert found[f"auroc_{name}"] == pytest.approx(each[-1])
        assert found[f"average_precision_{name}"] == pytest.approx(
            average_precision_score(truth[known, k], said[known, k])
        )
        assert found[f"f1_{name}"] == pytest.approx(f1_score(truth[known, k], said[known, k] >= 0.5))
    assert np.isnan(found["auroc_fracture"])
    assert found["macro_auroc"] == pytest.approx(np.mean(each))


def test_the_answer_lists_each_finding_with_its_score() -> None:
    answer = head().present([0.2, 0.7, 0.6], (Modality.IMAGE,))
    assert (
        answer.headline
        == "scores: nodule 0.70 (above its threshold), fracture 0.60 (above its threshold), effusion 0.20"
    )
    assert answer.values == {
        "above_threshold": "nodule, fracture", "score_effusion": 0.2, "score_nodule": 0.7, "score_fracture": 0.6,
    }  # fmt: skip
    assert head().present([0.2, 0.1, 0.3], ()).values["above_threshold"] == "none"


def test_one_finding_is_a_classification() -> None:
    with pytest.raises(ValidationError):
        Findings.model_validate({"findings": {"one": {"column": "x", "positive": ["Y"]}}})
