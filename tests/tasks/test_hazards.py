from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines.utils import concordance_index
from pydantic import TypeAdapter, ValidationError
from torch.nn.functional import binary_cross_entropy_with_logits

from polyclinic.adaptation.probe import fit_head
from polyclinic.schema import Modality, Target
from polyclinic.tasks import Hazards, HazardsTask, Predictions, TaskError, TaskSpec
from polyclinic.tasks.hazards import of_event, shapes

FIELDS: dict[str, Any] = {
    "time": "months",
    "event": "cause",
    "events": {"disease": ["cancer"], "other": ["heart", "lung"]},
}
HALVES = torch.tensor([2.0, 6.0])


def head(width: int = 4, **more: Any) -> HazardsTask:
    return HazardsTask("outcome", Hazards.model_validate({**FIELDS, **more}), width)


def asked(rows: list[list[float]]) -> Target:
    return Target(torch.tensor(rows), torch.ones(len(rows), dtype=torch.bool))


def test_the_likelihood_by_hand() -> None:
    """Two intervals, to 2 and to 6; hazards of 0.2 and 0.3, then of 0.1 and 0.4."""
    task = head(intervals=2)
    task.ends = HALVES
    hazards = torch.tensor([[0.2, 0.3], [0.1, 0.4]])
    logits = torch.log(hazards / (1 - hazards.sum(1, keepdim=True)))[None, None].expand(1, 1, 2, 2)
    cases = [
        ([1.0, 1, 0], 0.2),
        ([2.0, 2, 0], 0.3),  # at an interval's end it belongs to it
        ([2.1, 1, 0], 0.5 * 0.1),
        ([6.0, 2, 0], 0.5 * 0.4),
        ([6.0, 0, 0], 0.5 * 0.5),
        ([2.0, 0, 0], 0.5),
        ([3.0, 0, 0], 0.5 * 0.5**0.25),  # a quarter of the second interval was lived
        ([0.0, 0, 0], 1.0),
        ([9.0, 1, 0], 0.5 * 0.5),  # later than anything is known of: nothing had come by the end
    ]
    for row, likelihood in cases:
        loss = task.loss(logits, asked([row]))
        assert loss is not None
        assert float(loss) == pytest.approx(-np.log(likelihood), abs=1e-6), row


def test_of_one_event_it_is_the_logistic_hazard() -> None:
    """Gensheimer & Narasimhan 2019: a cross-entropy for each interval that is lived to its end or to the event."""
    task = head(intervals=3, events={"death": ["1"]})
    task.ends = torch.tensor([1.0, 2, 3])
    logits = torch.randn(4, 1, 3, 1, generator=torch.Generator().manual_seed(0))
    loss = task.loss(logits, asked([[0.5, 1, 0], [2.5, 1, 0], [2.0, 0, 0], [3.0, 0, 0]]))
    lived, came = torch.tensor([[1, 0, 0], [1, 1, 1], [1, 1, 0], [1, 1, 1.0]]), torch.zeros(4, 3)
    came[0, 0] = came[1, 2] = 1
    each = binary_cross_entropy_with_logits(logits[:, 0, :, 0], came, reduction="none")
    torch.testing.assert_close(loss, (each * lived).sum(1).mean())


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 99))
def test_the_risks_of_all_events_and_the_chance_of_none_add_up_to_one(causes: int, intervals: int, seed: int) -> None:
    """And each only grows: at every end, and between."""
    events = {f"e{n}": [str(n)] for n in range(causes)}
    task = head(events=events, intervals=intervals)
    draws = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(5, 1, intervals, causes, generator=draws)
    told = task.answer(logits)
    assert told.shape == (5, causes, intervals)
    each = torch.softmax(torch.cat([torch.zeros(5, intervals, 1), logits[:, 0]], -1), -1)
    torch.testing.assert_close(told.sum(1) + torch.cumprod(each[..., 0], 1), torch.ones(5, intervals))
    task.ends = torch.arange(1.0, intervals + 1)
    risks = task.incidence().risk(told.numpy(), np.linspace(0, intervals, 17))
    assert (np.diff(risks, axis=-1) >= -1e-7).all()
    assert (risks.sum(1) <= 1 + 1e-6).all()


def test_no_hazards_are_proportional() -> None:
    """A vector may raise a hazard early and lower it late."""
    told = shapes(1, 5)
    assert told.shape == (1, 5, 3)
    np.testing.assert_allclose(told[0, :, 1], [-1, -0.5, 0, 0.5, 1])
    np.testing.assert_allclose(told[0, :, 2], [1, -0.125, -0.5, -0.125, 1])
    assert shapes(3, 5).shape == (3, 5, 4)
    assert shapes(3, 5)[:, 2, 3].tolist() == [-1, 0, 1]
    assert shapes(1, 1).tolist() == [[[1.0]]]


