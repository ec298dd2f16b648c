"""Porter's stemmer against the examples of his paper (1980, section 2), each taken through all steps."""

from __future__ import annotations

import pytest

from polyclinic.tasks.stem import _measure, _replace, stem

EXAMPLES = {
    "caresses": "caress", "ponies": "poni", "ties": "ti", "caress": "caress", "cats": "cat", "feed": "feed", "agreed": "agre",
    "plastered": "plaster", "bled": "bled", "motoring": "motor", "sing": "sing", "conflated": "conflat", "troubled": "troubl",
    "sized": "size", "hopping": "hop", "tanned": "tan", "falling": "fall", "hissing": "hiss", "fizzed": "fizz", "failing": "fail",
    "filing": "file", "happy": "happi", "sky": "sky", "vietnamization": "vietnam", "triplicate": "triplic", "formative": "form",
    "electrical": "electr", "revival": "reviv", "allowance": "allow", "adoption": "adopt", "replacement": "replac", "probate": "probat",
    "rate": "rate", "cease": "ceas", "controll": "control", "roll": "roll",
}  # fmt: skip


@pytest.mark.parametrize(("word", "expected"), EXAMPLES.items())
def test_examples(word: str, expected: str) -> None:
    assert stem(word) == expected


def test_the_paper_s_longest_example() -> None:
    """Section 3: generalizations → generalization → generalize → general → gener."""
    assert stem("generalizations") == "gener"
    assert stem("oscillators") == "oscil"


@pytest.mark.parametrize(
    ("m", "words"), [(0, "tr ee tree y by"), (1, "trouble oats trees ivy"), (2, "troubles private oaten orrery")]
)
def test_measure(m: int, words: str) -> None:
    assert [_measure(w) for w in words.split()] == [m] * len(words.split())


def test_the_longest_ending_counts() -> None:
    assert _replace("relational", {"ational": "ate", "tional": "tion"}, 1) == "relate"
