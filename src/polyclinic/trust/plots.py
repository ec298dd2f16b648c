"""The report's charts: each a function from numbers to SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..schema import Figure
from .calibration import Calibration
from .svg import SERIES, SHAPES, Scale, axis_x, axis_y, drawing, line, mark, number, round_values, tag, text, whisker


@dataclass(frozen=True, slots=True)
class Look:
    """How a series looks: its colour, its shape, and whether it is hollow."""

    colour: str
    shape: str
    hollow: bool = False


ARMS = {
    "lora": Look("var(--s0)", "circle"),
    "probe": Look("var(--s0)", "circle", hollow=True),
    "full": Look("var(--s0)", "diamond"),
    "scratch": Look("var(--s1)", "square"),
    "baseline": Look("var(--ink2)", "triangle"),
}
ARM_WORDS = {
    "lora": "pretrained, LoRA",
    "probe": "pretrained, linear probe",
    "full": "pretrained, fine-tuned",
    "scratch": "same network from scratch",
    "baseline": "simple baseline",
}
MODALITIES = {
    m: Look(SERIES[n], SHAPES[n]) for n, m in enumerate(("image", "text", "table", "volume", "omics", "signal"))
}


@dataclass(frozen=True, slots=True)
class ForestRow:
    """One line: a heading (no arm), or an arm with its figure and its gain over scratch, in words with their keys."""

    label: str
    arm: str = ""
    figure: Figure | None = None
    words: str = ""
    key: str | None = None
    gain: Figure | None = None
    gain_words: str = ""
    gain_key: str | None = None


def forest(rows: Sequence[ForestRow], metric: str, chance: float | None, title: str) -> str:
    """Values with intervals on the left; paired gains over scratch on the right, about a line at zero."""
    gains = [abs(v) for r in rows if r.gain for v in (r.gain.low, r.gain.high, r.gain.value) if math.isfinite(v)]
    reach = min(1.0, math.ceil(max([0.1, *gains]) * 10) / 10)
    left, right = Scale(0.0, 1.0, 218.0, 458.0), Scale(-reach, reach, 660.0, 860.0)
    top, y = 34.0, 34.0
    places = []
    for row in rows:
        y += 12.0 if not row.arm and places else 0.0
        places.append(y + 14)
        y += 24.0
    bottom = y + 6
    body = [text(338, 14, metric, "head", "middle"), text(760, 14, "pretrained − scratch, paired", "head", "middle")]
    body += axis_x(left, top - 8, bottom) + axis_x(right, top - 8, bottom, 4)
    if chance is not None:
        body += [
            line(left(chance), top - 8, left(chance), bottom, "chance"),
            text(left(chance), top - 12, "chance", "tick", "middle"),
        ]
    body.append(line(right(0), top - 8, right(0), bottom, "zero"))
    body += [text(660, bottom + 32, "← worse", "axis"), text(860, bottom + 32, "better →", "axis", "end")]
    for row, at in zip(rows, places, strict=True):
        if not row.arm:
            body.append(text(0, at + 2, row.label, "group"))
            continue
        look = ARMS[row.arm]
        body.append(text(14, at + 4, row.label))
        if row.figure:
            body.append(
                whisker(
                    left, at, row.figure.value, row.figure.low, row.figure.high, look.colour, look.shape, look.hollow
                )
            )
        body.append(text(472, at + 4, row.words, "value", key=row.key))
        if row.gain:
            body.append(
                whisker(right, at, row.gain.value, row.gain.low, row.gain.high, look.colour, look.shape, look.hollow)
            )
            body.append(text(874, at + 4, row.gain_words, "value", key=row.gain_key))
    return drawing(1030, bottom + 40, body, title, "The table below the plot has the same numbers.", 820)


def upset(
    patterns: Sequence[tuple[Sequence[str], int, str]],
    sizes: Mapping[str, tuple[int, str]],
    words: Mapping[str, str],
    title: str,
) -> str:
    """Which modalities patients have together: a column a pattern, a row a modality.

    Args:
        patterns: modalities, patients, the count's key; largest first.
        sizes: modality → patients, the count's key.
        words: what a modality is called.
        title: for a screen reader.
    """
    names, step, row = list(sizes), 46.0, 26.0
    start, high = 210.0, 150.0
    width = start + step * len(patterns) + 20
    tall = Scale(0, max([n for _, n, _ in patterns] or [1]), 0.0, high - 26)
    wide = Scale(0, max([n for n, _ in sizes.values()] or [1]), 0.0, 78.0)
    body = [text(start - 8, 14, "patients", "axis", "end")]
    for n, name in enumerate(names):
        y = high + 16 + n * row
        if n % 2 == 0:
            body.append(tag("rect", x=0, y=y - row / 2, width=width, height=row, class_="band"))
        size, key = sizes[name]
        body.append(
            tag("rect", x=float(92 - wide(size)), y=y - 7, width=float(wide(size)), height=14, rx=2, class_="bar2")
        )
        body += [text(100, y + 4, words.get(name, name)), text(start - 8, y + 4, str(size), "value", "end", key)]
    for n, (has, count, key) in enumerate(patterns):
        x = start + step * n + step / 2
        body.append(
            tag("rect", x=x - 14, y=float(high - tall(count)), width=28, height=float(tall(count)), rx=2, class_="bar")
        )
        body.append(text(x, high - tall(count) - 6, str(count), "value", "middle", key))
        ys = [high + 16 + names.index(m) * row for m in has if m in names]
        if len(ys) > 1:
            body.append(line(x, min(ys), x, max(ys), "link"))
        for m, name in enumerate(names):
            body.append(
                tag(
                    "circle",
                    cx=x,
                    cy=high + 16 + m * row,
                    r=6.5 if name in has else 3.0,
                    class_="dot" if name in has else "nodot",
                )
            )
    return drawing(
        width,
        high + 20 + row * len(names),
        body,
        title,
        "The table below the plot has the same counts.",
        int(min(width, 520)),
    )


def curve(
    steps: np.ndarray, values: np.ndarray, name: str, title: str, stages: Sequence[tuple[float, str]] = ()
) -> str:
    """One training curve: every step thin, a running mean thick; lines where a stage begins."""
    finite = np.isfinite(values)
    steps, values = steps[finite], values[finite]
    low, high = (float(np.quantile(values, 0.005)), float(np.quantile(values, 0.995))) if len(values) else (0.0, 1.0)
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    margin = (high - low) * 0.06
    x = Scale(float(steps.min()) if len(steps) else 0.0, float(steps.max()) if len(steps) else 1.0, 44.0, 306.0)
    y = Scale(low - margin, high + margin, 140.0, 26.0)
    body = [text(44, 14, name, "head"), *axis_y(y, 44, 306, 3)]
    body += [text(x(t), 158, number(t), "tick", "middle") for t in round_values(x.low, x.high, 4)]
    for at, stage in stages[1:]:
        body += [line(x(at), 26, x(at), 140, "chance"), text(x(at) + 3, 36, stage, "tick")]
    path = lambda v: "M" + "L".join(f"{x(float(s)):.1f} {y(float(w)):.1f}" for s, w in zip(steps, v, strict=True))
    if len(values):
        span = max(1, len(values) // 25)
        padded = np.pad(values, (span // 2, span - 1 - span // 2), mode="edge")
        smooth = np.convolve(padded, np.full(span, 1 / span), mode="valid")
        body += [tag("path", d=path(values), class_="thin"), tag("path", d=path(smooth), class_="thick")]
    return drawing(316, 166, body, title)


def reliability(calibration: Calibration, title: str) -> str:
    """Observed against predicted with Wilson's intervals; a dot's area is its number of patients."""
    x, y = Scale(0, 1, 48.0, 348.0), Scale(0, 1, 324.0, 24.0)
    body = [*axis_x(x, 24, 324, 5, "predicted probability"), *axis_y(y, 48, 348, 5)]
    body += [line(x(0), y(0), x(1), y(1), "chance"), text(x(0.985), y(0.93), "ideal", "tick", "end")]
    body.append(
        tag("text", "observed share", transform="translate(12 174) rotate(-90)", class_="axis", text_anchor="middle")
    )
    most = max([b.n for b in calibration.bins] or [1])
    dots = [(x(b.predicted), y(b.observed)) for b in calibration.bins]
    if len(dots) > 1:
        body.append(tag("path", d="M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in dots), class_="join"))
    for b, (at, up) in zip(calibration.bins, dots, strict=True):
        body.append(line(at, y(b.low), at, y(b.high), stroke="var(--s0)", stroke_width=2.0))
        body += [line(at - 4, y(end), at + 4, y(end), stroke="var(--s0)", stroke_width=2.0) for end in (b.low, b.high)]
        body.append(
            mark(
                at,
                up,
                "circle",
                3.5 + 5 * math.sqrt(b.n / most),
                fill="var(--s0)",
                stroke="var(--paper)",
                stroke_width=1.5,
            )
        )
    return drawing(360, 364, body, title, "The table beside the plot has the same numbers.", 260)


def scatter(points: np.ndarray, names: Sequence[str], looks: Mapping[str, Look], title: str) -> str:
    """Points (n 2) by name; the axes have no unit and therefore no ticks."""
    width, height, edge = 440.0, 340.0, 16.0
    if len(points) == 0:
        return drawing(width, height, [text(220, 170, "no points", "axis", "middle")], title)
    low, high = points.min(0), points.max(0)
    middle, span = (low + high) / 2, max(float((high - low).max()), 1e-9)
    share = min(
        (width - 2 * edge) / max(float(high[0] - low[0]), span * 1e-3),
        (height - 2 * edge) / max(float(high[1] - low[1]), span * 1e-3),
    )
    body = [tag("rect", x=0.5, y=0.5, width=width - 1, height=height - 1, rx=6, class_="frame")]
    faint = [n for n, name in enumerate(names) if name == "unlabelled"]
    for n in [*faint, *(n for n, name in enumerate(names) if name != "unlabelled")]:
        look = looks[names[n]]
        at = (points[n] - middle) * share
        body.append(
            mark(
                width / 2 + float(at[0]),
                height / 2 - float(at[1]),
                look.shape,
                3.6,
                fill=look.colour,
                fill_opacity=0.78,
            )
        )
    return drawing(width, height, body, title, narrow=260)


def legend(looks: Mapping[str, Look], words: Mapping[str, str] | None = None) -> str:
    """The marks with their names, as HTML that wraps."""
    items = []
    for name, look in looks.items():
        fill = "var(--paper)" if look.hollow else look.colour
        sign = tag(
            "svg",
            mark(
                8,
                8,
                look.shape,
                5.0,
                fill=fill if look.shape not in ("cross", "plus") else look.colour,
                stroke=look.colour,
                stroke_width=1.6,
            ),
            viewBox="0 0 16 16",
            width=16,
            height=16,
            aria_hidden="true",
        )
        items.append(f"<li>{sign}{(words or {}).get(name, name)}</li>")
    return f'<ul class="legend">{"".join(items)}</ul>'


def subset_plot(
    rows: Sequence[tuple[Sequence[str], Figure, str, str, str, str]],
    modalities: Sequence[str],
    words: Mapping[str, str],
    metric: str,
    chance: float | None,
    title: str,
) -> str:
    """A line a subset: which modalities (dots), the figure with its interval, its words and its n.

    Args:
        rows: modalities, figure, words, key, n in words, n's key.
        modalities: the columns; words: their names.
        metric, chance, title: as in `forest`.
    """
    step = 62.0
    start = step * len(modalities) + 24
    scale = Scale(0.0, 1.0, start, start + 280)
    bottom = 44.0 + 28 * len(rows)
    body = [text(step * n + step / 2, 22, words.get(m, m), "head", "middle") for n, m in enumerate(modalities)]
    body += [text(start + 140, 14, metric, "head", "middle"), *axis_x(scale, 32, bottom)]
    if chance is not None:
        body += [
            line(scale(chance), 32, scale(chance), bottom, "chance"),
            text(scale(chance), 29, "chance", "tick", "middle"),
        ]
    for n, (has, figure, said, key, count, count_key) in enumerate(rows):
        y = 54.0 + 28 * n
        xs = [step * m + step / 2 for m, name in enumerate(modalities) if name in has]
        if len(xs) > 1:
            body.append(line(min(xs), y, max(xs), y, "link"))
        for m, name in enumerate(modalities):
            x = step * m + step / 2
            body.append(
                tag("circle", cx=x, cy=y, r=6.5 if name in has else 3.0, class_="dot" if name in has else "nodot")
            )
        body.append(whisker(scale, y, figure.value, figure.low, figure.high, "var(--s0)", "circle"))
        body += [
            text(start + 294, y + 4, said, "value", key=key),
            text(start + 430, y + 4, count, "axis", key=count_key),
        ]
    return drawing(start + 490, bottom + 24, body, title, "The table below the plot has the same numbers.", 560)


def gauge(figure: Figure, chance: float | None, title: str) -> str:
    """A figure and its interval on 0..1, as a strip."""
    scale = Scale(0, 1, 6.0, 194.0)
    body = [line(6, 12, 194, 12, "rail")]
    if chance is not None:
        body.append(line(scale(chance), 4, scale(chance), 20, "chance"))
    if math.isfinite(figure.low) and math.isfinite(figure.high):
        body.append(line(scale(figure.low), 12, scale(figure.high), 12, "span"))
    if math.isfinite(figure.value):
        body.append(
            mark(scale(figure.value), 12, "circle", 5.5, fill="var(--s0)", stroke="var(--paper)", stroke_width=2.0)
        )
    return drawing(200, 24, body, title)
