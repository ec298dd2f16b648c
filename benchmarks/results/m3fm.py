"""M3FM on the phantom hospital: Spanish reports of radiographs, though no radiograph with a Spanish report was ever seen.

Learned of: radiographs with English reports; Spanish reports without a radiograph; reports in both languages of people without a
radiograph (the same facts by the same rules, which is what a translator would give). Held out: every other patient whose
report is Spanish. Most of them are of one hospital, with noisier and blurrier radiographs, of which hardly any image is learned of.

    python -m benchmarks.results.m3fm [--patients 2000] [--steps 800] [--seed 0]

A finding counts as said where the report has it present or possible, and is held against whether the patient has it. `most frequent` says
of each finding what most training reports say. `radiologist` is the phantom's own Spanish report, who misses some and sees what is
not there. Balanced accuracy is the mean of sensitivity and specificity, 0.5 for whoever says the same of everybody. Intervals: 95%,
percentile bootstrap over patients, 2000 draws.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

import polyclinic as pc
from polyclinic.cohort import Cohort
from polyclinic.harmonise.loader import Loader
from polyclinic.models.systems.m3fm import M3fm
from polyclinic.objectives import RetellObjective
from polyclinic.phantom import simulate
from polyclinic.phantom.people import generator, person
from polyclinic.phantom.report import FINDINGS, Fact, realise, write
from polyclinic.schema import Modality
from polyclinic.training import Recipe, Run

LANGUAGES = ("en", "es")
HAS = dict(zip(FINDINGS, ("pneumonia", "nodule", "effusion", "heart_failure", "emphysema"), strict=True))
"""Finding → the node of the phantom's graph that says whether it is there."""
NOUNS = {"es": dict(zip(FINDINGS, ("consolidación", "nódulo", "derrame pleural", "cardiomegalia", "enfisema"), strict=True)),
         "en": dict(zip(FINDINGS, ("consolidation", "nodule", "pleural effusion", "cardiomegaly", "emphysema"), strict=True))}  # fmt: skip
ABSENT = {"es": ("sin ", "no hay ", "no se observa "), "en": ("no ", "there is no ")}
DRAWS = 2000
Measure = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""What was found (p f) and the truth (p f) → (f,)."""
SMALL = (
    "encoders={image: {kind: vit, size: 64, patch: 8, width: 64, depth: 3, heads: 4}, text: {kind: bert, words: 128, vocabulary: 1024,"
    " languages: [en, es], width: 64, depth: 2, heads: 4}}",
    "model.width=64", "model.embedding=64", "cohort.split.test=0.02", "cohort.where=modality in ('image', 'text')",
    "stages.0.objective.parts.0.pairs=[[image, text]]", "stages.0.batch=48", "stages.0.warmup=50", "stages.0.lr=1e-3",
    "stages.1.objective.width=96", "stages.1.objective.depth=2", "stages.1.objective.heads=4", "stages.1.batch=32", "stages.1.lr=2e-3",
    "stages.1.warmup=50", "precision=fp32",
)  # fmt: skip
"""The recipe `m3fm`, for a few minutes of one core."""


def said(report: str, language: str) -> np.ndarray:
    """(f,) bool: which of `FINDINGS` a report of the phantom's grammar has as present or possible."""
    sentences = [s.strip() for part in report.lower().split(":") for s in part.split(".")]
    absent = lambda s: s.startswith(ABSENT[language]) or (language == "en" and s.endswith("is not seen"))
    return np.array([any(noun in s and not absent(s) for s in sentences) for noun in NOUNS[language].values()])


def people(place: Path) -> dict[str, dict[str, object]]:
    """The truth, a row a patient."""
    columns = ["patient", "language", "site", *HAS.values()]
    return {row["patient"]: row for row in pq.read_table(place / "patients.parquet", columns=columns).to_pylist()}


def part(hospital: Path, truth: Mapping[str, Mapping[str, object]], learn: Path, unseen: Path) -> None:
    """Every other patient of the Spanish reports is held out; the other Spanish ones lose their radiographs, and all their earlier ones."""
    spanish = sorted(p for p, row in truth.items() if row["language"] == "es")
    held = set(spanish[::2])
    for file in sorted(hospital.rglob("*")):
        name = file.name.split(".")[0].split("_")[0]
        who = name if name.startswith("P") else f"P{name[2:]}"
        note = file.suffix == ".txt"
        if who not in truth or not (note or name.startswith("XR")) or (not note and who in spanish and who not in held):
            continue
        target = (unseen if who in held else learn) / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)


