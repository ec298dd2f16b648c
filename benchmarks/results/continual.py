"""One task after another on one backbone: what is forgotten, and what each protection keeps. A simulated hospital and public records.

    polyclinic phantom --patients 1200 --modalities xray,report,ecg,ehr --out phantom
    .venv/bin/python benchmarks/results/continual.py --hospital phantom/hospital --of phantom --out made/continual

    .venv/bin/python examples/hospital/make.py --source ../shared/data --out whole/hospital --whole
    .venv/bin/python benchmarks/results/continual.py --hospital whole/hospital --of public --out made/continual

Of the phantom it is known beforehand what can interfere: fibrillation is read from the ECG, by an encoder that no radiograph
passes, so that with the vectors of the modalities averaged (`fusion: late`) nothing learned from the one can touch the other,
while two findings in radiographs share every weight. Each protection goes through the whole sequence with each seed, and all are
compared with none. The page is made of what there is under `--out`; what is finished is not made again. `--quick` shows that it
runs; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import polyclinic
from polyclinic.cohort import Cohort, ingest
from polyclinic.phantom import simulate
from polyclinic.schema import Figure
from polyclinic.training import Recipe, pretrain
from polyclinic.trust import Continual, continual

CALLED = {
    "average": "average after all", "learned": "just learned", "forgetting": "forgetting",
    "forward_over_pretrained": "forward, over pretraining",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """What is taught in a hospital.

    Args:
        where: a condition on the records.
        encoders: of the backbone, without their widths.
        fusion: of it.
        tasks: of the recipe, in the order in which they are learned.
        pretraining: the objective.
        protect: ways, the first of which the others are compared with.
        method: of adapting.
        steps: optimiser steps of each task; None as by default.
        stratify: a column whose cells both sides of the split have in their shares.
        heading, known: of its part of the page, and what is known beforehand.
    """

    where: str | None
    encoders: dict[str, dict[str, Any]]
    fusion: dict[str, Any]
    tasks: dict[str, dict[str, Any]]
    pretraining: dict[str, Any]
    protect: tuple[str, ...]
    method: dict[str, Any]
    steps: int | None
    stratify: str
    heading: str
    known: str


WAYS = ("none", "replay", "ewc", "distil", "interpolate")
XRAY = lambda column: {"kind": "classification", "column": column, "positive": ["Y"], "inputs": ["image"]}
CONTRAST, MASK = {"kind": "contrastive", "loss": "clip"}, {"kind": "masked", "ratio": 0.6}
LABELS = (
    "survival", "in_icu", "intubated", "extubated", "licence", "accession", "url", "location", "site", "date", "view", "section",
)  # fmt: skip
HOSPITALS = {
    "phantom": Asked(
        # Without radiographs of an earlier study: reports say whether there was one, and counting is easier than reading.
        "modality in ('image', 'text', 'table', 'signal') and coalesce(attributes->>'accession', '') not like 'XP%'",
        {
            "image": {"kind": "vit", "size": 64, "patch": 8, "depth": 3},
            "text": {"kind": "bert", "words": 96, "vocabulary": 1024, "depth": 2},
            "signal": {"kind": "signal_vit", "rate_hz": 100, "seconds": 10, "window": 50, "depth": 2},
        },
        {"kind": "late"},
        {
            "pneumonia": XRAY("pneumonia"),
            "fibrillation": XRAY("fibrillation") | {"inputs": ["signal"]},
            "heart_failure": XRAY("heart_failure"),
        },
        {"kind": "hybrid", "parts": [CONTRAST, MASK]}, WAYS, {"kind": "full", "lr": 2e-3}, 80, "pneumonia",
        "A simulated hospital",
        "Known beforehand: fibrillation, read from the ECG by an encoder of its own, can neither disturb the radiographs' tasks nor be "
        "disturbed by them; pneumonia (a consolidation) and heart failure (the size of the heart) share every weight of theirs.",
    ),
    "public": Asked(
        None,
        {
            "image": {"kind": "vit", "size": 64, "patch": 8, "depth": 3},
            "volume": {"kind": "vit3d", "size": [40, 56, 40], "patch": [8, 8, 8], "depth": 3},
            "text": {"kind": "bert", "words": 96, "vocabulary": 1024, "depth": 2},
            "table": {"kind": "events", "depth": 2, "exclude": LABELS},
            "omics": {"kind": "components", "components": 10, "depth": 0},
        },
        {"kind": "intermediate", "depth": 1},
        {
            "hippocampus": {"kind": "segmentation", "structure": "hippocampus", "classes": ["anterior", "posterior"], "inputs": ["volume"]},
            "finding": {
                "kind": "classification", "column": "finding", "positive": ["COVID-19", "COVID-19, ARDS"],
                "inputs": ["image", "text", "table"],
            },
            "survival": {
                "kind": "survival", "time": "survival_months", "event": "censorship", "event_value": 0, "inputs": ["omics", "table"],
            },
        },
        {"kind": "hybrid", "parts": [CONTRAST | {"pairs": "all"}, MASK]}, ("none", "replay", "distil", "interpolate"),
        {"kind": "full", "lr": 2e-3}, None, "finding",
        "Public records",
        "Hippocampus segmentation (MR), then COVID-19 (radiograph, note, table), then survival of bladder cancer (omics, table): three "
        "groups of patients who share no record. What the tasks share is the fusion, and of the last two the tables' encoder.",
    ),
}  # fmt: skip


def recipe(of: str, small: bool) -> Recipe:
    """The backbone of a hospital."""
    asked, width = HOSPITALS[of], {"width": 16 if small else 64, "heads": 2 if small else 4}
    fusion = asked.fusion | ({"heads": 2} if "depth" in asked.fusion else {})
    return Recipe.model_validate({
        "name": of,
        "cohort": {"split": {"test": 0.4, "stratify": asked.stratify}} | ({"where": asked.where} if asked.where else {}),
        "encoders": {name: spec | width for name, spec in asked.encoders.items()},
        "model": {"kind": "two_tower", "width": width["width"], "embedding": width["width"], "fusion": fusion},
        "tasks": asked.tasks,
        "stages": [{
            "name": "pretraining", "steps": 2 if small else 200, "batch": 16, "lr": 1e-3, "warmup": 1 if small else 20,
            "temperature": 1.0, "objective": asked.pretraining,
        }],
        "precision": "fp32" if small else "bf16",
    })  # fmt: skip


def teach(
    hospital: Path, of: str, out: Path, seeds: Sequence[int], small: bool, protect: Sequence[str] | None = None
) -> Continual:
    """Ingest, pretrain, teach; what is done is not done again.

    Args:
        hospital, of: what is ingested, and whose records it has.
        out: the folder of everything.
        seeds: of labels, heads and batches.
        small: tiny networks, two ways, one seed.
        protect: only these ways.
    """
    place, asked = out / of, HOSPITALS[of]
    ways = tuple(protect or asked.protect)
    catalogue = place / "cohort"
    cohort = Cohort.open(catalogue) if (catalogue / "cohort.json").exists() else ingest(hospital, catalogue)
    run = pretrain(recipe(of, small), cohort, into=place / "runs", progress=_tell(50))
    return continual(
        run, list(asked.tasks), asked.method, protect=ways[: 2 if small else None], seeds=seeds[: 1 if small else None],
        steps=2 if small else asked.steps, cohort=cohort, into=place / "taught", draws=100 if small else 2000, progress=_tell(20),
    )  # fmt: skip


def _tell(every: int):
    """Progress, now and then and at what begins anew."""
    last = [-1, 0]

    def tell(done: int, total: int, what: str) -> None:
        last[1] += 1
        if done != last[0] or last[1] % every == 0:
            last[0] = done
            print(f"{done}/{total} {what}", flush=True)

    return tell


def told(figure: Figure, sign: bool = False) -> str:
    """A figure with its interval."""
    if not np.isfinite(figure.value):
        return "–"
    shape = "+.3f" if sign else ".3f"
    return f"{figure.value:{shape}} ({figure.low:{shape}} to {figure.high:{shape}})".replace("-", "−")


def part(of: str, found: Continual) -> list[str]:
    """A hospital's tables: the ways, what each is ahead of none, and the matrix of each."""
    asked, first = HOSPITALS[of], found.ways[0]
    lines = [
        f"## {asked.heading}", "",
        f"{' → '.join(found.tasks)} by `{asked.method}`, {asked.steps or 'the default number of'} steps each; {len(found.seeds)} seeds; "
        f"{first.measures['average'].n} test patients in all "
        f"({', '.join(f'{t} {f.n}' for t, f in zip(found.tasks, found.fresh, strict=True))}). " + asked.known, "",
        "| protection | " + " | ".join(CALLED.values()) + " | average − none | forgetting − none |", "|---|" + "---|" * (len(CALLED) + 2),
    ]  # fmt: skip
    for way in found.ways:
        own = [told(way.measures[name], name not in ("average", "learned")) for name in CALLED]
        over = [told(way.over_first[name], True) if way.over_first else "–" for name in ("average", "forgetting")]
        lines.append(f"| {way.protect} | " + " | ".join([*own, *over]) + " |")
    heads = [f"{t} ({m})" for t, m in zip(found.tasks, found.metrics, strict=True)]
    lines += [
        "", "Each task after each step; in brackets what was not learned yet, by a probe.", "",
        "| protection | after | " + " | ".join(heads) + " |", "|---|---|" + "---|" * len(heads),
        "| – | fresh weights | " + " | ".join(f"[{told(f)}]" for f in found.fresh) + " |",
        "| – | pretraining | " + " | ".join(f"[{told(f)}]" for f in first.results[0]) + " |",
    ]  # fmt: skip
    for way in found.ways:
        for i, row in enumerate(way.results[1:], start=1):
            cells = [told(f) if j < i else f"[{told(f)}]" for j, f in enumerate(row)]
            lines.append(f"| {way.protect} | {found.tasks[i - 1]} | " + " | ".join(cells) + " |")
    return [*lines, "", *_lost(found)]


