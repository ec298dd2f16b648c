"""The counting of `benchmarks.results.m3fm`: what a report says, and figures of it."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.results.m3fm import auc, balanced, interval, said
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from polyclinic.phantom.people import generator, person
from polyclinic.phantom.report import FINDINGS, write


@pytest.mark.parametrize("language", ["en", "es"])
def test_a_report_is_read_as_it_was_meant(language: str) -> None:
    """Against the facts that the phantom's sentences carry."""
    seen = np.zeros(len(FINDINGS), int)
    for index in range(300):
        who = {**person(3, index), "language": int(language == "es")}
        text, sentences = write(who, generator(3, index, "report"))
        facts = {s.fact.finding for s in sentences if s.fact.status != "absent"}
        expected = [finding in facts for finding in FINDINGS]
        assert said(text, language).tolist() == expected, text
        seen += expected
    assert seen.min() > 10


def test_a_report_in_both_languages_has_the_same_facts() -> None:
    for index in range(50):
        one, other = (write({**person(1, index), "language": n}, generator(1, index, "report"))[1] for n in (0, 1))
        assert [s.fact for s in one] == [s.fact for s in other]


def test_figures_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    truth, chances = rng.random((200, 2)) < 0.3, rng.integers(0, 9, (200, 2)) / 9
    for n in range(2):
        assert balanced(chances > 0.5, truth)[n] == pytest.approx(
            balanced_accuracy_score(truth[:, n], chances[:, n] > 0.5)
        )
        assert auc(chances, truth)[n] == pytest.approx(roc_auc_score(truth[:, n], chances[:, n]))
    value, low, high = interval(lambda i: float(truth[i, 0].mean()), 200, 0)
    spread = (value * (1 - value) / 200) ** 0.5
    assert (high - low) / 2 == pytest.approx(1.96 * spread, rel=0.15)
