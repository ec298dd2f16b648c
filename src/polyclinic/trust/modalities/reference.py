"""Patients of whom it is known what each modality brought: their answers with any subset, and what came true.

Whom a run learned from it would answer too well: these are answered by heads that were fitted without them, a fifth at a time, on the
network as it is. What an adapter in the network learned of them stays: the gains of a run by LoRA or the like are a little too good.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ...adaptation import Adapted
from ...adaptation.probe import View, features, fit_head, folds_of, only, views
from ...adaptation.prototypes import fit_prototypes
from ...adaptation.stacking import fit_stacked
from ...cohort import Cohort
from ...harmonise.loader import Loader
from ...inference import predict
from ...schema import Modality
from ...tasks import Baseline, LinearTask, SurvivalTask
from ..measures.intervals import EvidenceError
from ..measures.prognosis import Followed
from .design import Chosen

KINDS = ("classification", "classes", "findings", "grade", "survival")
"""The tasks whose answers are probabilities of a patient."""
FOLDS = 5
SURE = 1e-4
"""The least probability whose logit is taken as it is."""


class Reference:
    """Labelled patients, their answers with any subset of what is read, and what came true.

    Every task's answer is q probabilities of yes: of the finding, of each finding, of each grade or a higher one, of the event by each
    horizon. The truth beside them has a weight, which is zero where nobody knows, and for a survival stands for the censored too.

    Args:
        reads: k modalities.
        has: of each of n patients what they have of these.
        answer: subset → (n q) probabilities; NaN of who has nothing of it.
        truth: (n q) 0 or 1.
        weight: (n q), of a patient the shares of the mean.
        probabilities: of the task's own answers (n …) → (n q).
    """

    def __init__(
        self, reads: Chosen, has: Sequence[Chosen], answer: Callable[[Chosen], np.ndarray], truth: np.ndarray, weight: np.ndarray,
        probabilities: Callable[[np.ndarray], np.ndarray] = lambda outputs: outputs,
    ) -> None:  # fmt: skip
        self.reads, self.has, self.truth, self.weight = reads, list(has), truth, weight
        self._answer, self._probabilities = answer, probabilities
        self._known: dict[Chosen, np.ndarray] = {}

    def answers(self, seen: Chosen) -> np.ndarray:
        """(n q), asked once of each subset."""
        if seen not in self._known:
            self._known[seen] = self._answer(seen)
        return self._known[seen]

    def logits(self, seen: Chosen) -> np.ndarray:
        """(n q)"""
        return logit(self.answers(seen))

    def as_logits(self, outputs: np.ndarray) -> np.ndarray:
        """The task's own answers (n …) → (n q)."""
        return logit(self._probabilities(outputs))

    def gained(self, present: Chosen, one: Modality) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of those who have what is present and one modality more: their answers without it, and what it brought.

        Returns:
            (m q) logits, (m,) the fall of the Brier score, (m,) the fall of the entropy in bits.
        """
        more = tuple(m for m in self.reads if m in (*present, one))
        before, after = self.answers(present), self.answers(more)
        have = np.array([set(more) <= set(mine) for mine in self.has], dtype=bool)
        rows = np.flatnonzero(have & np.isfinite(before).all(1) & np.isfinite(after).all(1))
        before, after, truth, weight = before[rows], after[rows], self.truth[rows], self.weight[rows]
        fell = brier(before, truth, weight) - brier(after, truth, weight)
        return logit(before), fell, entropy(before) - entropy(after)


def logit(probabilities: np.ndarray) -> np.ndarray:
    """As log odds, the surest ones held back."""
    inside = np.clip(probabilities, SURE, 1 - SURE)
    return np.log(inside / (1 - inside))


def brier(told: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(n,) the weighted squared distance of probabilities (n q) from what came true; of a grade this is the ranked probability score."""
    return np.where(weight > 0, weight * (told - truth) ** 2, 0.0).sum(1)


def entropy(told: np.ndarray) -> np.ndarray:
    """(n,) the mean over q of each probability's entropy, in bits."""
    inside = np.clip(told, 1e-12, 1 - 1e-12)
    return -(inside * np.log2(inside) + (1 - inside) * np.log2(1 - inside)).mean(1)


