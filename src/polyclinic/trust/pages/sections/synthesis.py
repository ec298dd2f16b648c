"""What the run makes: how real, how faithful, and whether it is somebody's."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ....schema import Figure
from ...evidence import Evidence
from ...measures.realism import NAMES
from ...measures.synthesis import Pair
from ..inputs import ReportInputs
from ..page import Section, lead, small, table, verbatim, warning
from ..pictures import png
from ..summary import Summary
from .words import capital, evidence_key, metric_name, task_name

SPACES = {"features": "in the features of the run's own encoder", "pixels": "in the pixels, made small, as a control"}
COPIES = (
    "closer_than_held_out_{}", "copying_z_{}", "near_copies_{}", "authenticity_{}", "authenticity_{}_held_out", "own_copies_{}",
    "own_copies_{}_held_out",
)  # fmt: skip
REALISM = lead(
    "What was drawn is laid among records of test patients. Beside each figure stands its floor: the same figure of training "
    "patients' real records, as many of them, which a perfect generator could reach and not pass. Distances are best at the floor; "
    "shares are best as large as it."
)
MEMORY = lead(
    "A generator may hand out what it learned from. The measure is how far real people whom it never saw are from their nearest "
    "training record: what is drawn should be as far, and no closer."
)
FAITHFUL = lead(
    "Each translation is laid beside the record that the test patient really has. The mean of the training records, which looks at "
    "nobody, is the figure to be better than."
)
BESIDE = small(
    "The pairs that look most like copies: on the left what was drawn, on the right the training record that it is nearest to. "
    "Names are hashes of the training records' ids."
)


def synthesis(inputs: ReportInputs, summary: Summary) -> Section | None:
    """Realism, fidelity and memorisation of each run that makes records."""
    parts = ""
    for e in inputs.evidence:
        if e.kind == "synthesis":
            parts += _drawn(e, summary)
        elif e.kind == "translation":
            parts += _translated(e, summary)
    parts += _pairs(inputs.pairs, summary)
    return Section("synthesis", "Records that the model makes", parts, "Synthesis") if parts else None


def _drawn(evidence: Evidence, summary: Summary) -> str:
    named = {f.name: f for f in evidence.figures}
    inside = f"<h3>{task_name(evidence.task)}</h3>{REALISM}"
    for space, words in SPACES.items():
        rows = [
            _row(evidence, [found, named.get(f"{name}_{space}_floor")], summary)
            for name in NAMES if (found := named.get(f"{name}_{space}"))
        ]  # fmt: skip
        head = ("figure", "drawn (95% interval)", "real against real: the floor", "n", "how")
        inside += table(f"How real, {words}", head, rows, (3,), wrap=(4,)) if rows else ""
    inside += MEMORY
    for space, words in SPACES.items():
        of = [name.format(space) for name in COPIES]
        inside += _table(evidence, [named[n] for n in of if n in named], f"Whose it is, {words}", summary)
    known = {n for n in named if any(n.endswith((f"_{s}", f"_{s}_floor", f"_{s}_held_out")) for s in SPACES)}
    rest = [f for f in evidence.figures if f.name not in known]
    return inside + (_table(evidence, rest, "What an adapted model says of it", summary) if rest else "")


def _translated(evidence: Evidence, summary: Summary) -> str:
    named = {f.name: f for f in evidence.figures}
    pairs = [[f, named.get(f"{f.name}_of_mean")] for f in evidence.figures if not f.name.endswith("_of_mean")]
    head = ("figure", "translated (95% interval)", "the mean training record", "n", "how")
    rows = [_row(evidence, both, summary) for both in pairs]
    shown = table("How faithful", head, rows, (3,), wrap=(4,))
    return f"<h3>{task_name(evidence.task)}</h3>{FAITHFUL}{shown}"


def _row(evidence: Evidence, both: Sequence[Figure | None], summary: Summary) -> list[str]:
    first = both[0]
    assert first is not None
    key = evidence_key(evidence, first.name)
    cells = ["–" if f is None else summary.measured(evidence_key(evidence, f.name), f) for f in both]
    return [_named(first, key, summary), *cells, summary.n(key), summary.note(key)]


def _table(evidence: Evidence, figures: Sequence[Figure], caption: str, summary: Summary) -> str:
    rows = [_row(evidence, [f], summary) for f in figures]
    return table(caption, ("figure", "value (95% interval)", "n", "how"), rows, (2,), wrap=(3,)) if rows else ""


def _named(figure: Figure, key: str, summary: Summary) -> str:
    name = capital(metric_name(figure.name))
    return summary.said(f"{key}.name", name) if any(map(str.isdigit, name)) else escape(name)


def _pairs(pairs: Sequence[Pair], summary: Summary) -> str:
    if not pairs:
        return ""
    figures = "".join(_pair(p, f"pairs.{n}", summary) for n, p in enumerate(pairs, start=1))
    beware = ""
    if any(p.copy for p in pairs):
        beware = warning("A drawn record that is marked as a near-copy is to be handled as the training patient's own.")
    return f'<h3>Closest to a training record</h3>{BESIDE}{beware}<div class="pairs">{figures}</div>'


def _pair(pair: Pair, key: str, summary: Summary) -> str:
    apart = summary.shown(f"{key}.distance", pair.distance, what="distance of the pixels, made small")
    limit = summary.shown(f"{key}.limit", pair.limit, what="distance below which it is a near-copy")
    said = "<strong>a near-copy</strong>" if pair.copy else "no near-copy"
    looks = ""
    for picture, words in ((pair.drawn, "Drawn"), (pair.real, "Training record")):
        if picture is None:
            looks += f"<p>{words}: not shown, {verbatim(pair.why)}</p>"
        else:
            looks += f'<div><img class="thumb" src="{png(picture)}" alt="{words}"><p>{words}</p></div>'
    return (
        f'<figure><div class="pair">{looks}</div><figcaption>{verbatim(pair.name)}: {apart} apart, {said} (below {limit})'
        "</figcaption></figure>"
    )
