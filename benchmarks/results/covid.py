"""Public chest radiographs with notes: COVID-19 or not, the lungs' masks, boxes and ends, and whose note a radiograph is.

    python -m benchmarks.results.covid FOLDER --out made/covid [--minutes 45] [--quick]

FOLDER is the covid-chestxray dataset (Cohen et al. 2020), of which the frontal views of radiographs (PA, AP, AP supine), the
clinical notes of the same rows and the masks are read. Five folds, patients dealt into them by themselves and by place; everybody is
tested once. Networks learn from nothing: there are no pretrained weights. Each fold's answers are kept under `--out`, so that it can
be stopped and goes on where it was, the most wanted first; the page is made of what there is. `--quick` shows that it runs; its
figures mean nothing.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import polyclinic as pc
from polyclinic.adaptation import adapt
from polyclinic.cohort import Cohort, labels_of
from polyclinic.inference import predict
from polyclinic.schema import Modality
from polyclinic.tasks import Predictions
from polyclinic.tasks.retrieval import ranks
from polyclinic.training import Recipe, Run
from polyclinic.trust.comparisons.baselines import Study, classify
from polyclinic.trust.comparisons.kept_answers import kept
from polyclinic.trust.comparisons.struck import DISEASE_WORDS, Struck
from polyclinic.trust.measures.retrieval import paired

from . import covid_lungs as lungs
from .covid_page import page

VIEWS = "('PA', 'AP', 'AP Supine')"
OF = f"select attributes->>'about_record' from records where attributes->>'view' in {VIEWS}"
ROW = "regexp_extract(uri, 'row=([0-9]+)', 1)"
FRONTAL = f"kind = 'table metadata' and attributes->>'view' in {VIEWS}"
WHERE = (
    f"(kind = 'image' and id in ({OF})) or ({FRONTAL}) or "
    f"(kind = 'clinical notes' and {ROW} in (select {ROW} from records where {FRONTAL}))"
)
"""Frontal radiographs, their rows of the table (which no encoder reads: they have the labels), and the notes of the same rows."""
MASKED = (
    f"(kind = 'image' and id in ({OF}) and id in (select attributes->>'mask_of' from records where kind = 'MASK image')) "
    f"or (kind = 'MASK image' and attributes->>'mask_of' in ({OF}))"
)
POSITIVE = ["COVID-19", "COVID-19, ARDS"]
FOLDS, SEED = 5, 1
"""The folds of seed 0 are those by which the settings were tried out: they are not quoted."""
BY = {"patient": "patient", "place": "site"}
READS = {
    "X-ray": (Modality.IMAGE,), "notes": (Modality.TEXT,), "both": (Modality.IMAGE, Modality.TEXT),
    "notes, words struck": (Modality.TEXT,), "both, words struck": (Modality.IMAGE, Modality.TEXT),
}  # fmt: skip
RATES = {(Modality.IMAGE,): 1e-3, (Modality.TEXT,): 1e-2, (Modality.IMAGE, Modality.TEXT): 3e-3}
"""Of learning, from scratch: what a table of words can bear, a transformer cannot."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is done.

    Args:
        folds: of each way to divide the patients, how many are run.
        steps: of 16 patients, from scratch and after pretraining.
        seeds: whose mean probability is the answer.
        pretraining: steps of 32 patients.
        masks, places: steps of 4 pictures.
        small: tiny networks.
    """

    folds: int = FOLDS
    steps: int = 60
    seeds: int = 1
    pretraining: int = 60
    masks: int = 60
    places: int = 250
    small: bool = False


QUICK = Sizes(1, 2, 1, 2, 2, 2, True)


TERMS = {"kind": "tfidf", "fewest": 2}
"""The notes' terms, of two patients or more: within the training part of one fold that was better than of three, which is the default."""
STACKED = {"kind": "probe", "penalty": "directions", "modalities": "stacked"}


