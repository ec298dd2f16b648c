"""Detection and keypoints: their curves, and pictures of the patients who came out best, in the middle and worst."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import groupby

from ...evidence import Evidence
from ..inputs import ReportInputs
from ..page import Section, lead, small, table, verbatim
from ..pictures import drawn_line, framed, told_line, written
from ..placed import Mark, Placed
from ..plots import legend, looks, traces
from ..summary import Summary
from .evidence import TURNED
from .words import capital, evidence_key, headed, metric_name

LEAD = lead(
    "Boxes are found where the middle of an answer lies in a drawn box of its name; an answer in none is a false alarm. "
    "The free-response curve (FROC) says how many are found if so many false alarms an image are borne; precision and "
    "recall ask that boxes overlap. Of points it is shown how many lie within a distance of where people drew them. The "
    "pale band is the 95% interval of the whole."
)
CHOSEN = (
    "Of {of} annotated test patients of whom something was drawn or told, the one who came out best, the one in the "
    "middle and the worst: the pictures show what such figures look like, not how common it is."
)
BOXES = (
    " Drawn is what scores above its threshold, which the training patients chose; a score is no probability. Of a volume "
    "it is the slice through the surest box, with the boxes that it crosses; what was found, missed and alarmed counts "
    "the whole volume."
)
POINTS = (
    " A thin line joins each point to where it was drawn. Of a volume it is the slice through the surest point; points on "
    "other slices are faint."
)
PLOTS = {
    "froc": "Free-response curve",
    "precision_recall": "Precision and recall",
    "pck": "Correct keypoints (PCK)",
    "within_mm": "Points within a distance",
}
TOLD = ("froc", "sensitivity_at_", "map_", "froc_", "ap_50_", "pck_", "mre_mm", "within_")
RANKED = {"best": "the best", "middle": "in the middle", "worst": "the worst"}
LETTER = 0.62
"""How wide a letter is, of its height."""
MOST_LABELS = 8
"""Points up to which each has its score beside it."""


def placed(inputs: ReportInputs, summary: Summary) -> Section | None:
    """Curves, figures and pictures of each run that places boxes or points."""
    with_curves = {e.task: e for e in inputs.evidence if e.curves}
    pictures = {task: list(some) for task, some in groupby(inputs.placed, key=lambda p: p.task)}
    tasks = dict.fromkeys([*with_curves, *pictures])
    if not tasks:
        return None
    inside = ""
    for task in tasks:
        found = with_curves.get(task)
        inside += f"<h3>{headed(task, inputs)}</h3>"
        inside += _curves(found, summary) if found else ""
        inside += _pictures(pictures.get(task, []), summary)
    return Section("placed", "Boxes and points: what was found", LEAD + inside, "Boxes and points")


def _curves(evidence: Evidence, summary: Summary) -> str:
    """The plots of one run side by side, and the figures that stand on them."""
    names = dict.fromkeys(c.name for c in evidence.curves)
    look, plots = looks(list(names)), ""
    for axes in dict.fromkeys(c.axes for c in evidence.curves):
        mine = [c for c in evidence.curves if c.axes == axes]
        title = f"{PLOTS[axes]} of {evidence.task.replace('_', ' ')}"
        note = summary.said(evidence_key(evidence, f"curve.{axes}.note"), mine[0].note) if mine[0].note else ""
        plots += (
            f"<div><h4>{PLOTS[axes]}</h4>{traces(mine, [look[c.name] for c in mine], title)}"
            f"{small(f'Found: {note}.') if note else ''}</div>"
        )
    told = legend([(look[n], verbatim(n) if n else "all together") for n in names]) if len(names) > 1 else ""
    rows = []
    for f in (f for f in evidence.figures if f.name.startswith(TOLD) and math.isfinite(f.value)):
        key = evidence_key(evidence, f.name)
        words, name = summary.measured(key, f), capital(metric_name(f.name))
        rows.append(
            [summary.said(f"{key}.name", name) if any(map(str.isdigit, name)) else escape(name), words, summary.n(key)]
        )
    figures = table("Figures of the curves", ("figure", "value (95% interval)", "n"), rows, (2,))
    return f'{told}<div class="grid2">{plots}</div>{figures}'


def _pictures(some: Sequence[Placed], summary: Summary) -> str:
    if not some:
        return ""
    one = some[0]
    of = summary.shown(f"placed.{one.task}.of", one.of, what="annotated test patients with something drawn or told")
    turned = TURNED if any(p.edges for p in some) else ""
    words = CHOSEN.format(of=of) + (BOXES if one.kind == "detection" else POINTS) + turned
    marks = "".join(_legend(one.kind, k, name) for k, name in enumerate(one.names, start=1))
    figures = "".join(_picture(p, f"placed.{p.task}.{p.rank}", summary) for p in some)
    return f'{small(words)}<ul class="legend">{marks}</ul><div class="pictures">{figures}</div>'


def _legend(kind: str, k: int, name: str) -> str:
    """What the lines of one class mean, on black as in the pictures."""
    box = "M3 3h16v10h-16z"
    signs: list[tuple[str, list[str]]] = [("predicted", told_line(_cross(11, 8, 5) if kind == "keypoints" else box, k))]
    if kind == "detection":
        signs.append(("false alarm,", told_line(box, k, alarm=True)))
    signs.append(("drawn by people:", drawn_line(_ring(11, 8, 4.5) if kind == "keypoints" else box, k)))
    swatch = '<svg width="22" height="16" viewBox="0 0 22 16" aria-hidden="true"><rect width="22" height="16" rx="3" fill="#333"/>{}</svg>'
    return "".join(f"<li>{swatch.format(''.join(s))}<span>{words} {verbatim(name)}</span></li>" for words, s in signs)


def _picture(one: Placed, key: str, summary: Summary) -> str:
    """A picture with its caption."""
    words = _caption(one, key, summary)
    alternative = f"{capital(RANKED[one.rank])} of the test patients, {one.patient}: predicted {', '.join(one.names)} beside the drawn ones"
    inside = [part for m in one.drawn for part in drawn_line(_path(one, m, True), m.label)]
    inside += [part for pair in _joined(one) for part in pair]
    inside += [part for m in one.told for part in told_line(_path(one, m, False), m.label, m.alarm, not m.here)]
    picture = framed(one.picture, inside, _scores(one, key, summary), one.aspect, alternative, one.edges)
    place = ""
    if one.slice[1] > 1:
        at = summary.shown(f"{key}.slice", one.slice[0], what="slice, from the feet")
        place = f", slice {at} of {summary.shown(f'{key}.slices', one.slice[1], what='slices')}"
    return (
        f"<figure>{picture}<figcaption><strong>{capital(RANKED[one.rank])}:</strong> {verbatim(one.patient)}{place}"
        f"<br>{words}</figcaption></figure>"
    )


def _caption(one: Placed, key: str, summary: Summary) -> str:
    if one.kind == "keypoints":
        apart = summary.shown(
            f"{key}.apart", one.apart, f"{one.apart:.1f}", what=f"mean distance of one patient's points, {one.unit}"
        )
        return f"points {apart} {one.unit} from where they were drawn, on average"
    told = (("found", one.found), ("missed", one.missed), ("alarms", one.alarms))
    called = {"alarms": "false alarm" if one.alarms == 1 else "false alarms"}
    each = [
        summary.shown(f"{key}.{what}", n, what="boxes of one patient") + f" {called.get(what, what)}"
        for what, n in told
    ]
    return ", ".join(each)


def _path(one: Placed, mark: Mark, drawn: bool) -> str:
    """A box along its sides; a cross on a predicted point, a ring about a drawn one, round where pixels are higher than wide too."""
    (x0, y0), (x1, y1) = mark.low, mark.high
    if one.kind == "detection":
        return f"M{x0:.2f} {y0:.2f}H{x1:.2f}V{y1:.2f}H{x0:.2f}Z"
    arm = _size(one) * 0.45
    return _ring(x0, y0, arm, one.aspect) if drawn else _cross(x0, y0, arm, one.aspect)


def _cross(x: float, y: float, arm: float, aspect: float = 1.0) -> str:
    up = arm / aspect
    return (
        f"M{x - arm:.2f} {y - up:.2f}L{x + arm:.2f} {y + up:.2f}M{x - arm:.2f} {y + up:.2f}L{x + arm:.2f} {y - up:.2f}"
    )


def _ring(x: float, y: float, arm: float, aspect: float = 1.0) -> str:
    half = f"{arm:.2f} {arm / aspect:.2f} 0 1 0"
    return f"M{x - arm:.2f} {y:.2f}a{half} {2 * arm:.2f} 0a{half} {-2 * arm:.2f} 0"


def _joined(one: Placed) -> list[list[str]]:
    """Lines from points to where they were drawn."""
    if one.kind != "keypoints":
        return []
    drawn = {m.label: m.low for m in one.drawn}
    pairs = [(m, drawn[m.label]) for m in one.told if m.label in drawn]
    return [told_line(f"M{m.low[0]:.2f} {m.low[1]:.2f}L{x:.2f} {y:.2f}", m.label, faint=True) for m, (x, y) in pairs]


def _size(one: Placed) -> float:
    """Of letters and crosses, in the width of pixels."""
    height, width = one.picture.shape
    return 0.042 * max(width, height * one.aspect)


def _scores(one: Placed, key: str, summary: Summary) -> list[str]:
    """Each answer's score beside it, with its name where there are several; where no label lies yet, if there is such a place."""
    if one.kind == "keypoints" and len(one.told) > MOST_LABELS:
        return []
    height, width = one.picture.shape
    size, found = _size(one), list[str]()
    points = (*one.told, *one.drawn) if one.kind == "keypoints" else ()
    taken = [(m.low[0] - size * 0.45, m.low[1] * one.aspect + size * 0.45, size * 0.9) for m in points]
    for n, m in enumerate(one.told, start=1):
        name = f"{one.names[m.label - 1]} " if len(one.names) > 1 else ""
        words = summary.count(
            f"{key}.score_{n}", m.score, f"{name}{m.score:.2f}", what="score, which is no probability"
        )
        long = LETTER * size * len(words)
        x = min(max(0.0, m.low[0] + (size * 0.7 if one.kind == "keypoints" else 0.0)), max(0.0, width - long))
        top, low = m.low[1] * one.aspect - size * 0.35, m.high[1] * one.aspect + size
        lines = [top, low, *(top + size * 1.15 * step for step in range(1, 12))]
        inside = [y for y in lines if size <= y <= height * one.aspect - size * 0.2]
        apart = lambda y, x=x, long=long: all(
            abs(y - b) >= size or x >= a + wide or a >= x + long for a, b, wide in taken
        )
        y = next(filter(apart, inside), inside[0] if inside else size)
        taken.append((x, y, long))
        found.append(written(x, y, words, size, m.label, f"{key}.score_{n}"))
    return found
