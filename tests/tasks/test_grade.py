from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score, mean_absolute_error, roc_auc_score

from polyclinic.adaptation.probe import _fit, fit_head
from polyclinic.inference import bundle
from polyclinic.objectives.outcomes import log_probabilities
from polyclinic.schema import Modality, Target
from polyclinic.tasks import Grade, GradeTask, Predictions

STAGE = Grade(column="tumour_stage", grades=(("I",), ("II",), ("III", "IIIB"), ("IV",)))
HOUSING = """21 21 28 34 22 36 10 11 36 61 23 17 43 35 40 26 18 54 13 9 10 8 8 12 6 7 9 18 6 7 15 13 13 7 5 11
14 19 37 17 23 40 3 5 23 78 46 43 48 45 86 15 25 62 20 23 20 10 22 24 7 10 21 57 23 13 31 21 13 5 6 13"""
"""1681 tenants of Copenhagen (Madsen 1976; `housing` of MASS): satisfaction varies fastest, then influence, type and contact."""


def head(spec: Grade = STAGE, width: int = 8) -> GradeTask:
    return GradeTask("stage", spec, width)


def everybody(values: torch.Tensor) -> Target:
    return Target(values.float(), torch.ones(len(values), dtype=torch.bool))


def made(outputs: np.ndarray, targets: np.ndarray) -> Predictions:
    return Predictions("stage", tuple(map(str, range(len(outputs)))), outputs, targets, np.ones(len(outputs), bool))


