"""The page of `covid.py`: its tables, from the answers that are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import polyclinic
from polyclinic.schema import Figure
from polyclinic.tasks import Predictions
from polyclinic.tasks import keypoints as points
from polyclinic.tasks.matching import measures
from polyclinic.trust.comparisons.kept_answers import kept
from polyclinic.trust.measures.intervals import bootstrap
from polyclinic.trust.measures.metrics import auroc

from .covid_lungs import POINTS, SIDES, joined, kept_places
from .texts import told

READS = ("X-ray", "notes", "both", "notes, words struck", "both, words struck")
NAMES = {
    "scratch": "ours, from scratch",
    "two": "ours, two networks' mean log odds",
    "pretrained": "ours, pretrained, fine-tuned",
    "regression": "logistic regression",
}
FLOORS = {"X-ray": 0.72, "notes": 0.88, "notes, words struck": 0.87}
"""What the project asked to beat: an answer an image, folds by patient."""
Folds = list[Predictions]


def there(answers: Path, *words: str, folds: int = 5) -> Folds:
    """The folds' answers that there are: of files whose name begins so, with the fold's number for *."""
    found = []
    for turn in range(folds):
        name = "-".join(w.replace("*", str(turn)) for w in words).replace(",", "").replace(" ", "-").lower()
        place = answers / f"{name}.json"
        if place.exists():
            read = kept_places if name.startswith("placed") else kept
            found.append(read(place, lambda: NotImplemented).labelled())
    return found


def mean_odds(one: Folds, other: Folds) -> Folds:
    """The mean log odds of two networks, of the folds that both answered; of who has an answer of one alone, that."""
    found = []
    for mine, theirs in zip(one, other, strict=False):
        odds = [dict(zip(p.patients, np.log(p.outputs / (1 - p.outputs)), strict=True)) for p in (mine, theirs)]
        truth = {p: t for side in (mine, theirs) for p, t in zip(side.patients, side.targets, strict=True)}
        names = tuple(sorted(truth))
        outputs = np.array([1 / (1 + np.exp(-np.mean([o[p] for o in odds if p in o]))) for p in names])
        found.append(
            Predictions("finding", names, outputs, np.array([truth[p] for p in names]), np.ones(len(names), bool))
        )
    return found


def shared(one: Folds, other: Folds) -> tuple[Folds, Folds]:
    """Both, of the patients whom both answered."""
    keep = [sorted(set(a.patients) & set(b.patients)) for a, b in zip(one, other, strict=True)]
    only = lambda folds: [_of(p, names) for p, names in zip(folds, keep, strict=True)]
    return only(one), only(other)


def _of(predictions: Predictions, names: Sequence[str]) -> Predictions:
    row = {p: n for n, p in enumerate(predictions.patients)}
    at = np.array([row[p] for p in names], dtype=int)
    return replace(
        predictions, patients=tuple(names), outputs=predictions.outputs[at], targets=predictions.targets[at],
        mask=predictions.mask[at], modalities=(), records=(),
    )  # fmt: skip


def within(folds: Folds, weights: np.ndarray) -> np.ndarray:
    """(r n) weights of the folds' patients in their order → (r,) the share of pairs, of one fold each, that stand in the right order."""
    right, pairs, start = np.zeros(len(weights)), np.zeros(len(weights)), 0
    for one in folds:
        mine = weights[:, start : (start := start + len(one.patients))]
        number = (mine * (one.targets == 1)).sum(1) * (mine * (one.targets == 0)).sum(1)
        right, pairs = right + number * np.nan_to_num(auroc(one.outputs, one.targets, mine)), pairs + number
    with np.errstate(invalid="ignore"):
        return right / pairs


def area(folds: Folds, draws: int, other: Folds | None = None, images: Mapping[str, int] | None = None) -> Figure:
    """AUROC over pairs of one fold; with another's answers about the same patients how much higher it is.

    Args:
        folds: answers.
        draws: resamples of patients, within fold and class.
        other: to be compared with.
        images: how often each patient counts; once by default.
    """
    strata = np.concatenate([2 * k + p.targets for k, p in enumerate(folds)]).astype(int)
    count = np.array([1 if images is None else images.get(p, 1) for one in folds for p in one.patients], float)
    value = lambda w: within(folds, w * count) - (0 if other is None else within(other, w * count))
    return bootstrap(value, strata, name="auroc", split="folds", draws=draws, method="percentile", bounded=False)


def averaged(values: np.ndarray, draws: int, of: Callable[[np.ndarray], float] | None = None) -> Figure:
    """The mean of (n,) values, or their median, with its interval over patients."""
    mean = lambda w: w @ values / w.sum(1)
    median = lambda w: np.array([np.median(np.repeat(values, row)) for row in w.astype(int)])
    strata = np.zeros(len(values), dtype=int)
    return bootstrap(
        median if of else mean, strata, name="mean", split="", draws=draws, method="percentile", bounded=False
    )


