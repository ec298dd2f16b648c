"""Laboratory values and vital signs: what a disease does to them over time, and who orders them when.

A test is ordered by a clinician's worry, which follows the hidden severity and disease, so that its absence tells something too.
Both the values and the pattern of what was ordered have a likelihood in closed form (`log_likelihood`), from which the best answer
to "is it pneumonia?" follows exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .people import ONSETS
from .sites import SITES

DAYS = 5
"""Rounds of the laboratory: the hour of admission and the four days after."""
_LAB_BIAS = np.array([site.lab_bias for site in SITES])


@dataclass(frozen=True, slots=True)
class Analyte:
    """One quantity.

    Args:
        name: in the field's words.
        loinc: its code.
        unit: in UCUM.
        panel: what it is ordered with.
        mean: (a person's states, hours since admission) → its median.
        between: standard deviation between people, of the logarithm (or of the value, where not `log`).
        within: the same between two measurements of a person.
        decimals: as the laboratory reports it.
        log: whether it is multiplied by its deviations.
    """

    name: str
    loinc: str
    unit: str
    panel: str
    mean: Callable[[Mapping[str, Any], Any], Any]
    between: float
    within: float
    decimals: int
    log: bool = True


def _flare(p: Mapping[str, Any], t_h: Any, fast_h: float = 24.0, slow_h: float = 72.0) -> Any:
    """What inflammation drives: rises towards 1 with a half-time of 12 h from the first symptom, and halves from admission on in
    `slow_h`, or in `fast_h` under treatment; CRP's own half-life is 19 h (Vigushin et al. 1993, J Clin Invest 91:1351).
    """
    begun = np.array(ONSETS)[np.asarray(p["onset_days"], dtype=np.int64)] * 24.0
    return (1 - 2.0 ** (-begun / 12)) * 2.0 ** (-t_h / np.where(np.asarray(p["treatment"]) > 0, fast_h, slow_h))


ANALYTES = (
    Analyte("temperature", "8310-5", "Cel", "vital", lambda p, t: 36.8 + (0.4 * p["pneumonia"] + 0.08 * p["severity"]) * _flare(p, t),
            0.3, 0.25, 1, log=False),
    Analyte("heart rate", "8867-4", "/min", "vital", lambda p, t: 74 + 5 * p["severity"] + 9 * p["fibrillation"], 9, 6, 0, log=False),
    Analyte("respiratory rate", "9279-1", "/min", "vital",
            lambda p, t: 15 + 1.3 * p["severity"] + 0.6 * p["pneumonia"], 2, 1.5, 0, log=False),
    Analyte("C-reactive protein", "1988-5", "mg/L", "basic",
            lambda p, t: 4 + 9 * p["severity"] + 26 * p["pneumonia"] * (1 + 0.3 * p["severity"]) * _flare(p, t), 1.0, 0.25, 1),
    Analyte("leukocytes", "6690-2", "10*3/uL", "basic",
            lambda p, t: 7.2 + 0.4 * p["severity"] + 1.6 * p["pneumonia"] * _flare(p, t), 0.28, 0.1, 1),
    Analyte("haemoglobin", "718-7", "g/dL", "basic",
            lambda p, t: 13.4 + 1.3 * p["sex"] - 1.4 * p["malignant"] - 1.1 * p["kidney"], 1.2, 0.3, 1,
            log=False),
    Analyte("creatinine", "2160-0", "mg/dL", "basic",
            lambda p, t: 0.82 + 0.16 * p["sex"] + 0.95 * p["kidney"] + 0.06 * p["severity"], 0.25, 0.08, 2),
    Analyte("potassium", "2823-3", "mmol/L", "basic", lambda p, t: 4.1 + 0.5 * p["kidney"], 0.3, 0.2, 1, log=False),
    Analyte("glucose", "2345-7", "mg/dL", "basic", lambda p, t: 98 + 68 * p["diabetes"] + 7 * p["severity"], 0.18, 0.15, 0),
    Analyte("NT-proBNP", "33762-6", "pg/mL", "cardiac",
            lambda p, t: 70 * np.exp(0.03 * (p["age"] - 50) + 2.2 * p["heart_failure"] + 0.7 * p["fibrillation"] + 0.6 * p["kidney"]),
            0.9, 0.2, 0),
    Analyte("lactate", "2524-7", "mmol/L", "sepsis", lambda p, t: 1 + 0.5 * p["severity"] * _flare(p, t, 8.0, 24.0), 0.3, 0.15, 1),
    Analyte("procalcitonin", "33959-8", "ng/mL", "sepsis",
            lambda p, t: 0.06 + (0.05 + 0.12 * p["pneumonia"]) * (1 + p["severity"]) * _flare(p, t, 24.0, 48.0), 1.1, 0.25, 2),
    Analyte("haemoglobin A1c", "4548-4", "%", "diabetes", lambda p, t: 5.5 + 1.9 * p["diabetes"], 0.55, 0.1, 1, log=False),
)  # fmt: skip

PANELS: dict[str, Callable[[Mapping[str, Any], int], Any]] = {
    "vital": lambda p, day: 2.5 + 0.5 * p["severity"] - 1.2 * day,
    "basic": lambda p, day: 1.5 + 0.7 * p["severity"] + 0.2 * p["pneumonia"] - 1.1 * day,
    "cardiac": lambda p, day: -2.2 + 2.4 * p["heart_failure"] + 0.3 * p["severity"] - 1.5 * day,
    "sepsis": lambda p, day: -3.0 + 0.9 * p["severity"] + 0.6 * p["pneumonia"] - 1.2 * day,
    "diabetes": lambda p, day: -1.8 + 2.6 * p["diabetes"] - 3.0 * day,
}
"""Panel → the log-odds that it is ordered on a day."""


@dataclass(frozen=True, slots=True)
class Labs:
    """What was measured of one person.

    Args:
        hours: (days,) of the round, since admission.
        values: (days, analytes) as reported; NaN where not ordered.
    """

    hours: np.ndarray
    values: np.ndarray


def _odds(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def draw(person: Mapping[str, Any], rng: np.random.Generator) -> Labs:
    """A person's laboratory course.

    Args:
        person: the graph's values.
        rng: of the patient's laboratory.
    """
    hours = 24.0 * np.arange(DAYS) + 1 + rng.random(DAYS)
    chance = np.array([[_odds(log_odds(person, day)) for log_odds in PANELS.values()] for day in range(DAYS)])
    taken = dict(zip(PANELS, (rng.random(chance.shape) < chance).T, strict=True))
    person_z, each_z = rng.standard_normal(len(ANALYTES)), rng.standard_normal((DAYS, len(ANALYTES)))
    values = np.full((DAYS, len(ANALYTES)), np.nan)
    bias = float(_LAB_BIAS[person["site"]])
    for i, analyte in enumerate(ANALYTES):
        middle, off = (
            analyte.mean(person, hours) + 0 * hours,
            analyte.between * person_z[i] + analyte.within * each_z[:, i],
        )
        course = middle * np.exp(off + bias) if analyte.log else middle + off
        values[:, i] = np.where(taken[analyte.panel], np.round(course, analyte.decimals), np.nan)
    return Labs(hours, values)


def log_likelihood(states: Mapping[str, np.ndarray], labs: Labs) -> np.ndarray:
    """(k,) of k possible persons: log P(what was ordered, what it showed | their states), up to the rounding of values.

    A person's measurements of one analyte share a deviation: their covariance is within² I + between² 1 1ᵀ, whose inverse and
    determinant are closed.

    Args:
        states: node → (k,), the parents of any analyte or panel.
        labs: as measured.
    """
    total = np.zeros(len(states["severity"]))
    members = {panel: [i for i, a in enumerate(ANALYTES) if a.panel == panel] for panel in PANELS}
    for panel, log_odds in PANELS.items():
        taken = ~np.isnan(labs.values[:, members[panel][0]])
        for day in range(DAYS):
            x = log_odds(states, day)
            total -= np.logaddexp(0, -x if taken[day] else x)
    bias = _LAB_BIAS[states["site"].astype(np.int64)]
    for i, analyte in enumerate(ANALYTES):
        days = np.flatnonzero(~np.isnan(labs.values[:, i]))
        if not len(days):
            continue
        sums = squares = 0.0
        for day in days:
            middle, value = analyte.mean(states, labs.hours[day]), labs.values[day, i]
            least = 0.5 * 10.0**-analyte.decimals  # what is rounded to 0 was at most that
            off = np.log(max(value, least) / middle) - bias if analyte.log else value - middle
            sums, squares = sums + off, squares + off**2
        within, between, n = analyte.within**2, analyte.between**2, len(days)
        total -= 0.5 * (squares - between * sums**2 / (within + n * between)) / within
        total -= 0.5 * ((n - 1) * np.log(within) + np.log(within + n * between) + n * np.log(2 * np.pi))
    return total
