"""Late fusion: one vector a modality, then one a patient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ..schema import Fused, Modality, Tokens
from .fusion import Fusion, FusionFields
from .pooling import KINDS, by_modality
from .streams import own


class Late(FusionFields):
    """How the modalities' vectors meet.

    Args:
        style: "mean": each counts as much; "gated": a mean weighted by a learned gate that sees the vector (Arevalo et al. 2017);
            "product": each is a Gaussian of the answer, and the answer is the mean of their product (Wu & Goodman 2018);
            "stacking": each has its own predictor, and these are weighed by what they are worth over all patients (Wolpert 1992).
    """

    kind: Literal["late"] = "late"
    style: Literal["mean", "gated", "product", "stacking"] = "mean"

    def build(self, width: int, modalities: Sequence[Modality]) -> Fusion:
        """The module, freshly initialised."""
        match self.style:
            case "product":
                return ProductFusion(width, modalities)
            case "stacking":
                return StackingFusion(width, modalities)
            case style:
                return MeanFusion(width, style == "gated")


class MeanFusion(Fusion):
    """The mean, with a gate or without. Tokens of different modalities never see each other, as in all of late fusion.

    Args:
        width: d.
        gated: whether a gate weighs the modalities of each patient; else each counts as much.
    """

    def __init__(self, width: int, gated: bool) -> None:
        super().__init__()
        self.gate = nn.Linear(width, 1) if gated else None

    def forward(self, tokens: Tokens) -> Fused:
        """Tokens (n d) → the same tokens, and (b d)."""
        means, there = by_modality(tokens)
        scores = self.gate(means).squeeze(2) if self.gate is not None else means.new_zeros(there.shape)
        return Fused(tokens, (_shares(scores, there)[:, :, None] * means).sum(1), tokens.lengths > 0)


class ProductFusion(Fusion):
    """Product of experts (MVAE, Wu & Goodman 2018): precise experts are heard more, one coordinate at a time.

    Each modality's vector gives the mean μ and log-variance of a Gaussian; the prior, N(0, 1), is an expert too. With T = 1 / σ²
    the product's mean is Σ T μ / (1 + Σ T): who lacks a modality lacks an expert, and who has nothing is left with the prior's mean.
    Nothing is drawn and no divergence is asked for: that would be an objective's.

    Args:
        width: d.
        modalities: that are experts.
    """

    def __init__(self, width: int, modalities: Sequence[Modality]) -> None:
        super().__init__()
        self.experts = own(modalities, lambda: nn.Linear(width, 2 * width))

    def forward(self, tokens: Tokens) -> Fused:
        """Tokens (n d) → the same tokens, and (b d)."""
        means, there = by_modality(tokens)
        mean, log_variance = _each(self.experts, means, there).chunk(2, dim=2)
        # T / (1 + Σ T) is a softmax over -log σ² beside the prior's 0, and does not overflow.
        log_precision = (-log_variance).masked_fill(~there[:, :, None], -torch.inf)
        prior = log_precision.new_zeros(len(there), 1, mean.shape[2])
        share = torch.softmax(torch.cat([prior, log_precision], 1), dim=1)[:, 1:]
        return Fused(tokens, (share * mean).sum(1), tokens.lengths > 0)


class StackingFusion(Fusion):
    """Stacking (Wolpert 1992; convex weights as in Breiman 1996): each modality's predictor, weighed by a number of its own.

    The predictors give vectors and not logits, so that the weights are pretrained with all else and serve every task: a task's
    head is linear, and what it says of the weighted mean is the weighted mean of what it says of each (but for its norm's scale). The
    weights are positive, sum to one over the modalities that the patient has, and do not see the patient, as a gate does. They
    are learned together with the predictors; Wolpert's are fitted to predictions for patients that those have not seen.

    Args:
        width: d.
        modalities: that have a predictor.
    """

    def __init__(self, width: int, modalities: Sequence[Modality]) -> None:
        super().__init__()
        self.predictors = own(modalities, lambda: nn.Linear(width, width))
        self.worth = nn.Parameter(torch.zeros(KINDS))

    def forward(self, tokens: Tokens) -> Fused:
        """Tokens (n d) → the same tokens, and (b d)."""
        means, there = by_modality(tokens)
        said = _each(self.predictors, means, there)
        shares = _shares(self.worth.expand(there.shape), there)
        return Fused(tokens, (shares[:, :, None] * said).sum(1), tokens.lengths > 0)


def _shares(scores: Tensor, there: Tensor) -> Tensor:
    """(b 9) softmax over the modalities that are there."""
    # Not -inf: of a patient without anything nine zeros are weighed alike, and nothing is divided by nothing.
    return torch.softmax(scores.masked_fill(~there, torch.finfo(scores.dtype).min), dim=1)


def _each(layers: nn.ModuleDict, means: Tensor, there: Tensor) -> Tensor:
    """What each modality's layer makes of its vectors: (b 9 d) → (b 9 e), zeros where there is none.

    Nine whichever have a layer: a sum over them has the same bits.
    """
    numbers = [Modality(name).number for name in layers]
    made = torch.stack([layer(means[:, n]) for n, layer in zip(numbers, layers.values(), strict=True)], 1).to(
        means.dtype
    )
    every = made.new_zeros(*there.shape, made.shape[2])
    return every.index_copy(1, torch.tensor(numbers, device=made.device), made) * there[:, :, None]
