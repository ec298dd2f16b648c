"""Laboratory: the likelihood against scipy's, kinetics against their half-lives, and what an absent test tells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats

from polyclinic.phantom.labs import ANALYTES, DAYS, PANELS, Labs, draw, log_likelihood
from polyclinic.phantom.people import generator, person
from polyclinic.phantom.sites import SITES

COURSES = [(who, draw(who, generator(5, i, "labs"))) for i in range(250) if (who := person(5, i))]


def _reference(who: dict, labs: Labs) -> float:
    """The same likelihood from its definition: Bernoulli orders, jointly normal values."""
    total = 0.0
    for panel, log_odds in PANELS.items():
        first = next(i for i, a in enumerate(ANALYTES) if a.panel == panel)
        for day in range(DAYS):
            p = 1 / (1 + np.exp(-log_odds(who, day)))
            total += float(stats.bernoulli.logpmf(int(not np.isnan(labs.values[day, first])), p))
    for i, a in enumerate(ANALYTES):
        days = np.flatnonzero(~np.isnan(labs.values[:, i]))
        if len(days):
            middle = np.array([float(a.mean(who, labs.hours[d])) for d in days])
            values = labs.values[days, i]
            off = (
                np.log(np.maximum(values, 0.5 * 10.0**-a.decimals) / middle) - SITES[who["site"]].lab_bias
                if a.log
                else values - middle
            )
            covariance = a.within**2 * np.eye(len(days)) + a.between**2
            total += float(stats.multivariate_normal.logpdf(off, cov=covariance))  # type: ignore[arg-type]
    return total


def test_the_likelihood_is_that_of_its_definition() -> None:
    for who, labs in COURSES[:12]:
        states = {name: np.array([value]) for name, value in who.items()}
        assert log_likelihood(states, labs)[0] == pytest.approx(_reference(who, labs), rel=1e-9)


def test_values_follow_their_law() -> None:
    """Each first value, standardised by its law, is standard normal over people."""
    z = []
    for who, labs in COURSES:
        a, value = ANALYTES[6], labs.values[0, 6]  # creatinine
        if not np.isnan(value):
            z.append(
                (np.log(value / a.mean(who, labs.hours[0])) - SITES[who["site"]].lab_bias)
                / np.hypot(a.between, a.within)
            )
    assert len(z) > 150
    assert stats.kstest(z, "norm").pvalue > 0.01


def test_a_treated_inflammation_halves_in_a_day_and_an_untreated_one_in_three() -> None:
    crp = next(a for a in ANALYTES if a.loinc == "1988-5")
    who = person(5, 0) | {"pneumonia": 1, "severity": 2, "onset_days": 3}
    for treatment, half_life in ((1, 24.0), (0, 72.0)):
        course = [
            float(crp.mean(who | {"treatment": treatment}, t) - crp.mean(who | {"pneumonia": 0}, t))
            for t in (10.0, 10.0 + half_life)
        ]
        assert course[1] / course[0] == pytest.approx(0.5)


def test_the_absence_of_a_test_tells_something() -> None:
    """Lactate is measured in the sicker, natriuretic peptide in failing hearts."""
    names = [a.name for a in ANALYTES]
    taken = lambda name, who: np.mean(
        [not np.isnan(labs.values[:, names.index(name)]).all() for p, labs in COURSES if who(p)]
    )
    assert taken("lactate", lambda p: p["severity"] >= 3) > taken("lactate", lambda p: p["severity"] == 0) + 0.25
    assert taken("NT-proBNP", lambda p: p["heart_failure"]) > taken("NT-proBNP", lambda p: not p["heart_failure"]) + 0.2


def _luhn(code: str) -> bool:
    """A LOINC's check digit is Luhn's, mod 10 (LOINC Users' Guide)."""
    digits = [int(c) for c in code.replace("-", "")]
    doubled = [d if i % 2 == 0 else sum(divmod(2 * d, 10)) for i, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


@pytest.mark.parametrize("analyte", ANALYTES, ids=lambda a: a.name)
def test_codes_and_units_are_valid(analyte) -> None:
    assert _luhn(analyte.loinc)
    ucumvert = pytest.importorskip("ucumvert")
    assert ucumvert.get_ucum_parser().parse(analyte.unit) is not None


@dataclass
class _Same:
    """A generator whose every draw is the middle."""

    def random(self, size):
        return np.full(size, 0.5)

    def standard_normal(self, size):
        return np.zeros(size)


def test_a_value_without_deviation_is_the_law_s_median() -> None:
    who = person(5, 1) | {"site": 0, "severity": 4}  # the first site's calibration is right
    labs = draw(who, _Same())  # type: ignore[arg-type]
    for i, a in enumerate(ANALYTES):
        if not np.isnan(labs.values[0, i]):
            assert labs.values[0, i] == pytest.approx(float(a.mean(who, 1.5)), abs=0.51 * 10.0**-a.decimals)
