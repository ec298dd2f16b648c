"""The report's charts: each a function from numbers to SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...schema import Figure, Modality
from ...tasks.matching import RATES
from ..measures.calibration import Calibration
from ..measures.curves import Traced
from ..measures.prognosis import Reliability
from .svg import (
    SERIES,
    SHAPES,
    Scale,
    axis_x,
    axis_y,
    drawing,
    line,
    mark,
    number,
    ornament,
    round_values,
    tag,
    text,
    whisker,
)


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
    "baseline": Look("var(--s7)", "triangle"),
    "null": Look("var(--s7)", "cross"),
}
ARM_WORDS = {
    "lora": "pretrained, LoRA",
    "probe": "pretrained, linear probe",
    "full": "pretrained, fine-tuned",
    "scratch": "same network from scratch",
    "baseline": "simple baseline",
    "null": "nothing known of the patient",
}
PLAIN = Look("var(--s0)", "circle")
UNLABELLED = "unlabelled"
FAINT = Look("var(--s7)", "ring")
"""Of points whose finding nobody knows."""
_FREQUENT = (Modality.IMAGE, Modality.TEXT, Modality.TABLE, Modality.VOLUME, Modality.OMICS, Modality.SIGNAL)


def looks(names: Sequence[str]) -> dict[str, Look]:
    """A look for each name, told apart by colour and by shape; the unlabelled are faint."""
    known = [n for n in names if n != UNLABELLED]
    many = len(SHAPES)
    found = {n: Look(SERIES[i % many], SHAPES[i % many], i // many % 2 == 1) for i, n in enumerate(known)}
    return found | ({UNLABELLED: FAINT} if UNLABELLED in names else {})


MODALITIES = looks([m.value for m in (*_FREQUENT, *(m for m in Modality if m not in _FREQUENT))])
"""The same modality looks the same in every report."""

STRIP, MARGIN = 240.0, 14.0
UNIT = Scale(0.0, 1.0, MARGIN, STRIP - MARGIN)


def reach_of(differences: Sequence[Figure | None]) -> Scale:
    """An axis about zero that holds every difference with its interval."""
    ends = [abs(v) for d in differences if d for v in (d.low, d.high, d.value) if math.isfinite(v)]
    reach = min(1.0, math.ceil(max([0.1, *ends]) * 10 - 1e-9) / 10)
    return Scale(-reach, reach, MARGIN, STRIP - MARGIN)


def strip(figure: Figure | None, scale: Scale, look: Look = PLAIN, at: float | None = None) -> str:
    """One line of a forest plot, an ornament beside its words: a figure with its interval over the axis' grid.

    Args:
        figure: None for an empty line.
        scale: of the column, such as `UNIT`.
        look: of the mark.
        at: where the reference line stands: chance, or zero of a difference.
    """
    body = [line(scale(v), 0, scale(v), 26, "grid") for v in scale.ticks(4)]
    if at is not None:
        body.append(line(scale(at), 0, scale(at), 26, "zero" if scale.low < 0 else "chance"))
    if figure is not None:
        body.append(whisker(scale, 13, figure.value, figure.low, figure.high, look.colour, look.shape, look.hollow))
    return ornament(STRIP, 26, body, "lane" if figure is not None else "lane blank")


def strip_axis(scale: Scale, ends: tuple[str, str] | None = None) -> str:
    """The numbers above a column of strips, and what its two ends mean."""
    ticks = scale.ticks(4)
    body = [text(scale(v), 28, number(v), "tick", "middle") for v in ticks]
    body += [line(scale(v), 33, scale(v), 38, "grid") for v in ticks]
    if ends:
        body += [text(MARGIN, 11, ends[0], "tick"), text(STRIP - MARGIN, 11, ends[1], "tick", "end")]
    return ornament(STRIP, 38, body, "lane")


def upset(
    patterns: Sequence[tuple[Sequence[str], int, str, str]],
    sizes: Mapping[str, tuple[int, str, str]],
    words: Mapping[str, str],
    title: str,
) -> str:
    """Which modalities patients have together: a column a pattern, a row a modality (Lex et al. 2014).

    Args:
        patterns: modalities, patients, the count's words and key; largest first.
        sizes: modality → patients, the count's words and key.
        words: what a modality is called.
        title: for a screen reader.
    """
    names, step, row, start, high = list(sizes), 46.0, 26.0, 212.0, 150.0
    width = start + step * len(patterns) + 10
    at = {name: high + 18 + n * row for n, name in enumerate(names)}
    tall = Scale(0, max([n for _, n, _, _ in patterns] or [1]), 0.0, high - 26)
    wide = Scale(0, max([n for n, _, _ in sizes.values()] or [1]), 0.0, 70.0)
    body = [text(start - 8, high - 4, "patients", "axis", "end")]
    for n, (name, (size, said, key)) in enumerate(sizes.items()):
        y = at[name]
        if n % 2 == 0:
            body.append(tag("rect", x=0, y=y - row / 2, width=width, height=row, class_="band"))
        body.append(tag("rect", x=float(76 - wide(size)), y=y - 7, width=wide(size), height=14, rx=2, class_="bar2"))
        body += [text(84, y + 4, words.get(name, name)), text(start - 8, y + 4, said, "value", "end", key)]
    for n, (has, count, said, key) in enumerate(patterns):
        x, top = start + step * (n + 0.5), high - tall(count)
        body.append(tag("rect", x=x - 14, y=float(top), width=28, height=tall(count), rx=2, class_="bar"))
        body.append(text(x, top - 6, said, "value", "middle", key))
        ys = [at[m] for m in has if m in at]
        if len(ys) > 1:
            body.append(line(x, min(ys), x, max(ys), "link"))
        body += [
            tag("circle", cx=x, cy=y, r=6.5 if m in has else 3.0, class_="dot" if m in has else "nodot")
            for m, y in at.items()
        ]
    describes = "The table below the plot has the same counts."
    return drawing(width, high + 24 + row * len(names), body, title, describes, int(min(width, 480)))


MOST_STEPS = 600
"""Points of a drawn curve; a longer run is drawn as means of so many stretches."""


def curve(
    steps: np.ndarray, values: np.ndarray, name: str, title: str, stages: Sequence[tuple[float, str]] = ()
) -> str:
    """One training curve: every step thin, a running mean thick; lines where a stage begins."""
    steps, values = stretches(steps, values)
    low, high = (float(np.quantile(values, 0.005)), float(np.quantile(values, 0.995))) if len(values) else (0.0, 1.0)
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    margin = (high - low) * 0.06
    x = Scale(float(steps.min()) if len(steps) else 0.0, float(steps.max()) if len(steps) else 1.0, 44.0, 306.0)
    y = Scale(low - margin, high + margin, 140.0, 26.0)
    body = [text(44, 14, name, "head"), *axis_y(y, 44, 306, 4)]
    body += [text(x(t), 158, number(t), "tick", "middle") for t in round_values(x.low, x.high, 4)]
    for at, stage in stages[1:]:
        body += [line(x(at), 26, x(at), 140, "chance"), text(x(at) + 3, 36, stage, "tick")]
    path = lambda v: "M" + "L".join(f"{x(float(s)):.1f} {y(float(w)):.1f}" for s, w in zip(steps, v, strict=True))
    if len(values):
        body += [tag("path", d=path(values), class_="thin"), tag("path", d=path(smooth(values)), class_="thick")]
    return drawing(316, 166, body, title)


def stretches(steps: np.ndarray, values: np.ndarray, most: int = MOST_STEPS) -> tuple[np.ndarray, np.ndarray]:
    """The finite values of a curve; where there are more than `most`, the means of so many stretches."""
    known = np.isfinite(values)
    steps, values = steps[known], values[known]
    if len(values) <= most:
        return steps, values
    parts = np.array_split(np.arange(len(values)), most)
    return np.array([steps[p].mean() for p in parts]), np.array([values[p].mean() for p in parts])


def smooth(values: np.ndarray) -> np.ndarray:
    """The running mean over a 25th of the curve; as long as the curve."""
    span = max(1, len(values) // 25)
    padded = np.pad(values, (span // 2, span - 1 - span // 2), mode="edge")
    return np.convolve(padded, np.full(span, 1 / span), mode="valid")


def reliability(calibration: Calibration | Reliability, title: str) -> str:
    """Observed against predicted with their intervals; the larger the dot, the more patients."""
    x, y = Scale(0, 1, 48.0, 348.0), Scale(0, 1, 324.0, 24.0)
    body = [*axis_x(x, 24, 324, 5, "predicted probability"), *axis_y(y, 48, 348, 5)]
    body += [line(x(0), y(0), x(1), y(1), "chance")]
    turned = "translate(12 174) rotate(-90)"
    body.append(tag("text", "observed share", transform=turned, class_="axis", text_anchor="middle"))
    most = max([b.n for b in calibration.bins] or [1])
    dots = [(x(b.predicted), y(b.observed)) for b in calibration.bins]
    if len(dots) > 1:
        body.append(tag("path", d="M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in dots), class_="join"))
    drawn = lambda x1, y1, x2, y2: line(x1, y1, x2, y2, stroke=PLAIN.colour, stroke_width=2.0)
    for b, (at, up) in zip(calibration.bins, dots, strict=True):
        body.append(drawn(at, y(b.low), at, y(b.high)))
        body += [drawn(at - 4, y(end), at + 4, y(end)) for end in (b.low, b.high)]
        body.append(mark(at, up, "circle", 3.5 + 5 * math.sqrt(b.n / most), PLAIN.colour))
    return drawing(360, 364, body, title, "The table beside the plot has the same numbers.")


def traces(curves: Sequence[Traced], lines_: Sequence[Look], title: str) -> str:
    """Curves of one kind with their bands; of the free-response curve the false alarms grow by doubling, as LUNA16 draws them.

    Args:
        curves: of the same axes; the band is drawn of the whole, or of the only one.
        lines_: a look each.
        title: for a screen reader.
    """
    axes, (along, up) = curves[0].axes, AXES[curves[0].axes]
    doubling = axes == "froc"
    at = (lambda v: math.log2(v)) if doubling else (lambda v: v)
    x, y = Scale(at(curves[0].x[0]), at(curves[0].x[-1]), 48.0, 348.0), Scale(0, 1, 284.0, 24.0)
    values = RATES if doubling else x.ticks(4)
    body = [line(x(at(v)), 24, x(at(v)), 284, "grid") for v in values]
    body += [text(x(at(v)), 299, _tick(axes, v), "tick", "middle") for v in values]
    body += [text(198, 316, along, "axis", "middle"), *axis_y(y, 48, 348, 5)]
    body.append(tag("text", up, transform="translate(12 154) rotate(-90)", class_="axis", text_anchor="middle"))
    whole = curves[0] if len(curves) == 1 or not curves[0].name else None
    if whole and all(map(math.isfinite, (*whole.low, *whole.high))):
        there = [*zip(whole.x, whole.high, strict=True), *reversed([*zip(whole.x, whole.low, strict=True)])]
        band = "L".join(f"{x(at(a)):.1f} {y(b):.1f}" for a, b in there)
        body.append(tag("path", d=f"M{band}Z", fill=lines_[0].colour, fill_opacity=0.16))
    for one, look in reversed([*zip(curves, lines_, strict=True)]):
        path = "M" + "L".join(f"{x(at(a)):.1f} {y(b):.1f}" for a, b in zip(one.x, one.y, strict=True))
        body.append(tag("path", d=path, fill="none", stroke=look.colour, stroke_width=2.4 if one is whole else 1.6))
        marks = [n for n, a in enumerate(one.x) if any(abs(a - v) < 1e-9 for v in values)]
        body += [mark(x(at(one.x[n])), y(one.y[n]), look.shape, 4.0, look.colour, look.hollow) for n in marks]
    return drawing(360, 324, body, title, "The tables of figures have its numbers.")


AXES: Mapping[str, tuple[str, str]] = {
    "froc": ("false alarms an image", "share of things found"),
    "precision_recall": ("recall: share of things found", "precision: share of answers that found one"),
    "pck": ("distance, share of the points' extent", "share of points within it"),
    "within_mm": ("distance, mm", "share of points within it"),
}
"""What lies along a curve's axes."""


