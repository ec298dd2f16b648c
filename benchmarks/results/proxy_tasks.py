"""The four proxy tasks at equal compute: one network, one cohort, one budget, four questions. Writes a page of results as they fall.

    polyclinic phantom --patients 2000 --modalities xray,report --out phantom --workers 2
    .venv/bin/python benchmarks/results/proxy_tasks.py --hospital phantom/hospital --of phantom --out made/phantom

    .venv/bin/python examples/hospital/make.py --source ../shared/data --out whole/hospital --whole
    .venv/bin/python benchmarks/results/proxy_tasks.py --hospital whole/hospital --of covid --out made/covid

Each is pretrained for `--flops` operations with each of `--seeds` seeds, and answers without labels (zero-shot, by the nearer of two
sentences), from 2, 10 and 40 labels (1, 5 and 20 a class on average; each class has its share, and at least one) and from all (linear
probe). It can be stopped and goes on where it was. `--quick` shows that it runs; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml

import polyclinic
from polyclinic.adaptation import embed
from polyclinic.cohort import Cohort, ingest
from polyclinic.harmonise import harmonise
from polyclinic.phantom import simulate
from polyclinic.schema import Figure, Modality, Payload, Ragged, Record
from polyclinic.tasks import Predictions
from polyclinic.training import Recipe, Run
from polyclinic.training.budget import Budget
from polyclinic.trust import Factorial, factorial, judged
from polyclinic.trust.factorial import unsigned

SHOTS = {2: "1-shot", 10: "5-shot", 40: "20-shot", None: "linear probe"}
CONTRAST, MASK = {"kind": "contrastive", "loss": "clip"}, {"kind": "masked", "ratio": 0.6, "context": "patient"}
OBJECTIVES = {
    "segmentation": {"kind": "segmentation", "task": "masks"},
    "generative": MASK,
    "contrastive": CONTRAST,
    "hybrid": {"kind": "hybrid", "parts": [CONTRAST, MASK, {"kind": "segmentation", "task": "masks"}]},
}


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a hospital.

    Args:
        task: the column, which is the task's name too.
        positive: its cells that count.
        classes: of the masks.
        sentences: that say yes and no, in the reports' words.
        where: a condition on the records.
    """

    task: str
    positive: list[str]
    classes: list[str]
    sentences: tuple[str, str]
    where: str


QUESTIONS = {
    "phantom": Question(
        "pneumonia", ["Y"], ["lung", "heart", "nodule", "consolidation", "effusion"],
        ("There is a consolidation. Pneumonia.", "No consolidation. The lungs are clear."), "modality in ('image', 'text', 'table')",
    ),
    "covid": Question(
        "finding", ["COVID-19", "COVID-19, ARDS"], ["lung"], ("COVID-19 pneumonia.", "No COVID-19. Bacterial pneumonia."),
        "kind like 'CR chest%' or kind in ('radiology note', 'table studies', 'MASK image')",
    ),
}  # fmt: skip


def recipes(question: Question, small: bool) -> list[Recipe]:
    """The same encoders, fusion, split and tasks; only the question of pretraining differs."""
    width, depth, size = (16, 1, 32) if small else (128, 4, 128)
    sizes = {"width": width, "heads": 2 if small else 4}
    made = []
    for name, objective in OBJECTIVES.items():
        data = {
            "name": name,
            "cohort": {"where": question.where, "split": {"test": 0.3, "stratify": question.task}},
            "encoders": {
                "image": {"kind": "vit", "size": size, "patch": 16, "depth": depth, **sizes},
                "text": {"kind": "bert", "words": 96, "vocabulary": 256 if small else 2048, "depth": 1 if small else 2, **sizes},
            },
            "model": {"kind": "two_tower", "width": width, "embedding": width, "fusion": {"kind": "intermediate", "depth": 1, "heads": 2}},
            "tasks": {
                question.task: {"kind": "classification", "column": question.task, "positive": question.positive, "inputs": ["image"]},
                "masks": {"kind": "segmentation", "structure": "image", "modality": "image", "classes": question.classes},
            },
            "stages": [{"name": name, "steps": 1000, "batch": 16, "objective": objective}],
        }  # fmt: skip
        made.append(Recipe.model_validate(data))
    return made


