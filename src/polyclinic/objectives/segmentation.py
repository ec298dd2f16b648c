"""Segmentation: a mask for every sample, from tokens that have seen the patient's other records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ..schema import Batch, Losses, Modality, Target, Tokens
from .decoders import MaskDecoder


class SegmentationPart(BaseModel):
    """Supervised segmentation while pretraining.

    Args:
        task: the recipe's segmentation task.
        labels: how many training patients' masks may be seen; None for all. A comparison at few labels is honest only if
            pretraining saw no more.
        channels: of the decoder.
        weight: in a hybrid objective.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["segmentation"] = "segmentation"
    task: str
    labels: int | None = Field(default=None, ge=1)
    channels: int = Field(default=8, ge=2)
    weight: float = Field(default=1.0, ge=0)

    def build(self, model: Any, classes: Mapping[str, int]) -> SegmentationObjective:
        """The module, with its mask decoder."""
        return SegmentationObjective(self, model, classes[self.task])


def dice_cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean of cross-entropy and soft Dice loss (Isensee et al. 2021; background left out of Dice).

    Args:
        logits: (m k …) float32.
        masks: (m …) int64.
    """
    k = logits.shape[1]
    crossed = F.cross_entropy(logits, masks)
    share = torch.softmax(logits, 1)[:, 1:].flatten(2)
    truth = F.one_hot(masks, k).movedim(-1, 1)[:, 1:].flatten(2).to(share.dtype)
    overlap, both = (share * truth).sum((0, 2)), share.sum((0, 2)) + truth.sum((0, 2))
    return crossed + 1 - ((2 * overlap + 1) / (both + 1)).mean()


def labelled_loss(logits: Tensor, target: Target) -> Tensor | None:
    """The loss over the records that have a mask; None where none has."""
    if not bool(target.mask.any()):
        return None
    masks = torch.stack([v for v, known in zip(target.values, target.mask.tolist(), strict=True) if known])
    return dice_cross_entropy(logits[target.mask].float(), masks.to(logits.device))


class SegmentationObjective(nn.Module):
    """A mask decoder on the fused tokens of the volumes."""

    def __init__(self, spec: SegmentationPart, model: Any, classes: int) -> None:
        super().__init__()
        self.spec = spec
        encoder = model.encoder(Modality.VOLUME)
        self.decoder = MaskDecoder(model.width, Modality.VOLUME, encoder.patch, classes, spec.channels)

    def forward(
        self, model: Any, batch: Batch, generator: torch.Generator, tokens: Mapping[Modality, Tokens] | None = None
    ) -> Losses:
        """The term `segmentation/task`, where the batch has a mask."""
        target = batch.targets.get(self.spec.task)
        if target is None or Modality.VOLUME not in batch.payloads or not bool(target.mask.any()):
            return Losses({}, {})
        fused = model.fuse(model.encode(batch) if tokens is None else tokens, len(batch.patients))
        term = labelled_loss(self.decoder(fused.tokens, batch.payloads[Modality.VOLUME]), target)
        name = f"segmentation/{self.spec.task}"
        return Losses({} if term is None else {name: term}, {name: self.spec.weight})
