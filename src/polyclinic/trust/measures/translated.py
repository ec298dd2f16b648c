"""Translations beside the records that there are: how faithful each is, and whether an adapted run says the same of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ...adaptation import Adapted, open_adapted
from ...cohort import Cohort
from ...harmonise.volume import VolumeStandard, hu_span, in_hu, is_ct
from ...inference.predict import said
from ...inference.synthesis import Maker, there, visible
from ...objectives.between import of_kind
from ...schema import Batch, Figure, Modality, Ragged, Record
from ...tasks import LinearTask, Segmentation, SegmentationTask
from ...tasks.segmentation import dice
from ...training import Run
from .fidelity import fidelity, scales_of
from .intervals import DRAWS, bootstrap
from .metrics import auroc

PICTURED = (Modality.IMAGE, Modality.VOLUME)
GUIDANCE, STEPS = 2.0, 50
"""Of a record that is drawn for a patient: as `polyclinic synthesise` draws it."""


class Units:
    """Harmonised samples in what they were measured in: HU of a CT; else as harmonised.

    Args:
        maker: of the run.
    """

    def __init__(self, maker: Maker) -> None:
        self.standard, self.fingerprint = maker.run.recipe.standards()[maker.target], maker.run.fingerprint

    def of(self, record: Record, *arrays: np.ndarray) -> tuple[tuple[np.ndarray, ...], float, str]:
        """The arrays, what their values span, and the unit. The first array is the truth."""
        if isinstance(self.standard, VolumeStandard) and is_ct(record, self.fingerprint):
            told = tuple(in_hu(a, self.standard, self.fingerprint) for a in arrays)
            return told, hu_span(self.standard, self.fingerprint), "HU"
        known = arrays[0][np.isfinite(arrays[0])]
        return arrays, max(float(np.ptp(known)) if known.size else 0.0, 1e-6), "as harmonised"


def translated(maker: Maker, cohort: Cohort, *, draws: int = DRAWS) -> list[Figure]:
    """Fidelity over test patients who have the target and something that it is translated from, and that of the mean training record.

    A patient with several records counts by their mean.
    """
    run, units, target = maker.run, Units(maker), maker.target
    tasks = [n for n, s in run.recipe.tasks.items() if isinstance(s, Segmentation) and Modality(s.modality) is target]
    loader = run.loader(cohort, run.split.test, tuple(tasks))
    mean = _mean(maker, cohort) if target in PICTURED else None
    rows: dict[str, list[dict[str, float]]] = {}
    unit_of, scales = set[str](), set[int]()
    for batch in loader.each(8, there(maker, loader, loader.patients)):
        at, kept = _wanted(maker, batch)
        if at is None:
            continue
        found = maker.make(visible(maker, batch), at, STEPS, GUIDANCE, torch.Generator().manual_seed(0))
        mine = {r.id: r for p in batch.patients for r in loader.by_patient[p].get(target, [])}
        for n, (value, truth) in enumerate(zip(found, at.values, strict=True)):
            whose, record, array = batch.patients[int(at.patient[n])], mine[at.ids[n]], value.float().numpy()
            if not np.isfinite(array).any():  # of whom nothing was shown
                continue
            regions = _regions(run, tasks, batch, kept[n])
            other = mean if mean is not None and mean.shape == array.shape else None
            told, span, unit = units.of(record, truth.float().numpy(), array, *([] if other is None else [other]))
            row = fidelity(told[0], told[1], span, regions, target in PICTURED)
            if other is not None:
                row |= {f"{k}_of_mean": v for k, v in fidelity(told[0], told[2], span, None, True).items()}
            rows.setdefault(whose, []).append(row)
            unit_of.add(unit)
            scales.add(scales_of(array.shape))
    return _figures(rows, run, draws, " or ".join(sorted(unit_of)), min(scales, default=0))


def _wanted(maker: Maker, batch: Batch) -> tuple[Ragged | None, list[int]]:
    """The true records, and which rows of the target they are."""
    ragged = batch.payloads.get(maker.target)
    if ragged is None:
        return None, []
    kept = torch.nonzero(of_kind(ragged, maker.spec.target_kind)).flatten().tolist()
    return (ragged.only(kept), kept) if kept else (None, [])


def _regions(run: Run, tasks: Sequence[str], batch: Batch, row: int) -> dict[str, np.ndarray]:
    """Where a record's masks are: each class of each task that has one of it."""
    found = {}
    for name in tasks:
        spec, target = run.recipe.tasks[name], batch.targets[name]
        if isinstance(spec, Segmentation) and bool(target.mask[row]):
            labels = target.values[row].numpy()
            found |= {f"{name}_{called}": labels == k for k, called in enumerate(spec.classes, start=1)}
    return found


def _mean(maker: Maker, cohort: Cohort) -> np.ndarray | None:
    """The mean of the training records of the target: what is said where nothing is looked at; None where they differ in size."""
    run, total, count = maker.run, None, 0
    for batch in run.loader(cohort, run.split.train).each(32, modalities=[maker.target]):
        wanted = maker.spec.wanted(batch)
        for value in wanted.values if wanted is not None else ():
            if total is not None and total.shape != value.shape:
                return None
            total, count = value.double() if total is None else total + value.double(), count + 1
    return None if total is None else (total / count).float().numpy()


