"""Keypoints: where each of several named points lies, on an image or a volume.

A point that was not drawn on an annotated image is unknown there: it takes part in no loss and no figure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..cohort import Label
from ..models import Model
from ..schema import Batch, Modality, Ragged, Target
from .boxes import boxed
from .detection import check_drawn, numbered
from .heat import LEAST_LR, DenseHead, bells, focal
from .sliding import tiles
from .task import Answer, PlacedFields, Predictions, Task, Thing, told

SPREAD_CELLS = 1.0
"""The Gaussian's standard deviation about a point."""
NEAR = 0.3
"""Heat from which on a cell answers for how far the point is from it."""
SHARES = (0.1, 0.05, 0.2)
"""Of the longest side of the box about an image's true points: within so much of it a point is correct. The first stands for the task."""
WITHIN_MM = (2.0, 4.0)
"""The least and the most strict of the distances that the cephalometric challenge counts (Wang et al. 2016)."""


class Keypoints(PlacedFields):
    """Named points.

    Args:
        points: their names, as they were drawn; of masks, what the numbers in `numbers` are called.
        modality: of the images.
        source: `points` that people drew, or the centres of gravity of the labels of `masks`.
        structure: a word of the points' or the masks' kind.
        numbers: of masks, the label of each point; by default 1, 2 …
        channels: of a cell of the head.
    """

    kind: Literal["keypoints"] = "keypoints"
    points: tuple[str, ...] = Field(min_length=1)
    modality: Literal[Modality.VOLUME, Modality.IMAGE] = Modality.IMAGE
    source: Literal["points", "masks"] = "points"
    structure: str = ""
    numbers: tuple[int, ...] = ()
    channels: int = Field(default=32, ge=4)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_drawn(self.points, self.source == "masks", Modality(self.modality), self.structure, self.numbers)
        return self

    def label(self, name: str) -> Label:
        """Where the points are."""
        called = numbered(self.points, self.numbers) if self.source == "masks" else self.points
        return Label(
            name, "points", modality=Modality(self.modality), kind_like=self.structure, classes=called,
            drawn="masks" if self.source == "masks" else "shapes",
        )  # fmt: skip

    def columns(self) -> tuple[str, ...]:
        """No column is a label."""
        return ()

    def asks(self, words: Mapping[str, str]) -> str:
        """By its points."""
        return f"Where are the points {', '.join(self.points)}?"

    def build(self, name: str, model: Model) -> KeypointsTask:
        """The head, freshly initialised."""
        return KeypointsTask(name, self, model)


class KeypointsTask(Task):
    """Heat of each point, and of each cell how far it is from there.

    `predict` gives of each patient, of the annotated images in `records`: `outputs` (i k), the error of each point in mm, NaN
    where it was not drawn; `targets` (i 2), the longest side in mm of the box about the drawn points, NaN of fewer than two, and
    1 where the file has a scale, else NaN: then mm are nominal, and only shares are told.
    """

    least_lr = LEAST_LR

    def __init__(self, name: str, spec: Keypoints, model: Model) -> None:
        super().__init__(name, spec)
        self.k, modality = len(spec.points), Modality(spec.modality)
        self.d = len(model.encoder(modality).patch) if modality in model.modalities else 0
        self.head = DenseHead(model, modality, spec.channels, self.k, self.k * self.d)

    @property
    def says(self) -> tuple[str, ...]:
        """The numbers of a cell, in words."""
        return (
            f"logits of the heat of {', '.join(self.spec.points)}",
            f"of each its offset from the cell, in cells along {', '.join('zyx'[-self.d :])}",
        )

    def output(self, model: Model, batch: Batch) -> Tensor:
        """(m k+kd …cells): logits of heat; of each point its offset in cells, one axis after the other."""
        return self.head.read(model, batch)

    def loss(self, output: Tensor, target: Target) -> Tensor | None:
        """The focal loss of the heat and the distance in cells, over the points that were drawn."""
        total, drawn = output.new_zeros(()), 0
        for row, known in enumerate(target.mask.tolist()):
            points = target.values[row].to(output) if known else output.new_zeros(0, self.d)
            there = points.isfinite().all(1)
            if not bool(there.any()):
                continue
            place, cells = self.head.cells(points[there]), output.shape[2:]
            heat, offset = output[row, : self.k][there], output[row, self.k :].view(self.k, self.d, *cells)[there]
            bell = bells(place.round(), torch.tensor(SPREAD_CELLS, device=output.device), cells)
            near = torch.where(bell >= NEAR, bell, torch.zeros_like(bell))
            weight = near / near.flatten(1).sum(1).clamp(min=1e-6).view(-1, *[1] * self.d)
            axes = [torch.arange(n, device=output.device, dtype=output.dtype) for n in cells]
            wanted = place.view(*place.shape, *[1] * self.d) - torch.stack(torch.meshgrid(*axes, indexing="ij"))
            total = total + focal(heat, bell) + (weight[:, None] * (offset - wanted).abs()).sum()
            drawn += int(there.sum())
        return total / drawn if drawn else None

    def decoded(self, output: Tensor, low: Sequence[float] = (), high: Sequence[float] = ()) -> np.ndarray:
        """Where each point is in one record's output, and how sure: (k 1+d) score and place in samples.

        Args:
            output: (k+kd …cells).
            low, high: the part in samples in which to look; everywhere by default.
        Returns:
            score -1 where nothing of it is within.
        """
        cells = output.shape[1:]
        heat, inside = output[: self.k].sigmoid(), torch.ones(cells, dtype=torch.bool, device=output.device)
        for axis, (a, b) in enumerate(zip(low, high, strict=True)):
            stride = self.head.stride[axis]
            centre = torch.arange(cells[axis], device=output.device) * stride + (stride - 1) / 2
            inside &= ((centre >= a) & (centre < b)).view([-1 if i == axis else 1 for i in range(self.d)])
        heat = heat.masked_fill(~inside, -1.0)
        score, best = heat.flatten(1).max(1)
        cell = torch.stack(torch.unravel_index(best, cells), 1)
        offset = output[self.k :].view(self.k, self.d, -1).gather(2, best.view(-1, 1, 1).expand(-1, self.d, 1))[..., 0]
        place = self.head.samples(cell.to(output) + offset)
        return torch.cat([score[:, None], place], 1).double().cpu().numpy()

    @torch.no_grad()
    def found(self, model: Model, batch: Batch) -> list[np.ndarray]:
        """Of each of the batch's records its points, as of `decoded`; arguments as `DetectionTask.found`'s."""
        modality = self.head.modality
        box, ragged = model.encoder(modality).at_once, batch.payloads.get(modality)
        if box is None or ragged is None:
            return [self.decoded(one) for one in self.output(model, batch)]
        return [self._whole(model, batch, ragged.only([row]), box) for row in range(len(ragged))]

    def _whole(self, model: Model, batch: Batch, one: Ragged, box: tuple[int, ...]) -> np.ndarray:
        """The surest place of each point in one whole record, each box telling of where no other sees better."""
        best = np.full((self.k, 1 + self.d), -1.0)
        for start, low, high in tiles(one.values[0].shape[1:], box):
            part = one.values[0][(slice(None), *(slice(s, s + b) for s, b in zip(start, box, strict=True)))]
            (output,) = self.output(model, boxed(batch, one, self.head.modality, part[None]))
            said = self.decoded(output, (low - start).tolist(), (high - start).tolist())
            said[:, 1:] += start
            best = np.where(said[:, :1] > best[:, :1], said, best)
        return best

    def score(self, predictions: Predictions) -> dict[str, float]:
        """The shares of points within shares of their extent and within mm, and the mean error in mm; NaN where nothing was drawn."""
        each = np.ones((1, int(predictions.mask.sum())))
        return {name: float(of(each)[0]) for name, of in measures(predictions, self.spec.points).items()}

    def present(self, things: Sequence[Thing], used: tuple[Modality, ...]) -> Answer:
        """Where each point is, how sure, and that a person decides."""
        values: dict[str, float | str] = {t.name: told(t) for t in things}
        least = min(things, key=lambda t: t.score)
        head = f"{len(things)} points placed; the least sure: {least.name}, {told(least)}"
        return Answer(f"{head}; a person decides", values, used)


