"""PubMedQA's yes, no or maybe on the official test part, against the commonest answer and TF-IDF.

    python -m benchmarks.results.pubmedqa FOLDER --out made/pubmedqa [--seeds 3] [--quick]

FOLDER has `ori_pqal.json` and `test_ground_truth.json` (Jin et al. 2019). The question with its abstract is read, the long answer by
nobody. All is learned from the 500 of the training part: no pretrained weights can be had here, and the figures of those who have some
are no peers.
It can be stopped and goes on where it was.
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path

import numpy as np
import torch

import polyclinic as pc
from polyclinic.adaptation import adapt
from polyclinic.cohort import Cohort, labels_of
from polyclinic.inference import predict
from polyclinic.tasks import Predictions
from polyclinic.training import Recipe
from polyclinic.trust.comparisons.kept_answers import kept

from .texts import commonest, majority, table, texts_of, words

ANSWERS = ("yes", "no", "maybe")
METHODS = {"linear probe": "probe", "fine-tuned": {"kind": "full", "lr": 1e-3}}
STEPS = {"linear probe": None, "fine-tuned": 60}


def recipe(seed: int, small: bool) -> Recipe:
    """Words hidden and asked for, then the answer."""
    size = {"words": 64 if small else 256, "vocabulary": 512 if small else 2048, "width": 32 if small else 128}
    return Recipe.model_validate(
        {
            "name": f"pubmedqa-{seed}",
            "cohort": {"where": "kind = 'question'", "split": {"by": "fold"}},
            "encoders": {"text": {"kind": "bert", "depth": 1, "heads": 4} | size},
            "model": {"kind": "two_tower", "width": size["width"], "embedding": 32, "fusion": {"kind": "late"}},
            "tasks": {"answer": {"kind": "classes", "column": "answer", "classes": [[a] for a in ANSWERS], "top": 2}},
            "stages": [{
                "name": "words", "steps": 5 if small else 100, "batch": 16, "lr": 1e-3, "warmup": 20,
                "objective": {"kind": "masked_language"},
            }],
            "precision": "fp32", "seed": seed,
        }
    )  # fmt: skip


def ours(cohort: Cohort, out: Path, seeds: int, small: bool) -> tuple[dict[str, Predictions], pc.Run]:
    """Arm → the answers of the seeds, averaged; and the first seed's run."""
    found, first = dict[str, list[Predictions]](), None
    for seed in range(seeds):
        run = pc.pretrain(recipe(seed, small), cohort, into=out / "runs")
        first = first or run
        for arm, method in METHODS.items():
            steps = 3 if small and STEPS[arm] else STEPS[arm]
            make = lambda run=run, method=method, arm=arm, steps=steps: predict(
                adapt(
                    run, "answer", method, cohort=cohort, steps=steps, into=run.path / "adapted" / arm.replace(" ", "_")
                ),
                cohort,
            )
            found.setdefault(arm, []).append(kept(out / "answers" / f"{arm.replace(' ', '_')}-{seed}.json", make))
            print(f"seed {seed}: {arm}", flush=True)
    assert first is not None
    mean = lambda group: Predictions(
        "answer", group[0].patients, np.mean([p.outputs for p in group], axis=0), group[0].targets, group[0].mask
    )
    return {f"ours, {arm}": mean(group) for arm, group in found.items()}, first


def main() -> None:
    """Run, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a tiny network; its figures mean nothing")
    asked = parser.parse_args()
    began, place = time.monotonic(), asked.out / "cohort"
    cohort = Cohort.open(place) if (place / "cohort.json").exists() else pc.ingest(asked.folder, into=place)
    made, run = ours(cohort, asked.out, 1 if asked.quick else asked.seeds, asked.quick)
    like = next(iter(made.values()))
    label = run.recipe.tasks["answer"].label("answer")
    assert label is not None
    known = labels_of(cohort.records(run.recipe.cohort.where), label)
    truth = [known[p] for p in run.split.train]
    made["commonest answer"] = majority(like, truth, len(ANSWERS))
    read = lambda patients: texts_of(cohort, "question", patients)
    made["TF-IDF + logistic regression"] = kept(
        asked.out / "answers/words.json",
        lambda: words(like, read(run.split.train), truth, read(like.patients), len(ANSWERS)),
    )
    rows = table(
        made, "ours, fine-tuned", "TF-IDF + logistic regression", ANSWERS, run.split.hash, 200 if asked.quick else 2000
    )
    page = [
        "# PubMedQA: yes, no or maybe", "",
        f"Made by `benchmarks/results/pubmedqa.py`: {len(run.split.train)} train, the official {len(like.patients)} test (split "
        f"`{run.split.hash[:12]}`); commonest answer {commonest(truth, ANSWERS)}; ours: the mean probabilities of "
        f"{1 if asked.quick else asked.seeds} seed(s); 95% intervals by bootstrap over the questions; "
        f"{platform.machine()}, {torch.get_num_threads()} thread; polyclinic {pc.__version__}. As they fell.", "", *rows,
        "No pretrained weights can be downloaded where this was made: our networks begin with nothing and see 500 abstracts.", "",
    ]  # fmt: skip
    (asked.out / "pubmedqa.md").write_text("\n".join(page), encoding="utf-8")
    print("\n".join(page), f"{time.monotonic() - began:.0f} s", asked.out / "pubmedqa.md")


if __name__ == "__main__":
    main()
