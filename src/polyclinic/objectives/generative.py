"""Generative: hide most of a record's tokens and ask for what they held (He et al. 2022; for words, Devlin et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ..schema import Batch, Losses, Modality, Tokens
from ..tokens import select
from .decoders import PatchDecoder


class Masked(BaseModel):
    """Masked reconstruction.

    Args:
        modalities: whose tokens are hidden; None for all of the model's but tables, whose events have no place to ask for.
        ratio: the share that is hidden; words are hidden at half of it.
        width, depth, heads: of the decoders.
        weight: in a hybrid objective.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["masked"] = "masked"
    modalities: tuple[Modality, ...] | None = None
    ratio: float = Field(default=0.6, gt=0, lt=1)
    width: int = Field(default=64, ge=8)
    depth: int = Field(default=1, ge=1)
    heads: int = Field(default=2, ge=1)
    weight: float = Field(default=1.0, ge=0)

    def named(self) -> set[Modality]:
        """Those it names."""
        return set(self.modalities or ())

    def build(self, model: Any, classes: Mapping[str, int]) -> MaskedObjective:
        """The module, with a decoder a modality."""
        return MaskedObjective(self, model)


def keep_some(record: Tensor, ratio: float, generator: torch.Generator) -> Tensor:
    """Which tokens stay: of each record (1 - ratio) of them at random, at least one.

    Args:
        record: (n,) ascending.
        ratio: the share that goes.
        generator: of the draw.
    Returns:
        (n,) bool
    """
    _, counts = torch.unique_consecutive(record, return_counts=True)
    group = torch.arange(len(counts), device=record.device).repeat_interleave(counts)
    order = torch.argsort(
        group.double() + torch.rand(len(record), generator=generator, dtype=torch.float64).to(record.device)
    )
    rank = torch.empty_like(order)
    starts = torch.cumsum(counts, 0) - counts
    rank[order] = torch.arange(len(record), device=record.device) - starts[group]
    stay = ((1 - ratio) * counts).round().clamp(min=1)
    return rank < stay[group]


class MaskedObjective(nn.Module):
    """A decoder a modality; each gives a term."""

    def __init__(self, spec: Masked, model: Any) -> None:
        super().__init__()
        self.spec, self.decoders = spec, nn.ModuleDict()
        for modality in model.modalities:
            encoder = model.encoder(modality)
            wanted = modality in spec.modalities if spec.modalities is not None else modality is not Modality.TABLE
            if wanted and encoder.answer_size:
                scale = tuple(encoder.position.scale.tolist())
                self.decoders[modality.value] = PatchDecoder(
                    encoder.width, encoder.answer_size, spec.width, spec.depth, spec.heads, scale
                )

    def forward(
        self, model: Any, batch: Batch, generator: torch.Generator, tokens: Mapping[Modality, Tokens] | None = None
    ) -> Losses:
        """The terms `masked/modality`; `tokens` of whole records are of no use here."""
        found: dict[str, Tensor] = {}
        for name, decoder in self.decoders.items():
            modality = Modality(name)
            if modality in batch.payloads:
                term = self._term(model.encoder(modality), decoder, batch, modality, generator)
                if term is not None:
                    found[f"masked/{name}"] = term
        share = self.spec.weight / max(len(found), 1)
        return Losses(found, dict.fromkeys(found, share))

    def _term(
        self, encoder: Any, decoder: nn.Module, batch: Batch, modality: Modality, generator: torch.Generator
    ) -> Tensor | None:
        ragged = batch.payloads[modality]
        every = encoder.embed(ragged)
        words = encoder.answer_kind == "categorical"
        keep = keep_some(every.record, self.spec.ratio / 2 if words else self.spec.ratio, generator)
        if bool(keep.all()):
            return None
        answers = decoder(every, encoder.trunk(select(every, keep)), keep).float()
        wanted = encoder.answer(ragged)[~keep]
        if words:
            return F.cross_entropy(answers, wanted)
        known = torch.isfinite(wanted)
        return ((answers - torch.where(known, wanted, 0.0)) ** 2)[known].mean()
