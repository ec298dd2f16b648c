"""The simple baselines of several events of which the first that comes ends the others' chance: Cox's model of each, and nobody's risk."""

from __future__ import annotations

import numpy as np

from ...tasks import Predictions
from ...tasks.baseline import breslow
from ...tasks.incidence import aalen_johansen, ends_of
from ..measures.intervals import EvidenceError
from .baselines import Study, among, cox_hazards, survival_rows


def cause_specific(
    study: Study, task: str, names: tuple[str, ...], intervals: int, components: int = 10
) -> Predictions:
    """A Cox model of each event, who had another counting as censored then; their hazards give the cumulative incidences.

        F_k(t) = Σ S(s⁻) · (1 − exp(−dΛ(s))) · dΛ_k(s) / dΛ(s),  Λ = Σ Λ_k,  over the training patients' event times s ≤ t

    Args:
        study: `answers` are (time, which event or 0, landmark).
        task: its name.
        names: of the events; one that no training patient had has no risk.
        intervals: at whose ends the incidences are told.
        components: of omics, as of `baselines.cox`.
    Returns:
        (n k j) cumulative incidences of the test patients.
    Raises:
        MissingExtraError: lifelines is not installed.
        EvidenceError: no training patient's event was seen, there is nothing to read, or a fit does not converge.
    Source:
        Benichou & Gail 1990; Prentice et al. 1978 for the likelihoods, which part by cause.
    """
    time, event = _answers(study)
    patients, training, values = survival_rows(study, task, int((event > 0).sum()), components)
    at = np.unique(time[event > 0])
    grown = np.zeros((len(patients), len(names), len(at)))  # what each event's cumulative hazard grows by at each time
    for number in range(1, len(names) + 1):
        mine = (event == number).astype(float)
        if not mine.any():
            continue
        of = f"{names[number - 1]!r} of {task!r}"
        told = cox_hazards(values, training, np.stack([time, mine], axis=1), of)
        centre = float(np.median(told[training]))
        when, hazard = breslow(told[training] - centre, time, mine)
        steps = np.diff(hazard, prepend=0.0)
        grown[:, number - 1, np.searchsorted(at, when)] = np.exp(np.clip(told - centre, -50, 50))[:, None] * steps[None]
    place = {p: n for n, p in enumerate(patients)}
    outputs = incidences(grown, at, ends_of(time, event, intervals))
    return _predictions(task, study, outputs[[place[p] for p in study.test]])


def incidences(grown: np.ndarray, at: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """(n k j) cumulative incidences by each of `ends`; they and the share without an event add up to 1.

    Args:
        grown: (n k u) what each event's cumulative hazard grows by at each of `at`.
        at: (u,) ascending.
        ends: (j,).
    """
    every = grown.sum(1)
    without = np.exp(-np.cumsum(every, axis=1))
    before = np.concatenate([np.ones((len(grown), 1)), without[:, :-1]], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(every[:, None] > 0, grown / every[:, None], 0.0)
    told = np.cumsum((before * -np.expm1(-every))[:, None] * share, axis=2)
    told = np.concatenate([np.zeros_like(told[..., :1]), told], axis=2)
    return told[..., np.searchsorted(at, ends, side="right")]


def nobody(study: Study, task: str, names: tuple[str, ...], intervals: int) -> Predictions:
    """Aalen–Johansen's incidences of the training patients, said of everybody: no patient is ranked above another.

    Arguments and return as of `cause_specific`.

    Raises:
        EvidenceError: no training patient's event was seen.
    """
    time, event = _answers(study)
    if not event.any():
        raise EvidenceError(f"incidences of {task!r} without an event", "at least one", "label more patients")
    at, shares = aalen_johansen(time, event, len(names))
    ends = ends_of(time, event, intervals)
    told = np.concatenate([np.zeros((len(names), 1)), shares], axis=1)[:, np.searchsorted(at, ends, side="right")]
    return _predictions(task, study, np.tile(told, (len(study.test), 1, 1)))


def _answers(study: Study) -> tuple[np.ndarray, np.ndarray]:
    """Times and events of the training patients."""
    known = np.array([study.answers[p] for p in study.train], dtype=float).reshape(-1, 3)
    return known[:, 0], known[:, 1].astype(int)


def _predictions(task: str, study: Study, outputs: np.ndarray) -> Predictions:
    targets = np.array([study.answers.get(p, (0.0,) * 3) for p in study.test], dtype=float).reshape(-1, 3)
    return Predictions(task, study.test, outputs, targets, among(study.test, [*study.answers]))
