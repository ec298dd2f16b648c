"""Contrastive: a patient's modalities lie near each other and far from other patients'.

Three losses on the similarities of two modalities: CLIP's softmax (Radford et al. 2021), SigLIP's sigmoid (Zhai et al. 2023), and one
in which every record is for itself and all of a patient's are its positives (SupCon, Khosla et al. 2020; across modalities UniCL,
Yang et al. 2022; within one MICLe, Azizi et al. 2021). A patient who lacks one of the two is in no row and no column.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..fusion import FusionFields, Tower
from ..schema import Batch, Losses, Modality, Tokens
from ..tokens import EncoderFields
from .embeddings import embeddings, of_both
from .objective import Backbone, Objective, ObjectiveFields, Structure

LARGEST_SCALE = 100.0
"""1 / temperature is kept below this (Radford et al. 2021, section 2.5)."""
TEMPERATURES = {"clip": 0.07, "siglip": 0.1, "supcon": 0.1}
"""Where the papers start: Radford et al. 2021, section 2.5; Zhai et al. 2023, section 3.2; Khosla et al. 2020, section 4."""
SIGLIP_BIAS = -10.0
"""Almost all pairs are negative: so a start is not one large step (Zhai et al. 2023, section 3.2)."""


def similarities(one: Tensor, other: Tensor, scale: Tensor) -> Tensor:
    """(p e), (q e) unit vectors and () → (p q) logits, in float32 whatever autocast says."""
    # bfloat16 has two digits, whose error the scale would multiply by up to 100.
    with torch.autocast(one.device.type, enabled=False):
        return scale * one @ other.T


def scale_of(log_scale: Tensor) -> Tensor:
    """() the inverse of a temperature that is learned as its logarithm."""
    return log_scale.clamp(max=math.log(LARGEST_SCALE)).exp()


def clip_loss(one: Tensor, other: Tensor, scale: Tensor) -> Tensor:
    """The symmetric InfoNCE of p pairs.

    Args:
        one, other: (p e) unit vectors; row i of both is one patient.
        scale: () the inverse of the temperature.
    """
    logits = similarities(one, other, scale)
    same = torch.arange(len(one), device=one.device)
    return (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2


def siglip_loss(one: Tensor, other: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Each of the p² pairs is a question of its own, same patient or not; the sum over p (Zhai et al. 2023, section 3.2).

    Args:
        one, other, scale: as for `clip_loss`.
        bias: () of the logits.
    """
    logits = similarities(one, other, scale) + bias
    sign = 2 * torch.eye(len(one), device=one.device) - 1
    return -F.logsigmoid(sign * logits).sum() / len(one)


def supcon_loss(one: Tower, other: Tower, scale: Tensor) -> Tensor:
    """Cross-entropy to each of an anchor's positives, their mean an anchor (Khosla et al. 2020, equation 2, "out"), both ways.

    Args:
        one, other: records' unit vectors and whose they are. Where both are the same object, a record is not compared with
            itself, and one whose patient has no other is nobody's positive and no anchor.
        scale: () the inverse of the temperature.
    """
    logits = similarities(one.vectors, other.vectors, scale)
    positive = one.patient[:, None] == other.patient
    if one is other:
        itself = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        logits, positive = logits.masked_fill(itself, -torch.inf), positive & ~itself
        return _to_positives(logits, positive)
    return (_to_positives(logits, positive) + _to_positives(logits.T, positive.T)) / 2


def _to_positives(logits: Tensor, positive: Tensor) -> Tensor:
    """The mean over anchors (rows) of the mean over their positives of the cross-entropy; rows without any are left out."""
    crossed = torch.where(positive, torch.logsumexp(logits, 1, keepdim=True) - logits, 0.0)
    count = positive.sum(1)
    return (crossed.sum(1) / count.clamp(min=1))[count > 0].mean()


