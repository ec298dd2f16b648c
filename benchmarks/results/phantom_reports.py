"""What a report's decoder gains by what it is shown: the radiograph, the earlier study, the laboratory, or all, on the phantom hospital.

    polyclinic phantom --patients 2400 --size 32 --modalities xray,report,earlier_report,ehr --out phantom
    python -m benchmarks.results.phantom_reports phantom --out made/reports [--quick]

One network, which learned to write the English reports of the training side from all of it (at times without the laboratory),
writes those of the test side as of their own time, and is shown more or less of each patient: the study's radiograph, the
earlier radiograph and its report, the laboratory. Everything is held against the radiologist's own report. `most frequent` is one
report for everybody; `nearest` is the report of the training radiograph whose tokens' mean lies nearest. Nobody can be expected to say
more than a second radiologist who reads the same patient (`second radiologist`, drawn from the phantom's graph), nor to hit words better
than the same radiologist who says the same anew (`same, said anew`). It can be stopped and goes on.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

import polyclinic as pc
from polyclinic.adaptation import Adapted, open_adapted
from polyclinic.adaptation.report import reference, reports_of, words_of
from polyclinic.cohort import Cohort
from polyclinic.harmonise.loader import Loader
from polyclinic.inference import predict
from polyclinic.phantom.people import PEOPLE, READING, generator, person
from polyclinic.phantom.report import FINDINGS, write
from polyclinic.records.findings import read_findings, summary
from polyclinic.schema import Figure, Modality
from polyclinic.tasks import Predictions, ReportTask
from polyclinic.tasks.correctness import ABSENT, correctness, f1, stacked
from polyclinic.training import Recipe, Run
from polyclinic.training.run import file_hash
from polyclinic.trust.comparisons.kept_answers import kept
from polyclinic.trust.measures.intervals import bootstrap
from polyclinic.trust.measures.wording import report_figures

from .phantom_ceiling import CODED, LATER, SNOMED
from .texts import told

ARMS = {
    "image": ([Modality.IMAGE], False),
    "image + earlier": ([Modality.IMAGE], True),
    "image + labs": ([Modality.IMAGE, Modality.TABLE], False),
    "all": ([Modality.IMAGE, Modality.TABLE], True),
}
"""What is shown of the study, and whether the earlier study is."""
ENGLISH = "(modality = 'text' and attributes->>'language' = 'en')"
SAID = ("finding_f1", "finding_precision", "finding_recall", "side_errors", "place_errors")
PRIOR = ("change_f1", "change_errors", "prior_made_up", "prior_missed")
WORDS = ("bleu_1", "bleu_4", "rouge_l", "meteor")


def recipe(small: bool, steps: int) -> Recipe:
    """The network; codes of diagnoses and what is known afterwards are not read."""
    width = {"width": 16, "heads": 2} if small else {"width": 64, "heads": 4}
    table = {"kind": "events", "depth": 1, "exclude": [*CODED, *SNOMED, *LATER]}
    return Recipe.model_validate(
        {
            "name": "phantom-reports",
            "cohort": {
                "where": f"({ENGLISH} or kind in ('DX chest PA', 'EHR events')) "
                f"and patient in (select patient from records where {ENGLISH})",
                "split": {"test": 0.3},
            },
            "encoders": {
                "image": {"kind": "vit", "size": 64, "patch": 16, "depth": 3} | width,
                "text": {
                    "kind": "bert", "words": 160, "vocabulary": 512, "languages": ["en"], "depth": 1,
                } | width,
                "table": table | width,
            },
            "model": {"kind": "two_tower", "width": width["width"], "embedding": 32, "fusion": {"kind": "late"}},
            "tasks": {"report": {"kind": "report", "language": "en", "words": 159, "inputs": ["image", "text", "table"]}},
            "stages": [{
                "name": "write", "steps": 4 if small else steps, "batch": 16, "lr": 3e-3, "warmup": 30,
                "modality_dropout": {"table": 0.3},
                "objective": {
                    "kind": "caption", "modalities": ["image", "table"], "earlier": ["image", "text"], "depth": 2, **width,
                },
            }],
            "precision": "fp32",
        }
    )  # fmt: skip


def answers(
    adapted: Adapted, cohort: Cohort, who: Sequence[str], study: Sequence[Modality], earlier: bool
) -> Predictions:
    """What the decoder writes of the patients, shown no more than this."""
    reads = [m for m in adapted.inputs if m in study or (earlier and m is Modality.TEXT)]
    return predict(adapted, cohort, patients=who, modalities=reads, earlier=earlier)


@torch.no_grad()
def vectors(run: Run, task: ReportTask, loader: Loader, who: Sequence[str]) -> np.ndarray:
    """(p d) unit means of each patient's tokens of the study's radiograph."""
    model, found = run.model(), []
    for batch in loader.each(64, who, (Modality.IMAGE,)):
        asked, _ = reports_of(loader, batch.patients, "en")
        tokens = model.encode(task.told(model, batch, asked))[Modality.IMAGE]
        total = torch.zeros(len(batch.patients), model.width).index_add_(0, tokens.patient, tokens.values)
        found.append(torch.nn.functional.normalize(total, dim=1).numpy())
    return np.concatenate(found)


def usual(texts: Mapping[str, str]) -> str:
    """The first report of those that say what most say: the same findings, and whether there was an earlier study."""

    def says(text: str) -> tuple[object, ...]:
        reading = read_findings(text)
        return (reading.compared, *sorted(n for n, s in summary(reading.mentions).items() if s != ABSENT))

    said = {p: says(t) for p, t in texts.items()}
    ((most, _),) = Counter(said.values()).most_common(1)
    return texts[min(p for p, s in said.items() if s == most)]


def again(patient: str, seed: int, second: bool) -> str:
    """The phantom's report said anew, or of a second radiologist who reads the same patient."""
    index, rng = int(patient[1:]), generator(seed, int(patient[1:]), "second radiologist")
    who = dict(person(seed, index))
    for finding in FINDINGS if second else ():
        node = PEOPLE.nodes[f"says_{finding}"]
        chances = np.asarray(node.law(*(np.array([who[p]]) for p in node.parents)))[0]
        who[node.name] = int(rng.choice(len(READING), p=chances))
    return write(who, rng)[0]


