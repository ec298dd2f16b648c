from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.cohort import LeakageError, SplitSpec, guard, ingest, split
from polyclinic.cohort.copies import BANDS, JACCARD, ROWS, WORDS, copied_notes, jaccard, shingles, sketch
from polyclinic.schema import Modality, Payload, Record

VOCABULARY = [f"w{i}" for i in range(400)]


def note(name: str, patient: str) -> Record:
    return Record(name, patient, None, Modality.TEXT, "note", name)


def words(n: int, seed: int) -> list[str]:
    return random.Random(seed).choices(VOCABULARY, k=n)


def pairs(texts: dict[str, str]) -> set[tuple[str, str]]:
    notes = [note(name, name) for name in texts]
    return {(a.id, b.id) for a, b in copied_notes(notes, lambda r: Payload(np.zeros(0), text=texts[r.id]))}


def test_a_copy_is_found_whatever_its_spaces_case_and_a_word_or_two() -> None:
    base = words(90, 0)
    changed = [*base[:40], "other", *base[41:]]
    texts = {
        "a": " ".join(base), "spaced": "\n\n".join(base).upper(), "changed": ", ".join(changed), "else": " ".join(words(90, 1)),
    }  # fmt: skip
    assert pairs(texts) == {("a", "spaced"), ("a", "changed"), ("spaced", "changed")}


def test_what_many_say_is_nobodys_copy() -> None:
    said = " ".join(words(WORDS - 1, 0))
    assert pairs({"a": said, "b": said, "c": "", "d": ""}) == set()
    said += " more"
    assert pairs({"a": said, "b": said}) == {("a", "b")}


def test_notes_of_one_patient_are_no_leak() -> None:
    said = " ".join(words(60, 0))
    notes = [note("a", "P1"), note("b", "P1")]
    assert copied_notes(notes, lambda r: Payload(np.zeros(0), text=said)) == []


def test_a_shared_template_is_not_a_copy() -> None:
    """A third of the words are the form's."""
    form = words(30, 9)
    assert pairs({f"p{i}": " ".join([*form, *words(60, i)]) for i in range(20)}) == set()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(30, 120), st.integers(0, 20))
def test_the_sketch_estimates_the_share_that_two_notes_have_in_common(seed: int, n: int, changed: int) -> None:
    base = words(n, seed)
    other = [*base[: n - min(changed, n)], *words(min(changed, n), seed + 1)]
    one, two = shingles(" ".join(base)), shingles(" ".join(other))
    estimate = float((sketch(one) == sketch(two)).mean())
    exact = jaccard(one, two)
    assert abs(estimate - exact) < 4.5 * np.sqrt(0.25 / (BANDS * ROWS))  # a share of so many draws, 4.5 deviations
    assert exact == pytest.approx(
        len(set(one.tolist()) & set(two.tolist())) / len(set(one.tolist()) | set(two.tolist()))
    )


def test_the_bands_miss_hardly_a_copy() -> None:
    assert (1 - JACCARD**ROWS) ** BANDS < 1 / 6000


def test_a_copied_note_on_two_sides_is_refused_and_a_split_keeps_it_on_one() -> None:
    texts = {f"n{i}": " ".join(words(60, i)) for i in range(20)} | {"copy": " ".join(words(60, 3))}
    notes = [note(name, f"P-{name}") for name in texts]
    load = lambda r: Payload(np.zeros(0), text=texts[r.id])
    with pytest.raises(LeakageError, match=r"the notes n3 and copy are near-duplicates") as told:
        guard(["P-n3"], ["P-copy"], notes, load)
    assert "P-" not in str(told.value)
    for seed in range(8):
        parted = split(notes, SplitSpec(test=0.4, seed=seed), load)
        assert len({"P-n3", "P-copy"} & set(parted.test)) in (0, 2)
        guard(parted.train, parted.test, notes, load)


def test_the_copies_in_the_embedded_clinics_notes_are_found(hospital: Path, tmp_path: Path) -> None:
    cohort = ingest(hospital / "clinic", tmp_path / "c")
    found = copied_notes([r for r in cohort.records() if r.modality is Modality.TEXT], cohort.load)
    assert {(a.patient, b.patient) for a, b in found} >= {("MTS-0268", "MTS-0541"), ("MTS-0393", "MTS-0465")}
    for one, other in found:
        assert cohort.load(one).text.split()[:20] == cohort.load(other).text.split()[:20]  # type: ignore[union-attr]