@torch.no_grad()
def zero_shot(run: Run, cohort: Cohort, question: Question) -> Predictions:
    """How much nearer each test patient's images are to the sentence that says yes than to the one that says no."""
    model, standard = run.model(), run.recipe.standards()[Modality.TEXT]
    note = Record("", "", None, Modality.TEXT, "sentence", "")
    read = lambda said: harmonise(Payload(np.zeros(0), text=said), note, standard, run.fingerprint).array
    words = [torch.from_numpy(read(said)) for said in question.sentences]
    ragged = Ragged(words, torch.arange(2), torch.zeros(2), None, 2, ["yes", "no"])
    tokens = model.bridged(Modality.TEXT, model.encoder(Modality.TEXT)(ragged))
    yes, no = model.towers({Modality.TEXT: tokens})[Modality.TEXT].vectors.float().numpy()
    patients, vectors = embed(run, cohort)[Modality.IMAGE]
    known = run.loader(cohort, run.split.test, (question.task,)).labelled(question.task)
    rows = [n for n, patient in enumerate(patients) if patient in known]
    targets = np.array([float(known[patients[n]]) for n in rows])
    who = tuple(patients[n] for n in rows)
    return Predictions(question.task, who, vectors[rows] @ (yes - no), targets, np.ones(len(rows), dtype=bool))


def page(of: str, found: dict[str, dict[str, Figure]], last: Factorial, flops: float) -> str:
    """The table, a row a proxy task, and the verdict of the linear probe."""
    names = [arm.recipe for arm in sorted(last.arms, key=lambda a: list(OBJECTIVES).index(a.recipe))]
    spent = {arm.recipe: arm for arm in last.arms}
    first = last.arms[0].figure
    lines = [
        f"# Four proxy tasks at equal compute: {of}", "",
        f"`benchmarks/results/proxy_tasks.py`: {last.task}, {last.metric} with 95% intervals over {first.n} test patients and "
        f"{len(last.seeds)} seeds (split {first.split[:12]}); {flops:.3g} operations of pretraining each; "
        f"{platform.machine()}, {torch.get_num_threads()} threads; polyclinic {polyclinic.__version__}. As they fell.", "",
        "| pretraining | steps | tokens | " + " | ".join(found) + " |", "|---|---:|---:|" + "---|" * len(found),
    ]  # fmt: skip
    for name in names:
        cells = " | ".join(unsigned(figures[name]) for figures in found.values())
        lines.append(f"| {name} | {spent[name].steps} | {spent[name].tokens:.3g} | {cells} |")
    chance = (
        "Zero-shot is asked of all four: where pretraining did not compare images with words, chance is to be expected."
    )
    return "\n".join([*lines, "", f"Linear probe: {last.verdict()}", "", chance, ""])


def compare(hospital: Path, of: str, out: Path, seeds: int, flops: float, small: bool) -> Path:
    """Ingest, pretrain, answer, write; the page."""
    question = QUESTIONS[of]
    catalogue = out / "cohort"
    cohort = Cohort.open(catalogue) if (catalogue / "cohort.json").exists() else ingest(hospital, catalogue)
    asked, tell = recipes(question, small), lambda done, total, what: print(f"{done}/{total} {what}", flush=True)
    (out / "recipes").mkdir(parents=True, exist_ok=True)
    for recipe in asked:
        (out / "recipes" / f"{recipe.name}.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    found: dict[str, dict[str, Figure]] = {}
    last: Factorial | None = None
    for labels, words in SHOTS.items():
        last = factorial(
            asked, cohort, question.task, into=out, seeds=seeds, budget=Budget("flops", flops), labels=labels,
            draws=200 if small else 2000, progress=tell,
        )  # fmt: skip
        found[words] = {arm.recipe: arm.figure for arm in last.arms}
    assert last is not None
    runs = {r.name: [Run.open(out / "runs" / f"{r.name}-{r.seed + n}") for n in range(seeds)] for r in asked}
    answers = {name: [zero_shot(run, cohort, question) for run in group] for name, group in runs.items()}
    figures, _, _ = judged(last.metric, answers, last.arms[0].figure.split, draws=200 if small else 2000)
    made = out / f"proxy-tasks-{of}.md"
    made.write_text(page(of, {"zero-shot": figures, **found}, last, flops), encoding="utf-8")
    return made


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hospital", type=Path, help="what is ingested; with --quick a small phantom by default")
    parser.add_argument("--of", choices=sorted(QUESTIONS), default="phantom", help="whose columns and masks it has")
    parser.add_argument("--out", type=Path, help="the folder of everything; with --quick a temporary one by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--flops", type=float, default=2e13, help="of each run's pretraining")
    parser.add_argument("--quick", action="store_true", help="tiny networks, one seed")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as spare:
        out = told.out or Path(spare) / "out"
        if told.quick:
            hospital = (
                told.hospital or simulate(Path(spare) / "phantom", 96, size=32, modalities=["xray", "report"]).hospital
            )
            made = compare(hospital, told.of, out, 1, 4e9, True)
        else:
            if told.hospital is None or told.out is None:
                parser.error("--hospital and --out, or --quick")
            made = compare(told.hospital, told.of, out, told.seeds, told.flops, False)
        print(made.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
