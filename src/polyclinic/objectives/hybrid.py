"""Hybrid: any weighted sum of the others, which share the encoders' work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..schema import Batch, Losses, Modality
from ..tokens import Encoded
from .balance import Balance, Fixed, GradNorm, Uncertainty
from .caption import Caption
from .contrastive import Contrastive
from .generative import Masked
from .instruct import Instruct
from .language import CausalLanguage, MaskedLanguage
from .latent_diffusion import LatentDiffusion
from .local import Local
from .objective import Backbone, Objective, ObjectiveFields, Structure
from .promptable import Promptable
from .question import Question
from .retell import Retell
from .segmentation import SegmentationPart
from .self_distillation import Dino, Ibot
from .supervised import Supervised
from .symile import Symile
from .translation import Translation

Single = (
    Contrastive
    | Masked
    | MaskedLanguage
    | CausalLanguage
    | Instruct
    | Caption
    | Retell
    | SegmentationPart
    | Promptable
    | Supervised
    | Question
    | Local
    | Symile
    | Translation
    | LatentDiffusion
    | Dino
    | Ibot
)
"""What can be asked by itself: a new objective is one class and one line here."""
Part = Annotated[Single, Field(discriminator="kind")]


class Hybrid(ObjectiveFields):
    """Several objectives at once; each part has its own weight.

    Args:
        parts: what is asked.
        balance: by what a part's own weight is multiplied: "fixed", by nothing; "uncertainty", by a learned 1 / σ² (Kendall et al.
            2018); "gradnorm", so that the parts' gradients on the last weights that they share are balanced (Chen et al. 2018).
        alpha, rate: of GradNorm: how hard a part that lags is pulled, and how fast the weights move.
    """

    kind: Literal["hybrid"] = "hybrid"
    parts: tuple[Part, ...] = Field(min_length=1)
    balance: Literal["fixed", "uncertainty", "gradnorm"] = "fixed"
    alpha: float = Field(default=1.5, ge=0)
    rate: float = Field(default=0.025, gt=0)

    def named(self) -> set[Modality]:
        """Those of its parts."""
        return set().union(*(part.named() for part in self.parts))

    def labelled(self) -> dict[str, int | None]:
        """Those of its parts; of a task that several name the fewest patients'."""
        found: dict[str, int | None] = {}
        for part in self.parts:
            for task, count in part.labelled().items():
                known = [n for n in (count, found.get(task)) if n is not None]
                found[task] = min(known, default=None)
        return found

    def build(self, model: Backbone, structures: Mapping[str, Structure]) -> HybridObjective:
        """The module, with those of its parts."""
        return HybridObjective(self, model, structures)


def _called(number: int, part: Any) -> str:
    return f"{number}_{part.kind}"


def places(spec: Any) -> list[tuple[Any, str]]:
    """Each part of an objective, and what the names of its tensors begin with; one that has no parts is its own."""
    if not isinstance(spec, Hybrid):
        return [(spec, "")]
    return [(part, f"parts.{_called(n, part)}.") for n, part in enumerate(spec.parts)]


class HybridObjective(Objective):
    """The parts' terms together."""

    def __init__(self, spec: Hybrid, model: Backbone, structures: Mapping[str, Structure]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({_called(n, p): p.build(model, structures) for n, p in enumerate(spec.parts)})
        self.balance = self._balance(spec, list(self.parts))

    @staticmethod
    def _balance(spec: Hybrid, parts: list[str]) -> Balance:
        match spec.balance:
            case "uncertainty":
                return Uncertainty(parts)
            case "gradnorm":
                return GradNorm(parts, spec.alpha, spec.rate)
        return Fixed()

    def _each(self) -> dict[str, Objective]:
        return {name: part for name, part in self.parts.items() if isinstance(part, Objective)}

    def forward(
        self, model: Backbone, batch: Batch, generator: torch.Generator, tokens: Encoded | None = None
    ) -> Losses:
        """Every part's terms; what several of them read is encoded once. The second of two terms of one name bears its part's number.

        With "uncertainty" there is a term `uncertainty/part` for each part that speaks.
        """
        parts = self._each()
        tokens = model.encode(batch) if tokens is None else tokens
        asked = {name: part(model, batch, generator, tokens) for name, part in parts.items()}
        totals = {name: total for name, losses in asked.items() if (total := losses.total) is not None}
        share = 1.0
        if self.balance.measures:  # whether or not any part speaks here: all processes sum together
            at = next((ragged.patient.device for ragged in batch.payloads.values()), generator.device)
            share = len(batch.patients) / float(model.summed(torch.tensor([float(len(batch.patients))], device=at)))
        factors = self.balance(totals, model.shared, share, model.world)
        terms: dict[str, Tensor] = {}
        weights: dict[str, float | Tensor] = {}
        for number, (part, losses) in enumerate(asked.items()):
            for name, term in losses.terms.items():
                free = name if name not in terms else f"{name} ({number})"
                terms[free], weights[free] = term, losses.weights[name] * factors[part]
            if losses.terms and (added := self.balance.added(part)) is not None:
                terms[f"uncertainty/{part}"], weights[f"uncertainty/{part}"] = added, 1.0
        return Losses(terms, weights)

    def begun(self, model: Backbone) -> None:
        """What its parts keep a copy of."""
        for part in self._each().values():
            part.begun(model)

    def stepped(self, model: Backbone, done: float) -> None:
        """What its parts and the balance keep moves."""
        for part in self._each().values():
            part.stepped(model, done)
        self.balance.stepped()
