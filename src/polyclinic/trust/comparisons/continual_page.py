"""What `continual` found, for a person: one page with sentences, a plot, and every figure in a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...schema import Figure
from ...training.run import write_text
from ..measures.figures import shown
from ..measures.metrics import CHANCE
from ..measures.transfer import LESS_IS_BETTER
from ..measures.written import signed, unsigned
from ..pages.page import Section, details, facts, lead, mono, page, small, table, told, verbatim
from ..pages.sections.unread import set_aside
from ..pages.sections.words import capital, short_metric
from .line_plot import Line, Panel, averaged, plot

if TYPE_CHECKING:
    from .continual_figures import Continual, Way

CALLED = {
    "average": "average after all", "learned": "average when just learned", "backward_transfer": "backward transfer",
    "forgetting": "forgetting", "forward_transfer": "forward transfer", "forward_over_pretrained": "forward, over pretraining",
}  # fmt: skip
PROTECTS = {
    "none": "the method as it is: nothing of the old is shown again or held",
    "replay": "the earlier tasks’ losses, by their own heads, on their labelled patients, who are rehearsed beside each batch of the new "
    "task (Chaudhry et al. 2019)",
    "rehearsal": "the loss of pretraining, on its training patients, who are rehearsed beside each batch of the new task (Robins 1995)",
    "ewc": "each weight is held by how much pretraining and the earlier tasks mind it; nobody is rehearsed (Kirkpatrick et al. 2017)",
    "distil": "the direction that a patient’s vector had before the task is held, on the task’s own patients; nobody else is rehearsed "
    "(after Li & Hoiem 2017)",
    "interpolate": "the weights go only so far from those before the task to those learned; nobody is rehearsed (Wortsman et al. 2022)",
}
"""What each protection does, and who is rehearsed by it."""
READ = {
    "average": "the mean over all tasks after the last one (Lopez-Paz & Ranzato 2017, equation 2); higher is better",
    "learned": "the mean of each task right after it was learned; higher is better, and who learns nothing forgets nothing",
    "backward_transfer": "the earlier tasks after the last one, minus right after each was learned (equation 3); below zero they got worse",
    "forgetting": "the best of the earlier tasks since each was learned, minus after the last (Chaudhry et al. 2018); lower is better",
    "forward_transfer": "the later tasks just before each is learned, minus a probe on the same network with fresh weights (equation 4)",
    "forward_over_pretrained": "the same minus a probe on the pretrained backbone: what the earlier tasks alone gave",
}


def cell(figure: Figure) -> str:
    """`0.71 (0.58 to 0.84)`, or that it is not known."""
    return unsigned(figure) if math.isfinite(figure.value) else "–"


def _change(figure: Figure) -> str:
    return signed(figure) if math.isfinite(figure.value) else "–"


def sentence(way: Way) -> str:
    """What a way's interval shows of forgetting, and nothing else."""
    forgot = way.measures["forgetting"]
    how = {"better": "The earlier tasks were forgotten", "worse": "The earlier tasks got better", "none": "No forgetting is shown",
           "unknown": "Forgetting could not be judged"}[shown(forgot)]  # fmt: skip
    return f"{way.protect}: {how}: forgetting {_change(forgot)}, average after all {cell(way.measures['average'])}."


def against(way: Way, first: Way) -> str:
    """How a way compares with the first: only what the interval shows."""
    said = []
    for name in ("forgetting", "learned", "average"):
        difference = way.over_first[name]
        seen = shown(difference)
        if seen in ("better", "worse"):
            less = name in LESS_IS_BETTER
            good = (seen == "better") != less
            said.append(f"{CALLED[name]} is {'better' if good else 'worse'} by {_change(difference)}")
    return f"{way.protect} against {first.protect}: " + ("; ".join(said) or "no difference is shown") + "."


def verdict(found: Continual) -> list[str]:
    """The sentences of all ways."""
    first, *others = found.ways
    return [*(sentence(way) for way in found.ways), *(against(way, first) for way in others)]


