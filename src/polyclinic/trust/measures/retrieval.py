"""Retrieval: does a patient's X-ray find their own note? Figures over the test side, and examples to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...cohort import Cohort
from ...cohort.catalogue import inputs
from ...harmonise.unread import GONE, UnreadRecordError, reading
from ...inference import embed
from ...records.raster import luminance
from ...schema import Figure, Modality, Record
from ...tasks import Retrieval
from ...tasks.retrieval import ranks
from ...training import Run
from ..modalities.contributions import Game, Value, contributions
from ..modalities.design import Chosen, asked
from ..modalities.subsets import AT_MOST, NONE, Subset, Subsets
from .intervals import DRAWS, bootstrap


@dataclass(frozen=True, slots=True)
class Candidate:
    """One answer of a gallery.

    Args:
        patient: whose.
        similarity: cosine with the query.
        own: whether it is the query's own patient.
        words: of a note, how it begins; of what can no longer be read, that.
        image: of an image, (y x) grey in 0..1.
    """

    patient: str
    similarity: float
    own: bool
    words: str = ""
    image: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class RetrievalExample:
    """A query and the gallery's first answers.

    Args:
        query: the modality asked with; answer: the one looked for.
        patient: whose query.
        rank: the place of the patient's own answer, from 1.
        gallery: how many answers there were.
        words, image: the query, to look at.
        answers: the first ones, best first; the own one is added where it is not among them.
    """

    query: str
    answer: str
    patient: str
    rank: int
    gallery: int
    answers: tuple[Candidate, ...]
    words: str = ""
    image: np.ndarray | None = None


def paired(run: Run, cohort: Cohort, query: Modality, answer: Modality) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The test patients who have both, and their vectors (p e) of each."""
    return _paired(embed(run, cohort), query, answer)


Embedded = Mapping[Modality, tuple[Sequence[str], np.ndarray]]
"""Modality → patients, and their vectors (p e)."""


def _paired(found: Embedded, query: Modality, answer: Modality) -> tuple[list[str], np.ndarray, np.ndarray]:
    one, other = (dict(zip(*found.get(m, ([], ())), strict=True)) for m in (query, answer))
    both = sorted(set(one) & set(other))
    if not both:
        return [], np.zeros((0, 1)), np.zeros((0, 1))
    return both, np.stack([one[p] for p in both]), np.stack([other[p] for p in both])


def retrieval_figures(run: Run, cohort: Cohort, spec: Retrieval, *, draws: int = DRAWS) -> tuple[Figure, ...]:
    """Recall at 1 and 5 and the median rank, forth and back, beside what chance gives; queries are resampled, the gallery stays."""
    both, query, answer = paired(run, cohort, spec.query, spec.answer)
    split, out = run.split.hash, []
    strata = np.zeros(len(both), dtype=int)
    for direction, place in (
        (("", ranks(query, answer)), ("_back", ranks(answer, query))) if both else (("", np.zeros(0)),)
    ):
        for k in (1, 5):
            hits = (place <= k).astype(float)
            made = bootstrap(
                lambda w, hits=hits: w @ hits / w.sum(1),
                strata,
                name=f"recall_at_{k}{direction}",
                split=split,
                draws=draws,
            )
            out.append(_with_chance(made, min(1.0, k / max(len(both), 1))))
        median = lambda w, place=place: np.array([np.median(np.repeat(place, row)) for row in w.astype(int)])
        made = bootstrap(
            median,
            strata,
            name=f"median_rank{direction}",
            split=split,
            draws=min(draws, 500),
            method="percentile",
            bounded=False,
        )
        out.append(_with_chance(made, (len(both) + 1) / 2))
    return tuple(out)


def query_subsets(run: Run, cohort: Cohort, spec: Retrieval, *, draws: int = DRAWS) -> Subsets:
    """What each of a patient's other records adds to the question: recall at 1, asked by the mean of what is shown of them.

    The gallery is as in `retrieval_figures`, and those who ask are the same; who has nothing of a subset finds the own one by chance.

    Args:
        run: pretrained.
        spec: `inputs` says which records may ask; by default all that the model reads but the answer's.
    """
    return asked_with(embed(run, cohort), spec, run.split.hash, draws=draws)