def finding(answers: Path, by: str, images: Mapping[str, int], draws: int) -> list[str]:
    """One way to divide the patients: a table of AUROC, one answer a patient, and one in which patients count by their images."""
    arms = {
        a: {r: there(answers, "finding", by, "*", a, r) for r in READS} for a in ("scratch", "pretrained", "regression")
    }
    arms["two"] = {}
    for both, notes in (("both", "notes"), ("both, words struck", "notes, words struck")):
        for made, of in (("two", arms["scratch"]), ("regression", arms["regression"])):
            one, other = of["X-ray"], of[notes]
            arms[made][both] = mean_odds(one, other)
    first = [arms[a][r] for a in ("scratch", "regression") for r in ("X-ray", "notes", "notes, words struck")]
    full = min(map(len, first))  # of a run that was stopped, the folds that all of these answered
    whole = lambda arm, reads: of[:full] if len(of := arms[arm].get(reads, [])) >= full else []
    if not full:
        return []
    counted = []
    for reads in READS:
        folds = whole("regression", reads)
        n, ill = sum(len(p.patients) for p in folds), sum(int(p.targets.sum()) for p in folds)
        counted.append(f"{reads} n = {n}, {ill} of them with COVID-19")
    lines = [f"### Five folds by {by}", "", f"{full} fold(s). " + "; ".join(counted) + ".", ""]
    ours = [a for a in ("scratch", "two", "pretrained") if any(whole(a, r) for r in READS)]
    for title, weigh in (("one answer a patient", None), ("the same, each as often as they have images", images)):
        lines += [f"| {title} | " + " | ".join(READS) + " |", "|---|" + "---|" * len(READS)]
        cell = lambda f: told(area(f, draws, images=weigh)) if f else "–"  # noqa: B023
        lines += [
            f"| {NAMES[a]} | " + " | ".join(cell(whole(a, r)) for r in READS) + " |" for a in (*ours, "regression")
        ]
        if by == "patient" and weigh is not None:
            lines.append("| floor that was set | " + " | ".join(f"{FLOORS.get(r, '–')}" for r in READS) + " |")
        for arm in ours:
            ahead = [_ahead(whole(arm, r), whole("regression", r), draws, weigh) for r in READS]
            lines.append(f"| *{NAMES[arm]} − logistic regression* | " + " | ".join(ahead) + " |")
        lines.append("")
    return lines


def bags(answers: Path, draws: int) -> list[str]:
    """What a probe on the notes' terms says, of the folds that it answered."""
    reads = ("notes", "both", "notes, words struck", "both, words struck")
    lines: list[str] = []
    for by in ("patient", "place"):
        ours = {r: there(answers, "finding", by, "*", "terms", r) for r in reads}
        peer = {r: there(answers, "finding", by, "*", "regression", r) for r in reads[::2]}
        names = [r for r in reads if len(ours[r]) == 5]
        if not names:
            continue
        noted = {r: shared(ours[r], ours[r.replace("both", "notes")])[0] for r in names if r.startswith("both")}
        columns = [(r, ours[r], peer.get(r, [])) for r in names if r not in noted]
        columns += [(r, ours[r], []) for r in noted] + [
            (f"{r}, of whom there is a note", f, []) for r, f in noted.items()
        ]
        lines += [
            f"| five folds by {by} | n | TF-IDF, probe | logistic regression | *difference* |",
            "|---|---:|---|---|---|",
        ]
        for name, mine, theirs in columns:
            n = sum(len(p.patients) for p in mine)
            other = told(area(theirs, draws)) if len(theirs) == 5 else "–"
            ahead = _ahead(mine, theirs, draws, None) if len(theirs) == 5 else "–"
            lines.append(f"| {name} | {n} | {told(area(mine, draws))} | {other} | {ahead} |")
        lines.append("")
    return ["### Notes as bags of terms", "", *ABOUT_BAGS, "", *lines] if lines else []


def _ahead(one: Folds, other: Folds, draws: int, images: Mapping[str, int] | None) -> str:
    if not one or not other:
        return "–"
    mine, theirs = shared(one, other)
    return told(area(mine, draws, theirs, images), sign=True)


def _as_many(found: dict[str, Folds]) -> dict[str, Folds]:
    """Of each arm the folds that all answered."""
    return {arm: folds[: min(map(len, found.values()))] for arm, folds in found.items()}


