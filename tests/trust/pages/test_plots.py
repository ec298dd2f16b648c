from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.schema import Figure, Modality
from polyclinic.trust.measures.calibration import Bin, Calibration
from polyclinic.trust.pages.plots import (
    ARM_WORDS,
    ARMS,
    MODALITIES,
    MOST_STEPS,
    PLAIN,
    UNIT,
    UNLABELLED,
    curve,
    legend,
    looks,
    reach_of,
    reliability,
    scatter,
    smooth,
    stretches,
    strip,
    strip_axis,
    upset,
)
from polyclinic.trust.pages.svg import Scale


def figure(value: float, low: float, high: float) -> Figure:
    return Figure("auroc", value, low, high, 10, "s")


def test_series_are_told_apart_without_their_colour() -> None:
    for group in (MODALITIES, looks([f"finding {n}" for n in range(12)])):
        marks = [(look.shape, look.hollow) for look in group.values()]
        assert len(set(marks)) == len(marks)
    arms = [(look.shape, look.hollow) for look in ARMS.values()]
    assert len(set(arms)) == len(arms)
    assert ARMS.keys() == ARM_WORDS.keys()


def test_every_modality_has_a_look() -> None:
    assert set(MODALITIES) == {m.value for m in Modality}


def test_the_unlabelled_are_faint() -> None:
    assert looks(["a", UNLABELLED])[UNLABELLED].shape == "ring"
    assert UNLABELLED not in looks(["a"])


def test_a_strip_draws_a_figure_on_the_unit_axis() -> None:
    drawn = ET.fromstring(strip(figure(0.75, 0.5, 1.0), UNIT, PLAIN, 0.5))
    middle = next(drawn.iter("circle"))
    left, right = UNIT.start, UNIT.end
    assert float(middle.attrib["cx"]) == pytest.approx(left + 0.75 * (right - left), abs=0.01)
    chance = [e for e in drawn.iter("line") if e.attrib.get("class") == "chance"]
    assert float(chance[0].attrib["x1"]) == pytest.approx((left + right) / 2, abs=0.01)
    assert drawn.attrib["aria-hidden"] == "true"


def test_an_empty_strip_has_the_axis_only() -> None:
    drawn = ET.fromstring(strip(None, UNIT, at=0.5))
    assert "blank" in drawn.attrib["class"]
    assert not list(drawn.iter("circle"))


def test_the_axis_and_its_strips_have_the_same_grid() -> None:
    scale = Scale(-0.4, 0.4, 14.0, 226.0)
    grid = lambda markup: sorted(
        e.attrib["x1"] for e in ET.fromstring(markup).iter("line") if e.attrib.get("class") == "grid"
    )
    assert grid(strip_axis(scale)) == grid(strip(None, scale))
    labels = [e.text for e in ET.fromstring(strip_axis(scale, ("← worse", "better →"))).iter("text")]
    assert {"← worse", "better →", "−0.4", "0", "0.4"} <= set(labels)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1)), max_size=5))
def test_an_axis_of_differences_holds_them_all_about_zero(values: list[tuple[float, float, float]]) -> None:
    scale = reach_of([None, *(figure(*v) for v in values)])
    assert scale.low == -scale.high
    assert 0.1 <= scale.high <= 1.0
    assert all(abs(v) <= scale.high + 1e-6 for triple in values for v in triple)
    assert scale(0.0) == (scale.start + scale.end) / 2


def test_an_upset_plot_has_a_bar_a_pattern_and_a_dot_a_member() -> None:
    patterns = [(("image", "text"), 30, "30", "p.0"), (("text",), 10, "10", "p.1")]
    sizes = {"image": (30, "30", "m.image"), "text": (40, "40", "m.text")}
    root = ET.fromstring(upset(patterns, sizes, {"image": "X-ray"}, "Title"))
    heights = [float(e.attrib["height"]) for e in root.iter("rect") if e.attrib["class"] == "bar"]
    assert heights[0] == pytest.approx(3 * heights[1], abs=0.05)
    widths = [float(e.attrib["width"]) for e in root.iter("rect") if e.attrib["class"] == "bar2"]
    assert widths[0] / widths[1] == pytest.approx(0.75, abs=0.01)
    assert sum(e.attrib["class"] == "dot" for e in root.iter("circle")) == 3
    assert sum(e.attrib["class"] == "nodot" for e in root.iter("circle")) == 1
    keyed = {e.attrib["data-key"]: e.text for e in root.iter("text") if "data-key" in e.attrib}
    assert keyed == {"p.0": "30", "p.1": "10", "m.image": "30", "m.text": "40"}


def test_nobody_at_all_makes_no_bar_but_no_error() -> None:
    assert ET.fromstring(upset([], {}, {}, "Title")).tag == "div"


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.floats(-5, 5))
def test_the_running_mean_of_a_constant_is_the_constant(n: int, value: float) -> None:
    assert np.allclose(smooth(np.full(n, value)), value)
    assert len(smooth(np.arange(float(n)))) == n


