"""The labeller of findings against sentences that people labelled, real notes, the phantom's facts, and what it promises of any text."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.results.findings import Label, agreement, gold, phantom, read
from hypothesis import given
from hypothesis import strategies as st

from polyclinic.records.findings import LANGUAGES, PRESENT, LexiconError, findings, prompts, read_findings, summary
from polyclinic.records.findings.lexicon import compiled, lexicon, needed
from polyclinic.records.vocabularies import is_known

MISSED = {"Pneumonia is favored over atelectasis."}
"""Sentences of the gold sets that are read wrong: what stands after "over" is doubted too."""


@pytest.mark.parametrize("language", LANGUAGES)
def test_reads_the_gold_sentences(language: str) -> None:
    rows = list(gold(f"gold.{language}"))
    assert len(rows) >= (160 if language == "en" else 40)
    wrong = {
        s for s, labels, prior in rows if read(s, language) != labels or read_findings(s, language).compared != prior
    }
    assert wrong == (MISSED if language == "en" else set())


def test_gold_has_every_status_of_every_common_finding() -> None:
    seen = {(x.finding, x.status) for _, labels, _ in gold("gold.en") for x in labels}
    common = (
        "cardiomegaly",
        "lung_opacity",
        "edema",
        "consolidation",
        "pneumonia",
        "pneumothorax",
        "effusion",
        "nodule",
        "fracture",
    )
    lacking = {(f, s) for f in common for s in ("present", "absent", "uncertain")} - seen
    assert lacking == {("lung_opacity", "uncertain"), ("consolidation", "uncertain")} - seen
    assert {x.finding for _, labels, _ in gold("gold.en") for x in labels} == set(findings())


@pytest.mark.parametrize(("name", "precision", "recall"), [("development", 0.95, 0.95), ("holdout", 0.86, 0.90)])
def test_reads_real_notes(name: str, precision: float, recall: float, shared_data: Path) -> None:
    rows = list(gold(name, shared_data / "covid-chestxray/metadata.csv"))
    found = agreement((read(s), labels) for s, labels, _ in rows).scores()["all"]
    assert found[0] >= precision
    assert found[1] >= recall


@pytest.mark.parametrize("language", LANGUAGES)
def test_reads_all_that_the_phantom_says(language: str) -> None:
    changes = set()
    for index in range(250):
        text, labels = phantom(index, language, seed=5)
        assert read(text, language) == labels, text
        changes |= {x.compared for x in labels}
    assert changes == {None, "new", "larger", "unchanged"}


def test_reads_a_report_that_lost_its_lines() -> None:
    """As a decoder of words writes it: small letters, one line."""
    for index in range(60):
        text, labels = phantom(index, "en", seed=6)
        one = " ".join(text.lower().replace(":", " :").replace(".", " .").split())
        assert read(one) == labels, one


def test_the_embedded_notes(hospital: Path) -> None:
    """Openly licensed notes that are part of the project."""
    body = lambda name: (hospital / f"radiology/notes/{name}.txt").read_text().split("\n\n", 1)[1]
    assert read(body("CXR-9999_1")) == [Label("lung_opacity", "absent")]
    assert read(body("CXR-331a_1")) == [Label("no_finding", "present")]
    hazy = [Label("lung_opacity", "present", "both"), Label("pneumonia", "present")]
    assert read(body("CXR-331b_1")) == hazy
    assert [m.compared for m in read_findings(body("CXR-331b_2")).mentions] == [None, "larger"]


def test_what_is_asked_or_was_known_is_not_claimed() -> None:
    text = "INDICATION: Rule out pneumonia.\nHISTORY: COPD, prior effusion.\nFINDINGS: The lungs are clear.\nRECOMMENDATION: CT for nodule."
    reading = read_findings(text)
    assert [m.finding for m in reading.mentions] == ["lung_opacity"]
    assert not reading.compared


@pytest.mark.parametrize(
    ("comparison", "named"), [("None.", False), ("No prior studies available.", False), ("CT of last year.", True)]
)
def test_a_section_of_comparison_names_an_earlier_study(comparison: str, named: bool) -> None:
    assert read_findings(f"COMPARISON: {comparison}\nFINDINGS: Small left effusion.").compared is named


def test_a_sentence_of_change_is_of_the_finding_before_it() -> None:
    text = "There is a left effusion. It has increased since the prior study. The patient is stable."
    (mention,) = read_findings(text).mentions
    assert mention.compared == "larger"
    assert [s.compared for s in read_findings(text).sentences] == [False, True, False]


def test_spans_are_where_the_words_stand() -> None:
    text = "FINDINGS: Pleural  effusion on the left.\n\nNo pneumothorax.\n"
    reading = read_findings(text)
    assert [text[m.start : m.end] for m in reading.mentions] == ["Pleural  effusion", "pneumothorax"]
    assert [text[s.start : s.end] for s in reading.sentences] == ["Pleural  effusion on the left.", "No pneumothorax."]
    assert [m.sentence for m in reading.mentions] == [0, 1]


@pytest.mark.parametrize(
    "text", ["No effusion\n- no pneumothorax", "1. No effusion.\n2. No pneumothorax.", "No effusion.No pneumothorax"]
)
def test_lists_are_sentences(text: str) -> None:
    assert [(m.finding, m.status, m.sentence) for m in read_findings(text).mentions] == [
        ("effusion", "absent", 0),
        ("pneumothorax", "absent", 1),
    ]


def test_an_abbreviation_or_a_number_ends_no_sentence() -> None:
    assert len(read_findings("A nodule of 1.5 cm vs. granuloma, approx. 2 mm. No effusion.").sentences) == 2


WORDS = st.sampled_from(
    [
        "no", "without", "possible", "the", "left", "right", "lower", "lobe", "effusion", "pneumothorax", "nodule", "and", "or", ",", ".",
        ";", ":", "but", "is", "not", "seen", "unchanged", "new", "İ", "ñ", "?", "3", "mm\n",
    ]
)  # fmt: skip


@given(st.lists(WORDS, max_size=30).map(" ".join) | st.text(max_size=60))
def test_any_text_is_read(text: str) -> None:
    for language in LANGUAGES:
        reading = read_findings(text, language)
        for mention in reading.mentions:
            sentence = reading.sentences[mention.sentence]
            assert 0 <= sentence.start <= mention.start < mention.end <= sentence.end <= len(text)


@given(st.sampled_from([s for s, _, _ in gold("gold.en")]), st.sampled_from([s for s, _, _ in gold("gold.en")]))
def test_a_sentence_is_read_alike_wherever_it_stands(one: str, other: str) -> None:
    """But for a change, which may be of the finding before it."""
    plain = lambda labels: [(x.finding, x.status, x.side, x.places) for x in labels]
    assert plain(read(f"{one} {other}")) == plain(read(one)) + plain(read(other))


def test_a_summary_is_what_is_worst_and_goes_up_the_kinds() -> None:
    says = lambda text: dict(summary(read_findings(text).mentions))
    assert says("No effusion. Left effusion.")["effusion"] == "present"
    assert says("Possible effusion. No effusion.")["effusion"] == "uncertain"
    assert says("Nodule in the left lung.") == {
        "nodule": "present",
        "lung_lesion": "present",
        "lung_opacity": "present",
    }
    assert says("No nodule.") == {"nodule": "absent", "no_finding": "present"}
    assert says("Pacemaker. Lungs are clear.")["no_finding"] == PRESENT
    assert "no_finding" not in says("No acute cardiopulmonary process. Possible nodule.")
    assert says("") == {"no_finding": "present"}


def test_the_fourteen_observations_are_there() -> None:
    """Irvin et al. 2019, table 1."""
    assert {f.chexpert for f in findings().values() if f.chexpert} == {
        "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Lesion", "Lung Opacity", "Edema", "Consolidation", "Pneumonia",
        "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
    }  # fmt: skip
    known = {system for f in findings().values() for system in f.codes}
    assert all(is_known(system) or system == "RadLex" for system in known)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_names_every_finding(language: str) -> None:
    named = {p.what for p in lexicon(language).findings if p.kind in ("said", "normal")}
    assert named == set(findings())


def test_a_language_without_a_lexicon_is_refused() -> None:
    with pytest.raises(LexiconError, match="one of en, es"):
        read_findings("Kein Erguss.", "de")
    assert read_findings("No effusion.", "en-US").mentions


def test_phrases() -> None:
    found = lambda phrase, text: (m := compiled(phrase).search(text)) and m.group()
    assert found("[small] (effusion|effusions)", "a small effusion") == "small effusion"
    assert found("nodul*", "nodularity") == "nodularity"
    assert found("line", "linear") is None
    assert found("heart .. normal", "heart size is quite normal") == "heart size is quite normal"
    assert found("heart .. normal", "heart. normal") is None
    assert found("ground glass", "ground-glass") == "ground-glass"
    assert needed("[small] (pleural effusion|fluid*)") == ("pleural", "fluid")


@pytest.mark.parametrize("language", LANGUAGES)
def test_prompts_say_what_they_are_for(language: str) -> None:
    asked = prompts(language)
    assert set(asked) == set(findings()) - {"no_finding"}
    for name, both in asked.items():
        for status, sentences in zip(("present", "absent"), both, strict=True):
            assert [read(s, language) for s in sentences] == [[Label(name, status)]] * 3, (name, status)
