"""Pretrained, from scratch and a simple baseline on the same patients: a forest plot a task."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby

from ...comparisons.comparison import Row
from ..inputs import ReportInputs
from ..page import Column, Section, details, lead, small, strips, table, verbatim
from ..plots import ARM_WORDS, ARMS, UNIT, legend, reach_of, strip, strip_axis
from ..summary import Summary
from ..svg import Scale
from .words import BASELINES, METRICS, capital, chance_of, headed, joined, metric_name, short_metric, task_name

LEAD = lead(
    "All models of a group learned from the same labelled patients and answer about the same test patients. On the "
    "left is how good each is, on the right how much better than the same network from scratch: a bar that lies "
    "wholly to the right of the line shows that pretraining helped, wholly to the left that it harmed; a bar across "
    "the line shows neither."
)
ARMS_EXPLAINED = small(
    "Linear probe: the pretrained network stays as it is, and only a last layer learns (for regions, the layers that "
    "draw them). LoRA: small additions to the network's weights learn too. From scratch: the same network with random "
    "weights to begin with and the same labels, trained for at least as many steps."
)


def row_key(row: Row) -> str:
    """Where a row stands in the summary."""
    return f"{_cell_key(row)}.{row.arm}"


def _cell_key(row: Row) -> str:
    return f"comparison.{row.task}.{'+'.join(row.inputs)}{'.words_struck' * row.struck}.{row.labels}"


def comparison(inputs: ReportInputs, summary: Summary) -> Section | None:
    """A forest plot a task, with what was not run."""
    if inputs.comparison is None or not inputs.comparison.rows:
        return None
    arms = dict.fromkeys(r.arm for r in inputs.comparison.rows)
    inside = LEAD + legend([(ARMS[a], escape(ARM_WORDS[a])) for a in arms]) + ARMS_EXPLAINED
    for task in inputs.comparison.tasks():
        # Rows of struck notes answer another question; they stand beside the X-ray alone.
        inside += _task(inputs, [r for r in inputs.comparison.rows if r.task == task and not r.struck], summary)
    return Section("comparison", "Does pretraining help?", inside + _not_run(inputs))


def _task(inputs: ReportInputs, rows: Sequence[Row], summary: Summary) -> str:
    if not rows:
        return ""
    metric, task = rows[0].figure.name, rows[0].task
    gains = reach_of([r.over_scratch for r in rows])
    columns = (
        Column("model", "name"),
        Column(strip_axis(UNIT), "strip"),
        Column(f"{escape(short_metric(metric))}<br>(95% interval)", "value"),
        Column("n", "n", "n ="),
        Column(strip_axis(gains, ("← worse", "better →")), "strip"),
        Column("pretrained − scratch<br>(95% interval)", "value", "pretrained − scratch:"),
    )
    groups = []
    for _, cell in groupby(rows, key=_cell_key):
        mine = list(cell)
        groups.append((_heading(inputs, mine[0], summary), [_line(r, gains, summary) for r in mine]))
    meaning = METRICS.get(metric, (metric, ""))[1]
    simple = f" The simple baseline is {BASELINES[metric]}." if metric in BASELINES else ""
    caption = f"{task.replace('_', ' ')}: every model by inputs and number of labels"
    said = f"{capital(metric_name(metric))}: {meaning}.{simple}"
    return (
        f"<h3>{headed(task, inputs)}</h3>{small(escape(said))}"
        f"{strips(caption, columns, groups, hide_caption=True)}{_notes(rows, summary)}{_more(inputs, rows, summary)}"
    )


def _heading(inputs: ReportInputs, row: Row, summary: Summary) -> str:
    count = summary.shown(f"{_cell_key(row)}.labels", row.labels, what="labelled training patients")
    return f"{capital(joined(row.inputs, inputs.words))}, {count} labelled patients"


def _line(row: Row, gains: Scale, summary: Summary) -> list[str]:
    key, look = row_key(row), ARMS[row.arm]
    words = summary.measured(key, row.figure)
    cells = [ARM_WORDS[row.arm], strip(row.figure, UNIT, look, chance_of(row.figure)), words, summary.n(key)]
    if row.over_scratch is None:
        return [*cells, strip(None, gains, at=0.0), ""]
    gain = summary.measured(f"{key}.over_scratch", row.over_scratch, signed=True)
    return [*cells, strip(row.over_scratch, gains, look, 0.0), gain]


def _notes(rows: Sequence[Row], summary: Summary) -> str:
    """What a reader must know of a cell, once each."""
    found = {row.note: f"{row_key(row)}.to_know" for row in reversed(rows) if row.note}
    return "".join(small(f"To know: {summary.said(key, note)}.") for note, key in found.items())


def _more(inputs: ReportInputs, rows: Sequence[Row], summary: Summary) -> str:
    """The paired differences from the simple baseline, and how every interval was made."""
    lines = []
    for row in rows:
        key = row_key(row)
        other = summary.measured(f"{key}.over_baseline", row.over_baseline, signed=True) if row.over_baseline else "–"
        took = summary.shown(f"{key}.seconds", row.seconds, f"{row.seconds:.1f}", what="seconds to train and answer")
        labels = summary.html(f"{_cell_key(row)}.labels")
        where = f"{ARM_WORDS[row.arm]}: {joined(row.inputs, inputs.words)}, {labels} labels"
        lines.append([where, summary.html(key), other, took, summary.note(key)])
    head = ("model", "value (95% interval)", "pretrained − baseline", "seconds", "how the interval was made")
    inside = table("The same rows with their differences from the simple baseline", head, lines, (3,), wrap=(4,))
    return details("Differences from the simple baseline, seconds, and how each interval was made", inside)


def _not_run(inputs: ReportInputs) -> str:
    assert inputs.comparison is not None
    rows = [[task_name(s.task), verbatim(s.what), verbatim(s.why)] for s in inputs.comparison.skipped]
    if not rows:
        return ""
    head = ("task", "what", "why")
    return "<h3>What was not run</h3>" + table("Comparisons that were not run, and why", head, rows, wrap=(1, 2))
