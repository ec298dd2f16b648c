"""Survival of bladder and lung cancer from clinical cells, omics and both, against Cox's model and forests in the same folds.

    python -m benchmarks.results.tcga FOLDER --out made/tcga [--seeds 3] [--quick]

FOLDER has `tcga_blca_all_clean.csv.zip` and `tcga_luad_all_clean.csv.zip` (Chen et al. 2021; a row a slide, of which each patient's
first is read). Five folds by patient and by tissue-source site, each drawn anew by each seed; everybody is tested once a seed. Concordance
is taken within a fold, never across two models, and averaged; intervals are by bootstrap over patients, differences are paired.

The random survival forest is scikit-survival's (0.28 goes with this project's pins; GPL-3.0, and so no dependency: `pip install
'scikit-survival>=0.28'` into an environment of one's own); where it is not installed its row is left out. A forest by scikit-learn on the
martingale residuals of the null model (Therneau et al. 1990) stands beside it. It can be stopped and goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import io
import platform
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import polyclinic as pc
from polyclinic.adaptation import adapt
from polyclinic.cohort import Cohort, Split, labels_of
from polyclinic.inference import predict
from polyclinic.schema import Figure, Modality
from polyclinic.tasks import Predictions
from polyclinic.training import Recipe, Run
from polyclinic.trust.comparisons.baselines import Study, cells, cox
from polyclinic.trust.comparisons.kept_answers import kept
from polyclinic.trust.measures.intervals import bootstrap
from polyclinic.trust.measures.metrics import concordance

CANCERS = {"bladder": "blca", "lung": "luad"}
FLOORS = {
    ("bladder", "patient"): (0.605, 0.59, 0.62), ("lung", "patient"): (0.52, 0.63, 0.64),
    ("bladder", "site"): (0.61, 0.56, None), ("lung", "site"): (0.53, 0.62, None),
}  # fmt: skip
"""What the project asked to beat: clinical, omics, both."""
READS = {"clinical": ("table",), "omics": ("omics",), "both": ("omics", "table")}
COLUMNS = ["site", "is_female", "age", "survival_months", "censorship"]
LABELS = ("survival_months", "censorship", "site")
FOLDS, COMPONENTS = 5, 10
FIRST_SEED = 1
"""The folds of seed 0 are those by which the components, their scale and the probe were tried out: they are no evidence any more."""


def tables(source: Path, cancer: str, out: Path) -> Path:
    """The patients' two tables: the genes, and the clinic's cells."""
    place = out / "tables" / cancer
    if place.exists():
        return place
    with zipfile.ZipFile(source / f"tcga_{CANCERS[cancer]}_all_clean.csv.zip") as archive:
        rows = list(csv.DictReader(io.StringIO(archive.read(archive.namelist()[0]).decode())))
    people = {r["case_id"]: r for r in reversed(rows)}
    genes = [c for c in rows[0] if c.endswith(("_rnaseq", "_cnv"))]
    beside = place.with_name(f".{cancer}")
    beside.mkdir(parents=True, exist_ok=True)
    for name, columns in (("expression", genes), ("clinical", COLUMNS)):
        with (beside / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            write = csv.writer(file)
            write.writerow(["case_id", *columns])
            write.writerows([case, *(people[case][c] for c in columns)] for case in sorted(people))
    beside.rename(place)
    return place


def recipe(name: str, by: str, turn: int, seed: int, genes: str) -> Recipe:
    """A network that a few hundred patients can fit: a token a component (or a programme) and a cell, and the mean of the modalities."""
    width = {"width": 64, "heads": 2}
    omics = (
        {"kind": "components", "components": COMPONENTS, "depth": 0}
        if genes == "components"
        else {"kind": "programmes", "depth": 1}
    )
    return Recipe.model_validate(
        {
            "name": name,
            "cohort": {"split": {"by": by, "folds": FOLDS, "turn": turn, "seed": seed}},
            "encoders": {"omics": omics | width, "table": {"kind": "events", "depth": 0, "exclude": ["site"]} | width},
            "model": {"kind": "two_tower", "width": 64, "embedding": 32, "fusion": {"kind": "late"}},
            "tasks": {"survival": {"kind": "survival", "time": "survival_months", "event": "censorship", "event_value": 0}},
            "stages": [{
                "name": "masked", "steps": 40, "batch": 32, "lr": 1e-3, "warmup": 5,
                "objective": {"kind": "masked", "ratio": 0.5},
            }],
            "precision": "fp32", "seed": seed,
        }
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fold:
    """One fold of one seed: who asks, of whom.

    Args:
        cohort: the cancer's.
        split: who trains and who tests.
        run: pretrained on the training side.
        by, turn, seed: which it is.
    """

    cohort: Cohort
    split: Split
    runs: dict[str, Run]
    by: str
    turn: int
    seed: int


def ours(fold: Fold, reads: Sequence[str], genes: str, penalty: str) -> Predictions:
    """The product's own way: a pretrained run, adapted to the task by a probe whose ridge is on weights or on directions."""
    run, how = fold.runs[genes], {"kind": "probe", "penalty": penalty}
    place = run.path / f"adapted/{penalty}-{'+'.join(reads)}"
    return predict(
        adapt(run, "survival", how, cohort=fold.cohort, inputs=list(reads), into=place, seed=fold.seed), fold.cohort
    )


