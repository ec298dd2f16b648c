"""The four proxy tasks at equal compute: one network, one cohort, one budget, four questions. Writes a page of results as they fall.

    polyclinic phantom --patients 2000 --modalities xray,report --out phantom --workers 2
    .venv/bin/python benchmarks/results/proxy_tasks.py --hospital phantom/hospital --of phantom --out made/phantom

    .venv/bin/python examples/hospital/make.py --source ../shared/data --out whole/hospital --whole
    .venv/bin/python benchmarks/results/proxy_tasks.py --hospital whole/hospital/radiology --of covid --out made/covid --flops 6e11

Each is pretrained for `--flops` operations with each of `--seeds` seeds, and answers without labels (zero-shot: how much nearer an
image is to the sentences that say yes than to those that say no), from 2, 10 and 40 labels (1, 5 and 20 a class on average; each class
has its share, and at least one) and from all (linear probe). Beside them stands a floor that was pretrained on nothing. It can be stopped
and goes on where it was. `--quick` shows that it runs; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

import polyclinic
from polyclinic.adaptation import adapt
from polyclinic.adaptation.plan import labelled
from polyclinic.cohort import Cohort, ingest, labels_of
from polyclinic.inference import predict
from polyclinic.phantom import simulate
from polyclinic.phantom.people import LOBES
from polyclinic.phantom.report import RULES, Fact, realise
from polyclinic.schema import Figure, Modality, Payload, Record
from polyclinic.tasks import Predictions
from polyclinic.training import Recipe, Run
from polyclinic.training.budget import Budget
from polyclinic.trust import Factorial, factorial, judged
from polyclinic.trust.comparisons.baselines import Study, classify
from polyclinic.trust.measures.figures import usable
from polyclinic.trust.measures.written import unsigned

SHOTS = {2: "1-shot", 10: "5-shot", 40: "20-shot", None: "linear probe"}
UNTRAINED, FLOOR = "untrained", "pixels"
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
        yes, no: sentences that say so, in the reports' words; each side's mean is what an image is compared with.
        where: a condition on the records.
        test: the share of the patients who test.
    """

    task: str
    positive: list[str]
    classes: list[str]
    yes: tuple[str, ...]
    no: tuple[str, ...]
    where: str
    test: float


def told(status: str) -> tuple[str, ...]:
    """What the phantom's radiologists write of a consolidation, by all rules and in both languages; they name no pneumonia."""
    lobes = LOBES if status == "present" else (None,)
    rules = range(len(RULES[status]))
    return tuple(
        realise(Fact("consolidation", status, lobe), rule, language)
        for language in ("en", "es")
        for rule in rules
        for lobe in lobes
    )


FIRST = "coalesce(attributes->>'accession', '') not like 'XP%'"
"""Without the phantom's radiographs of an earlier study: reports say whether there was one, and counting is easier than reading."""

QUESTIONS = {
    "phantom": Question(
        "pneumonia", ["Y"], ["lung", "heart", "nodule", "consolidation", "effusion"],
        told("present"), told("absent"), f"modality in ('image', 'text', 'table') and {FIRST}", 0.3,
    ),
    "covid": Question(
        "finding", ["COVID-19", "COVID-19, ARDS"], ["lung"],
        ("COVID-19 pneumonia.", "The patient tested positive for COVID-19.", "SARS-CoV-2 infection, RT-PCR positive."),
        ("Bacterial pneumonia.", "Pneumocystis pneumonia.", "Lobar pneumonia.", "No significant findings. The lungs are clear."),
        "kind like 'CR chest%' or kind in ('radiology note', 'table studies', 'MASK image')", 0.4,
    ),
}  # fmt: skip


def recipes(question: Question, small: bool) -> list[Recipe]:
    """The same encoders, fusion, split and tasks; only the question of pretraining differs."""
    width, depth, size = (16, 1, 32) if small else (64, 3, 64)
    sizes = {"width": width, "heads": 2 if small else 4}
    made = []
    for name, objective in OBJECTIVES.items():
        data = {
            "name": name,
            "cohort": {"where": question.where, "split": {"test": question.test, "stratify": question.task}},
            "encoders": {
                "image": {"kind": "vit", "size": size, "patch": 8, "depth": depth, **sizes},
                "text": {"kind": "bert", "words": 96, "vocabulary": 256 if small else 1024, "depth": 1 if small else 2, **sizes},
            },
            "model": {"kind": "two_tower", "width": width, "embedding": width, "fusion": {"kind": "intermediate", "depth": 1, "heads": 2}},
            "tasks": {
                question.task: {"kind": "classification", "column": question.task, "positive": question.positive, "inputs": ["image"]},
                "masks": {"kind": "segmentation", "structure": "image", "modality": "image", "classes": question.classes},
            },
            "stages": [{"name": name, "steps": 1000, "batch": 16 if small else 32, "temperature": 1.0, "objective": objective}],
            "precision": "bf16",
        }  # fmt: skip
        made.append(Recipe.model_validate(data))
    return made


