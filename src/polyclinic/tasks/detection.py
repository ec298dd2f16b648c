"""Detection: which things are there, where, and how large, in images and volumes.

An annotated image that holds nothing is a negative one; one that nobody annotated takes no part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..cohort import Label
from ..harmonise.shapes import overlaps
from ..models import Model
from ..schema import Batch, Modality, Ragged, Target
from .boxes import boxed
from .heat import LEAST_LR, LEAST_SPREAD, NEAR, SPREAD, DenseHead, bells, focal, peaks
from .matching import HIT, MOST, by_place, measures
from .sliding import tiles
from .task import Answer, PlacedFields, Predictions, Task, Thing, told

SAME = 0.3
"""Overlap from which on two answers of one class are one thing, and the surer one stands."""
LEAST = 0.01
"""What is less sure than this is not told at all."""
FIRST_CUT = 0.3
"""The score from which on a thing is told, of a head that was not fitted."""


class Detection(PlacedFields):
    """Things of one or several classes, each a box.

    Args:
        classes: labels of the boxes; of masks, what the numbers in `numbers` are called.
        modality: of the images.
        source: `boxes` that people drew, or the parts of `masks` that hang together.
        structure: a word of the boxes' or the masks' kind.
        numbers: of masks, the label of each class; by default 1, 2 …
        least_mm: of masks, the longest side from which on a part counts.
        channels: of a cell of the head.
    """

    kind: Literal["detection"] = "detection"
    classes: tuple[str, ...] = Field(min_length=1)
    modality: Literal[Modality.VOLUME, Modality.IMAGE] = Modality.IMAGE
    source: Literal["boxes", "masks"] = "boxes"
    structure: str = ""
    numbers: tuple[int, ...] = ()
    least_mm: float = Field(default=0.0, ge=0)
    channels: int = Field(default=32, ge=4)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_drawn(self.classes, self.source == "masks", Modality(self.modality), self.structure, self.numbers)
        if self.least_mm and self.source != "masks":
            raise ValueError("least_mm: boxes that people drew all count; it is for masks")
        return self

    def label(self, name: str) -> Label:
        """Where the boxes are."""
        called = numbered(self.classes, self.numbers) if self.source == "masks" else self.classes
        return Label(
            name, "boxes", modality=Modality(self.modality), kind_like=self.structure, classes=called,
            drawn="masks" if self.source == "masks" else "shapes", least_mm=self.least_mm,
        )  # fmt: skip

    def columns(self) -> tuple[str, ...]:
        """No column is a label."""
        return ()

    def asks(self, words: Mapping[str, str]) -> str:
        """By its classes."""
        return f"Which {' or '.join(self.classes)} are there, and where?"

    def build(self, name: str, model: Model) -> DetectionTask:
        """The head, freshly initialised."""
        return DetectionTask(name, self, model)


def check_drawn(
    classes: Sequence[str], masks: bool, modality: Modality, structure: str, numbers: Sequence[int]
) -> None:  # fmt: skip
    """Refuse names and numbers that cannot be meant.

    Raises:
        ValueError: in a person's words.
    """
    if twice := [name for name in dict.fromkeys(classes) if classes.count(name) > 1 or not name.strip()]:
        raise ValueError(f"the name {twice[0]!r} twice, or none: each needs one of its own")
    if not masks and modality is not Modality.IMAGE:
        raise ValueError(f"nobody draws boxes or points on a {modality} in a format that is read; take `source: masks`")
    if masks and not structure:
        raise ValueError("structure: a word of the masks' kind, or any mask would be taken")
    if numbers and not masks:
        raise ValueError("numbers: only masks have them")
    if numbers and (len(numbers) != len(classes) or min(numbers) < 1 or list(numbers) != sorted(set(numbers))):
        raise ValueError(
            f"numbers: {list(numbers)} for {len(classes)} names; each needs one of its own, ascending from 1"
        )


def numbered(classes: Sequence[str], numbers: Sequence[int]) -> tuple[str, ...]:
    """What a mask's numbers 1, 2 … are called, "" where nobody asks."""
    names = dict(zip(numbers or range(1, len(classes) + 1), classes, strict=True))
    return tuple(names.get(n, "") for n in range(1, max(names) + 1))


