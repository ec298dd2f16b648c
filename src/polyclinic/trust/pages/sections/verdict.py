"""The head: what the comparison shows in plain words, and each task's figure."""

from __future__ import annotations

import re
from dataclasses import replace
from html import escape
from typing import Literal

from ....schema import Figure
from ...comparisons.comparison import Comparison, Verdict
from ...comparisons.comparison import verdict as judge
from ...evidence import Evidence
from ..inputs import ReportInputs
from ..page import Section, lead, mono, small, table, verbatim, warning
from ..plots import UNIT, strip
from ..summary import Summary
from ..svg import mark, ornament
from .words import (
    METHODS,
    PRIMARY,
    caution,
    chance_of,
    evidence_key,
    headed,
    joined,
    metric_name,
    patients,
    question,
    read_as,
    task_name,
)

Against = Literal["scratch", "baseline"]
State = Literal["better", "worse", "mixed", "none", "unknown"]
SIGNS = {
    "better": ("triangle", "var(--s2)"), "worse": ("down", "var(--s1)"), "mixed": ("diamond", "var(--s4)"),
    "none": ("ring", "var(--s7)"), "unknown": ("cross", "var(--s7)"),
}  # fmt: skip
"""The sign of what was shown: by shape as by colour."""
SAID: dict[State, str] = {
    "better": "better",
    "none": "no difference shown",
    "worse": "worse",
    "unknown": "cannot be judged",
}


AGAINST: tuple[Against, ...] = ("scratch", "baseline")
RESEARCH = (
    '<strong>Research only.</strong> Not a medical device, and validated for no clinical use. <a href="#not-for">What '
    "it must not be used for</a>"
)
ASKED = lead(
    "Is a network that was first pretrained on all kinds of records (the backbone) better than the same network trained "
    "from scratch on the labels alone, and than a simple statistical model (the simple baseline)?"
)
NOT_COMPARED = (
    "Nothing was compared: whether the pretrained backbone is better than the same network from scratch, or than a "
    "simple baseline, is not known."
)
HOW = (
    "A comparison is one task, one set of inputs, one number of labels and one way of adapting; both models answer "
    "about the same patients. “Better” and “worse” are said only where the whole 95% interval of the paired "
    "difference lies on one side of zero. Of many comparisons about one in twenty would do so by chance alone."
)
KEYS = lead(
    "One figure a task, on patients the model never saw, with its 95% interval; the dashed line is what guessing gives."
)


def head(inputs: ReportInputs, summary: Summary) -> str:
    """Title, what it is about, and the warning that nobody may overlook."""
    train, test = (summary.shown(f"split.{side}", n) for side, n in zip(("train", "test"), inputs.sides, strict=True))
    made = f' · <span class="whole">made {verbatim(inputs.made)}</span>' if inputs.made else ""
    return f"""<header><p class="eyebrow">polyclinic · evidence report</p><h1>{escape(inputs.title)}</h1>
<p class="sub">Pretrained run {mono(inputs.run)}: it learned from {train} patients and was tested on {test} others, whom it never saw
 <span class="whole">(split {mono(inputs.split[:12])})</span>{made}</p>{warning(RESEARCH)}</header>"""


def verdict(inputs: ReportInputs, summary: Summary) -> Section:
    """Whether pretraining helped, in sentences that the intervals carry, and where."""
    compared = inputs.comparison
    if compared is None or not compared.rows:
        return Section(
            "verdict", "The verdict", f'<ul class="verdict"><li>{sign("unknown")}<span>{NOT_COMPARED}</span></li></ul>'
        )
    lines = ""
    for against in AGAINST:
        found = judge(compared, against)
        lines += f"<li>{sign(state(found))}<span>{sentence(found, summary, f'verdict.{against}')}</span></li>"
    inside = f'{ASKED}<ul class="verdict">{lines}</ul>{_by_task(inputs, compared, summary)}{_how(compared, summary)}'
    return Section("verdict", "The verdict", inside)


def state(found: Verdict) -> State:
    """What a verdict comes to."""
    if found.better and found.worse:
        return "mixed"
    return "better" if found.better else "worse" if found.worse else "none" if found.none else "unknown"


def sign(of: State) -> str:
    """The sign of what was shown, beside its words."""
    shape, colour = SIGNS[of]
    return ornament(16, 16, [mark(8, 8, shape, 5.4, colour)])


