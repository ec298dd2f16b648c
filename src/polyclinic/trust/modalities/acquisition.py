"""The most informative missing modality: by how much each is expected to better a patient's answer, and how sure that is.

Of patients who have it, the answer with and without it is known, and so is the truth. Among those whose present answer is about the
patient's own, the mean betterment of the Brier score is what asking for it is expected to bring. (EDDI, Ma et al. 2019, and Covert et
al. 2023 estimate the expected information by a generative model or learn to predict it; here the few patients are asked themselves.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from ...adaptation import Adapted, open_adapted
from ...cohort import Cohort
from ...inference import predict
from ...inference.predict import one_patient, said
from ...records import RecordError
from ...schema import Figure, Modality
from ...tasks import LinearTask
from ...training import Run
from ..measures.intervals import DRAWS, EvidenceError, bootstrap, percentile, resamples
from .design import Chosen
from .reference import Reference, brier, reference_of

FEWEST = 20
"""Patients who have a modality besides what the patient has, below whom nothing is estimated."""
WIDTHS = (0.25, 0.5, 1.0, 2.0, np.inf)
"""Of the kernel, in standard deviations of the present answers; infinite where the answer says nothing of what is gained."""


@dataclass(frozen=True, slots=True)
class Gain:
    """What one missing modality is expected to bring.

    Args:
        modality: which.
        brier: the expected fall of the Brier score, by what came true of the reference patients.
        entropy: the expected fall of the answer's own entropy, in bits: what the model would be surer, right or wrong.
        worth: whether the first one's interval lies above zero.
    """

    modality: str
    brier: Figure
    entropy: Figure
    worth: bool


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What to ask for.

    Args:
        present: what there is.
        ask: the missing modality that is expected to bring most; None where none is shown to bring anything.
        why: in a sentence.
        gains: of each missing one, the largest first.
    """

    present: tuple[str, ...]
    ask: str | None
    why: str
    gains: tuple[Gain, ...]


def expected(
    near: np.ndarray, gained: np.ndarray, at: np.ndarray, split: str, *, name: str = "expected_gain", draws: int = DRAWS, seed: int = 0
) -> Figure:  # fmt: skip
    """The mean of what patients gained whose answers were near one answer (Nadaraya 1964, Watson 1964).

    Args:
        near: (n d) the reference patients' present answers, as logits.
        gained: (n,) what each gained.
        at: (d,) the patient's own answer.
        split: the split's hash.
        draws, seed: of the resamples of reference patients.
    Returns:
        n counts the reference patients; the note says how many of them the estimate rests on (Kish's effective number).
    """
    n = len(gained)
    nothing = Figure(name, float("nan"), float("nan"), float("nan"), n, split, f"{n} patients have it, {FEWEST} wanted")
    if n < FEWEST:
        return nothing
    weight = Local(near, gained).weights(at)
    value = float(weight @ gained / weight.sum())
    drawn = np.concatenate(
        [
            (w * weight) @ gained / np.maximum((w * weight).sum(1), 1e-300)
            for w in resamples(np.zeros(n, int), draws, seed)
        ]
    )
    interval = percentile(value, drawn)
    often = weight.sum() ** 2 / (weight**2).sum()
    note = (
        f"95% interval, percentile bootstrap over {n} patients who have it; those of a like answer count as {often:.0f}"
    )
    return Figure(name, value, interval.low, interval.high, n, split, note)


class Local:
    """Reference patients weighed by how near their present answers are to one answer: a Gaussian kernel, in standard deviations.

    Args:
        near: (n d) their present answers, as logits.
        gained: (n,) what each gained, by which the kernel's width is chosen.
    """

    def __init__(self, near: np.ndarray, gained: np.ndarray) -> None:
        spread = near.std(0)
        self.spread = np.where(spread > 1e-9, spread, 1.0)
        self.near, self.gained = near / self.spread, gained
        n = min(len(near), 1000)  # of very many the first are enough to choose one of five
        apart, first = ((self.near[:n, None] - self.near[None, :n]) ** 2).sum(2), gained[:n]

        def error(width: float) -> float:
            """Of each patient told by the others."""
            weight = np.exp(-0.5 * apart / width**2)
            np.fill_diagonal(weight, 0.0)
            total = weight.sum(1)
            told = np.where(total > 1e-12, weight @ first / np.maximum(total, 1e-300), first.mean())
            return float(((first - told) ** 2).mean())

        self.width = max(WIDTHS, key=lambda width: (-round(error(width), 12), width))

    def weights(self, at: np.ndarray) -> np.ndarray:
        """(d,) → (n,); of one far from everybody the nearest count."""
        squared = ((self.near - at / self.spread) ** 2).sum(1)
        return np.exp(-0.5 * (squared - squared.min()) / self.width**2)

    def value(self, at: np.ndarray) -> float:
        """(d,) → the mean gain near it."""
        weight = self.weights(at)
        return float(weight @ self.gained / weight.sum())