def others(adapted: Adapted, cohort: Cohort, like: Predictions, seed: int) -> dict[str, Predictions]:
    """The baselines and the ceilings, about the same patients."""
    run = adapted.run
    task, loader = adapted.task, run.loader(cohort, (*run.split.train, *like.patients))
    assert isinstance(task, ReportTask)
    known = [
        p for p in run.split.train if Modality.IMAGE in loader.by_patient.get(p, {}) and reference(loader, p, "en")
    ]
    texts = {p: words_of(loader, task, r) or "" for p in known if (r := reference(loader, p, "en"))}
    learned, asked = vectors(run, task, loader, known), vectors(run, task, loader, like.patients)
    nearest = [texts[known[i]] for i in (asked @ learned.T).argmax(1)]
    made = lambda outputs: Predictions(
        "report", like.patients, np.array(outputs, dtype=object), like.targets, like.mask
    )
    return {
        "most frequent": made([usual(texts)] * len(like.patients)),
        "nearest": made(nearest),
        "second radiologist": made([again(p, seed, True) for p in like.patients]),
        "same, said anew": made([again(p, seed, False) for p in like.patients]),
    }


def table(
    rows: Mapping[str, Predictions], names: Sequence[str], earlier: set[str], split: str, draws: int
) -> list[str]:
    """A row a writer, a column a figure."""
    lines = ["| | " + " | ".join(n.replace("_", " ") for n in names) + " |", "|---|" + "---|" * len(names)]
    for arm, answer in rows.items():
        found = {f.name: f for f in report_figures(answer, split, earlier=earlier, draws=draws)}
        lines.append(f"| {arm} | " + " | ".join(told(found[n]) for n in names) + " |")
    return [*lines, ""]


def ahead(one: Predictions, other: Predictions, measure: Callable[[Predictions], np.ndarray], draws: int) -> Figure:
    """By how much an F1 over counts (n 3) is higher, over the same patients."""
    a, b = measure(one), measure(other)
    return bootstrap(
        lambda w: f1(w @ a) - f1(w @ b), np.zeros(len(a), int), name="ahead", split="", draws=draws, bounded=False
    )


