"""The hippocampus in MR, folds of cross-validation on the patients: Dice with all labels, and with few, pretrained and not.

    .venv/bin/python benchmarks/results/hippocampus.py --data ../shared/data/hippocampus-mri --out made/hippocampus

The network is a small vision transformer whose tokens enter the lowest level of a U-Net at full resolution. *Pretrained* means that the
transformer learned to tell hidden boxes of the training patients' volumes (MAE, He et al. 2022), without their masks; *scratch* that
it begins as it is drawn. Both then learn alike: the same masks, steps and changes of the volumes. Beside them stands the mean of the
training masks. Each training's answers are kept under `--out`, so that it can be stopped and goes on where it was; the page is made of what
there is. `--quick` shows that it runs; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import polyclinic
from polyclinic.adaptation import adapt
from polyclinic.cohort import Cohort, ingest
from polyclinic.inference import predict
from polyclinic.schema import Figure, Modality
from polyclinic.tasks import Predictions
from polyclinic.training import Recipe, Run, pretrain
from polyclinic.trust.comparisons.baselines import atlas
from polyclinic.trust.measures.figures import difference, figures

TASK, CLASSES, FOLDS = "hippocampus", ("anterior", "posterior"), 5
SCRATCH, PRETRAINED, ATLAS = "scratch", "pretrained", "mean atlas"
METHODS = {SCRATCH: {"kind": "scratch", "lr": 4e-3}, PRETRAINED: {"kind": "full", "lr": 4e-3, "decay": 0.5}}
FEW = (5, 10, 20, 50)
LESS = {
    "convolutions at half resolution and below, 8 channels": {"full": False, "channels": 8},
    "volumes as they are": {"augment": None},
}
"""From scratch with all labels, without one of what the task says."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is done.

    Args:
        pretraining: steps, of 16 volumes.
        steps: of one volume, with all labels.
        few: of one volume, with few.
        width, depth: of the transformer.
        channels: of the U-Net at full resolution.
        few_labels: how many.
    """

    pretraining: int = 300
    steps: int = 600
    few: int = 150
    width: int = 128
    depth: int = 4
    channels: int = 16
    few_labels: tuple[int, ...] = FEW


QUICK = Sizes(pretraining=2, steps=2, few=2, width=16, depth=1, channels=2, few_labels=(5,))


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One training.

    Args:
        fold: whose patients are asked about.
        labels: how many masks are learned from; None for all.
        arm: scratch, pretrained, the atlas, or what is left out.
        seed: of the labels' order and of the weights.
    """

    fold: int
    labels: int | None
    arm: str
    seed: int = 0

    @property
    def name(self) -> str:
        """Of its file."""
        return f"fold{self.fold}-{self.labels or 'all'}-{re.sub('[^a-z0-9]+', '-', self.arm)}-{self.seed}"


def recipe(fold: int, sizes: Sizes, less: str | None = None) -> Recipe:
    """Volumes of 40 × 56 × 40 voxels of 1 mm hold every mask; one fold tests, and nobody of it is seen."""
    network = {"width": sizes.width, "depth": sizes.depth, "heads": 4 if sizes.width >= 64 else 2}
    if less is not None:  # it learns from scratch, and needs no pretraining but a run
        sizes = replace(sizes, pretraining=1)
    fusion = {"kind": "intermediate", "depth": 1, "heads": network["heads"]}
    return Recipe.model_validate({
        "name": f"hippocampus-fold{fold}" + ("" if less is None else f"-less{list(LESS).index(less)}"),
        "cohort": {"split": {"folds": FOLDS, "turn": fold}},
        "encoders": {
            "volume": {"kind": "vit3d", "size": [40, 56, 40], "patch": [8, 8, 8], **network},
        },
        "model": {"kind": "unified", "width": sizes.width, "embedding": sizes.width, "fusion": fusion},
        "tasks": {TASK: {
            "kind": "segmentation", "structure": "", "classes": CLASSES, "channels": sizes.channels, "full": True, "batch": 1,
            "augment": {}, **LESS.get(less or "", {}),
        }},
        "stages": [{"name": "masked", "steps": sizes.pretraining, "batch": 16, "objective": {"kind": "masked", "ratio": 0.6}}],
        "precision": "bf16",
    })  # fmt: skip


def cells(folds: Sequence[int], curves: Sequence[int], few: Sequence[int]) -> list[Cell]:
    """What is to be done, the most wanted first: all labels in every fold, then curves fold by fold; what is left out in the first."""
    whole = [Cell(fold, None, arm) for fold in folds for arm in (ATLAS, SCRATCH)]
    curve = [Cell(fold, n, arm) for fold in curves for n in few for arm in (SCRATCH, PRETRAINED)]
    less, first = [Cell(folds[0], None, arm) for arm in LESS], 2 * len(few)
    return [*whole, *curve[:first], *less, *curve[first:], *(Cell(fold, None, PRETRAINED) for fold in curves)]


