"""Segmentation: a mask for every sample, from tokens that have seen the patient's other records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ..schema import Batch, Losses, Modality, Target, Tokens
from ..tokens import select
from .decoders import MaskDecoder
from .objective import Backbone, Objective, ObjectiveError, ObjectiveFields, Structure, on_grid


class SegmentationPart(ObjectiveFields):
    """Supervised segmentation while pretraining.

    Args:
        task: the recipe's segmentation task.
        labels: how many training patients' masks may be seen; None for all. A comparison at few labels is honest only if
            pretraining saw no more.
        channels, full: of the decoder, as the task's.
        weight: in a hybrid objective.
    """

    kind: Literal["segmentation"] = "segmentation"
    alike: ClassVar[tuple[str, ...]] = ("task",)
    task: str
    labels: int | None = Field(default=None, ge=1)
    channels: int = Field(default=8, ge=2)
    full: bool = False
    weight: float = Field(default=1.0, ge=0)

    @property
    def decoder(self) -> str:
        """What decides the decoder's weights, in words; the task's is the same."""
        return decoder_words(self.channels, self.full)

    def named(self) -> set[Modality]:
        """What the task's masks lie on is the task's to say."""
        return set()

    def labelled(self) -> dict[str, int | None]:
        """Its task's masks."""
        return {self.task: self.labels}

    def build(self, model: Backbone, structures: Mapping[str, Structure]) -> SegmentationObjective:
        """The module, with its mask decoder."""
        return SegmentationObjective(self, model, structures[self.task])


def decoder_words(channels: int, full: bool) -> str:
    """What decides a mask decoder's weights."""
    return f"{channels} channels" + (" with `full`" if full else "")


def mask_decoder(
    model: Backbone, modality: Modality, classes: int, channels: int, maps: int = 0, full: bool = False
) -> MaskDecoder:
    """The decoder of masks of a modality's records.

    Raises:
        ObjectiveError: the model does not read the modality, or its tokens lie on no grid.
    """
    encoder = on_grid(model, modality, f"a segmentation of {modality}", ObjectiveError)
    return MaskDecoder(model.width, modality, encoder.patch, classes, channels, maps, encoder.channels, full)


def dice_cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """Sum of cross-entropy and soft Dice loss (Isensee et al. 2021; background left out of Dice).

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
    """The loss over the records that have a mask; None where none has.

    Raises:
        ObjectiveError: a mask has a label beyond the classes.
    """
    known = target.mask.tolist()
    if not any(known):
        return None
    masks = torch.stack([v for v, has in zip(target.values, known, strict=True) if has]).to(logits.device)
    k = logits.shape[1]
    if int(masks.max()) >= k or int(masks.min()) < 0:
        raise ObjectiveError(
            f"a mask with the labels {int(masks.min())} to {int(masks.max())}",
            f"0 for background, and 1 to {k - 1} for the task's classes",
            "name every label in the task's `classes`, or mend the mask",
        )
    return dice_cross_entropy(logits[target.mask.to(logits.device)].float(), masks)


class SegmentationObjective(Objective):
    """A mask decoder on the fused tokens of the images or volumes."""

    def __init__(self, spec: SegmentationPart, model: Backbone, structure: Structure) -> None:
        super().__init__()
        self.spec, self.modality = spec, structure.modality
        self.decoder = mask_decoder(model, self.modality, structure.labels, spec.channels, full=spec.full)

    def forward(
        self, model: Backbone, batch: Batch, generator: torch.Generator, tokens: Mapping[Modality, Tokens] | None = None
    ) -> Losses:
        """The term `segmentation/task`, where the batch has a mask."""
        target = batch.targets.get(self.spec.task)
        if target is None or self.modality not in batch.payloads or not bool(target.mask.any()):
            return Losses({}, {})
        ragged, tokens = batch.payloads[self.modality], model.encode(batch) if tokens is None else tokens
        # No patient sees another, so those without a mask need not be fused and decoded.
        owners = ragged.patient[target.mask]
        theirs = {m: select(t, torch.isin(t.patient, owners)) for m, t in tokens.items()}
        fused, rows = model.fuse(theirs, len(batch.patients)), torch.isin(ragged.patient, owners)
        assert isinstance(ragged.values, Tensor)
        logits = self.decoder(fused.tokens, ragged.values[rows])
        masks = [mask for mask, own in zip(target.values, rows.tolist(), strict=True) if own]
        term = labelled_loss(logits, Target(masks, target.mask[rows]))
        assert term is not None
        name = f"segmentation/{self.spec.task}"
        return Losses({name: term}, {name: self.spec.weight})
