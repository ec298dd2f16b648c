"""Generative: hide most of a record's tokens and ask for what they held (He et al. 2022; for words, Devlin et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..schema import Batch, Losses, Modality, Tokens
from ..tokens import Encoder, select
from .decoders import PatchDecoder
from .objective import Backbone, DecoderFields, Objective, ObjectiveError, Structure


class Masked(DecoderFields):
    """Masked reconstruction.

    Args:
        modalities: whose tokens are hidden; None for all of the model's but tables, whose events have no place to ask for.
        ratio: the share that is hidden; words are hidden at half of it.
        context: what a hidden token is answered from: its "record"'s visible tokens, or all of its "patient"'s, of every
            modality, through the fusion (MultiMAE, Bachmann et al. 2022). Early fusion has no other trunk: there it is "patient".
        width, depth, heads: of the decoders.
        weight: in a hybrid objective.
    """

    kind: Literal["masked"] = "masked"
    modalities: tuple[Modality, ...] | None = None
    ratio: float = Field(default=0.6, gt=0, lt=1)
    context: Literal["record", "patient"] = "record"
    width: int = Field(default=64, ge=8)
    depth: int = Field(default=1, ge=1)
    heads: int = Field(default=2, ge=1)
    weight: float = Field(default=1.0, ge=0)

    def named(self) -> set[Modality]:
        """Those whose tokens are hidden."""
        return set(self.modalities or ())

    def build(self, model: Backbone, structures: Mapping[str, Structure]) -> MaskedObjective:
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
    draw = torch.rand(len(record), generator=generator, device=generator.device, dtype=torch.float64)
    order = torch.argsort(group.double() + draw.to(record.device))
    rank = torch.empty_like(order)
    starts = torch.cumsum(counts, 0) - counts
    rank[order] = torch.arange(len(record), device=record.device) - starts[group]
    stay = ((1 - ratio) * counts).round().clamp(min=1)
    return rank < stay[group]


class MaskedObjective(Objective):
    """A decoder a modality; each gives a term."""

    def __init__(self, spec: Masked, model: Backbone) -> None:
        super().__init__()
        self.spec, self.decoders = spec, nn.ModuleDict()
        for modality in model.modalities:
            encoder = model.encoder(modality)
            wanted = modality in spec.modalities if spec.modalities is not None else modality is not Modality.TABLE
            if wanted and encoder.answer_size:
                x, y, z, s = encoder.position.scale.tolist()
                self.decoders[modality.value] = PatchDecoder(
                    model.width, encoder.answer_size, spec.width, spec.depth, spec.heads, (x, y, z, s)
                )
        if not self.decoders:
            raise ObjectiveError(
                "a masked reconstruction of which no encoder has an answer",
                "an encoder whose tokens can be asked for: a pretrained network's cannot",
                "name other `modalities`, or take another objective",
            )

    def forward(
        self, model: Backbone, batch: Batch, generator: torch.Generator, tokens: Mapping[Modality, Tokens] | None = None
    ) -> Losses:
        """The terms `masked/modality`; of `tokens`, only those of modalities that are not hidden are of use here."""
        hidden = [Modality(name) for name in self.decoders if Modality(name) in batch.payloads]
        every = {m: model.encoder(m).embed(batch.payloads[m]) for m in hidden}
        # A modality's draw does not depend on which others there are.
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        keep = {m: self._keep(model.encoder(m), every[m], seed + m.number) for m in hidden}
        seen = {m: model.bridged(m, model.encoder(m).trunk(select(every[m], keep[m]))) for m in hidden}
        if self.spec.context == "patient" or not model.own_trunks:
            seen = self._fused(model, batch, seen, tokens)
        found: dict[str, Tensor] = {}
        for m in hidden:
            if not bool(keep[m].all()):
                answers = self.decoders[m.value](every[m], seen[m], keep[m])
                found[f"masked/{m}"] = answer_loss(
                    model.encoder(m), answers.float(), model.encoder(m).answer(batch.payloads[m])[~keep[m]]
                )
        share = self.spec.weight / max(len(found), 1)
        return Losses(found, dict.fromkeys(found, share))

    def _keep(self, encoder: Encoder, every: Tokens, seed: int) -> Tensor:
        ratio = self.spec.ratio / 2 if encoder.answer_kind == "categorical" else self.spec.ratio
        return keep_some(every.record, ratio, torch.Generator().manual_seed(seed))

    @staticmethod
    def _fused(
        model: Backbone, batch: Batch, seen: Mapping[Modality, Tokens], tokens: Mapping[Modality, Tokens] | None
    ) -> dict[Modality, Tokens]:
        """The visible tokens after the fusion, beside those of the modalities that are not hidden."""
        rest = [m for m in model.modalities if m in batch.payloads and m not in seen]
        whole = tokens or {m: model.bridged(m, model.encoder(m)(batch.payloads[m])) for m in rest}
        fused = model.fuse({**seen, **{m: whole[m] for m in rest}}, len(batch.patients)).tokens
        return {m: select(fused, fused.modality == m.number) for m in seen}


def answer_loss(encoder: Encoder, answers: Tensor, wanted: Tensor) -> Tensor:
    """How far answers (n p) are off: cross-entropy of categories (n,), mean square of numbers (n p) where they are known."""
    if encoder.answer_kind == "categorical":
        return F.cross_entropy(answers, wanted)
    known = torch.isfinite(wanted)
    return ((answers - torch.where(known, wanted, 0.0)) ** 2)[known].mean()
