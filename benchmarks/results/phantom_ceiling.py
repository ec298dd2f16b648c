"""How far from the best possible answer: the phantom hospital, whose truth is known.

    polyclinic phantom --patients 1500 --modalities ehr,ecg --out phantom --workers 2
    python -m benchmarks.results.phantom_ceiling phantom --out made/ceiling [--quick]

Two questions with exact posteriors (`polyclinic.phantom.optimal`): pneumonia from the chart and the laboratory, and atrial fibrillation
from the ECG. The best answers see what a model may see, and nobody beats them on average. Ours is pretrained on the training side,
adapted with 50, 200 and all labels, and asked from each subset of its modalities; the diagnoses that the hospital codes are not read. A
plain network is the same from scratch; a plain peer is logistic regression on the same events (`trust.baselines`). It can be stopped and
goes on.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

import polyclinic as pc
from polyclinic.adaptation import adapt
from polyclinic.cohort import Cohort, labels_of
from polyclinic.inference import predict
from polyclinic.schema import Modality
from polyclinic.tasks import Predictions
from polyclinic.training import Recipe, Run
from polyclinic.trust.comparisons.baselines import Study, classify
from polyclinic.trust.comparisons.kept_answers import kept
from polyclinic.trust.measures.figures import difference, figure
from polyclinic.trust.measures.intervals import bootstrap

from .texts import told

TASKS = {
    "pneumonia": ("optimal_pneumonia_labs", (("table",), ("signal", "table"))),
    "fibrillation": ("optimal_fibrillation_ecg", (("signal",), ("signal", "table"))),
}
"""Task → the truth's column of the best answer, and what ours may read: what that one sees first, then all."""
CODED = (
    "age",
    "date",
    "effusion",
    "emphysema",
    "fibrillation",
    "heart_failure",
    "infarct",
    "malignant",
    "nodule",
    "pneumonia",
    "sex",
    "site",
)
METHODS = ("probe", "lora")
LABELS = (50, 200, None)


def recipe(tasks: Sequence[str], small: bool) -> Recipe:
    """Events, and the ECG where fibrillation is asked; the register's columns are labels and no inputs, nor are codes of diagnoses."""
    width = {"width": 32 if small else 64, "heads": 2}
    table = {"kind": "events", "depth": 2, "exclude": [*CODED, *SNOMED, *LATER]}
    signal = {"kind": "signal_vit", "rate_hz": 100, "seconds": 10, "window": 50, "depth": 2}
    heart = "fibrillation" in tasks
    return Recipe.model_validate(
        {
            "name": "-".join(["ceiling", *tasks]),
            "cohort": {"where": "kind in ('EHR events', 'ECG 12-lead', 'table register')", "split": {"test": 0.4}},
            "encoders": {"table": table | width} | ({"signal": signal | width} if heart else {}),
            "model": {
                "kind": "two_tower", "width": width["width"], "embedding": 32, "fusion": {"kind": "intermediate", "depth": 1, "heads": 2},
            },
            "tasks": {t: {"kind": "classification", "column": t, "positive": ["Y"]} for t in tasks},
            "stages": [{
                "name": "masked", "steps": 5 if small else 200, "batch": 16, "lr": 1e-3, "warmup": 20,
                "objective": {"kind": "masked", "ratio": 0.5, "modalities": ["table", "signal"] if heart else ["table"]},
            }],
            "precision": "fp32",
        }
    )  # fmt: skip


SNOMED = tuple(
    f"SNOMED {code}{end}"
    for code in (
        "233604007", "49436004", "84114007", "22298006", "432504007", "87433001", "363358000", "427359005", "60046008", "44054006",
        "709044004",
    )
    for end in ("", " end")
)  # fmt: skip
"""Diagnoses as the phantom codes them (`polyclinic.phantom.fhir`), with when they ended."""
LATER = ("MEDS_DEATH", "SNOMED 32485007 end")
"""What is known only afterwards: a death, a discharge."""


def best(truth: Path, column: str, like: Predictions) -> Predictions:
    """The exact posterior of the same patients."""
    rows = pq.read_table(truth / "patients.parquet", columns=["patient", column]).to_pydict()
    known = dict(zip(rows["patient"], rows[column], strict=True))
    outputs = np.array([known[p] if known[p] is not None else np.nan for p in like.patients], dtype=float)
    return Predictions(like.task, like.patients, outputs, like.targets, like.mask)


def log_loss(made: Predictions, draws: int):
    """The mean negative log probability of what is true, in nats."""
    p = np.clip(made.outputs, 1e-6, 1 - 1e-6)
    each = -np.where(made.targets > 0, np.log(p), np.log1p(-p))
    return bootstrap(
        lambda w: w @ each / w.sum(1), np.zeros(len(each), int), name="log_loss", split="", draws=draws, bounded=False
    )


