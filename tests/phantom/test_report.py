"""Reports: what their words say, read by rules of another making, is what their facts say, in both languages."""

from __future__ import annotations

import re
from itertools import product

import numpy as np
import pytest

from polyclinic.phantom.people import LOBES, READING, generator, people, person
from polyclinic.phantom.report import FINDINGS, RULES, Fact, realise, write

UNSURE = re.compile(r"\b(possible|questionable|cannot be excluded|posible|dudosa|descartar)\b", re.IGNORECASE)
NOT = re.compile(r"\b(no|not|sin)\b", re.IGNORECASE)
STEMS = {
    "consolidation": "consolida",
    "nodule": r"n[óo]dul",
    "effusion": r"effusion|derrame",
    "cardiomegaly": "cardiomegal",
    "emphysema": r"emphysema|enfisema",
}
SIDES = {"right": r"\bright\b|derecho|lóbulo medio", "left": r"\bleft\b|izquierdo"}
STATUS = ("present", "absent", "uncertain")


def labelled(text: str) -> str:
    """A rule-based labeller's answer: uncertainty before negation, as "cannot be excluded" has a "no" in it."""
    return "uncertain" if UNSURE.search(text) else "absent" if NOT.search(text) else "present"


@pytest.mark.parametrize("language", ["en", "es"])
@pytest.mark.parametrize("finding", FINDINGS)
def test_every_rule_says_its_fact(finding: str, language: str) -> None:
    for status, rule, lobe in product(STATUS, range(4), LOBES):
        told = Fact(finding, status, None if status == "absent" else lobe, 14 if status == "present" else None)
        text = realise(told, rule, language)
        assert labelled(text) == status, text
        assert re.search(STEMS[finding], text, re.IGNORECASE), text
        assert [f for f, stem in STEMS.items() if re.search(stem, text, re.IGNORECASE)] == [finding]
        if status != "absent":
            side = lobe.split()[0]
            assert re.search(SIDES[side], text), text
            assert not re.search(SIDES["left" if side == "right" else "right"], text), text
        assert re.findall(r"\d+", text) == (["14"] if status == "present" else [])
        assert text[0].isupper()
        assert text.endswith(".")
        assert "{" not in text


def test_both_languages_have_every_rule_and_differ() -> None:
    for what, rules in RULES.items():
        for english, spanish in rules:
            assert english != spanish, what
            slots = lambda text: {slot.lower().replace("a", "n") for slot in re.findall(r"{(\w+)}", text)} - {"of"}
            assert slots(english) == slots(spanish), what


def test_articles_agree_in_spanish() -> None:
    say = lambda finding: realise(Fact(finding, "present", "left upper"), 0, "es")
    assert say("consolidation") == "Se observa una consolidación en el lóbulo superior izquierdo."
    assert say("nodule") == "Se observa un nódulo en el lóbulo superior izquierdo."


@pytest.mark.parametrize("language", [0, 1])
def test_a_report_says_what_the_radiologist_of_the_graph_does(language: int) -> None:
    for index in range(120):
        who = person(4, index) | {"language": language}
        words, sentences = write(who, generator(4, index, "report"))
        assert all(s.text in words for s in sentences)
        found = {s.fact.finding: s for s in sentences if s.section == "findings" and s.fact.change is None}
        assert set(found) == set(FINDINGS)
        for finding, sentence in found.items():
            assert sentence.fact.status == READING[who[f"says_{finding}"]]
            assert labelled(sentence.text) == sentence.fact.status
        impression = [s.fact for s in sentences if s.section == "impression"]
        said = {f.finding for f in impression}
        assert said == ({f for f in FINDINGS if found[f].fact.status != "absent"} or {"none"})


def test_a_grown_nodule_is_called_so() -> None:
    base = person(4, 0) | {
        "nodule": 1,
        "says_nodule": 2,
        "nodule_mm": 20.0,
        "prior_months": 3,
        "language": 0,
    }  # 12 months before
    for doubling_days, change in ((100.0, "larger"), (3000.0, "unchanged"), (40.0, "new")):
        _, sentences = write(base | {"doubling_days": doubling_days}, np.random.default_rng(0))
        facts = [s.fact for s in sentences if s.fact.finding == "nodule" and s.fact.change]
        assert [f.change for f in facts] == [change]
        if change == "larger":
            assert facts[0].before_mm == round(20 * 2 ** (-12 * 30.44 / 300))
    _, sentences = write(base | {"prior_months": 0}, np.random.default_rng(0))
    assert not any(s.fact.change for s in sentences)


def test_the_radiologist_errs_where_it_is_hard() -> None:
    many = people(4, range(6000))
    small, large = ((many["nodule"] == 1) & part for part in (many["nodule_mm"] < 8, many["nodule_mm"] > 20))
    missed = lambda mask: (many["says_nodule"][mask] == 0).mean()
    assert missed(small) > 0.5 > 0.1 > missed(large)
    assert 0.01 < (many["says_nodule"][many["nodule"] == 0] > 0).mean() < 0.09
