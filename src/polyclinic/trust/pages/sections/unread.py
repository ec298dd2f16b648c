"""Who could not be read: no figure counts them, and whoever reads the figures must know how many they are and why."""

from __future__ import annotations

from collections.abc import Sequence

from ....harmonise.unread import Unread
from ..inputs import ReportInputs
from ..page import Section, lead, table, verbatim
from ..summary import Summary
from .words import evidence_key, headed

WHO = lead(
    "Of these test patients a record could not be read when the figures were made. No figure counts them: every n is of the others."
)
SHOWN = 50
"""Rows of each run; `evidence.json` has all."""


def set_aside(who: Sequence[Unread], caption: str = "Who could not be read") -> str:
    """A table of them; nothing of nobody."""
    rows = [[verbatim(one.patient), verbatim(one.record), verbatim(one.why)] for one in who]
    return table(caption, ("patient", "record", "why"), rows, wrap=(2,)) if rows else ""


def unread(inputs: ReportInputs, summary: Summary) -> Section | None:
    """A table for each run that set somebody aside."""
    parts = ""
    for e in (e for e in inputs.evidence if e.unread):
        many = summary.shown(evidence_key(e, "unread"), len(e.unread), what="patients who could not be read")
        more = f", the first {SHOWN} of them here" if len(e.unread) > SHOWN else ""
        parts += f"<h3>{headed(e.task, inputs)}: {many}{more}</h3>" + set_aside(e.unread[:SHOWN], "Who was set aside")
    return Section("unread", "Who could not be read", WHO + parts) if parts else None
