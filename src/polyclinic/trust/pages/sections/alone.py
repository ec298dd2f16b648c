"""The X-ray alone beside everything: what is left of an answer when the notes, which may state the diagnosis, are not read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from ....schema import Figure, Modality
from ...comparisons.comparison import Row
from ...evidence import Evidence
from ..inputs import ReportInputs
from ..page import Column, Section, small, strips, warning
from ..plots import ARM_WORDS, ARMS, PLAIN, UNIT, Look, strip, strip_axis
from ..summary import Summary
from .comparison import row_key
from .evidence import subset_key
from .words import METHODS, capital, chance_of, headed, patients, plain, read_as

IMAGE, TEXT = Modality.IMAGE.value, Modality.TEXT.value
Keyed = tuple[str, Figure]
"""A figure, and where it stands in the summary."""


@dataclass(frozen=True, slots=True)
class Beside:
    """One model with the X-ray alone, with everything, and with everything but the disease words of the notes."""

    name: str
    look: Look
    alone: Keyed
    every: Keyed | None
    struck: Keyed | None


def alone(inputs: ReportInputs, summary: Summary) -> Section | None:
    """A table of figures side by side for each classification that reads both X-rays and notes."""
    parts = "".join(_task(inputs, task, summary) for task in _tasks_with_notes(inputs))
    if not parts:
        return None
    picture, note = read_as(IMAGE, inputs.words), read_as(TEXT, inputs.words)
    said = ""
    if inputs.notes_tell:
        said = warning(
            f"<strong>{escape(capital(note))}s of this data often state the diagnosis.</strong> A model that reads them "
            f"may find the answer there instead of seeing it. What the {escape(picture)} itself tells is the figure on "
            f"the left; where there is a column with the disease words struck, the {escape(note)}s were read without the "
            "words that name a disease."
        )
    heading = f"{capital(picture)} alone, and with {note}s"
    return Section("alone", heading, said + parts)


def _tasks_with_notes(inputs: ReportInputs) -> list[str]:
    rows = inputs.comparison.rows if inputs.comparison else ()
    reads = [(r.task, r.inputs) for r in rows if r.figure.name == "auroc"]
    reads += [(e.task, e.inputs) for e in inputs.evidence if e.kind == "classification"]
    return list(dict.fromkeys(task for task, which in reads if {IMAGE, TEXT} <= set(which)))


def _task(inputs: ReportInputs, task: str, summary: Summary) -> str:
    compared, less = _compared(inputs, task), _shown_less(inputs, task)
    rows = compared + less
    if not rows:
        return ""
    axis, picture = strip_axis(UNIT), capital(read_as(IMAGE, inputs.words))
    heads = [f"{picture} alone", capital(plain(_everything(inputs, task), inputs.words))]
    if any(r.struck for r in rows):
        heads.append("the same, disease words struck")
    columns = [Column("model", "name"), *(Column(f"{escape(h)}{axis}", "strip held", f"{h}:") for h in heads)]
    lines = [
        [escape(r.name), *(_held(f, r.look, summary) for f in (r.alone, r.every, r.struck)[: len(heads)])] for r in rows
    ]
    caption = "AUROC with its 95% interval, and n test patients; the dashed line is guessing"
    explained = ""
    if compared and less:
        explained = small(
            f"“Shown less” is one model that learned to read everything and is then shown the {escape(picture)} only; "
            f"the other rows learned from the {escape(picture)} alone."
        )
    return (
        f"<h3>{headed(task, inputs)}</h3>{strips(caption, columns, [('', lines)])}{explained}"
        f"{_few_notes(inputs, task, summary)}"
    )


def _everything(inputs: ReportInputs, task: str) -> tuple[str, ...]:
    rows = inputs.comparison.rows if inputs.comparison else ()
    every = [r.inputs for r in rows if r.task == task] + [e.inputs for e in inputs.evidence if e.task == task]
    return max(every, key=len)


def _held(found: Keyed | None, look: Look, summary: Summary) -> str:
    if found is None:
        return '<span class="under">not compared</span>'
    key, figure = found
    words = summary.measured(key, figure)
    drawn = strip(figure, UNIT, look, chance_of(figure))
    return f'{drawn}<span class="under">{words}, {patients(summary, key)}</span>'


def _compared(inputs: ReportInputs, task: str) -> list[Beside]:
    """Each arm of the comparison with the most labels that it was given."""
    mine = [r for r in (inputs.comparison.rows if inputs.comparison else ()) if r.task == task]
    rows = []
    for arm in dict.fromkeys(r.arm for r in mine):
        own = [r for r in mine if r.arm == arm]
        one = _best(own, lambda r: r.inputs == (IMAGE,))
        every = _best(own, lambda r: r.inputs != (IMAGE,) and not r.struck)
        struck = _best(own, lambda r: r.struck)
        if one and (every or struck):
            rows.append(Beside(ARM_WORDS[arm], ARMS[arm], one, every, struck))
    return rows


def _best(rows: Sequence[Row], admits: Callable[[Row], bool]) -> Keyed | None:
    most = max((r for r in rows if admits(r)), key=lambda r: (r.labels, len(r.inputs)), default=None)
    return (row_key(most), most.figure) if most else None


def _shown_less(inputs: ReportInputs, task: str) -> list[Beside]:
    """An adapted run that reads everything, shown only the X-ray."""
    rows = []
    for e in (e for e in inputs.evidence if e.task == task):
        by = _by_modalities(e)
        if (IMAGE,) in by and len(by) > 1:
            name = f"adapted model ({METHODS.get(e.method, e.method)}), shown less"
            rows.append(Beside(name, PLAIN, by[IMAGE,], by[max(by, key=len)], None))
    return rows


def _by_modalities(evidence: Evidence) -> dict[tuple[str, ...], Keyed]:
    return {s.modalities: (subset_key(evidence, s), s.figure) for s in evidence.subsets}


def _few_notes(inputs: ReportInputs, task: str, summary: Summary) -> str:
    """Where hardly a test patient has a note, the figure with notes says little about notes."""
    for e in (e for e in inputs.evidence if e.task == task):
        by = _by_modalities(e)
        if (TEXT,) not in by:
            continue
        (only, has), (every, all_of) = by[TEXT,], by[max(by, key=len)]
        if 2 * has.n < all_of.n:
            summary.figure(only, has)
            summary.figure(every, all_of)
            note = escape(read_as(TEXT, inputs.words))
            return (
                f"<p><strong>Only {summary.n(only)} of the {summary.n(every)} labelled test patients have a {note} at all:</strong> "
                f"here the figure with {note}s hardly rests on {note}s.</p>"
            )
    return ""
