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
    return tag(
        "text",
        escape(words),
        x=x,
        y=y,
        class_=class_ or None,
        text_anchor=anchor if anchor != "start" else None,
        data_key=key,
    )


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
        narrow: pixels below which it scrolls sideways instead of shrinking.
    """
    alternative = f"{title}. {description}" if description else title
    picture = tag(
        "svg", tag("title", escape(alternative)), *body,
        viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=alternative, style=f"max-width:{width:g}px;min-width:{narrow}px",
    )  # fmt: skip
    return tag("div", picture, class_="plot")


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


def mark(x: float, y: float, shape: str, size: float = 5.0, **more: object) -> str:
    """A mark of about the same area whatever its shape."""
    s = size
    if shape in ("circle", "ring"):
        return tag("circle", cx=float(x), cy=float(y), r=s, **more)
    if shape in ("cross", "plus"):
        d = s if shape == "plus" else s * 0.8
        strokes = (f"M{x - s:.2f} {y:.2f}H{x + s:.2f}M{x:.2f} {y - s:.2f}V{y + s:.2f}") if shape == "plus" else (
            f"M{x - d:.2f} {y - d:.2f}L{x + d:.2f} {y + d:.2f}M{x - d:.2f} {y + d:.2f}L{x + d:.2f} {y - d:.2f}"
        )  # fmt: skip
        return tag(
            "path",
            d=strokes,
            fill="none",
            **{
                "stroke": more.get("fill", "currentColor"),
                "stroke_width": 2.2,
                **{k: v for k, v in more.items() if k == "class_"},
            },
        )
    corners = {
        "square": ((-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)),
        "triangle": ((0, -1.2), (1.1, 0.85), (-1.1, 0.85)),
        "down": ((0, 1.2), (1.1, -0.85), (-1.1, -0.85)),
        "diamond": ((0, -1.3), (1.15, 0), (0, 1.3), (-1.15, 0)),
    }[shape]
    return tag("path", d="M" + "L".join(f"{x + a * s:.2f} {y + b * s:.2f}" for a, b in corners) + "Z", **more)


def whisker(
    scale: Scale, y: float, value: float, low: float, high: float, colour: str, shape: str, hollow: bool = False
) -> str:
    """A value with its interval along x; an interval that leaves the axis ends in an arrow; nothing for NaN."""
    parts = []
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
        fill = "var(--paper)" if hollow else colour
        parts.append(mark(scale(value), y, shape, 5.0, fill=fill, stroke=colour, stroke_width=2.0))
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
