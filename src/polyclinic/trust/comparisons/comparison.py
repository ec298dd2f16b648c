"""What came out of comparing: a row an arm of each cell, what was not run, and what the paired differences show.

A cell is (task, inputs, number of labels); its arms learn from the same patients and are tested on the same patients,
so that their difference is paired. Cells that no longer fit the time are listed as such, never left out in silence.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from ...harmonise.unread import Unread, listed
from ...schema import Figure
from ...training.run import write_json
from ..measures.figures import shown
from ..measures.written import figure_of, interval, plain


@dataclass(frozen=True, slots=True)
class Row:
    """One arm of one cell.

    Args:
        task, arm: their names.
        inputs: the modalities that were read.
        labels: how many labelled training patients were used.
        struck: whether disease words were struck from the notes.
        figure: the task's metric on the test side.
        over_scratch: a pretrained arm's metric minus that of the same network from scratch, paired.
        over_baseline: the same against the baseline.
        seconds: to train and answer.
        note: what a reader must know of this row.
    """

    task: str
    arm: str
    inputs: tuple[str, ...]
    labels: int
    struck: bool
    figure: Figure
    over_scratch: Figure | None = None
    over_baseline: Figure | None = None
    seconds: float = 0.0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A cell or an arm that was not run, and why."""

    task: str
    what: str
    why: str


@dataclass(frozen=True)
class Comparison:
    """All rows, what was not run, and of which side ever who could not be read."""

    rows: tuple[Row, ...]
    skipped: tuple[Skipped, ...]
    split: str
    seconds: float
    unread: tuple[Unread, ...] = ()

    def write(self, path: Path) -> Path:
        """Write it as JSON; NaN as null."""
        write_json(path, plain(asdict(self)))
        return path

    @classmethod
    def open(cls, path: Path) -> Comparison:
        """Read what `write` wrote."""
        data = json.loads(path.read_text())
        rows = []
        for row in data["rows"]:
            made = {k: figure_of(row[k]) for k in ("figure", "over_scratch", "over_baseline")}
            rows.append(Row(**{**row, **made, "inputs": tuple(row["inputs"])}))
        skipped = tuple(Skipped(**s) for s in data["skipped"])
        unread = tuple(Unread(**one) for one in data.get("unread", ()))
        return cls(tuple(rows), skipped, data["split"], data["seconds"], unread)

    def tasks(self) -> list[str]:
        """The tasks, in the order in which they were compared."""
        return list(dict.fromkeys(row.task for row in self.rows))

    def __str__(self) -> str:
        lines = [
            f"{'task':<13}{'inputs':<23}{'labels':>6}  {'arm':<10}{'value (95% interval)':<24}{'n':>4}  pretrained − scratch"
        ]
        for r in self.rows:
            inputs = "+".join(r.inputs) + (" −words" if r.struck else "")
            gain = interval(r.over_scratch) if r.over_scratch else ""
            lines.append(
                f"{r.task:<13}{inputs:<23}{r.labels:>6}  {r.arm:<10}{interval(r.figure):<24}{r.figure.n:>4}  {gain}"
            )
        lines += [f"not run: {s.task} {s.what}: {s.why}" for s in self.skipped]
        lines += listed(self.unread, "comparison.json")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the comparison shows, in a sentence, and the counts that it rests on."""

    sentence: str
    better: int
    worse: int
    none: int
    unknown: int


def verdict(comparison: Comparison, against: Literal["scratch", "baseline"] = "scratch") -> Verdict:
    """What the intervals of the paired differences show, and nothing else."""
    which = [r.over_scratch if against == "scratch" else r.over_baseline for r in comparison.rows if not r.struck]
    found = [shown(f) for f in which if f is not None]
    better, worse, none, unknown = (found.count(k) for k in ("better", "worse", "none", "unknown"))
    other = "the same network from scratch" if against == "scratch" else "the simple baseline"
    total = len(found)
    if not total:
        return Verdict(f"The pretrained backbone was not compared with {other}.", 0, 0, 0, 0)
    if not better and not worse:
        said = f"No difference shown between the pretrained backbone and {other}: no interval of {total} excludes zero"
    elif not worse:
        said = f"The pretrained backbone is better than {other} in {better} of {total} comparisons; in the others no difference is shown"
        said = f"The pretrained backbone is better than {other} in all {total} comparisons" if better == total else said
    elif not better:
        said = f"The pretrained backbone is worse than {other} in {worse} of {total} comparisons" + (
            "; in the others no difference is shown" if worse < total else ""
        )
    else:
        said = f"Against {other} the pretrained backbone is better in {better}, worse in {worse} of {total} comparisons"
        said += "; in the others no difference is shown" if none else ""
    said += f" ({unknown} could not be judged)" if unknown else ""
    return Verdict(said + ".", better, worse, none, unknown)
