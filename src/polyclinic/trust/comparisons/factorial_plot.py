"""The factorial's picture: a file of its own, which no page's style reaches."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...schema import Figure
from ..pages.svg import Scale, axis_x, mark, tag, text, whisker

ROW, LEFT, WIDTH = 30.0, 150.0, 640.0
STYLE = """
svg { --s0: #1f5fa8; --s7: #8a8f98; --paper: #fff; background: var(--paper); font: 12px system-ui, sans-serif; fill: #222 }
.grid { stroke: #ddd } .tick { fill: #666; font-size: 11px } .axis { fill: #444 } .head { font-weight: 600 }
@media (prefers-color-scheme: dark) { svg { --s0: #7fb2ee; --paper: #16181c; fill: #e6e6e6 }
.grid { stroke: #3a3d44 } .tick, .axis { fill: #aaa } }
"""


def plot(rows: Sequence[tuple[str, Figure, Sequence[float]]], title: str) -> str:
    """A line a recipe: the mean with its interval, and each seed as a small ring, as an SVG file.

    Args:
        rows: recipe, its figure, the seeds' own values.
        title: above, and for a screen reader.
    """
    known = [v for _, f, each in rows for v in (f.low, f.high, f.value, *each) if math.isfinite(v)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    spare = max((high - low) * 0.05, 0.01)
    scale = Scale(low - spare, high + spare, LEFT, WIDTH - 20)
    bottom = 34 + ROW * len(rows)
    body = [text(12, 20, title, "head"), *axis_x(scale, 34, bottom)]
    for number, (name, figure, each) in enumerate(rows):
        y = 34 + ROW * (number + 0.5)
        body.append(text(LEFT - 12, y + 4, name, "value", "end"))
        body += [mark(scale(v), y + 8, "ring", 2.5, "var(--s7)") for v in each if math.isfinite(v)]
        body.append(whisker(scale, y - 2, figure.value, figure.low, figure.high, "var(--s0)", "circle"))
    words = "; ".join(f"{n} {f.value:.3f} ({f.low:.3f} to {f.high:.3f})" for n, f, _ in rows)
    return tag(
        "svg", tag("title", _plain(f"{title}. {words}")), tag("style", STYLE), *body,
        xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH:g} {bottom + 34:g}", role="img", width=WIDTH,
    )  # fmt: skip


def _plain(words: str) -> str:
    return words.replace("&", "&amp;").replace("<", "&lt;")