def html(found: Continual) -> str:
    """The whole page."""
    sections = [_found(found), _steps(found), _pretraining(found), _made(found)]
    count = "all labelled patients" if found.labels is None else f"{found.labels} labelled patients of each"
    head = (
        f'<header><p class="eyebrow">One task after another</p><h1>{escape(" → ".join(map(_called, found.tasks)))}</h1>'
        f'<p class="sub">{verbatim(found.method)} on {mono(found.run)}, {count}; {averaged(found.seeds)}, '
        f"{found.ways[0].measures['average'].n} test patients in all</p></header>"
    )
    foot = "<footer>Research use only. Not a medical device. Made by polyclinic from continual.json, which has every figure.</footer>"
    return page(" → ".join(found.tasks), head, [s for s in sections if s], foot)


def write(found: Continual, folder: Path) -> None:
    """Write `continual.html`."""
    write_text(folder / "continual.html", html(found))


def picture(found: Continual) -> str:
    """A panel a task: its metric after each step, a line a way."""
    ticks = [(0.0, "start"), *((float(i + 1), _called(task)[:14]) for i, task in enumerate(found.tasks))]
    panels = []
    for j, (task, metric) in enumerate(zip(found.tasks, found.metrics, strict=True)):
        lines = [Line(way.protect, [(float(i), row[j]) for i, row in enumerate(way.results)]) for way in found.ways]
        heading = f"{_called(task)}, n = {found.ways[0].results[-1][j].n}"
        panels.append(
            Panel(heading, lines, ticks, "after learning", _metric(metric), (j + 1.0, "learned"), CHANCE.get(metric))
        )
    return plot(panels, f"{' → '.join(found.tasks)} by {found.method}, {averaged(found.seeds)}")


def _called(task: str) -> str:
    return task.replace("_", " ")


def _metric(name: str) -> str:
    return capital(short_metric(name))


def _found(found: Continual) -> Section:
    first, *others = found.ways
    value = {n: cell if n in ("average", "learned") else _change for n in CALLED}
    rows = [[escape(words), *(value[n](w.measures[n]) for w in found.ways)] for n, words in CALLED.items()]
    columns = range(1, len(found.ways) + 1)
    inside = told(verdict(found))
    inside += table(
        "Each way to keep the old, with 95% intervals", ("", *(w.protect for w in found.ways)), rows, columns
    )
    if others:
        rows = [[escape(words), *(_change(w.over_first[n]) for w in others)] for n, words in CALLED.items()]
        caption = f"Each further way minus {first.protect}, on the same patients and seeds, with 95% intervals"
        inside += table(caption, ("", *(w.protect for w in others)), rows, columns[:-1])
    inside += details("What each row says", facts([(CALLED[n], escape(words)) for n, words in READ.items()]))
    return Section("found", "What was learned and what was lost", inside, "What was found")


def _steps(found: Continual) -> Section:
    heads = [f"{_called(t)}: {_metric(m)}" for t, m in zip(found.tasks, found.metrics, strict=True)]
    inside = lead(
        "Each panel is one task, each line one way to keep the old. From left to right the tasks are learned one after another; the "
        "dashed upright line is where the panel’s own is learned. What falls to the right of it is forgotten; what stands to the "
        "left of it was not learned yet, and is asked by a probe on the labels that the task will have. Bars are 95% intervals."
    ) + picture(found)
    for way in found.ways:
        rows = []
        for i, row in enumerate(way.results):
            after = "pretraining alone" if i == 0 else f"{i}. {_called(found.tasks[i - 1])}"
            rows.append([escape(after), *(cell(f) if j < i else f"[{cell(f)}]" for j, f in enumerate(row))])
        inside += table(
            f"{way.protect}: after … each task has; in brackets, not learned yet",
            ("after", *heads),
            rows,
            range(1, len(heads) + 1),
        )
    fresh = "; ".join(f"{escape(_called(t))} {cell(f)}" for t, f in zip(found.tasks, found.fresh, strict=True))
    inside += small(f"Baseline of forward transfer, a probe on the same network with fresh weights: {fresh}.")
    return Section("steps", "Each task after each step", inside, "Each step")