def both(folder: Path, count: int, seed: int) -> None:
    """Notes in both languages of people who are not the hospital's."""
    folder.mkdir(parents=True)
    for index in range(count):
        who = person(seed, index)
        for number, language in enumerate(LANGUAGES):
            # The same draws: the same facts by the same rules, in the same order.
            text, _ = write({**who, "language": number}, generator(seed, index, "report"))
            head = f"Patient: B{index:06d}\nType: radiology report\nLanguage: {language}\n\n"
            (folder / f"B{index:06d}_{language}.txt").write_text(head + text + "\n", encoding="utf-8")


def system(run: Run) -> M3fm:
    """The trained run, for use."""
    model = run.model()
    retell = run.objective(model)
    assert isinstance(retell, RetellObjective)
    return M3fm(model, retell, run.recipe.standards()[Modality.TEXT], run.fingerprint)


def written(m3fm: M3fm, loader: Loader, language: str, modality: Modality) -> dict[str, str]:
    """Patient → the report written of one of their modalities."""
    found = {}
    for batch in loader.each(64):
        found |= {batch.patients[who]: text for who, text in m3fm.write(batch, language, [modality]).items()}
    return found


def prompts(language: str) -> dict[str, list[list[str]]]:
    """Of each finding two answers: there, and not there, by the rules of the grammar."""
    told = lambda finding, status: [realise(Fact(finding, status), rule, language) for rule in range(3)]
    return {finding: [told(finding, "present"), told(finding, "absent")] for finding in FINDINGS}


def zero_shot(m3fm: M3fm, loader: Loader, language: str) -> dict[str, np.ndarray]:
    """Patient → (f,) the chance of each finding by prompts, of the radiograph."""
    found = {}
    for batch in loader.each(64, modalities=[Modality.IMAGE]):
        chances = m3fm.diagnose(batch, prompts(language), language, Modality.IMAGE)
        rows = torch.stack([chances[finding][:, 0] for finding in FINDINGS], 1).numpy()
        found |= dict(zip(batch.patients, rows, strict=True))
    return found


