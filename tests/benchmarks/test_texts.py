"""What the pages on texts and on survival share: the baselines' and figures' own arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.results.mts_dialog import lead, nearest
from benchmarks.results.tcga import figure, recipe, within_folds
from benchmarks.results.texts import majority, rouge, table, words

from polyclinic.tasks import Predictions


def asked(truth: list[int], classes: int = 3) -> Predictions:
    return Predictions(
        "x",
        tuple(map(str, range(len(truth)))),
        np.zeros((len(truth), classes)),
        np.array(truth, float),
        np.ones(len(truth), bool),
    )


def test_the_commonest_is_said_of_everybody() -> None:
    assert majority(asked([0, 1, 2]), [1, 1, 0], 3).outputs.argmax(1).tolist() == [1, 1, 1]


def test_words_tell_what_words_tell_and_a_class_without_training_is_never_said() -> None:
    train = [f"{word} case number {n}" for n in range(12) for word in ("cough", "rash")]
    made = words(asked([0, 1]), train, [0, 1] * 12, ["a cough", "a rash"], 3)
    assert made.outputs.argmax(1).tolist() == [0, 1]
    assert made.outputs[:, 2].tolist() == [0, 0]


def test_a_page_has_a_row_an_arm() -> None:
    truth = [0, 1, 2] * 10
    perfect = asked(truth)
    made = {
        "a": Predictions("x", perfect.patients, np.eye(3)[truth], perfect.targets, perfect.mask),
        "b": majority(perfect, truth, 3),
    }
    rows = table(made, "a", "b", ("p", "q", "r"), "", 100)
    assert rows[2].startswith("| a | 1.000")
    assert rows[4].startswith("| *a − b* | +0.667")


def test_rouge_of_the_same_text_is_one_and_of_another_none() -> None:
    found = rouge(["no known drug allergies", "fever"], ["No known drug allergy.", "rash"])
    assert found[0].tolist() == [1, 1, 1]  # stemmed
    assert found[1].tolist() == [0, 0, 0]


def test_the_lead_is_what_was_said_first_without_who_said_it() -> None:
    said = "Doctor: Hello. How are you?\nPatient: Not good! I cough.\nDoctor: Since when?"
    assert lead(said) == "Hello. How are you? Not good!"
    assert nearest(["cough and fever", "skin rash"], ["one", "two"], ["a rash of the skin"]) == ["two"]


def test_concordance_is_taken_within_a_fold_alone() -> None:
    """By hand: both folds are ordered rightly, though the second's risks all lie above the first's."""
    made = lambda names, risks, times: Predictions(
        "s", tuple(names), np.array(risks), np.array([[t, 1.0] for t in times]), np.ones(len(names), bool)
    )
    folds = [made("abc", [3.0, 2.0, 1.0], [1, 2, 3]), made("def", [12.0, 11.0, 10.0], [7, 8, 9])]
    assert within_folds([folds], list("abcdef"), np.ones((1, 6))).tolist() == [1.0]
    other = [folds[0], made("def", [10.0, 11.0, 12.0], [7, 8, 9])]
    assert within_folds([folds, other], list("abcdef"), np.ones((1, 6))).tolist() == [0.75]
    assert figure([folds], [other], "difference", 50).value == pytest.approx(0.5)


def test_recipes_test_everybody_in_one_of_five_turns() -> None:
    for by in ("patient", "site"):
        splits = [recipe("x", by, turn, 3, "components").cohort.split for turn in range(5)]
        assert [(s.by, s.folds, s.turn, s.seed) for s in splits] == [(by, 5, turn, 3) for turn in range(5)]