def _pretraining(found: Continual) -> Section | None:
    terms = list(dict.fromkeys(t for way in found.ways for t in way.pretraining))
    if not terms:
        return None
    steps = ["before", *(f"after {_called(t)}" for t in found.tasks)]
    ticks = [(0.0, "start"), *((float(i + 1), _called(task)[:14]) for i, task in enumerate(found.tasks))]
    panels, rows = [], []
    for term in terms:
        lines = [Line(w.protect, _ranges(w.pretraining[term])) for w in found.ways if term in w.pretraining]
        panels.append(Panel(_called(term), lines, ticks, "after learning", "loss (lower is better)"))
        rows += [[verbatim(one.name), escape(_called(term)), *(_range(f) for _, f in one.points)] for one in lines]
    inside = lead(
        "The loss of pretraining’s last stage on patients kept for testing: a rise was forgotten. Each value is the seeds’ mean, and "
        "its bar reaches from the smallest to the largest of them: not a 95% interval."
    )
    inside += plot(panels, "Loss of pretraining after each task")
    inside += table("Mean of the seeds (smallest to largest)", ("way", "term", *steps), rows, range(2, len(steps) + 2))
    return Section("pretraining", "What pretraining lost", inside)


def _ranges(rows: Sequence[Sequence[float]]) -> list[tuple[float, Figure]]:
    """Of each step the mean of the seeds between the smallest and the largest."""
    values = [np.array(row) for row in rows]
    each = [
        (float(v.mean()), *((float(v.min()), float(v.max())) if len(v) > 1 else (math.nan, math.nan))) for v in values
    ]
    return [(float(i), Figure("loss", mean, low, high, 0, "")) for i, (mean, low, high) in enumerate(each)]


def _range(figure: Figure) -> str:
    return f"{figure.value:.3f}" + (f" ({figure.low:.3f} to {figure.high:.3f})" if math.isfinite(figure.low) else "")


def _made(found: Continual) -> Section:
    parts = [part for way in found.ways for part in way.protect.split("+")]
    ways = [(verbatim(part), escape(PROTECTS[part.partition("=")[0]])) for part in dict.fromkeys(parts)]
    counts = [f"{escape(_called(t))} {found.ways[0].results[-1][j].n}" for j, t in enumerate(found.tasks)]
    inside = facts(
        [
            ("learned, in this order", escape(", then ".join(map(_called, found.tasks)))),
            ("method", verbatim(found.method)),
            ("labelled patients", "all of each task" if found.labels is None else f"{found.labels} of each task"),
            (
                "seeds",
                f"{', '.join(map(str, found.seeds))}: of the labels that are drawn, the heads’ first weights and the batches",
            ),
            ("test patients", ", ".join(counts) + "; the same after every step, and none of them trained"),
            ("intervals", "95%, bootstrap over patients (the same in all tasks) and seeds"),
            ("split", mono(found.split)),
        ]
    )
    inside += "<h3>What keeps the old, and who is rehearsed</h3>" + facts(ways)
    inside += small(
        "A number after = is the strength, which nobody searched for these tasks: another, or another order, may do better. Metrics "
        "of different tasks are averaged as they are."
    )
    rows = [
        [verbatim(way.protect), str(seed), *(f"{v:.3f}" if math.isfinite(v) else "–" for v in way.each[k][-1])]
        for way in found.ways for k, seed in enumerate(found.seeds)
    ]  # fmt: skip
    heads = [f"{_called(t)}: {_metric(m)}" for t, m in zip(found.tasks, found.metrics, strict=True)]
    inside += table("Each seed by itself, after all tasks", ("way", "seed", *heads), rows, range(1, len(heads) + 2))
    inside += set_aside(found.unread)
    return Section("made", "How it was made", inside)