def measures(predictions: Predictions, points: Sequence[str]) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Every figure of keypoints by its name, each of weights (r p) of the labelled patients → (r,).

    `pck_10` …, the share of points within 10% … of the longest side of the box about the image's drawn points (Yang & Ramanan
    2013, PCK), of images with two points or more; of files that have a scale `mre_mm`, the mean distance from the drawn point (mean
    radial error), and `within_2mm` …, the share within so much; of several points also each one's `mre_mm_…`.
    """
    errors, images = _known(predictions, len(points))
    mean = lambda of: _mean([of(e, t) for e, t in zip(errors, images, strict=True)])
    shares = share_within(predictions, len(points), SHARES)
    found: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        f"pck_{100 * s:g}": lambda w, n=n: shares(w)[:, n] for n, s in enumerate(SHARES)
    }
    found["mre_mm"] = mean(lambda e, t: e * t[:, 1:])
    near = share_within(predictions, len(points), WITHIN_MM, mm=True)
    found |= {f"within_{mm:g}mm": lambda w, n=n: near(w)[:, n] for n, mm in enumerate(WITHIN_MM)}
    for column, name in enumerate(points) if len(points) > 1 else ():
        found[f"mre_mm_{name}"] = mean(lambda e, t, column=column: e[:, column] * t[:, 1])
    return found


def share_within(
    predictions: Predictions, points: int, limits: Sequence[float], column: int | None = None, *, mm: bool = False
) -> Callable[[np.ndarray], np.ndarray]:
    """The share of points that lie within each of m limits of where they were drawn.

    Args:
        predictions: of keypoints.
        points: k, how many there are.
        limits: (m,) shares of the longest side of the box about an image's drawn points, or mm.
        column: of one point; None of all.
        mm: the limits are in mm; of files without a scale nothing is told then.
    Returns:
        weights (r p) of the labelled patients → (r m), NaN where there is no such point.
    """
    errors, images = _known(predictions, points)
    mine = [e if column is None else e[:, column : column + 1] for e in errors]
    scale = [np.where(np.isfinite(t[:, 1:]), 1.0, np.nan) if mm else t[:, :1] for t in images]
    each = [
        _mean([np.where(np.isfinite(e * s), e <= limit * s, np.nan) for e, s in zip(mine, scale, strict=True)])
        for limit in limits
    ]
    return lambda weights: np.stack([of(weights) for of in each], axis=1)


def _known(predictions: Predictions, points: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Of each labelled patient the errors (i k), and what is known of the images (i 2)."""
    known = predictions.labelled()
    errors = [np.asarray(e, float).reshape(-1, points) for e in known.outputs]
    return errors, [np.asarray(t, float).reshape(-1, 2) for t in known.targets]


def _mean(each: Sequence[np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Of each patient's values, NaN where unknown: weights (r p) → (r,) the mean of what is known."""
    total = np.array([np.nansum(v) for v in each])
    count = np.array([np.isfinite(v).sum() for v in each], float)

    def mean(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return (weights @ total) / (weights @ count)

    return mean