def answers(cell: Cell, run: Run, cohort: Cohort, sizes: Sizes) -> dict[str, Any]:
    """Dice of each test patient of a fold, and what it took."""
    began = time.monotonic()
    if cell.arm == ATLAS:
        split = run.split
        loader = run.loader(cohort, (*split.train, *split.test), (TASK,))
        told, steps = atlas(loader, TASK, split.train, split.test, len(CLASSES), Modality.VOLUME), 0
        learned = len(split.train)
    else:
        steps = sizes.steps if cell.labels is None else sizes.few
        tell = lambda done, total, what: done % 50 or print(f"  {done}/{total} {what}", flush=True)
        adapted = adapt(
            run,
            TASK,
            METHODS.get(cell.arm, METHODS[SCRATCH]),
            cell.labels,
            cohort=cohort,
            seed=cell.seed,
            steps=steps,
            progress=tell,
        )
        told, learned = predict(adapted, cohort), len(adapted.adapter["labelled"])
    known = told.labelled()
    return {
        "fold": cell.fold, "labels": cell.labels, "arm": cell.arm, "seed": cell.seed, "steps": steps, "learned": learned,
        "seconds": round(time.monotonic() - began), "split": run.split.hash, "patients": list(known.patients),
        "dice": np.round(known.outputs, 5).tolist(),
    }  # fmt: skip


def work(data: Path, out: Path, todo: Iterable[Cell], sizes: Sizes, minutes: float) -> None:
    """Train what is not there yet; nothing new is begun when the time is over."""
    began, runs = time.monotonic(), dict[str, Run]()
    catalogue = out / "cohort"
    cohort = Cohort.open(catalogue) if (catalogue / "cohort.json").exists() else ingest(data, catalogue)
    (out / "answers").mkdir(parents=True, exist_ok=True)
    for cell in todo:
        place = out / "answers" / f"{cell.name}.json"
        if place.exists():
            continue
        if time.monotonic() - began > 60 * minutes:
            print(f"{minutes:g} minutes are over: {cell.name} and what comes after it are left", flush=True)
            return
        asked = recipe(cell.fold, sizes, cell.arm if cell.arm in LESS else None)
        if asked.name not in runs:
            runs[asked.name] = pretrain(asked, cohort, into=out / "runs")
        found = answers(cell, runs[asked.name], cohort, sizes)
        place.write_text(json.dumps(found), encoding="utf-8")
        print(f"{cell.name}: {np.mean(found['dice'], axis=0).round(3)} in {found['seconds']} s", flush=True)


def together(found: Sequence[dict[str, Any]]) -> Predictions:
    """The answers of several folds, whose patients are different ones."""
    names = [name for one in found for name in one["patients"]]
    outputs = np.array([row for one in found for row in one["dice"]]).reshape(-1, len(CLASSES))
    return Predictions(TASK, tuple(names), outputs, np.zeros_like(outputs), np.ones(len(names), dtype=bool))


def told(figure: Figure, signed: bool = False) -> str:
    """A figure with its interval, to three digits."""
    sign = "+" if signed else ""
    each = [f"{v:{sign}.3f}".replace("-", "−") for v in (figure.value, figure.low, figure.high)]
    return f"{each[0]} ({each[1]} to {each[2]})"


