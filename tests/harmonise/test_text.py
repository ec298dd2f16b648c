from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from polyclinic.harmonise import Fingerprint, TextStandard, fit, harmonise
from polyclinic.harmonise.text import FIRST, SPECIAL, UNKNOWN, TokenizerError, spelled, train_tokenizer
from polyclinic.schema import Modality, Payload, Record

NOTE = Record("t", "P", None, Modality.TEXT, "note", "t")
TEXTS = [
    "Lungs clear. No effusion.",
    "Bilateral opacities; no effusion seen.",
    "Lungs: bilateral ground-glass opacities.",
] * 3


def words(text: str, fingerprint: Fingerprint, most: int = 96) -> np.ndarray:
    return harmonise(Payload(np.empty(0, np.int64), text=text), NOTE, TextStandard(words=most), fingerprint).array


def test_a_note_is_word_pieces_that_give_it_back() -> None:
    fingerprint = Fingerprint(tokenizer=train_tokenizer(TEXTS, 200))
    found = words("NO effusion, lungs clear", fingerprint)
    assert found.dtype == np.int64
    assert found[0] == FIRST
    assert fingerprint.tokenizer is not None
    vocabulary = Tokenizer.from_str(fingerprint.tokenizer).get_vocab()
    pieces = {n: w for w, n in vocabulary.items()}
    assert "".join(pieces[n] for n in found[1:]) == "noeffusion[UNK]lungsclear"  # no comma in the training notes
    assert [vocabulary[w] for w in SPECIAL] == [0, 1, 2, 3]
    assert fingerprint.words == len(vocabulary) <= 200


def test_long_notes_are_cut_and_strange_ones_are_unknown() -> None:
    fingerprint = Fingerprint(tokenizer=train_tokenizer(TEXTS, 200))
    assert len(words("lungs " * 500, fingerprint, most=32)) == 32
    assert words("", fingerprint).tolist() == [FIRST]
    assert set(words("肺", fingerprint)[1:]) == {UNKNOWN}
    assert words("anything", Fingerprint()).tolist() == [FIRST]


def test_the_vocabulary_depends_on_the_notes_and_on_nothing_else() -> None:
    code = f"from polyclinic.harmonise.text import train_tokenizer; print(train_tokenizer({TEXTS!r}, 300))"
    other = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": "7", "RAYON_NUM_THREADS": "3"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == train_tokenizer(list(reversed(TEXTS)), 300)


REPORT = "HISTORY: no fever.\nFINDINGS: No effusion, without mass.\nIMPRESSION: Normal."


def test_only_the_sections_that_count_are_word_pieces() -> None:
    fingerprint = Fingerprint(tokenizer=train_tokenizer([REPORT] * 3, 200))
    whole = harmonise(Payload(np.empty(0, np.int64), text=REPORT), NOTE, TextStandard(), fingerprint)
    part = harmonise(
        Payload(np.empty(0, np.int64), text=REPORT), NOTE, TextStandard(sections=("findings",)), fingerprint
    )
    assert whole.text == REPORT
    assert part.text == "FINDINGS:\nNo effusion, without mass."
    assert part.array.tolist() == words(part.text, fingerprint).tolist()
    assert len(part.array) < len(whole.array)


def test_a_section_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match="no section is called finding; there are indication, history"):
        TextStandard(sections=("finding",))


def written(place: Path, tokenizer: Tokenizer) -> TextStandard:
    tokenizer.save(str(place / "tokenizer.json"))
    return TextStandard(words=8, tokenizer=str(place / "tokenizer.json"))


def imported() -> Tokenizer:
    """Word pieces with marks around them, and a habit of padding and cutting that is not asked for here."""
    tokenizer = Tokenizer.from_str(train_tokenizer(TEXTS, 200))
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [MASK]", special_tokens=[("[CLS]", 2), ("[MASK]", 3)]
    )  # type: ignore[assignment]
    tokenizer.enable_padding(length=64)
    tokenizer.enable_truncation(3)
    return tokenizer


def test_an_imported_tokenizer_is_taken_instead_with_its_own_marks(tmp_path: Path) -> None:
    standard = written(tmp_path, imported())
    load = lambda _: Payload(np.empty(0, np.int64), text=TEXTS[0])
    fingerprint = fit([NOTE], load, {Modality.TEXT: standard})
    assert fingerprint.tokenizer == (tmp_path / "tokenizer.json").read_text()
    assert fingerprint.hash != fit([NOTE], load, {Modality.TEXT: TextStandard()}).hash
    (tmp_path / "tokenizer.json").unlink()  # the fingerprint has it
    plain = words(TEXTS[0], fingerprint, most=1000)[1:].tolist()
    assert len(plain) > 6
    whole = harmonise(load(NOTE), NOTE, standard.model_copy(update={"words": 1000}), fingerprint).array.tolist()
    assert whole == [2, *Tokenizer.from_str(train_tokenizer(TEXTS, 200)).encode(TEXTS[0]).ids, 3]
    assert harmonise(load(NOTE), NOTE, standard, fingerprint).array.tolist() == [*whole[:7], 3]


