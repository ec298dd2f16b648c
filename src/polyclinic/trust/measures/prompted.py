"""How well a run draws what it is shown: Dice by the way that shows it, and by how many clicks, on patients whom it never saw.

A box is the structure's own, a name the one it learned. The first click is the structure's innermost sample, each further one that of the
largest error, on the structure where some of it was missed and off it where too much was drawn: as a person who mends would click
(Xu et al. 2016; Kirillov et al. 2023, section 5).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...cohort import Cohort
from ...inference.interactive import Segmenter, Session, plain
from ...objectives import Prompt, Structure
from ...schema import Figure
from ...training import Run
from ...training.run import file_hash
from ..evidence import Evidence
from .intervals import DRAWS, bootstrap
from .metrics import mean

CLICKS = (1, 3, 5)


@dataclass(frozen=True, slots=True)
class Drawn:
    """How a structure of a patient's record was drawn: Dice on the standard grid, by how it was shown."""

    patient: str
    structure: str
    dice: Mapping[str, float]


def prompted(run: Run, cohort: Cohort, *, draws: int = DRAWS) -> list[Evidence]:
    """Of each task of the last stage's `promptable`: Dice by each way that it learned, and so of each structure.

    Args:
        run: pretrained with `promptable`.
        cohort: it or another one, with masks.
        draws: resamples of the intervals, over patients.
    Returns:
        none where nobody on the test side has a mask.
    """
    segmenter = Segmenter(run)
    made = []
    for task, structure in segmenter.objective.structures.items():
        found = list(drawn(segmenter, cohort, task, structure))
        if found:
            inputs = tuple(m.value for m in segmenter.reads)
            figures = tuple(_figures(found, run.split.hash, draws))
            weights = file_hash(run.weights)
            made.append(
                Evidence(run.path.name, task, "segmentation", "promptable", inputs, 0, run.split.hash, weights, figures)
            )
    return made


def drawn(segmenter: Segmenter, cohort: Cohort, task: str, structure: Structure) -> Iterator[Drawn]:
    """Each structure of each test patient's masked records, shown in every way that the run learned."""
    run, modality = segmenter.run, segmenter.modality
    loader = run.loader(cohort, run.split.test, (task,))
    by_id = {r.id: r for p in loader.patients for r in loader.by_patient[p].get(modality, [])}
    for batch in loader.each(
        1, [p for p in loader.patients if modality in loader.by_patient[p]], segmenter.reads, whole=True
    ):
        target, ragged = batch.targets[task], batch.payloads[modality]
        for row in torch.nonzero(target.mask).flatten().tolist():
            record = by_id[ragged.ids[row]]
            one = type(batch)({**batch.payloads, modality: ragged.only([row])}, {}, batch.patients)
            session = Session(segmenter, one, record, loader)
            truth = target.values[row]
            for label, name in enumerate(structure.names, start=1):
                meant = truth == label
                if bool(meant.any()):
                    yield Drawn(batch.patients[0], name, shown(session, meant, segmenter.names.get(plain(name))))


def shown(session: Session, meant: Tensor, words: Tensor | None) -> dict[str, float]:
    """Dice of a structure (…) bool by each way to show it: `box`, `name`, `1_click` …"""
    ways, found = session.segmenter.objective.spec.prompts, dict[str, float]()
    places = torch.nonzero(meant).float()
    middle = places.mean(0)
    if "box" in ways:
        corners = torch.stack([places.min(0).values, places.max(0).values])
        found["box"] = overlap(session.chance(Prompt(box=corners), middle) > 0.5, meant)
    whole = session.segmenter.model.encoder(session.segmenter.modality).at_once is None
    if (
        "text" in ways and words is not None and whole
    ):  # of a network that reads a box at a time a name does not say where
        found["name"] = overlap(session.chance(Prompt(words=words), middle) > 0.5, meant)
    if "point" in ways:
        points, on, mask = list[Tensor](), list[bool](), torch.zeros_like(meant)
        for count in range(1, max(CLICKS) + 1):
            point, yes = next_click(mask, meant)
            points.append(point)
            on.append(yes)
            prompt = Prompt(points=torch.stack(points), on=torch.tensor(on))
            mask = session.chance(prompt, torch.stack(points)[torch.tensor(on)].mean(0)) > 0.5
            if count in CLICKS:
                found[f"{count}_click{'s' if count > 1 else ''}"] = overlap(mask, meant)
            if bool((mask == meant).all()):  # nothing is left to mend
                found |= {f"{n}_clicks": 1.0 for n in CLICKS if n > count}
                break
    return found


def next_click(mask: Tensor, meant: Tensor) -> tuple[Tensor, bool]:
    """(k) float32, the innermost sample of the largest connected error of a mask, and whether it lies on what is meant."""
    from scipy.ndimage import distance_transform_edt, label

    wrong = (mask != meant).numpy()
    parts, count = label(wrong)  # type: ignore[misc]
    if not count:
        raise ValueError("a mask without an error")
    largest = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    inside = np.asarray(distance_transform_edt(np.pad(largest, 1)))[(slice(1, -1),) * largest.ndim]
    at = np.unravel_index(int(inside.argmax()), inside.shape)
    return torch.tensor(at, dtype=torch.float32), bool(meant[at])


def overlap(mask: Tensor, meant: Tensor) -> float:
    """Dice of two masks (…) bool, of which the second is not empty."""
    return 2 * float((mask & meant).sum()) / float(mask.sum() + meant.sum())


def _figures(found: list[Drawn], split: str, draws: int) -> Iterator[Figure]:
    """By each way: the mean over patients, of each the mean over its structures; then each structure's own."""
    names = list(dict.fromkeys(d.structure for d in found))
    for way in found[0].dice:
        for name in (None, *names):
            each: dict[str, list[float]] = {}
            for one in found:
                if name in (None, one.structure):
                    each.setdefault(one.patient, []).append(one.dice[way])
            values = np.array([np.mean(v) for v in each.values()])
            called = f"dice_by_{way}" + ("" if name is None else f"_{name}")
            yield bootstrap(
                lambda w, values=values: mean(values, values, w), np.zeros(len(values), dtype=int),
                name=called, split=split, draws=draws,
            )  # fmt: skip
