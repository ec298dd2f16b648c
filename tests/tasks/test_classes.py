from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score, top_k_accuracy_score

from polyclinic.adaptation.probe import _fit, choose_ridge
from polyclinic.cohort import Label, labels_of
from polyclinic.schema import Modality, Record, Target
from polyclinic.tasks import Classes, ClassesTask, Predictions
from polyclinic.tasks.classes import among
from polyclinic.trust.measures.figures import figures

KINDS = Classes(column="section", classes=(("A",), ("B", "b2"), ("C",)))


def head(spec: Classes = KINDS, width: int = 4) -> ClassesTask:
    return ClassesTask("section", spec, width)


def everybody(values: torch.Tensor) -> Target:
    return Target(values.float(), torch.ones(len(values), dtype=torch.bool))


def made(outputs: np.ndarray, targets: np.ndarray) -> Predictions:
    return Predictions("section", tuple(map(str, range(len(outputs)))), outputs, targets, np.ones(len(outputs), bool))


def drawn(
    n: int = 300, shares: tuple[float, ...] = (0.8, 0.15, 0.05), seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors (n 4) about a mean for each class, which are as common as the shares."""
    random = np.random.default_rng(seed)
    truth = random.choice(len(shares), n, p=shares)
    x = random.normal(size=(n, 4)) + 1.2 * np.eye(4)[truth]
    return torch.tensor(x, dtype=torch.float32), torch.tensor(truth)


def fitted(spec: Classes, x: torch.Tensor, y: torch.Tensor, ridge: float) -> ClassesTask:
    task = head(spec)
    task.standardise_by(x)
    _fit(task, [(x, everybody(y))], ridge)
    task.to_prevalence(y.tolist())
    return task


def test_of_a_whole_sample_it_is_multinomial_logistic_regression() -> None:
    """With balance 0 the shift is given back as it was taken: the probabilities are scikit-learn's, at the same ridge."""
    x, y = drawn()
    ridge = 0.05
    mine = fitted(KINDS, x, y, ridge)
    normed = ((mine.norm(x) - mine.mean) / mine.sd).numpy()
    # scikit-learn: C · sum of losses + ½ |w|², ours: mean of losses + ridge |w|².
    theirs = LogisticRegression(C=1 / (2 * ridge * len(x)), tol=1e-8, max_iter=5000).fit(normed, y.numpy())
    with torch.no_grad():
        np.testing.assert_allclose(mine.answer(mine.read(x)).numpy(), theirs.predict_proba(normed), atol=2e-3)


def test_weights_are_the_inverse_counts_where_balance_is_one() -> None:
    """By hand: two patients of class 0 and one of class 1, outputs of nothing; class 2 is nobody's and is not asked."""
    task = head(KINDS.model_copy(update={"balance": 1.0}))
    loss = task.loss(
        torch.tensor([[1.0, 0.0, 9.0], [0.0, 0.0, 9.0], [0.0, 2.0, 9.0]]), everybody(torch.tensor([0, 0, 1]))
    )
    each = [np.log1p(np.exp(-1.0)), np.log(2), np.log1p(np.exp(-2.0))]
    assert loss is not None
    assert float(loss) == pytest.approx((each[0] / 2 + each[1] / 2 + each[2]) / 2, rel=1e-6)


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_answers_do_not_depend_on_whom_a_batch_was_drawn_from(balance: float) -> None:
    """The classes of a Gaussian each have known posteriors, also where a fit saw as many of each."""
    spec = KINDS.model_copy(update={"balance": balance})
    x, y = drawn(20_000)
    count = int((y == 2).sum())
    even = torch.cat([torch.nonzero(y == k).flatten()[:count] for k in range(3)])
    task = head(spec)
    task.standardise_by(x)
    _fit(task, [(x[even], everybody(y[even]))], 1e-6)
    task.to_prevalence(y.tolist())
    whole = fitted(spec, x, y, 1e-6)
    with torch.no_grad():
        assert float((task.answer(task.read(x)) - whole.answer(whole.read(x))).abs().mean()) < 0.03


def test_even_priors_find_more_of_the_rare_and_are_right_less_often() -> None:
    x, y = drawn(2000)
    told = {p: fitted(KINDS.model_copy(update={"prior": p}), x, y, 0.01) for p in ("training", "even")}
    with torch.no_grad():
        said = {p: task.answer(task.read(x)).argmax(1) for p, task in told.items()}
    right = {p: float((s == y).float().mean()) for p, s in said.items()}
    rare = {p: float((s[y == 2] == 2).float().mean()) for p, s in said.items()}
    assert right["training"] > right["even"]
    assert rare["even"] > rare["training"]


def test_a_class_that_nobody_has_is_never_said() -> None:
    x, y = drawn(200, (0.6, 0.4, 0.0))
    for prior in ("training", "even"):
        task = fitted(KINDS.model_copy(update={"prior": prior}), x, y, 0.01)
        with torch.no_grad():
            told = task.answer(task.read(x))
        assert told.isfinite().all()
        assert float(told[:, 2].max()) < 1e-6


def test_a_ridge_is_chosen_though_a_class_has_one_patient() -> None:
    x, y = drawn(120, (0.7, 0.3, 0.0))
    y[0] = 2
    task = head()
    task.standardise_by(x)
    assert choose_ridge(task, [(x, everybody(y))], 0) in (0.002, 0.02, 0.2, 2.0)


def test_metrics_are_scikit_learns() -> None:
    random = np.random.default_rng(0)
    truth, told = random.integers(0, 3, 60), random.dirichlet(np.ones(3), 60)
    spec = KINDS.model_copy(update={"top": 2})
    found = head(spec).score(made(told, truth))
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, told.argmax(1)))
    assert found["macro_f1"] == pytest.approx(f1_score(truth, told.argmax(1), average="macro"))
    assert found["top_2_accuracy"] == pytest.approx(top_k_accuracy_score(truth, told, k=2))
    assert found["macro_auroc"] == pytest.approx(roc_auc_score(truth, told, multi_class="ovr"))


