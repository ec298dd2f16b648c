"""Lines with intervals, a panel beside another, as a picture of a page: its colours and sizes are the page's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...schema import Figure
from ..pages.svg import SERIES, SHAPES, Scale, axis_y, drawing, line, mark, tag, text

LEFT, RIGHT, ABOVE, BELOW = 62.0, 14.0, 38.0, 48.0
DASHES = (None, "7 3", "2 3", "9 3 2 3", "4 4", "12 4")
"""A line's dashes tell what its colour tells, as its marks' shape does."""


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
        lines: their order decides colours, dashes and marks.
        ticks: (where on x, its words).
        label: of x.
        y: what its values are, with their unit.
        at: where something happened, with its words: a dashed line.
        chance: the value of one who knows nothing; None for none.
    """

    heading: str
    lines: Sequence[Line]
    ticks: Sequence[tuple[float, str]]
    label: str
    y: str
    at: tuple[float, str] | None = None
    chance: float | None = None


def plot(panels: Sequence[Panel], title: str, size: tuple[float, float] = (340.0, 230.0)) -> str:
    """All panels, up to three beside each other, with one legend; markup.

    Args:
        panels: at least one.
        title: for a screen reader, who hears the figures too.
        size: of a panel, without what stands below it.
    """
    names = list(dict.fromkeys(one.name for p in panels for one in p.lines))
    across = min(3, len(panels))
    (broad, tall), wide = size, across * size[0]
    legend, top = _legend(names, wide)
    body, step = [*legend], tall + BELOW + 22
    for number, panel in enumerate(panels):
        x, y = broad * (number % across), top + step * (number // across)
        body.append(tag("g", *_panel(panel, names, size), transform=f"translate({x:g} {y:g})"))
    high, narrow = top + step * math.ceil(len(panels) / across), int(wide if len(panels) > 1 else min(wide, 560))
    return drawing(wide, high, body, title, _words(panels), narrow)


def averaged(seeds: Sequence[int]) -> str:
    """Over how many seeds, in words."""
    return f"mean of {len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}"


def _legend(names: Sequence[str], wide: float) -> tuple[list[str], float]:
    """The marks on their lines with their names, in as many rows as they need, and where all else begins."""
    body, x, y = list[str](), 4.0, 14.0
    for number, name in enumerate(names):
        span = 50 + 7.2 * len(name)
        if x + span > wide and x > 4:
            x, y = 4.0, y + 20
        shape, large, colour = _look(number)
        body += [
            _stroke(f"M{x:g} {y:g}H{x + 32:g}", number),
            mark(x + 16, y, shape, large, colour),
            text(x + 40, y + 4, name),
        ]
        x += span + 8
    return body, y + 16


def _look(number: int) -> tuple[str, float, str]:
    return SHAPES[number % len(SHAPES)], 4.8, SERIES[number % len(SERIES)]


def _stroke(path: str, number: int) -> str:
    return tag(
        "path", d=path, fill="none", stroke=_look(number)[2], stroke_width=1.7, stroke_dasharray=DASHES[number % len(DASHES)]
    )  # fmt: skip


def _panel(panel: Panel, names: Sequence[str], size: tuple[float, float]) -> list[str]:
    broad, tall = size
    known = [v for one in panel.lines for _, f in one.points for v in (f.low, f.high, f.value) if math.isfinite(v)]
    known += [panel.chance] if panel.chance is not None else []
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    spare = max((high - low) * 0.05, 0.01)
    places = [x for x, _ in panel.ticks] or [0.0]
    room = 0.08 * (max(places) - min(places) or 1.0)
    x = Scale(min(places) - room, max(places) + room, LEFT, broad - RIGHT)
    y = Scale(low - spare, high + spare, tall, ABOVE)
    body = [text(LEFT, 14, panel.heading, "head"), *axis_y(y, LEFT, broad - RIGHT, 6), *_ticks(panel.ticks, x, tall)]
    body.append(text((LEFT + broad - RIGHT) / 2, tall + 38, panel.label, "axis", "middle"))
    middle = (ABOVE + tall) / 2
    body.append(tag("g", text(0, 0, panel.y, "axis", "middle"), transform=f"translate(14 {middle:g}) rotate(-90)"))
    if panel.chance is not None:
        body.append(line(LEFT, y(panel.chance), broad - RIGHT, y(panel.chance), "chance"))
    if panel.at is not None:
        at, late = x(panel.at[0]), x(panel.at[0]) > broad / 2  # its words stay within the panel
        body.append(line(at, ABOVE, at, tall, "chance"))
        body.append(text(at + (4 if late else -4), ABOVE - 6, panel.at[1], "tick", "end" if late else "start"))
    for one in panel.lines:
        body += _line(one, names, x, y)
    if panel.chance is not None:
        body.append(text(broad - RIGHT, y(panel.chance) - 4, "guessing", "tick halo", "end"))
    return body


def _ticks(ticks: Sequence[tuple[float, str]], x: Scale, tall: float) -> list[str]:
    """Marks of x with their words, of which one that would run into the one before is left out."""
    body, free = list[str](), -math.inf
    for at, words in sorted(ticks):
        half = 3.2 * len(words)
        body.append(line(x(at), tall, x(at), tall + 4, "grid"))
        if x(at) - half > free:
            body.append(text(x(at), tall + 18, words, "tick", "middle"))
            free = x(at) + half + 4
    return body


def _line(one: Line, names: Sequence[str], x: Scale, y: Scale) -> list[str]:
    """Its points with their intervals, joined."""
    number = names.index(one.name)
    shape, large, colour = _look(number)
    aside = 5.0 * (number - (len(names) - 1) / 2)  # intervals of several lines would hide each other
    dots = [(x(at) + aside, f) for at, f in one.points if math.isfinite(f.value)]
    body = list[str]()
    if len(dots) > 1:
        body.append(_stroke("M" + "L".join(f"{a:.1f} {y(f.value):.1f}" for a, f in dots), number))
    for a, f in dots:
        if math.isfinite(f.low) and math.isfinite(f.high):
            ends = (y(f.low), y(f.high))
            body.append(line(a, ends[0], a, ends[1], stroke=colour, stroke_width=1.4))
            body += [line(a - 3, end, a + 3, end, stroke=colour, stroke_width=1.4) for end in ends]
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