def recipe(by: str, turn: int, sizes: Sizes, struck: bool = False, terms: bool = False) -> Recipe:
    """A vision transformer on 32 pixels, the mean of the words' embeddings (or the notes' terms), and the mean of both; neither of struck
    notes nor of terms it is pretrained."""
    width = {"width": 16 if sizes.small else 256, "heads": 4}
    stage = {
        "name": "contrastive",
        "steps": sizes.pretraining,
        "batch": 32,
        "lr": 1e-3,
        "warmup": min(10, sizes.pretraining),
    }
    if struck or terms:  # a run is needed to learn from scratch beside: one step of no length
        stage |= {"steps": 1, "lr": 1e-30, "warmup": 0}
    split = {"by": BY[by], "folds": FOLDS, "turn": turn, "seed": SEED, "stratify": "finding"}
    return Recipe.model_validate(
        {
            "name": f"{'struck' if struck else 'whole'}{'-terms' if terms else ''}-{by}-{turn}",
            "cohort": {"where": WHERE, "split": split},
            "encoders": {
                "image": {"kind": "vit", "size": 32, "patch": 8, "depth": 1 if sizes.small else 2} | width,
                "text": (TERMS if terms else {"kind": "bert", "words": 128, "vocabulary": 4096, "depth": 0}) | width,
            },
            "model": {"kind": "two_tower", "width": width["width"], "embedding": 64, "fusion": {"kind": "late"}},
            "tasks": {"finding": {"kind": "classification", "column": "finding", "positive": POSITIVE}},
            "stages": [stage | {"temperature": 1.0, "objective": {"kind": "contrastive", "loss": "clip"}}],
            "precision": "bf16", "seed": SEED,
        }
    )  # fmt: skip


class Work:
    """What is done once for each fold and kept.

    Args:
        source: the data set's folder.
        cohort: of it.
        out: of everything.
        sizes: how much.
    """

    def __init__(self, source: Path, cohort: Cohort, out: Path, sizes: Sizes) -> None:
        self.source, self.cohort, self.out, self.sizes = source, cohort, out, sizes
        self.struck = Struck(cohort, DISEASE_WORDS)
        self._runs: dict[str, Run] = {}

    def run(self, made: Recipe, cohort: Cohort) -> Run:
        """Pretrained, once."""
        if made.name not in self._runs:
            self._runs[made.name] = pc.pretrain(made, cohort, into=self.out / "runs")
        return self._runs[made.name]

    def place(self, *words: object) -> Path:
        """The file of some answers."""
        name = "-".join(str(w) for w in words).replace(",", "").replace(" ", "-").lower()
        return self.out / "answers" / f"{name}.json"

    def finding(self, by: str, turn: int, reads: str, pretrained: bool) -> Predictions:
        """The probability of COVID-19 of each test patient, the mean over seeds: from scratch, or pretrained and fine-tuned."""
        struck, inputs = "struck" in reads, list(READS[reads])
        cohort = self.struck if struck else self.cohort
        run = self.run(recipe(by, turn, self.sizes, struck), cohort)
        how = {"kind": "full" if pretrained else "scratch", "lr": RATES[READS[reads]] / (2 if pretrained else 1)}
        told = []
        for seed in range(self.sizes.seeds):
            into = run.path / "adapted" / f"{how['kind']}-{'-'.join(inputs)}-{seed}"
            made = adapt(
                run, "finding", how, cohort=cohort, inputs=inputs, steps=self.sizes.steps, seed=seed, into=into
            )
            told.append(predict(made, cohort))
        return replace(told[0], outputs=np.mean([p.outputs for p in told], axis=0))

    def terms(self, by: str, turn: int, reads: str) -> Predictions:
        """The same by a probe on the notes' terms; of two modalities each has a head of its own."""
        struck, inputs = "struck" in reads, list(READS[reads])
        cohort = self.struck if struck else self.cohort
        run = self.run(recipe(by, turn, self.sizes, struck, terms=True), cohort)
        into = run.path / "adapted" / "-".join(inputs)
        return predict(adapt(run, "finding", STACKED, cohort=cohort, inputs=inputs, seed=0, into=into), cohort)

    def floor(self, by: str, turn: int, reads: str) -> Predictions:
        """Logistic regression on pixels or on words; who has nothing to be read is not answered."""
        run = self.run(recipe(by, turn, self.sizes, terms=True), self.cohort)  # the same folds
        records, label = self.cohort.records(WHERE), run.recipe.tasks["finding"].label("finding")
        assert label is not None
        known, without = labels_of(records, label), DISEASE_WORDS if "struck" in reads else ()
        train, test = (tuple(p for p in side if p in known) for side in (run.split.train, run.split.test))
        told = classify(Study(records, self.cohort.load, train, test, known, READS[reads], without=without), "finding")
        having = {r.patient for r in records if r.modality in READS[reads]}
        return replace(told, mask=told.mask & np.array([p in having for p in told.patients]))

    def retrieval(self, by: str, turn: int) -> Predictions:
        """(p 2) at which place each test patient's own note and own radiograph come; targets are how many there are to choose from."""
        run = self.run(recipe(by, turn, self.sizes), self.cohort)
        both, images, notes = paired(run, self.cohort, Modality.IMAGE, Modality.TEXT)
        places = np.stack([ranks(images, notes), ranks(notes, images)], axis=1).astype(float)
        return Predictions(
            "retrieval", tuple(both), places, np.full(len(both), float(len(both))), np.ones(len(both), bool)
        )

    def masks(self, turn: int, arm: str) -> Predictions:
        """Of the lungs' masks, ours or the mean atlas."""
        made = lungs.masks_recipe(MASKED, turn, FOLDS, self.sizes.small)
        run = self.run(made, self.cohort)
        return lungs.atlas_of(run, self.cohort) if arm == "atlas" else lungs.masked(run, self.cohort, self.sizes.masks)

    def placed(self, turn: int, what: str) -> Predictions:
        """Boxes or points of the lungs; or the mean boxes."""
        cohort = lungs.drawn(self.source, self.cohort, MASKED, self.out)
        run = self.run(lungs.placed_recipe(turn, FOLDS, self.sizes.small), cohort)
        return (
            lungs.mean_boxes(run, cohort)
            if what == "mean-boxes"
            else lungs.placed(run, cohort, what, self.sizes.places)
        )


