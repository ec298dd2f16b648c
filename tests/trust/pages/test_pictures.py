from __future__ import annotations

import base64
import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from PIL import Image

from polyclinic.trust.pages.pictures import LARGEST_PX, label_colour, masked, outline, png, runs

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9))


def decoded(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.removeprefix("data:image/png;base64,")))))


def test_a_thumbnail_has_the_picture_s_greys() -> None:
    picture = np.random.default_rng(0).uniform(size=(13, 7))
    assert np.abs(decoded(png(picture)) / 255 - picture).max() <= 1 / 255


def test_what_is_no_grey_is_black_or_white() -> None:
    assert decoded(png(np.array([[np.nan, -3.0, 7.0, np.inf]]))).tolist() == [[0, 0, 255, 255]]


def test_a_large_picture_is_made_smaller_in_proportion() -> None:
    assert decoded(png(np.zeros((800, 400)), 200)).shape == (200, 100)


@settings(max_examples=40, deadline=None)
@given(masks)
def test_runs_are_the_mask(mask: np.ndarray) -> None:
    again = np.zeros_like(mask)
    for y, x, n in runs(mask):
        assert not again[y, x : x + n].any()
        again[y, x : x + n] = True
    assert np.array_equal(again, mask)


def length(path: str) -> int:
    return sum(int(n) for n in re.findall(r"[hv](\d+)", path))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 5), (4, 4)])
def test_the_outline_of_a_rectangle_is_its_perimeter(height: int, width: int) -> None:
    mask = np.zeros((8, 9), bool)
    mask[1 : 1 + height, 2 : 2 + width] = True
    path = outline(mask)
    assert length(path) == 2 * (height + width)
    assert {tuple(map(int, p)) for p in re.findall(r"M(\d+) (\d+)", path)} == {
        (2, 1), (2, 1 + height), (2 + width, 1)
    }  # fmt: skip


def test_the_outline_of_a_ring_has_an_inside() -> None:
    ring = np.ones((5, 5), bool)
    ring[1:4, 1:4] = False
    assert length(outline(ring)) == 4 * 5 + 4 * 3


def test_a_mask_that_reaches_the_edge_is_closed_and_an_empty_one_has_no_outline() -> None:
    assert length(outline(np.ones((3, 4), bool))) == 14
    assert outline(np.zeros((3, 4), bool)) == ""


def picture_of(predicted: np.ndarray | None, truth: np.ndarray | None, **more: object) -> ET.Element:
    made = masked(np.zeros((6, 5)), predicted, truth, 2, 1.5, "A <slice> & more", ("R", "L", "A", "P"))
    return ET.fromstring(made)


def test_predicted_is_filled_and_true_is_outlined() -> None:
    predicted, truth = np.zeros((6, 5), int), np.zeros((6, 5), int)
    predicted[1:3, 1:3], truth[2:5, 2:4] = 1, 2
    root = picture_of(predicted, truth)
    fills = [e for e in root.iter("path") if e.attrib["fill"] != "none"]
    assert [e.attrib["fill"] for e in fills] == [label_colour(1)]
    assert {tuple(map(int, m)) for m in re.findall(r"M(\d+) (\d+)h(?:\d+)v1", fills[0].attrib["d"])} == {(1, 1), (1, 2)}
    lines = [e for e in root.iter("path") if e.attrib["fill"] == "none"]
    assert {length(e.attrib["d"]) for e in lines} == {10}
    assert all(e.attrib["vector-effect"] == "non-scaling-stroke" for e in lines)
    assert "stroke-dasharray" in lines[-1].attrib  # every second label, so that colour is not all


def test_pixels_keep_their_shape_and_words_are_escaped() -> None:
    root = picture_of(None, None)
    assert root.attrib["viewBox"] == "0 0 5 9.00"
    inner = next(e for e in root.iter("svg") if e is not root)
    assert (inner.attrib["viewBox"], inner.attrib["height"]) == ("0 0 5 6", "9")
    assert root.attrib["aria-label"] == "A <slice> & more"
    assert next(root.iter("title")).text == "A <slice> & more"


def test_the_letters_stand_at_their_edges() -> None:
    at = {e.text: (float(e.attrib["x"]), float(e.attrib["y"])) for e in picture_of(None, None).iter("text")}
    assert at["R"][0] < at["A"][0] < at["L"][0]
    assert at["A"][1] < at["R"][1] < at["P"][1]


def test_a_large_picture_does_not_make_the_page_heavy() -> None:
    noise = np.random.default_rng(0).uniform(size=(3000, 2000))
    root = ET.fromstring(masked(noise, None, None, 1, 1.0, "X-ray"))
    image = next(root.iter("image"))
    assert max(decoded(image.attrib["href"]).shape) == LARGEST_PX
    assert (image.attrib["width"], image.attrib["height"]) == ("2000", "3000")