def asked_with(found: Embedded, spec: Retrieval, split: str, *, draws: int = DRAWS) -> Subsets:
    """As `query_subsets`, of vectors that are there."""
    both, _, held = _paired(found, spec.query, spec.answer)
    vectors = {m: dict(zip(*found[m], strict=True)) for m in found if m is not spec.answer}
    may = [m for m in Modality if m in vectors and m in {spec.query, *(spec.inputs or vectors)}]
    reads = tuple(m for m in may if any(p in vectors[m] for p in both))
    if len(reads) < 2:
        return NONE
    has = [tuple(m for m in reads if p in vectors[m]) for p in both]
    chance = np.full(len(both), 1 / len(both))

    def hits(chosen: tuple[Modality, ...]) -> np.ndarray:
        told = np.array([bool(set(chosen) & set(mine)) for mine in has])
        mixed = [sum((vectors[m][p] for m in chosen if p in vectors[m]), np.zeros(held.shape[1])) for p in both]
        return np.where(told, ranks(np.stack(mixed), held) <= 1, chance)

    each, values = list[Subset](), dict[Chosen, Value]()
    for chosen in ((), *asked(reads)):
        right = hits(chosen)
        values[chosen] = lambda rows, w, right=right: w @ right[rows] / w.sum(1)
        rows = np.flatnonzero([bool(set(chosen) & set(mine)) for mine in has])
        if chosen:
            strata = np.zeros(len(rows), dtype=int)
            of = lambda w, mine=right[rows]: w @ mine / w.sum(1)
            made = bootstrap(of, strata, name="recall_at_1", split=split, draws=draws)
            complete = sum(set(chosen) <= set(mine) for mine in has)
            each.append(Subset(tuple(m.value for m in chosen), _with_chance(made, 1 / len(both)), complete))
    game = Game("recall_at_1", reads, values, has, np.zeros(len(both), dtype=int))
    return Subsets(tuple(each), contributions(game, split, draws=min(draws, AT_MOST)))


def _with_chance(figure: Figure, chance: float) -> Figure:
    return replace(figure, note=f"{figure.note}; chance {chance:.2f}") if figure.n else figure


def retrieval_examples(
    run: Run | str | Path, cohort: Cohort | None = None, query: Modality = Modality.IMAGE, answer: Modality = Modality.TEXT,
    *, count: int = 3, top: int = 3,
) -> tuple[RetrievalExample, ...]:  # fmt: skip
    """Queries of the test side with their first answers: the first patients by name, not the best ones.

    Args:
        run: pretrained.
        cohort: where it lies now.
        query, answer: modalities.
        count: examples.
        top: answers shown of each.
    """
    run = (run if isinstance(run, Run) else Run.open(run)).backbone
    catalogue = cohort or run.cohort()
    both, asked, held = paired(run, catalogue, query, answer)
    if not both:
        return ()
    alike, place = asked @ held.T, ranks(asked, held)
    records: dict[tuple[str, Modality], Record] = {}
    for record in sorted(inputs(catalogue.records(run.recipe.cohort.where)), key=lambda r: r.id):
        records.setdefault((record.patient, record.modality), record)
    found = []
    for i, patient in enumerate(both[:count]):
        order = [int(j) for j in np.argsort(-alike[i], kind="stable")]
        shown = order[:top] if i in order[:top] else [*order[: top - 1], i]
        answers = tuple(
            Candidate(both[j], float(alike[i, j]), j == i, *look(catalogue, records[both[j], answer])) for j in shown
        )
        found.append(
            RetrievalExample(
                query.value,
                answer.value,
                patient,
                int(place[i]),
                len(both),
                answers,
                *look(catalogue, records[patient, query]),
            )
        )
    return tuple(found)


def look(cohort: Cohort, record: Record, letters: int = 220) -> tuple[str, np.ndarray | None]:
    """What a person sees of a record: how its words begin, or its picture (y x) in 0..1; that there is nothing to see any more."""
    try:
        with reading(record):
            payload = cohort.load(record)
    except UnreadRecordError:  # the run has harmonised it, and its place among the others stands
        return GONE, None
    if record.modality is Modality.TEXT:
        words = " ".join((payload.text or "").split())
        return (words if len(words) <= letters else words[:letters].rsplit(" ", 1)[0] + " …"), None
    if record.modality in (Modality.IMAGE, Modality.VOLUME):
        picture = luminance(payload.array) if payload.array.ndim == 3 else payload.array[0, payload.array.shape[1] // 2]
        low, high = np.percentile(picture, [1, 99])
        return "", np.clip((picture - low) / max(float(high - low), 1e-6), 0, 1)
    return record.kind, None
