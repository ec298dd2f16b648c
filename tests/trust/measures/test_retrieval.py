from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from polyclinic.cohort import Cohort
from polyclinic.cohort.catalogue import inputs
from polyclinic.schema import Modality
from polyclinic.tasks import Retrieval
from polyclinic.training import Run
from polyclinic.trust import retrieval_examples, retrieval_figures
from polyclinic.trust.measures.retrieval import asked_with, paired, query_subsets
from polyclinic.trust.modalities.subsets import NONE

OMICS, TABLE = Modality.OMICS, Modality.TABLE


@pytest.fixture(scope="module")
def genes_to_row(tiny_run: Run, tiny_cohort: Cohort) -> tuple[list[str], np.ndarray, np.ndarray]:
    return paired(tiny_run, tiny_cohort, OMICS, TABLE)


def test_pairs_are_of_the_test_patients_who_have_both(
    genes_to_row: tuple[list[str], np.ndarray, np.ndarray], tiny_run: Run, tiny_cohort: Cohort
) -> None:
    both, one, other = genes_to_row
    has: dict[str, set[Modality]] = {}
    for record in inputs(tiny_cohort.records()):
        has.setdefault(record.patient, set()).add(record.modality)
    assert both == sorted(p for p in tiny_run.split.test if {OMICS, TABLE} <= has[p])
    assert len(both) >= 5
    assert one.shape == other.shape == (len(both), 32)


def test_the_figures_are_those_of_the_ranks(
    genes_to_row: tuple[list[str], np.ndarray, np.ndarray], tiny_run: Run, tiny_cohort: Cohort
) -> None:
    both, one, other = genes_to_row
    found = {
        f.name: f for f in retrieval_figures(tiny_run, tiny_cohort, Retrieval(query=OMICS, answer=TABLE), draws=200)
    }
    alike = one @ other.T
    for name, matrix in (("", alike), ("_back", alike.T)):
        place = np.array([1 + (row > row[i]).sum() + ((row == row[i]).sum() - 1) for i, row in enumerate(matrix)])
        assert found[f"recall_at_1{name}"].value == pytest.approx((place <= 1).mean())
        assert found[f"recall_at_5{name}"].value == pytest.approx((place <= 5).mean())
        assert found[f"median_rank{name}"].value == np.median(place)
    n = len(both)
    for figure in found.values():
        assert (figure.n, figure.split) == (n, tiny_run.split.hash)
        assert "chance " in figure.note
    assert f"chance {1 / n:.2f}" in found["recall_at_1"].note
    assert f"chance {(n + 1) / 2:.2f}" in found["median_rank"].note


def test_nobody_has_both(tiny_run: Run, tiny_cohort: Cohort) -> None:
    found = retrieval_figures(tiny_run, tiny_cohort, Retrieval(query=Modality.VOLUME, answer=Modality.TEXT), draws=50)
    assert found
    assert all(math.isnan(f.value) and f.n == 0 and f.note == "not defined: no labelled patient" for f in found)
    assert retrieval_examples(tiny_run, tiny_cohort, Modality.VOLUME, Modality.TEXT) == ()


def test_examples_are_the_first_by_name_with_their_own_answer_among_those_shown(
    genes_to_row: tuple[list[str], np.ndarray, np.ndarray], tiny_run: Run, tiny_cohort: Cohort
) -> None:
    both, one, other = genes_to_row
    examples = retrieval_examples(tiny_run, tiny_cohort, OMICS, TABLE, count=4, top=2)
    assert [e.patient for e in examples] == both[:4]
    for i, example in enumerate(examples):
        assert example.gallery == len(both)
        assert [a.patient for a in example.answers if a.own] == [example.patient]
        assert len(example.answers) == 2
        similarity = [a.similarity for a in example.answers]
        assert similarity == sorted(similarity, reverse=True)
        assert similarity[0] == pytest.approx(float((one @ other.T)[i].max()) if example.rank <= 2 else similarity[0])
        assert (example.rank <= 2) == (both[i] in [both[j] for j in np.argsort(-(one @ other.T)[i])[:2]])


@pytest.mark.parametrize(("query", "answer"), [(Modality.IMAGE, Modality.TEXT), (Modality.TEXT, Modality.IMAGE)])
def test_pictures_and_words_can_be_looked_at(query: Any, answer: Any, tiny_run: Run, tiny_cohort: Cohort) -> None:
    for example in retrieval_examples(tiny_run, tiny_cohort, query, answer):
        shown = [(query, example.words, example.image), *((answer, a.words, a.image) for a in example.answers)]
        for modality, words, image in shown:
            if modality is Modality.TEXT:
                assert words
                assert len(words) <= 222
            else:
                assert image is not None
                assert image.ndim == 2
                assert image.min() >= 0
                assert image.max() <= 1


def test_other_records_may_ask_too() -> None:
    """An image that tells one half of the vector and a note that tells the other: only both find the own table."""
    image, text = Modality.IMAGE, Modality.TEXT
    half = np.eye(3)
    held = np.array([np.r_[half[i], half[j]] for i in range(3) for j in range(3)]) / np.sqrt(2)
    names = [f"p{i}" for i in range(9)]
    found = {
        TABLE: (names, held),
        image: (names, np.array([np.r_[half[i], 0, 0, 0] for i in range(3) for _ in range(3)])),
        text: (names[:6], np.array([np.r_[0, 0, 0, half[j]] for _ in range(2) for j in range(3)])),
    }
    asked = asked_with(found, Retrieval(query=image, answer=TABLE), "s", draws=50)
    assert [s.modalities for s in asked.each] == [("image",), ("text",), ("image", "text")]
    assert [s.figure.value for s in asked.each] == pytest.approx([0, 0, 6 / 9])
    assert [(s.figure.n, s.complete) for s in asked.each] == [(9, 9), (6, 6), (9, 6)]
    assert all("chance 0.11" in s.figure.note for s in asked.each)
    adds = asked.contributions
    assert adds is not None
    assert (adds.nothing, adds.whole) == (pytest.approx(1 / 9), pytest.approx(6 / 9))
    assert sum(c.shapley.value for c in adds.each) == pytest.approx(5 / 9)
    assert [c.patients for c in adds.each] == [9, 6]
    assert adds.each[0].lost.value == pytest.approx(1.0)  # of the six who have both, the note alone finds none
    assert asked_with(found, Retrieval(query=image, answer=TABLE, inputs=(image, TABLE)), "s") == NONE


def test_of_the_query_alone_there_are_no_subsets(tiny_run: Run, tiny_cohort: Cohort) -> None:
    assert query_subsets(tiny_run, tiny_cohort, Retrieval(query=OMICS, answer=TABLE), draws=50) == NONE
