"""Evidence: what was measured of a run, as a value that is written beside it and read again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..harmonise.unread import Unread, listed
from ..schema import Figure
from ..training.run import write_json
from .measures.calibration import Bin, Calibration
from .measures.curves import Traced
from .measures.intervals import EvidenceError
from .measures.prognosis import Reliability
from .measures.written import figure_of, interval, plain
from .modalities.contributions import Contributions
from .modalities.subsets import Subset


@dataclass(frozen=True)
class Evidence:
    """What was measured of a run on its test side.

    Args:
        run: its folder's name.
        task: what it answers.
        kind: of the task; "retrieval" of a pretrained run that was taught no other, "synthesis" and "translation" of what one makes.
        method: how it was adapted; "question" or "supervised" where the last stage of pretraining taught it the task, else "pretrained".
        inputs: the modalities that it reads.
        labels: how many labelled patients it learned from.
        split: the split's hash.
        weights: the backbone's hash.
        figures: the metrics.
        calibration: of a classification.
        subsets: the metric with each subset of the inputs.
        others: of a pretrained run, what was measured of the other tasks that it answers.
        risks: of a survival or of each event of hazards, observed against predicted risk by each horizon.
        contributions: what each modality adds, and what is lost without it.
        calibrations: of each finding, or of each grade or a higher one; of classes together, then of each.
        curves: of a detection or keypoints, as the field draws them.
        giveaways: columns and words that alone tell the answer, each in a sentence with its figure and n.
        unread: the test patients who could not be read, and why; no figure counts them.
    """

    run: str
    task: str
    kind: str
    method: str
    inputs: tuple[str, ...]
    labels: int
    split: str
    weights: str
    figures: tuple[Figure, ...]
    calibration: Calibration | None = None
    subsets: tuple[Subset, ...] = ()
    others: tuple[Evidence, ...] = ()
    risks: tuple[Reliability, ...] = ()
    contributions: Contributions | None = None
    calibrations: tuple[Calibration, ...] = ()
    giveaways: tuple[str, ...] = ()
    unread: tuple[Unread, ...] = ()
    curves: tuple[Traced, ...] = ()

    @classmethod
    def open(cls, path: str | Path) -> Evidence:
        """Read `evidence.json`, or that of a run's folder."""
        place = Path(path)
        return cls._read(json.loads((place / "evidence/evidence.json" if place.is_dir() else place).read_text()))

    @classmethod
    def _read(cls, data: Mapping[str, Any]) -> Evidence:
        measured = data["calibration"] and _calibration(data["calibration"])
        parts = tuple(Subset(tuple(s["modalities"]), figure_of(s["figure"]), s["complete"]) for s in data["subsets"])
        risks = tuple(Reliability(**{**r, "bins": tuple(Bin(**b) for b in r["bins"])}) for r in data.get("risks", ()))
        made: dict[str, Any] = {
            "figures": tuple(figure_of(f) for f in data["figures"]),
            "calibration": measured,
            "subsets": parts,
        }
        others = tuple(map(cls._read, data.get("others", ())))
        adds = data.get("contributions")
        made |= {"risks": risks, "others": others, "contributions": adds and Contributions.read(adds, figure_of)}
        made["calibrations"] = tuple(map(_calibration, data.get("calibrations", ())))
        made["curves"] = tuple(map(_curve, data.get("curves", ())))
        told = {"inputs": tuple(data["inputs"]), "giveaways": tuple(data.get("giveaways", ()))}
        told["unread"] = tuple(Unread(**one) for one in data.get("unread", ()))
        return cls(**{**data, **made, **told})

    @property
    def every(self) -> tuple[Evidence, ...]:
        """This, and that of the other tasks."""
        return (self, *self.others)

    def of(self, task: str) -> Evidence:
        """What was measured of a task.

        Raises:
            EvidenceError: nothing was; with the tasks there are.
        """
        for found in self.every:
            if found.task == task:
                return found
        raise EvidenceError(
            f"nothing measured of {task!r} of {self.run}",
            "one of " + ", ".join(e.task for e in self.every),
            "correct the name",
        )

    def since(self, landmark: str) -> Evidence:
        """What was measured from a later landmark, `from 6 months`, as if that were all; subsets of the inputs were not."""
        own = [(f, f.name.removeprefix(f"{landmark}, ")) for f in self.figures]
        return replace(self, figures=tuple(replace(f, name=name) for f, name in own if name != f.name), subsets=())

    def write(self, folder: Path) -> Path:
        """Write `evidence.json` into a folder; NaN as null."""
        place = folder / "evidence.json"
        write_json(place, plain(asdict(self)))
        return place

    def figure(self, name: str) -> Figure:
        """The figure of a name.

        Raises:
            EvidenceError: there is none; with the names there are.
        """
        for figure in (*self.figures, *(self.calibration.figures if self.calibration else ())):
            if figure.name == name:
                return figure
        raise EvidenceError(
            f"no figure {name!r} of {self.run}", "one of " + ", ".join(f.name for f in self.figures), "correct the name"
        )

    def __str__(self) -> str:
        head = f"{self.task} ({self.method}, {'+'.join(self.inputs)}, {self.labels} labels), split {self.split[:12]}"
        extra = [f for f in self.calibration.figures if f.name != "brier"] if self.calibration else []
        extra += [f for c in self.calibrations if not c.name for f in c.figures]
        lines = [head] + [_line(f.name.replace("_", " "), f) for f in (*self.figures, *extra)]
        if self.subsets:
            lines += ["with only", *(_line("  " + " + ".join(s.modalities), s.figure) for s in self.subsets)]
        lines += [f"  beware: {told}" for told in self.giveaways]
        lines += listed(self.unread, "evidence.json")
        for each in self.contributions.each if self.contributions else ():
            lines += [_line(f"{each.modality} adds", each.shapley), _line("  lost without it", each.lost)]
        return "\n".join([*lines, *(f"\n{other}" for other in self.others)])


def _curve(data: Mapping[str, Any]) -> Traced:
    nan = float("nan")
    made: dict[str, Any] = {
        k: tuple(nan if y is None else y for y in v) if isinstance(v, list) else v for k, v in data.items()
    }
    return Traced(**made)


def _calibration(data: Mapping[str, Any]) -> Calibration:
    bins, found = tuple(Bin(**b) for b in data["bins"]), tuple(figure_of(f) for f in data["figures"])
    return Calibration(bins, found, data["n"], data["note"], data.get("name", ""))


def _line(name: str, figure: Figure) -> str:
    return f"  {name:<29} {interval(figure):<24}n = {figure.n:<6}{figure.note}"
