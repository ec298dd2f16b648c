"""Segmentation: where a structure lies, and how large it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ..cohort import Label
from ..models import Model
from ..objectives import Structure
from ..objectives.segmentation import decoder_words, labelled_loss, mask_decoder
from ..schema import Batch, Modality, Ragged, Target
from .augment import Augment, augmented
from .boxes import boxed
from .sliding import sliding
from .task import Answer, PlacedFields, Predictions, Read, Task, TaskError


def dice(one: np.ndarray, other: np.ndarray, classes: int) -> np.ndarray:
    """(classes - 1,) Dice of each class but the background; 1 where neither has it (Dice 1945)."""
    out = np.ones(classes - 1)
    for k in range(1, classes):
        total = (one == k).sum() + (other == k).sum()
        if total:
            out[k - 1] = 2.0 * ((one == k) & (other == k)).sum() / total
    return out


class Segmentation(PlacedFields):
    """A structure of a volume or an image.

    Args:
        structure: a word of the masks' kind.
        classes: names of the labels 1, 2 … of the masks.
        modality: of the images.
        channels: of the decoder; 16 or more of a CPU's bfloat16 cost least for what they do.
        full: whether the decoder has convolutions at full resolution too: structures a few samples thick need them.
        batch: patients a step while a run is adapted to it; of a single one, with as many steps, each mask is seen less often.
        augment: how records are changed while a run is adapted to it; None leaves them. Pretraining sees them as they are.
    """

    kind: Literal["segmentation"] = "segmentation"
    structure: str
    classes: tuple[str, ...] = Field(min_length=1)
    channels: int = Field(default=8, ge=2)
    full: bool = False
    batch: int = Field(default=2, ge=1)
    augment: Augment | None = None

    @property
    def decoder(self) -> str:
        """What decides the decoder's weights, in words."""
        return decoder_words(self.channels, self.full)

    def label(self, name: str) -> Label:
        """Where the masks are."""
        return Label(name, "mask", modality=Modality(self.modality), kind_like=self.structure, classes=self.classes)

    def columns(self) -> tuple[str, ...]:
        """No column is a label."""
        return ()

    def taught(self, name: str, read: Read) -> Structure:
        """What its masks show, by the names of the classes."""
        return Structure(Modality(self.modality), self.classes, read(*(c.replace("_", " ") for c in self.classes)))

    def asks(self, words: Mapping[str, str]) -> str:
        """By its structure and classes."""
        return f"Where are the parts of the {self.structure}: {', '.join(self.classes)}?"

    def build(self, name: str, model: Model) -> SegmentationTask:
        """The decoder, freshly initialised."""
        return SegmentationTask(name, self, model)


class SegmentationTask(Task):
    """A mask decoder on the fused tokens."""

    def __init__(self, name: str, spec: Segmentation, model: Model) -> None:
        super().__init__(name, spec)
        modality, classes = Modality(spec.modality), len(spec.classes) + 1
        self.decoder = mask_decoder(model, modality, classes, spec.channels, full=spec.full)

    def output(self, model: Model, batch: Batch) -> Tensor:
        """Logits (m k …) of the batch's records.

        Raises:
            TaskError: the batch has none of the modality that is to be segmented.
        """
        ragged = batch.payloads.get(Modality(self.spec.modality))
        if ragged is None:
            raise TaskError(
                f"patients without any {self.spec.modality}", "one to segment", "ask only of patients who have one"
            )
        assert isinstance(ragged.values, Tensor)
        return self.decoder(model(batch).tokens, ragged.values)

    def varied(self, batch: Batch, generator: torch.Generator) -> Batch:
        """A batch of training whose records are changed as the task wants, and their masks with them; the batch is left as it is."""
        modality = Modality(self.spec.modality)
        ragged, target = batch.payloads.get(modality), batch.targets[self.name]
        if ragged is None or self.spec.augment is None:
            return batch
        assert isinstance(ragged.values, Tensor)
        masks = torch.stack(list(target.values))
        x, masks = augmented(ragged.values, masks, self.spec.augment, generator, ragged.spacing)
        payloads = batch.payloads | {modality: replace(ragged, values=x)}
        return Batch(payloads, batch.targets | {self.name: Target(list(masks), target.mask)}, batch.patients)

    def loss(self, output: Tensor, target: Target) -> Tensor | None:
        """Dice and cross-entropy over the records that have a mask."""
        return labelled_loss(output, target)

    def score(self, predictions: Predictions) -> dict[str, float]:
        """The mean Dice over patients, of each class and of all."""
        known = predictions.labelled()
        if not len(known.outputs):
            return {"dice": float("nan")}
        each = known.outputs.mean(axis=0)
        named = {f"dice_{name}": float(v) for name, v in zip(self.spec.classes, each, strict=True)}
        return {"dice": float(each.mean())} | named

    def masks(self, model: Model, batch: Batch) -> list[Tensor]:
        """The mask (z y x) or (y x) int64 of each of the batch's records; of those that are read a box at a time, blended.

        Args:
            model: that was trained with it.
            batch: whose volumes are whole where the encoder reads a box at a time (`Loader.each(whole=True)`).
        """
        modality = Modality(self.spec.modality)
        box, ragged = model.encoder(modality).at_once, batch.payloads.get(modality)
        if box is None or ragged is None:
            return list(self.output(model, batch).float().argmax(1))
        return [self._whole(model, batch, ragged.only([row]), box) for row in range(len(ragged))]

    def _whole(self, model: Model, batch: Batch, one: Ragged, box: tuple[int, ...]) -> Tensor:
        """The mask (z y x) of one whole record."""
        modality, told = Modality(self.spec.modality), lambda logits: logits.argmax(0)
        say = lambda boxes: self.decoder(model(boxed(batch, one, modality, boxes)).tokens, boxes)
        return sliding(say, one.values[0], box, batch=AT_ONCE, told=told)

    def present(self, mask: np.ndarray, voxel_ml: float | None, used: tuple[Modality, ...]) -> Answer:
        """The volumes in mL of a mask on the source's grid; in samples where the file has no scale."""
        sizes: dict[str, float | str] = {}
        for number, name in enumerate(self.spec.classes, start=1):
            count = int((mask == number).sum())
            sizes[f"{name}_ml" if voxel_ml else f"{name}_pixels"] = round(count * voxel_ml, 3) if voxel_ml else count
        words = ", ".join(f"{k.rsplit('_', 1)[0]} {v} {'mL' if voxel_ml else 'pixels'}" for k, v in sizes.items())
        return Answer(f"{self.spec.structure}: {words}", sizes, used, overlay=mask)


AT_ONCE = 2
"""Boxes of a whole volume that are asked together."""


def volumes_ml(masks: Sequence[Tensor], classes: int, voxel_ml: float) -> np.ndarray:
    """(p k) mL of each class."""
    counts = [torch.bincount(m.flatten(), minlength=classes + 1)[1 : classes + 1] for m in masks]
    return np.stack([c.cpu().numpy() * voxel_ml for c in counts])
