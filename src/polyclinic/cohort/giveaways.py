"""What gives an answer away: a table's column, its being empty, or a word of the notes that alone tells what a task asks for.

A diagnosis that was coded after the fact, the date of a death, the ward for just these patients: a model that reads such a column is
right on every test and of no use before the answer is known. What is looked at is only how one column orders the labelled patients,
and every interval is one of all columns that were looked at (Bonferroni): of many columns one is always the best by chance.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

import numpy as np

from ..records import events
from ..schema import Modality, Payload, PolyclinicError, Record
from .catalogue import inputs
from .labels import Label, labels_of

NEAR = 0.9
"""Of the pairs of patients, the share that a column must order right, and surely more than chance does, to be told."""
TRUE, COMMON = 0.9, 0.25
"""Of a word that is not the label's own: of those whose notes have it the share of one answer, and of these the share who have it."""
SAME = 0.95
"""The share of a column's cells that are the label's own words, from which on it is a copy of them."""
PATIENTS, HAZARDS, NOTES = 4000, 1000, 300
"""Looked at, at most; of a survival, whose pairs are counted one by one, fewer; and notes read."""
FEWEST = 5
"""A word that fewer patients' notes have is not shown: it might be a name."""
LEVELS, FOLDS = 20, 5
"""Numbers of at most so many values are looked at as words too; folds in which what words mean is learned."""
_WORD = re.compile(r"[^\W\d_]{3,}")
_SPOKEN = re.compile(r"[^\W\d_]{4,}")
_TRUTHS = ("true", "false")
_READ = (Modality.TABLE, Modality.OMICS)


@dataclass(frozen=True, slots=True)
class Giveaway:
    """One thing that alone tells the answer.

    Args:
        task: whose answer; of findings, with the finding.
        kind: a column by its cells, by their being there at all, as a copy of the label's own column; or a word of the notes.
        name: the column or the word.
        right: of the pairs of patients of different answers, the share ordered right (AUROC, concordance); of a copy, of the patients the
            share whose cells are the same; of a word, of the patients whose notes have it the share of one answer.
        low, high: its 95% interval, of all `looks` together.
        n: patients; of a word, those whose notes have it.
        looks: how many columns (each by its cells and by their being there) or words were looked at.
    """

    task: str
    kind: Literal["column", "empty", "copy", "word"]
    name: str
    right: float
    low: float
    high: float
    n: int
    looks: int

    @property
    def remedy(self) -> str:
        """What to do."""
        if self.kind == "word":
            return "read the answer without the notes beside it (`evaluate` does), or adapt without them (`inputs`)"
        return f"leave it out (`leave_out`, `--leave-out {self.name!r}`), or say why it is known before the answer"

    def __str__(self) -> str:
        what = {
            "column": f"the column {self.name!r} alone tells {self.task!r}",
            "empty": f"whether the column {self.name!r} is filled alone tells {self.task!r}",
            "copy": f"the column {self.name!r} says the same words as the label of {self.task!r}",
            "word": f"the word {self.name!r} in the notes tells {self.task!r}",
        }[self.kind]
        of = {"word": "those who have it are of one answer", "copy": "the cells are the same"}
        several = f", of {self.looks} looks together" if self.looks > 1 else ""
        said = of.get(self.kind, "the pairs of patients are ordered right")
        return f"{what}: {self.right:.2f} of {said} ({self.low:.2f} to {self.high:.2f}{several}; n = {self.n})"


