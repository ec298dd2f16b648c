from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic import records
from polyclinic.records.sections import NAMES, Section, kept, sections
from polyclinic.schema import Record

ENGLISH = """CT CHEST WITHOUT CONTRAST
HISTORY: Cough. No fever.
COMPARISON: None.
TECHNIQUE: Helical.

FINDINGS:
Lungs: no nodule.
There is no effusion.

Impression
1. No acute disease.
"""
GERMAN = "Klinische Angaben: Husten.\nBefund:\nKein Erguss. Keine Herde.\nBeurteilung: Unauffällig, kein Nachweis eines Tumors."
SPANISH = "Motivo de consulta: tos.\nHallazgos: Sin derrame pleural. No hay nódulos.\nImpresión diagnóstica:\nSin alteraciones."


def names(text: str) -> list[str]:
    return [part.name for part in sections(text)]


def test_headings_in_three_languages() -> None:
    assert names(ENGLISH) == ["", "history", "comparison", "technique", "findings", "impression"]
    assert sections(ENGLISH)[4] == Section("findings", "Lungs: no nodule.\nThere is no effusion.", "FINDINGS")
    assert sections(ENGLISH)[5].words == "1. No acute disease."
    assert names(GERMAN) == ["history", "findings", "impression"]
    assert names(SPANISH) == ["indication", "findings", "impression"]
    assert sections(SPANISH)[2].words == "Sin alteraciones."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FINDINGS: No mass. IMPRESSION: Normal.", ["findings", "impression"]),
        ("The findings: none. We note the impression: good.", [""]),  # in running words a heading is none
        ("Findings of the last examination are unchanged.", [""]),
        ("**Findings:** none\n## Impression\nnone", ["findings", "impression"]),
        ("1. Findings: none\n2) Impression: none", ["findings", "impression"]),
        ("Assessment and Plan:\nrest", ["assessment"]),
        ("FINDINGS:\r\nNone.\r\nIMPRESSION\r\nNormal.", ["findings", "impression"]),
        ("Finding\u017f: long s is no trap", ["findings"]),
        ("", [""]),
        ("No heading at all.", [""]),
    ],
)
def test_what_is_a_heading(text: str, expected: list[str]) -> None:
    assert names(text) == expected


def test_only_what_is_wanted_is_kept_with_its_negations() -> None:
    assert kept(ENGLISH, ("findings", "impression")) == (
        "FINDINGS:\nLungs: no nodule.\nThere is no effusion.\n\nImpression:\n1. No acute disease."
    )
    assert kept(GERMAN, ("findings",)) == "Befund:\nKein Erguss. Keine Herde."
    assert kept(ENGLISH, ()) == ENGLISH
    assert kept("No heading.", ("findings",)) == "No heading."
    assert kept("History: cough.", ("findings",)) == ""


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["Findings:", "IMPRESSION", "no", "without", "mass.", "\n", ":", "Befund", "1.", "kein", "  ", "-"]
        ),
        max_size=20,
    )
)
def test_no_word_is_lost(parts: list[str]) -> None:
    text = " ".join(parts)
    found = sections(text)
    kept_words = "".join(part.title + part.words for part in found)
    letters = lambda words: re.sub(r"[^\w]|1", "", words)
    assert letters(kept_words) == letters(text)
    numbered = text.count("1") - kept_words.count("1")  # a heading's own number goes with it, and no other
    assert 0 <= numbered <= sum(bool(part.title) for part in found)


def test_a_note_says_which_sections_it_has(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"Patient: P1\n\n{ENGLISH}")
    (tmp_path / "b.txt").write_text("Patient: P1\n\nLungs clear.")
    (first,), (second,) = records.read(tmp_path / "a.txt"), records.read(tmp_path / "b.txt")
    assert isinstance(first, Record)
    assert isinstance(second, Record)
    assert first.attributes["sections"] == "history comparison technique findings impression"
    assert second.attributes["sections"] is None


HEADINGS = {"GENHX": "History of Present Illness", "FAM/SOCHX": "Family History", "ROS": "Review of Systems", "ALLERGY": "Allergies",
            "PASTMEDICALHX": "Past Medical History", "MEDICATIONS": "Medications", "CC": "Chief Complaint", "EXAM": "Physical Examination",
            "ASSESSMENT": "Assessment", "PASTSURGICAL": "Past Surgical History", "EDCOURSE": "ED Course"}  # fmt: skip
EXPECTED = {"GENHX": "history", "FAM/SOCHX": "family_history", "ROS": "review", "ALLERGY": "allergies", "PASTMEDICALHX": "past_history",
            "MEDICATIONS": "medication", "CC": "complaint", "EXAM": "examination", "ASSESSMENT": "assessment",
            "PASTSURGICAL": "past_history",
            "EDCOURSE": "course"}  # fmt: skip


def test_the_real_notes_sections_come_back(shared_data: Path) -> None:
    with (shared_data / "mts-dialog/MTS-Dialog-ValidationSet.csv").open(newline="", encoding="utf-8") as file:
        rows = [
            (r["section_header"], r["section_text"].strip())
            for r in csv.DictReader(file)
            if r["section_header"] in HEADINGS
        ]
    plain = [(header, text) for header, text in rows if names(text) == [""]]
    assert len(plain) > 0.9 * len(rows) > 50
    found = sections("\n\n".join(f"{HEADINGS[header]}:\n{text}" for header, text in plain))
    assert [part.name for part in found] == [EXPECTED[header] for header, _ in plain]
    assert [part.words for part in found] == [text for _, text in plain]


def test_the_abstracts_sections_come_back(shared_data: Path) -> None:
    articles = json.loads((shared_data / "pubmedqa/ori_pqal.json").read_text())
    wanted = {
        "BACKGROUND": "background",
        "OBJECTIVE": "background",
        "METHODS": "technique",
        "RESULTS": "findings",
        "CONCLUSION": "impression",
    }
    checked = 0
    for article in list(articles.values())[:200]:
        pairs = [
            (label, words)
            for label, words in zip(article["LABELS"], article["CONTEXTS"], strict=True)
            if label in wanted
        ]
        if len(pairs) < 2 or any(names(words) != [""] for _, words in pairs):
            continue
        found = sections("\n".join(f"{label}: {words}" for label, words in pairs))
        assert [(part.name, part.words) for part in found] == [(wanted[label], words.strip()) for label, words in pairs]
        checked += 1
    assert checked > 50
    assert set(wanted.values()) <= set(NAMES)
