from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.cohort import Cohort
from polyclinic.schema import Modality, Payload, Record
from polyclinic.trust.comparisons.struck import DISEASE_WORDS, Struck, strike

IMAGE, TEXT = Modality.IMAGE, Modality.TEXT


@pytest.mark.parametrize(("text", "left"), [
    ("COVID-19-positive man.", "man."), ("Post-COVID fibrosis", "fibrosis"), ("pneumonia, bacterial", ", bacterial"),
    ("Pneumonitis", ""), ("no such word", "no such word"), ("SARS-CoV-2 swab was negative", "was negative"),
])  # fmt: skip
def test_words_are_struck_with_what_is_joined_to_them(text: str, left: str) -> None:
    assert strike(text, DISEASE_WORDS).strip() == left


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=80), st.sampled_from(DISEASE_WORDS), st.text(max_size=20))
def test_no_struck_word_is_left(before: str, word: str, after: str) -> None:
    left = strike(f"{before}{word.upper()}{after}", DISEASE_WORDS).lower()
    assert word not in left or any(word in part.lower() for part in (before, after))
    assert strike(before, ()) == before


def test_struck_notes_have_other_ids_and_no_disease(tiny_cohort: Cohort) -> None:
    struck = Struck(tiny_cohort, DISEASE_WORDS)
    whole = {r.id: r for r in tiny_cohort.records()}
    found = struck.records()
    assert len(found) == len(whole)
    notes = [r for r in found if r.modality is TEXT]
    assert notes
    assert not {r.id for r in notes} & set(whole)  # so that no cache takes one for the other
    assert {r.id for r in found if r.modality is not TEXT} == {r.id for r in whole.values() if r.modality is not TEXT}
    told = lambda text: [word for word in DISEASE_WORDS if word in (text or "").lower()]
    assert not [word for note in notes for word in told(struck.load(note).text)]
    assert any(told(tiny_cohort.load(r).text) for r in whole.values() if r.modality is TEXT)
    picture = next(r for r in found if r.modality is IMAGE)
    np.testing.assert_array_equal(struck.load(picture).array, tiny_cohort.load(picture).array)


def test_each_note_is_read_once_whatever_is_struck(tiny_cohort: Cohort) -> None:
    class Counted(Cohort):
        read: ClassVar[list[str]] = []

        def load(self, record: Record) -> Payload:
            self.read.append(record.id)
            return super().load(record)

    counted = Counted(tiny_cohort.path)
    notes = [r for r in counted.records() if r.modality is TEXT]
    for _ in range(2):
        struck = Struck(counted, DISEASE_WORDS)
        assert all(struck.note(r).text is not None for r in struck.records() if r.modality is TEXT)
        assert all(counted.note(r).text for r in notes)
    assert sorted(counted.read) == sorted(r.id for r in notes)
