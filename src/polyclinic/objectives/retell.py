"""Retelling: a note is written from its own vector, so that at use any record whose vector lies in the same space is written of.

note ── text encoder ── unit vector ── + noise, to unit length ── k context tokens ──┐ cross-attention
note ── [es] and its words ──────────────────────────────────────── Transformer ── next words
image, volume … ── encoder ── unit vector ── k context tokens ─── (at use, without noise)

Learned of text alone (CapDec, Nukrai et al. 2022; of several languages M3FM, Liu et al. 2025): no pair of a record and a note is asked
for. The noise makes a ball of each note's point, for a record's vector lies near its note's and not on it (their section 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..schema import Batch, Losses, Modality, Tokens
from ..tokens import compared
from .embeddings import by_record
from .language import END, first_word, next_words, words_of
from .objective import Backbone, DecoderFields, Objective, Structure
from .words import GREEDY, Sampling, Seen, WordDecoder


class Retell(DecoderFields):
    """How a note is written from its vector.

    Args:
        noise: root of the mean square length of the Gaussian noise, over the vector's, which is 1; the sum is brought back to unit
            length. CapDec's variance of 0.016 a number (section 4) is 2.9 of 512 numbers; the gap that it bridges is
            narrower where the model takes each modality's mean off (`model.centre`).
        tokens: k that the decoder sees the vector as.
        width, depth, heads: of the decoder.
        teach: whether the encoder learns from it; a decoder after a stage that aligned everything leaves that as it is.
        weight: in a hybrid objective.
    """

    kind: Literal["retell"] = "retell"
    noise: float = Field(default=1.0, ge=0)
    tokens: int = Field(default=4, ge=1)
    teach: bool = False
    weight: float = Field(default=1.0, ge=0)

    def named(self) -> set[Modality]:
        """Text."""
        return {Modality.TEXT}

    def build(self, model: Backbone, structures: Mapping[str, Structure]) -> RetellObjective:
        """The module, with its decoder."""
        return RetellObjective(self, model)


class RetellObjective(Objective):
    """The decoder, and what makes of a vector what it sees."""

    def __init__(self, spec: Retell, model: Backbone) -> None:
        super().__init__()
        encoder, width = words_of(model, "retelling"), spec.width
        self.spec = spec
        self.spread = nn.Sequential(
            nn.Linear(model.embedding, width), nn.GELU(), nn.Linear(width, spec.tokens * width),
            nn.Unflatten(1, (spec.tokens, width)), nn.LayerNorm(width),
        )  # fmt: skip
        self.decoder = WordDecoder(
            encoder.answer_size, width, spec.depth, spec.heads, places=encoder.longest, context=width
        )

    def seen(self, vectors: Tensor) -> Seen:
        """(p e) unit vectors → k context tokens of each of p texts."""
        tokens = self.spread(vectors)
        of = torch.arange(len(tokens), device=tokens.device).repeat_interleave(tokens.shape[1])
        return Seen(tokens.flatten(0, 1), of)

    def forward(
        self, model: Backbone, batch: Batch, generator: torch.Generator, tokens: Mapping[Modality, Tokens] | None = None
    ) -> Losses:
        """The term `retell/text`, cross-entropy of the next words in nats."""
        ragged = batch.payloads.get(Modality.TEXT)
        if ragged is None:
            return Losses({}, {})
        with torch.set_grad_enabled(self.spec.teach and torch.is_grad_enabled()):
            if tokens is None:
                tokens = model.encode(Batch({Modality.TEXT: ragged}, {}, batch.patients))
            vectors = model.towers({Modality.TEXT: by_record(compared(tokens)[Modality.TEXT])})[Modality.TEXT].vectors
        draw = torch.randn(vectors.shape, generator=generator, device=generator.device).to(vectors.device)
        vectors = F.normalize(vectors + draw * (self.spec.noise / vectors.shape[1] ** 0.5), dim=1)
        texts = list(ragged.values)
        term = self.decoder.loss(texts, self.seen(vectors), next_words(texts, words_of(model, "retelling").longest))
        return Losses({"retell/text": term}, {"retell/text": self.spec.weight})

    @torch.no_grad()
    def write(
        self, model: Backbone, batch: Batch, most: int, language: str | None = None,
        modalities: Sequence[Modality] | None = None, sampling: Sampling = GREEDY, generator: torch.Generator | None = None,
    ) -> dict[int, Tensor]:  # fmt: skip
        """A note of each patient who has any of the modalities, in a language.

        Args:
            model: that was trained with it.
            batch: b patients.
            most: words a note; no more than the text encoder reads.
            language: one that the text encoder has a word for; None begins as a note whose language nobody knows.
            modalities: whose vectors are written of, their mean where a patient has several; None for all but text. Text among
                them is translated.
            sampling, generator: of the draws.
        Returns:
            of each of the batch's patients who is written of, by number, (w,) word numbers without the first and the end.
        Raises:
            ObjectiveError: the encoder has no word for the language.
        """
        encoder = words_of(model, "retelling")
        first = first_word(encoder, language)
        wanted = [m for m in model.modalities if (m is not Modality.TEXT if modalities is None else m in modalities)]
        shown = {m: ragged for m, ragged in batch.payloads.items() if m in wanted}
        vectors, who = _mean(model, Batch(shown, {}, batch.patients))
        if not len(who):
            return {}
        begin = [torch.tensor([first], device=who.device)] * len(who)
        most = min(most, encoder.longest - 1)
        texts = self.decoder.generate(begin, END, most, self.seen(vectors), sampling, generator)
        return dict(zip(who.tolist(), texts, strict=True))


def _mean(model: Backbone, batch: Batch) -> tuple[Tensor, Tensor]:
    """(p e) the unit mean of each patient's vectors over the batch's modalities, and (p,) whose they are, ascending."""
    towers = list(model.towers(model.encode(batch)).values())
    if not towers:
        return torch.zeros(0, model.embedding), torch.zeros(0, dtype=torch.int64)
    who, row = torch.unique(torch.cat([tower.patient for tower in towers]), return_inverse=True)
    vectors = torch.cat([tower.vectors for tower in towers])
    total = vectors.new_zeros(len(who), vectors.shape[1]).index_add_(0, row, vectors)
    return F.normalize(total, dim=1), who
