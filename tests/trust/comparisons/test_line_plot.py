from __future__ import annotations

from xml.etree import ElementTree

from polyclinic.schema import Figure
from polyclinic.trust.comparisons.line_plot import Line, Panel, plot


def figure(value: float) -> Figure:
    return Figure("auroc", value, value - 0.05, value + 0.05, 20, "s")


def drawn(panels: list[Panel]) -> ElementTree.Element:
    return ElementTree.fromstring(plot(panels, "t & u"))


def strokes(group: ElementTree.Element) -> list[ElementTree.Element]:
    """The lines that join points."""
    return [e for e in group.iter("path") if e.get("stroke-width") == "1.7" and "L" in e.attrib["d"]]


def test_higher_is_higher_and_what_is_not_known_is_not_drawn() -> None:
    line = Line("a<b", [(0.0, figure(0.6)), (1.0, figure(0.8)), (2.0, figure(float("nan")))])
    picture = drawn(
        [Panel("p", [line], [(0.0, "few"), (1.0, "more"), (2.0, "all")], "labels", "AUROC", (1.0, "here"), 0.5)]
    )
    (path,) = strokes(picture)
    places = [tuple(map(float, part.split())) for part in path.attrib["d"].strip("M").split("L")]
    assert len(places) == 2
    assert places[0][0] < places[1][0]
    assert places[0][1] > places[1][1]  # y runs down
    words = [e.text for e in picture.iter("text")]
    assert {"p", "a<b", "few", "more", "all", "labels", "AUROC", "here", "guessing"} <= set(words)
    title = picture.find(".//title")
    assert title is not None
    assert (title.text or "").startswith("t & u. ")
    assert "a<b: few: 0.600 (0.550 to 0.650)" in (title.text or "")


def test_a_name_looks_the_same_in_every_panel() -> None:
    ticks = [(0.0, "0"), (1.0, "1")]
    one = Panel(
        "one",
        [Line("x", [(0.0, figure(0.5)), (1.0, figure(0.6))]), Line("y", [(0.0, figure(0.4)), (1.0, figure(0.7))])],
        ticks,
        "",
        "",
    )
    two = Panel("two", [Line("y", [(0.0, figure(0.4)), (1.0, figure(0.7))])], ticks, "", "")
    picture = drawn([one, two])
    first, second = (
        g for g in picture.iter("g") if "translate" in g.attrib["transform"] and "rotate" not in g.attrib["transform"]
    )
    looks = lambda group: [(e.get("stroke"), e.get("stroke-dasharray")) for e in strokes(group)]
    assert looks(first)[1] == looks(second)[0]
    assert (
        len({colour for colour, _ in looks(first)}) == len({dashes for _, dashes in looks(first)}) == 2
    )  # without colour too


def test_an_interval_is_a_bar_with_ends_and_ticks_do_not_run_into_each_other() -> None:
    line = Line("x", [(0.0, figure(0.5)), (0.01, figure(0.6)), (1.0, figure(0.7))])
    picture = drawn([Panel("p", [line], [(0.0, "1000"), (0.01, "1010"), (1.0, "2000")], "labels", "AUROC")])
    words = [e.text for e in picture.iter("text")]
    assert "1000" in words
    assert "2000" in words
    assert "1010" not in words
    bars = [e for e in picture.iter("line") if e.get("stroke-width") == "1.4"]
    assert len(bars) == 3 * 3