def giveaways(
    found: Sequence[Record], label: Label, patients: Collection[str] | None = None, *, exclude: Collection[str] = (),
    reads: Collection[Modality] = tuple(Modality), load: Callable[[Record], Payload] | None = None, seed: int = 0,
) -> tuple[Giveaway, ...]:  # fmt: skip
    """What alone tells a task's answer, the surest first.

    Args:
        found: the records.
        label: the task's, of several classes one by one; what is drawn is not looked at.
        patients: whose answers may be looked at; None for all.
        exclude: columns that the model does not read.
        reads: modalities that the model reads; of a text its words.
        load: record → payload, to read the notes; None leaves them unread.
        seed: of which patients, where they are many.
    """
    if label.placed:
        return ()
    if label.kind in ("findings", "classes"):
        there = (
            set(labels_of(found, label).values()) if label.kind == "classes" else set[int]()
        )  # a class may be nobody's
        named = [cells for number, cells in enumerate(label.grades) if number in there]
        one_of = [Label(f"{label.task}: {cells[0]}", "class", label.column, cells) for cells in named]
        each = [
            giveaways(found, part, patients, exclude=exclude, reads=reads, load=load, seed=seed)
            for part in label.parts or one_of
        ]
        return tuple(one for mine in each for one in mine)
    answers = labels_of(found, label)
    if label.kind == "outcome":  # which event came is looked at as whether one came
        answers = {p: (float(told[0]), float(told[1] > 0)) for p, told in answers.items()}
        label = replace(label, kind="survival")
    if patients is not None:
        wanted = set(patients)
        answers = {p: a for p, a in answers.items() if p in wanted}
    chosen = label.subset(answers, HAZARDS if label.kind == "survival" else PATIENTS, seed)
    answers = {p: answers[p] for p in sorted(chosen)}
    if len(answers) < 2 or label.lacking(list(answers.values())):
        return ()
    own = {label.column, label.event, *exclude}
    columns = _columns(found, answers, [m for m in _READ if m in reads], own)
    told = [*_of_columns(columns, answers, label, seed), *_copies(found, columns, answers, label)]
    if load is not None and Modality.TEXT in reads and label.kind != "survival":
        told += _of_words(found, answers, label, load)
    copied = {one.name for one in told if one.kind == "copy"}
    kept = [one for one in told if one.kind == "copy" or one.name not in copied]
    return tuple(sorted(kept, key=lambda one: (one.kind == "word", -one.low, one.name)))


Cells = Mapping[str, Any]
"""Patient → what a column says: a number, or words."""


def _columns(
    found: Sequence[Record], answers: Collection[str], reads: Sequence[Modality], own: Collection[str | None]
) -> dict[str, Cells]:
    """Each column's cells of the labelled patients: of several rows the mean of numbers, and all words."""
    rows: dict[str, dict[str, list[Any]]] = {}
    for record in inputs(found):
        if record.patient not in answers or record.modality not in reads or record.kind == events.KIND:
            continue
        for name, cell in record.attributes.items():
            if cell is not None and name not in own and (not isinstance(cell, float) or np.isfinite(cell)):
                rows.setdefault(name, {}).setdefault(record.patient, []).append(cell)
    return {name: {p: _one(cells) for p, cells in by.items()} for name, by in sorted(rows.items())}


def _one(cells: list[Any]) -> float | str:
    if all(isinstance(c, int | float) for c in cells):
        return float(np.mean(cells))
    return " | ".join(sorted({str(c).strip().lower() for c in cells}))


def _of_columns(columns: Mapping[str, Cells], answers: Mapping[str, Any], label: Label, seed: int) -> list[Giveaway]:
    """The columns whose cells, or whose being filled, orders the patients nearly right."""
    looked: list[tuple[Literal["column", "empty"], str, list[str], np.ndarray]] = []
    for name, cells in columns.items():
        who = [p for p in answers if p in cells]
        values = [cells[p] for p in who]
        numeric = all(isinstance(v, float) for v in values)
        if numeric:
            looked.extend(("column", name, who, sign * np.array(values)) for sign in (1.0, -1.0))
        if len(set(values)) > 1 and (not numeric or len(set(values)) <= LEVELS):
            looked.append(("column", name, who, _meaning([str(v) for v in values], _scores(answers, who, label), seed)))
        if 0 < len(who) < len(answers):
            filled = np.array([p in cells for p in answers], dtype=float)
            looked.extend(("empty", name, list(answers), sign * filled) for sign in (1.0, -1.0))
    best: dict[tuple[str, str], Giveaway] = {}
    for kind, name, who, scores in looked:
        one = _judged(kind, name, scores, [answers[p] for p in who], label, len(looked))
        if one is not None and one.low > 0.5:
            best[kind, name] = max(one, best.get((kind, name), one), key=lambda g: g.right)
    return list(best.values())


