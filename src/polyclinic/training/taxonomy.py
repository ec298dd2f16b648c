"""Where a recipe stands in the field's taxonomy: told by what it is made of, never by what it is called.

The axes are those by which surveys of medical multimodal foundation models order the field: the dimensions of what is seen, the proxy
task, vision only or vision–language, one trunk or two towers, and how modalities meet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..schema import Modality
from .recipe import Recipe, parts

ProxyTask = Literal["segmentation", "generative", "contrastive", "supervised", "hybrid"]

ASKS: dict[str, tuple[ProxyTask, ...]] = {
    "segmentation": ("segmentation",), "promptable": ("segmentation",),
    "masked": ("generative",), "masked_language": ("generative",), "causal_language": ("generative",), "caption": ("generative",),
    "instruct": ("generative",), "retell": ("generative",), "translation": ("generative",), "latent_diffusion": ("generative",),
    "contrastive": ("contrastive",), "local": ("contrastive",), "symile": ("contrastive",), "dino": ("contrastive",),
    "ibot": ("contrastive", "generative"), "supervised": ("supervised",), "question": ("supervised",),
}  # fmt: skip
"""What each kind of objective asks. Self-distillation compares views of one record, and stands with the contrastive ones although it
has no negatives; iBOT compares views and asks for hidden tokens. What labels
of whole patients ask is "supervised", which has no cell of its own."""

DIMENSIONS: dict[Modality, str] = {
    Modality.IMAGE: "2-D", Modality.SLIDE: "2-D", Modality.VOLUME: "3-D", Modality.VIDEO: "2-D + t",
}  # fmt: skip
"""Of what is seen; the other modalities have none."""
CELLS: tuple[tuple[str, ProxyTask], ...] = tuple(
    (dimension, proxy)
    for dimension in ("2-D", "3-D")
    for proxy in ("segmentation", "generative", "contrastive", "hybrid")
)
"""Which the shipped recipes fill, every one."""


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """A recipe's place.

    Args:
        dimensions: of what is seen: "2-D", "3-D", "2-D + t"; none where nothing is.
        proxy: what pretraining asks; "hybrid" where objectives of several families are asked, at once or one stage after the other.
        asks: the families, in that order.
        stream: "vision", "language", "vision–language" or "other", by which of the two there are; tables, signals and others beside.
        assembly: "two towers" or "unified"; "one encoder" where there is nothing to assemble.
        fusion: how modalities meet, such as "intermediate (self_attention)"; "none" for one encoder.
    """

    dimensions: tuple[str, ...]
    proxy: ProxyTask
    asks: tuple[str, ...]
    stream: str
    assembly: str
    fusion: str

    @property
    def cells(self) -> tuple[tuple[str, ProxyTask], ...]:
        """(dimension, proxy task), one for each dimension."""
        return tuple((dimension, self.proxy) for dimension in self.dimensions)

    def __str__(self) -> str:
        where = " and ".join(self.dimensions) or "no pictures"
        return f"{where}, {self.proxy}; {self.stream}; {self.assembly}, fusion {self.fusion}"


def taxonomy(recipe: Recipe) -> Taxonomy:
    """Where a recipe stands; of segmentation, the dimensions of what is masked, of every other task those of what is read."""
    objectives = [part for stage in recipe.stages for part in parts(stage.objective)]
    asks = set[ProxyTask]().union(*(ASKS[part.kind] for part in objectives))
    proxy: ProxyTask = next(iter(asks)) if len(asks) == 1 else "hybrid"
    alone = len(recipe.encoders) == 1
    fusion = recipe.model.fusion
    style = f" ({fusion.style})" if hasattr(fusion, "style") else ""  # type: ignore[union-attr]
    return Taxonomy(
        _dimensions(recipe, objectives, proxy), proxy, tuple(sorted(asks)), _stream(recipe),
        "one encoder" if alone else {"two_tower": "two towers"}.get(recipe.model.kind, recipe.model.kind),
        "none" if alone else f"{fusion.kind}{style}",
    )  # fmt: skip


def _dimensions(recipe: Recipe, objectives: list[Any], proxy: ProxyTask) -> tuple[str, ...]:
    seen = set(recipe.encoders)
    if proxy == "segmentation":
        named = [n for part in objectives for n in (part.tasks if part.kind == "promptable" else (part.task,))]
        seen = {Modality(getattr(recipe.tasks[name], "modality")) for name in named}  # noqa: B009
    return tuple(dict.fromkeys(DIMENSIONS[m] for m in Modality if m in seen and m in DIMENSIONS))


def _stream(recipe: Recipe) -> str:
    vision, language = any(m in DIMENSIONS for m in recipe.encoders), Modality.TEXT in recipe.encoders
    return {(True, True): "vision–language", (True, False): "vision", (False, True): "language"}.get(
        (vision, language), "other"
    )
