"""Whether balancing modalities helps the weaker one: linear probes of each modality alone, on the phantom hospital.

Radiographs and reports are learned of together, by comparing them and by filling in what was hidden of one from both. Then each
modality's vector alone is asked, by ridge regression fitted on the training patients, which of five conditions an unseen patient has.
The same network, seeds and patients with each of the two options of a stage, and with none.

    python -m benchmarks.results.modality_balance [--patients 600] [--steps 200] [--seeds 3] [--quick]

A figure is the mean AUROC over the conditions and the seeds; its interval is 95%, percentile bootstrap over the unseen patients, and a
difference is paired: the same resamples of the same patients, each seed with itself.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

import polyclinic as pc
from polyclinic.cohort import Cohort
from polyclinic.inference import embed
from polyclinic.phantom import simulate
from polyclinic.schema import Modality
from polyclinic.training import Recipe, Run

from .proxy_tasks import FIRST

CONDITIONS = ("pneumonia", "nodule", "effusion", "heart_failure", "emphysema")
ARMS: dict[str, dict[str, Any]] = {
    "none": {},
    "modality_balance: 0.5": {"modality_balance": 0.5},
    "modality_dropout: 0.2": {"modality_dropout": 0.2},
}
READ = (Modality.IMAGE, Modality.TEXT)
RIDGE, DRAWS = 1.0, 1000
Told = tuple[Cohort, Mapping[str, list[bool]]]
"""A cohort, and which of the conditions each patient has."""


def recipe(arm: str, seed: int, steps: int) -> Recipe:
    """The same but for the arm and the seed."""
    size = {"width": 48, "heads": 4, "depth": 2}
    parts = [{"kind": "contrastive"}, {"kind": "masked", "context": "patient", "width": 48}]
    stage = {"name": "both", "steps": steps, "batch": 32, "lr": 2e-3, "objective": {"kind": "hybrid", "parts": parts}}
    return Recipe.model_validate({
        "name": f"{list(ARMS).index(arm)}-{seed}", "seed": seed, "precision": "fp32",
        "cohort": {"where": f"modality in ('image', 'text') and {FIRST}", "split": {"test": 0.02}},
        "encoders": {
            "image": {"kind": "vit", "size": 32, "patch": 8, **size},
            "text": {"kind": "bert", "words": 64, "vocabulary": 512, **size},
        },
        "model": {"kind": "two_tower", "width": 48, "embedding": 48, "fusion": {"kind": "intermediate", "depth": 1, "heads": 4}},
        "stages": [stage | ARMS[arm]],
    })  # fmt: skip


def ridge(known: np.ndarray, answers: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Vectors (n e), (n c) and (m e) → (m c) scores, by features of unit spread."""
    centre, spread = known.mean(0), known.std(0) + 1e-6
    x, y = (known - centre) / spread, answers - answers.mean(0)
    return (asked - centre) / spread @ np.linalg.solve(x.T @ x + RIDGE * len(x) * np.eye(x.shape[1]), x.T @ y)


def auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """(m c) and (m c) bool → the mean over conditions of the share of pairs in the right order; no two who differ have one score."""
    out = []
    for s, t in zip(scores.T, truth.T, strict=True):
        order = np.argsort(np.argsort(s, kind="stable"), kind="stable")
        there = int(t.sum())
        if 0 < there < len(t):
            out.append((order[t].sum() - there * (there - 1) / 2) / (there * (len(t) - there)))
    return float(np.mean(out)) if out else float("nan")


def probed(run: Run, known: Told, unseen: Told) -> dict[str, tuple[list[str], np.ndarray]]:
    """Each modality's unseen patients and the scores (m c) that they are given by what the training patients have."""
    fitted, asked = embed(run, known[0], patients=run.split.train), embed(run, unseen[0], patients=sorted(unseen[1]))
    answers = lambda who: np.array([known[1][p] for p in who], dtype=float)
    return {m.value: (asked[m][0], ridge(fitted[m][1], answers(fitted[m][0]), asked[m][1])) for m in READ}


