"""What a backbone is worth in labels: survival of bladder cancer, and pneumonia of a simulated hospital.

    polyclinic phantom --patients 1200 --modalities xray,report,ecg,ehr --out phantom
    python -m benchmarks.results.label_curves --hospital phantom/hospital --of phantom --out made/labels
    python -m benchmarks.results.label_curves --tables ../shared/data/tcga-omics --of bladder --out made/labels

Survival from omics and clinical cells; pneumonia from radiograph and chart. With 10, 50, 200 and all labels and each seed the
pretrained backbone is adapted beside the same network from scratch, beside itself reading one modality alone and beside a simple
baseline (`polyclinic adapt --labels 10,50,200,all`), all on the very same labelled patients. The page is made of what there is
under `--out`; what is finished is not made again. `--quick` shows that it runs; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import math
import platform
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import polyclinic
from polyclinic.cohort import Cohort, ingest
from polyclinic.phantom import simulate
from polyclinic.training import Recipe, pretrain
from polyclinic.trust import LabelCurve, label_curve
from polyclinic.trust.comparisons.label_page import verdict

from .continual import told
from .phantom_ceiling import CODED, LATER, SNOMED
from .tcga import recipe as of_cancer
from .tcga import tables

TASKS = {"bladder": "survival", "phantom": "pneumonia"}
METHODS: dict[str, dict[str, Any]] = {
    "bladder": {"kind": "probe", "penalty": "directions"},
    "phantom": {"kind": "lora"},
}
NUMBERS = (10, 50, 200, None)


def recipe(of: str, small: bool) -> Recipe:
    """The backbone: of bladder cancer that of `tcga.py`, with two fifths of the patients testing; of the phantom a small hybrid."""
    if of == "bladder":
        cancer = of_cancer("bladder", "patient", 0, 0, "components").model_dump(mode="json")
        cancer["cohort"]["split"] = {"test": 0.4, "stratify": "survival"}
        return Recipe.model_validate(cancer)
    width = {"width": 16 if small else 64, "heads": 2 if small else 4}
    return Recipe.model_validate({
        "name": of,
        "cohort": {
            # Without radiographs of an earlier study: reports say whether there was one, and counting is easier than reading.
            "where": "modality in ('image', 'text', 'table') and coalesce(attributes->>'accession', '') not like 'XP%'",
            "split": {"test": 0.4, "stratify": "pneumonia"},
        },
        "encoders": {
            "image": {"kind": "vit", "size": 64, "patch": 8, "depth": 3} | width,
            "text": {"kind": "bert", "words": 96, "vocabulary": 1024, "depth": 2} | width,
            "table": {"kind": "events", "depth": 2, "exclude": [*CODED, *SNOMED, *LATER]} | width,
        },
        "model": {
            "kind": "two_tower", "width": width["width"], "embedding": width["width"],
            "fusion": {"kind": "intermediate", "depth": 1, "heads": 2},
        },
        "tasks": {
            "pneumonia": {"kind": "classification", "column": "pneumonia", "positive": ["Y"], "inputs": ["image", "table"]},
        },
        "stages": [{
            "name": "hybrid", "steps": 2 if small else 200, "batch": 16, "lr": 1e-3, "warmup": 1 if small else 20, "temperature": 1.0,
            "objective": {"kind": "hybrid", "parts": [{"kind": "contrastive", "loss": "clip"}, {"kind": "masked", "ratio": 0.6}]},
        }],
        "precision": "fp32" if small else "bf16",
    })  # fmt: skip


def measure(source: Path, of: str, out: Path, seeds: int, small: bool) -> LabelCurve:
    """Ingest, pretrain, adapt; what is done is not done again."""
    place = out / of
    catalogue = place / "cohort"
    if (catalogue / "cohort.json").exists():
        cohort = Cohort.open(catalogue)
    else:
        cohort = ingest(tables(source, "bladder", place) if of == "bladder" else source, catalogue)
    run = pretrain(recipe(of, small), cohort, into=place / "runs")
    tell = lambda done, total, what: print(f"{done}/{total} {what}", flush=True)
    return label_curve(
        run, TASKS[of], (10, None) if small else NUMBERS, METHODS[of], seeds=range(1 if small else seeds), steps=2 if small else None,
        cohort=cohort, into=place / "curve", draws=100 if small else 2000, progress=tell,
    )  # fmt: skip


def crossings(found: LabelCurve) -> list[str]:
    """Of each arm, between which numbers of labels the pretrained's mean passes it, and where it is ahead and behind."""
    mean, numbers = {(p.arm, p.labels): p.figure.value for p in found.points}, sorted({p.labels for p in found.points})
    lines = []
    for arm in found.arms[1:]:
        ahead = [(n, round(mean["pretrained", n] - mean[arm, n], 9)) for n in numbers if (arm, n) in mean]
        said = [
            f"{'passes it' if after > 0 else 'falls behind'} between {a} and {b} labels (at about {_zero(a, before, b, after):.0f})"
            for (a, before), (b, after) in pairwise(ahead)
            if before * after < 0
        ]
        where = {
            "level": [n for n, gap in ahead if gap == 0],
            "ahead": [n for n, gap in ahead if gap > 0],
            "behind": [n for n, gap in ahead if gap < 0],
        }
        for words, there in where.items():
            if there:
                labels = " labels" if words == "level" else ""
                all_of = len(there) == len(ahead)
                said.append(f"{words} at {'every number' if all_of else ', '.join(map(str, there)) + labels}")
        lines.append(f"{arm}: {'; '.join(said)}")
    return lines


