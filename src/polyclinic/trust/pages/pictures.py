"""Pixels inside the page: grey thumbnails as PNG in base64, and masks as outlines along their pixels' edges."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np

from .svg import tag

LARGEST_PX = 640
"""Of a picture with a mask: enough to see the outline, and a few such pictures leave the page light."""


def png(picture: np.ndarray, most: int = 320) -> str:
    """A data URI of a grey picture.

    Args:
        picture: (y x) in 0..1.
        most: pixels of its longest side; a larger one is made smaller.
    """
    from PIL import Image

    image = Image.fromarray((np.clip(np.nan_to_num(picture), 0, 1) * 255).round().astype(np.uint8))
    if max(image.size) > most:
        image.thumbnail((most, most), Image.Resampling.LANCZOS)
    held = io.BytesIO()
    image.save(held, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()


def runs(mask: np.ndarray) -> list[tuple[int, int, int]]:
    """The runs of a (y x) bool mask along x: row, first column, length."""
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    starts, ends = np.argwhere(edges == 1), np.argwhere(edges == -1)
    return [(int(y), int(x), int(end - x)) for (y, x), (_, end) in zip(starts, ends, strict=True)]


def outline(mask: np.ndarray) -> str:
    """The path along the pixels' edges of a (y x) bool mask; the empty word for an empty one."""
    padded = np.pad(mask.astype(bool), 1)
    across = padded[1:, 1:-1] != padded[:-1, 1:-1]  # edges between rows
    down = padded[1:-1, 1:] != padded[1:-1, :-1]  # edges between columns
    level = [f"M{x} {y}h{n}" for y, x, n in runs(across)]
    upright = [f"M{x} {y}v{n}" for x, y, n in runs(down.T)]
    return "".join(level + upright)


def masked(
    picture: np.ndarray,
    predicted: np.ndarray | None,
    truth: np.ndarray | None,
    classes: int,
    aspect: float,
    alternative: str,
    edges: Sequence[str] = (),
) -> str:
    """A grey slice with the predicted labels filled and the true ones outlined, as SVG.

    Args:
        picture: (y x) in 0..1; predicted, truth: (y x) labels, or None for neither.
        classes: how many labels there are.
        aspect: height of a pixel over its width.
        alternative: what a screen reader says.
        edges: letters at the left, right, top and bottom.
    """
    body = list[str]()
    for k in range(1, classes + 1):
        colour = label_colour(k)
        if predicted is not None and (predicted == k).any():
            filled = "".join(f"M{x} {y}h{n}v1h-{n}z" for y, x, n in runs(predicted == k))
            body.append(tag("path", d=filled, fill=colour, fill_opacity=0.5, shape_rendering="crispEdges"))
    for k in range(1, classes + 1):
        if truth is not None and (truth == k).any():
            body += drawn_line(outline(truth == k), k)
    return framed(picture, body, (), aspect, alternative, edges)


def framed(
    picture: np.ndarray, inside: Sequence[str], above: Sequence[str], aspect: float, alternative: str, edges: Sequence[str] = ()
) -> str:  # fmt: skip
    """A grey slice with what is drawn on it, as SVG.

    Args:
        picture: (y x) in 0..1.
        inside: markup in the picture's pixels, which may be higher than wide.
        above: markup in units that are square, as wide as a pixel is.
        aspect: height of a pixel over its width.
        alternative: what a screen reader says.
        edges: letters at the left, right, top and bottom.
    """
    height, width = picture.shape
    image = tag(
        "image", href=png(picture, LARGEST_PX), width=width, height=height, preserveAspectRatio="none",
        style="image-rendering:pixelated" if max(picture.shape) <= LARGEST_PX else None,
    )  # fmt: skip
    # The slice in its pixels, inside a frame whose units are square: so pixels may be higher than wide.
    tall = height * aspect
    inner = tag(
        "svg", image, *inside, viewBox=f"0 0 {width} {height}", width=float(width), height=float(tall), preserveAspectRatio="none"
    )  # fmt: skip
    return tag(
        "svg", tag("title", escape(alternative)), inner, *above, *letters(edges, width, tall),
        viewBox=f"0 0 {width} {tall:.2f}", role="img", aria_label=alternative, class_="picture",
    )  # fmt: skip


def label_colour(k: int) -> str:
    """Of label k, from 1."""
    return f"var(--m{(k - 1) % 4})"


def drawn_line(path: str, k: int) -> list[str]:
    """The outline of label k: white on black, so that it is seen on any grey; every second label's is dashed."""
    dashed = "5 4" if k % 2 == 0 else None
    same = {"d": path, "fill": "none", "vector_effect": "non-scaling-stroke"}
    return [
        tag("path", **same, stroke="#000", stroke_width=3.6, stroke_opacity=0.65),
        tag("path", **same, stroke="#fff", stroke_width=1.8, stroke_dasharray=dashed),
    ]


def told_line(path: str, k: int, alarm: bool = False, faint: bool = False) -> list[str]:
    """The line of what was predicted of label k, in its colour on black; of a false alarm dotted."""
    same = {"d": path, "fill": "none", "vector_effect": "non-scaling-stroke", "opacity": 0.5 if faint else None}
    dotted = {"stroke_dasharray": "0.1 5", "stroke_linecap": "round"} if alarm else {}
    return [
        tag("path", **same, stroke="#000", stroke_width=4.4, stroke_opacity=0.65),
        tag("path", **same, **dotted, stroke=label_colour(k), stroke_width=3.0 if alarm else 2.2),
    ]


def written(x: float, y: float, words: str, size: float, k: int, key: str) -> str:
    """A label's words on a picture, in its colour on black.

    Args:
        x, y: where they begin, in the frame's units.
        words: in plain words; key: of the number in the summary.
        size: of the letters, in the same units.
        k: the label.
    """
    style = f"font-size:{size:.2f}px;fill:{label_colour(k)};font-weight:600;paint-order:stroke;stroke:#000;stroke-width:{size / 5:.2f}px"
    return tag("text", escape(words), x=float(x), y=float(y), style=style, data_key=key)


def letters(edges: Sequence[str], width: float, height: float) -> list[str]:
    """Which side of the patient is where, as radiologists write it."""
    if len(edges) != 4:
        return []
    size = 0.06 * min(width, height)
    style = (
        f"font-size:{size:.2f}px;fill:#fff;font-weight:600;paint-order:stroke;stroke:#000;stroke-width:{size / 6:.2f}px"
    )
    middle, low = height / 2 + size * 0.35, height - size * 0.4
    places = (
        (size * 0.3, middle, "start"), (width - size * 0.3, middle, "end"), (width / 2, size, "middle"), (width / 2, low, "middle"),
    )  # fmt: skip
    return [
        tag("text", escape(word), x=float(x), y=float(y), text_anchor=anchor, style=style)
        for word, (x, y, anchor) in zip(edges, places, strict=True)
    ]
