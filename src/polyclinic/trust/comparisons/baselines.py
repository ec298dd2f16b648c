"""Strong simple baselines, each trained on exactly the labelled training patients that a model's arm was.

X-ray pixels, words of notes and cells of tables go to logistic regression; a patient's modalities are averaged as
logits, so that a baseline too answers for any subset. Survival is Cox's model; segmentation is a mean atlas. Every penalty is
chosen within the training labels, by the rule and from as many candidates as the probe's (`adaptation.probe`).

Of several answers at once see `several`, of several events `causes`, of boxes and points `priors`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...cohort.catalogue import inputs
from ...harmonise import ImageStandard, harmonise
from ...harmonise.fingerprint import Fingerprint
from ...harmonise.loader import Loader
from ...harmonise.table import is_of
from ...schema import MissingExtraError, Modality, Payload, Record
from ...tasks import Predictions
from ...tasks.segmentation import dice
from ..measures.intervals import EvidenceError
from .struck import strike

Load = Callable[[Record], Payload]
PIXELS = 32
PENALTIES = (0.01, 0.1, 1.0, 10.0)
"""Of logistic regression (scikit-learn's C, the strongest first) and of Cox's model (lifelines' `penalizer`, the weakest first)."""
FOLDS, FEWEST = 3, 6
"""Cross-validation needs so many patients of the rarer class (or events)."""
READABLE = (Modality.IMAGE, Modality.TEXT, Modality.TABLE, Modality.OMICS)
"""What the classification baseline reads."""


@dataclass(frozen=True, slots=True)
class Study:
    """What a baseline may see, and of whom.

    Args:
        records: of all patients.
        load: record → source payload.
        train: the labelled training patients, as an arm drew them.
        test: who is asked about.
        answers: patient → 0 or 1, or (time, event).
        modalities: what may be read; None for all.
        exclude: table columns that are labels.
        without: words that are struck from notes before they are read.
    """

    records: Sequence[Record]
    load: Load
    train: tuple[str, ...]
    test: tuple[str, ...]
    answers: Mapping[str, Any]
    modalities: tuple[Modality, ...] | None = None
    exclude: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def of(self, modality: Modality) -> dict[str, list[Record]]:
        """The records of one modality, by patient, of the patients that count."""
        wanted = {*self.train, *self.test}
        found: dict[str, list[Record]] = {}
        for record in sorted(inputs(self.records), key=lambda r: r.id):
            if record.modality is modality and record.patient in wanted:
                found.setdefault(record.patient, []).append(record)
        return found


@dataclass(frozen=True, slots=True)
class Rows:
    """Features (n f), and whose row each is; a patient may have several."""

    values: Any
    patient: list[str] = field(default_factory=list)


def pixels(study: Study) -> Rows:
    """Each X-ray at 32×32, standardised as the model's images are."""
    standard, nobody = ImageStandard(size=PIXELS), Fingerprint()
    rows, patient = [], []
    for name, records in study.of(Modality.IMAGE).items():
        for record in records:
            rows.append(harmonise(study.load(record), record, standard, nobody).array.reshape(-1))
            patient.append(name)
    return Rows(np.array(rows), patient)


def words(study: Study) -> Rows:
    """Each patient's notes as TF-IDF of words and pairs of words, learned from the training patients' notes."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = {
        p: strike(" ".join(study.load(r).text or "" for r in rs), study.without)
        for p, rs in study.of(Modality.TEXT).items()
    }
    training = [texts[p] for p in study.train if p in texts]
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=5000)
    try:
        vectorizer.fit(training)
    except ValueError:  # no training note has a word
        return Rows(np.zeros((0, 1)))
    return Rows(vectorizer.transform(texts.values()).toarray(), list(texts))  # type: ignore[union-attr]


def cells(study: Study, modality: Modality = Modality.TABLE) -> Rows:
    """Each patient's cells (or genes): numbers as their mean with whether they are known, words as 0 and 1."""
    column: dict[str, int] = {}
    table: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    names, columns = tuple[str, ...](), np.zeros(0, dtype=int)
    for patient, records in study.of(modality).items():
        for record in records:
            payload = study.load(record)
            values = payload.array if modality is Modality.OMICS else payload.array.reshape(-1, 2)[:, 0]
            if payload.names != names:  # the genes of one table are the same for all
                names, columns = (
                    payload.names,
                    np.array([column.setdefault(n, len(column)) for n in payload.names], int),
                )
            known = np.isfinite(values)
            table.setdefault(patient, []).append((columns[known], values[known].astype(float)))
    total, count = np.zeros((len(table), len(column))), np.zeros((len(table), len(column)))
    for row, mine in enumerate(table.values()):
        for where, values in mine:
            np.add.at(total[row], where, values)
            np.add.at(count[row], where, 1)
    training = count[among(list(table), study.train)] > 0
    # A code of one patient would name them; a gene counts where all were measured for it.
    fewest = max(1, len(training)) if modality is Modality.OMICS else 2
    having = training.sum(0)
    codes = sorted(c for c, at in column.items() if having[at] >= fewest and not is_of(c, study.exclude))
    kept = np.array([column[c] for c in codes], dtype=int)
    with np.errstate(invalid="ignore"):
        return Rows((total / count)[:, kept].reshape(len(table), len(codes)), list(table))


def among(patients: Sequence[str], chosen: Sequence[str]) -> np.ndarray:
    """(n,) bool, which of the patients are chosen."""
    wanted = set(chosen)
    return np.array([p in wanted for p in patients], dtype=bool)


def _impute(values: np.ndarray, training: np.ndarray, categorical: np.ndarray) -> np.ndarray:
    """Standardised by the training rows; the unknown at their mean, with a column that says so."""
    filled = np.where(np.isnan(values) & categorical, 0.0, values)
    seen = filled[training]
    with np.errstate(all="ignore"):
        known = np.isfinite(seen)
        count = known.sum(0).clip(min=1)
        mean = np.where(known, seen, 0).sum(0) / count
        sd = np.sqrt(np.where(known, (seen - mean) ** 2, 0).sum(0) / count)
    scaled = np.nan_to_num((filled - mean) / np.where(sd > 1e-9, sd, 1.0))
    unknown = np.isnan(filled).astype(float)
    return np.concatenate([np.clip(scaled, -6, 6), unknown[:, unknown[training].std(0) > 0]], axis=1)


def reduce(values: np.ndarray, training: np.ndarray, most: int) -> np.ndarray:
    """The leading principal components of the training rows, each with unit variance."""
    from sklearn.decomposition import PCA

    count = min(most, int(training.sum()) - 1, values.shape[1])
    if count < 1:
        return np.zeros((len(values), 1))
    return PCA(count, whiten=True, svd_solver="full").fit(values[training]).transform(values)


def _fit_logistic(values: np.ndarray, truth: np.ndarray, weight: np.ndarray, groups: Sequence[str]) -> Any:
    """Logistic regression, both classes alike; its penalty by cross-validation over patients where there are enough of both."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedGroupKFold

    make = lambda c: LogisticRegression(C=c, max_iter=2000)
    share = np.array([weight[truth == k].sum() for k in (0, 1)])
    even = weight / share[truth.astype(int)] * weight.sum() / 2
    rarer = min(len({g for g, y in zip(groups, truth, strict=True) if y == k}) for k in (0, 1))
    best = PENALTIES[1]
    if rarer >= FEWEST:
        folds = list(StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(values, truth, groups))

        def error(c: float) -> float:
            told = [make(c).fit(values[a], truth[a], even[a]).predict_proba(values[b])[:, 1] for a, b in folds]
            losses = [
                log_loss(truth[b], p, sample_weight=even[b], labels=[0, 1])
                for (_, b), p in zip(folds, told, strict=True)
            ]
            return float(np.mean(losses))

        best = min(PENALTIES, key=error)
    return make(best).fit(values, truth, even)


def _logits(rows: Rows, study: Study, most: int | None) -> dict[str, float]:
    """Patient → logit by one modality; several rows are averaged. Empty where it cannot be trained."""
    training = among(rows.patient, study.train)
    truth = np.array([study.answers[p] if t else 0 for p, t in zip(rows.patient, training, strict=True)])
    if len(set(truth[training])) < 2 or not rows.values.shape[1]:
        return {}
    values = reduce(rows.values, training, most) if most else rows.values
    count = Counter(rows.patient)
    weight = np.array([1 / count[p] for p in rows.patient])
    names = [p for p, t in zip(rows.patient, training, strict=True) if t]
    model = _fit_logistic(values[training], truth[training], weight[training], names)
    found: dict[str, list[float]] = {}
    for name, logit in zip(rows.patient, model.decision_function(values), strict=True):
        found.setdefault(name, []).append(float(logit))
    return {p: float(np.mean(v)) for p, v in found.items()}


def classify(study: Study, task: str) -> Predictions:
    """Logistic regression on each modality, their logits averaged over what a patient has.

    Args:
        study: `answers` are 0 or 1.
        task: its name.
    Returns:
        probabilities of the test patients; 0.5 for a patient who has nothing that could be learned.
    Raises:
        EvidenceError: the training patients are of one class.
    """
    if len({study.answers[p] for p in study.train}) < 2:
        raise EvidenceError(
            f"a baseline for {task!r} with training patients of one class", "both classes", "label more patients"
        )
    return _predictions(task, study, 1 / (1 + np.exp(-log_odds(study, blocks(study)))), 1)


def blocks(study: Study) -> list[tuple[Rows, int | None]]:
    """Of each modality that is read its features, and to how many components they are reduced (None leaves them)."""
    wanted = [m for m in READABLE if study.modalities is None or m in study.modalities]
    return [(rows, most) for m in wanted for rows, most in (_features(study, m),) if len(rows.patient)]


def log_odds(study: Study, read: Sequence[tuple[Rows, int | None]]) -> np.ndarray:
    """(n,) of the test patients, the mean over the modalities of each; 0 of a patient who has nothing that could be learned.

    Args:
        study: `answers` are 0 or 1.
        read: of `blocks`.
    """
    logits = [_logits(rows, study, most) for rows, most in read]
    score = [[one[p] for one in logits if p in one] for p in study.test]
    return np.array([float(np.mean(s)) if s else 0.0 for s in score])


def _features(study: Study, modality: Modality) -> tuple[Rows, int | None]:
    if modality is Modality.IMAGE:
        return pixels(study), 30
    if modality is Modality.TEXT:
        return words(study), None
    rows = cells(study, modality)
    if not len(rows.patient) or not rows.values.shape[1]:
        return rows, None
    training = among(rows.patient, study.train)
    if not training.any():
        return Rows(np.zeros((0, 1))), None
    seen = rows.values[training]
    categorical = ((seen == 1.0) | np.isnan(seen)).all(axis=0)  # a word is 1 where it stands and absent elsewhere
    return Rows(_impute(rows.values, training, categorical), rows.patient), 30 if modality is Modality.OMICS else None


def _predictions(task: str, study: Study, output: np.ndarray, width: int) -> Predictions:
    mask = np.array([p in study.answers for p in study.test], dtype=bool)
    empty: Any = 0 if width == 1 else (0.0, 0.0)
    targets = np.array([study.answers.get(p, empty) for p in study.test], dtype=float)
    return Predictions(task, study.test, output, targets, mask)


def cox(study: Study, task: str, components: int = 10) -> Predictions:
    """Cox's model, with a ridge penalty, on clinical columns and on the leading components of omics.

    Args:
        study: `answers` are (time, event).
        task: its name.
        components: of omics; at most a fifth of the training patients.
    Returns:
        log partial hazards of the test patients; the training mean for a patient who has nothing.
    Raises:
        MissingExtraError: lifelines is not installed.
        EvidenceError: no training patient's event was seen, there is nothing to read, or the fit does not converge.
    """
    answers = np.array([study.answers[p] for p in study.train], dtype=float).reshape(-1, 2)
    patients, training, values = survival_rows(study, task, int(answers[:, 1].sum()), components)
    hazards = cox_hazards(values, training, answers, repr(task))
    hazard = dict(zip(patients, hazards, strict=True))
    return _predictions(task, study, np.array([hazard[p] for p in study.test]), 2)


def survival_rows(study: Study, task: str, events: int, components: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Who a Cox model is asked about, which of them (p,) train, and their features (p f).

    Args:
        study: of whom.
        task: its name.
        events: how many the training patients had.
        components: see `cox`.
    Raises:
        MissingExtraError: lifelines is not installed.
        EvidenceError: no training patient's event was seen, or there is nothing to read.
    """
    try:
        import lifelines  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("lifelines", "survival") from error
    patients = [*study.train, *(p for p in study.test if p not in set(study.train))]
    training = among(patients, study.train)
    values = _survival_features(study, patients, training, components)
    if not values.shape[1] or events < 1:
        raise EvidenceError(
            f"a Cox baseline for {task!r} with {events} events and {values.shape[1]} features",
            "at least one of each",
            "label more patients, or read more modalities",
        )
    return patients, training, values


def _survival_features(study: Study, patients: Sequence[str], training: np.ndarray, components: int) -> np.ndarray:
    """(p f) clinical columns and leading components of omics; 0, the training mean, where a patient has none."""
    blocks = [np.zeros((len(patients), 0))]
    for modality in (m for m in (Modality.TABLE, Modality.OMICS) if study.modalities is None or m in study.modalities):
        rows, _ = _features(study, modality)
        if not len(rows.patient) or not rows.values.shape[1]:
            continue
        place = {p: i for i, p in enumerate(rows.patient)}
        nothing = np.zeros(rows.values.shape[1])
        block = np.array([rows.values[place[p]] if p in place else nothing for p in patients])
        most = min(components, max(1, int(training.sum()) // 5))
        blocks.append(reduce(block, training, most) if modality is Modality.OMICS else block)
    values = np.concatenate(blocks, axis=1)
    return values[:, values[training].std(0) > 1e-9]


def cox_hazards(values: np.ndarray, training: np.ndarray, answers: np.ndarray, of: str) -> np.ndarray:
    """(p,) log partial hazards; the penalty by the partial likelihood of the patients left out, where there are enough events.

    Args:
        values: (p f).
        training: (p,) bool, the first of them.
        answers: time and event of those.
        of: what is asked, in words.
    Raises:
        EvidenceError: a fit does not converge.
    """
    import pandas as pd
    from lifelines import CoxPHFitter
    from lifelines.exceptions import ConvergenceError
    from sklearn.model_selection import StratifiedKFold

    frame = pd.DataFrame(values, columns=pd.Index([f"x{i}" for i in range(values.shape[1])]))
    known = frame[training].assign(time=np.maximum(answers[:, 0], 1e-3), event=answers[:, 1])
    fit = lambda penalty, rows: CoxPHFitter(penalizer=penalty).fit(rows, "time", "event")
    folds = []
    if answers[:, 1].sum() >= FEWEST and (answers[:, 1] == 0).sum() >= FOLDS:
        folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(values[training], answers[:, 1]))
    # A column that is constant where it is fitted says nothing and cannot be fitted.
    varies = [[c for c in known if c in ("time", "event") or known[c].iloc[a].std() > 1e-9] for a, _ in folds]

    def likelihood(penalty: float) -> float:
        return sum(
            fit(penalty, known.iloc[a][columns]).score(known.iloc[b][columns])
            for (a, b), columns in zip(folds, varies, strict=True)
        )

    try:
        best = max(PENALTIES, key=likelihood) if folds else PENALTIES[1]
        return np.asarray(fit(best, known).predict_log_partial_hazard(frame), dtype=float)
    except ConvergenceError as error:
        raise EvidenceError(
            f"a Cox baseline for {of} that does not converge",
            "features that are not copies of each other",
            "read others",
        ) from error


def atlas(
    loader: Loader, task: str, train: Sequence[str], test: Sequence[str], classes: int, modality: Modality
) -> Predictions:
    """The mean of the training masks on the standard grid, cut where that did best on the training masks left out in turn.

    Args:
        loader: of both sides, with the task's masks.
        task: its name.
        train: the patients whose masks may be seen.
        test: who is asked about.
        classes: of the masks, without the background.
        modality: of the images.
    Returns:
        Dice of each class, as a model's predictions.
    """
    mine = [m for _, m in _true_masks(loader, task, train, modality)]
    if not mine:
        raise EvidenceError(f"an atlas for {task!r} without a training mask", "at least one", "label a patient")
    seen = np.stack([[(m == k) for k in range(1, classes + 1)] for m in mine]).astype(np.float32)  # (n k z y x)

    def cut(share: np.ndarray, threshold: float) -> np.ndarray:
        return np.where(share.max(0) >= threshold, share.argmax(0) + 1, 0)

    def left_out(threshold: float) -> float:
        total = seen.sum(0)
        return float(
            np.mean(
                [
                    dice(cut((total - one) / (len(seen) - 1), threshold), m, classes + 1)
                    for one, m in zip(seen, mine, strict=True)
                ]
            )
        )

    threshold = max((0.3, 0.4, 0.5), key=left_out) if len(mine) > 1 else 0.5
    answer = cut(seen.mean(0), threshold)
    rows: dict[str, list[np.ndarray]] = {}
    sizes: dict[str, np.ndarray] = {}
    for patient, mask in _true_masks(loader, task, test, modality):
        rows.setdefault(patient, []).append(dice(answer, mask, classes + 1))
        sizes[patient] = np.array([(mask == k).sum() / 1000 for k in range(1, classes + 1)])
    names = tuple(p for p in test if p in rows)
    outputs = np.array([np.mean(rows[p], axis=0) for p in names]).reshape(-1, classes)
    targets = np.array([sizes[p] for p in names]).reshape(-1, classes)
    return Predictions(task, names, outputs, targets, np.ones(len(names), dtype=bool), ((modality,),) * len(names))


def _true_masks(loader: Loader, task: str, patients: Sequence[str], modality: Modality) -> list[tuple[str, np.ndarray]]:
    found = []
    for batch in loader.each(16, patients, (modality,)):
        target = batch.targets[task]
        owner = batch.payloads[modality].patient.tolist() if modality in batch.payloads else []
        for n, who in enumerate(owner):
            if bool(target.mask[n]):
                found.append((batch.patients[who], target.values[n].numpy()))
    return found