def test_it_is_imported_without_any_note_too(tmp_path: Path) -> None:
    assert fit([], lambda _: Payload(np.empty(0)), {Modality.TEXT: written(tmp_path, imported())}).tokenizer


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": "BPE"}')
    for place, word in ((tmp_path / "tokenizer.json", "does not open"), (tmp_path / "other.json", "not there")):
        with pytest.raises(TokenizerError, match=word) as caught:
            fit([], lambda _: Payload(np.empty(0)), {Modality.TEXT: TextStandard(tokenizer=str(place))})
        assert "save_pretrained" in caught.value.remedy


def test_negation_survives_in_real_notes(shared_data: Path) -> None:
    """Every "no", "not", "denies" and "without" of MTS-Dialog's notes is still there, as often, in their word pieces."""
    with (shared_data / "mts-dialog/MTS-Dialog-ValidationSet.csv").open(newline="", encoding="utf-8") as file:
        notes = [row["section_text"] for row in csv.DictReader(file)]
    fingerprint = Fingerprint(tokenizer=train_tokenizer(notes, 2048))
    assert fingerprint.tokenizer is not None
    tokenizer = Tokenizer.from_str(fingerprint.tokenizer)
    negations = re.compile(r"\b(no|not|denies|without)\b")
    spoken = 0
    for note in notes:
        numbers = words(note, fingerprint, most=10_000).tolist()
        pieces = [note.lower()[a:b] for a, b in tokenizer.encode(note.lower()).offsets]
        assert len(numbers) == len(pieces) + 1
        expected = negations.findall(note.lower())
        assert sum(piece in {"no", "not", "denies", "without"} for piece in pieces) >= len(expected)
        spoken += len(expected)
    assert spoken > 50


ES = Record("s", "P", None, Modality.TEXT, "note", "s", attributes={"language": "es-MX"})
TWO = TextStandard(words=16, vocabulary=300, languages=("en", "es"))
NOTES = [*TEXTS, *["Pulmones claros. Sin derrame pleural.", "Sin derrame."] * 3]


def test_a_note_begins_with_the_word_of_its_language() -> None:
    fingerprint = Fingerprint(tokenizer=train_tokenizer(NOTES, 300, TWO.languages))
    assert fingerprint.tokenizer is not None
    assert Tokenizer.from_str(fingerprint.tokenizer).get_vocab()["[es]"] == TWO.begin("es") == 5
    begun = lambda record: harmonise(Payload(np.empty(0, np.int64), text="Sin derrame"), record, TWO, fingerprint).array
    found = {
        language: begun(replace(ES, attributes={"language": language}))
        for language in ("es", "es_ES", "EN-us", "eng", None)
    }
    assert [int(words[0]) for words in found.values()] == [5, 5, 4, FIRST, FIRST]
    assert len({words[1:].tobytes() for words in found.values()}) == 1  # what it says is read alike
    assert begun(NOTE)[0] == FIRST
    bare = TextStandard(words=16, vocabulary=300)
    assert harmonise(Payload(np.empty(0, np.int64), text="Sin"), ES, bare, fingerprint).array[0] == FIRST


def test_what_is_written_in_a_language_can_be_read() -> None:
    fingerprint = Fingerprint(tokenizer=train_tokenizer(NOTES, 60, TWO.languages))  # so few that words are in pieces
    found = harmonise(
        Payload(np.empty(0, np.int64), text="Pulmones claros. Sin derrame"),
        ES,
        TWO.model_copy(update={"words": 96}),
        fingerprint,
    )
    assert len(found.array) > 6
    assert spelled(found.array.tolist(), fingerprint) == "pulmones claros. sin derrame"
    assert spelled([], fingerprint) == spelled([5], Fingerprint()) == ""


def test_a_fingerprint_knows_its_languages_and_is_the_same_without() -> None:
    load = lambda r: Payload(np.empty(0, np.int64), text=NOTES[int(r.id)])
    notes = [replace(NOTE, id=str(n)) for n in range(len(NOTES))]
    plain, two = (fit(notes, load, {Modality.TEXT: s}) for s in (TextStandard(vocabulary=300), TWO))
    assert plain.tokenizer == train_tokenizer(NOTES, 300)
    assert plain.hash != two.hash
    assert two.words == len(Tokenizer.from_str(str(two.tokenizer)).get_vocab())


def test_languages_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="brought along, which has no word for them"):
        TextStandard(languages=("en",), tokenizer="tokenizer.json")
    with pytest.raises(ValueError, match="'es' twice"):
        TextStandard(languages=("es", "es"))
    with pytest.raises(ValueError, match="String should match pattern"):
        TextStandard(languages=("Spanish",))