def test_the_running_mean_is_the_mean_of_the_neighbours() -> None:
    values = np.random.default_rng(0).normal(size=100)  # a span of 4: two before, itself, one after
    assert smooth(values)[50] == pytest.approx(values[48:52].mean())


def test_a_long_run_is_drawn_as_means_of_stretches() -> None:
    values = np.random.default_rng(0).normal(size=10 * MOST_STEPS)
    steps, means = stretches(np.arange(len(values), dtype=float), values)
    assert len(means) == MOST_STEPS
    assert means[3] == pytest.approx(values[30:40].mean())
    assert steps[3] == 34.5


def test_steps_that_were_not_finite_are_left_out() -> None:
    steps, values = stretches(np.arange(4.0), np.array([1.0, np.nan, np.inf, 3.0]))
    assert steps.tolist() == [0.0, 3.0]
    assert values.tolist() == [1.0, 3.0]


@pytest.mark.parametrize("values", [[], [2.0], [1.0, 1.0, 1.0], [np.nan] * 3])
def test_a_curve_of_little_is_still_drawn(values: list[float]) -> None:
    made = curve(np.arange(float(len(values))), np.array(values), "loss", "Loss")
    assert ET.fromstring(made).tag == "div"
    assert "nan" not in made


def test_a_stage_begins_where_it_says() -> None:
    root = ET.fromstring(curve(np.arange(101.0), np.arange(101.0), "loss", "Loss", ((0.0, "one"), (50.0, "two"))))
    start = [float(e.attrib["x1"]) for e in root.iter("line") if e.attrib.get("class") == "chance"]
    assert start == [pytest.approx((44.0 + 306.0) / 2, abs=0.01)]
    assert "two" in [e.text for e in root.iter("text")]


def test_a_falling_loss_falls_on_the_page() -> None:
    root = ET.fromstring(curve(np.arange(50.0), np.linspace(5, 1, 50), "loss", "Loss"))
    thin = next(e for e in root.iter("path") if e.attrib["class"] == "thin")
    ys = [float(y) for _, y in re.findall(r"([\d.]+) ([\d.]+)", thin.attrib["d"])]
    assert ys == sorted(ys)


def test_a_perfect_calibration_lies_on_the_diagonal() -> None:
    bins = tuple(Bin(p, p, max(0.0, p - 0.1), min(1.0, p + 0.1), n) for p, n in ((0.1, 40), (0.5, 10), (0.9, 20)))
    root = ET.fromstring(reliability(Calibration(bins, (), 70, ""), "Calibration"))
    circles = list(root.iter("circle"))
    diagonal = next(e for e in root.iter("line") if e.attrib.get("class") == "chance")
    x1, y1, x2, y2 = (float(diagonal.attrib[k]) for k in ("x1", "y1", "x2", "y2"))
    for circle, b in zip(circles, bins, strict=True):
        assert float(circle.attrib["cx"]) == pytest.approx(x1 + b.predicted * (x2 - x1), abs=0.01)
        assert float(circle.attrib["cy"]) == pytest.approx(y1 + b.predicted * (y2 - y1), abs=0.01)
    radii = [float(c.attrib["r"]) for c in circles]
    assert radii[0] > radii[2] > radii[1]


def _places(points: np.ndarray, names: list[str]) -> np.ndarray:
    root = ET.fromstring(scatter(points, names, looks(["a", UNLABELLED]), "Map"))
    return np.array([(float(e.attrib["cx"]), float(e.attrib["cy"])) for e in root.iter("circle")])


def test_a_map_has_one_scale_and_points_upwards() -> None:
    points = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    at = _places(points, ["a"] * 3)
    right, up = at[1] - at[0], at[2] - at[0]
    assert right[0] > 0
    assert up[1] < 0
    assert abs(right[0]) == pytest.approx(abs(up[1]), abs=0.01)
    assert (at >= 0).all()
    assert (at <= [440, 340]).all()


@pytest.mark.parametrize("points", [np.zeros((0, 2)), np.zeros((3, 2)), np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]])])
def test_a_map_of_no_spread_is_still_drawn(points: np.ndarray) -> None:
    at = _places(points, ["a"] * len(points))
    assert np.isfinite(at).all()
    assert len(at) == len(points)


def test_the_unlabelled_lie_below_the_others() -> None:
    root = ET.fromstring(scatter(np.arange(6.0).reshape(3, 2), ["a", UNLABELLED, "a"], looks(["a", UNLABELLED]), "Map"))
    assert next(root.iter("circle")).attrib["fill"] == "none"


def test_a_legend_shows_each_mark_with_its_name() -> None:
    root = ET.fromstring(legend([(ARMS["lora"], "LoRA"), (ARMS["scratch"], "scratch &lt;b&gt;")]))
    assert ["".join(e.itertext()) for e in root.iter("li")] == ["LoRA", "scratch <b>"]
    assert len(list(root.iter("svg"))) == 2