def reference_of(adapted: Adapted, cohort: Cohort, patients: Sequence[str] | None = None) -> Reference:
    """The labelled patients of the training side, or of those named.

    Args:
        adapted: to a classification, findings, a grade or a survival.
        cohort: where it lies.
        patients: who; by default the training side, the head's own patients held out.
    Raises:
        EvidenceError: the task is of another kind, or by a method that cannot leave its own patients out.
    """
    task, run = adapted.task, adapted.run
    if not isinstance(task, LinearTask) or run.recipe.tasks[adapted.name].kind not in KINDS:
        raise EvidenceError(
            f"the next modality for {adapted.name!r}, a {run.recipe.tasks[adapted.name].kind}",
            "a classification, classes, findings, a grade or a survival",
            "see what each modality adds: `polyclinic evaluate`",
        )
    who = tuple(patients) if patients is not None else run.split.train
    loader = run.loader(cohort, who, (adapted.name,))
    values = loader.labelled(adapted.name)
    mine = [p for p in loader.patients if p in values and set(adapted.inputs) & set(loader.by_patient[p])]
    learned = set(run.adapter["labelled"]) & set(mine)
    if run.adapter["method"] == "knn":  # it would find each patient himself
        mine, learned = [p for p in mine if p not in learned], set()
    kind = run.recipe.tasks[adapted.name].kind
    horizons = _horizons(task)
    names = getattr(run.recipe.tasks[adapted.name], "names", tuple)()
    truth, weight = _truth(kind, [values[p] for p in mine], horizons, len(names))
    held = _HeldOut(adapted, cohort, loader, [p for p in mine if p in learned]) if learned else None
    has = [tuple(m for m in adapted.inputs if m in loader.by_patient[p]) for p in mine]
    base = task.baseline() if isinstance(task, SurvivalTask) else None
    probabilities = lambda outputs: as_probabilities(kind, outputs, base, horizons)

    def answer(seen: Chosen) -> np.ndarray:
        found = np.full(truth.shape, np.nan)
        there = [n for n, own in enumerate(has) if set(own) & set(seen)]
        fresh = [n for n in there if mine[n] not in learned]
        if fresh:
            told = predict(adapted, cohort, patients=[mine[n] for n in fresh], modalities=seen)
            place = {p: n for n, p in enumerate(told.patients)}
            rows = [n for n in fresh if mine[n] in place]
            found[rows] = probabilities(told.outputs[[place[mine[n]] for n in rows]])
        if held is not None:
            rows = [n for n in there if mine[n] in learned]
            found[rows] = held.told([mine[n] for n in rows], seen, kind, horizons)
        return found

    return Reference(adapted.inputs, has, answer, truth, weight, probabilities)


class _HeldOut:
    """Heads that were each fitted without a fifth of the patients, on the network as it is."""

    def __init__(self, adapted: Adapted, cohort: Cohort, loader: Loader, patients: list[str]) -> None:
        self.model, self.loader = adapted.model, loader
        spec = adapted.run.recipe.tasks[adapted.name]
        assert isinstance(adapted.task, LinearTask)
        seen = views(self.model, adapted.task, loader, patients, adapted.inputs)
        patients = loader.left(patients)
        label, known = spec.label(adapted.name), loader.labelled(adapted.name)
        assert label is not None
        folds = folds_of(np.array(label.groups([known[p] for p in patients])), adapted.run.adapter["seed"], FOLDS)
        self.fold = dict(zip(patients, folds.tolist(), strict=True))
        self.heads: list[LinearTask | None] = []
        for fold in range(FOLDS):
            kept = folds != fold
            rest = [known[p] for p, k in zip(patients, kept, strict=True) if k]
            if not rest or label.lacking(rest):
                self.heads.append(None)
                continue
            head = _fresh(adapted, spec)
            _fit(head, only(seen, torch.from_numpy(kept)), adapted.run.adapter)
            head.to_prevalence(rest)
            self.heads.append(head.eval())

    def told(self, patients: Sequence[str], seen: Chosen, kind: str, horizons: np.ndarray) -> np.ndarray:
        """(n q) of some of the patients, each by the head that did not learn from them."""
        head = next(h for h in self.heads if h is not None)
        pooled, _ = features(self.model, head, self.loader, patients, seen)
        row = {p: n for n, p in enumerate(self.loader.left(patients))}  # who can no longer be read has none
        parts: dict[str, np.ndarray] = {}
        for fold, head in enumerate(self.heads):
            mine = [p for p in row if self.fold.get(p) == fold]
            if mine and head is not None:
                with torch.no_grad():
                    outputs = head.answer(head.read(pooled[[row[p] for p in mine]])).numpy()
                base = head.baseline() if isinstance(head, SurvivalTask) else None
                parts |= dict(zip(mine, as_probabilities(kind, outputs, base, horizons), strict=True))
        width = len(next(iter(parts.values()))) if parts else 1
        return np.array([parts.get(p, np.full(width, np.nan)) for p in patients]).reshape(-1, width)


