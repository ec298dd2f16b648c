from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.trust.pages.svg import CORNERS, SHAPES, Scale, drawing, mark, ornament, round_values, tag, text, whisker

finite = st.floats(-1e6, 1e6, allow_nan=False)


@settings(max_examples=50, deadline=None)
@given(finite, st.floats(1e-3, 1e6), st.integers(2, 8))
def test_round_values_are_evenly_spaced_by_one_two_or_five(low: float, width: float, count: int) -> None:
    high = low + width
    values = round_values(low, high, count)
    slack = 1e-6 * max(abs(low), abs(high), 1.0)
    assert all(low - slack <= v <= high + slack for v in values)
    assert len(values) <= count + 1
    if len(values) > 1:
        steps = np.diff(values)
        assert np.allclose(steps, steps[0], rtol=1e-4, atol=1e-9)
        leading = steps[0] / 10.0 ** math.floor(math.log10(steps[0]) + 1e-9)
        assert min(abs(leading - s) for s in (1, 2, 5)) < 1e-3


def test_a_scale_is_linear_and_stays_on_the_axis() -> None:
    scale = Scale(0.0, 2.0, 100.0, 300.0)
    assert [scale(v) for v in (0.0, 0.5, 2.0, -7.0, 9.0)] == [100.0, 150.0, 300.0, 100.0, 300.0]
    upward = Scale(0.0, 1.0, 140.0, 26.0)
    assert upward(0.0) == 140.0
    assert upward(1.0) == 26.0
    assert Scale(1.0, 1.0, 5.0, 9.0)(1.0) == 5.0


@settings(max_examples=30, deadline=None)
@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=0x2FF), max_size=30))
def test_whatever_the_words_the_drawing_is_whole(words: str) -> None:
    made = drawing(
        10, 10, [text(1, 2, words, key=words), tag("rect", class_="a", x=1.0, aria_label=words)], words or "t", words
    )
    root = ET.fromstring(made)
    found = next(root.iter("text"))
    assert (found.text or "") == words
    assert found.attrib["data-key"] == words
    assert {e.tag for e in root.iter()} == {"div", "svg", "title", "text", "rect"}


def test_a_drawing_that_scrolls_can_be_reached_by_the_keyboard() -> None:
    wide = ET.fromstring(drawing(900, 10, [], "What it shows", narrow=500))
    assert wide.attrib["tabindex"] == "0"
    assert wide.attrib["aria-label"] == "What it shows"
    assert "tabindex" not in ET.fromstring(drawing(900, 10, [], "What it shows")).attrib


def test_an_ornament_is_passed_by() -> None:
    assert ET.fromstring(ornament(4, 4, [])).attrib["aria-hidden"] == "true"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("hollow", [False, True])
def test_every_shape_is_drawn_in_its_colour(shape: str, hollow: bool) -> None:
    made = ET.fromstring(mark(8, 8, shape, 5.0, "red", hollow))
    assert "red" in (made.attrib.get("fill"), made.attrib.get("stroke"))
    if hollow or shape in ("ring", "cross", "plus"):
        assert made.attrib["fill"] in ("none", "var(--paper)")


def test_a_ring_is_not_a_dot() -> None:
    assert mark(8, 8, "ring", 5.0, "red") != mark(8, 8, "circle", 5.0, "red")
    assert 'fill="none"' in mark(8, 8, "ring", 5.0, "red")


def test_filled_shapes_weigh_about_the_same() -> None:
    for name, corners in CORNERS.items():
        x, y = np.array(corners).T
        area = 0.5 * abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))))
        assert 0.7 * math.pi < area < 1.1 * math.pi, name


def _ends(drawn: str) -> list[float]:
    lines = ET.fromstring(f"<g>{drawn}</g>").iter("line")
    return sorted(float(e.attrib[k]) for e in lines for k in ("x1", "x2"))


def test_a_whisker_spans_its_interval() -> None:
    scale = Scale(0.0, 1.0, 0.0, 100.0)
    ends = _ends(whisker(scale, 5, 0.5, 0.2, 0.9, "red", "circle"))
    assert (ends[0], ends[-1]) == (20.0, 90.0)
    assert (
        next(ET.fromstring(f"<g>{whisker(scale, 5, 0.5, 0.2, 0.9, 'red', 'circle')}</g>").iter("circle")).attrib["cx"]
        == "50"
    )


def test_an_interval_that_leaves_the_axis_ends_in_an_arrow() -> None:
    scale = Scale(0.0, 1.0, 0.0, 100.0)
    inside, outside = (whisker(scale, 5, 0.5, low, 0.9, "red", "circle").count("<path") for low in (0.2, -3.0))
    assert (inside, outside) == (0, 1)


def test_nothing_is_drawn_of_what_is_not_defined() -> None:
    nan = float("nan")
    assert whisker(Scale(0, 1, 0, 1), 5, nan, nan, nan, "red", "circle") == ""
    assert "<line" not in whisker(Scale(0, 1, 0, 1), 5, 0.5, nan, nan, "red", "circle")
