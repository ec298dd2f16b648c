from __future__ import annotations

import warnings
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import CoxPHFitter
from lifelines.utils import concordance_index
from pydantic import ValidationError

from polyclinic.objectives import cox_loss
from polyclinic.schema import Target
from polyclinic.tasks import Predictions, Survival, SurvivalTask

SPEC = Survival(time="survival_months", event="censorship", event_value=0)
ROWS = st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=2, max_size=12)


def head() -> SurvivalTask:
    return SurvivalTask("survival", SPEC, 8)


def breslow(hazard: np.ndarray, time: np.ndarray, event: np.ndarray) -> float | None:
    """The definition (Cox 1972; ties as Breslow 1974): for each event its hazard's share of those at risk, one by one."""
    terms = []
    for i in np.flatnonzero(event):
        at_risk = [j for j in range(len(time)) if time[j] >= time[i]]
        if len(at_risk) > 1:
            terms.append(np.log(sum(np.exp(hazard[j]) for j in at_risk)) - hazard[i])
    return float(np.mean(terms)) if terms else None


@given(ROWS, st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_the_loss_is_the_partial_likelihood_with_breslows_ties(rows: list[tuple[int, bool]], seed: int) -> None:
    time, event = np.array([t for t, _ in rows], float), np.array([e for _, e in rows], float)
    hazard = np.random.default_rng(seed).normal(size=len(rows)) * 3
    found = cox_loss(torch.tensor(hazard), torch.tensor(time), torch.tensor(event))
    expected = breslow(hazard, time, event)
    assert (found is None) == (expected is None)
    assert found is None or float(found) == pytest.approx(expected, rel=1e-6)


def test_it_is_lifelines_likelihood_where_no_times_are_tied() -> None:
    """At lifelines' own fit; its log-likelihood counts the last event, whose share of itself is one."""
    draws = np.random.default_rng(0)
    frame = pd.DataFrame({"x": draws.normal(size=60), "z": draws.normal(size=60)})
    frame["time"] = draws.exponential(np.exp(-frame["x"])) + 1e-3 * np.arange(60)
    frame["event"] = draws.random(60) < 0.7
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = CoxPHFitter().fit(frame, "time", "event")
    hazard = torch.tensor((frame[["x", "z"]] @ fitted.params_).to_numpy())
    time, event = torch.tensor(frame["time"].to_numpy()), torch.tensor(frame["event"].to_numpy().astype(float))
    last = int(frame["time"].to_numpy().argmax())
    n = int(event.sum()) - int(event[last])
    loss = cox_loss(hazard, time, event)
    assert loss is not None
    assert float(loss) * n == pytest.approx(-fitted.log_likelihood_, rel=1e-6)


def test_its_gradient_is_the_differences_and_an_offset_changes_nothing() -> None:
    hazard = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    time, event = torch.tensor([3.0, 1, 4, 1, 5, 9]), torch.tensor([1.0, 1, 0, 1, 1, 0])
    assert torch.autograd.gradcheck(lambda h: cast(torch.Tensor, cox_loss(h, time, event)), (hazard,))
    one, other = cox_loss(hazard, time, event), cox_loss(hazard + 50, time, event)
    torch.testing.assert_close(one, other)


def test_cases_by_hand() -> None:
    zeros, event = torch.zeros(3), torch.tensor([1.0, 1, 0])
    loss = cox_loss(zeros, torch.tensor([1.0, 2, 3]), event)  # one of three, then one of two
    assert loss is not None
    assert loss.item() == pytest.approx((np.log(3) + np.log(2)) / 2, rel=1e-6)
    assert cox_loss(zeros, torch.tensor([1.0, 2, 3]), torch.zeros(3)) is None
    assert cox_loss(zeros, torch.tensor([1.0, 2, 3]), torch.tensor([0.0, 0, 1])) is None  # nobody else at risk
    assert cox_loss(zeros[:0], zeros[:0], zeros[:0]) is None
    large = cox_loss(torch.tensor([800.0, -800.0]), torch.tensor([2.0, 1.0]), torch.tensor([1.0, 1.0]))
    assert large is not None
    assert large.item() == pytest.approx(1600)


def test_censored_patients_count_as_at_risk_and_not_as_events() -> None:
    hazard = torch.zeros(3, requires_grad=True)
    loss = cox_loss(hazard, torch.tensor([1.0, 2, 3]), torch.tensor([1.0, 0, 0]))
    assert loss is not None
    gradient = torch.autograd.grad(loss, hazard)[0]
    assert gradient.tolist() == pytest.approx([1 / 3 - 1, 1 / 3, 1 / 3])


def made(outputs: list[float], time: list[float], event: list[float]) -> Predictions:
    targets = np.stack([np.array(time, float), np.array(event, float)], 1)
    names = tuple(map(str, range(len(outputs))))
    return Predictions("survival", names, np.array(outputs, float), targets, np.ones(len(outputs), bool))


@given(ROWS, st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_concordance_is_lifelines(rows: list[tuple[int, bool]], seed: int) -> None:
    hazard = np.random.default_rng(seed).integers(0, 4, len(rows)).astype(float)
    time, event = [float(t) for t, _ in rows], [float(e) for _, e in rows]
    found = head().score(made(list(hazard), time, event))["concordance"]
    try:
        assert found == pytest.approx(concordance_index(time, -hazard, event))
    except ZeroDivisionError:
        assert np.isnan(found)


def test_concordance_by_hand() -> None:
    """A higher hazard that dies earlier is concordant."""
    assert head().score(made([3, 2, 1], [1, 2, 3], [1, 1, 1])) == {"concordance": 1.0}
    assert head().score(made([1, 2, 3], [1, 2, 3], [1, 1, 1])) == {"concordance": 0.0}
    assert head().score(made([1, 1, 1], [1, 2, 3], [1, 1, 1])) == {"concordance": 0.5}
    assert np.isnan(head().score(made([1, 2], [1, 2], [0, 0]))["concordance"])  # no pair can be compared


def test_the_loss_reads_the_labelled_alone() -> None:
    target = Target(torch.tensor([[1.0, 1], [2.0, 0], [0.5, 1]]), torch.tensor([True, True, False]))
    output = torch.tensor([0.3, -0.2, 9.0])
    expected = cox_loss(output[:2], torch.tensor([1.0, 2]), torch.tensor([1.0, 0]))
    torch.testing.assert_close(head().loss(output, target), expected)


def died(time: torch.Tensor) -> Target:
    return Target(torch.stack([time, torch.ones(len(time))], 1), torch.ones(len(time), dtype=torch.bool))


def nobody_died(patients: int) -> Target:
    return Target(torch.tensor([[9.0, 0.0]]).repeat(patients, 1), torch.ones(patients, dtype=torch.bool))


@pytest.mark.parametrize(
    ("hazard", "headline"),
    [
        (-5.0, "lower third of risk among the training patients (percentile 0)"),
        (20.0, "lower third of risk among the training patients (percentile 20)"),
        (50.0, "middle third of risk among the training patients (percentile 50)"),
        (80.0, "higher third of risk among the training patients (percentile 80)"),
        (500.0, "higher third of risk among the training patients (percentile 100)"),
    ],
)
def test_an_answer_is_a_place_among_the_training_patients(hazard: float, headline: str) -> None:
    task = head()
    task.refer_to(torch.arange(101.0).flip(0), nobody_died(101))
    answer = task.present(hazard, ())
    assert answer.headline == headline
    assert answer.values["log_hazard"] == hazard


def test_a_model_that_tells_nobody_apart_puts_everybody_in_the_middle() -> None:
    """It used to call them all the lower third."""
    task = head()
    task.refer_to(torch.zeros(30), nobody_died(30))
    assert task.present(0.0, ()).headline.startswith("middle third")


def test_the_reference_travels_with_the_weights() -> None:
    one, other = head(), head()
    one.refer_to(torch.linspace(-1, 3, 40), died(torch.arange(1.0, 41)))
    other.load_state_dict(one.state_dict())
    assert other.present(2.0, ()) == one.present(2.0, ())
    assert "risk_at_12_months" in one.present(2.0, ()).values


def test_a_risk_is_told_by_each_horizon_that_the_training_patients_reached() -> None:
    """All of one hazard, one of ten dying each month: H after 4 of them is 1/10 + 1/9 + 1/8 + 1/7."""
    spec = Survival(time="t", event="e", horizons=(60, 4, 4))
    task = SurvivalTask("risk", spec, 8)
    task.refer_to(torch.zeros(10), died(torch.arange(1.0, 11)))
    risk = 1 - np.exp(-(1 / 10 + 1 / 9 + 1 / 8 + 1 / 7))
    answer = task.present(0.0, ())
    assert answer.headline == (
        f"middle third of risk among the training patients (percentile 50); risk at 4 months {risk:.2f}"
    )
    assert answer.values["risk_at_4_months"] == round(risk, 4)
    assert answer.values["risk_at_60_months"] == "not known: the training patients were followed for 10 months"
    twice = task.present(float(np.log(2)), ())
    assert twice.values["risk_at_4_months"] == pytest.approx(1 - (1 - risk) ** 2, abs=1e-4)


def test_the_unlabelled_are_no_part_of_the_reference_nor_of_the_baseline() -> None:
    one, other = head(), head()
    time = torch.arange(1.0, 21)
    one.refer_to(torch.linspace(-1, 1, 20), died(time))
    both = Target(torch.cat([cast(torch.Tensor, died(time).values), torch.full((5, 2), 99.0)]), torch.arange(25) < 20)
    other.refer_to(torch.cat([torch.linspace(-1, 1, 20), torch.full((5,), 7.0)]), both)
    for name, kept in one.state_dict().items():
        assert torch.equal(kept, other.state_dict()[name]), name


def test_a_head_that_has_seen_no_event_tells_no_risk() -> None:
    task = head()
    assert set(task.present(0.0, ()).values) == {"log_hazard", "percentile"}
    task.refer_to(torch.zeros(5), Target(torch.zeros(5, 2), torch.zeros(5, dtype=torch.bool)))
    task.refer_to(torch.zeros(5), nobody_died(5))
    assert "risk" not in task.present(0.0, ()).headline.split(";", 1)[-1].replace("risk among", "")
    assert not len(task.baseline().horizons)


@pytest.mark.parametrize("horizons", [[0], [-3], [float("inf")], [float("nan")], "soon"])
def test_a_horizon_that_is_no_time_is_refused(horizons: Any) -> None:
    with pytest.raises(ValidationError):
        Survival(time="t", event="e", horizons=horizons)


def test_its_label_is_its_two_columns() -> None:
    label = SPEC.label("task")
    assert (label.kind, label.column, label.event, label.event_value) == (
        "survival",
        "survival_months",
        "censorship",
        0,
    )
    assert SPEC.columns() == ("survival_months", "censorship")
