"""The people of the phantom: who falls ill, how badly, where they go, what is done, and how long they live.

`PEOPLE` is the graph; each node's equation stands beside it. Rates and odds are plausible and no more: they were chosen so that
every question has a known answer that is neither trivial nor hopeless, not fitted to any population.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .graph import Graph, Node, Values, choice, ordered, yes
from .sites import SITES

LOBES = ("right upper", "right middle", "right lower", "left upper", "left lower")
READING = ("absent", "uncertain", "present")
PRIORS = (0, 3, 6, 12, 24)
"""Months before admission of an earlier radiograph; 0 where there is none."""
ONSETS = (1, 2, 4, 7)
"""Days of symptoms before admission."""
DECADE = "(age - 60)/10"
SHAPE = 1.2
"""Of the Weibull law of survival."""
NO_YES = ("no", "yes")
_REFERS = np.array([site.refers for site in SITES])
_TREATS = np.array([site.treats for site in SITES])
_ANNOTATES = np.array([site.annotates for site in SITES])
_SPANISH = np.array([site.spanish for site in SITES])


def _decades(age: np.ndarray) -> np.ndarray:
    return (np.asarray(age) - 60) / 10


def _normal(u: np.ndarray) -> np.ndarray:
    from scipy.special import ndtri

    return ndtri(u)


def _share(p: np.ndarray) -> np.ndarray:
    """Probabilities of no and yes from that of yes."""
    return np.stack([1 - p, p], axis=-1)


def _at(*values: float):
    """A table of log-odds (or probabilities) by the levels of one parent."""
    table = np.array(values)
    return lambda level: table[np.asarray(level, dtype=np.int64)]


def _severity(age, pneumonia, heart_failure, malignant, infarct, emphysema):
    score = (
        0.45 * _decades(age) + 1.6 * pneumonia + 1.1 * heart_failure + 0.9 * malignant + 1.2 * infarct + 0.6 * emphysema
    )
    return ordered(score, (0.2, 1.4, 2.8, 4.2))


def _reading(there, score):
    """What a reader says: of what is there, more surely the plainer it is; of what is not, seldom anything."""
    return np.where(np.asarray(there)[..., None] > 0, ordered(score, (-0.7, 0.7)), np.array([0.95, 0.035, 0.015]))


def _log_hazard(u, age, severity, malignant, heart_failure, kidney):
    return 0.35 * _decades(age) + 0.8 * (severity - 1) + 0.7 * malignant + 0.3 * heart_failure + 0.25 * kidney


_DISEASES = (
    Node("age", (), "18 + 77 u^0.6", lambda u: 18 + 77 * u**0.6, unit="a", recorded=True),
    Node("sex", (), "F or M alike", lambda: choice(0, 0), ("F", "M"), recorded=True),
    Node("smoking", ("age", "sex"), f"softmax(0.8 - 0.5 sex, 0.3 {DECADE}, -0.3 - 0.2 {DECADE} + 0.3 sex)",
         lambda age, sex: choice(0.8 - 0.5 * sex, 0.3 * _decades(age), -0.3 - 0.2 * _decades(age) + 0.3 * sex),
         ("never", "former", "current"), recorded=True),
    Node("diabetes", ("age",), f"logit = -1.8 + 0.35 {DECADE}", lambda age: yes(-1.8 + 0.35 * _decades(age)), NO_YES, recorded=True),
    Node("kidney", ("age", "diabetes"), f"logit = -2.6 + 0.5 {DECADE} + 1.1 diabetes",
         lambda age, diabetes: yes(-2.6 + 0.5 * _decades(age) + 1.1 * diabetes), NO_YES, recorded=True),
    Node("emphysema", ("age", "smoking"), f"logit = (-4.5, -2.2, -1.2)[smoking] + 0.4 {DECADE}",
         lambda age, smoking: yes(_at(-4.5, -2.2, -1.2)(smoking) + 0.4 * _decades(age)), NO_YES, recorded=True),
    Node("fibrillation", ("age", "sex"), f"logit = -2.6 + 0.7 {DECADE} + 0.3 sex",
         lambda age, sex: yes(-2.6 + 0.7 * _decades(age) + 0.3 * sex), NO_YES, recorded=True),
    Node("heart_failure", ("age", "fibrillation", "diabetes"), f"logit = -2.5 + 0.5 {DECADE} + 1.2 fibrillation + 0.6 diabetes",
         lambda age, fibrillation, diabetes: yes(-2.5 + 0.5 * _decades(age) + 1.2 * fibrillation + 0.6 * diabetes), NO_YES, recorded=True),
    Node("infarct", ("age", "fibrillation", "diabetes"), f"logit = -2.9 + 0.4 {DECADE} + 1.1 fibrillation + 0.5 diabetes",
         lambda age, fibrillation, diabetes: yes(-2.9 + 0.4 * _decades(age) + 1.1 * fibrillation + 0.5 * diabetes), NO_YES, recorded=True),
    Node("pneumonia", ("age", "smoking", "emphysema"), f"logit = (-1.1, -0.9, -0.6)[smoking] + 0.15 {DECADE} + 0.7 emphysema",
         lambda age, smoking, emphysema: yes(_at(-1.1, -0.9, -0.6)(smoking) + 0.15 * _decades(age) + 0.7 * emphysema),
         NO_YES, recorded=True),
    Node("nodule", ("age", "smoking"), f"logit = (-1.9, -1.2, -0.8)[smoking] + 0.3 {DECADE}",
         lambda age, smoking: yes(_at(-1.9, -1.2, -0.8)(smoking) + 0.3 * _decades(age)), NO_YES, recorded=True),
    Node("malignant", ("age", "smoking", "nodule"), f"0 without a nodule, else logit = (-1.5, -0.6, 0.2)[smoking] + 0.4 {DECADE}",
         lambda age, smoking, nodule: yes(np.where(np.asarray(nodule) > 0, _at(-1.5, -0.6, 0.2)(smoking) + 0.4 * _decades(age), -40.0)),
         NO_YES, recorded=True),
)  # fmt: skip

_EXTENT = (
    Node("lobe", (), "where pneumonia is, or would be: 0.15, 0.10, 0.30, 0.15, 0.30", lambda: np.array([0.15, 0.1, 0.3, 0.15, 0.3]), LOBES),
    Node("extent_mm", (), "its radius, 22 + 26 u", lambda u: 22 + 26 * u, unit="mm"),
    Node("nodule_lobe", (), "where a nodule is, or would be: 0.30, 0.10, 0.20, 0.25, 0.15",
         lambda: np.array([0.3, 0.1, 0.2, 0.25, 0.15]), LOBES),
    Node("nodule_mm", (), "its diameter at admission, 4 + 28 u^2", lambda u: 4 + 28 * u**2, unit="mm"),
    Node("doubling_days", ("malignant",), "of its volume, 60 + 240 u if malignant, else 900 + 2000 u",
         lambda u, malignant: np.where(malignant > 0, 60 + 240 * u, 900 + 2000 * u), unit="d"),
    Node("effusion", ("pneumonia", "heart_failure"), "logit = -3.5 + 2 pneumonia + 2.4 heart_failure",
         lambda pneumonia, heart_failure: yes(-3.5 + 2 * pneumonia + 2.4 * heart_failure), NO_YES, recorded=True),
    Node("ejection", ("heart_failure",), "fraction of the left ventricle, 0.62 (0.33 in failure) + 0.05 normal(u)",
         lambda u, failure: np.clip(0.62 - 0.29 * failure + 0.05 * _normal(u), 0.15, 0.75), unit="1"),
    Node("rhythm", ("fibrillation",), "at the time of the ECG: P(fibrillating | fibrillation) = 0.65, else 0",
         lambda fibrillation: _share(0.65 * np.asarray(fibrillation)),
         ("sinus", "fibrillation")),
    Node("bundle_block", ("heart_failure",), "left bundle branch block, logit = -3.5 + 2.2 heart_failure",
         lambda failure: yes(-3.5 + 2.2 * failure), NO_YES),
    Node("axis_deg", ("heart_failure", "emphysema", "bundle_block"),
         "of the QRS, 50 - 35 heart_failure - 30 bundle_block + 45 emphysema + 14 normal(u)",
         lambda u, failure, emphysema, block: 50 - 35 * failure - 30 * block + 45 * emphysema + 14 * _normal(u), unit="deg"),
    Node("bmi", ("diabetes",), "26 + 3 diabetes + 4 normal(u), 16 to 44",
         lambda u, diabetes: np.clip(26 + 3 * diabetes + 4 * _normal(u), 16, 44), unit="kg/m2"),
    Node("height_cm", ("sex",), "163 + 13 sex + 7 normal(u)", lambda u, sex: 163 + 13 * sex + 7 * _normal(u), unit="cm"),
)  # fmt: skip

_CARE = (
    Node("severity", ("age", "pneumonia", "heart_failure", "malignant", "infarct", "emphysema"),
         f"proportional odds of 0.45 {DECADE} + 1.6 pneumonia + 1.1 heart_failure + 0.9 malignant + 1.2 infarct + 0.6 emphysema, "
         "cuts 0.2 1.4 2.8 4.2",
         _severity, ("well", "mild", "moderate", "severe", "critical")),
    Node("site", ("severity",), "softmax of (0.3, 0, 0) + refers (severity - 1)",
         lambda severity: choice(*(np.array([0.3, 0, 0])[i] + _REFERS[i] * (np.asarray(severity) - 1) for i in range(len(SITES)))),
         tuple(site.name for site in SITES), recorded=True),
    Node("acuity", ("severity",), "triage: softmax of -0.9 (level - severity)^2",
         lambda severity: choice(*(-0.9 * (level - np.asarray(severity)) ** 2 for level in range(5))),
         ("1", "2", "3", "4", "5"), recorded=True),
    Node("onset_days", (), "of symptoms at admission: 1, 2, 4, 7 with 0.2, 0.3, 0.3, 0.2", lambda: np.array([0.2, 0.3, 0.3, 0.2]),
         tuple(map(str, ONSETS)), recorded=True),
    Node("treatment", ("acuity", "site"), "logit = -2 + acuity + treats of the site",
         lambda acuity, site: yes(-2.0 + acuity + _TREATS[np.asarray(site, dtype=np.int64)]), NO_YES, recorded=True),
    Node("prior_months", ("age",), f"an earlier radiograph, none with logit 0.4 - 0.2 {DECADE}, else 3, 6, 12, 24 alike",
         lambda age: choice(0.4 - 0.2 * _decades(age) + np.log(4), 0, 0, 0, 0), tuple(map(str, PRIORS)), recorded=True),
    Node("admitted", (), "days after 2015-01-01, 2555 u", lambda u: 2555 * u, unit="d", recorded=True),
    Node("has_xray", ("severity", "pneumonia"), "logit = 0.6 + 0.5 severity + pneumonia",
         lambda severity, pneumonia: yes(0.6 + 0.5 * severity + pneumonia), NO_YES, recorded=True),
    Node("has_ct", ("severity", "nodule", "site"), "logit = -2 + 0.6 severity + 0.9 nodule + (0, 0.7, -0.8)[site]",
         lambda severity, nodule, site: yes(-2 + 0.6 * severity + 0.9 * nodule + _at(0, 0.7, -0.8)(site)), NO_YES, recorded=True),
    Node("has_mr", ("infarct", "site"), "logit = -2.6 + 3 infarct + (0, 0.6, -0.8)[site]",
         lambda infarct, site: yes(-2.6 + 3 * infarct + _at(0, 0.6, -0.8)(site)), NO_YES, recorded=True),
    Node("has_ultrasound", ("heart_failure", "severity"), "logit = -1.8 + 2 heart_failure + 0.2 severity",
         lambda failure, severity: yes(-1.8 + 2 * failure + 0.2 * severity), NO_YES, recorded=True),
    Node("has_ecg", ("age", "severity"), f"logit = 0.5 + 0.4 {DECADE} + 0.5 severity",
         lambda age, severity: yes(0.5 + 0.4 * _decades(age) + 0.5 * severity), NO_YES, recorded=True),
    Node("has_omics", ("malignant", "site"), "logit = -1.5 + 2.2 malignant + (0, 1, -1.5)[site]",
         lambda malignant, site: yes(-1.5 + 2.2 * malignant + _at(0, 1, -1.5)(site)), NO_YES, recorded=True),
    Node("has_report", ("has_xray",), "0.9 of the radiographs",
         lambda xray: yes(np.where(np.asarray(xray) > 0, 2.2, -40.0)), NO_YES, recorded=True),
    Node("annotated", ("site",), "masks were drawn: annotates of the site",
         lambda site: _share(_ANNOTATES[site]), NO_YES, recorded=True),
    Node("coded", ("site",), "diagnoses stand in the register: half way from annotates to 1",
         lambda site: _share((1 + _ANNOTATES[site]) / 2), NO_YES, recorded=True),
    Node("language", ("site",), "of the report: Spanish with the share of the site",
         lambda site: _share(_SPANISH[site]), ("en", "es"), recorded=True),
)  # fmt: skip

_READINGS = (
    Node("says_consolidation", ("pneumonia", "extent_mm"),
         "proportional odds of 1 + (extent - 30)/6, cuts -0.7 0.7; 0.95 absent of nothing",
         lambda there, extent: _reading(there, 1 + (extent - 30) / 6), READING),
    Node("says_nodule", ("nodule", "nodule_mm"), "proportional odds of (diameter - 11)/3",
         lambda there, mm: _reading(there, (mm - 11) / 3), READING),
    Node("says_effusion", ("effusion",), "proportional odds of 2", lambda there: _reading(there, 2.0), READING),
    Node("says_cardiomegaly", ("heart_failure",), "proportional odds of 1.8", lambda there: _reading(there, 1.8), READING),
    Node("says_emphysema", ("emphysema",), "proportional odds of 0.5", lambda there: _reading(there, 0.5), READING),
)  # fmt: skip

_OUTCOME = (
    Node("log_hazard", ("age", "severity", "malignant", "heart_failure", "kidney"),
         f"untreated: 0.35 {DECADE} + 0.8 (severity - 1) + 0.7 malignant + 0.3 heart_failure + 0.25 kidney", _log_hazard, unit="1"),
    Node("effect", ("pneumonia",), "of the treatment on the log hazard: -0.9 with pneumonia, else -0.4",
         lambda u, pneumonia: -0.4 - 0.5 * pneumonia, unit="1"),
    Node("months_untreated", ("log_hazard",), f"40 (-ln(u) exp(-log_hazard))^(1/{SHAPE})",
         lambda u, log_hazard: 40 * (-np.log(u) * np.exp(-log_hazard)) ** (1 / SHAPE), unit="mo"),
    Node("months_treated", ("months_untreated", "effect"), f"the same person's, months_untreated exp(-effect/{SHAPE})",
         lambda u, months, effect: months * np.exp(-effect / SHAPE), unit="mo"),
    Node("followed_months", (), "until the study ends, 6 + 54 u", lambda u: 6 + 54 * u, unit="mo"),
    Node("months", ("months_untreated", "months_treated", "treatment", "followed_months"),
         "the lesser of what the treatment gave and followed_months",
         lambda u, without, given, treatment, end: np.minimum(np.where(treatment > 0, given, without), end), unit="mo", recorded=True),
    Node("died", ("months", "followed_months"), "whether months < followed_months",
         lambda months, end: yes(np.where(np.asarray(months) < end, 40.0, -40.0)), NO_YES, recorded=True),
)  # fmt: skip

PEOPLE = Graph([*_DISEASES, *_EXTENT, *_CARE, *_READINGS, *_OUTCOME])
"""The phantom's causal graph."""


