"""Intermediate fusion: every modality through its own encoder, then the tokens of a patient meet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from ..schema import Modality
from .bottleneck import BottleneckFusion
from .cross_attention import CrossAttentionFusion
from .fusion import Fusion, FusionFields
from .perceiver import PerceiverFusion
from .self_attention import SelfAttentionFusion

LATENTS = 8
WITH_LATENTS = ("class_tokens", "bottleneck", "perceiver")


class Intermediate(FusionFields):
    """How the tokens meet.

    Args:
        style: "self_attention": all tokens see each other in one trunk and their mean answers (merged attention: Dou et al. 2022);
            "class_tokens": learned tokens join each patient's there and answer for them, as BERT's [CLS] does (Devlin et al. 2019);
            "cross_attention": each modality in a trunk of its own looks at the others' tokens (Lu et al. 2019);
            "bottleneck": each in a trunk of its own, and a few learned tokens carry between them (Nagrani et al. 2021);
            "perceiver": learned latents read the tokens and answer; the tokens stay as they are (Jaegle et al. 2021).
        depth: blocks of a trunk.
        heads: of attention.
        latents: learned tokens a patient, of the three styles that have some; 8 where nothing is said.
    Raises:
        ValueError: latents of a style without, or a bottleneck of one block.
    """

    kind: Literal["intermediate"] = "intermediate"
    style: Literal["self_attention", "class_tokens", "cross_attention", "bottleneck", "perceiver"] = "self_attention"
    depth: int = Field(default=2, ge=1)
    heads: int = Field(default=4, ge=1)
    latents: int | None = Field(default=None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _default_latents(cls, data: Any) -> Any:
        """Written out in the run's recipe: a later default changes no run of before."""
        if isinstance(data, dict) and data.get("style") in WITH_LATENTS and data.get("latents") is None:
            return {**data, "latents": LATENTS}
        return data

    @model_validator(mode="after")
    def _fits(self) -> Intermediate:
        if self.latents is not None and self.style not in WITH_LATENTS:
            raise ValueError(
                f"{self.latents} latents, and {self.style} has none ({', '.join(WITH_LATENTS)} have); leave it out"
            )
        if self.style == "bottleneck" and self.depth < 2:
            raise ValueError(
                "a bottleneck of depth 1: what is written into it in one block is read in the next; at least 2"
            )
        return self

    def build(self, width: int, modalities: Sequence[Modality]) -> Fusion:
        """The module, freshly initialised."""
        latents = self.latents or LATENTS
        match self.style:
            case "cross_attention":
                return CrossAttentionFusion(width, self.depth, self.heads, modalities)
            case "bottleneck":
                return BottleneckFusion(width, self.depth, self.heads, latents, modalities)
            case "perceiver":
                return PerceiverFusion(width, self.depth, self.heads, latents)
            case style:
                return SelfAttentionFusion(width, self.depth, self.heads, latents if style == "class_tokens" else 0)