def accuracy(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(p f), (p f) → (f,)."""
    return (found == truth).mean(0)


def balanced(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(p f), (p f) → (f,) the mean of sensitivity and specificity."""
    sensitivity = (found & truth).sum(0) / np.maximum(truth.sum(0), 1)
    specificity = (~found & ~truth).sum(0) / np.maximum((~truth).sum(0), 1)
    return (sensitivity + specificity) / 2


def auc(chances: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(p f), (p f) → (f,) the share of pairs in the right order; ties count half."""
    out = []
    for x, y in zip(chances.T, truth.T, strict=True):
        higher = x[y][:, None] - x[~y]
        out.append(((higher > 0) + 0.5 * (higher == 0)).mean() if higher.size else np.nan)
    return np.array(out)


def interval(statistic: Callable[[np.ndarray], float], n: int, seed: int) -> tuple[float, float, float]:
    """A statistic of patients' rows, with its 95% interval."""
    rng = np.random.default_rng(seed)
    draws = [statistic(rng.integers(0, n, n)) for _ in range(DRAWS)]
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return statistic(np.arange(n)), float(low), float(high)


def trained(at: Path, patients: int, steps: int, seed: int) -> tuple[Run, Cohort, dict[str, dict[str, object]]]:
    """The run, the unseen patients' cohort, and the truth."""
    made = simulate(at / "phantom", patients, seed=seed, modalities=("xray", "report"), size=32)
    truth = people(made.truth)
    part(made.hospital, truth, at / "learn/images", at / "unseen")
    both(at / "learn/both", patients, seed + 1)
    named = sorted({file.name.split("_")[0] for file in (at / "learn").rglob("*.txt")})
    # A note of somebody whom nothing else names would be set aside.
    (at / "learn/patients.csv").write_text("\n".join(["patient_id,noted", *(f"{name},Y" for name in named)]) + "\n")
    cohort, unseen = pc.ingest(at / "learn", at / "cohort"), pc.ingest(at / "unseen", at / "unseen-cohort")
    recipe = Recipe.load(
        "m3fm", (*SMALL, f"seed={seed}", f"stages.0.steps={steps}", f"stages.1.steps={steps * 5 // 8}")
    )
    return pc.pretrain(recipe, cohort, into=at / "runs"), unseen, truth


def table(
    name: str, rows: Sequence[tuple[str, np.ndarray]], measure: Measure, truth: np.ndarray, seed: int
) -> dict[str, list[float]]:
    """Print a measure of each reader, finding by finding and in the mean, with the mean's interval."""
    print(f"\n{name:<34}" + "".join(f"{f:>15}" for f in FINDINGS) + f"{'mean':>24}")
    figures = {}
    for reader, found in rows:
        each = measure(found, truth)
        at = interval(lambda i, found=found: float(np.nanmean(measure(found[i], truth[i]))), len(truth), seed)
        print(f"{reader:<34}" + "".join(f"{v:>15.3f}" for v in each) + f"{at[0]:>10.3f} ({at[1]:.3f}, {at[2]:.3f})")
        figures[reader] = [round(v, 4) for v in at]
    return figures


def examined(
    at: Path, m3fm: M3fm, recipe: Recipe, unseen: Cohort, people_: Mapping[str, Mapping[str, object]], seed: int
) -> dict[str, Any]:
    """Write, count and print; every figure with its interval."""
    records = unseen.records()
    own = {r.patient: unseen.load(r).text or "" for r in records if r.modality is Modality.TEXT}
    who = sorted({r.patient for r in records if r.modality is Modality.IMAGE} & set(own))
    loader = Loader(records, who, recipe.standards(), m3fm.fingerprint, unseen.load)
    truth = np.array([[bool(people_[p][HAS[f]]) for f in FINDINGS] for p in who])
    counts = ", ".join(f"{f} {n}" for f, n in zip(FINDINGS, truth.sum(0), strict=True))
    print(f"{len(who)} unseen patients with a radiograph and a Spanish report; of them have {counts}")
    reads = lambda reports, language: np.array([said(reports[p], language) for p in who])
    spanish = written(m3fm, loader, "es", Modality.IMAGE)
    print(f"\n{who[0]}, by the radiologist: {own[who[0]]!r}\n{who[0]}, of the radiograph: {spanish[who[0]]!r}")
    usual = np.mean([said(p.read_text("utf-8"), "es") for p in (at / "learn/both").glob("*_es.txt")], axis=0) > 0.5
    rows = [
        ("most frequent", np.tile(usual, (len(who), 1))),
        ("Spanish, of the radiograph", reads(spanish, "es")),
        ("English, of the radiograph", reads(written(m3fm, loader, "en", Modality.IMAGE), "en")),
        ("Spanish, of the Spanish report", reads(written(m3fm, loader, "es", Modality.TEXT), "es")),
        ("radiologist", reads(own, "es")),
    ]
    shots = {language: zero_shot(m3fm, loader, language) for language in ("es", "en")}
    asked = [(f"prompts in {language}", np.array([found[p] for p in who])) for language, found in shots.items()]
    figures: dict[str, Any] = {"n": len(who)}
    for name, measure in (("accuracy", accuracy), ("balanced accuracy", balanced)):
        figures[name] = table(name, rows, measure, truth, seed)
        gain = lambda i, m=measure: float((m(rows[1][1][i], truth[i]) - m(rows[0][1][i], truth[i])).mean())
        value, low, high = interval(gain, len(who), seed)
        print(f"Spanish, of the radiograph − most frequent: {value:+.3f} ({low:+.3f}, {high:+.3f})")
        figures[f"gain in {name}"] = [round(v, 4) for v in (value, low, high)]
    figures["AUC"] = table("AUC, zero-shot by prompts", asked, auc, truth, seed)
    return figures


def main() -> None:
    """Train, write, count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--patients", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run, unseen, people_ = trained(Path(folder), told.patients, told.steps, told.seed)
        figures = examined(Path(folder), system(run), run.recipe, unseen, people_, told.seed)
    seconds = round(time.perf_counter() - begun)
    print(json.dumps({"name": "m3fm", **vars(told), "seconds": seconds, **figures}))


if __name__ == "__main__":
    main()
