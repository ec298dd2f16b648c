from __future__ import annotations

import json
from html import unescape
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.schema import Figure
from polyclinic.trust.pages.summary import THIN, Summary, grouped, in_words, with_sign

NAN = float("nan")


def made(value: float, low: float, high: float, note: str = "95% interval, BCa") -> Figure:
    return Figure("auroc", value, low, high, 17, "split-hash", note)


def test_a_figure_is_kept_whole() -> None:
    summary = Summary("split-hash")
    assert summary.figure("a", made(0.712, 0.58, 0.84)) == "0.71 (0.58–0.84)"
    held = json.loads(summary.json(run="demo"))
    assert held["run"] == "demo"
    assert held["split"] == "split-hash"
    assert held["figures"]["a"] == {
        "name": "auroc", "value": 0.712, "low": 0.58, "high": 0.84, "n": 17, "split": "split-hash", "note": "95% interval, BCa",
        "text": "0.71 (0.58–0.84)",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("figure", "signed", "words"),
    [
        (made(0.1, -0.02, 0.22), True, "+0.10 (−0.02 to +0.22)"),
        (made(-0.1, -0.2, -0.001), True, "−0.10 (−0.20 to 0.00)"),
        (made(0.3, 0.1, 0.5), True, "+0.30 (+0.10 to +0.50)"),
        (made(-0.3, -1.2, 0.5), False, "−0.30 (−1.20 to 0.50)"),
        (made(0.1, NAN, NAN), True, "+0.10 (no interval)"),
        (made(0.1, NAN, NAN), False, "0.10 (no interval)"),
        (made(NAN, NAN, NAN), True, "not defined"),
    ],
)
def test_words_of_a_figure(figure: Figure, signed: bool, words: str) -> None:
    assert in_words(figure, signed) == words


def test_zero_has_no_sign() -> None:
    assert with_sign(-0.004) == with_sign(0.004) == "0.00"
    assert with_sign(-0.005001) == "−0.01"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1910, f"1{THIN}910"),
        (0, "0"),
        (-3, "−3"),
        (1234.5, f"1{THIN}234.50"),
        (None, "–"),
        (4619776, f"4{THIN}619{THIN}776"),
    ],
)
def test_numbers_for_people(value: Any, words: str) -> None:
    assert grouped(value) == words


def test_what_is_not_finite_is_null_and_the_file_is_json() -> None:
    summary = Summary("s")
    summary.figure("figure", made(NAN, NAN, NAN, "not defined: one class"))
    summary.count("loss", float("inf"))
    summary.count("numpy", cast(Any, np.float32(0.5)))
    summary.count("patients", cast(Any, np.int64(12)))
    held = json.loads(summary.json(), parse_constant=pytest.fail)
    assert held["figures"]["figure"]["value"] is None
    assert held["counts"]["loss"]["value"] is None
    assert held["counts"]["loss"]["text"] == "–"
    assert held["counts"]["patients"] == {"value": 12, "text": "12", "what": "count"}


def test_two_numbers_may_not_share_a_place() -> None:
    summary = Summary("s")
    summary.count("a", 1)
    summary.count("a", 1)
    with pytest.raises(ValueError, match="two numbers are called 'a'"):
        summary.count("a", 2)
    with pytest.raises(ValueError, match="'a'"):
        summary.figure("a", made(0.5, 0.4, 0.6))


def test_what_was_not_entered_cannot_be_shown() -> None:
    with pytest.raises(KeyError):
        Summary("s").html("a")


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=20), st.text(max_size=20))
def test_keys_and_words_are_escaped(key: str, words: str) -> None:
    shown = Summary("s").shown(key, 1, words)
    start, rest = shown.split(">", 1)
    assert unescape(start) == f'<data value="1" data-key="{key}"'
    assert "<" not in rest.removesuffix("</data>")
    assert unescape(rest.removesuffix("</data>")) == words


def test_n_and_note_name_the_figure_that_they_belong_to() -> None:
    summary = Summary("s")
    summary.figure("a", made(0.5, 0.4, 0.6, "95% interval, BCa; <few>"))
    assert summary.n("a") == '<data value="17" data-key="a">17</data>'
    assert summary.note("a") == '<span data-key="a">BCa; &lt;few&gt;</span>'