def _scores(answers: Mapping[str, Any], who: Sequence[str], label: Label) -> np.ndarray:
    """(n,) a number that grows with the answer: the class, the grade, or of a survival how much sooner than expected the event came
    (the martingale residual without covariates, Therneau et al. 1990)."""
    values = np.array([answers[p] for p in who], dtype=float)
    if label.kind != "survival":
        return values
    time, event = values[:, 0], values[:, 1]
    order = np.argsort(time, kind="stable")
    at_risk = len(time) - np.searchsorted(time[order], time[order], side="left")
    hazard = np.cumsum(event[order] / at_risk)
    return event - hazard[np.searchsorted(time[order], time, side="right") - 1]


def _meaning(cells: Sequence[str], scores: np.ndarray, seed: int) -> np.ndarray:
    """(n,) the mean score of the others of the same cell, learned in other folds: a name of each patient's own means nothing."""
    order = np.random.default_rng([seed, len(cells)]).permutation(len(cells))
    fold = np.empty(len(cells), dtype=int)
    for k in np.unique(np.round(scores, 6)):  # each fold has each class, where there are as many
        mine = order[np.round(scores[order], 6) == k]
        fold[mine] = np.arange(len(mine)) % FOLDS
    number = np.unique(np.array(cells), return_inverse=True)[1]
    found = np.empty(len(cells))
    for k in range(FOLDS):
        rest = fold != k
        middle = scores[rest].mean() if rest.any() else 0.0
        total = np.bincount(number[rest], scores[rest] - middle, minlength=number.max() + 1)
        often = np.bincount(number[rest], minlength=number.max() + 1)
        found[~rest] = (total / np.maximum(often, 1))[number[~rest]]
    return found


def _judged(
    kind: Literal["column", "empty"], name: str, scores: np.ndarray, values: Sequence[Any], label: Label, looks: int
) -> Giveaway | None:  # fmt: skip
    """How well scores (n,) order the patients; None where that is not nearly right, or there is nothing to order."""
    if len(values) < 2:
        return None
    truth = np.array(values, dtype=float)
    if label.kind == "survival":
        right, trials = _concordance(scores, truth), int(truth[:, 1].sum())
    else:
        groups = [scores[truth == k] for k in np.unique(truth)]
        sizes = sorted(map(len, groups))
        right, trials = _ordered(groups), sum(sizes[:-1])
    if not trials or not right >= NEAR:  # nor where it is not a number
        return None
    return Giveaway(label.task, kind, name, right, *bounds(right, trials, looks), len(values), looks)


def _ordered(groups: Sequence[np.ndarray]) -> float:
    """Of all pairs of patients of two groups, the share in which the later group's score is higher, ties counting half."""
    right = pairs = 0.0
    for lower, higher in combinations(groups, 2):
        low = np.sort(lower)
        below, upto = np.searchsorted(low, higher, "left"), np.searchsorted(low, higher, "right")
        right += float((below + upto).sum()) / 2
        pairs += len(lower) * len(higher)
    return right / pairs if pairs else float("nan")


def _concordance(scores: np.ndarray, truth: np.ndarray) -> float:
    """Harrell's, of scores (n,) of whom the highest is soonest."""
    time, event = truth[:, 0], truth[:, 1] > 0
    later = (time[None] > time[:, None]) | ((time[None] == time[:, None]) & ~event[None])
    known = event[:, None] & later
    ordered = (scores[:, None] > scores[None]) + 0.5 * (scores[:, None] == scores[None])
    return float((ordered * known).sum() / known.sum()) if known.any() else float("nan")


NONE = 1e-9
"""So few hits are none: below, the beta distribution has no quantiles."""