def study(fold: Fold, reads: Sequence[str]) -> Study:
    """What a peer may see: the same records of the same patients."""
    records = fold.cohort.records()
    label = fold.runs["components"].recipe.tasks["survival"].label("survival")
    assert label is not None
    return Study(
        records,
        fold.cohort.load,
        fold.split.train,
        fold.split.test,
        labels_of(records, label),
        tuple(map(Modality, reads)),
        LABELS,
    )


def features(fold: Fold, reads: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(p f) of the training patients and of the others: cells, the unknown at their median, and leading components of the genes."""
    from sklearn.decomposition import PCA

    seen, blocks = study(fold, reads), []
    order = {p: n for n, p in enumerate((*seen.train, *seen.test))}
    train = len(seen.train)
    for modality in map(Modality, reads):
        rows = cells(seen, modality)
        values = np.full((len(order), rows.values.shape[1]), np.nan)
        values[[order[p] for p in rows.patient]] = rows.values
        values = np.where(np.isnan(values), np.nanmedian(values[:train], axis=0), values)
        if modality is Modality.OMICS:
            scaled = (values - values[:train].mean(0)) / values[:train].std(0).clip(min=1e-9)
            values = PCA(COMPONENTS, random_state=0).fit(scaled[:train]).transform(scaled)
        blocks.append(values)
    both = np.concatenate(blocks, axis=1)
    return both[:train], both[train:]


def forest(fold: Fold, reads: Sequence[str]) -> Predictions | None:
    """scikit-survival's random survival forest on cells and components; None where it is not installed."""
    try:
        from sksurv.ensemble import RandomSurvivalForest  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    seen, (known, asked) = study(fold, reads), features(fold, reads)
    answers = np.array(
        [(bool(e), t) for t, e in (seen.answers[p] for p in seen.train)], dtype=[("event", bool), ("time", float)]
    )
    trees = RandomSurvivalForest(n_estimators=300, min_samples_leaf=15, random_state=fold.seed).fit(known, answers)
    return told(seen, trees.predict(asked))


def residuals(fold: Fold, reads: Sequence[str]) -> Predictions:
    """A random forest on each training patient's events beyond those expected of anybody followed as long."""
    from lifelines import NelsonAalenFitter
    from sklearn.ensemble import RandomForestRegressor

    seen, (known, asked) = study(fold, reads), features(fold, reads)
    time_, event = np.array([seen.answers[p] for p in seen.train], dtype=float).T
    expected = NelsonAalenFitter().fit(time_, event).cumulative_hazard_at_times(time_).to_numpy()
    some: Any = "sqrt"
    trees = RandomForestRegressor(300, min_samples_leaf=15, max_features=some, random_state=fold.seed)
    return told(seen, trees.fit(known, event - expected).predict(asked))


def told(seen: Study, risk: np.ndarray) -> Predictions:
    """A peer's risks of the test patients beside what is known of them."""
    targets = np.array([seen.answers[p] for p in seen.test], dtype=float)
    return Predictions("survival", seen.test, np.asarray(risk, float), targets, np.ones(len(seen.test), dtype=bool))


Arm = Callable[[Fold, Sequence[str]], Predictions | None]
ARMS: dict[str, Arm] = {
    "ours, components, ridge on weights": lambda f, r: ours(f, r, "components", "weights"),
    "ours, components, ridge on directions": lambda f, r: ours(f, r, "components", "directions"),
    "ours, programmes, ridge on weights": lambda f, r: ours(f, r, "programmes", "weights"),
    "Cox, ridge, 10 components": lambda f, r: cox(study(f, r), "survival", COMPONENTS),
    "random survival forest": forest,
    "forest on martingale residuals": residuals,
}
FIRST, PEER = "ours, components, ridge on directions", "Cox, ridge, 10 components"


def answers(
    cancer: str, cohort: Cohort, by: str, seeds: int, out: Path, small: bool
) -> dict[tuple[str, str], list[list[Predictions]]]:
    """(arm, reads) → of each seed the folds' answers."""
    found: dict[tuple[str, str], list[list[Predictions]]] = {}
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        for turn in range(2 if small else FOLDS):
            runs = {
                g: pc.pretrain(recipe(f"{cancer}-{by}-{g}-{seed}-{turn}", by, turn, seed, g), cohort, into=out / "runs")
                for g in ("components", "programmes")[: 2 if by == "patient" else 1]
            }
            fold = Fold(cohort, runs["components"].split, runs, by, turn, seed)
            for arm, ask in ((a, k) for a, k in ARMS.items() if by == "patient" or "programmes" not in a):
                for words, reads in READS.items():
                    place = (
                        out
                        / "answers"
                        / f"{cancer}-{by}-{seed}-{turn}-{arm}-{words}.json".replace(" ", "_").replace(",", "")
                    )
                    made = kept(place, lambda ask=ask, fold=fold, reads=reads: ask(fold, reads), "survival")
                    if made is not None:
                        group = found.setdefault((arm, words), [[] for _ in range(seeds)])
                        group[seed - FIRST_SEED].append(made.labelled())
            print(f"{cancer} by {by}: seed {seed}, fold {turn}", flush=True)
    return found


def within_folds(of: list[list[Predictions]], patients: Sequence[str], weights: np.ndarray) -> np.ndarray:
    """(r n) weights of the patients → (r,) the mean over seeds of the mean over folds of the concordance in each."""
    place = {p: n for n, p in enumerate(patients)}
    each = [
        np.mean(
            [concordance(p.outputs, p.targets, weights[:, [place[name] for name in p.patients]]) for p in folds], axis=0
        )
        for folds in of
    ]
    return np.mean(each, axis=0)


def figure(of: list[list[Predictions]], other: list[list[Predictions]] | None, name: str, draws: int) -> Figure:
    """The concordance with its interval; with another's answers, how much higher it is."""
    known = {p: event for folds in of for one in folds for p, (_, event) in zip(one.patients, one.targets, strict=True)}
    patients = sorted(known)
    value = lambda w: within_folds(of, patients, w) - (0 if other is None else within_folds(other, patients, w))
    strata = np.array([int(known[p]) for p in patients])
    return bootstrap(value, strata, name=name, split="folds", draws=draws, method="percentile", bounded=False)


def cell(value: Figure, spread: float | None = None, sign: bool = False) -> str:
    """A figure as it stands in the page."""
    shape = "+.3f" if sign else ".3f"
    text = f"{value.value:{shape}} ({value.low:{shape}} to {value.high:{shape}})"
    return (text if spread is None else f"{text} ± {spread:.3f}").replace("-", "−")


def part(cancer: str, by: str, found: dict[tuple[str, str], list[list[Predictions]]], draws: int) -> list[str]:
    """A table of one cancer and one way to divide its patients."""
    some = next(iter(found.values()))
    patients, events = sum(len(p.patients) for p in some[0]), int(sum(p.targets[:, 1].sum() for p in some[0]))
    lines = [
        f"## {cancer.capitalize()}, five folds by {by}",
        "",
        f"n = {patients}, {events} deaths; {len(some)} seed(s).",
        "",
    ]
    lines += ["| | " + " | ".join(READS) + " |", "|---|" + "---|" * len(READS)]
    for arm in (a for a in ARMS if (a, "both") in found):
        row = []
        for words in READS:
            of = found[arm, words]
            folds = [
                float(concordance(p.outputs, p.targets, np.ones((1, len(p.patients))))[0]) for seed in of for p in seed
            ]
            row.append(cell(figure(of, None, "concordance", draws), float(np.std(folds))))
        lines.append(f"| {arm} | " + " | ".join(row) + " |")
    floor = " | ".join("–" if f is None else f"{f:g}" for f in FLOORS[cancer, by])
    ahead = " | ".join(cell(figure(found[FIRST, w], found[PEER, w], "difference", draws), sign=True) for w in READS)
    return [*lines, f"| floor that was set | {floor} |", f"| *{FIRST} − {PEER}* | {ahead} |", ""]


def main() -> None:
    """Run, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="two folds of one cancer; its figures mean nothing")
    asked = parser.parse_args()
    began, draws = time.monotonic(), 100 if asked.quick else 1000
    lines: list[str] = []
    for cancer in list(CANCERS)[: 1 if asked.quick else None]:
        place = asked.out / "cohorts" / cancer
        cohort = (
            Cohort.open(place)
            if (place / "cohort.json").exists()
            else pc.ingest(tables(asked.folder, cancer, asked.out), into=place)
        )
        for by in ("patient",) if asked.quick else ("patient", "site"):
            lines += part(cancer, by, answers(cancer, cohort, by, asked.seeds, asked.out, asked.quick), draws)
    absent = (
        ""
        if importlib.util.find_spec("sksurv")
        else " The random survival forest's row is left out: scikit-survival is not installed."
    )
    head = [
        "# Survival from omics and clinical cells: TCGA bladder and lung", "",
        f"Made by `benchmarks/results/tcga.py`: concordance within each fold, averaged; 95% intervals by percentile bootstrap over "
        f"patients ({draws} draws), ± the standard deviation over folds; {platform.machine()}, one thread; polyclinic {pc.__version__}. "
        "As they fell. The folds of another seed are those by which ours was tried out." + absent, "",
    ]  # fmt: skip
    (asked.out / "tcga.md").write_text("\n".join([*head, *lines]), encoding="utf-8")
    print("\n".join(lines), f"\n{time.monotonic() - began:.0f} s", asked.out / "tcga.md")


if __name__ == "__main__":
    main()
