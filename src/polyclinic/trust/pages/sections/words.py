"""What the report calls things: metrics, tasks, modalities, arms, so that a reader needs no glossary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from ....schema import Figure
from ...evidence import Evidence
from ...measures.metrics import CHANCE
from ..inputs import ReportInputs
from ..page import verbatim
from ..summary import Summary

METRICS: Mapping[str, tuple[str, str]] = {
    "auroc": (
        "area under the ROC curve (AUROC)",
        "the chance that a patient in whom the answer is yes gets a higher score than one in whom it is no; guessing gives one half",
    ),
    "average_precision": (
        "average precision",
        "of the patients with the highest scores, the share in whom the answer is yes; guessing gives the share among all",
    ),
    "brier": ("Brier score", "the mean squared distance of the probability from what happened; zero is best"),
    "concordance": (
        "concordance (C-index)",
        "of two patients, the chance that the one whose event came first was given the higher risk; guessing gives one half",
    ),
    "accuracy": (
        "accuracy",
        "the share of patients whose likeliest class is the true one; always saying the commonest gives its share among all",
    ),
    "macro_f1": (
        "F1, the mean over the classes or findings",
        "the harmonic mean of sensitivity and precision, each class counting alike; one is best",
    ),
    "macro_concordance": (
        "concordance (C-index), the mean over the events",
        "of two patients, the chance that the one who had the event first was given the higher risk of it; guessing gives one half",
    ),
    "macro_auroc": ("AUROC, the mean over the findings or classes", "guessing gives one half"),
    "hierarchical_f1": (
        "hierarchical F1",
        "how far what was called present, with all that it is a kind of, agrees with what was there; one is best",
    ),
    "quadratic_kappa": (
        "quadratic-weighted kappa",
        "how far the likeliest grade agrees with the true one beyond chance, a grade's distance counting squared; one is agreement, "
        "guessing gives zero",
    ),
    "mean_absolute_error": (
        "mean absolute error",
        "how many grades the likeliest one is from the true one; zero is best",
    ),
    "dice": (
        "Dice overlap",
        "how far the drawn region and the true one are the same: zero is no overlap, one is the same region",
    ),
    "f1": ("F1", "the harmonic mean of precision and sensitivity where yes has to be said or not; one is best"),
    "sensitivity": ("sensitivity", "of those in whom the answer is yes, the share of whom it is said"),
    "specificity": ("specificity", "of those in whom the answer is no, the share of whom it is said"),
    "froc": (
        "free-response score (FROC)",
        "the share of things that are found, the mean over ⅛ to 8 false alarms an image",
    ),
    "map_50": (
        "mean average precision at an overlap of one half",
        "zero is none found, one is all found and nothing else",
    ),
    "pck_10": (
        "share of correct keypoints (PCK)",
        "the share of points within a tenth of the longest side of the box about all of them",
    ),
    "mre_mm": ("mean radial error in mm", "how far points are from where they were drawn; zero is best"),
    "ece": ("expected calibration error (ECE)", "the mean distance of predicted from observed shares; zero is best"),
    "top_label_ece": (
        "expected calibration error of the likeliest class",
        "the mean distance of how sure the likeliest class is from how often it is right; zero is best",
    ),
    "classwise_ece": (
        "class-wise expected calibration error",
        "the mean over the classes of the distance of predicted from observed shares; zero is best",
    ),
    "multiclass_brier": (
        "Brier score of all classes",
        "the squared distances of the probabilities from what happened, summed over the classes; zero is best, two is worst",
    ),
    "slope": ("calibration slope", "one is ideal; below one the probabilities are too extreme"),
    "intercept": ("calibration intercept", "zero is ideal; below zero the probabilities are too high"),
}
PROGNOSIS = {
    "auroc_at": "AUROC of the event by {} (time-dependent)",
    "brier_at": "Brier score of the risk by {}",
    "calibration_error_at": "calibration error of the risk by {}",
    "observed_over_expected_at": "observed over expected events by {}",
    "integrated_brier_to": "integrated Brier score to {}",
    "integrated_brier_null_to": "integrated Brier score to {}, of the training patients' curve for everybody",
    "brier_explained_to": "share of that curve's integrated Brier score to {} that the model explains",
}
SURFACES = {
    "surface_dice": "share of the surface of {} that lies within a millimetre of the true one",
    "hd95_mm": "distance of the surfaces of {} that 95% keep within, mm (HD95)",
    "volume_error_percent": "error of the volume of {}, %",
    "missed": "share in whom {} was there and nothing was drawn",
}
PLACED = {
    "map_50_95": "mean average precision, the mean over overlaps from 0.5 to 0.95",
    "map_10": "mean average precision at an overlap of 0.1",
    "froc_": "free-response score (FROC), {}",
    "ap_50_": "average precision at an overlap of one half, {}",
    "pck_": "share of points within {}% of their extent (PCK)",
    "mre_mm_": "mean radial error in mm, {}",
    "within_": "share of points within {} mm",
}
RETRIEVAL = {
    "recall_at_1": "share whose own one is ranked first",
    "recall_at_5": "share whose own one is among the first five",
    "median_rank": "median rank of the own one (one is best)",
}
MADE = {
    "frechet": "Fréchet distance (squared; zero is best)",
    "kernel": "kernel distance (KID; zero is best, and it may be below)",
    "precision": "precision: share of the drawn among real records",
    "recall": "recall: share of the real among drawn records",
    "density": "density: real neighbourhoods that a drawn record is in, of those expected",
    "coverage": "coverage: share of the real with a drawn record about them",
    "closer_than_held_out": "chance that a drawn record is closer to the training records than a real one",
    "copying_z": "test of data-copying, a z-score (below zero is closer than real records)",
    "near_copies": "share of near-copies",
    "own_copies": "share that is nearly the own record of the patient who was shown",
    "authenticity": "share that is no closer to a training record than that is to other patients'",
    "mae": "mean absolute error",
    "psnr": "peak signal-to-noise ratio, dB",
    "ssim": "structural similarity (SSIM)",
    "ms_ssim": "structural similarity at several scales (MS-SSIM)",
    "same_answer": "share with the same answer on what was made as on the real record",
    "same_mask": "Dice overlap of the mask on what was made with that on the real record",
    "auroc_real": "AUROC on the real record",
    "auroc_made": "AUROC on what was made",
}
"""Figures of what a run makes; what stands behind such a name is the space, the region or the adapted run."""
PRIMARY = (
    "accuracy",
    "auroc",
    "concordance",
    "dice",
    "froc",
    "pck_10",
    "macro_auroc",
    "macro_concordance",
    "quadratic_kappa",
    "recall_at_1",
)
"""The figure that stands for a task."""
BASELINES = {
    "auroc": "logistic regression on the pictures made small, on the notes' words and on the table's cells, their answers averaged",
    "macro_auroc": "the same, a logistic regression a finding",
    "quadratic_kappa": "the same, a logistic regression a threshold between grades",
    "accuracy": "the same, a multinomial regression; of whom nothing is known the commonest class of the training patients is said",
    "macro_concordance": "a Cox model of each event on the table's cells and the leading components of the omics; of whom nothing is "
    "known the training patients' share with each event is said (Aalen and Johansen), which ranks nobody above another",
    "froc": "the mean boxes of the training patients at the frequency of each, laid on every patient alike",
    "pck_10": "the mean place of each point among the training patients, laid on every patient alike",
    "concordance": "Cox's model on the table's cells and the leading components of the omics",
    "dice": "the mean of the training masks, laid on every patient alike",
}
METHODS = {
    "probe": "linear probe",
    "prototype": "the nearer of the classes' means",
    "knn": "the nearest patients",
    "zero_shot": "sentences, without labels",
    "lora": "LoRA",
    "dora": "DoRA",
    "adapter": "bottleneck adapters",
    "prompt": "prompt tuning",
    "prefix": "prefix tuning",
    "bitfit": "biases alone (BitFit)",
    "full": "fine-tuning of all weights",
    "scratch": "training from scratch",
    "pretrained": "pretraining alone",
    "question": "pretraining alone, asked in words",
    "supervised": "pretraining alone, by the task's own head",
    "promptable": "pretraining alone, shown what is meant",
    "latent_diffusion": "pretraining alone, which draws",
    "translation": "pretraining alone, which translates",
}


def metric_name(name: str) -> str:
    """A metric in words: `dice_anterior` is Dice overlap, anterior; what stands before a colon or a comma is whose it is."""
    if name in METRICS:
        return METRICS[name][0]
    of, colon, figure = name.rpartition(": ") if ": " in name else name.rpartition(", ")
    if colon:
        return f"{metric_name(figure)}, {of.replace('_', ' ')}"
    plain = name.removesuffix("_back")
    if plain in RETRIEVAL:
        return RETRIEVAL[plain] + (", the other way round" if plain != name else "")
    for what, words in PROGNOSIS.items():
        if name.startswith(f"{what}_"):
            return words.format(name.removeprefix(f"{what}_").replace("_", " "))
    if name.startswith("dice_by_"):
        return f"Dice overlap, shown by {name.removeprefix('dice_by_').replace('_', ' ')}"
    if name.startswith("sensitivity_at_"):
        return f"sensitivity at {name.removeprefix('sensitivity_at_')} false alarms an image"
    for what, words in PLACED.items():
        if name.startswith(what):
            return words.format(name.removeprefix(what).removesuffix("mm").replace("_", " "))
    if name.startswith("dice_"):
        return f"Dice overlap, {name.removeprefix('dice_').replace('_', ' ')}"
    for what, words in SURFACES.items():
        if name.startswith(f"{what}_"):
            return words.format(name.removeprefix(f"{what}_").replace("_", " "))
    if name.startswith("auroc_from_"):
        return f"AUROC of {name.removeprefix('auroc_from_')} or a higher grade"
    for what in sorted(MADE, key=len, reverse=True):
        if name == what or name.startswith(f"{what}_"):
            more = name.removeprefix(what).removeprefix("_").replace("_", " ")
            return MADE[what] + (f", {more}" if more else "")
    return name.replace("_", " ")


def short_metric(name: str) -> str:
    """A metric's name where there is little room."""
    return {"auroc": "AUROC", "dice": "Dice overlap", "concordance": "Concordance"}.get(name, metric_name(name))