def next_modality(
    run: Adapted | Run | str | Path, files: Sequence[str | Path] = (), *, patient: str | None = None,
    cohort: Cohort | str | Path | None = None, draws: int = DRAWS,
) -> Suggestion:  # fmt: skip
    """Which of the modalities that a patient lacks would better the answer most, as far as patients who have it tell.

    Args:
        run: adapted to a classification, findings, a grade or a survival.
        files: the patient's, or:
        patient: one of the cohort.
        cohort: where it lies now.
        draws: resamples of the reference patients.
    Raises:
        EvidenceError: neither or both are given, nothing there is read, or the task is of another kind.
        RecordError: a file that cannot be used.
    """
    adapted = run if isinstance(run, Adapted) else open_adapted(run)
    catalogue = cohort if isinstance(cohort, Cohort) else adapted.run.cohort(cohort)
    if bool(files) == (patient is not None):
        raise EvidenceError(
            "files and a patient's name, or neither", "one of them", "say whose next record is asked for"
        )
    reference = reference_of(adapted, catalogue)
    output, present = _of_files(adapted, files) if files else _of_patient(adapted, catalogue, str(patient))
    return suggested(reference, reference.as_logits(output)[0], present, adapted.run.split.hash, draws=draws)


def _of_files(adapted: Adapted, files: Sequence[str | Path]) -> tuple[np.ndarray, Chosen]:
    """The task's answer (1 …), and what was read."""
    batch = one_patient(adapted.run, files, adapted.inputs).of(["patient"], adapted.inputs)
    if not batch.payloads:
        raise RecordError("a file of which the model knows nothing", "values that it learned", "give another file")
    task = adapted.task
    assert isinstance(task, LinearTask)
    with torch.no_grad():
        output, _ = said(adapted, batch)
        return task.answer(output).numpy(), tuple(m for m in adapted.inputs if m in batch.payloads)


def _of_patient(adapted: Adapted, cohort: Cohort, patient: str) -> tuple[np.ndarray, Chosen]:
    found = predict(adapted, cohort, patients=[patient])
    if not found.patients or not found.modalities[0]:
        raise EvidenceError(
            f"a patient {patient!r} of whom this run reads nothing",
            "one who has " + " or ".join(adapted.inputs),
            "correct the name, or give files",
        )
    return found.outputs, found.modalities[0]


def suggested(reference: Reference, at: np.ndarray, present: Chosen, split: str, *, draws: int = DRAWS) -> Suggestion:
    """What to ask for.

    Args:
        reference: patients of whom it is known what each modality brought.
        at: (q,) the patient's answer, as logits.
        present: what the patient has.
        split: the split's hash.
        draws: resamples.
    """
    missing = [m for m in reference.reads if m not in present]
    has = tuple(m.value for m in present)
    if not missing:
        return Suggestion(has, None, "nothing that this run reads is missing", ())
    gains = []
    for one in missing:
        near, bettered, surer = reference.gained(present, one)
        figure = lambda name, gained, near=near: expected(near, gained, at, split, name=name, draws=draws)
        falls = figure("expected_brier_gain", bettered)
        gains.append(Gain(one.value, falls, figure("expected_entropy_gain", surer), bool(falls.low > 0)))
    gains.sort(key=lambda g: -np.nan_to_num(g.brier.value, nan=-np.inf))
    worth = [g for g in gains if g.worth]
    if worth:
        best = worth[0]
        low, high, n = best.brier.low, best.brier.high, best.brier.n
        why = f"{best.modality} is expected to lower the Brier score by {best.brier.value:.3f} ({low:.3f} to {high:.3f}, n = {n})"
        return Suggestion(has, best.modality, why, tuple(gains))
    told = [g for g in gains if np.isfinite(g.brier.value)]
    lacking = ", ".join(f"{g.modality} ({g.brier.note})" for g in gains if not np.isfinite(g.brier.value))
    why = (
        "no missing modality is shown to better the answer: every interval holds zero"
        if told
        else "nothing can be said"
    )
    return Suggestion(has, None, why + (f"; too few patients: {lacking}" if lacking else ""), tuple(gains))


@dataclass(frozen=True, slots=True)
class Acquired:
    """Test patients who have everything, after so many modalities were asked for, from one to begin with (the mean over all beginnings).

    Args:
        number: how many were asked for.
        metric: "brier" or "accuracy" (at one half).
        suggested, random, fixed: by what was suggested; by any as likely; by the one that brought most on average.
        over_random, over_fixed: suggested minus these, paired.
    """

    number: int
    metric: str
    suggested: Figure
    random: Figure
    fixed: Figure
    over_random: Figure
    over_fixed: Figure


