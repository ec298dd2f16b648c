"""Segmentation: where a structure lies, and how large it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ..cohort import Label
from ..models import Model
from ..objectives.segmentation import labelled_loss, mask_decoder
from ..schema import Batch, Modality, Target
from .task import Answer, Predictions, Task, TaskError, TaskFields


def dice(one: np.ndarray, other: np.ndarray, classes: int) -> np.ndarray:
    """(classes - 1,) Dice of each class but the background; 1 where neither has it (Dice 1945)."""
    out = np.ones(classes - 1)
    for k in range(1, classes):
        total = (one == k).sum() + (other == k).sum()
        if total:
            out[k - 1] = 2.0 * ((one == k) & (other == k)).sum() / total
    return out


class Segmentation(TaskFields):
    """A structure of a volume or an image.

    Args:
        structure: a word of the masks' kind.
        classes: names of the labels 1, 2 … of the masks.
        modality: of the images.
        channels: of the decoder.
    """

    kind: Literal["segmentation"] = "segmentation"
    structure: str
    classes: tuple[str, ...] = Field(min_length=1)
    modality: Literal[Modality.VOLUME, Modality.IMAGE] = Modality.VOLUME
    channels: int = Field(default=8, ge=2)

    def label(self, name: str) -> Label:
        """Where the masks are."""
        return Label(name, "mask", modality=Modality(self.modality), kind_like=self.structure, classes=self.classes)

    def columns(self) -> tuple[str, ...]:
        """No column is a label."""
        return ()

    def build(self, name: str, model: Model) -> SegmentationTask:
        """The decoder, freshly initialised."""
        return SegmentationTask(name, self, model)


class SegmentationTask(Task):
    """A mask decoder on the fused tokens."""

    def __init__(self, name: str, spec: Segmentation, model: Model) -> None:
        super().__init__(name, spec)
        self.decoder = mask_decoder(model, Modality(spec.modality), len(spec.classes) + 1, spec.channels)

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

    def mask(self, logits: Tensor) -> Tensor:
        """(m k …) → (m …) int64."""
        return logits.argmax(1)

    def present(self, mask: np.ndarray, voxel_ml: float | None, used: tuple[Modality, ...]) -> Answer:
        """The volumes in mL of a mask on the source's grid; in samples where the file has no scale."""
        sizes: dict[str, float | str] = {}
        for number, name in enumerate(self.spec.classes, start=1):
            count = int((mask == number).sum())
            sizes[f"{name}_ml" if voxel_ml else f"{name}_pixels"] = round(count * voxel_ml, 3) if voxel_ml else count
        words = ", ".join(f"{k.rsplit('_', 1)[0]} {v} {'mL' if voxel_ml else 'pixels'}" for k, v in sizes.items())
        return Answer(f"{self.spec.structure}: {words}", sizes, used, overlay=mask)


def volumes_ml(masks: Sequence[Tensor], classes: int, voxel_ml: float) -> np.ndarray:
    """(p k) mL of each class."""
    counts = [torch.bincount(m.flatten(), minlength=classes + 1)[1 : classes + 1] for m in masks]
    return np.stack([c.cpu().numpy() * voxel_ml for c in counts])