def _lost(found: Continual) -> list[str]:
    """What pretraining lost, before all tasks and after the last, of each way."""
    terms = [t for t, rows in found.ways[0].pretraining.items() if np.isfinite(rows[0][0])]
    if not terms:
        return []
    lines = [
        "What pretraining lost on patients kept for testing, mean of the seeds before all tasks and after the last:",
        "",
    ]
    lines += ["| protection | " + " | ".join(terms) + " |", "|---|" + "---|" * len(terms)]
    for way in found.ways:
        ends = [(np.mean(way.pretraining[t][0]), np.mean(way.pretraining[t][-1])) for t in terms]
        lines.append(f"| {way.protect} | " + " | ".join(f"{a:.3f} → {b:.3f}" for a, b in ends) + " |")
    return [*lines, ""]


def page(out: Path) -> str:
    """What was found, as it fell."""
    there = {
        of: Continual.open(out / of / "taught") for of in HOSPITALS if (out / of / "taught/continual.json").exists()
    }
    lines = [
        "# One task after another", "",
        "Made by `benchmarks/results/continual.py`: small networks (width 64), 200 steps of pretraining, each task by all weights of the "
        "backbone (`full`). Intervals are 95%, bootstrap over the test patients and the seeds, paired where there is a difference; "
        "two seeds say little of the chance of a seed. No strength of a protection was searched: they are the defaults of "
        f"[`polyclinic continual`](../continual.md). {platform.machine()}, one thread; polyclinic {polyclinic.__version__}. "
        "As they fell.", "",
    ]  # fmt: skip
    for of, found in there.items():
        lines += part(of, found)
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hospital", type=Path, help="what is ingested; with --quick a small phantom by default")
    parser.add_argument("--of", choices=sorted(HOSPITALS), default="phantom", help="whose records it has")
    parser.add_argument("--out", type=Path, help="the folder of everything; with --quick a temporary one by default")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--protect", help="only these ways, with commas, in place of all that the hospital is asked")
    parser.add_argument("--quick", action="store_true", help="a tiny network, two ways, one seed")
    said = parser.parse_args()
    if not said.quick and (said.out is None or said.hospital is None):
        parser.error("--hospital and --out, or --quick")
    with tempfile.TemporaryDirectory() as spare:
        out, hospital = said.out or Path(spare) / "out", said.hospital
        if hospital is None:
            place = out.with_name(f"{out.name}-phantom")
            if not place.exists():
                simulate(place, patients=200, modalities=("xray", "report", "ecg"))
            hospital = place / "hospital"
        teach(hospital, said.of, out, range(said.seeds), said.quick, said.protect.split(",") if said.protect else None)
        made = out / "continual.md"
        made.write_text(page(out), encoding="utf-8")
        print(made.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