def _figures(rows: dict[str, list[dict[str, float]]], run: Run, draws: int, unit: str, scales: int) -> list[Figure]:
    """Means over patients; a figure that some have not (a region, say) is over those who have."""
    names = list(dict.fromkeys(k for several in rows.values() for row in several for k in row))
    notes = {"mae": f"; {unit}", "psnr": "; dB", "ms_ssim": f"; {scales} of 5 scales fit" if scales < 5 else ""}
    found = []
    for name in names or ["mae"]:
        each = [
            np.nanmean(v)
            for several in rows.values()
            if np.isfinite(v := np.array([r.get(name, np.nan) for r in several])).any()
        ]
        if not each and rows:  # of records that are too small for it
            continue
        made = mean_over_patients(name, np.array(each, float), run.split.hash, draws)
        note = notes.get(
            name.removesuffix("_of_mean").split("_")[0] if name.startswith("mae") else name.removesuffix("_of_mean"), ""
        )
        found.append(
            replace(
                made, note=made.note + note + ("; of the mean training record" if name.endswith("_of_mean") else "")
            )
        )
    return found


def mean_over_patients(name: str, each: np.ndarray, split: str, draws: int, bounded: bool = False) -> Figure:
    """The mean of (n,), with the interval over patients."""
    told = lambda w: w @ each / w.sum(1)
    return bootstrap(told, np.zeros(len(each), dtype=int), name=name, split=split, draws=draws, bounded=bounded)


def survives(maker: Maker, cohort: Cohort, *, draws: int = DRAWS) -> list[Figure]:
    """Whether runs adapted from the same backbone (`adapted/` in the run) say the same of what was made as of the real record.

    Each is shown the target alone: of test patients who have it, and something that it is made from. Of a classification: the share with
    the answer on the same side of one half, and the AUROC of both; of a segmentation: Dice of the mask of one with that of the other.
    """
    found = list[Figure]()
    if maker.spec.source == ():
        return found
    for place in sorted(maker.run.path.glob("adapted/*/adapter.json")):
        adapted = open_adapted(place.parent)
        if maker.target in adapted.inputs and isinstance(adapted.task, LinearTask | SegmentationTask):
            found += _agreement(maker, adapted, cohort, place.parent.name, draws)
    return found


@torch.no_grad()
def _agreement(maker: Maker, adapted: Adapted, cohort: Cohort, name: str, draws: int) -> list[Figure]:
    run, task, target = adapted.run, adapted.task, maker.target
    loader = run.loader(cohort, run.split.test, (adapted.name,))
    spec = run.recipe.tasks[adapted.name]
    if not (
        spec.kind == "classification" or (isinstance(task, SegmentationTask) and Modality(task.spec.modality) is target)
    ):
        return []
    numbers, truths, alike = list[tuple[float, float]](), list[float](), list[float]()
    for batch in loader.each(8, there(maker, loader, loader.patients)):
        at, _ = _wanted(maker, batch)
        if at is None:
            continue
        values = maker.make(visible(maker, batch), at, STEPS, GUIDANCE, torch.Generator().manual_seed(0))
        made = replace(at, values=values if isinstance(values, Tensor) else list(values))
        real, other = (Batch({target: r}, {}, batch.patients) for r in (at, made))
        if isinstance(task, SegmentationTask):
            k = len(task.spec.classes) + 1
            both = zip(
                task.masks(adapted.model, real), task.masks(adapted.model, other), at.patient.tolist(), strict=True
            )
            alike += _by_patient([(p, float(dice(a.numpy(), b.numpy(), k).mean())) for a, b, p in both])
            continue
        assert isinstance(task, LinearTask)
        answers = [task.answer(said(adapted, b)[0]) for b in (real, other)]
        known = batch.targets[adapted.name]
        for p in sorted(set(at.patient.tolist())):
            numbers.append((float(answers[0][p]), float(answers[1][p])))
            truths.append(float(known.values[p]) if bool(known.mask[p]) else float("nan"))
    split = run.split.hash
    if isinstance(task, SegmentationTask):
        figure = mean_over_patients(f"same_mask_{name}", np.array(alike), split, draws, bounded=True)
        return [replace(figure, note=figure.note + "; Dice of the mask on what was made with that on the real record")]
    return _same_answers(name, np.array(numbers).reshape(-1, 2), np.array(truths), split, draws)


def _by_patient(each: Sequence[tuple[int, float]]) -> list[float]:
    """The mean of each patient's."""
    return [float(np.mean([v for q, v in each if q == p])) for p in sorted({p for p, _ in each})]


def _same_answers(name: str, numbers: np.ndarray, truths: np.ndarray, split: str, draws: int) -> list[Figure]:
    same = ((numbers[:, 0] >= 0.5) == (numbers[:, 1] >= 0.5)).astype(float)
    figure = mean_over_patients(f"same_answer_{name}", same, split, draws, bounded=True)
    found = [replace(figure, note=figure.note + "; share on the same side of one half")]
    known = np.isfinite(truths)
    y = truths[known].astype(int)
    if len(np.unique(y)) == 2:
        few = int(np.bincount(y).min()), "patients of the rarer class"
        for k, which in enumerate(("real", "made")):
            score = numbers[known, k]
            found.append(
                bootstrap(
                    lambda w, s=score: auroc(s, y, w),
                    y,
                    name=f"auroc_{which}_{name}",
                    split=split,
                    draws=draws,
                    rarer=few,
                )
            )
    return found
