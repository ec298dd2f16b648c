from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from sklearn.utils.class_weight import compute_sample_weight

from polyclinic.schema import Modality, Target
from polyclinic.tasks import Classification, ClassificationTask, Predictions

SPEC = Classification(column="finding", positive=("COVID-19",))
LABELS = st.lists(st.booleans(), min_size=2, max_size=20)


def head(spec: Classification = SPEC) -> ClassificationTask:
    return ClassificationTask("finding", spec, 8)


def made(outputs: np.ndarray, targets: np.ndarray) -> Predictions:
    return Predictions("finding", tuple(map(str, range(len(outputs)))), outputs, targets, np.ones(len(outputs), bool))


@given(LABELS, st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_both_classes_weigh_the_same(labels: list[bool], seed: int) -> None:
    """As scikit-learn's "balanced" weights have it."""
    logits = torch.randn(len(labels), generator=torch.Generator().manual_seed(seed))
    loss = head().loss(logits, Target(torch.tensor(labels).float(), torch.ones(len(labels), dtype=torch.bool)))
    weight = torch.tensor(compute_sample_weight("balanced", labels)).float()
    each = F.binary_cross_entropy_with_logits(logits, torch.tensor(labels).float(), reduction="none")
    assert loss is not None
    torch.testing.assert_close(loss, (weight * each).sum() / weight.sum())


def test_balance_by_hand() -> None:
    logits, truth = torch.tensor([0.0, 0.0, 0.0, 9.0]), torch.tensor([0.0, 0.0, 0.0, 1.0])
    loss = head().loss(logits, Target(truth, torch.ones(4, dtype=torch.bool)))
    assert loss is not None
    assert loss.item() == pytest.approx((np.log(2) + np.log1p(np.exp(-9))) / 2, rel=1e-5)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=2, max_size=20))
@settings(max_examples=40, deadline=None)
def test_metrics_are_scikit_learns(rows: list[tuple[bool, int]]) -> None:
    targets, outputs = np.array([t for t, _ in rows], int), np.array([s / 4 for _, s in rows])
    found = head().score(made(outputs, targets))
    if len(set(targets)) < 2:
        assert all(np.isnan(v) for v in found.values())
        return
    assert found == {
        "auroc": pytest.approx(roc_auc_score(targets, outputs)),
        "average_precision": pytest.approx(average_precision_score(targets, outputs)),
    }


def test_auroc_counts_a_tie_as_a_half() -> None:
    assert head().score(made(np.array([0.2, 0.5, 0.5, 0.9]), np.array([0, 0, 1, 1])))["auroc"] == pytest.approx(
        (3 + 0.5) / 4
    )


def test_a_head_says_nothing_before_it_is_fitted() -> None:
    assert head().read(torch.randn(3, 8)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("column", "positive", "what"),
    [
        ("finding", ("COVID-19",), "COVID-19"),
        ("finding", ("COVID-19", "SARS"), "COVID-19 or SARS"),
        ("went_icu", ("Y",), "went icu"),
        ("intubated", ("yes", "1"), "intubated"),
        ("survival", ("N",), "survival N"),
        ("stage", ("3", "4"), "stage 3 or 4"),
    ],
)
def test_the_finding_in_words(column: str, positive: tuple[str, ...], what: str) -> None:
    answer = head(Classification(column=column, positive=positive)).present(0.5, (Modality.IMAGE,))
    assert answer.headline == f"{what}: score 0.50"
    assert answer.values == {"score": 0.5, "finding": what}
    assert answer.used == (Modality.IMAGE,)


def test_a_score_is_not_put_in_words() -> None:
    """How likely the finding is with such a score is a matter of evidence, which a head does not have."""
    assert head().present(0.83, ()).headline == "COVID-19: score 0.83"


def test_its_label_is_its_column() -> None:
    label = Classification(column="finding", positive=("A",), negative=("B",)).label("task")
    assert (label.task, label.kind, label.column, label.positive, label.negative) == (
        "task",
        "class",
        "finding",
        ("A",),
        ("B",),
    )


def test_a_bare_yes_of_yaml_is_the_cell_that_it_was() -> None:
    """YAML 1.1 reads yes as true: whoever wrote it meant the word, or the truth value."""
    read = yaml.safe_load("{kind: classification, column: answer, positive: [yes], negative: [no, 'maybe']}")
    spec = Classification.model_validate(read)
    assert (spec.positive, spec.negative) == (("yes", "true"), ("no", "false", "maybe"))
    assert Classification.model_validate(yaml.safe_load(yaml.safe_dump(spec.model_dump(mode="json")))) == spec
    assert spec.asked() == ("Is there answer?",)
    with pytest.raises(ValidationError):
        Classification.model_validate(read | {"positive": "yes"})
    with pytest.raises(ValidationError):
        Classification.model_validate(read | {"positive": [1]})


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(-6, 6)), min_size=4, max_size=40), st.sampled_from(["f1", "youden"])
)
def test_no_other_threshold_is_better_on_the_training_patients(rows: list[tuple[bool, int]], by: str) -> None:
    truth, logits = torch.tensor([float(y) for y, _ in rows]), torch.tensor([float(x) for _, x in rows])
    if len(set(truth.tolist())) < 2:
        return
    task = head(SPEC.model_copy(update={"threshold": by}))
    assert task.thresholds == ()  # nobody chose one
    task.refer_to(logits, Target(truth, torch.ones(len(truth), dtype=torch.bool)))
    (cut,) = task.thresholds

    def good(said: Any) -> float:
        yes, no = said[truth > 0].float().mean(), said[truth == 0].float().mean()
        return f1_score(truth, said) if by == "f1" else float(yes - no)

    best = max(good(logits >= level) for level in logits.unique())
    assert good(logits.sigmoid() >= cut) == pytest.approx(best)


def test_giving_back_the_prevalence_moves_the_threshold_along() -> None:
    task = head()
    truth = torch.tensor([1.0, 0.0, 0.0, 0.0])
    task.refer_to(torch.tensor([2.0, -1.0, -2.0, 1.0]), Target(truth, torch.ones(4, dtype=torch.bool)))
    before = float(task.cut)
    task.to_prevalence([1, 0, 0, 0])
    assert float(task.cut) - before == pytest.approx(task.head.bias.item()) == pytest.approx(math.log(1 / 3))