def zero_shot(run: Run, cohort: Cohort, question: Question) -> Predictions:
    """How much nearer each test patient's images are to the sentences that say yes than to those that say no."""
    method = {"kind": "zero_shot", "yes": question.yes, "no": question.no}
    return usable(predict(adapt(run, question.task, method, cohort=cohort), cohort))


def pixels(runs: list[Run], cohort: Cohort, task: str, labels: int | None) -> list[Predictions]:
    """The floor: logistic regression on 30 principal components of the pixels, of the patients that each seed's probe learned from."""
    spec, read = runs[0].recipe.tasks[task], dict[str, Payload]()
    label = spec.label(task)
    assert label is not None
    records = cohort.records(runs[0].recipe.cohort.where)
    known = labels_of(records, label)

    def load(record: Record) -> Payload:
        if record.id not in read:
            read[record.id] = cohort.load(record)
        return read[record.id]

    found = []
    for run in runs:
        loader = run.loader(cohort, run.split.train, (task,))
        train = tuple(labelled(loader, task, labels, run.recipe.seed, [Modality.IMAGE])[0])
        having = {r.patient for r in records if r.modality is Modality.IMAGE}
        test = tuple(p for p in run.split.test if p in known and p in having)
        found.append(classify(Study(records, load, train, test, known, (Modality.IMAGE,)), task))
    return found


def counted(run: Run, cohort: Cohort, task: str) -> str:
    """Who is on either side, and what of them reaches the network, in a sentence a side."""
    lines = []
    for side, patients in (("Train", run.split.train), ("Test", run.split.test)):
        loader = run.loader(cohort, patients, (task, "masks"))
        having = {
            m: {p for p, found in loader.by_patient.items() if m in found} for m in (Modality.IMAGE, Modality.TEXT)
        }
        images, notes = having[Modality.IMAGE], having[Modality.TEXT]
        records = sum(len(found.get(Modality.IMAGE, ())) for found in loader.by_patient.values())
        known = [v for p, v in loader.labelled(task).items() if p in images]
        lines.append(
            f"{side}: {len(patients)} patients, {len(images)} with radiographs ({records}), {len(images & notes)} with a note besides, "
            f"{len(loader.labelled('masks'))} with masks, {len(known)} with a label and a radiograph ({sum(known)} positive)."
        )
    return " ".join(lines)


def page(of: str, found: dict[str, dict[str, Figure]], last: Factorial, flops: float, told: Sequence[str]) -> str:
    """The table, a row a proxy task, and what is to be known of it.

    Args:
        of: which hospital.
        found: column → proxy task (or floor) → its figure.
        last: the comparison of the linear probe.
        flops: each run's.
        told: paragraphs below the table.
    """
    spent = {arm.recipe: arm for arm in last.arms}
    first = last.arms[0].figure
    lines = [
        f"# Four proxy tasks at equal compute: {of}", "",
        f"Made by `benchmarks/results/proxy_tasks.py`: `{last.task}` from radiographs alone, {last.metric} with 95% intervals over "
        f"{first.n} test patients and {len(last.seeds)} seeds (split `{first.split[:12]}`); {flops:.3g} floating-point operations of "
        f"pretraining a run, bf16, batches of 32; {platform.machine()}, {torch.get_num_threads()} threads; "
        f"polyclinic {polyclinic.__version__}. As they fell.", "",
        "| pretraining | steps | tokens | " + " | ".join(found) + " |", "|---|---:|---:|" + "---|" * len(found),
    ]  # fmt: skip
    for name in (*OBJECTIVES, UNTRAINED, FLOOR):
        cells = " | ".join(unsigned(figures[name]) if name in figures else "–" for figures in found.values())
        cost = f"{spent[name].steps} | {spent[name].tokens:.3g}" if name in spent else "– | –"
        lines.append(f"| {name} | {cost} | {cells} |")
    return "\n".join([*lines, "", "\n\n".join(told), ""])