def graded(n: int, k: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors (n 4), and grades that one direction of them orders, with noise."""
    draws = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=draws)
    latent = x @ torch.tensor([1.5, -1.0, 0.5, 0.0]) + torch.logit(torch.rand(n, generator=draws))
    edges = torch.quantile(latent, torch.linspace(0, 1, k + 1)[1:-1])
    return x, torch.bucketize(latent, edges)


def test_the_likelihood_is_the_published_one() -> None:
    """Venables & Ripley 2002, section 7.3: proportional odds by `polr` of the Copenhagen housing survey; deviance 3479.149."""
    counts = torch.tensor([int(c) for c in HOUSING.split()], dtype=torch.float64).reshape(24, 3)
    influence, kind, contact = (torch.tensor(v, dtype=torch.float64) for v in zip(*(
        (i, t, c) for c in (0.0, 0.3602841) for t in (0.0, -0.5723501, -0.3661866, -1.0910149) for i in (0.0, 0.5663937, 1.2888191)
    ), strict=True))  # fmt: skip
    thresholds = torch.tensor([-0.4961353, 0.6907083], dtype=torch.float64, requires_grad=True)
    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
    score = influence * (1 + shift) + kind + contact
    deviance = -2 * (counts * log_probabilities(score[:, None] - thresholds)).sum()
    assert float(counts.sum()) == 1681
    assert float(deviance.detach()) == pytest.approx(3479.149, abs=5e-4)
    for gradient in torch.autograd.grad(deviance, [thresholds, shift]):  # they published the optimum
        assert gradient.abs().max() < 0.01


def test_without_anything_to_read_the_thresholds_are_the_cumulative_odds() -> None:
    truth = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)
    cumulative = torch.logit(torch.tensor([0.5, 0.2])).expand(10, 2)
    torch.testing.assert_close(log_probabilities(cumulative)[0].exp(), torch.tensor([0.5, 0.3, 0.2]))
    spec = Grade(column="g", grades=(("a",), ("b",), ("c",)))
    fresh = head(spec, 4)
    torch.testing.assert_close(fresh.answer(fresh.read(torch.randn(2, 4))), torch.full((2, 3), 1 / 3))
    fresh.to_prevalence(truth.tolist())
    torch.testing.assert_close(fresh.answer(fresh.read(torch.randn(1, 4)))[0], torch.tensor([0.5, 0.3, 0.2]))


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=6), st.lists(st.integers(0, 9), min_size=7, max_size=7))
def test_probabilities_sum_to_one_and_thresholds_stay_ordered(weights: list[float], counts: list[int]) -> None:
    k = len(weights) + 1
    task = head(Grade(column="g", grades=tuple((str(n),) for n in range(k))), 4)
    with torch.no_grad():
        task.lowest.fill_(weights[0])
        task.gaps.copy_(torch.tensor(weights[1:]))
        task.head.weight.copy_(torch.tensor([[3.0, -2.0, 1.0, 0.0]]))
    task.to_prevalence([n for n, count in enumerate(counts[:k]) for _ in range(count + 1)])
    output = task.read(torch.randn(5, 4, generator=torch.Generator().manual_seed(0)))
    told = task.answer(output)
    assert (task.thresholds.diff() >= 0).all()
    assert (output.diff(dim=1) <= 0).all()
    torch.testing.assert_close(told.sum(1), torch.ones(5))
    assert (told >= 0).all()
    assert task.loss(output, everybody(torch.arange(5) % k)).isfinite()  # type: ignore[union-attr]


def test_two_grades_are_a_logistic_regression() -> None:
    x, truth = graded(200, 2)
    task = head(Grade(column="g", grades=(("no",), ("yes",))), 4)
    fit_head(task, [(x, everybody(truth))], seed=0, ridge=1e-6)
    task.to_prevalence(truth.tolist())
    read = ((task.norm(x) - task.mean) / task.sd).numpy()
    peer = LogisticRegression(class_weight="balanced", C=1e6, max_iter=2000).fit(read, truth.numpy())
    share = float(truth.float().mean())
    wanted = 1 / (1 + np.exp(-(peer.decision_function(read) + np.log(share / (1 - share)))))
    np.testing.assert_allclose(task.answer(task.read(x)).detach()[:, 1].numpy(), wanted, atol=2e-3)


def test_the_head_is_the_optimum_of_its_likelihood() -> None:
    """Found by another optimiser (Nelder & Mead's) from the probabilities as McCullagh writes them."""
    x, truth = graded(300)
    truth[::7] = 0  # uneven grades, that the weights matter
    task = head(Grade(column="g", grades=(("a",), ("b",), ("c",))), 4)
    fit_head(task, [(x, everybody(truth))], seed=0, ridge=1e-7)
    read, y = ((task.norm(x) - task.mean) / task.sd).double().numpy(), truth.numpy()
    weight = (1 / np.bincount(y))[y]

    def lost(numbers: np.ndarray) -> float:
        upto = 1 / (1 + np.exp(-(np.sort(numbers[:2])[None] - (read[:, :3] @ numbers[2:])[:, None])))
        upto = np.concatenate([np.zeros((len(y), 1)), upto, np.ones((len(y), 1))], axis=1)
        rows = np.arange(len(y))
        return -float((weight * np.log(np.clip(upto[rows, y + 1] - upto[rows, y], 1e-12, None))).sum() / weight.sum())

    found = minimize(
        lost,
        np.array([-1.0, 1.0, 0, 0, 0]),
        method="Nelder-Mead",
        options={"maxiter": 8000, "xatol": 1e-6, "fatol": 1e-12},
    )
    ours = task.loss(task.read(x), everybody(truth))
    assert ours is not None
    assert float(ours.detach()) == pytest.approx(found.fun, abs=1e-5)
    np.testing.assert_allclose(task.thresholds.detach().numpy(), found.x[:2], atol=5e-3)


def test_all_grades_weigh_the_same() -> None:
    output = torch.tensor([[0.0, -1.0, -2.0]]).expand(5, 3)
    log = log_probabilities(output)[0]
    loss = head().loss(output, everybody(torch.tensor([0, 0, 0, 0, 3])))
    assert loss is not None
    torch.testing.assert_close(loss, -(log[0] + log[3]) / 2)


def test_probabilities_are_right_where_most_patients_are_of_one_grade() -> None:
    x, truth = graded(4000)
    kept = (truth == 0) | (torch.arange(4000) % 10 == 0)
    x, truth = x[kept], truth[kept]
    task = head(Grade(column="g", grades=(("a",), ("b",), ("c",))), 4)
    _fit(task, [(x, everybody(truth))], 1e-6)
    shares = torch.bincount(truth, minlength=3) / len(truth)
    before = task.answer(task.read(x)).detach().mean(0)
    task.to_prevalence(truth.tolist())
    after = task.answer(task.read(x)).detach().mean(0)
    assert (before - shares).abs().max() > 0.1
    torch.testing.assert_close(after, shares, atol=0.02, rtol=0)


def test_metrics_are_scikit_learns() -> None:
    draws = np.random.default_rng(0)
    outputs = draws.dirichlet(np.ones(4), 40)
    targets = draws.integers(0, 4, 40)
    found = head().score(made(outputs, targets))
    assert found["quadratic_kappa"] == pytest.approx(cohen_kappa_score(targets, outputs.argmax(1), weights="quadratic"))
    assert found["mean_absolute_error"] == pytest.approx(mean_absolute_error(targets, outputs.argmax(1)))
    assert found["auroc_from_III"] == pytest.approx(roc_auc_score(targets >= 2, outputs[:, 2] + outputs[:, 3]))
    assert list(found) == ["quadratic_kappa", "mean_absolute_error", "auroc_from_II", "auroc_from_III", "auroc_from_IV"]
    low = head().score(made(np.eye(4)[[0, 0]], np.array([0, 0])))
    assert low["mean_absolute_error"] == 0
    assert np.isnan(low["quadratic_kappa"])
    assert np.isnan(low["auroc_from_II"])


def test_the_answer_is_the_likeliest_grade_and_the_probability_of_each() -> None:
    answer = head().present([0.1, 0.6, 0.25, 0.05], (Modality.TABLE,))
    assert answer.headline == "tumour stage: II is the likeliest grade (I 0.10, II 0.60, III 0.25, IV 0.05)"
    assert answer.values == {
        "grade": "II", "probability_I": 0.1, "probability_II": 0.6, "probability_III": 0.25, "probability_IV": 0.05,
    }  # fmt: skip
    assert answer.used == (Modality.TABLE,)


def test_what_is_exported_names_the_grades(tmp_path: Path) -> None:
    task = head()
    assert task.says == "(1 4) the probability of each grade of tumour_stage: I, II, III, IV"
    bundle.write(tmp_path / "bundle", task, Modality.IMAGE, (1, 1, 8, 8), task.says, {})
    out = json.loads((tmp_path / "bundle/configs/metadata.json").read_text())["network_data_format"]["outputs"]["pred"]
    assert (out["num_channels"], list(out["channel_def"].values())) == (4, ["I", "II", "III", "IV"])


@pytest.mark.parametrize("grades", [[["I"]], [["I"], []], [["I"], ["II", "i "]], [["I"], [""]]])
def test_grades_that_are_none_are_refused(grades: list[list[str]]) -> None:
    with pytest.raises(ValidationError):
        Grade.model_validate({"column": "stage", "grades": grades})
