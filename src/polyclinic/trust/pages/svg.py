"""SVG by small pure functions: elements, scales, marks. Colours are the page's CSS variables, so that dark mode holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "down", "plus", "ring")
"""A mark's shape tells what its colour tells, for those who do not see the colour."""
SERIES = tuple(f"var(--s{n})" for n in range(8))


def tag(name: str, *children: str, **attributes: object) -> str:
    """An element; children are markup, attributes are escaped (`class_` is class, `a_b` is a-b, floats to 2 digits)."""
    words = []
    for key, value in attributes.items():
        if value is None:
            continue
        said = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
        words.append(f' {key.rstrip("_").replace("_", "-")}="{escape(said, quote=True)}"')
    inside = "".join(children)
    return (
        f"<{name}{''.join(words)}>{inside}</{name}>"
        if inside or name not in ("line", "rect", "circle", "path", "image")
        else f"<{name}{''.join(words)}/>"
    )


def text(x: float, y: float, words: str, class_: str = "", anchor: str = "start", key: str | None = None) -> str:
    """Words at a place; `key` is the number's key in the summary."""
    at = anchor if anchor != "start" else None
    return tag("text", escape(words), x=x, y=y, class_=class_ or None, text_anchor=at, data_key=key)


def line(x1: float, y1: float, x2: float, y2: float, class_: str = "", **more: object) -> str:
    """A straight line."""
    return tag("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=class_ or None, **more)


def drawing(
    width: float, height: float, body: Sequence[str], title: str, description: str = "", narrow: int = 0
) -> str:
    """The whole picture, as wide as its place, with an alternative text.

    Args:
        width, height: of the view box.
        body: elements.
        title: what a screen reader says; description: what it shows, in a sentence.
        narrow: pixels below which it scrolls sideways, by keyboard too, instead of shrinking.
    """
    alternative = f"{title}. {description}" if description else title
    picture = tag(
        "svg", tag("title", escape(alternative)), *body,
        viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=alternative, style=f"max-width:{width:g}px;min-width:{narrow}px",
    )  # fmt: skip
    reach: dict[str, object] = {"tabindex": 0, "role": "region", "aria_label": title} if narrow else {}
    return tag("div", picture, class_="plot", **reach)


def ornament(width: float, height: float, body: Sequence[str], class_: str = "") -> str:
    """A picture that says nothing which the words beside it do not say: a screen reader passes it by."""
    return tag("svg", *body, viewBox=f"0 0 {width:g} {height:g}", aria_hidden="true", class_=class_ or None)


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The place of a value, held within the axis."""
        share = (min(max(value, min(self.low, self.high)), max(self.low, self.high)) - self.low) / (
            (self.high - self.low) or 1.0
        )
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """About `count` round values."""
        return round_values(self.low, self.high, count)


def round_values(low: float, high: float, count: int = 5) -> list[float]:
    """Values of 1, 2 or 5 times a power of ten within low..high."""
    if not high > low:
        return [low]
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(n * step, 10) for n in range(first, last + 1)]


def number(value: float) -> str:
    """A tick's label, with a true minus."""
    return f"{value:g}".replace("-", "−")


CORNERS = {
    "square": ((-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)),
    "triangle": ((0, -1.2), (1.1, 0.85), (-1.1, 0.85)),
    "down": ((0, 1.2), (1.1, -0.85), (-1.1, -0.85)),
    "diamond": ((0, -1.3), (1.15, 0), (0, 1.3), (-1.15, 0)),
}


def mark(x: float, y: float, shape: str, size: float, colour: str, hollow: bool = False, opacity: float = 1.0) -> str:
    """A mark of about the same area whatever its shape; a hollow one has the paper's colour inside, a ring nothing."""
    faint = opacity if opacity < 1 else None
    stroke = {"stroke": colour, "stroke_width": 2.0, "opacity": faint}
    if shape == "ring":
        return tag("circle", cx=float(x), cy=float(y), r=float(size), fill="none", **stroke)
    if shape in ("cross", "plus"):
        d = size * 0.8
        path = (
            f"M{x - size:.2f} {y:.2f}H{x + size:.2f}M{x:.2f} {y - size:.2f}V{y + size:.2f}"
            if shape == "plus"
            else f"M{x - d:.2f} {y - d:.2f}L{x + d:.2f} {y + d:.2f}M{x - d:.2f} {y + d:.2f}L{x + d:.2f} {y - d:.2f}"
        )
        return tag("path", d=path, fill="none", **stroke)
    inside = {"fill": "var(--paper)", **stroke} if hollow else {"fill": colour, "opacity": faint}
    if shape == "circle":
        return tag("circle", cx=float(x), cy=float(y), r=float(size), **inside)
    corners = "L".join(f"{x + a * size:.2f} {y + b * size:.2f}" for a, b in CORNERS[shape])
    return tag("path", d=f"M{corners}Z", **inside)


def whisker(
    scale: Scale, y: float, value: float, low: float, high: float, colour: str, shape: str, hollow: bool = False
) -> str:
    """A value with its interval along x; an interval that leaves the axis ends in an arrow; nothing for NaN."""
    parts: list[str] = []
    if math.isfinite(low) and math.isfinite(high):
        parts.append(line(scale(low), y, scale(high), y, stroke=colour, stroke_width=2.0))
        for end, outside, way in ((low, low < scale.low, -1), (high, high > scale.high, 1)):
            x = scale(end)
            if outside:
                parts.append(
                    tag("path", d=f"M{x:.2f} {y - 4:.2f}L{x + 5 * way:.2f} {y:.2f}L{x:.2f} {y + 4:.2f}Z", fill=colour)
                )
            else:
                parts.append(line(x, y - 4, x, y + 4, stroke=colour, stroke_width=2.0))
    if math.isfinite(value):
        parts.append(mark(scale(value), y, shape, 5.0, colour, hollow))
    return "".join(parts)


def axis_x(scale: Scale, top: float, bottom: float, count: int = 5, label: str = "") -> list[str]:
    """Grid lines from top to bottom, with ticks below."""
    body = []
    for value in scale.ticks(count):
        x = scale(value)
        body += [line(x, top, x, bottom, "grid"), text(x, bottom + 15, number(value), "tick", "middle")]
    if label:
        body.append(text((scale.start + scale.end) / 2, bottom + 32, label, "axis", "middle"))
    return body


def axis_y(scale: Scale, left: float, right: float, count: int = 4) -> list[str]:
    """Grid lines from left to right, with ticks on the left."""
    body = []
    for value in scale.ticks(count):
        y = scale(value)
        body += [line(left, y, right, y, "grid"), text(left - 6, y + 4, number(value), "tick", "end")]
    return body
