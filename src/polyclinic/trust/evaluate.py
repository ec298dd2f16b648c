"""Evidence: what can be said of a run, with n, intervals and the split's hash."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..adaptation import open_adapted, predict
from ..cohort import Cohort
from ..schema import Figure
from ..tasks import Retrieval, Segmentation
from ..training import Run
from ..training.run import file_hash, write_json
from .calibration import Bin, Calibration, calibration
from .comparison import figure_of, interval, plain
from .discrimination import DRAWS, EvidenceError, figures
from .retrieval import retrieval_figures
from .subsets import Subset
from .subsets import subsets as every_subset


@dataclass(frozen=True)
class Evidence:
    """What was measured of a run on its test side.

    Args:
        run: its folder's name.
        task: what it answers; "retrieval" for a pretrained run.
        kind: of the task.
        method: how it was adapted; "pretrained" where it was not.
        inputs: the modalities that it reads.
        labels: how many labelled patients it learned from.
        split: the split's hash.
        weights: the backbone's hash.
        figures: the metrics.
        calibration: of a classification.
        subsets: the metric with each subset of the inputs.
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

    @classmethod
    def open(cls, path: str | Path) -> Evidence:
        """Read `evidence.json`, or that of a run's folder."""
        place = Path(path)
        data = json.loads((place / "evidence/evidence.json" if place.is_dir() else place).read_text())
        known = data["calibration"]
        measured = known and Calibration(
            tuple(Bin(**b) for b in known["bins"]),
            tuple(figure_of(f) for f in known["figures"]),
            known["n"],
            known["note"],
        )
        parts = tuple(Subset(tuple(s["modalities"]), figure_of(s["figure"]), s["complete"]) for s in data["subsets"])
        made = {"figures": tuple(figure_of(f) for f in data["figures"]), "calibration": measured, "subsets": parts}
        return cls(**{**data, **made, "inputs": tuple(data["inputs"])})

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
        lines = [head] + [_line(f.name.replace("_", " "), f) for f in (*self.figures, *extra)]
        if self.subsets:
            lines += ["with only", *(_line("  " + " + ".join(s.modalities), s.figure) for s in self.subsets)]
        return "\n".join(lines)


def _line(name: str, figure: Figure) -> str:
    return f"  {name:<30}{interval(figure):<24}n = {figure.n:<6}{figure.note}"


def evaluate(
    run: Run | str | Path, cohort: Cohort | str | Path | None = None, *, subsets: bool = True, draws: int = DRAWS
) -> Evidence:
    """Measure a run on its test side, and write `<run>/evidence/evidence.json` and `<run>/card.md`.

    Args:
        run: adapted, or pretrained (then its retrieval tasks are measured), or its folder.
        cohort: where it lies now; by default where it lay.
        subsets: also measure every subset of the inputs.
        draws: resamples.
    Raises:
        EvidenceError: a pretrained run whose recipe has no retrieval task; nobody to test on.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    catalogue = cohort if isinstance(cohort, Cohort) else run.cohort(cohort)
    found = _adapted(run, catalogue, subsets, draws) if run.adapter else _pretrained(run, catalogue, draws)
    found.write(run.path / "evidence")
    from .card import card

    (run.path / "card.md").write_text(card(run, catalogue, [found]))
    return found


def _adapted(run: Run, cohort: Cohort, all_subsets: bool, draws: int) -> Evidence:
    adapted = open_adapted(run)
    spec, split = run.recipe.tasks[adapted.name], run.split.hash
    answers = predict(adapted, cohort)
    if not len(answers.patients) or not bool(answers.mask.any()):
        raise EvidenceError(
            f"no labelled test patient of {adapted.name!r}",
            "at least one on the test side",
            "label some, or change the split's seed",
        )
    classes: Sequence[str] = spec.classes if isinstance(spec, Segmentation) else ()
    return Evidence(
        run.path.name, adapted.name, spec.kind, run.adapter["method"], tuple(m.value for m in adapted.inputs), run.adapter["labels"], split,
        file_hash(run.weights), figures(spec.kind, answers, split, classes, draws=draws),
        calibration(answers, split, draws=draws) if spec.kind == "classification" else None,
        every_subset(adapted, cohort, draws=draws) if all_subsets and len(adapted.inputs) > 1 else (),
    )  # fmt: skip


def _pretrained(run: Run, cohort: Cohort, draws: int) -> Evidence:
    asked = {n: s for n, s in run.recipe.tasks.items() if isinstance(s, Retrieval)}
    if not asked:
        raise EvidenceError(
            f"a pretrained run {run.path.name} whose recipe has no retrieval task",
            "a run adapted to a task, or a retrieval task",
            "adapt it first",
        )
    (name, spec), *others = asked.items()
    found = [*retrieval_figures(run, cohort, spec, draws=draws)]
    for other, further in others:  # the first one's figures keep their names
        found += [replace(f, name=f"{other}: {f.name}") for f in retrieval_figures(run, cohort, further, draws=draws)]
    inputs, split, weights = (spec.query.value, spec.answer.value), run.split.hash, file_hash(run.weights)
    return Evidence(run.path.name, name, "retrieval", "pretrained", inputs, 0, split, weights, tuple(found))
