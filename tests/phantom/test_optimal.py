"""The best possible answers are calibrated, use what they are given, and are beaten by nothing that is learned."""

from __future__ import annotations

import numpy as np
import pytest

from polyclinic.phantom import labs, optimal
from polyclinic.phantom.people import PEOPLE, generator, people, person

N = 500


@pytest.fixture(scope="module")
def drawn() -> list[tuple[dict, labs.Labs]]:
    return [(who := person(11, i), labs.draw(who, generator(11, i, "labs"))) for i in range(N)]


@pytest.fixture(scope="module")
def answers(drawn: list[tuple[dict, labs.Labs]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    truth = np.array([who["pneumonia"] for who, _ in drawn])
    return (
        truth,
        np.array([optimal.pneumonia_from_labs(*one) for one in drawn]),
        np.array([optimal.pneumonia_from_labs(who) for who, _ in drawn]),
    )


def _calibrated(truth: np.ndarray, p: np.ndarray, bins: int = 5) -> None:
    """In every bin of the score the number of cases is a sum of such Bernoullis (Spiegelhalter's z below 3.5)."""
    order = np.argsort(p)
    for part in [np.arange(len(p)), *np.array_split(order, bins)]:
        spread = np.sqrt((p[part] * (1 - p[part])).sum())
        assert abs((truth[part] - p[part]).sum()) < 3.5 * spread + 0.5


def test_posteriors_of_pneumonia_are_calibrated(answers) -> None:
    truth, full, chart = answers
    _calibrated(truth, full)
    _calibrated(truth, chart)


def test_laboratory_values_help_and_leave_room(answers) -> None:
    from sklearn.metrics import brier_score_loss, roc_auc_score

    truth, full, chart = answers
    assert brier_score_loss(truth, full) < brier_score_loss(truth, chart) - 0.03
    assert 0.88 < roc_auc_score(truth, full) < 0.98


def test_nothing_learned_from_the_same_numbers_beats_the_optimum(drawn, answers) -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import log_loss

    truth, full, _ = answers
    features = np.array(
        [[*(who[n] for n in optimal.CHART), *measured.values.ravel(), *measured.hours] for who, measured in drawn]
    )
    half = N // 2
    features = features[:, (~np.isnan(features[:half])).sum(0) > 20]
    model = HistGradientBoostingClassifier(max_iter=60, random_state=0).fit(features[:half], truth[:half])
    learned = model.predict_proba(features[half:])[:, 1]
    assert log_loss(truth[half:], full[half:]) < log_loss(truth[half:], learned)


def test_only_the_chart_is_looked_at(drawn) -> None:
    who, measured = drawn[0]
    other = {name: (value if name in optimal.CHART else 0) for name, value in who.items()}
    assert optimal.pneumonia_from_labs(other, measured) == optimal.pneumonia_from_labs(who, measured)


def test_fibrillation_by_bayes() -> None:
    """Who fibrillates has it; in sinus rhythm with nothing known of axis and block, by hand p 0.35/(1 - 0.65 p) with p the prior."""
    who = person(11, 0) | {"rhythm": 1}
    assert optimal.fibrillation_from_ecg(who) == pytest.approx(1)
    many = people(11, range(3000))
    truth = many["fibrillation"]
    score = np.array([optimal.fibrillation_from_ecg({n: v[i].item() for n, v in many.items()}) for i in range(500)])
    _calibrated(truth[:500], score, bins=4)
    prior = PEOPLE.nodes["fibrillation"].law(many["age"], many["sex"])[:, 1]
    by_hand = np.where(many["rhythm"] == 1, 1, prior * 0.35 / (1 - 0.65 * prior))
    _calibrated(truth, by_hand)
    assert np.corrcoef(score, by_hand[:500])[0, 1] > 0.97
    assert ((truth[:500] - score) ** 2).mean() < ((truth[:500] - by_hand[:500]) ** 2).mean() + 0.004


def test_a_nodule_by_bayes() -> None:
    who = person(11, 0)
    prior = PEOPLE.nodes["nodule"].law(np.float64(who["age"]), who["smoking"])[1]
    assert optimal.nodule_from_xray(who, 0.0) == pytest.approx(prior)
    assert optimal.nodule_from_xray(who, np.log(9)) == pytest.approx(9 * prior / (1 + 8 * prior))
    assert optimal.nodule_from_xray(who, -1e4) == pytest.approx(0, abs=1e-6)


def test_the_true_risk_orders_deaths() -> None:
    """Its concordance is above that of age, and of severity alone."""
    lifelines = pytest.importorskip("lifelines.utils")
    many = people(11, range(1500))
    c = lambda score: lifelines.concordance_index(many["months"], -score, many["died"])
    risk = many["log_hazard"] + many["effect"] * many["treatment"]
    assert optimal.risk({n: v[3].item() for n, v in many.items()}) == pytest.approx(risk[3])
    assert 0.72 < c(risk) < 0.9
    assert c(risk) > max(c(many["severity"].astype(float)), c(many["age"])) + 0.01
