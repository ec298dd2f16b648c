"""The map of the embeddings: each patient's modalities in the shared space, flattened to two dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...cohort import Cohort, LabelError, labels_of
from ...inference import embed
from ...schema import Modality
from ...tasks import Classification
from ...training import Run


@dataclass(frozen=True, slots=True)
class EmbeddingMap:
    """Points of the plane, and what each is.

    Args:
        points: (n 2).
        patient: n names.
        modality: n.
        finding: n words; "unlabelled" where it is not known.
        method: how the plane was found.
        explained: the share of variance that the plane keeps; NaN for t-SNE.
        split: the split's hash; the points are of its test side.
        asked: how many patients there were to choose from; more than are shown where a map of all would be too full.
        centred: whether each modality's points lie about their own mean.
    """

    points: np.ndarray
    patient: tuple[str, ...]
    modality: tuple[str, ...]
    finding: tuple[str, ...]
    method: str
    explained: float
    split: str
    asked: int = 0
    centred: bool = False


MOST_PATIENTS = 1000
"""Of a map: more points hide each other."""


def flatten(vectors: np.ndarray, method: Literal["pca", "tsne"] = "pca", seed: int = 0) -> tuple[np.ndarray, float]:
    """Vectors (n e) on a plane (n 2), the same each time, and the share of variance that it keeps.

    Principal components have the sign that makes their largest loading positive. t-SNE (van der Maaten & Hinton 2008)
    starts from them and needs at least ten points; with fewer the components are given.
    """
    if len(vectors) < 2:
        return np.zeros((len(vectors), 2)), float("nan")
    centred = vectors.astype(np.float64) - vectors.mean(axis=0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2] * np.where(np.take_along_axis(axes[:2], np.abs(axes[:2]).argmax(1)[:, None], 1) < 0, -1, 1)
    plane = centred @ axes.T
    plane = np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))
    if method == "tsne" and len(vectors) >= 10:
        from sklearn.manifold import TSNE

        start = plane / max(float(plane[:, 0].std()), 1e-12) * 1e-4
        options: dict[str, Any] = {"init": start, "random_state": seed, "method": "exact"}
        how = TSNE(2, perplexity=min(30.0, (len(vectors) - 1) / 3), **options)
        return how.fit_transform(centred), float("nan")
    total = float((singular**2).sum())
    return plane, float((singular[:2] ** 2).sum() / total) if total > 0 else float("nan")


def embedding_map(
    run: Run | str | Path,
    cohort: Cohort | None = None,
    *,
    task: str | None = None,
    patients: Sequence[str] | None = None,
    method: Literal["pca", "tsne"] = "pca",
    most: int = MOST_PATIENTS,
    centred: bool = False,
    seed: int = 0,
) -> EmbeddingMap:
    """The map of a pretrained run's shared space.

    Args:
        run: pretrained.
        cohort: where it lies now.
        task: a classification whose answer is the points' finding; by default the recipe's first.
        patients: who; by default the test side.
        method: see `flatten`.
        most: patients; of more so many are drawn by the seed.
        centred: take each modality's mean off first. Modalities lie apart in a contrastive space whatever they show (Liang et al. 2022),
            and beside that distance the patients' cannot be seen.
        seed: of the draw and of t-SNE.
    """
    return _maps(run, cohort, task, patients, method, most, seed, (centred,))[0]


def embedding_maps(run: Run | str | Path, cohort: Cohort | None = None) -> tuple[EmbeddingMap, ...]:
    """The map of the test side as it is, and with each modality about its own mean; the records are read once."""
    return _maps(run, cohort, None, None, "pca", MOST_PATIENTS, 0, (False, True))


def _maps(
    run: Run | str | Path, cohort: Cohort | None, task: str | None, patients: Sequence[str] | None, method: Literal["pca", "tsne"],
    most: int, seed: int, centrings: Sequence[bool],
) -> tuple[EmbeddingMap, ...]:  # fmt: skip
    run = (run if isinstance(run, Run) else Run.open(run)).backbone
    catalogue = cohort or run.cohort()
    asked = tuple(patients) if patients is not None else run.split.test
    drawn = np.sort(np.random.default_rng(seed).permutation(len(asked))[:most])
    found = embed(run, catalogue, patients=[asked[i] for i in drawn])
    names = findings(run, catalogue, task)
    order = [m for m in Modality if m in found]
    who = tuple(p for m in order for p in found[m][0])
    words = tuple(names.get(p, "unlabelled") for p in who)
    kinds = tuple(m.value for m in order for _ in found[m][0])
    used = "t-SNE" if method == "tsne" and len(who) >= 10 else "principal components"
    maps = []
    for centred in centrings:
        parts = [found[m][1] - centred * found[m][1].mean(0) for m in order]
        points, explained = flatten(np.concatenate(parts) if parts else np.zeros((0, 1)), method, seed)
        maps.append(EmbeddingMap(points, who, kinds, words, used, explained, run.split.hash, len(asked), centred))
    return tuple(maps)


def findings(run: Run, cohort: Cohort, task: str | None = None) -> Mapping[str, str]:
    """Patient → the classification's answer in words; only for those who are labelled.

    Args:
        run: pretrained.
        cohort: where it lies now.
        task: which; by default the recipe's first, if the cohort has its column.
    """
    possible = [n for n, s in run.recipe.tasks.items() if isinstance(s, Classification)]
    name = task or next(iter(possible), None)
    if name is None:
        return {}
    spec = run.recipe.tasks[name]
    assert isinstance(spec, Classification)
    yes = " or ".join(spec.positive) if len(spec.positive[0]) > 2 else spec.column.replace("_", " ")
    try:
        labels = labels_of(cohort.records(run.recipe.cohort.where), spec.label(name))
    except LabelError:
        if task is not None:
            raise
        return {}
    return {p: yes if v else f"not {yes}" for p, v in labels.items()}