def _zero(a: int, before: float, b: int, after: float) -> float:
    """Where a line from (a, before) to (b, after) is 0, labels by their logarithm."""
    return math.exp(math.log(a) + before / (before - after) * (math.log(b) - math.log(a)))


def part(of: str, found: LabelCurve) -> list[str]:
    """One curve: a row an arm, a column a number of labels, and what the intervals show."""
    numbers = sorted({p.labels for p in found.points})
    at = {(p.arm, p.labels): p for p in found.points}
    first = found.points[0].figure
    lines = [
        f"## {'Survival of bladder cancer' if of == 'bladder' else 'Pneumonia in a simulated hospital'}", "",
        f"`{METHODS[of]}` from {' and '.join(found.inputs)}; {found.metric}; {len(found.seeds)} seeds; n = {first.n} test patients "
        f"(split `{found.split[:12]}`).", "",
        "| | " + " | ".join(f"{n} labels" for n in numbers) + " |", "|---|" + "---|" * len(numbers),
    ]  # fmt: skip
    for arm in found.arms:
        cells = [told(at[arm, n].figure) if (arm, n) in at else "–" for n in numbers]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    for arm in found.arms[1:]:
        behind = [at[arm, n].behind if (arm, n) in at else None for n in numbers]
        lines.append(f"| *pretrained − {arm}* | " + " | ".join(told(b, True) if b else "–" for b in behind) + " |")
    lines += [
        "",
        "What the intervals show:",
        "",
        *(f"- {s}" for s in verdict(found)),
        "",
        "Where the means cross, the pretrained against each:",
        "",
    ]
    lines += [f"- {s}." for s in crossings(found)]
    return [*lines, *(f"\nNot run: {s.what}: {s.why}." for s in found.skipped), ""]


def page(out: Path) -> str:
    """What was found, as it fell."""
    there = {of: LabelCurve.open(out / of / "curve") for of in TASKS if (out / of / "curve/labels.json").exists()}
    lines = [
        "# How many labels", "",
        "Made by `benchmarks/results/label_curves.py`: with each number of labels and each seed every arm learns from the same "
        "labelled patients; fewer are among more. Means over the seeds; 95% intervals by bootstrap over test patients and seeds, "
        "differences paired. "
        f"`plain` is Cox's model, or logistic regression on pixels and cells. {platform.machine()}, one thread; polyclinic "
        f"{polyclinic.__version__}. As they fell.", "",
    ]  # fmt: skip
    for of, found in there.items():
        lines += part(of, found)
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--of", choices=sorted(TASKS), default="phantom")
    parser.add_argument("--hospital", type=Path, help="the phantom's; with --quick a small one by default")
    parser.add_argument("--tables", type=Path, help="of bladder: the folder with `tcga_blca_all_clean.csv.zip`")
    parser.add_argument("--out", type=Path, help="the folder of everything; with --quick a temporary one by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a tiny network, two numbers of labels, one seed")
    said = parser.parse_args(arguments)
    source = said.tables if said.of == "bladder" else said.hospital
    if (said.out is None and not said.quick) or (source is None and not (said.quick and said.of == "phantom")):
        parser.error("--out, and --tables of bladder or --hospital of the phantom; or --quick")
    with tempfile.TemporaryDirectory() as spare:
        out = said.out or Path(spare) / "out"
        if source is None:
            place = out.with_name(f"{out.name}-phantom")
            if not place.exists():
                simulate(place, patients=60, modalities=("xray", "report", "ehr"))
            source = place / "hospital"
        measure(source, said.of, out, said.seeds, said.quick)
        made = out / "label-curves.md"
        made.write_text(page(out), encoding="utf-8")
        print(made.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
