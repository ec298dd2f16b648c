"""Questions with answers: a text each, the short answer apart from the words."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from polyclinic import records
from polyclinic.cohort import ingest
from polyclinic.records.sections import sections
from polyclinic.schema import Modality
from reading import parted, reasons, refused, taken

ASKED: dict[str, Any] = {
    "QUESTION": "Does rest help?",
    "CONTEXTS": ["Rest is advised.", "We followed 40 people."],
    "LABELS": ["BACKGROUND", "METHODS"],
    "YEAR": "2011",
    "final_decision": "maybe",
    "LONG_ANSWER": "It may, in some.",
}


def write(path: Path, items: object) -> Path:
    path.write_text(json.dumps(items))
    return path


def test_a_question_is_a_text_and_its_long_answer_another(tmp_path: Path) -> None:
    question, answer = taken(write(tmp_path / "a.json", {"123": ASKED}))
    assert (question.patient, question.modality, question.kind, question.uri) == (
        "PMID 123", Modality.TEXT, "question", "a.json#item=0",
    )  # fmt: skip
    assert (answer.kind, answer.uri) == ("long answer", "a.json#item=1")
    for record in (question, answer):
        told = {k: record.attributes[k] for k in ("question", "answer", "year", "fold")}
        assert told == {"question": "Does rest help?", "answer": "maybe", "year": 2011, "fold": None}
    text = records.load(question, tmp_path).text
    assert text == "Does rest help?\n\nBACKGROUND:\nRest is advised.\n\nMETHODS:\nWe followed 40 people."
    assert [s.name for s in sections(text)] == ["", "background", "technique"]
    assert records.load(answer, tmp_path).text == "It may, in some."


@pytest.mark.parametrize("answer", [None, "", "perhaps", 1, ["yes"]])
def test_an_answer_that_is_none_is_not_known(tmp_path: Path, answer: object) -> None:
    (question,) = taken(write(tmp_path / "a.json", {"1": ASKED | {"final_decision": answer, "LONG_ANSWER": None}}))
    assert question.attributes["answer"] is None


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ("x", "a question that is none"),
        (ASKED | {"QUESTION": " "}, "a question without its words"),
        (ASKED | {"QUESTION": 3}, "a question without its words"),
        (ASKED | {"CONTEXTS": []}, "a question without its abstract"),
        (ASKED | {"CONTEXTS": ["a", None]}, "a question without its abstract"),
        (ASKED | {"LABELS": ["A", {}]}, "a question without its headings"),
        (ASKED | {"LONG_ANSWER": 7}, "a question without its long answer"),
    ],
)
def test_an_item_that_is_no_question_does_not_stop_the_rest(tmp_path: Path, item: object, reason: str) -> None:
    found, why = parted(write(tmp_path / "a.json", {"1": ASKED, "2": item, "3": ASKED}))
    assert [r.patient for r in found] == ["PMID 1", "PMID 1", "PMID 3", "PMID 3"]
    assert why == [f"{reason} (item 1)"]
    assert records.load(found[2], tmp_path).text


def test_half_a_letter_of_a_surrogate_pair_can_be_written_down(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"1": {"QUESTION": "Does \\ud800 help?", "CONTEXTS": ["We looked."]}}')
    (question,) = ingest(tmp_path, tmp_path / "cohort").records()
    assert question.attributes["question"] == "Does ? help?"


def test_the_test_part_is_what_the_answers_beside_say(tmp_path: Path) -> None:
    items = {str(i): ASKED | {"final_decision": answer} for i, answer in enumerate(("yes", "no", None, "maybe"))}
    write(tmp_path / "all.json", items)
    truth = write(tmp_path / "test_ground_truth.json", {"1": "no", "2": "yes", "3": "no"})
    assert refused(truth) == "answers without their questions"
    assert reasons(tmp_path / "all.json") == ["a question of which the test part has another answer (item 3)"]
    cohort = ingest(tmp_path, tmp_path / "cohort")
    found = cohort.records("kind = 'question'")
    assert {r.patient: (r.attributes["fold"], r.attributes["answer"]) for r in found} == {
        "PMID 0": ("train", "yes"), "PMID 1": ("test", "no"), "PMID 2": ("test", "yes"),
    }  # fmt: skip
    write(truth, {"0": "yes"})
    found = ingest(tmp_path, tmp_path / "cohort").records("kind = 'question'")  # the questions' file is as it was
    assert {r.patient: r.attributes["fold"] for r in found} == {f"PMID {i}": "train" if i else "test" for i in range(4)}


def test_json_of_something_else_is_not_taken(tmp_path: Path) -> None:
    assert refused(write(tmp_path / "a.json", {"a": "yes or no"})) == "a file of unknown format (.json)"
    (tmp_path / "b.json").write_text('{"1": {"QUESTION": "Does it?", "CONTEXTS": ["We')
    assert refused(tmp_path / "b.json") == "JSON that does not parse"
    (tmp_path / "c.json").write_text('[{"QUESTION": "Does it?", "CONTEXTS": ["We looked."]}]')
    assert refused(tmp_path / "c.json") == "JSON that is no list of questions by their articles"


def test_the_real_questions_come_in_with_their_official_test_part(shared_data: Path, tmp_path: Path) -> None:
    shutil.copytree(shared_data / "pubmedqa", tmp_path / "in")
    truth = json.loads((tmp_path / "in/test_ground_truth.json").read_text())
    cohort = ingest(tmp_path / "in", tmp_path / "cohort")
    found = cohort.records("kind = 'question'")
    assert Counter(r.attributes["answer"] for r in found) == {
        "yes": 552,
        "no": 338,
        "maybe": 110,
    }  # Jin et al., table 1
    assert Counter(r.attributes["fold"] for r in found) == {"train": 500, "test": 500}
    assert {r.attributes["article"]: r.attributes["answer"] for r in found if r.attributes["fold"] == "test"} == truth
    assert len(cohort.records("kind = 'long answer'")) == 1000
    assert [r.found for r in cohort.rejected()] == ["answers without their questions"]
