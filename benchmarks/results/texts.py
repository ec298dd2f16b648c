"""What the pages on texts share: the simple baselines, figures with intervals, and answers that are kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from polyclinic.cohort import Cohort
from polyclinic.schema import Figure
from polyclinic.tasks import Predictions
from polyclinic.trust.measures.figures import difference, figures
from polyclinic.trust.measures.intervals import bootstrap

PENALTIES, WEIGHTS = (1.0, 10.0, 100.0), (None, "balanced")
"""Of the logistic regression on words: scikit-learn's C, and whether the rare classes are made to count."""


def texts_of(cohort: Cohort, kind: str, patients: Sequence[str]) -> list[str]:
    """Each patient's one text of a kind."""
    own = {r.patient: r for r in cohort.records() if r.kind == kind}
    return [cohort.load(own[p]).text or "" for p in patients]


def majority(like: Predictions, known: Sequence[int], classes: int) -> Predictions:
    """Everybody as common as among the training patients: the likeliest class is the commonest."""
    shares = np.bincount(list(known), minlength=classes) / len(known)
    return _as(like, np.tile(shares, (len(like.patients), 1)))


def words(
    like: Predictions, train: Sequence[str], known: Sequence[int], test: Sequence[str], classes: int
) -> Predictions:
    """Logistic regression on TF-IDF of words and pairs; penalty and weights by the accuracy in three folds of the training patients."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import KFold
    from sklearn.pipeline import make_pipeline

    truth, texts = np.array(known), np.array(train, dtype=object)

    def made(penalty: float, weights: str | None):
        vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=20_000)
        return make_pipeline(vectors, LogisticRegression(C=penalty, class_weight=weights, max_iter=500, tol=1e-3))

    folds = list(KFold(3, shuffle=True, random_state=0).split(texts))
    right = lambda told: np.mean([made(*told).fit(texts[a], truth[a]).score(texts[b], truth[b]) for a, b in folds])
    best = max(((c, w) for c in PENALTIES for w in WEIGHTS), key=right)
    model = made(*best).fit(texts, truth)
    outputs = np.zeros((len(test), classes))
    outputs[:, model.classes_] = model.predict_proba(np.array(test, dtype=object))
    return _as(like, outputs)


def _as(like: Predictions, outputs: np.ndarray) -> Predictions:
    """Other answers about the same patients."""
    return Predictions(like.task, like.patients, outputs, like.targets, like.mask)


def told(value: Figure, sign: bool = False) -> str:
    """A figure as it stands in a page."""
    shape = "+.3f" if sign else ".3f"
    if not np.isfinite([value.low, value.high]).all():
        return f"{value.value:{shape}}" if np.isfinite(value.value) else "–"
    return f"{value.value:{shape}} ({value.low:{shape}} to {value.high:{shape}})".replace("-", "−")


def table(
    answers: dict[str, Predictions], first: str, peer: str, names: Sequence[str], split: str, draws: int
) -> list[str]:
    """Rows of accuracy, macro F1, top 3 and AUROC; below them how much more often the first is right than the peer."""
    wanted = (
        ["accuracy", "macro_f1", "top_3_accuracy", "macro_auroc"]
        if len(names) > 3
        else ["accuracy", "macro_f1", "macro_auroc"]
    )
    lines = ["| | " + " | ".join(w.replace("_", " ") for w in wanted) + " |", "|---|" + "---|" * len(wanted)]
    for arm, made in answers.items():
        found = {f.name: f for f in figures("classes", made, split, names, draws=draws)}
        lines.append(f"| {arm} | " + " | ".join(told(found[w]) for w in wanted) + " |")
    ahead = difference("accuracy", answers[first], answers[peer], split, draws=draws)
    return [*lines, f"| *{first} − {peer}* | {told(ahead, sign=True)} |" + " – |" * (len(wanted) - 1), ""]


def rouge(written: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """(n 3) F-measures of ROUGE-1, ROUGE-2 and ROUGE-L of each text, stemmed, by `rouge_score` (Lin 2004)."""
    from rouge_score.rouge_scorer import RougeScorer

    names = ["rouge1", "rouge2", "rougeL"]
    scorer = RougeScorer(names, use_stemmer=True)
    scores = [scorer.score(reference, text) for text, reference in zip(written, references, strict=True)]
    return np.array([[score[name].fmeasure for name in names] for score in scores])


def averaged(values: np.ndarray, draws: int) -> Figure:
    """The mean of (n,) values with its interval over patients."""
    mean = lambda w: w @ values / w.sum(1)
    return bootstrap(mean, np.zeros(len(values), dtype=int), name="mean", split="", draws=draws, bounded=False)


def commonest(known: Sequence[int], names: Sequence[str]) -> str:
    """The commonest class and its share."""
    number, count = Counter(known).most_common(1)[0]
    return f"{names[number]}, {count / len(known):.0%} of the training part"