def paragraphs(question: Question, found: dict[str, dict[str, Figure]], last: Factorial, counts: str) -> list[str]:
    """What is to be known of the table."""
    names = lambda of: ", ".join(f"{n} ({c})" for c, figures in found.items() for n, f in figures.items() if of(f))
    return [
        counts,
        f"Whose whole interval is above chance (0.5): {names(lambda f: f.low > 0.5) or 'nobody'}. "
        f"Below it: {names(lambda f: f.high < 0.5) or 'nobody'}. So many intervals of 95% hold one or two by chance.",
        f"Linear probe: {last.verdict()}",
        "*Zero-shot*: how much nearer an image is to the mean of the sentences that say yes than to that of those that say no. "
        "Only `contrastive` and `hybrid` compared images with words; of the others chance is to be expected. "
        f"Yes, {len(question.yes)}: {_some(question.yes)}. No, {len(question.no)}: {_some(question.no)}.",
        f"*{UNTRAINED}*: the same network with the weights that each seed draws. *{FLOOR}*: logistic regression on 30 principal components "
        "of 32×32 pixels. Both learn from the labels that each seed's probe has. *Shots*: 2, 10 and 40 labelled patients in all, in the "
        "classes' proportion, at least one of each; each seed draws its own.",
    ]


def _some(sentences: Sequence[str]) -> str:
    """The first few, in quotation marks."""
    return "; ".join(f"“{said}”" for said in sentences[:5]) + ("; and so on" if len(sentences) > 5 else "")


def untrained(asked: Sequence[Recipe]) -> Recipe:
    """The network as it is drawn: one step of no length."""
    stage = asked[0].stages[0].model_copy(update={"steps": 1, "lr": 1e-30, "warmup": 0})
    return asked[0].model_copy(update={"name": UNTRAINED, "stages": (stage,)})


def _share(out: Path, names: list[str]) -> None:
    """One cache for all runs: they harmonise the same records alike, which takes longer than a short pretraining."""
    (out / "cache").mkdir(parents=True, exist_ok=True)
    for name in names:
        place = out / "runs" / name / "cache"
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            place.symlink_to((out / "cache").resolve())


def compare(hospital: Path, of: str, out: Path, seeds: int, flops: float, small: bool) -> Path:
    """Ingest, pretrain, answer, write; the page."""
    question = QUESTIONS[of]
    catalogue = out / "cohort"
    cohort = Cohort.open(catalogue) if (catalogue / "cohort.json").exists() else ingest(hospital, catalogue)
    asked, tell = recipes(question, small), lambda done, total, what: print(f"{done}/{total} {what}", flush=True)
    (out / "recipes").mkdir(parents=True, exist_ok=True)
    for recipe in asked:
        (out / "recipes" / f"{recipe.name}.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    floor = untrained(asked)
    _share(out, [f"{r.name}-{r.seed + n}" for r in (*asked, floor) for n in range(seeds)])
    draws, found = 200 if small else 2000, dict[str, dict[str, Figure]]()
    last: Factorial | None = None
    for labels, words in SHOTS.items():
        same = {"into": out, "seeds": seeds, "labels": labels, "draws": draws, "progress": tell}
        drawn = factorial([floor], cohort, question.task, **same)
        last = factorial(asked, cohort, question.task, budget=Budget("flops", flops), **same)
        found[words] = {arm.recipe: arm.figure for arm in (*last.arms, *drawn.arms)}
    assert last is not None
    runs = {r.name: [Run.open(out / "runs" / f"{r.name}-{r.seed + n}") for n in range(seeds)] for r in (*asked, floor)}
    split = last.arms[0].figure.split
    for labels, words in SHOTS.items():
        found[words] |= judged(
            last.metric, {FLOOR: pixels(runs[UNTRAINED], cohort, question.task, labels)}, split, draws=draws
        )[0]
    answers = {name: [zero_shot(run, cohort, question) for run in group] for name, group in runs.items()}
    figures, _, _ = judged(last.metric, answers, split, draws=draws)
    found = {"zero-shot": figures, **found}
    told = paragraphs(question, found, last, counted(runs[asked[0].name][0], cohort, question.task))
    made = out / f"proxy-tasks-{of}.md"
    made.write_text(page(of, found, last, flops, told), encoding="utf-8")
    return made


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hospital", type=Path, help="what is ingested; with --quick a small phantom by default")
    parser.add_argument("--of", choices=sorted(QUESTIONS), default="phantom", help="whose columns and masks it has")
    parser.add_argument("--out", type=Path, help="the folder of everything; with --quick a temporary one by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--flops", type=float, default=1e12, help="of each run's pretraining")
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
