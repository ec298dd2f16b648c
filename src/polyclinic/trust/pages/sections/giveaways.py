"""Columns and words that alone tell an answer: whoever reads the figures must know that they may rest on these."""

from __future__ import annotations

from ..inputs import ReportInputs
from ..page import Section, lead
from ..summary import Summary
from .words import evidence_key, headed

TOLD = lead(
    "Each of these alone orders the labelled training patients nearly right, or is the answer's own word. If it is written down only after "
    "the answer is known, the figures above are of no use before: leave it out and adapt again."
)


def giveaways(inputs: ReportInputs, summary: Summary) -> Section | None:
    """A list for each run that read such a column or word."""
    parts = ""
    for e in (e for e in inputs.evidence if e.giveaways):
        said = (summary.said(evidence_key(e, f"giveaway.{n}"), words) for n, words in enumerate(e.giveaways, start=1))
        parts += f"<h3>{headed(e.task, inputs)}</h3><ul>{''.join(f'<li>{one}</li>' for one in said)}</ul>"
    return Section("giveaways", "What may give the answer away", TOLD + parts) if parts else None
