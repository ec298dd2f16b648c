"""The report's parts, a file each: what is shown, of what it is made, and what is missing. `whole` puts them in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from ...comparisons.comparison import Row
from ..inputs import ReportInputs
from ..page import Section, page
from ..summary import Summary
from . import (
    alone,
    comparison,
    contributions,
    evidence,
    giveaways,
    origin,
    placed,
    population,
    pretraining,
    synthesis,
    unread,
    verdict,
)

Part = Callable[[ReportInputs, Summary], Section | None]

ORDER: tuple[Part, ...] = (
    verdict.verdict,
    verdict.key_figures,
    population.population,
    population.set_aside,
    unread.unread,
    comparison.comparison,
    alone.alone,
    evidence.subsets,
    contributions.contributions,
    giveaways.giveaways,
    evidence.calibration,
    evidence.overlays,
    placed.placed,
    synthesis.synthesis,
    evidence.every_figure,
    pretraining.retrieval,
    pretraining.embeddings,
    pretraining.curves,
    origin.missing,
    origin.not_for,
    origin.made,
)
"""What a reader in a hurry needs comes first; a part that has nothing to show gives None."""


def _apart(inputs: ReportInputs) -> ReportInputs:
    """Every number needs its own place in the ledger: runs of one name are told apart, and a row that says the same again is left out.

    All labels there are, and more labels than there are, make the same row twice; it counts once in the verdict too.
    """
    seen: Counter[str] = Counter()
    named = []
    for e in inputs.evidence:
        seen[e.run] += 1
        named.append(e if seen[e.run] == 1 else replace(e, run=f"{e.run}-{seen[e.run]}"))
    compared = inputs.comparison
    if compared is not None:
        rows: dict[str, Row] = {}
        for row in compared.rows:
            rows.setdefault(comparison.row_key(row), row)
        compared = replace(compared, rows=tuple(rows.values()))
    return replace(inputs, evidence=tuple(named), comparison=compared)


def whole(inputs: ReportInputs) -> tuple[str, Summary]:
    """The report's file, and the ledger of every number in it.

    Args:
        inputs: what there is; what is missing is left out, and said.
    """
    inputs, summary = _apart(inputs), Summary(inputs.split)
    head = verdict.head(inputs, summary)
    sections = [section for part in ORDER if (section := part(inputs, summary)) is not None]
    return page(inputs.title, head, sections, origin.foot(inputs)), summary
