"""What a label curve found, for a person: one page with sentences, a plot, and every figure in a table."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from ...training.run import write_text
from ..measures.figures import shown
from ..measures.metrics import CHANCE
from ..measures.written import signed, unsigned
from ..pages.page import Section, facts, lead, mono, page, small, table, told, verbatim
from ..pages.sections.unread import set_aside
from ..pages.sections.words import METRICS, capital, metric_name, short_metric
from .line_plot import Line, Panel, averaged, plot

if TYPE_CHECKING:
    from .label_curve import LabelCurve, Saved

ARMS = {
    "pretrained": "the method on the pretrained backbone, reading all that the task may",
    "scratch": "the same network with fresh weights, trained on these labels alone",
    "plain": "no network: logistic regression on pixels, words and cells, Cox’s model, or a mean atlas, on the same labels",
}


def sentence(saved: Saved, most: int) -> str:
    """What is saved at one number of labels, told only where it was reached."""
    needed, start = saved.needed, f"With {saved.labels} labels the pretrained reaches what scratch "
    if not math.isfinite(needed.value):
        return start + f"does not reach with any number that was tried (up to {most})."
    ends = [f"{v:.0f}" if math.isfinite(v) else f"more than {most}" for v in (needed.low, needed.high)]
    if saved.fewest:
        return (
            start
            + f"reaches already with {needed.value:.0f}, the fewest that were tried (95% interval up to {ends[1]}): nothing is shown saved."
        )
    many = needed.value - saved.labels
    gain = f"{many:.0f} labels saved" if many >= 0 else f"{-many:.0f} labels lost"
    return start + f"reaches with {needed.value:.0f} (95% interval {ends[0]} to {ends[1]}): {gain}."


def verdict(found: LabelCurve) -> list[str]:
    """What the curve shows: labels saved, and where the pretrained is ahead of each baseline."""
    most = max(p.labels for p in found.points)
    said = [sentence(one, most) for one in found.saved]
    for arm in found.arms[1:]:
        seen = [(p.labels, shown(p.behind)) for p in found.points if p.arm == arm and p.behind is not None]
        parts = [f"{words} at {', '.join(str(n) for n, s in seen if s == kind)}"
                 for kind, words in (("better", "better"), ("worse", "worse"), ("none", "no difference shown"))
                 if any(s == kind for _, s in seen)]  # fmt: skip
        said.append(f"The pretrained against {arm}: {'; '.join(parts) or 'could not be judged'} labels.")
    return said


def html(found: LabelCurve) -> str:
    """The whole page."""
    first = found.points[0]
    head = (
        f'<header><p class="eyebrow">How many labels</p><h1>{verbatim(found.task.replace("_", " "))}</h1>'
        f'<p class="sub">{verbatim(found.method)} on {mono(found.run)} from {escape(", ".join(found.inputs))}; {averaged(found.seeds)}, '
        f"{first.figure.n} test patients</p></header>"
    )
    foot = "<footer>Research use only. Not a medical device. Made by polyclinic from labels.json, which has every figure.</footer>"
    return page(f"{found.task}: how many labels", head, [_found(found), _curve(found), _made(found)], foot)


def write(found: LabelCurve, folder: Path) -> None:
    """Write `labels.html`."""
    write_text(folder / "labels.html", html(found))


def picture(found: LabelCurve) -> str:
    """A line an arm; labels by their logarithm."""
    numbers = sorted({p.labels for p in found.points})
    ticks = [(math.log(n), str(n)) for n in numbers]
    lines = [Line(arm, [(math.log(p.labels), p.figure) for p in found.points if p.arm == arm]) for arm in found.arms]
    heading = f"{found.task.replace('_', ' ')}, {averaged(found.seeds)}, n = {found.points[0].figure.n} test patients"
    label = "labelled patients (logarithmic)"
    panel = Panel(heading, lines, ticks, label, capital(short_metric(found.metric)), chance=CHANCE.get(found.metric))
    return plot([panel], f"{found.task} by {found.method}, {averaged(found.seeds)}", size=(760.0, 330.0))


def _found(found: LabelCurve) -> Section:
    inside = told(verdict(found))
    if found.saved:
        head = ("labels of the pretrained", "labels from scratch", "95% interval")
        rows = [[str(s.labels), *_needed(s, found)] for s in found.saved]
        inside += table("Labels from scratch that reach what the pretrained reaches", head, rows, (1, 2))
        inside += small(
            "The curve of scratch is read across, between two numbers by their logarithms, where it first reaches the pretrained’s value: "
            "a number is told only where it was reached."
        )
    return Section("found", "What the labels bought", inside, "What was found")


def _needed(saved: Saved, found: LabelCurve) -> tuple[str, str]:
    """How many labels from scratch, and the interval."""
    if not math.isfinite(saved.needed.value):
        return "not reached", "–"
    most = max(p.labels for p in found.points)
    ends = (f"{v:.0f}" if math.isfinite(v) else f"more than {most}" for v in (saved.needed.low, saved.needed.high))
    return f"{saved.needed.value:.0f}" + (" or fewer" if saved.fewest else ""), " to ".join(ends)


def _curve(found: LabelCurve) -> Section:
    means = METRICS.get(found.metric, ("", ""))[1]
    what = capital(metric_name(found.metric)) + (f": {means}" if means else "")
    inside = lead(
        f"{escape(what)}. Each mark is the mean of the seeds on test patients, its bar a 95% interval. Where "
        "two bars overlap, look at the last column: it is the difference on the same patients, and shows more."
    ) + picture(found)
    rows = [
        [
            verbatim(p.arm), str(p.labels), f"{p.read:g}", unsigned(p.figure), str(p.figure.n), ", ".join(f"{v:.3f}" for v in p.each),
            signed(p.behind) if p.behind else "–",
        ]
        for p in found.points
    ]  # fmt: skip
    seeds = f"seeds {', '.join(map(str, found.seeds))}"
    value = f"{short_metric(found.metric)} (95% interval)"
    head = ("arm", "labels", "of whom it could read", value, "n", seeds, "pretrained minus this arm")
    inside += table("Every point of the plot", head, rows, (1, 2, 3, 4, 5, 6))
    inside += set_aside(found.unread)
    if found.skipped:
        inside += table("Not run", ("what", "why"), [[escape(s.what), escape(s.why)] for s in found.skipped], wrap=(1,))
    return Section("curve", "The curve", inside)


def _made(found: LabelCurve) -> Section:
    arms = [
        (verbatim(arm), escape(ARMS.get(arm, "the method on the backbone, reading this modality alone")))
        for arm in found.arms
    ]
    inside = facts(
        [
            ("method", verbatim(found.method)),
            ("reads", escape(", ".join(found.inputs))),
            (
                "seeds",
                f"{', '.join(map(str, found.seeds))}: of the labels’ order, the heads’ first weights and the batches",
            ),
            (
                "labels",
                "the fewer of a seed are among its more, and every arm learns from the very same labelled patients",
            ),
            (
                "test patients",
                f"{found.points[0].figure.n}, the same for every arm that could answer about them; none of them trained",
            ),
            ("intervals", "95%, bootstrap over patients and seeds; differences are paired by patient and by seed"),
            ("split", mono(found.split)),
        ]
    )
    return Section("made", "How it was made", inside + "<h3>Who was compared</h3>" + facts(arms))