def peer(run: Run, cohort: Cohort, task: str, like: Predictions, reads: tuple[str, ...]) -> Predictions:
    """Logistic regression on the same events."""
    records, label = cohort.records(run.recipe.cohort.where), run.recipe.tasks[task].label(task)
    assert label is not None
    known = labels_of(records, label)
    seen = [r for r in records if r.kind != "table register"]
    train = tuple(
        p for p in run.split.train if p in known and any(r.patient == p for r in seen if r.modality.value in reads)
    )
    return classify(
        Study(seen, cohort.load, train, like.patients, known, tuple(map(Modality, reads)), (*CODED, *SNOMED, *LATER)),
        task,
    )


def part(run: Run, cohort: Cohort, truth: Path, task: str, out: Path, draws: int, small: bool) -> list[str]:
    """The rows of one task."""
    column, every = TASKS[task]
    subsets = [reads for reads in every if set(reads) <= set(run.recipe.encoders)]
    made: dict[tuple[str, str], Predictions] = {}
    for labels in LABELS[-1:] if small else LABELS:
        for method in (*METHODS, "scratch"):
            for reads in subsets:
                name = f"{task}-{method}-{labels}-{'+'.join(reads)}"
                make = lambda method=method, labels=labels, reads=reads, name=name: predict(
                    adapt(
                        run, task, method, labels=labels, cohort=cohort, inputs=list(reads), into=out / "adapted" / name
                    ),
                    cohort,
                )
                made[f"ours, {method}, {labels or 'all'} labels", " + ".join(reads)] = kept(
                    out / "answers" / f"{name}.json", make
                )
                print(name, flush=True)
    first = subsets[0]
    everyone = [p.labelled() for p in made.values()]
    patients = set.intersection(*(set(p.patients) for p in everyone))
    same = lambda p: p.where(np.array([name in patients for name in p.patients])).labelled()
    made = {key: same(p) for key, p in made.items()}
    like = next(iter(made.values()))
    ceiling = best(truth, column, like)
    rows = {("best possible answer", " + ".join(first)): ceiling}
    if first == ("table",):
        rows["logistic regression, all labels", "table"] = peer(run, cohort, task, like, first)
    lines = [f"## {task.capitalize()}", "", f"n = {len(like.patients)}, {int(like.targets.sum())} positive.", ""]
    lines += ["| | reads | AUROC | Brier | log loss | AUROC below the best |", "|---|---|---|---|---|---|"]
    for (arm, reads), answers in (rows | made).items():
        values = [
            figure("auroc", answers, "", draws=draws),
            figure("brier", answers, "", draws=draws),
            log_loss(answers, draws),
        ]
        short = "–" if answers is ceiling else told(difference("auroc", ceiling, answers, "", draws=draws), sign=True)
        lines.append(f"| {arm} | {reads} | " + " | ".join(told(v) for v in values) + f" | {short} |")
    return [*lines, ""]


def main() -> None:
    """Run, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phantom", type=Path, help="with hospital/ and truth/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--task", choices=sorted(TASKS), action="append", help="only this one; may be said twice")
    parser.add_argument("--quick", action="store_true", help="a tiny network; its figures mean nothing")
    asked = parser.parse_args()
    began, place, draws = time.monotonic(), asked.out / "cohort", 200 if asked.quick else 1000
    cohort = (
        Cohort.open(place) if (place / "cohort.json").exists() else pc.ingest(asked.phantom / "hospital", into=place)
    )
    tasks = asked.task or list(TASKS)
    run = pc.pretrain(recipe(tasks, asked.quick), cohort, into=asked.out / "runs")
    lines = [
        line
        for task in tasks
        for line in part(run, cohort, asked.phantom / "truth", task, asked.out, draws, asked.quick)
    ]
    page = [
        "# Distance to the best possible answer: the phantom hospital", "",
        f"Made by `benchmarks/results/phantom_ceiling.py`: {len(run.split.train)} train and {len(run.split.test)} test patients (split "
        f"`{run.split.hash[:12]}`), one seed; 95% intervals by bootstrap over the test patients, the last column paired; "
        f"{platform.machine()}, {torch.get_num_threads()} thread; polyclinic {pc.__version__}. As they fell. "
        "Nothing learned from the phantom is clinical evidence.", "",
        *lines,
    ]  # fmt: skip
    (asked.out / "phantom-ceiling.md").write_text("\n".join(page), encoding="utf-8")
    print("\n".join(page), f"{time.monotonic() - began:.0f} s", asked.out / "phantom-ceiling.md")


if __name__ == "__main__":
    main()
