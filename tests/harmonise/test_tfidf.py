from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from polyclinic.harmonise import Fingerprint, TfidfStandard, harmonise
from polyclinic.harmonise.fitting import fit
from polyclinic.harmonise.tfidf import TermsError, terms, weights
from polyclinic.schema import Modality, Payload, Record

NOTES = (
    "Fever and dry cough. No effusion.", "Fever, dry cough, effusion on the left.", "No fever; cough cough cough.",
    "Dry cough and fever, effusion.", "Left effusion, no cough.", "Fever. Fever and cough, no effusion on the left.",
)  # fmt: skip


def records(texts: tuple[str, ...], who: tuple[str, ...] | None = None) -> list[Record]:
    owners = who or tuple(f"P{n}" for n in range(len(texts)))
    return [
        Record(f"{n}", owner, None, Modality.TEXT, "note", text)
        for n, (owner, text) in enumerate(zip(owners, texts, strict=True))
    ]


def fitted(
    texts: tuple[str, ...] = NOTES, standard: TfidfStandard | None = None, who: tuple[str, ...] | None = None
) -> Fingerprint:
    load = lambda record: Payload(np.zeros(0), text=record.uri)
    return fit(records(texts, who), load, {Modality.TEXT: standard or TfidfStandard(fewest=2)})


def test_weights_are_scikit_learns() -> None:
    made = fitted()
    theirs = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    wanted: Any = theirs.fit_transform(NOTES)
    assert list(made.terms) == list(theirs.get_feature_names_out())
    np.testing.assert_allclose(list(made.terms.values()), theirs.idf_, rtol=1e-12)
    np.testing.assert_allclose(np.stack([weights(text, made) for text in NOTES]), wanted.toarray(), atol=1e-6)


def test_directions_are_those_of_latent_semantic_analysis() -> None:
    made = fitted(standard=TfidfStandard(fewest=2, directions=3))
    rows = np.stack([weights(text, made) for text in NOTES])
    exact = TruncatedSVD(3, algorithm="arpack", random_state=0).fit(rows).components_
    ours = np.array(made.directions)
    np.testing.assert_allclose(np.abs((ours * exact).sum(1)), 1, atol=1e-5)
    assert (ours[np.arange(3), np.abs(ours).argmax(1)] > 0).all()


def test_with_a_direction_a_note_nothing_of_the_notes_is_lost() -> None:
    made = fitted()
    rows, across = np.stack([weights(text, made) for text in NOTES]), np.array(made.directions)
    assert len(across) == np.linalg.matrix_rank(rows)
    np.testing.assert_allclose(rows @ across.T @ across, rows, atol=1e-5)


def test_no_term_of_fewer_patients_is_kept_however_often_they_say_it() -> None:
    """One patient's name stands in each of their own notes."""
    texts = ("Mr Smith has fever", "Smith has cough", "Smith again, fever", "has fever", "has fever and cough")
    made = fitted(texts, who=("A", "A", "A", "B", "C"))
    assert list(made.terms) == ["cough", "fever", "has", "has fever"]
    np.testing.assert_allclose(made.terms["cough"], np.log(4 / 3) + 1)
    assert list(fitted(texts, TfidfStandard(), ("A", "A", "A", "B", "C")).terms) == ["fever", "has", "has fever"]
    with pytest.raises(ValueError, match="fewest"):
        TfidfStandard(fewest=1)


def test_of_too_many_terms_the_commonest_stay() -> None:
    assert list(fitted(standard=TfidfStandard(fewest=2, vocabulary=2)).terms) == ["cough", "effusion"]


def test_notes_that_share_nothing_are_refused_and_not_quoted() -> None:
    with pytest.raises(TermsError, match="2 training patients") as refused:
        fitted(("Miller came", "Smith went"))
    assert "miller" not in str(refused.value).lower()
    assert "smith" not in str(refused.value).lower()


def test_a_note_without_a_known_term_has_no_weight() -> None:
    made = fitted()
    for text in ("", "  \n", "?!", "Überweisung zum Röntgen", None):
        note = Payload(np.zeros(0), text=text)
        out = harmonise(note, records(NOTES)[0], TfidfStandard(), made).array
        assert out.dtype == np.float32
        assert not out.any()


def test_words_of_any_script_are_whole() -> None:
    """Of scikit-learn's own pattern a Hindi word falls apart at its vowel signs, and a Chinese sentence is one word."""
    assert list(terms("दर्द में")) == ["दर्द", "में", "दर्द में"]
    assert list(terms("无胸腔积液"))[:5] == ["无", "胸", "腔", "积", "液"]
    assert list(terms("Épanchement, ÉPANCHEMENT")) == ["épanchement", "épanchement", "épanchement épanchement"]
    assert list(terms("без выпота")) == ["без", "выпота", "без выпота"]
    assert list(terms("Ｆｅｖｅｒ 38.5"))[:3] == ["fever", "38", "5"]


def test_the_fingerprint_is_kept_and_does_not_depend_on_the_records_order(tmp_path: Path) -> None:
    made = fitted()
    made.save(tmp_path / "f.json")
    opened = Fingerprint.open(tmp_path / "f.json")
    assert opened == made
    assert opened.hash == made.hash
    np.testing.assert_array_equal(weights(NOTES[0], opened), weights(NOTES[0], made))
    load = lambda record: Payload(np.zeros(0), text=record.uri)
    turned = fit(list(reversed(records(NOTES))), load, {Modality.TEXT: TfidfStandard(fewest=2)})
    assert turned == made
    assert fitted((*NOTES, "fever and chill"), TfidfStandard(fewest=2)).hash != made.hash