def bounds(right: float, trials: int, looks: int) -> tuple[float, float]:
    """The 95% interval of a share, of as many looks together: Clopper & Pearson 1934 with the rarer answers as trials, Bonferroni's level.

    Conservative: a trial is a patient of the rarer answer, not a pair.
    """
    from scipy.stats import beta

    level, hits = 0.025 / max(looks, 1), right * trials
    low = float(beta.ppf(level, hits, trials - hits + 1)) if hits > NONE else 0.0
    high = float(beta.ppf(1 - level, hits + 1, trials - hits)) if trials - hits > NONE else 1.0
    return low, high


def _copies(
    found: Sequence[Record], columns: Mapping[str, Cells], answers: Mapping[str, Any], label: Label
) -> list[Giveaway]:
    """Columns whose cells are the label column's own: no chance makes the same words, but for yes and no and numbers."""
    own = _columns(found, answers, tuple(Modality), ()).get(label.column or "", {})
    made = []
    for name, cells in columns.items():
        both = [p for p in own if p in cells]
        same = sum(cells[p] == own[p] for p in both)
        spoken = [own[p] for p in both if _SPOKEN.search(str(own[p])) and own[p] not in _TRUTHS]
        if len(set(spoken)) > 1 and len(both) >= FEWEST and same >= SAME * len(both):
            values = [answers[p] for p in both]
            if label.lacking(values) is None:
                right = same / len(both)
                made.append(Giveaway(label.task, "copy", name, right, *bounds(right, len(both), 1), len(both), 1))
    return made


def _of_words(
    found: Sequence[Record], answers: Mapping[str, Any], label: Label, load: Callable[[Record], Payload]
) -> list[Giveaway]:
    """Words that one class's notes have and the other's have not; of grades, of each and the higher ones."""
    from scipy.stats import fisher_exact

    has = _words_of(found, answers, load)
    often = Counter(word for mine in has.values() for word in mine)
    words = sorted(w for w, n in often.items() if FEWEST <= n < len(has))
    there = np.array([[w in mine for w in words] for mine in has.values()], dtype=bool).reshape(len(has), len(words))
    values = np.array([answers[p] for p in has], dtype=float)
    own = {w for cell in _said(label) for w in _WORD.findall(cell.lower())}
    told: dict[str, Giveaway] = {}
    for answer in ((values >= cut) == side for cut in np.unique(values)[1:] for side in (True, False)):
        hits, total = there[answer].sum(0), there.sum(0)
        for place in np.flatnonzero(hits * len(values) > total * answer.sum()):
            word, n, right = words[place], int(total[place]), hits[place] / total[place]
            # Of the label's own words it is known beforehand that they give it away: these are few looks, and any help is too much.
            looks = 2 * len(own) if word in own else 2 * len(words)
            if word not in own and (right < TRUE or hits[place] < COMMON * answer.sum()):
                continue
            counts = [[hits[place], n - hits[place]], [answer.sum() - hits[place], (~answer).sum() - n + hits[place]]]
            sure = word in own or bounds(right, n, looks)[0] > 0.5
            if sure and fisher_exact(counts, "greater").pvalue * looks < 0.05:  # type: ignore[attr-defined]
                one = Giveaway(label.task, "word", word, float(right), *bounds(right, n, looks), n, looks)
                told[word] = max(one, told.get(word, one), key=lambda g: g.right)
    return list(told.values())


def _said(label: Label) -> tuple[str, ...]:
    """The cells of a label, whose words are the answer itself."""
    return (*label.positive, *label.negative, *(cell for cells in label.grades for cell in cells))


def _words_of(
    found: Sequence[Record], answers: Collection[str], load: Callable[[Record], Payload]
) -> dict[str, set[str]]:
    """The words of each labelled patient's notes."""
    notes = [r for r in inputs(found) if r.modality is Modality.TEXT and r.patient in answers]
    has: dict[str, set[str]] = {}
    for record in sorted(notes, key=lambda r: r.id)[:NOTES]:
        with suppress(PolyclinicError):  # who reads it for an answer is told why it cannot be read
            has.setdefault(record.patient, set()).update(_WORD.findall((load(record).text or "").lower()))
    return has