def acquisition(
    run: Adapted | Run | str | Path, cohort: Cohort | str | Path | None = None, *, draws: int = DRAWS
) -> tuple[Acquired, ...]:
    """Whether asking for what is suggested serves the test patients better than asking for anything, or for always the same.

    Args:
        run: adapted, reading at least three modalities: of two there is nothing to choose.
        cohort: where it lies now.
        draws: resamples.
    Returns:
        of each number asked for but the last, at which all are the same.
    Raises:
        EvidenceError: fewer than three modalities; no labelled test patient has them all.
    """
    adapted = run if isinstance(run, Adapted) else open_adapted(run)
    catalogue = cohort if isinstance(cohort, Cohort) else adapted.run.cohort(cohort)
    split = adapted.run.split
    reference = reference_of(adapted, catalogue)
    test = reference_of(adapted, catalogue, patients=split.test)
    return followed(reference, test, split.hash, draws=draws)


def followed(reference: Reference, test: Reference, split: str, *, draws: int = DRAWS) -> tuple[Acquired, ...]:
    """As `acquisition`, of patients whose answers are there."""
    reads = reference.reads
    rows = np.flatnonzero([set(reads) <= set(has) for has in test.has])
    if len(reads) < 3 or not len(rows):
        raise EvidenceError(
            f"{len(rows)} labelled test patients who have all of {len(reads)} modalities ({', '.join(reads)})",
            "at least one, and three modalities", "nothing can be chosen there",
        )  # fmt: skip
    routes = {start: _routes(reference, test, rows, start) for start in reads}
    score = {
        "brier": lambda seen, row: brier(test.answers(seen)[row], test.truth[row], test.weight[row]),
        "accuracy": lambda seen, row: _right(test.answers(seen)[row], test.truth[row], test.weight[row]),
    }
    made = []
    for number in range(1, len(reads) - 1):
        for metric, of in score.items():
            each = {way: np.zeros(len(rows)) for way in ("suggested", "random", "fixed")}
            for start in reads:
                chosen, fixed = routes[start]
                rest = [m for m in reads if m is not start]
                any_ = [_ordered(reads, (start, *more)) for more in combinations(rest, number)]
                each["random"] += np.mean([of(seen, rows) for seen in any_], axis=0)
                each["fixed"] += of(_ordered(reads, (start, *fixed[:number])), rows)
                for i, row in enumerate(rows):
                    seen = _ordered(reads, (start, *chosen[i][:number]))
                    each["suggested"][i] += of(seen, np.array([row]))[0]
            each = {way: total / len(reads) for way, total in each.items()}
            figure = lambda name, v: bootstrap(
                lambda w: w @ v / w.sum(1), np.zeros(len(rows), int), name=name, split=split, draws=draws,
                method="percentile", bounded=False,
            )  # fmt: skip
            made.append(
                Acquired(
                    number, metric, suggested=figure(metric, each["suggested"]), random=figure(metric, each["random"]),
                    fixed=figure(metric, each["fixed"]),
                    over_random=figure(f"{metric}_difference", each["suggested"] - each["random"]),
                    over_fixed=figure(f"{metric}_difference", each["suggested"] - each["fixed"]),
                )
            )  # fmt: skip
    return tuple(made)


def _ordered(reads: Chosen, chosen: Sequence[Modality]) -> Chosen:
    return tuple(m for m in reads if m in chosen)


def _routes(
    reference: Reference, test: Reference, rows: np.ndarray, start: Modality
) -> tuple[list[tuple[Modality, ...]], tuple[Modality, ...]]:
    """In which order each test patient is asked for the others, and which order is best on average."""
    reads = reference.reads
    known: dict[tuple[Chosen, Modality], Local | None] = {}

    def local(seen: Chosen, one: Modality) -> Local | None:
        if (seen, one) not in known:
            near, gained, _ = reference.gained(seen, one)
            known[seen, one] = Local(near, gained) if len(gained) >= FEWEST else None
        return known[seen, one]

    def value(seen: Chosen, one: Modality, at: np.ndarray | None) -> float:
        if (found := local(seen, one)) is None:
            return -np.inf  # nobody can say
        return float(found.gained.mean()) if at is None else found.value(at)

    def route(of: int | None) -> tuple[Modality, ...]:
        seen, order = (start,), list[Modality]()
        while len(seen) < len(reads):
            left = [m for m in reads if m not in seen]
            at = None if of is None else test.logits(seen)[of]
            best = max(left, key=lambda m: value(seen, m, at))
            order.append(best)
            seen = _ordered(reads, (*seen, best))
        return tuple(order)

    return [route(int(row)) for row in rows], route(None)


def _right(told: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(n,) the share of what is known of each patient that is told right at one half."""
    return np.nansum(weight * ((told >= 0.5) == (truth >= 0.5)), 1) / np.maximum(np.nansum(weight, 1), 1e-12)


__all__ = ["Acquired", "Gain", "Suggestion", "acquisition", "expected", "followed", "next_modality", "suggested"]