class DetectionTask(Task):
    """Heat of each class, and of each cell where the middle of the thing that it lies in is, and how large that is.

    `predict` gives of each patient what was found in all annotated images: `outputs` (n 3+2d) with the image's number, the class,
    the score and both corners in mm along the standard grid's axes; `targets` (t 2+2d) the same without a score; `records` the
    annotated images. In a row of object arrays, for patients have any number.
    """

    cuts: Tensor
    least_lr = LEAST_LR

    def __init__(self, name: str, spec: Detection, model: Model) -> None:
        super().__init__(name, spec)
        self.k, modality = len(spec.classes), Modality(spec.modality)
        self.d = len(model.encoder(modality).patch) if modality in model.modalities else 0
        self.head = DenseHead(model, modality, spec.channels, self.k, 2 * self.d)
        self.register_buffer("cuts", torch.full((self.k,), FIRST_CUT))

    @property
    def says(self) -> tuple[str, ...]:
        """The numbers of a cell, in words."""
        return (
            f"logits of the heat of {', '.join(self.spec.classes)}",
            f"offset of a thing's middle from the cell, in cells along {', '.join('zyx'[-self.d :])}, and the logarithms of its sides",
        )

    def output(self, model: Model, batch: Batch) -> Tensor:
        """(m k+2d …cells): logits of heat; offset of the middle in cells; logarithm of each side in cells."""
        return self.head.read(model, batch)

    def loss(self, output: Tensor, target: Target) -> Tensor | None:
        """The focal loss of the heat, and the distance of middle and sides, both in sides of the box; over the annotated alone."""
        rows = [n for n, known in enumerate(target.mask.tolist()) if known]
        if not rows:
            return None
        total, things = output.new_zeros(()), 0
        for row in rows:
            boxes = target.values[row].to(output)
            heat, weight, wanted = self._wanted(boxes, output.shape[2:])
            said, middle, side = (
                output[row, : self.k],
                output[row, self.k : self.k + self.d],
                output[row, self.k + self.d :],
            )
            apart = (middle - wanted[: self.d]).abs() / wanted[self.d :].exp().clamp(min=1.0)
            apart = apart + (side - wanted[self.d :]).abs()
            total, things = total + focal(said, heat) + (weight * apart).sum(), things + len(boxes)
        return total / max(1, things)

    def _wanted(self, boxes: Tensor, cells: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Of boxes (n 1+2d): heat (k …), how much each cell answers for (…), and what it should say (2d …).

        A cell in several boxes answers for the one whose middle is nearest in its terms; of concentric ones, for the smallest.
        """
        d, heat = self.d, boxes.new_zeros(self.k, *cells)
        if not len(boxes):
            return heat, boxes.new_zeros(cells), boxes.new_zeros(2 * d, *cells)
        boxes = boxes[(boxes[:, 1 + d :] - boxes[:, 1 : 1 + d]).prod(1).argsort(stable=True)]
        low, high = self.head.cells(boxes[:, 1 : 1 + d]), self.head.cells(boxes[:, 1 + d :])
        middle, side = (low + high) / 2, (high - low).clamp(min=1e-3)
        bell = bells(middle.round(), (SPREAD * side).clamp(min=LEAST_SPREAD), cells)
        for kind in range(self.k):
            if bool((mine := boxes[:, 0] == kind).any()):
                heat[kind] = bell[mine].amax(0)
        near, which = torch.where(bell >= NEAR, bell, torch.zeros_like(bell)).max(0)
        shares = boxes.new_zeros(len(boxes)).index_add_(0, which.flatten(), near.flatten())
        weight = near / shares[which].clamp(min=1e-6)
        axes = [torch.arange(n, device=boxes.device, dtype=boxes.dtype) for n in cells]
        place = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        wanted = torch.cat([middle[which].movedim(-1, 0) - place, side[which].log().movedim(-1, 0)])
        return heat, weight, wanted

    def decoded(self, output: Tensor) -> np.ndarray:
        """What one record's output says, the surest first: (n 2+2d) class, score, lower and upper corner in samples."""
        heat, d = output[: self.k].sigmoid(), self.d
        kind, *cell = torch.nonzero(peaks(heat) & (heat >= LEAST), as_tuple=True)
        score = heat[(kind, *cell)]
        numbers = output[(slice(self.k, None), *cell)].T
        middle = torch.stack(cell, 1).to(output) + numbers[:, :d]
        longest = float(np.log(2 * max(output.shape[1:])))
        half = numbers[:, d:].clamp(max=longest).exp() / 2
        corners = torch.cat([self.head.samples(middle - half), self.head.samples(middle + half)], 1)
        found = torch.cat([kind[:, None].to(output), score[:, None], corners], 1).double().cpu().numpy()
        return found[np.argsort(-found[:, 1], kind="stable")][: MOST * self.k]

    @torch.no_grad()
    def found(self, model: Model, batch: Batch) -> list[np.ndarray]:
        """Of each of the batch's records what is found in it, as of `decoded`, none of them twice.

        Args:
            model: that was trained with it.
            batch: whose volumes are whole where the encoder reads a box at a time (`Loader.each(whole=True)`).
        """
        modality = self.head.modality
        box, ragged = model.encoder(modality).at_once, batch.payloads.get(modality)
        if box is None or ragged is None:
            return [once(self.decoded(one)) for one in self.output(model, batch)]
        return [self._whole(model, batch, ragged.only([row]), box) for row in range(len(ragged))]

    def _whole(self, model: Model, batch: Batch, one: Ragged, box: tuple[int, ...]) -> np.ndarray:
        """What is found in one whole record: of each box what has its middle where no other box sees better."""
        every = [np.zeros((0, 2 + 2 * self.d))]
        for start, low, high in tiles(one.values[0].shape[1:], box):
            part = one.values[0][(slice(None), *(slice(s, s + b) for s, b in zip(start, box, strict=True)))]
            (output,) = self.output(model, boxed(batch, one, self.head.modality, part[None]))
            said = self.decoded(output)
            said[:, 2:] += np.tile(start, 2)
            middle = (said[:, 2 : 2 + self.d] + said[:, 2 + self.d :]) / 2
            every.append(said[((middle >= low) & (middle < high)).all(1)])
        return once(np.concatenate(every))

    def choose(self, found: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> None:
        """Choose of each class the score from which on a thing is told: the one of the best F1 on these images.

        Args:
            found: of each annotated training image, as of `found`.
            truth: its boxes (n 1+2d).
        """
        for kind in range(self.k):
            said = [f[f[:, 0] == kind][:, 1:] for f in found]
            true = [t[t[:, 0] == kind][:, 1:] for t in truth]
            score = np.concatenate([s[:, 0] for s in said])
            place = np.concatenate([by_place(s[:, 1:], t) for s, t in zip(said, true, strict=True)])
            if (place == HIT).any():
                self.cuts[kind] = best_cut(score[place >= 0], place[place >= 0] == HIT, sum(map(len, true)))

    def score(self, predictions: Predictions) -> dict[str, float]:
        """The free-response score, sensitivity at each rate, and average precisions; NaN where there is nothing to find."""
        each = np.ones((1, int(predictions.mask.sum())))
        return {name: float(of(each)[0]) for name, of in measures(predictions, self.spec.classes).items()}

    def present(self, things: Sequence[Thing], used: tuple[Modality, ...]) -> Answer:
        """What is told of a record: each thing's place and size, how sure, and that a person decides.

        Args:
            things: what was found in it, the surest first, those below their class's threshold left out.
            used: the modalities that were read.
        """
        counts = {name: sum(t.name == name for t in things) for name in self.spec.classes}
        values: dict[str, float | str] = {f"{name}_found": n for name, n in counts.items()}
        for name in self.spec.classes:
            values |= {f"{name} {n}": told(t) for n, t in enumerate((t for t in things if t.name == name), start=1)}
        if things:
            said = ", ".join(f"{n} {name}" for name, n in counts.items() if n)
            head = f"{said}; the surest: {things[0].name}, {told(things[0])}"
        else:
            head = f"no {' or '.join(self.spec.classes)} above the threshold, which is no proof that there is none"
        return Answer(f"{head}; a person decides", values, used)


def once(found: np.ndarray, same: float = SAME) -> np.ndarray:
    """Answers (n 2+2d), the surest first, without those that overlap a surer one of their class: non-maximum suppression."""
    found = found[np.argsort(-found[:, 1], kind="stable")]
    alike = (overlaps(found[:, 2:], found[:, 2:]) > same) & (found[:, None, 0] == found[None, :, 0])
    keep = np.ones(len(found), bool)
    for row in range(len(found)):
        if keep[row]:
            keep[row + 1 :] &= ~alike[row, row + 1 :]
    return found[keep]


def best_cut(score: np.ndarray, hit: np.ndarray, things: int) -> float:
    """The score from which on answers are told, so that F1 is best; halfway to the next lower one.

    Args:
        score: (n,) of answers.
        hit: (n,) whether each found a thing; the others are false alarms.
        things: how many there are.
    """
    levels = np.unique(score)
    said = score[None] >= levels[:, None]
    hits, alarms = (said & hit).sum(1), (said & ~hit).sum(1)
    best = int((2 * hits / (hits + alarms + things)).argmax())
    return float(levels[best] if best == 0 else (levels[best] + levels[best - 1]) / 2)