def _fit(head: LinearTask, seen: list[View], about: dict[str, Any]) -> None:
    """Fit a fresh head as the run's own was; one that was trained, as a probe."""
    if about["method"] == "prototype":
        fit_prototypes(head, seen)
        return
    evenly = about["methods"][0].get("penalty") == "directions"
    (fit_stacked if head.apart else fit_head)(head, seen, about["seed"], about.get("ridge"), evenly)


def _fresh(adapted: Adapted, spec: Any) -> LinearTask:
    """A head as the task's is before it is fitted."""
    head = spec.build(adapted.name, adapted.model)
    assert isinstance(head, LinearTask)
    assert isinstance(adapted.task, LinearTask)
    if adapted.task.apart:
        head.read_apart(adapted.task.apart)
    return copy.deepcopy(head)


def _horizons(task: LinearTask) -> np.ndarray:
    """Of a survival, the times by which risks are told and were followed.

    Raises:
        EvidenceError: there is none.
    """
    if not isinstance(task, SurvivalTask):
        return np.zeros(0)
    known = task.baseline()
    there = known.horizons[known.horizons <= known.until]
    if not len(there):
        raise EvidenceError(
            "a survival without a risk by any time", "a run adapted with its baseline hazard", "adapt again"
        )
    return there


def as_probabilities(kind: str, outputs: np.ndarray, baseline: Baseline | None, horizons: np.ndarray) -> np.ndarray:
    """A task's answers (n …) as (n q) probabilities of yes."""
    if kind == "survival":
        assert baseline is not None
        return baseline.risk(outputs, horizons)
    if kind == "grade":
        return np.clip(outputs[:, ::-1].cumsum(1)[:, ::-1][:, 1:], 0, 1)
    return outputs.reshape(len(outputs), -1).astype(float)


def _truth(kind: str, values: Sequence[Any], horizons: np.ndarray, grades: int) -> tuple[np.ndarray, np.ndarray]:
    """(n q) what came true, and its weights, whose sum over q is one where all is known."""
    known = np.array(values, dtype=float)
    if kind == "classes":
        truth = (known[:, None] == np.arange(grades)[None]).astype(float)
        return truth, np.full(truth.shape, 1 / grades)
    if kind == "grade":
        truth = (known[:, None] >= np.arange(1, grades)[None]).astype(float)
        return truth, np.full(truth.shape, 1 / truth.shape[1])
    if kind == "survival":
        known = known.reshape(-1, 2)
        time, event = known[:, 0], known[:, 1] > 0
        truth = ((time[:, None] <= horizons) & event[:, None]).astype(float)
        followed = Followed(known)
        at_event, beyond = (w[0] for w in followed.weighted(np.ones((1, len(known))), horizons))
        weight = np.where(truth > 0, at_event[:, None], np.where(time[:, None] > horizons, beyond[None], 0.0))
        return truth, weight / len(horizons)
    truth = known.reshape(len(known), -1)
    there = np.isfinite(truth)
    return np.nan_to_num(truth), there / np.maximum(there.sum(1, keepdims=True), 1)


__all__ = ["Reference", "brier", "entropy", "reference_of"]