Job = tuple[Path, Callable[[], Predictions]]


def jobs(work: Work) -> Iterator[Job]:
    """What is to be done, the most wanted first."""
    turns = range(work.sizes.folds)
    for by in BY:
        for turn in turns:
            yield from _findings(work, by, turn, "scratch", ("X-ray", "notes", "notes, words struck"))
            for reads in ("X-ray", "notes", "notes, words struck"):  # of both it is the mean of these log odds
                yield (
                    work.place("finding", by, turn, "regression", reads),
                    lambda b=by, t=turn, r=reads: work.floor(b, t, r),
                )
            yield work.place("retrieval", by, turn), lambda b=by, t=turn: work.retrieval(b, t)
    for turn in turns:
        for what in ("mean-boxes", "boxes"):
            yield work.place("placed", turn, what), lambda t=turn, w=what: work.placed(t, w)
        for arm in ("atlas", "ours"):
            yield work.place("masks", turn, arm), lambda t=turn, a=arm: work.masks(t, a)
    for by in BY:
        for turn in turns:
            yield from _findings(work, by, turn, "scratch", ("both", "both, words struck"))
            yield from _findings(work, by, turn, "pretrained", ("X-ray", "notes", "both"))
    for reads in ("notes", "both", "notes, words struck", "both, words struck"):
        for by, turn in itertools.product(BY, turns):
            yield work.place("finding", by, turn, "terms", reads), lambda b=by, t=turn, r=reads: work.terms(b, t, r)
    for turn in turns:
        yield work.place("placed", turn, "points"), lambda t=turn: work.placed(t, "points")


def _findings(work: Work, by: str, turn: int, arm: str, each: Sequence[str]) -> Iterator[Job]:
    for reads in each:
        make = lambda r=reads: work.finding(by, turn, r, arm == "pretrained")
        yield work.place("finding", by, turn, arm, reads), make


def done(work: Work, minutes: float, only: Sequence[str] = ()) -> None:
    """Do what is not there yet; nothing new is begun when the time is over.

    Args:
        work: what is done.
        minutes: how long.
        only: parts of the answers' names; none for everything.
    """
    began = time.monotonic()
    for place, make in jobs(work):
        if place.exists() or (only and not any(name in place.stem for name in only)):
            continue
        if time.monotonic() - began > 60 * minutes:
            print(f"{minutes:g} minutes are over: {place.stem} and what comes after it are left", flush=True)
            return
        start = time.process_time()
        (lungs.kept_places if place.stem.startswith("placed") else kept)(place, make)
        print(f"{place.stem}: {time.process_time() - start:.0f} s of processor", flush=True)


def images_of(cohort: Cohort) -> Mapping[str, int]:
    """How many labelled frontal radiographs each patient has."""
    rows = cohort.records(FRONTAL)
    labelled = [r.patient for r in rows if r.attributes.get("finding") is not None and r.attributes.get("about_record")]
    return {p: labelled.count(p) for p in set(labelled)}


def main(argv: Sequence[str] | None = None) -> None:
    """Run, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin nothing new after so many")
    parser.add_argument("--only", nargs="*", default=(), metavar="PART", help="of the answers' names, such as terms")
    parser.add_argument("--quick", action="store_true", help="a fold of tiny networks; its figures mean nothing")
    said = parser.parse_args(argv)
    catalogue = said.out / "cohort"
    cohort = Cohort.open(catalogue) if (catalogue / "cohort.json").exists() else pc.ingest(said.folder, catalogue)
    sizes = QUICK if said.quick else Sizes()
    done(Work(said.folder, cohort, said.out, sizes), said.minutes, said.only)
    told = page(said.out / "answers", sizes, images_of(cohort), 100 if said.quick else 1000, platform.machine())
    (said.out / "covid.md").write_text(told, encoding="utf-8")
    print(told)


if __name__ == "__main__":
    main()
