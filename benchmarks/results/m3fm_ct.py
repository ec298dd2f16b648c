"""M3FM for CT on the phantom hospital: one network asked in words for five findings and the risk of death, from CT and a table.

The recipe `m3fm-ct`, made small, learns of training patients with a CT and without, each labelled for what somebody coded. Test
patients are then asked. Those with a CT are asked three times: of the CT and the table (age, sex, site), of the table alone, of
the CT alone; those without of the table. `other words` asks the first in words that no training question had, `wrong question` in those
of another task, which tells whether the words are heard at all.

    python -m benchmarks.results.m3fm_ct [--quick] [--patients 1500] [--steps 1000] [--seed 0]

Intervals: 95%, bootstrap over patients (BCa, 2000 draws). Truth is the register's, which is blank where nobody coded.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

import polyclinic as pc
from polyclinic.cohort import Cohort
from polyclinic.phantom import simulate
from polyclinic.schema import Figure, Modality
from polyclinic.tasks import Predictions
from polyclinic.training import Recipe, Run
from polyclinic.trust.measures.figures import figure

SMALL = (
    "encoders.volume={kind: vit3d, size: [32, 32, 32], spacing_mm: null, intensity: fingerprint, patch: [8, 8, 8], scales: [1, 2],"
    " width: 64, depth: 2, heads: 4}",
    "encoders.table.width=64", "encoders.table.depth=1", "encoders.table.heads=4",
    "encoders.text={kind: bert, words: 64, vocabulary: 512, width: 64, depth: 1, heads: 4}", "model.width=64", "model.embedding=32",
    "model.fusion.depth=2", "model.fusion.heads=4", "stages.0.warmup=20", "stages.1.warmup=50", "stages.0.lr=2e-3", "stages.1.lr=1e-3",
    "stages.0.objective.parts.0.width=32", "stages.0.objective.parts.0.depth=1", "precision=fp32", "cohort.split.test=0.3",
)  # fmt: skip
"""The recipe `m3fm-ct`, for a few minutes of one core."""
OTHER_WORDS = {
    "pneumonia": "Does the lung show consolidation?", "effusion": "Does the patient have a pleural effusion?",
    "emphysema": "Does the lung show emphysema?", "heart_failure": "Does the patient have cardiomegaly?",
    "nodule": "Does the lung show a nodule?", "survival": "How soon is death?",
}  # fmt: skip
WRONG = {
    "pneumonia": "effusion", "effusion": "emphysema", "emphysema": "heart_failure", "heart_failure": "pneumonia", "nodule": "effusion",
}  # fmt: skip
"""Whose question is put instead."""


def trained(at: Path, patients: int, steps: int, seed: int) -> tuple[Run, Cohort]:
    """The hospital, and a network that learned of it."""
    made = simulate(at / "phantom", patients, seed=seed, size=32, modalities=("ct", "report"))
    cohort = pc.ingest(made.hospital, at / "cohort")
    told = (f"seed={seed}", f"stages.0.steps={max(10, steps * 3 // 20)}", f"stages.1.steps={steps}")
    return pc.pretrain(Recipe.load("m3fm-ct", (*SMALL, *told)), cohort, into=at / "runs"), cohort


def asked(run: Run, cohort: Cohort, task: str) -> dict[str, Predictions]:
    """A task's answers, each of its readers'."""
    whole = pc.ask(run, task, cohort=cohort)
    scanned = np.array([Modality.VOLUME in has for has in whole.modalities])
    with_ct = [p for p, has in zip(whole.patients, scanned, strict=True) if has]
    again = lambda question=None, inputs=None: pc.ask(
        run, task, question, cohort=cohort, patients=with_ct, inputs=inputs
    )
    found = {
        "CT and table": whole.where(scanned), "table alone": again(inputs=["table"]), "CT alone": again(inputs=["volume"]),
        "other words": again(OTHER_WORDS[task]),
    }  # fmt: skip
    if task in WRONG:
        found["wrong question"] = again(run.recipe.tasks[WRONG[task]].asked()[0])  # type: ignore[union-attr]
    return found | {"without a CT": whole.where(~scanned)}


def shown(found: Figure) -> str:
    """A figure with its interval."""
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f}), n {found.n}"


def examined(run: Run, cohort: Cohort) -> dict[str, Mapping[str, list[float | None]]]:
    """Ask, count and print; every figure with its interval."""
    figures: dict[str, Mapping[str, list[float | None]]] = {}
    number = lambda v: round(v, 4) if np.isfinite(v) else None
    for task in run.recipe.tasks:
        metric = "concordance" if task == "survival" else "auroc"
        answers = asked(run, cohort, task)
        each = {reader: figure(metric, p, run.split.hash) for reader, p in answers.items()}
        known = answers["CT and table"].labelled().targets
        events = int((known[:, 1] if task == "survival" else known).sum())
        print(f"\n{task}, {metric}; {events} of {len(known)} labelled test patients with a CT have it")
        for reader, one in each.items():
            print(f"  {reader:<16}{shown(one)}")
        figures[task] = {reader: [one.n, *map(number, (one.value, one.low, one.high))] for reader, one in each.items()}
    return figures


def losses(run: Run) -> dict[str, list[float]]:
    """The mean of each term in the first and the last fifth of the steps."""
    terms: dict[str, list[float]] = {}
    for row in sorted(run.metrics().to_pylist(), key=lambda r: r["step"]):
        terms.setdefault(f"{row['stage']} {row['name']}", []).append(row["value"])
    fifth = {name: max(1, len(values) // 5) for name, values in terms.items()}
    return {
        name: [round(float(np.mean(v[: fifth[name]])), 3), round(float(np.mean(v[-fifth[name] :])), 3)]
        for name, v in terms.items()
    }


def main() -> None:
    """Train, ask, count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="150 patients and 40 steps: whether it runs")
    parser.add_argument("--patients", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    if told.quick:
        told.patients, told.steps = min(told.patients, 150), min(told.steps, 40)
    torch.set_num_threads(1)
    begun, spent = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        run, cohort = trained(Path(folder), told.patients, told.steps, told.seed)
        print(f"{len(run.split.train)} training and {len(run.split.test)} test patients")
        figures, curves = examined(run, cohort), losses(run)
    for name, (first, last) in curves.items():
        print(f"{name:<36}{first:>8.3f} → {last:.3f}")
    seconds = {"seconds": round(time.perf_counter() - begun), "cpu_seconds": round(time.process_time() - spent)}
    print(json.dumps({"name": "m3fm_ct", **vars(told), **seconds, "losses": curves, "figures": figures}))


if __name__ == "__main__":
    main()