class Contrastive(ObjectiveFields):
    """Which modalities are compared, and how.

    Args:
        loss: "clip" or "siglip", a vector a patient and modality; "supcon", a vector a record.
        pairs: pairs of modalities; "all" that a patient may have together; or one modality, which is compared with every other
            (ImageBind, Girdhar et al. 2023). With "supcon" a modality may be paired with itself.
        temperature: at the start; it is learned, and a later stage that says no other goes on with it. None for the loss's paper's.
        weight: in a hybrid objective.
    """

    kind: Literal["contrastive"] = "contrastive"
    alike: ClassVar[tuple[str, ...]] = ("loss", "temperature")
    loss: Literal["clip", "siglip", "supcon"] = "clip"
    pairs: Literal["all"] | Modality | tuple[tuple[Modality, Modality], ...] = "all"
    temperature: float | None = Field(default=None, gt=0)
    weight: float = Field(default=1.0, ge=0)

    def named(self) -> set[Modality]:
        """Those of its pairs."""
        if isinstance(self.pairs, Modality):
            return {self.pairs}
        return set() if self.pairs == "all" else {m for pair in self.pairs for m in pair}

    def fits(self, encoders: Mapping[Modality, EncoderFields], width: int, fusion: FusionFields) -> None:
        """There are two modalities to compare, or one is compared with itself by a loss that can."""
        same = [a for a, b in self.pairs if a == b] if isinstance(self.pairs, tuple) else []
        if len(encoders) < 2 and not same:
            raise ValueError("contrastive compares modalities, and there is one encoder")
        if same and self.loss != "supcon":
            raise ValueError(f"a pair of {same[0]} with itself, which only `loss: supcon` compares")

    def among(self, there: Iterable[Modality]) -> list[tuple[Modality, Modality]]:
        """The pairs of the modalities that are there."""
        known = list(there)
        if isinstance(self.pairs, Modality):
            return [(self.pairs, m) for m in known if m is not self.pairs and self.pairs in known]
        pairs = combinations(known, 2) if self.pairs == "all" else self.pairs
        return [(a, b) for a, b in pairs if a in known and b in known]

    def build(self, model: Backbone, structures: Mapping[str, Structure]) -> ContrastiveObjective:
        """The module, with its learned temperature."""
        return ContrastiveObjective(self)


class ContrastiveObjective(Objective):
    """Each pair of modalities that at least two patients of the batch have both of gives a term."""

    def __init__(self, spec: Contrastive) -> None:
        super().__init__()
        self.spec = spec
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / (spec.temperature or TEMPERATURES[spec.loss]))))
        self.bias = nn.Parameter(torch.tensor(SIGLIP_BIAS)) if spec.loss == "siglip" else None

    def forward(
        self, model: Backbone, batch: Batch, generator: torch.Generator, tokens: Mapping[Modality, Tokens] | None = None
    ) -> Losses:
        """The terms `contrastive/a-b`."""
        found: dict[str, Tensor] = {}
        named = self.spec.named() if isinstance(self.spec.pairs, tuple) else ()
        towers = embeddings(model, batch, tokens, "record" if self.spec.loss == "supcon" else "patient", named)
        for a, b in self.spec.among(towers):
            term = self._compared(towers[a], towers[b])
            if term is not None:
                found[f"contrastive/{a}-{b}"] = term
        share = self.spec.weight / max(len(found), 1)
        return Losses(found, dict.fromkeys(found, share))

    def _compared(self, one: Tower, other: Tower) -> Tensor | None:
        """The loss of two modalities; None where fewer than two patients have both (of one modality: two records)."""
        scale = scale_of(self.log_scale)
        if one is other:
            _, count = torch.unique_consecutive(one.patient, return_counts=True)
            return supcon_loss(one, one, scale) if len(count) > 1 and int(count.max()) > 1 else None
        mine, theirs = of_both(one.patient, other.patient)
        one, other = Tower(one.vectors[mine], one.patient[mine]), Tower(other.vectors[theirs], other.patient[theirs])
        if len(torch.unique_consecutive(one.patient)) < 2:
            return None
        if self.spec.loss == "supcon":
            return supcon_loss(one, other, scale)
        if self.bias is not None:
            return siglip_loss(one.vectors, other.vectors, scale, self.bias)
        return clip_loss(one.vectors, other.vectors, scale)
