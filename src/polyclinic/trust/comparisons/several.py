"""The simple baseline where several are asked at once: logistic regressions, one a finding or one a threshold between grades."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...tasks import Predictions
from ..measures.intervals import EvidenceError
from .baselines import Rows, Study, blocks, log_odds

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