def said(answer: Predictions) -> np.ndarray:
    """(n 3) counts of findings."""
    return stacked([correctness(str(w), str(r)) for w, r in zip(answer.outputs, answer.targets, strict=True)]).sum(1)


def changes(answer: Predictions) -> np.ndarray:
    """(n 3) counts of what became of findings."""
    return np.array(
        [correctness(str(w), str(r)).changes for w, r in zip(answer.outputs, answer.targets, strict=True)], float
    )


def page(rows: dict[str, Predictions], earlier: set[str], run: Run, draws: int) -> list[str]:
    """The tables."""
    split, n = run.split.hash, len(next(iter(rows.values())).patients)
    lines = [
        f"n = {n} test patients, {len(earlier & set(next(iter(rows.values())).patients))} with an earlier study.",
        "",
    ]
    lines += ["## Findings", "", *table(rows, SAID, earlier, split, draws)]
    lines += ["## Comparison with the earlier study", "", *table(rows, PRIOR, earlier, split, draws)]
    lines += ["## Words", "", *table(rows, WORDS, earlier, split, draws), "## Paired differences", ""]
    lines += ["| | finding F1 | change F1 |", "|---|---|---|"]
    arms = ("image + earlier", "image + labs", "all", "nearest", "most frequent", "second radiologist")
    pairs = [*((arm, "image") for arm in arms), ("all", "nearest"), ("all", "most frequent")]
    for one, other in pairs:
        found = [told(ahead(rows[one], rows[other], m, draws), sign=True) for m in (said, changes)]
        lines.append(f"| {one} − {other} | " + " | ".join(found) + " |")
    return [*lines, ""]


def main() -> None:
    """Run, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phantom", type=Path, help="with hospital/ and truth/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0, help="the phantom's")
    parser.add_argument("--steps", type=int, default=2000, help="of training; give each number an --out of its own")
    parser.add_argument("--quick", action="store_true", help="tiny networks; their figures mean nothing")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    began, place, draws = time.monotonic(), asked.out / "cohort", 50 if asked.quick else 1000
    cohort = (
        Cohort.open(place) if (place / "cohort.json").exists() else pc.ingest(asked.phantom / "hospital", into=place)
    )
    run = pc.pretrain(recipe(asked.quick, asked.steps), cohort, into=asked.out / "runs")
    adapted = open_adapted(pc.adapt(run, "report", method="probe", steps=0, cohort=cohort, labels=200))
    loader = run.loader(cohort, run.split.test)
    who = [p for p in loader.patients if Modality.IMAGE in loader.by_patient[p] and reference(loader, p, "en")]
    images = {p: {r.time for r in loader.by_patient[p][Modality.IMAGE]} for p in who}
    weights = file_hash(run.weights)[:12]
    rows = {
        name: kept(
            asked.out / "answers" / f"{name.replace(' ', '-')}-{weights}.json",
            lambda study=study, earlier=earlier: answers(adapted, cohort, who, study, earlier),
        )
        for name, (study, earlier) in ARMS.items()
    }
    base = others(adapted, cohort, rows["image"], asked.seed)
    ordered = (
        {k: base[k] for k in ("most frequent", "nearest")}
        | rows
        | {k: base[k] for k in ("second radiologist", "same, said anew")}
    )
    lines = [
        "# Reports with and without the earlier study and the laboratory: the phantom hospital", "",
        f"Made by `benchmarks/results/phantom_reports.py`: {len(run.split.train)} train and {len(run.split.test)} test patients (split "
        f"`{run.split.hash[:12]}`), those with an English report, one seed; {run.recipe.stages[0].steps} steps of "
        f"{run.recipe.stages[0].batch} patients; 95% intervals by bootstrap over the test patients; {platform.machine()}, "
        f"{torch.get_num_threads()} thread; polyclinic {pc.__version__}. As they fell. "
        "Nothing learned from the phantom is clinical evidence.", "",
        *page(ordered, {p for p, times in images.items() if len(times) > 1}, run, draws),
    ]  # fmt: skip
    (asked.out / "phantom-reports.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines), f"{time.monotonic() - began:.0f} s", asked.out / "phantom-reports.md")


if __name__ == "__main__":
    main()
