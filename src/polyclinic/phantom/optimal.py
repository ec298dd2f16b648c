"""The best possible answers: exact posteriors of the phantom's own law, which no model can beat on average.

Each names what it may look at; a model that looks at more (the diagnoses of the record, say) can do better, and one that looks at
less cannot do as well. They are the ceiling against which a trained model is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .labs import Labs, log_likelihood
from .people import PEOPLE

_HIDDEN = (
    "diabetes", "kidney", "emphysema", "fibrillation", "heart_failure", "infarct", "pneumonia", "nodule", "malignant", "severity",
)  # fmt: skip
CHART = ("age", "sex", "smoking", "site", "acuity", "onset_days", "treatment")
"""What the chart says of everybody at admission."""


def _posterior(values: Mapping[str, np.ndarray], log_p: np.ndarray, name: str) -> float:
    weight = np.exp(log_p - log_p.max())
    return float((weight * (values[name] > 0)).sum() / weight.sum())


def pneumonia_from_labs(person: Mapping[str, Any], labs: Labs | None = None) -> float:
    """P(pneumonia | the chart, every laboratory value and vital sign with its hour, and which tests were ordered).

    Exact enumeration of the hidden discrete states.

    Args:
        person: the graph's values, of which only `CHART` is looked at.
        labs: as measured; None for the chart alone.
    """
    values, log_p = PEOPLE.table({name: person[name] for name in CHART}, _HIDDEN)
    possible = np.flatnonzero(log_p > -30)  # nothing is malignant without a nodule; e^-30 of the whole is no loss
    values, log_p = {name: v[possible] if v.ndim else v for name, v in values.items()}, log_p[possible]
    return _posterior(values, log_p if labs is None else log_p + log_likelihood(values, labs), "pneumonia")


def fibrillation_from_ecg(person: Mapping[str, Any]) -> float:
    """P(atrial fibrillation | the rhythm, block and axis that the ECG shows, age, sex).

    Ten seconds show the rhythm all but surely; a third of those with fibrillation are in sinus rhythm then, and nobody can tell.
    """
    known = {name: person[name] for name in ("age", "sex", "rhythm", "bundle_block")}
    values, log_p = PEOPLE.table(known, ("smoking", "diabetes", "emphysema", "fibrillation", "heart_failure"))
    middle = 50 - 35 * values["heart_failure"] - 30 * values["bundle_block"] + 45 * values["emphysema"]
    return _posterior(values, log_p - 0.5 * ((person["axis_deg"] - middle) / 14) ** 2, "fibrillation")


def nodule_from_xray(person: Mapping[str, Any], log_likelihood_ratio: float) -> float:
    """P(nodule | the radiograph, age, smoking), for a reader who knows the anatomy and where and how large a nodule would be.

    Args:
        person: the graph's values.
        log_likelihood_ratio: of the counted photons, with against without it (`xray.Radiograph`).
    """
    prior = PEOPLE.nodes["nodule"].law(np.float64(person["age"]), person["smoking"])
    x = np.log(prior[..., 1] / prior[..., 0]) + log_likelihood_ratio
    return float(1 / (1 + np.exp(-np.clip(x, -500, 500))))


def risk(person: Mapping[str, Any]) -> float:
    """The log hazard of death under the treatment that was given: the true order of risks."""
    return person["log_hazard"] + person["effect"] * person["treatment"]