def _tick(axes: str, value: float) -> str:
    """A tick's words: of false alarms a fraction, of a share of extents percent."""
    if axes == "pck":
        return f"{100 * value:g}%"
    return {0.125: "⅛", 0.25: "¼", 0.5: "½"}.get(value, number(value)) if axes == "froc" else number(value)


def scatter(points: np.ndarray, names: Sequence[str], looks: Mapping[str, Look], title: str) -> str:
    """Points (n 2) by name; the axes have no unit and therefore no ticks, and both have the same scale."""
    width, height, edge = 440.0, 340.0, 16.0
    if len(points) == 0:
        return drawing(width, height, [text(220, 170, "no points", "axis", "middle")], title)
    low, high = points.min(0), points.max(0)
    middle, span = (low + high) / 2, np.maximum(high - low, max(float((high - low).max()), 1e-9) * 1e-3)
    share = min((width - 2 * edge) / float(span[0]), (height - 2 * edge) / float(span[1]))
    body = [tag("rect", x=0.5, y=0.5, width=width - 1, height=height - 1, rx=6, class_="frame")]
    for n in sorted(range(len(points)), key=lambda n: names[n] != UNLABELLED):  # the faint ones below the others
        look = looks[names[n]]
        x, y = map(float, (points[n] - middle) * share)
        body.append(mark(width / 2 + float(x), height / 2 - float(y), look.shape, 3.6, look.colour, look.hollow, 0.75))
    return drawing(width, height, body, title)


def legend(items: Sequence[tuple[Look, str]]) -> str:
    """The marks with their names, as HTML that wraps.

    Args:
        items: looks, and names as markup.
    """
    lines = []
    for look, name in items:
        sign = tag(
            "svg", mark(8, 8, look.shape, 5.0, look.colour, look.hollow),
            viewBox="0 0 16 16", width=16, height=16, aria_hidden="true",
        )  # fmt: skip
        lines.append(f"<li>{sign}<span>{name}</span></li>")
    return f'<ul class="legend">{"".join(lines)}</ul>'
