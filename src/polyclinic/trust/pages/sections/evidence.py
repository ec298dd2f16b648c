"""What was measured of each adapted run: every subset of its inputs, its calibration, its masks, and all figures to look up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from ....schema import Figure
from ...evidence import Evidence
from ...measures.calibration import Bin, Calibration
from ...measures.prognosis import Reliability
from ...modalities.subsets import Subset
from ..inputs import ReportInputs
from ..overlays import Overlay
from ..page import Column, Section, details, lead, small, strips, table, verbatim
from ..pictures import label_colour, masked
from ..plots import UNIT, reliability, strip, strip_axis
from ..summary import Summary
from .words import METHODS, METRICS, capital, chance_of, evidence_key, headed, joined, metric_name, short_metric

SUBSETS = lead(
    "Each line is the same adapted model, shown only a part of what it can read. It is asked about every labelled "
    "test patient who has at least one of these kinds of records; how many have all of them stands in the last "
    "column. Lines of different patients cannot be compared with each other."
)
CALIBRATION = lead(
    "If the model says “three in ten”, it should be right in three of ten patients: then the dots lie on the dashed "
    "line. Below it the model promises too much, above it too little. A larger dot is more patients; the upright bars "
    "are 95% intervals."
)
FIGURES = lead(
    "All that was measured on the test patients, with how each interval was made (BCa is the bias-corrected and accelerated "
    'bootstrap). The same stands in <span class="mono">summary.json</span>.'
)
TURNED = (
    " The slices lie as radiologists look at them: the patient's right (R) is on the left, the front (A) at the top."
)


def subset_key(evidence: Evidence, subset: Subset) -> str:
    """Where the figure of a subset stands in the summary."""
    return evidence_key(evidence, f"only.{'+'.join(subset.modalities)}")


def _learned(evidence: Evidence, summary: Summary) -> str:
    """How an adapted run learned, as markup."""
    method = escape(METHODS.get(evidence.method, evidence.method))
    if evidence.kind in ("retrieval", "synthesis", "translation"):
        return method
    key = evidence_key(evidence, "labels")
    return f"{method}, {summary.shown(key, evidence.labels, what='labelled training patients')} labelled patients"


def subsets(inputs: ReportInputs, summary: Summary) -> Section | None:
    """What an adapted run is worth to a patient who has only some of what it reads."""
    parts = "".join(_subsets(inputs, e, summary) for e in inputs.evidence if e.subsets)
    return Section("subsets", "When a record is missing", SUBSETS + parts) if parts else None


def _subsets(inputs: ReportInputs, evidence: Evidence, summary: Summary) -> str:
    columns = (
        Column("shown to the model", "name"),
        Column(strip_axis(UNIT), "strip"),
        Column(f"{escape(short_metric(evidence.subsets[0].figure.name))} (95% interval)", "value"),
        Column("n", "n", "n ="),
        Column("have all of them", "n", "have all:"),
    )
    rows, undefined = [], ""
    for s in evidence.subsets:
        key, shown = subset_key(evidence, s), joined(s.modalities, inputs.words)
        words = summary.measured(key, s.figure)
        complete = summary.shown(f"{key}.complete", s.complete, what="patients who have all of these")
        drawn = strip(s.figure, UNIT, at=chance_of(s.figure))
        rows.append([capital(shown), drawn, words, summary.n(key), complete])
        if s.figure.note.startswith("not defined"):
            undefined += small(f"Shown {shown} only, it is {summary.note(key)}.")
    caption = f"{evidence.task.replace('_', ' ')}: what was shown to the adapted model, and how good its answers were"
    return (
        f"<h3>{headed(evidence.task, inputs)}</h3>{small(_how(evidence, summary))}"
        f"{strips(caption, columns, [('', rows)], hide_caption=True)}{undefined}"
    )


def _how(evidence: Evidence, summary: Summary) -> str:
    if evidence.kind == "retrieval":
        return "Each line asks with the mean of what is shown of a patient."
    return f"Adapted by {_learned(evidence, summary)}."


def calibration(inputs: ReportInputs, summary: Summary) -> Section | None:
    """Whether a probability, of a finding, of a grade or a higher one, or of an event by a time, can be taken at its word."""
    every = [(e, c) for e in inputs.evidence for c in (*([e.calibration] if e.calibration else []), *e.calibrations)]
    parts = "".join(_calibrated(inputs, e, c, summary) for e, c in every if c.bins)
    parts += "".join(_risks(inputs, e, r, summary) for e in inputs.evidence for r in e.risks if r.bins)
    if not parts:
        return None
    return Section("calibration", "Can the probabilities be believed?", CALIBRATION + parts, "Calibration")


def _calibrated(inputs: ReportInputs, evidence: Evidence, found: Calibration, summary: Summary) -> str:
    place = f"calibration.{found.name}" if found.name else "calibration"
    bins = _bins(evidence, place, found.bins, "95% interval, Wilson", summary)
    elsewhere = {f.name for f in evidence.figures}  # Brier's score stands among all figures
    lines = [
        _measure(evidence, f, summary, f"{place}.{f.name}" if found.name else f.name)
        for f in found.figures
        if f.name in METRICS and f.name not in elsewhere
    ]
    whole = table("Figures of calibration", ("figure", "value (95% interval)", "what it is"), lines, wrap=(2,))
    beware = summary.said(evidence_key(evidence, f"{place}.note"), found.note)
    plot = reliability(found, f"Calibration of {evidence.task.replace('_', ' ')}: observed against predicted")
    of = f": {verbatim(found.name + (' or a higher grade' if evidence.kind == 'grade' else ''))}" if found.name else ""
    heading = f"{headed(evidence.task, inputs)}{of}"
    inside = f'<div class="beside"><div>{plot}</div><div>{bins}{whole if lines else ""}{small(beware) if beware else ""}</div></div>'
    # Of classes there may be many: each stands below the whole, to be opened.
    folded = evidence.kind == "classes" and found.name
    return details(heading, inside) if folded else f"<h3>{heading}</h3>{inside}"


def _bins(evidence: Evidence, key: str, bins: Sequence[Bin], how: str, summary: Summary) -> str:
    """A table of what was predicted and what came true."""
    rows = []
    for number, b in enumerate(bins, start=1):
        own = evidence_key(evidence, f"{key}.group_{number}")
        predicted = summary.shown(
            f"{own}.predicted", b.predicted, f"{b.predicted:.2f}", what="mean predicted probability"
        )
        observed = Figure("observed_share", b.observed, b.low, b.high, b.n, evidence.split, how)
        rows.append([predicted, summary.measured(own, observed), summary.n(own)])
    return table("Patients grouped by what was predicted", ("predicted", "came true (95% interval)", "n"), rows, (2,))


def _risks(inputs: ReportInputs, evidence: Evidence, found: Reliability, summary: Summary) -> str:
    """The risk of an event by one horizon, observed against predicted."""
    at = f"{found.horizon:g}"
    own = f"risk{f'_of_{found.event}' if found.event else ''}_at_{at}_{found.unit}"
    own += f"_from_{found.landmark:g}" if found.landmark is not None else ""
    when = summary.shown(evidence_key(evidence, f"{own}.horizon"), found.horizon, at, what="horizon")
    since = ""
    if found.landmark is not None:
        key = evidence_key(evidence, f"{own}.landmark")
        since = (
            f", {summary.shown(key, found.landmark, f'{found.landmark:g}', what='landmark')} {verbatim(found.unit)} on"
        )
    how = "Aalen–Johansen with the delta method's variance" if found.event else "Kaplan–Meier with Greenwood's variance"
    bins = _bins(evidence, own, found.bins, f"95% interval, {how}", summary)
    title = f"{capital(found.what)}, {evidence.task.replace('_', ' ')}: observed against predicted"
    estimate = "Aalen–Johansen's" if found.event else "Kaplan–Meier's"
    beware = small(f"What was observed is {estimate} estimate, for some patients were not followed until then.")
    whose = f" of {verbatim(found.event.replace('_', ' '))}" if found.event else ""
    return (
        f"<h3>{headed(evidence.task, inputs)}: risk{whose} by {when} {verbatim(found.unit)}{since and f' from{since[1:]}'}</h3>"
        f'<div class="beside"><div>{reliability(found, title)}</div><div>{bins}{beware}</div></div>'
    )


def _measure(evidence: Evidence, figure: Figure, summary: Summary, place: str) -> list[str]:
    key = evidence_key(evidence, place)
    words = summary.measured(key, figure)
    what = escape(METRICS[figure.name][1])
    if not math.isfinite(figure.value):
        what += f" ({summary.note(key)})"
    return [escape(capital(metric_name(figure.name))), words, what]


def overlays(inputs: ReportInputs, summary: Summary) -> Section | None:
    """Predicted and true masks of the first test patients."""
    if not inputs.overlays:
        return None
    count = summary.shown("overlays.shown", len(inputs.overlays), what="patients")
    turned = TURNED if any(o.edges for o in inputs.overlays) else ""
    told = lead(
        f"Of the first test patients by name who have a drawn mask ({count} are shown; they are not the best ones), "
        f"the slice with the most of the true region, on the grid of the patient's own file.{turned} The Dice overlap "
        "is of the whole volume."
    )
    marks = "".join(_marks(k, name) for k, name in enumerate(inputs.overlays[0].classes, start=1))
    figures = "".join(_overlay(o, f"overlays.{n}", summary) for n, o in enumerate(inputs.overlays, start=1))
    inside = f'{told}<ul class="legend">{marks}</ul><div class="pictures">{figures}</div>'
    return Section("overlays", "Segmentation: what was drawn", inside, "Segmentation")


def _marks(k: int, name: str) -> str:
    """The legend of one class: its colour where it was predicted, its outline where it is."""
    dashed = ' stroke-dasharray="3 2"' if k % 2 == 0 else ""
    swatch = (
        '<svg class="swatch" viewBox="0 0 14 14" aria-hidden="true"><rect width="14" height="14" fill="{}"/>{}</svg>'
    )
    frame = f'<rect x="2" y="2" width="10" height="10" fill="none" stroke="#fff" stroke-width="2"{dashed}/>'
    line = "dashed" if dashed else "solid"
    return (
        f"<li>{swatch.format(label_colour(k), '')}<span>predicted {verbatim(name)}</span></li>"
        f"<li>{swatch.format('#333', frame)}<span>true {verbatim(name)} ({line} line)</span></li>"
    )


def _overlay(overlay: Overlay, key: str, summary: Summary) -> str:
    scores = {}
    for name, d in zip(overlay.classes, overlay.dice, strict=False):
        scores[name] = f"{key}.dice.{name}"
        summary.count(scores[name], d, f"{d:.2f}", what="Dice overlap of one patient")
    alternative = f"Slice of patient {overlay.patient} with the predicted region filled and the true one outlined"
    if scores:
        alternative += "; Dice overlap " + ", ".join(f"{n} {summary.counts[k]['text']}" for n, k in scores.items())
    picture = masked(
        overlay.picture, overlay.predicted, overlay.truth, len(overlay.classes), overlay.aspect, alternative, overlay.edges
    )  # fmt: skip
    place = ""
    if overlay.slice[1] > 1:
        at = summary.shown(f"{key}.slice", overlay.slice[0], what="slice, from the feet")
        place = f", slice {at} of {summary.shown(f'{key}.slices', overlay.slice[1], what='slices')}"
    said = ", ".join(f"{verbatim(n)} {summary.html(k)}" for n, k in scores.items()) or "nobody drew the true region"
    return (
        f"<figure>{picture}<figcaption>{verbatim(overlay.patient)}{place}<br>Dice overlap: {said}</figcaption></figure>"
    )


def every_figure(inputs: ReportInputs, summary: Summary) -> Section | None:
    """All that was measured, to look up."""
    parts = "".join(_figures(inputs, e, summary) for e in inputs.evidence if e.figures)
    return Section("figures", "Every figure", FIGURES + parts) if parts else None


def _figures(inputs: ReportInputs, evidence: Evidence, summary: Summary) -> str:
    rows = []
    for f in evidence.figures:
        key = evidence_key(evidence, f.name)
        words = summary.measured(key, f)
        name = capital(metric_name(f.name))
        named = summary.said(f"{key}.name", name) if any(map(str.isdigit, name)) else escape(name)
        rows.append([named, words, summary.n(key), summary.note(key)])
    head = ("figure", "value (95% interval)", "n", "how the interval was made, and what to beware of")
    reads = joined(evidence.inputs, inputs.words) or "nothing"
    inside = small(f"Reads {reads}; {_learned(evidence, summary)}.")
    inside += table(f"Figures of {evidence.task.replace('_', ' ')}", head, rows, (2,), wrap=(3,))
    return details(headed(evidence.task, inputs), inside)
