"""The people: what is promised of seeds, of counterfactuals, and of the confounded treatment."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from polyclinic.phantom import PEOPLE, people, person
from polyclinic.phantom.graph import Values
from polyclinic.phantom.people import SHAPE, name_of

N = 20_000


@pytest.fixture(scope="module")
def many() -> Values:
    return people(7, range(N))


def test_a_patient_is_the_same_alone_and_among_others(many: Values) -> None:
    for index in (0, 1, 4321, N - 1):
        alone = person(7, index)
        # A processor may round the last digit of one number otherwise than of many side by side.
        assert all(many[name][index] == pytest.approx(value, rel=1e-12) for name, value in alone.items())
    assert person(8, 0) != person(7, 0)
    assert name_of(42) == "P000042"


def test_an_intervention_changes_its_effects_alone() -> None:
    was, would = people(0, range(2000)), people(0, range(2000), {"smoking": 0})
    changed = {name for name in was if (was[name] != would[name]).any()}
    assert {"smoking", "emphysema", "nodule", "severity", "months_untreated"} <= changed
    for name in changed - {"smoking"}:
        assert "smoking" in PEOPLE.ancestors(name)
    assert would["nodule"].mean() < was["nodule"].mean()
    never = was["smoking"] == 0
    assert all(
        (was[name][never] == would[name][never]).all() for name in was
    )  # consistency: who did not smoke is as they were


def test_both_worlds_of_the_treatment_agree_with_the_graph(many: Values) -> None:
    for world, name in ((0, "months_untreated"), (1, "months_treated")):
        there = people(7, range(500), {"treatment": world})
        np.testing.assert_array_equal(there["months"], np.minimum(many[name][:500], many["followed_months"][:500]))
    assert (many["months_treated"] > many["months_untreated"]).all()
    np.testing.assert_array_equal(many["died"] == 1, many["months"] < many["followed_months"])


def test_survival_is_weibull_with_the_true_hazard(many: Values) -> None:
    """(t/40)^k exp(log hazard) is then exponential, whoever the patient is."""
    scaled = (many["months_untreated"] / 40) ** SHAPE * np.exp(many["log_hazard"])
    assert stats.kstest(scaled, "expon").pvalue > 0.01
    treated = (many["months_treated"] / 40) ** SHAPE * np.exp(many["log_hazard"] + many["effect"])
    assert stats.kstest(treated, "expon").pvalue > 0.01


def _mortality(months: np.ndarray, died: np.ndarray, until: float) -> tuple[float, float]:
    """Kaplan and Meier's 1 - S(until), and Greenwood's variance of it."""
    times = np.unique(months[(died == 1) & (months <= until)])
    at_risk = (months[None, :] >= times[:, None]).sum(1)
    deaths = ((months[None, :] == times[:, None]) & (died[None, :] == 1)).sum(1)
    alive = float(np.prod(1 - deaths / at_risk))
    spread = float((deaths / (at_risk * np.maximum(at_risk - deaths, 1))).sum())
    return 1 - alive, alive**2 * spread


def test_naive_is_wrong_and_adjusted_is_right(many: Values) -> None:
    """The treated die more, because they are sicker; within triage and site, which the hospital knows, they die less, as in truth."""
    truth = float((many["months_treated"] < 12).mean() - (many["months_untreated"] < 12).mean())
    chosen = slice(0, 8000)
    data = {name: many[name][chosen] for name in ("treatment", "acuity", "site", "months", "died")}

    def difference(mask: np.ndarray) -> tuple[float, float]:
        some = [mask & (data["treatment"] == arm) for arm in (1, 0)]
        arms = [_mortality(data["months"][who], data["died"][who], 12) for who in some]
        return arms[0][0] - arms[1][0], arms[0][1] + arms[1][1]

    naive, naive_variance = difference(np.ones(8000, bool))
    adjusted = variance = 0.0
    for acuity in range(5):
        for site in range(3):
            stratum = (data["acuity"] == acuity) & (data["site"] == site)
            assert 10 <= data["treatment"][stratum].sum() <= stratum.sum() - 10  # positivity
            found, spread = difference(stratum)
            adjusted += stratum.mean() * found
            variance += stratum.mean() ** 2 * spread
    assert truth < -0.05
    assert naive - 2.58 * naive_variance**0.5 > 0.1
    assert abs(adjusted - truth) < 1.96 * variance**0.5
    assert adjusted + 1.96 * variance**0.5 < 0


def test_who_is_sicker_goes_to_the_university(many: Values) -> None:
    mean = [many["severity"][many["site"] == site].mean() for site in range(3)]
    assert mean[1] > mean[0] + 0.3 > mean[2] + 0.6


@pytest.mark.parametrize("name", ["has_ct", "has_ecg", "has_xray"])
def test_what_is_missing_tells_something(many: Values, name: str) -> None:
    share = [many[name][many["severity"] == level].mean() for level in range(5)]
    assert share == sorted(share)
    assert share[4] > share[0] + 0.15


def test_the_code_of_the_page_runs() -> None:
    page = (Path(__file__).parents[2] / "docs/phantom.md").read_text()
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        exec(compile(block, "docs/phantom.md", "exec"), names)
    assert 0 < names["spared"] < 5000  # type: ignore[operator]
