from __future__ import annotations

from xml.etree import ElementTree

from polyclinic.schema import Figure
from polyclinic.trust.comparisons.line_plot import Line, Panel, plot

SVG = "{http://www.w3.org/2000/svg}"


def figure(value: float) -> Figure:
    return Figure("auroc", value, value - 0.05, value + 0.05, 20, "s")


def drawn(panels: list[Panel]) -> ElementTree.Element:
    return ElementTree.fromstring(plot(panels, "t & u"))


def test_higher_is_higher_and_what_is_not_known_is_not_drawn() -> None:
    line = Line("a<b", [(0.0, figure(0.6)), (1.0, figure(0.8)), (2.0, figure(float("nan")))])
    picture = drawn([Panel("p", [line], [(0.0, "few"), (1.0, "more"), (2.0, "all")], "labels", (1.0, "here"), 0.5)])
    (path,) = [e for e in picture.iter(f"{SVG}path") if e.get("class") == "join"]
    places = [tuple(map(float, part.split())) for part in path.attrib["d"].strip("M").split("L")]
    assert len(places) == 2
    assert places[0][0] < places[1][0]
    assert places[0][1] > places[1][1]  # y runs down
    words = [e.text for e in picture.iter(f"{SVG}text")]
    assert {"t & u", "a<b", "few", "more", "all", "labels", "here"} <= set(words)
    title = picture.find(f"{SVG}title")
    assert title is not None
    assert "a<b: few: 0.600 (0.550 to 0.650)" in (title.text or "")


def test_a_name_looks_the_same_in_every_panel() -> None:
    ticks = [(0.0, "0"), (1.0, "1")]
    one = Panel(
        "one",
        [Line("x", [(0.0, figure(0.5)), (1.0, figure(0.6))]), Line("y", [(0.0, figure(0.4)), (1.0, figure(0.7))])],
        ticks,
        "",
    )
    two = Panel("two", [Line("y", [(0.0, figure(0.4)), (1.0, figure(0.7))])], ticks, "")
    picture = drawn([one, two])
    first, second = list(picture.iter(f"{SVG}g"))
    strokes = lambda group: [e.get("stroke") for e in group.iter(f"{SVG}path") if e.get("class") == "join"]
    assert strokes(first)[1] == strokes(second)[0]
    assert len(set(strokes(first))) == 2