def generator(seed: int, index: int, part: str) -> np.random.Generator:
    """The randomness of one part (a modality) of one patient: the same whatever else is drawn.

    Args:
        seed: of the hospital.
        index: of the patient, from 0.
        part: what is drawn.
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, index, zlib.crc32(part.encode())))))


def people(seed: int, indices: Iterable[int], do: Mapping[str, float] | None = None) -> Values:
    """Patients of a seed, or what the same patients would have been had something been otherwise.

    Args:
        seed: of the hospital.
        indices: which patients, from 0.
        do: nodes that are set from outside, such as `{"smoking": 0}`; everything that they do not cause stays.
    Returns:
        node → (p,)
    """
    noise = np.stack([_noise(seed, index) for index in indices], axis=1)
    return PEOPLE.draw(noise, do)


def person(seed: int, index: int, do: Mapping[str, float] | None = None) -> dict[str, Any]:
    """One patient, as plain numbers; see `people`."""
    return {name: value.item() for name, value in PEOPLE.draw(_noise(seed, index), do).items()}


def _noise(seed: int, index: int) -> np.ndarray:
    return np.maximum(generator(seed, index, "person").random(len(PEOPLE)), 1e-12)


def name_of(index: int) -> str:
    """The patient's number at the hospital: `P000042`."""
    return f"P{index:06d}"
