"""What each kind of record adds to an answer, and what is lost without it."""

from __future__ import annotations

import math
from html import escape

from ...evidence import Evidence
from ...modalities.contributions import Contributions
from ..inputs import ReportInputs
from ..page import Column, Section, lead, small, strips, table, verbatim
from ..plots import reach_of, strip, strip_axis
from ..summary import Summary
from .words import capital, caution, evidence_key, headed, read_as, short_metric

ADDS = lead(
    "What the model gains over guessing, shared out among the kinds of records (Shapley values), over the labelled test patients as they "
    "come: a kind of record that few have adds little to all of them together. Beside it, what those who have it and something else "
    "would lose without it. Where an interval holds zero, nothing is shown."
)


def contributions(inputs: ReportInputs, summary: Summary) -> Section | None:
    """A table for each run of which subsets were asked."""
    parts = "".join(_adds(inputs, e, e.contributions, summary) for e in inputs.evidence if e.contributions)
    return Section("adds", "What each kind of record adds", ADDS + parts) if parts else None


def _adds(inputs: ReportInputs, evidence: Evidence, found: Contributions, summary: Summary) -> str:
    own = lambda name: evidence_key(evidence, f"adds.{name}")
    scale = reach_of([c.shapley for c in found.each])
    columns = (
        Column("kind of record", "name"),
        Column(strip_axis(scale), "strip"),
        Column(f"adds, {escape(short_metric(found.metric))} (95% interval)", "value"),
        Column("have it", "n", "have it:"),
        Column("lost without it", "value", "lost without it:"),
        Column("n", "n", "n ="),
    )
    rows = []
    for c in found.each:
        key, lost = own(c.modality), own(f"{c.modality}.lost")
        added = summary.measured(key, c.shapley, signed=True)
        have = summary.shown(f"{key}.patients", c.patients, what="patients who have it")
        missed = summary.measured(lost, c.lost, signed=True) if math.isfinite(c.lost.value) else "–"
        n = summary.n(lost) if math.isfinite(c.lost.value) else "–"
        rows.append(
            [
                escape(capital(read_as(c.modality, inputs.words))),
                strip(c.shapley, scale, at=0.0),
                added,
                have,
                missed,
                n,
            ]
        )
    caption = f"{evidence.task.replace('_', ' ')}: what each kind of record adds"
    listed = strips(caption, columns, [("", rows)], hide_caption=True)
    return f"<h3>{headed(evidence.task, inputs)}</h3>{listed}{_together(inputs, evidence, found, summary)}{_how(evidence, found, summary)}"


def _together(inputs: ReportInputs, evidence: Evidence, found: Contributions, summary: Summary) -> str:
    """Which two complete each other, and which repeat each other."""
    rows = []
    for t in found.both:
        key = evidence_key(evidence, f"adds.{'+'.join(t.modalities)}")
        named = " with ".join(read_as(m, inputs.words) for m in t.modalities)
        both = summary.shown(f"{key}.patients", t.patients, what="patients who have both")
        rows.append([escape(capital(named)), summary.measured(key, t.figure, signed=True), both])
    head = ("two kinds of records", "together beyond each alone (95% interval)", "have both")
    return table("Above zero they complete each other, below they tell the same", head, rows, (2,))


def _how(evidence: Evidence, found: Contributions, summary: Summary) -> str:
    key = evidence_key(evidence, "adds.asked")
    asked, of = summary.shown(key, found.asked, what="subsets"), summary.shown(f"{key}.of", found.of, what="subsets")
    n = summary.shown(f"{key}.n", found.n, what="patients")
    nothing = summary.shown(
        f"{key}.nothing", found.nothing, f"{found.nothing:.2f}", what="metric where nothing is known"
    )
    whole = summary.shown(f"{key}.whole", found.whole, f"{found.whole:.2f}", what="metric with everything")
    part = (
        ""
        if found.exact
        else ", chosen so that each kind and each two of them can be told; the intervals hold what the others leave open"
    )
    told = next((part for part in caution(found.each[0].shapley).split("; ") if part.startswith("too narrow")), "")
    warned = f" The intervals are {verbatim(told)}." if told else ""
    reach = f"from {nothing} where nothing is known to {whole} with everything"
    return small(f"Of {n} patients; {reach}. {asked} of {of} subsets were asked{part}.{warned}")
