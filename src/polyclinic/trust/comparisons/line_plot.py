"""Lines with intervals, a panel beside another, as an SVG file of its own that no page's style reaches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...schema import Figure
from ..pages.svg import SHAPES, Scale, axis_y, line, mark, tag, text

LEFT, TOP, BELOW = 46.0, 52.0, 44.0
COLOURS = 6
STYLE = """
svg { --s0: #1f5fa8; --s1: #c05a00; --s2: #2f7d4f; --s3: #8a4a9e; --s4: #a33b4a; --s5: #6a6f76; --paper: #fff;
background: var(--paper); font: 12px system-ui, sans-serif; fill: #222 }
.grid { stroke: #ddd } .chance { stroke: #999; stroke-dasharray: 3 3 } .tick { fill: #666; font-size: 11px } .axis { fill: #444 }
.head { font-weight: 600 } .join { fill: none; stroke-width: 1.6 }
@media (prefers-color-scheme: dark) { svg { --s0: #7fb2ee; --s1: #f0a35e; --s2: #79c99a; --s3: #cb98dc; --s4: #ec8b98; --s5: #a9afb8;
--paper: #16181c; fill: #e6e6e6 } .grid { stroke: #3a3d44 } .tick, .axis { fill: #aaa } }
"""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a panel.

    Args:
        name: in the legend; the same name looks the same in every panel.
        points: (where on x, the figure); NaN is left out.
    """

    name: str
    points: Sequence[tuple[float, Figure]]


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture.

    Args:
        heading: above it.
        lines: their order decides colours and marks.
        ticks: (where on x, its words).
        label: of x.
        at: where something happened, with its words: a dashed line.
        chance: the value of one who knows nothing; None for none.
    """

    heading: str
    lines: Sequence[Line]
    ticks: Sequence[tuple[float, str]]
    label: str
    at: tuple[float, str] | None = None
    chance: float | None = None


def plot(panels: Sequence[Panel], title: str, size: tuple[float, float] = (320.0, 210.0)) -> str:
    """All panels in a row, up to three beside each other, with one legend; an SVG file.

    Args:
        panels: at least one.
        title: above, and for a screen reader, who hears the figures too.
        size: of a panel, without what stands below it.
    """
    names = list(dict.fromkeys(one.name for p in panels for one in p.lines))
    across = min(3, len(panels))
    rows = math.ceil(len(panels) / across)
    (broad, tall), wide = size, across * size[0] + 10
    legend, lower = _legend(names, wide)
    top = TOP + lower
    body = [text(12, 20, title, "head"), *legend]
    for number, panel in enumerate(panels):
        x, y = 10 + broad * (number % across), top + (tall + BELOW + 26) * (number // across)
        body.append(tag("g", *_panel(panel, names, size), transform=f"translate({x:g} {y:g})"))
    high = top + (tall + BELOW + 26) * rows
    return tag(
        "svg", tag("title", _plain(f"{title}. {_words(panels)}")), tag("style", STYLE), *body,
        xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {wide:g} {high:g}", role="img", width=wide,
    )  # fmt: skip


def averaged(seeds: Sequence[int]) -> str:
    """Over how many seeds, in words."""
    return f"mean of {len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}"


def _legend(names: Sequence[str], wide: float) -> tuple[list[str], float]:
    """The marks with their names, in as many lines as they need, and how much lower all else begins."""
    body, x, y = list[str](), 14.0, 40.0
    for number, name in enumerate(names):
        span = 26 + 6.6 * len(name)
        if x + span > wide and x > 14:
            x, y = 14.0, y + 18
        body += [mark(x + 6, y, *_look(number)), text(x + 18, y + 4, name)]
        x += span + 10
    return body, y - 40.0


def _look(number: int) -> tuple[str, float, str]:
    return SHAPES[number % len(SHAPES)], 4.5, f"var(--s{number % COLOURS})"


def _panel(panel: Panel, names: Sequence[str], size: tuple[float, float]) -> list[str]:
    broad, tall = size
    known = [v for one in panel.lines for _, f in one.points for v in (f.low, f.high, f.value) if math.isfinite(v)]
    known += [panel.chance] if panel.chance is not None else []
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    spare = max((high - low) * 0.05, 0.01)
    places = [x for x, _ in panel.ticks] or [0.0]
    room = 0.08 * (max(places) - min(places) or 1.0)
    x = Scale(min(places) - room, max(places) + room, LEFT, broad - 14)
    y = Scale(low - spare, high + spare, tall, 22.0)
    body = [text(LEFT, 12, panel.heading, "head"), *axis_y(y, LEFT, broad - 14)]
    body += [text(x(at), tall + 16, words, "tick", "middle") for at, words in panel.ticks]
    body.append(text((LEFT + broad) / 2, tall + 34, panel.label, "axis", "middle"))
    if panel.chance is not None:
        body.append(line(LEFT, y(panel.chance), broad - 14, y(panel.chance), "chance"))
    if panel.at is not None:
        at, late = x(panel.at[0]), x(panel.at[0]) > broad / 2  # its words stay within the panel
        body.append(line(at, 22, at, tall, "chance"))
        body.append(text(at + (-4 if late else 4), 32, panel.at[1], "tick", "end" if late else "start"))
    for one in panel.lines:
        number = names.index(one.name)
        shape, large, colour = _look(number)
        aside = 4.0 * (number - (len(names) - 1) / 2)  # intervals of several lines would hide each other
        dots = [(x(at) + aside, f) for at, f in one.points if math.isfinite(f.value)]
        if len(dots) > 1:
            body.append(
                tag(
                    "path", d="M" + "L".join(f"{a:.1f} {y(f.value):.1f}" for a, f in dots), class_="join", stroke=colour
                )
            )
        for a, f in dots:
            if math.isfinite(f.low) and math.isfinite(f.high):
                body.append(line(a, y(f.low), a, y(f.high), stroke=colour, stroke_width=1.2))
            body.append(mark(a, y(f.value), shape, large, colour))
    return body


def _words(panels: Sequence[Panel]) -> str:
    """All figures, for who does not see them."""
    told = []
    for panel in panels:
        ticks = dict(panel.ticks)
        for one in panel.lines:
            each = ", ".join(
                f"{ticks.get(x, f'{x:g}')}: {f.value:.3f} ({f.low:.3f} to {f.high:.3f})" for x, f in one.points
            )
            told.append(f"{panel.heading}, {one.name}: {each}")
    return "; ".join(told)


def _plain(words: str) -> str:
    return words.replace("&", "&amp;").replace("<", "&lt;")