def gradients(run: Run) -> dict[str, float]:
    """Each modality's median norm of its own weights' gradient over the steps, and of its pace where it has one."""
    values: dict[str, list[float]] = {}
    for row in run.metrics().to_pylist():
        if row["name"].startswith(("gradient/", "pace/")):
            values.setdefault(row["name"], []).append(row["value"])
    return {name: round(float(np.median(found)), 4) for name, found in values.items()}


def interval(statistic: Callable[[np.ndarray], float], n: int) -> list[float]:
    """A statistic of patients' rows, with its 95% interval."""
    rng = np.random.default_rng(0)
    low, high = np.nanpercentile([statistic(rng.integers(0, n, n)) for _ in range(DRAWS)], [2.5, 97.5])
    return [round(v, 4) for v in (statistic(np.arange(n)), float(low), float(high))]


def examined(at: Path, patients: int, steps: int, seeds: int) -> dict[str, Any]:
    """Simulate, train, probe; print the table and give its figures."""
    # Two hospitals: the unseen patients are all of the second, so that nearly all of the first can train.
    made = [
        simulate(at / f"phantom-{seed}", patients, seed=seed, modalities=("xray", "report"), size=32) for seed in (0, 1)
    ]
    told = [
        pq.read_table(m.truth / "patients.parquet", columns=["patient", *CONDITIONS]).to_pylist() for m in made
    ]  # fmt: skip
    truths = [{row["patient"]: [bool(row[c]) for c in CONDITIONS] for row in rows} for rows in told]
    cohort, unseen = (pc.ingest(m.hospital, at / f"cohort-{n}") for n, m in enumerate(made))
    found: dict[str, list[dict[str, tuple[list[str], np.ndarray]]]] = {arm: [] for arm in ARMS}
    learned: dict[str, dict[str, float]] = {}
    for arm in ARMS:
        for seed in range(seeds):
            run = pc.pretrain(recipe(arm, seed, steps), cohort, into=at / "runs")
            found[arm].append(probed(run, (cohort, truths[0]), (unseen, truths[1])))
            learned.setdefault(arm, gradients(run))
    figures: dict[str, Any] = {"gradients": learned}
    for m in (m.value for m in READ):
        who = found["none"][0][m][0]
        right = np.array([truths[1][p] for p in who])
        score = lambda arm, rows, m=m, right=right: float(
            np.mean([auc(f[m][1][rows], right[rows]) for f in found[arm]])
        )
        print(f"\n{m} alone, {len(who)} unseen patients" + " " * 12 + "AUROC" + " " * 19 + "minus none")
        for arm in ARMS:
            value = interval(lambda rows, arm=arm, score=score: score(arm, rows), len(who))
            gain = interval(lambda rows, arm=arm, score=score: score(arm, rows) - score("none", rows), len(who))
            each = [round(auc(f[m][1], right), 3) for f in found[arm]]
            figures[f"{m}, {arm}"] = {"n": len(who), "auroc": value, "minus none": gain, "seeds": each}
            print(
                f"{arm:<34}{value[0]:.3f} ({value[1]:.3f}, {value[2]:.3f})   {gain[0]:+.3f} ({gain[1]:+.3f}, {gain[2]:+.3f})"
            )
    print("\nmedians over the steps of the first seed: " + "; ".join(f"{arm}: {told}" for arm, told in learned.items()))
    return figures


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--patients", type=int, default=600)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="shows that it runs; its figures mean nothing")
    told = parser.parse_args()
    if told.quick:
        told.patients, told.steps, told.seeds = 60, 3, 1
    torch.set_num_threads(1)
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        figures = examined(Path(folder), told.patients, told.steps, told.seeds)
    print(
        json.dumps(
            {"name": "modality_balance", **vars(told), "cpu_seconds": round(time.process_time() - begun), **figures}
        )
    )


if __name__ == "__main__":
    main()