def simulated(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A coordinate x, the constant hazards of two events, and what was seen of each patient, half of whom are censored."""
    draws = np.random.default_rng(seed)
    x = draws.normal(size=n)
    hazards = 0.05 * np.exp(np.stack([0.8 * x, -0.5 * x], 1))
    times = draws.exponential(1 / hazards)
    until = draws.uniform(0, 25, n)
    first = times.min(1)
    event = np.where(first <= until, times.argmin(1) + 1, 0)
    return x, hazards, np.stack([np.minimum(first, until), event, np.zeros(n)], 1)


def exact(hazards: np.ndarray, at: float) -> np.ndarray:
    """(n 2) the cumulative incidence of constant hazards: λₖ/Σλ (1 − exp(−Σλ t))."""
    total = hazards.sum(1, keepdims=True)
    return hazards / total * (1 - np.exp(-total * at))


def test_where_nothing_is_known_of_a_patient_it_tells_the_closed_form() -> None:
    """Constant hazards of 0.06 and 0.02, half of the patients censored; begun, and not fitted."""
    draws, n = np.random.default_rng(1), 20000
    hazards = np.tile([0.06, 0.02], (n, 1))
    times = draws.exponential(1 / hazards)
    until = draws.uniform(0, 20, n)
    event = np.where(times.min(1) <= until, times.argmin(1) + 1, 0)
    task = head(intervals=20, horizons=[5, 10])
    task.begin(np.stack([np.minimum(times.min(1), until), event, np.zeros(n)], 1).tolist())
    told = task.answer(task.read(torch.randn(1, 4)).detach()).numpy()
    for at in (3.0, 5.0, 10.0):
        np.testing.assert_allclose(
            task.incidence().risk(told, np.array([at]))[0, :, 0], exact(hazards[:1], at)[0], atol=0.01
        )
        np.testing.assert_allclose(task.incidence().null(np.array([at]))[:, 0], exact(hazards[:1], at)[0], atol=0.01)


class Plain(HazardsTask):
    """Without the norm of a patient's vector: of two coordinates it would leave their sign alone."""

    def __init__(self, **more: Any) -> None:
        super().__init__("outcome", Hazards.model_validate({**FIELDS, **more}), 2)
        self.norm = torch.nn.Identity()  # type: ignore[assignment]


def fitted(task: Plain, x: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Its answers about the patients before and after it is fitted to them."""
    vectors = torch.tensor(np.stack([x, -x], 1), dtype=torch.float32)
    task.begin(known.tolist())
    before = task.answer(task.read(vectors).detach()).numpy()
    fit_head(task, [(vectors, asked(known.tolist()))], 0, ridge=1e-4)
    return before, task.answer(task.read(vectors).detach()).numpy()


def test_fitted_it_comes_close_to_what_is_true_of_each_patient() -> None:
    x, hazards, known = simulated(3000, 2)
    task = Plain(intervals=8, horizons=[10])
    before, after = fitted(task, x, known)
    for at in (3.0, 10.0):
        truth = exact(hazards, at)
        risk = lambda told, at=at: task.incidence().risk(told, np.array([at]))[:, :, 0]
        off = np.abs(risk(after) - truth).mean(0)
        assert (off < 0.02).all()
        assert (off < 0.25 * np.abs(risk(before) - truth).mean(0)).all()


def test_hazards_that_cross_are_told_where_cox_tells_none() -> None:
    """Of one half the risk is high to 5 months and low then, of the other the other way round."""
    from lifelines import CoxPHFitter
    from pandas import DataFrame

    draws, n = np.random.default_rng(4), 3000
    x = draws.choice([-1.0, 1.0], n)
    early, late = np.where(x > 0, 0.12, 0.02), np.where(x > 0, 0.02, 0.12)
    spent = draws.exponential(size=n)
    times = np.where(spent < 5 * early, spent / early, 5 + (spent - 5 * early) / late)
    known = np.stack([np.minimum(times, 20), times < 20, np.zeros(n)], 1)
    task = Plain(events={"death": [1]}, intervals=12)
    after = fitted(task, x, known)[1]
    cox = CoxPHFitter().fit(DataFrame({"x": x, "time": known[:, 0], "event": known[:, 1]}), "time", "event")
    for at in (3.0, 5.0, 8.0):
        truth = 1 - np.exp(-(np.minimum(at, 5) * early + max(at - 5, 0) * late))
        mine = task.incidence().risk(after, np.array([at]))[:, 0, 0]
        cox_risk = 1 - cox.predict_survival_function(DataFrame({"x": x[:200]}), [at]).to_numpy()[0]
        assert np.abs(mine - truth).max() < 0.08  # a level, a slope and a bend round the corner at 5 off
        assert np.abs(cox_risk - truth[:200]).mean() > 2 * np.abs(mine - truth).mean()


def test_concordance_is_that_of_the_event_where_who_had_another_never_has_it() -> None:
    """Wolbers et al. 2009; pair by pair."""
    draws, n = np.random.default_rng(3), 40
    targets = np.stack([draws.integers(1, 9, n), draws.integers(0, 3, n), np.zeros(n)], 1).astype(float)
    outputs = np.sort(draws.uniform(0, 0.5, (n, 2, 4)), -1)
    found = head(intervals=4).score(
        Predictions("outcome", tuple(map(str, range(n))), outputs, targets, np.ones(n, bool))
    )
    for number, name in ((1, "disease"), (2, "other")):
        risk, right, pairs = outputs[:, number - 1].mean(-1), 0.0, 0
        for i in np.flatnonzero(targets[:, 1] == number):
            for j in range(n):
                another = targets[j, 1] not in (0, number)
                if another or targets[j, 0] > targets[i, 0] or (targets[j, 0] == targets[i, 0] and targets[j, 1] == 0):
                    pairs, right = pairs + 1, right + (risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j])
        assert found[f"concordance_{name}"] == pytest.approx(right / pairs)
    assert found["concordance"] == pytest.approx((found["concordance_disease"] + found["concordance_other"]) / 2)
    alone = targets.copy()
    alone[:, 1] = alone[:, 1] > 0
    time, event = of_event(alone, 1).T
    assert concordance_index(time, -outputs[:, 0, 0], event) == concordance_index(
        alone[:, 0], -outputs[:, 0, 0], alone[:, 1]
    )


def test_the_answer_tells_each_risk_by_each_horizon_beside_everybodys() -> None:
    task = head(intervals=2, horizons=[2, 4, 99])
    task.begin([(2.0, 1, 0), (4.0, 2, 0), (6.0, 0, 0), (6.0, 0, 0)])
    answer = task.present([[0.1, 0.3], [0.2, 0.2]], (Modality.TABLE,))
    assert answer.headline == (
        "risk of disease at 2 months 0.10 (all: 0.25), at 4 months 0.20 (all: 0.25); "
        "risk of other at 2 months 0.20 (all: 0.00), at 4 months 0.20 (all: 0.25)"
    )
    assert answer.values["risk_of_disease_at_4_months"] == 0.2
    assert answer.values["none_at_4_months"] == 0.6
    assert "followed for 6 months" in str(answer.values["risk_of_other_at_99_months"])
    assert "none_at_99_months" not in answer.values


def test_at_a_landmark_it_answers_by_what_was_learned_there() -> None:
    task = head(intervals=2, landmarks=[0, 6], horizons=[3])
    early, late = [(1.0, 1, 0), (8.0, 2, 0), (9.0, 0, 0)], [(2.0, 2, 1), (3.0, 0, 1)]
    task.begin([*early, *late])
    assert task.at(None).incidence().landmark == 0
    later = task.at(6)
    assert later.incidence().landmark == 6
    np.testing.assert_allclose(task.at(0).incidence().null(np.array([8.0]))[:, 0], [1 / 3, 1 / 3])
    np.testing.assert_allclose(later.incidence().null(np.array([2.0]))[:, 0], [0, 0.5])
    output = task.read(torch.randn(3, 4))
    assert output.shape == (3, 2, 2, 2)
    assert not torch.equal(task.answer(output), later.answer(output))
    answer = later.present([[0.1, 0.2], [0.1, 0.2]], (Modality.TABLE,))
    assert answer.headline.startswith(
        "of one still at risk at 6 months, counted from then; risk of disease at 3 months"
    )
    assert answer.values["landmark"] == 6
    with pytest.raises(TaskError, match="one of 0, 6 months"):
        task.at(3)
    with pytest.raises(TaskError, match="one of 0 months"):
        head().at(6)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"events": {}}, "at least 1"),
        ({"events": {"a": ["x"], "b": ["X "]}}, "'x' in two places"),
        ({"censored": ["heart"]}, "'heart' in two places"),
        ({"landmarks": [6, 0]}, "the earliest first"),
        ({"landmarks": [0, 0]}, "name each once"),
        ({"landmarks": [-1]}, "greater than or equal to 0"),
        ({"landmarks": [0], "unit": "cycles"}, "landmarks in cycles"),
        ({"since": "diagnosed"}, "name `landmarks`"),
        ({"horizons": [0]}, "greater than 0"),
        ({"intervals": 0}, "greater than or equal to 1"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Hazards.model_validate({**FIELDS, **wrong})


def test_the_tasks_of_the_page_are_read() -> None:
    page = (Path(__file__).parents[2] / "docs/prognosis.md").read_text()
    blocks = [
        yaml.safe_load(block)["tasks"] for block in re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    ]
    kinds = [TypeAdapter(TaskSpec).validate_python(task).kind for tasks in blocks for task in tasks.values()]
    assert kinds == ["survival", "hazards", "hazards", "findings"]