def masks(answers: Path, draws: int) -> list[str]:
    """The lungs' Dice, and how far their surfaces are apart."""
    lines = [
        "| | folds | n | Dice | surface Dice within 1% of the side | HD95, % of the side |", "|---|---:|---:|---|---|---|",
    ]  # fmt: skip
    found = _as_many({arm: there(answers, "masks", "*", arm) for arm in ("ours", "atlas")})
    for arm, name in (("ours", "ours, from scratch"), ("atlas", "mean atlas")):
        if folds := found[arm]:
            outputs = np.concatenate([p.outputs for p in folds])
            cells = [told(averaged(column[np.isfinite(column)], draws)) for column in outputs.T[:3]]
            lines.append(f"| {name} | {len(folds)} | {len(outputs)} | " + " | ".join([*cells, "–", "–"][:3]) + " |")
    if not found["ours"]:
        return [*lines, ""]
    mine, theirs = shared(found["ours"], found["atlas"])
    apart = np.concatenate([a.outputs[:, 0] - b.outputs[:, 0] for a, b in zip(mine, theirs, strict=True)])
    lines.append(f"| *ours − atlas* | {len(mine)} | {len(apart)} | {told(averaged(apart, draws), sign=True)} | – | – |")
    each = np.concatenate([p.outputs for p in found["ours"]])
    worst = ", ".join(f"{v:.2f}" for v in np.sort(each[:, 0])[:5])
    return [
        *lines,
        "",
        f"The five worst patients' Dice: {worst}; lungs in which nothing was drawn: {int(each[:, 3].sum())}.",
        "",
    ]


def placed(answers: Path, draws: int) -> list[str]:
    """Boxes and points of the lungs."""
    wanted = ("froc", "sensitivity_at_0.125", "map_50", "map_50_95", "ap_50_right lung", "ap_50_left lung")
    lines = ["| boxes | folds | n | images | boxes | " + " | ".join(w.replace("_", " ") for w in wanted) + " |"]
    lines.append("|---|" + "---:|" * 4 + "---|" * len(wanted))
    found = _as_many({what: there(answers, "placed", "*", what) for what in ("boxes", "mean-boxes")})
    for what, name in (("boxes", "ours, from scratch"), ("mean-boxes", "mean box of each lung")):
        if folds := found[what]:
            whole, of = _measured(folds, lambda p: measures(p, SIDES), wanted, draws)
            counts = [len(folds), len(whole.patients), sum(map(len, whole.records)), sum(map(len, whole.targets))]
            lines.append(f"| {name} | " + " | ".join([*map(str, counts), *of]) + " |")
    if folds := there(answers, "placed", "*", "points"):
        wanted = ("pck_10", "pck_5", "pck_20")
        whole, of = _measured(folds, lambda p: points.measures(p, POINTS), wanted, draws)
        lines += ["", "| points | folds | n | images | " + " | ".join(w.replace("_", " ") for w in wanted) + " |"]
        lines += ["|---|" + "---:|" * 3 + "---|" * len(wanted)]
        lines.append(
            f"| ours, from scratch | {len(folds)} | {len(whole.patients)} | {sum(map(len, whole.records))} | "
            + " | ".join(of)
            + " |"
        )
    return [*lines, ""]


def _measured(
    folds: Folds, measured: Callable[[Predictions], Mapping[str, Callable[[np.ndarray], np.ndarray]]], wanted: Sequence[str], draws: int
) -> tuple[Predictions, list[str]]:  # fmt: skip
    whole = joined(folds)
    of, strata = measured(whole), np.zeros(len(whole.patients), int)
    made = [bootstrap(of[w], strata, name=w, split="", draws=draws, method="percentile") for w in wanted]
    return whole, [told(f) for f in made]


def retrieval(answers: Path, draws: int) -> list[str]:
    """Whose note a radiograph is, and whose radiograph a note."""
    lines = [
        "| folds | asked | n | to choose from | recall at 1 | at 5 | at 10 | median over chance |", "|---|---|---:|---:|---|---|---|---|",
    ]  # fmt: skip
    for by in ("patient", "place"):
        if folds := there(answers, "retrieval", by, "*"):
            size = np.concatenate([p.targets for p in folds])
            for way, name in enumerate(("X-ray → note", "note → X-ray")):
                rank = np.concatenate([p.outputs[:, way] for p in folds])
                cells = []
                for k in (1, 5, 10):
                    by_chance = float(np.minimum(1, k / size).mean())
                    cells.append(f"{told(averaged((rank <= k).astype(float), draws))}, chance {by_chance:.3f}")
                relative = told(averaged(rank / ((size + 1) / 2), draws, np.median))
                span = f"{int(size.min())} to {int(size.max())}"
                lines.append(
                    f"| {len(folds)} by {by} | {name} | {len(rank)} | {span} | " + " | ".join([*cells, relative]) + " |"
                )
    return [*lines, ""]