def test_means_over_classes_have_an_interval_though_one_is_rare() -> None:
    """Of 200 patients one has the third class: a third of the resamples that kept no shares would be without it."""
    random = np.random.default_rng(0)
    truth = np.array([0] * 150 + [1] * 49 + [2])
    told = random.dirichlet(np.ones(3), 200) + 0.4 * np.eye(3)[truth]
    found = {f.name: f for f in figures("classes", made(told, truth), "s", ("A", "B", "C"), draws=200)}
    for name in ("macro_f1", "macro_auroc"):
        assert found[name].low < found[name].value < found[name].high
        assert "resamples without a value" not in found[name].note


def test_of_ties_the_first_are_among_the_likeliest() -> None:
    assert among(np.ones((3, 3)), np.array([0, 1, 2]), 2).tolist() == [True, True, False]


def test_present_names_the_likeliest_few() -> None:
    answer = head(KINDS.model_copy(update={"top": 2})).present([0.1, 0.7, 0.2], (Modality.TEXT,))
    assert answer.headline == "section: B is the likeliest class (B 0.70, C 0.20)"
    assert answer.values == {"class": "B", "probability_A": 0.1, "probability_B": 0.7, "probability_C": 0.2}


def test_a_cell_is_named_once() -> None:
    with pytest.raises(ValidationError, match="'a' in two places"):
        Classes(column="x", classes=(("A",), ("a", "b")))
    with pytest.raises(ValidationError):
        Classes(column="x", classes=(("A",),))


def test_labels_are_numbers_of_classes_and_of_nobody_whose_rows_differ() -> None:
    row = lambda n, patient, cell: Record(
        f"r{n}", patient, None, Modality.TEXT, "note", f"{n}", attributes={"section": cell}
    )
    cells = [("p", "A"), ("q", "b2"), ("q", "B"), ("r", "A"), ("r", "C"), ("s", "elsewhere"), ("t", None), ("u", "c")]
    found = [row(n, *pair) for n, pair in enumerate(cells)]
    label = KINDS.label("section")
    assert labels_of(found, label) == {"p": 0, "q": 1, "u": 2}
    assert label.rarest([0, 0, 0, 1, 2]) == 2
    assert label.lacking([0, 0]) == ("of one class of 'section'", "at least two classes")
    assert label.lacking([0, 2]) is None
    with pytest.raises(Exception, match="no cell of 'section' is one of its classes"):
        labels_of(found, Label("x", "classes", "section", grades=(("no such",), ("nor this",))))