def read_as(modality: str, words: Mapping[str, str]) -> str:
    """What a modality is called."""
    return words.get(modality, modality)


def plain(modalities: Sequence[str], words: Mapping[str, str]) -> str:
    """What was read: `X-ray + note + table`."""
    return " + ".join(read_as(m, words) for m in modalities)


def joined(modalities: Sequence[str], words: Mapping[str, str]) -> str:
    """`plain`, as markup."""
    return escape(plain(modalities, words))


def task_name(task: str) -> str:
    """A task's name, as markup."""
    return verbatim(task.replace("_", " "))


def question(task: str, inputs: ReportInputs) -> str:
    """What the task asks, as markup; empty where nobody said."""
    return verbatim(inputs.tasks[task]) if inputs.tasks.get(task) else ""


def headed(task: str, inputs: ReportInputs) -> str:
    """A task's name, and what it asks, as markup of a heading."""
    asks = question(task, inputs)
    return task_name(task) + (f": {asks}" if asks else "")


def patients(summary: Summary, key: str) -> str:
    """How many test patients a figure rests on."""
    return f"n = {summary.n(key)}"


def caution(figure: Figure) -> str:
    """What the note says beyond how the interval was made and what chance gives; empty where nothing."""
    parts = figure.note.split("; ")
    return "; ".join(p for p in parts if not p.startswith(("95% interval", "chance ")))


def chance_of(figure: Figure) -> float | None:
    """What guessing gives; None where that is not known beforehand."""
    if figure.name.startswith("recall_at_1") and figure.n:
        return 1 / figure.n
    return CHANCE.get(figure.name)


def evidence_key(evidence: Evidence, name: str) -> str:
    """Where a figure of an adapted run stands in the summary."""
    return f"evidence.{evidence.run}.{name}"


def capital(words: str) -> str:
    """With a capital first letter; the rest as it is (`X-ray` stays)."""
    return words[:1].upper() + words[1:]
