"""What `continual` found, for a person: tables, sentences and a plot."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...schema import Figure
from ...training.run import write_text
from ..measures.figures import shown
from ..measures.metrics import CHANCE
from ..measures.transfer import LESS_IS_BETTER
from .factorial import signed, unsigned
from .line_plot import Line, Panel, averaged, plot

if TYPE_CHECKING:
    from .continual_figures import Continual, Way

CALLED = {
    "average": "average after all", "learned": "average when just learned", "backward_transfer": "backward transfer",
    "forgetting": "forgetting", "forward_transfer": "forward transfer", "forward_over_pretrained": "forward, over pretraining",
}  # fmt: skip
NOTES = """\
A cell is the metric of the task of its column after the tasks down to its row, on test patients; in brackets, it was not learned yet and is
asked by a probe on the labels that it will have. **Average**, **backward** and **forward transfer** are equations 2 to 4 of Lopez-Paz
& Ranzato (2017); the baseline of forward transfer is a probe on the same network with fresh weights, and *over pretraining* on the
backbone before all tasks. **Forgetting** is that of Chaudhry et al. (2018), over the earlier tasks, from when each was learned. Metrics of
different tasks are averaged as they are. Intervals: 95%, bootstrap over patients (the same in all tasks) and seeds.
"""


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
    told = []
    for name in ("forgetting", "learned", "average"):
        difference = way.over_first[name]
        seen = shown(difference)
        if seen in ("better", "worse"):
            less = name in LESS_IS_BETTER
            good = (seen == "better") != less
            told.append(f"{CALLED[name]} is {'better' if good else 'worse'} by {_change(difference)}")
    return f"{way.protect} against {first.protect}: " + ("; ".join(told) or "no difference is shown") + "."


def verdict(found: Continual) -> list[str]:
    """The sentences of all ways."""
    first, *others = found.ways
    return [*(sentence(way) for way in found.ways), *(against(way, first) for way in others)]


def _matrix(found: Continual, way: Way) -> list[str]:
    heads = [f"{task} ({metric})" for task, metric in zip(found.tasks, found.metrics, strict=True)]
    lines = [f"### {way.protect}", "", "| after | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for i, row in enumerate(way.results):
        words = [cell(f) if j < i else f"[{cell(f)}]" for j, f in enumerate(row)]
        lines.append(f"| {'pretraining' if i == 0 else f'{i}. {found.tasks[i - 1]}'} | " + " | ".join(words) + " |")
    return [*lines, ""]


def _pretraining(found: Continual) -> list[str]:
    terms = list(dict.fromkeys(t for way in found.ways for t in way.pretraining))
    if not terms:
        return []
    steps = ["before", *(f"after {t}" for t in found.tasks)]
    lines = ["## What pretraining lost", "", "Its loss on patients kept for testing, mean of seeds (from, to): a rise was forgotten.", "",
             "| way | term | " + " | ".join(steps) + " |", "|---|---" + "|---:" * len(steps) + "|"]  # fmt: skip
    for way in found.ways:
        for term in terms:
            rows = [np.array(r) for r in way.pretraining.get(term, ())]
            told = [f"{r.mean():.3f}" + (f" ({r.min():.3f}, {r.max():.3f})" if np.ptp(r) > 0 else "") for r in rows]
            lines.append(f"| {way.protect} | {term} | " + " | ".join(told) + " |")
    return [*lines, ""]


def markdown(found: Continual) -> str:
    """The whole page."""
    count = "all labels" if found.labels is None else f"{found.labels} labels each"
    first = found.ways[0].measures["average"]
    names = list(CALLED)
    lines = [
        f"# {' → '.join(found.tasks)}", "",
        f"`{found.run}` by {found.method}, {count}; seeds {', '.join(map(str, found.seeds))}; {first.n} test patients in all (split "
        f"{found.split[:12]}).", "", "![each task after each step](continual.svg)", "", *(f"- {s}" for s in verdict(found)), "",
        "| way | " + " | ".join(CALLED[n] for n in names) + " |", "|---" * (len(names) + 1) + "|",
    ]  # fmt: skip
    for way in found.ways:
        told = [cell(way.measures[n]) if n in ("average", "learned") else _change(way.measures[n]) for n in names]
        lines.append(f"| {way.protect} | " + " | ".join(told) + " |")
    lines += ["", "## Each task after each step", ""]
    for way in found.ways:
        lines += _matrix(found, way)
    fresh = ", ".join(f"{t} {cell(f)}" for t, f in zip(found.tasks, found.fresh, strict=True))
    return "\n".join(
        [*lines, f"A probe on the same network with fresh weights: {fresh}.", "", *_pretraining(found), NOTES]
    )


def picture(found: Continual) -> str:
    """A panel a task: its metric after each step, a line a way."""
    ticks = [(0.0, "start"), *((float(i + 1), task[:12]) for i, task in enumerate(found.tasks))]
    panels = []
    for j, (task, metric) in enumerate(zip(found.tasks, found.metrics, strict=True)):
        lines = [Line(way.protect, [(float(i), row[j]) for i, row in enumerate(way.results)]) for way in found.ways]
        panels.append(Panel(f"{task}: {metric}", lines, ticks, "after", (j + 1.0, "learned"), CHANCE.get(metric)))
    return plot(panels, f"{' → '.join(found.tasks)} by {found.method}, {averaged(found.seeds)}")


def write(found: Continual, folder: Path) -> None:
    """Write `continual.md` and `continual.svg`."""
    write_text(folder / "continual.md", markdown(found))
    write_text(folder / "continual.svg", picture(found))