def sentence(found: Verdict, summary: Summary, key: str) -> str:
    """A verdict's sentence, each of its numbers an entry of the summary."""
    total = found.better + found.worse + found.none + found.unknown
    counts = {"better": found.better, "worse": found.worse, "total": total, "unknown": found.unknown}
    entered = {name: summary.shown(f"{key}.{name}", n, what="comparisons") for name, n in counts.items()}
    # The sentence is the comparison's own; it names its counts in this order, and leaves out those that are zero.
    coming, parts = list(counts), []
    for part in re.split(r"(\d+)", found.sentence):
        said = escape(part)
        while part.isdigit() and coming:
            name = coming.pop(0)
            if str(counts[name]) == part:
                said = entered[name]
                break
        parts.append(said)
    return "".join(parts)


def _by_task(inputs: ReportInputs, comparison: Comparison, summary: Summary) -> str:
    rows = []
    for task in comparison.tasks():
        own = replace(comparison, rows=tuple(r for r in comparison.rows if r.task == task))
        rows.append([headed(task, inputs), *(_tally(own, task, against, summary) for against in AGAINST)])
    head = ("task", "against the same network from scratch", "against the simple baseline")
    return table(
        "In how many comparisons of each task the pretrained backbone is better or worse", head, rows, wrap=(0,)
    )


def _tally(own: Comparison, task: str, against: Against, summary: Summary) -> str:
    found, chips = judge(own, against), ""
    for name, words in SAID.items():
        n = getattr(found, name)
        if n:
            count = summary.shown(f"verdict.{against}.{task}.{name}", n, what="comparisons")
            chips += f'<span class="chip">{sign(name)}<span>{count} {words}</span></span> '
    return chips or "not compared"


def _how(comparison: Comparison, summary: Summary) -> str:
    ns = [r.figure.n for r in comparison.rows]
    least = summary.shown("verdict.fewest", min(ns), what="test patients of the smallest comparison")
    most = summary.shown("verdict.most", max(ns), what="test patients of the largest comparison")
    size = (
        f"The smallest test has {least} patients, the largest {most}"
        if min(ns) < max(ns)
        else f"Each test has {least} patients"
    )
    few = "; with so few, only a large difference can show" if min(ns) < 50 else ""
    return small(f"{HOW} {size}{few}.")


def key_figures(inputs: ReportInputs, summary: Summary) -> Section | None:
    """A tile a task: its figure, interval, n, and what to beware of."""
    tiles = ""
    for evidence in inputs.evidence:
        found = next((f for name in PRIMARY for f in evidence.figures if f.name == name), None)
        if found is not None:
            tiles += _tile(inputs, evidence, found, summary)
    if not tiles:
        return None
    return Section("key-figures", "Key figures", f'{KEYS}<div class="keys">{tiles}</div>')


def _tile(inputs: ReportInputs, evidence: Evidence, figure: Figure, summary: Summary) -> str:
    key = evidence_key(evidence, figure.name)
    words = summary.measured(key, figure)
    chance, name = chance_of(figure), escape(metric_name(figure.name))
    if evidence.kind == "retrieval":
        learned = "pretraining alone, without labels"
        guess = summary.shown(f"{key}.chance", chance, what="what guessing gives")
        own = escape(read_as(evidence.inputs[-1], inputs.words))
        name = f"share of patients whose own {own} is the most alike (guessing gives {guess})"
    else:
        labels = summary.shown(evidence_key(evidence, "labels"), evidence.labels, what="labelled training patients")
        learned = f"{escape(METHODS.get(evidence.method, evidence.method))}, {labels} labelled patients"
    beware = caution(figure)
    note = (
        f'<strong>The interval:</strong> <span data-key="{escape(key, quote=True)}">{escape(beware)}</span>.'
        if beware
        else ""
    )
    return f"""<div class="key"><h3>{task_name(evidence.task)}</h3><p>{question(evidence.task, inputs)}</p><p class="big">{words}</p>
{strip(figure, UNIT, at=chance)}<p>{name}; <span class="whole">{patients(summary, key)}</span></p>
<p>Reads {joined(evidence.inputs, inputs.words)}; {learned}.</p><p>{note}</p></div>"""