def page(out: Path, sizes: Sizes, draws: int = 2000) -> str:
    """What was found, as it fell."""
    found = [json.loads(place.read_text(encoding="utf-8")) for place in sorted((out / "answers").glob("*.json"))]
    of = lambda arm, labels, folds=None: sorted(
        (f for f in found if f["arm"] == arm and f["labels"] == labels and (folds is None or f["fold"] in folds)),
        key=lambda f: f["fold"],
    )
    whole = of(SCRATCH, None)
    means = [(np.mean(f["dice"], axis=0), len(f["patients"])) for f in whole]
    lines = [
        "# Hippocampus: Dice by cross-validation", "",
        "Made by `benchmarks/results/hippocampus.py`: 197 labelled MR volumes of as many patients (Medical Segmentation Decathlon, "
        f"task 4), {FOLDS} folds on the patients, of which {len(whole)} were run; each patient is asked about once, by a network that saw "
        "neither volume nor mask of theirs. Dice on the grid of 1 mm, mean over patients, 95% intervals by bootstrap over the test "
        "patients (BCa). One seed: the intervals hold who was tested, not how a network happened to begin. "
        f"{platform.machine()}, bf16; polyclinic {polyclinic.__version__}. As they fell."
        " The settings were chosen on fold 0's test patients, who are among these; folds 1 to 4 alone give about the same.", "",
        "## All labels", "",
        "| | folds | n | masks learned from | steps | mean | anterior | posterior |", "|---|---:|---:|---:|---:|---|---|---|",
        *(_row(arm, rows, draws) for arm in (SCRATCH, PRETRAINED, ATLAS) if (rows := of(arm, None))),
        "| nnU-Net, published, all 260 cases | 5 | 260 | 208 | | | 0.90 | 0.89 |", "",
        "Fold by fold, from scratch: " + "; ".join(f"{m[0]:.3f} / {m[1]:.3f} (n = {n})" for m, n in means) + ".", "",
        "## Few labels", "",
        "| masks learned from | folds | n | steps | scratch | pretrained | pretrained − scratch |", "|---:|---:|---:|---:|---|---|---|",
    ]  # fmt: skip
    for labels in (*sizes.few_labels, None):
        folds = {f["fold"] for f in of(SCRATCH, labels)} & {f["fold"] for f in of(PRETRAINED, labels)}
        if folds:
            lines.append(_both(labels, of(SCRATCH, labels, folds), of(PRETRAINED, labels, folds), draws))
    lines += _left_out(of, draws)
    lines += [
        "", f"Training and answering took {_span([f['seconds'] for f in whole])} s a fold with all labels, on one core that others "
        f"used at the same time. The network has {sizes.channels} channels at full resolution; the transformer {sizes.depth} layers "
        f"of width {sizes.width} on boxes of 8 × 8 × 8 voxels. Pretraining: {sizes.pretraining} steps of 16 volumes, 60% of the boxes "
        "hidden, on the training patients of the fold.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _left_out(of: Callable[[str, None, set[int]], list[dict[str, Any]]], draws: int) -> list[str]:
    """What became worse where something of the task was left out, in the folds in which that was tried."""
    lines = [
        "",
        "## What it takes",
        "",
        "| from scratch, all labels, but | folds | n | mean | minus all of it |",
        "|---|---:|---:|---|---|",
    ]
    for arm in LESS:
        rows = of(arm, None, set(range(FOLDS)))
        if whole := of(SCRATCH, None, {f["fold"] for f in rows}):
            mine, theirs, split = together(rows), together(whole), whole[0]["split"]
            score = told(figures("segmentation", mine, split, draws=draws)[0])
            behind = told(difference("dice", mine, theirs, split, draws=draws), signed=True)
            lines.append(f"| {arm} | {len(rows)} | {len(mine.patients)} | {score} | {behind} |")
    return lines if len(lines) > 5 else []


def _both(labels: int | None, one: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]], draws: int) -> str:
    """One number of labels: both arms of the same folds, and their difference."""
    mine, theirs, split = together(one), together(other), one[0]["split"]
    scores = [told(figures("segmentation", p, split, draws=draws)[0]) for p in (mine, theirs)]
    behind = told(difference("dice", theirs, mine, split, draws=draws), signed=True)
    learned = labels or _span([f["learned"] for f in one])
    return f"| {learned} | {len(one)} | {len(mine.patients)} | {one[0]['steps']} | {' | '.join([*scores, behind])} |"


def _span(numbers: Sequence[int]) -> str:
    return f"{min(numbers)}" if min(numbers) == max(numbers) else f"{min(numbers)} to {max(numbers)}"


def _row(arm: str, rows: Sequence[dict[str, Any]], draws: int) -> str:
    """One arm's line of the table of all labels."""
    mine = together(rows)
    scores = " | ".join(told(f) for f in figures("segmentation", mine, rows[0]["split"], CLASSES, draws=draws))
    learned, steps = _span([f["learned"] for f in rows]), rows[0]["steps"] or "–"
    return f"| {arm} | {len(rows)} | {len(mine.patients)} | {learned} | {steps} | {scores} |"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of images/ and labels/")
    parser.add_argument("--out", type=Path, help="the folder of everything; with --quick a temporary one by default")
    parser.add_argument("--folds", type=int, default=FOLDS, help="how many of them are run with all labels")
    parser.add_argument("--curves", type=int, default=FOLDS, help="how many of them are run with few")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no training after so many")
    parser.add_argument("--quick", action="store_true", help="a tiny network, few steps")
    said = parser.parse_args()
    if not said.quick and said.out is None:
        parser.error("--out, or --quick")
    sizes = QUICK if said.quick else Sizes()
    with tempfile.TemporaryDirectory() as spare:
        out = said.out or Path(spare) / "out"
        folds, curves = (1, 1) if said.quick else (said.folds, said.curves)
        work(said.data, out, cells(range(folds), range(curves), sizes.few_labels), sizes, said.minutes)
        made = out / "hippocampus.md"
        made.write_text(page(out, sizes, 200 if said.quick else 2000), encoding="utf-8")
        print(made.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