HEAD = (
    "# Chest radiographs with notes: COVID-19 or not, lungs, retrieval",
    "",
    "Made by `benchmarks/results/covid.py` from covid-chestxray (Cohen et al. 2020): 249 frontal radiographs (PA, AP, AP supine) of "
    "146 patients, 232 rows of 129 labelled, the clinical notes of the same rows, 102 lung masks of 61 patients. Five folds, of which each "
    "table says how many were run: a patient is tested by a model that saw nothing of them, nor of near-duplicates of their images. "
    "95% intervals by percentile bootstrap over patients; one deal of the folds, so that the intervals hold who was tested, and not "
    "how a network happened to begin. "
    "Everything was learned from nothing, in minutes, on one core that others used at the same time. As they fell.",
    "",
)


def page(answers: Path, sizes: Any, images: Mapping[str, int], draws: int, machine: str) -> str:
    """What was found, as it fell.

    Args:
        answers: the folder of them.
        sizes: how much was done.
        images: how many labelled radiographs each patient has.
        draws: resamples.
        machine: whose processor.
    """
    spent = (
        f"{machine}; polyclinic {polyclinic.__version__}. A finding takes {sizes.steps} steps of 16 patients, "
        f"{sizes.seeds} seed(s), retrieval {sizes.pretraining} of 32, masks {sizes.masks} and boxes {sizes.places} of 4."
    )
    lines = [*HEAD, spent, "", "## COVID-19 or not", "", *ABOUT_FINDING, ""]
    for by in ("patient", "place"):
        lines += finding(answers, by, images, draws)
    lines += bags(answers, draws)
    lines += ["## The lungs' masks", "", *ABOUT_MASKS, "", *masks(answers, draws)]
    lines += ["## The lungs' boxes and ends", "", *ABOUT_PLACED, "", *placed(answers, draws)]
    lines += ["## Whose note, whose radiograph", "", *ABOUT_RETRIEVAL, "", *retrieval(answers, draws)]
    lines += left(answers)
    return "\n".join(lines)


LATER = {
    "one network that reads both": ("finding", "patient", "*", "scratch", "both"),
    "fine-tuning after contrastive pretraining": ("finding", "patient", "*", "pretrained", "X-ray"),
    "the lungs' ends": ("placed", "*", "points"),
}
"""What is done last."""


def left(answers: Path) -> list[str]:
    """What was not come to."""
    missing = [name for name, words in LATER.items() if not there(answers, *words)]
    return [f"In the script, and not run for want of time: {', '.join(missing)}.", ""] if missing else []


ABOUT_FINDING = (
    "Against COVID-19 stand other pneumonias and eleven radiographs without a finding. One answer a patient, from all their frontal "
    "radiographs and those rows' notes; AUROC over pairs of one fold, for two models' scores cannot be compared. Notes alone are asked "
    "of the patients who have one. *Words struck*: the names of diseases, germs and tests are removed from the notes before anything "
    "learns or asks. *Logistic regression*: on 30 principal components of 32×32 pixels, on TF-IDF of words and pairs, and the mean of "
    "both log odds, in the same folds. The floor that was set had an answer an image; so the tables below each have patients count as "
    "often as they have labelled images. By place, all patients of a hospital are tested together (in the file's words: `Valencia, "
    "Spain` and `Spain` are two). The settings were tried on one to three folds of another deal of the same patients, which is not "
    "quoted; there, more than three times as many steps or three times the rate brought the notes nearer to TF-IDF in one fold and not in "
    "another, and one seed differed from another by 0.05 to 0.1.",
)
ABOUT_BAGS = (
    "The same patients, folds and seed, one answer a patient. The encoder `tfidf` (words and pairs that the notes of at least two training "
    "patients share, along the training notes' leading directions) and a probe whose `penalty` is `directions`; of both a head a "
    "modality on vectors of a network that was never trained, `stacked`. *Logistic regression* is the tables' own, on all terms. That "
    "two patients are enough (the encoder's default is three) and how the modalities meet was decided in four folds of the training part "
    "of the first fold by patient alone. By themselves: `--only terms regression-notes`.",
)
ABOUT_MASKS = (
    "The 102 masks that lie on a frontal radiograph, on squares of 128 pixels, folds by patient; of a patient's several radiographs the "
    "mean counts. The files say no millimetres: distances are in shares of the square's side. Steps and rates, here and of the boxes, "
    "were tried on one fold of other deals.",
)
ABOUT_PLACED = (
    "The first people's drawings that the heads of `detection` and `keypoints` saw: of each lung the least box that holds its mask, its "
    "apex and its base (the highest and the lowest pixel), written as COCO JSON and read as such, on squares of 64 pixels. The mean box "
    "is that of the training images; FROC asks where a box's middle is, and that a mean box knows. `pck 10`: within 10% of the longest "
    "side of the box about the four points.",
)
ABOUT_RETRIEVAL = (
    "Of a fold's test patients who have both, by the vectors of contrastive pretraining on the other folds' patients. Ties "
    "count against; a median rank over chance's of 1 is chance.",
)
