"""Figures of written reports: how they sound, what they say, and what they make up; with intervals by bootstrap over patients."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np

from ...cohort import Cohort
from ...cohort.catalogue import inputs
from ...schema import Figure, Modality
from ...tasks import Predictions
from ...tasks.correctness import NAMES, correctness, f1, stacked
from ...tasks.wording import GRAMS, bleu, bleu_counts, meteor, rouge_l, words
from .intervals import DRAWS, bootstrap

Statistic = Callable[[np.ndarray], np.ndarray]
"""Weights (r n) → (r,)."""


def report_figures(
    predictions: Predictions, split: str, *, language: str = "en", earlier: Collection[str] | None = None, draws: int = DRAWS, seed: int = 0
) -> tuple[Figure, ...]:  # fmt: skip
    """All figures of written reports, of the patients who have a reference.

    `finding_f1` (over all mentions), `finding_precision`, `finding_recall`, `finding_f1_macro`, and `f1: NAME` of each finding that
    either side says; `side_errors` and `place_errors`, the share of findings said in both reports with a side (place) in both
    on which they differ; `change_errors`, the same of what became of findings since an earlier study, and `change_f1` over all that is said
    of it; `prior_made_up`, of the patients without an earlier study the share whose report speaks of one, and `prior_missed`, of those
    with one whose reference speaks of it the share whose report does not; `bleu_1`, `bleu_4`, `rouge_l`, `meteor`.

    Args:
        predictions: written reports as outputs, references as targets.
        split: the split's hash.
        language: of the reports.
        earlier: the patients of whom there is an earlier study; None where nobody knows, and then `prior_made_up` and `prior_missed` are
            not given.
    """
    known = predictions.labelled()
    written, references = [str(t) for t in known.outputs], [str(t) for t in known.targets]
    each = [correctness(w, r, language) for w, r in zip(written, references, strict=True)]
    made = lambda name, statistic, note="", keep=None: _figure(
        name, statistic, len(each), split, draws, seed, note, keep
    )
    found = _said(stacked(each), made)
    differing = {"side_errors": "sides", "place_errors": "places", "change_errors": "change_errors"}
    for name, counts in ((n, [getattr(c, field) for c in each]) for n, field in differing.items()):
        pairs = np.array(counts, dtype=float).reshape(-1, 2)
        found.append(made(name, _share(pairs[:, 1], pairs[:, 0]), f"of {int(pairs[:, 0].sum())} findings"))
    changes = np.array([c.changes for c in each], dtype=float).reshape(-1, 3)
    note = f"{int(changes[:, [0, 2]].sum())} said in the references, {int(changes[:, [0, 1]].sum())} written"
    found.append(made("change_f1", lambda w: f1(w @ changes), note))
    if earlier is not None:
        has, whole = np.array([p in earlier for p in known.patients], dtype=bool), np.ones(len(each))
        told, wanted = (
            np.array(v, dtype=bool) for v in ([c.compared for c in each], [c.reference_compared for c in each])
        )
        found.append(made("prior_made_up", _share(1.0 * told, whole), "patients without an earlier study", ~has))
        note = "patients with an earlier study of which the reference speaks"
        found.append(made("prior_missed", _share(1.0 * ~told, whole), note, has & wanted))
    return (*found, *_sound(written, references, language, made))


def _said(counts: np.ndarray, made: Callable[..., Figure]) -> list[Figure]:
    """Counts (n f 3) → the figures of findings."""
    total = lambda w: np.einsum("rn,nfc->rfc", w, counts)
    whole = lambda w: total(w).sum(1)
    spoken = counts.sum((0, 2)) > 0

    def macro(w: np.ndarray) -> np.ndarray:
        each = f1(total(w)[:, spoken])
        with np.errstate(invalid="ignore"):
            return np.nansum(each, 1) / np.isfinite(each).sum(1)

    note = f"{int(counts[..., [0, 2]].sum())} said in the references, {int(counts[..., [0, 1]].sum())} written"
    found = [
        made("finding_f1", lambda w: f1(whole(w)), note),
        made("finding_precision", lambda w: _ratio(whole(w)[:, 0], whole(w)[:, [0, 1]].sum(1)), note),
        made("finding_recall", lambda w: _ratio(whole(w)[:, 0], whole(w)[:, [0, 2]].sum(1)), note),
        made("finding_f1_macro", macro, f"{int(spoken.sum())} findings"),
    ]
    for i in np.flatnonzero(spoken):
        both, extra, missed = counts[:, i].sum(0).astype(int)
        note = f"{both + missed} said in the references, {both + extra} written"
        found.append(made(f"f1: {NAMES[i]}", lambda w, i=i: f1(total(w)[:, i]), note))
    return found


def _sound(
    written: Sequence[str], references: Sequence[str], language: str, made: Callable[..., Figure]
) -> list[Figure]:
    """The figures of words."""
    pairs = [(words(w), words(r)) for w, r in zip(written, references, strict=True)]
    counts = np.array([bleu_counts(*pair) for pair in pairs]).reshape(len(pairs), 2 * GRAMS + 2)
    english = language.lower().startswith("en")
    means = {
        "rouge_l": (np.array([rouge_l(*pair) for pair in pairs]), "beta 1.2"),
        "meteor": (
            np.array([meteor(*pair, stems=english) for pair in pairs]),
            "words and stems" if english else "words",
        ),
    }
    found = [made(f"bleu_{n}", lambda w, n=n: bleu(w @ counts, n)) for n in (1, 4)]
    return found + [made(name, _share(v, np.ones(len(v))), note) for name, (v, note) in means.items()]


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return part / whole


def _share(part: np.ndarray, whole: np.ndarray) -> Statistic:
    return lambda w: _ratio(w @ part, w @ whole)


def _figure(
    name: str, statistic: Statistic, n: int, split: str, draws: int, seed: int, note: str, keep: np.ndarray | None
) -> Figure:
    """A statistic's figure, of all n reports or only of those to keep (n,)."""
    rows = np.flatnonzero(keep) if keep is not None else np.arange(n)

    def of(weights: np.ndarray) -> np.ndarray:
        every = np.zeros((len(weights), n))
        every[:, rows] = weights
        return statistic(every)

    # Only a share of patients has an exact bound; what is counted within reports is more than one trial a patient.
    made = bootstrap(
        of, np.zeros(len(rows), dtype=int), name=name, split=split, draws=draws, seed=seed, method="percentile",
        bounded=keep is not None,
    )  # fmt: skip
    if len(rows) and np.isnan(made.value):
        made = replace(made, note="not defined: there is none to count")
    return replace(made, note=f"{note}; {made.note}" if note else made.note)


def with_earlier(cohort: Cohort, where: str | None, modalities: Collection[Modality]) -> set[str]:
    """The patients of whom there are images of two times or more: the earlier one is what a report may compare with.

    Notes and tables are of other times than the images that they accompany, and are no studies.
    """
    times: dict[str, set[object]] = {}
    studies = set(modalities) - {Modality.TEXT, Modality.TABLE}
    for record in inputs(cohort.records(where)):
        if record.modality in studies and record.time is not None:
            times.setdefault(record.patient, set()).add(record.time)
    return {p for p, seen in times.items() if len(seen) > 1}
