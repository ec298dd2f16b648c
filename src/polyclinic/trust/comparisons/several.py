"""The simple baseline where several are asked at once: logistic regressions, one a finding, one a threshold between grades, or a
multinomial one of classes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from ...tasks import Predictions
from ...tasks.classes import RAREST
from ..measures.intervals import EvidenceError
from .baselines import FEWEST, FOLDS, PENALTIES, Rows, Study, among, blocks, log_odds, reduce

Blocks = list[tuple[Rows, int | None]]


def findings(study: Study, task: str, names: tuple[str, ...]) -> Predictions:
    """Each finding by `baselines.classify`'s regressions, learned from those of whom it is known.

    Args:
        study: `answers` are 0, 1 or (unknown) NaN of each finding.
        task: its name.
        names: of the findings.
    Returns:
        probabilities (n k) of the test patients.
    Raises:
        EvidenceError: the training patients are of one class of a finding.
    """
    read = blocks(study)
    each = [
        _told(study, read, {p: int(v[n]) for p, v in study.answers.items() if np.isfinite(v[n])}, f"{name!r} of {task!r}")
        for n, name in enumerate(names)
    ]  # fmt: skip
    unknown = (np.nan,) * len(names)
    targets = np.array([study.answers.get(p, unknown) for p in study.test], dtype=float).reshape(-1, len(names))
    return Predictions(task, study.test, np.stack(each, axis=1), targets, _known(study))


def grade(study: Study, task: str, names: tuple[str, ...]) -> Predictions:
    """Each "this grade or a higher one" by itself (Frank & Hall 2001); one that would be likelier than a lower one counts as that.

    Args:
        study: `answers` are ranks from 0.
        task: its name.
        names: of the grades.
    Returns:
        probabilities (n k) of the test patients.
    Raises:
        EvidenceError: no training patient has a grade.
    """
    read = blocks(study)
    above = [
        _told(study, read, {p: int(v >= cut) for p, v in study.answers.items()}, f"{names[cut]!r} or more of {task!r}")
        for cut in range(1, len(names))
    ]
    cumulative = np.minimum.accumulate(np.stack(above, axis=1), axis=1)
    sides = np.ones((len(cumulative), 1)), np.zeros((len(cumulative), 1))
    outputs = -np.diff(np.concatenate([sides[0], cumulative, sides[1]], axis=1), axis=1)
    targets = np.array([study.answers.get(p, 0) for p in study.test], dtype=float)
    return Predictions(task, study.test, outputs, targets, _known(study))


def classes(study: Study, task: str, names: tuple[str, ...]) -> Predictions:
    """Multinomial logistic regression on each modality, their log probabilities averaged over what a patient has.

    Args:
        study: `answers` are classes from 0.
        task: its name.
        names: of the classes; one that no training patient has is never likely.
    Returns:
        probabilities (n k) of the test patients, of one who has nothing as common as each class is among the training patients.
    Raises:
        EvidenceError: the training patients are of one class.
    """
    shares = _shares(study, names)
    there = np.flatnonzero(shares)
    if len(there) < 2:
        raise EvidenceError(
            f"a baseline for {task!r} with training patients of one class", "two or more", "label more patients"
        )
    outputs = np.tile(np.log(np.maximum(shares, RAREST)), (len(study.test), 1))
    each = [_log_probabilities(study, rows, most) for rows, most in blocks(study)]
    for row, patient in enumerate(study.test):
        mine = [one[patient] for one in each if patient in one]
        if mine:
            outputs[row, there] = np.mean(mine, axis=0)
    return _classed(study, task, np.exp(outputs))


def commonest(study: Study, task: str, names: tuple[str, ...]) -> Predictions:
    """How common each class is among the training patients, said of everybody: the commonest is called."""
    return _classed(study, task, np.tile(_shares(study, names), (len(study.test), 1)))


def _shares(study: Study, names: tuple[str, ...]) -> np.ndarray:
    """(k,) of the classes among the training patients."""
    return np.bincount([int(study.answers[p]) for p in study.train], minlength=len(names)) / max(1, len(study.train))


def _classed(study: Study, task: str, outputs: np.ndarray) -> Predictions:
    targets = np.array([study.answers.get(p, 0) for p in study.test], dtype=float)
    return Predictions(task, study.test, outputs / outputs.sum(1, keepdims=True), targets, _known(study))


def _log_probabilities(study: Study, rows: Rows, most: int | None) -> dict[str, np.ndarray]:
    """Patient → (k,) log probabilities of the classes that training patients have, by one modality; several rows are averaged.

    The penalty is the one of the least log loss of the patients left out, where the rarest class has enough. Empty where it cannot
    be trained.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedGroupKFold

    training = among(rows.patient, study.train)
    truth = np.array([study.answers[p] for p, t in zip(rows.patient, training, strict=True) if t], dtype=int)
    every = np.unique([int(study.answers[p]) for p in study.train])
    if len(np.unique(truth)) < len(every) or not rows.values.shape[1]:
        return {}  # a modality whose patients have no case of a class would never call it
    values = reduce(rows.values, training, most) if most else rows.values
    groups = [p for p, t in zip(rows.patient, training, strict=True) if t]
    count = Counter(groups)
    weight, known = np.array([1 / count[p] for p in groups]), values[training]
    make = lambda c: LogisticRegression(C=c, max_iter=2000)
    best = PENALTIES[1]
    if min(len({g for g, y in zip(groups, truth, strict=True) if y == k}) for k in every) >= FEWEST:
        folds = list(StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(known, truth, groups))

        def error(c: float) -> float:
            told = [make(c).fit(known[a], truth[a], weight[a]).predict_proba(known[b]) for a, b in folds]
            pairs = zip(folds, told, strict=True)
            return float(np.mean([log_loss(truth[b], p, sample_weight=weight[b], labels=every) for (_, b), p in pairs]))

        best = min(PENALTIES, key=error)
    said = make(best).fit(known, truth, weight).predict_log_proba(values)
    found: dict[str, list[np.ndarray]] = {}
    for name, row in zip(rows.patient, said, strict=True):
        found.setdefault(name, []).append(row)
    return {p: np.mean(v, axis=0) for p, v in found.items()}


def _told(study: Study, read: Blocks, answers: dict[str, int], what: str) -> np.ndarray:
    """(n,) probabilities of the test patients, as common as among the training patients who are known."""
    mine = replace(study, answers=answers, train=tuple(p for p in study.train if p in answers))
    positives = sum(answers[p] for p in mine.train)
    if not 0 < positives < len(mine.train):
        raise EvidenceError(
            f"a baseline for {what} with training patients of one class", "both classes", "label more patients"
        )
    # The regressions weigh both classes alike, as the model's heads do; what each is worth there is given back.
    odds = log_odds(mine, read) + np.log(positives / (len(mine.train) - positives))
    return 1 / (1 + np.exp(-np.clip(odds, -500, 500)))


def _known(study: Study) -> np.ndarray:
    return np.array([p in study.answers for p in study.test], dtype=bool)
