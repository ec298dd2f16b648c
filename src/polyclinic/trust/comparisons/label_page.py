"""What a label curve found, for a person: a table, sentences and a plot."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from ...training.run import write_text
from ..measures.figures import shown
from ..measures.metrics import CHANCE
from .factorial import signed, unsigned
from .line_plot import Line, Panel, averaged, plot

if TYPE_CHECKING:
    from .label_curve import LabelCurve, Saved

NOTES = """\
Each value is the mean of the seeds on the test patients whom the arm could answer about; *behind* is the pretrained minus the arm, paired
by patient and by seed, on those whom both answered about. All arms learn from the same labelled patients; *could read* is how many of
them have a record of what the arm reads. Fewer labels of a seed are among its more. Intervals: 95%, bootstrap over patients and seeds.
`plain` is logistic regression, Cox's model or a mean atlas on the same labels.
"""


def sentence(saved: Saved, most: int) -> str:
    """What is saved at one number of labels, told only where it was reached."""
    told, start = saved.needed, f"With {saved.labels} labels the pretrained reaches what scratch "
    if not math.isfinite(told.value):
        return start + f"does not reach with any number that was tried (up to {most})."
    ends = [f"{v:.0f}" if math.isfinite(v) else f"more than {most}" for v in (told.low, told.high)]
    if saved.fewest:
        return (
            start
            + f"reaches already with {told.value:.0f}, the fewest that were tried (95% interval up to {ends[1]}): nothing is shown saved."
        )
    many = told.value - saved.labels
    gain = f"{many:.0f} labels saved" if many >= 0 else f"{-many:.0f} labels lost"
    return start + f"reaches with {told.value:.0f} (95% interval {ends[0]} to {ends[1]}): {gain}."


def verdict(found: LabelCurve) -> list[str]:
    """What the curve shows: labels saved, and where the pretrained is ahead of each baseline."""
    most = max(p.labels for p in found.points)
    told = [sentence(one, most) for one in found.saved]
    for arm in found.arms[1:]:
        seen = [(p.labels, shown(p.behind)) for p in found.points if p.arm == arm and p.behind is not None]
        said = [f"{words} at {', '.join(str(n) for n, s in seen if s == kind)}"
                for kind, words in (("better", "better"), ("worse", "worse"), ("none", "no difference shown"))
                if any(s == kind for _, s in seen)]  # fmt: skip
        told.append(f"The pretrained against {arm}: {'; '.join(said) or 'could not be judged'} labels.")
    return told


def markdown(found: LabelCurve) -> str:
    """The whole page."""
    first = found.points[0]
    lines = [
        f"# {found.task}: how many labels", "",
        f"`{found.run}` by {found.method} from {', '.join(found.inputs)}; {found.metric}; seeds {', '.join(map(str, found.seeds))}; "
        f"n = {first.figure.n} test patients (split {found.split[:12]}).", "", "![the curve](labels.svg)", "",
        *(f"- {s}" for s in verdict(found)), "",
        f"| arm | labels | could read | {found.metric} (95% interval) | n | seeds | behind the pretrained |",
        "|---|---:|---:|---|---:|---|---|",
    ]  # fmt: skip
    lines += [
        f"| {p.arm} | {p.labels} | {p.read:g} | {unsigned(p.figure)} | {p.figure.n} | {', '.join(f'{v:.3f}' for v in p.each)} "
        f"| {signed(p.behind) if p.behind else '–'} |"
        for p in found.points
    ]
    lines += [f"\nNot run: {s.what}: {s.why}." for s in found.skipped]
    return "\n".join([*lines, "", NOTES])


def picture(found: LabelCurve) -> str:
    """A line an arm; labels by their logarithm."""
    numbers = sorted({p.labels for p in found.points})
    ticks = [(math.log(n), str(n)) for n in numbers]
    lines = [Line(arm, [(math.log(p.labels), p.figure) for p in found.points if p.arm == arm]) for arm in found.arms]
    panel = Panel(f"{found.task}: {found.metric}", lines, ticks, "labelled patients", chance=CHANCE.get(found.metric))
    return plot([panel], f"{found.task} by {found.method}, {averaged(found.seeds)}", size=(640.0, 320.0))


def write(found: LabelCurve, folder: Path) -> None:
    """Write `labels.md` and `labels.svg`."""
    write_text(folder / "labels.md", markdown(found))
    write_text(folder / "labels.svg", picture(found))
