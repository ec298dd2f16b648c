"""Captioning: a patient's notes are written from the patient's other records (CoCa, Yu et al. 2022; SimVLM, Wang et al. 2022).

other modalities ── encoders ── [attentional pooling] ──────┐ cross-attention
note ── gpt or llama encoder (causal, shared with the contrast) ── Transformer ── next words      CoCa
note ── a decoder of its own ─────────────────────────────────── Transformer ── next words      where the encoder reads both ways

With `earlier` the decoder is shown what was known when the note was written (`reported`): its study, and of earlier records, reports among
them, what the recipe asks for. A note of somebody without any is written by the same network from the study alone.

A note is read once for both. The contrast takes a class token at the note's end where the encoder has one (`class_token: true`, the
paper's; the multimodal half has the words alone, section 3.2), else the mean of the note's words, as of every record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..fusion import FusionFields
from ..schema import Batch, Losses, Modality, Ragged, Tokens
from ..tokens import Context, Encoded, EncoderFields, Layout, Style, TextEncoder, Transformer, frozen, join
from ..tokens.attention import CrossAttention
from ..tokens.packing import with_values
from .language import END, Reading, first_word, next_words, words_of
from .objective import Backbone, DecoderFields, Objective, Structure
from .reported import Reports, Window, due, known, written
from .words import GREEDY, UNTOLD, Sampling, Seen, WordDecoder, Writing


class Caption(DecoderFields):
    """Which modalities a note is written from, and by what.

    Args:
        modalities: that are shown; None for all of the model's but text.
        earlier: modalities of whose records from before the study those are shown too, text for earlier reports. Then each note is
            written from what is dated at its time or before, of `modalities` from its study alone; none: from nothing earlier. None for
            all records whatever their time.
        study_h: how many hours before its note a study begins, where `earlier` is told.
        queries: learned queries a patient that look at what is shown in the decoder's stead (CoCa's attentional pooling); 0 for
            none: the decoder sees every token.
        width, depth, heads: of the decoder.
        weight: in a hybrid objective.
    """

    kind: Literal["caption"] = "caption"
    modalities: tuple[Modality, ...] | None = None
    earlier: tuple[Modality, ...] | None = None
    study_h: float = Field(default=24.0, gt=0)
    queries: int = Field(default=0, ge=0)
    weight: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _other(self) -> Caption:
        if self.modalities is not None and Modality.TEXT in self.modalities:
            raise ValueError(
                "a note is written from other records than notes of its time: leave text out of `modalities`; earlier notes are shown by "
                "`earlier: [text]`"
            )
        return self

    def named(self) -> set[Modality]:
        """Text, and those that are shown."""
        return {Modality.TEXT, *(self.modalities or ()), *(self.earlier or ())}

    def window(self, modalities: Sequence[Modality]) -> Window | None:
        """What of a patient's records is shown, of a model's modalities; None where time is not asked for."""
        if self.earlier is None:
            return None
        study = modalities if self.modalities is None else self.modalities
        return Window(frozenset(study) - {Modality.TEXT}, frozenset(self.earlier), self.study_h)

    def fits(self, encoders: Mapping[Modality, EncoderFields], width: int, fusion: FusionFields) -> None:
        """The heads that look divide the fusion's width."""
        if self.queries and width % self.heads:
            raise ValueError(
                f"caption: {self.heads} heads do not divide the model's width of {width}, in which its queries look"
            )

    def build(self, model: Backbone, structures: Mapping[str, Structure]) -> CaptionObjective:
        """The module, with its decoder."""
        return CaptionObjective(self, model)


class AttentionalPool(nn.Module):
    """Learned queries look at each patient's tokens: (m d) → (q d) a patient who has any (Lee et al. 2019; CoCa, section 3.2)."""

    def __init__(self, width: int, queries: int, heads: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, width) * 0.1)
        self.look, self.norm = CrossAttention(width, width, heads), nn.LayerNorm(width)

    def forward(self, tokens: Tokens) -> Seen:
        """A patient's tokens → as many as there are queries."""
        who = torch.nonzero(tokens.lengths > 0).flatten().repeat_interleave(len(self.queries))
        asking = self.queries.repeat(len(who) // len(self.queries), 1)
        return Seen(self.norm(self.look(asking, Context.of(who, tokens.values, tokens.patient))), who)


class OnTop(nn.Module):
    """CoCa's multimodal half: it goes on from the causal text encoder's tokens, and its words are the encoder's."""

    def __init__(self, encoder: TextEncoder, spec: Caption, context: int) -> None:
        super().__init__()
        self.enter = nn.Linear(encoder.width, spec.width)
        style = Style(activation="gelu_tanh", causal=True)
        self.blocks = Transformer(spec.width, spec.depth, spec.heads, style=style, context=context)
        self.leave = nn.Linear(spec.width, encoder.answer_size, bias=False)

    def forward(self, tokens: Tokens, seen: Seen, asked: Tensor) -> Tensor:
        """The causal encoder's tokens (n c) → logits (k v) of those that are asked for, (n,) bool."""
        context = Context.of(tokens.patient, seen.values, seen.group)
        return self.leave(self.blocks(self.enter(tokens.values), Layout.of(tokens.record), context=context)[asked])

    def write(
        self, encoder: TextEncoder, begin: list[Tensor], seen: Seen, who: Tensor, writing: Writing, draw: Callable[[Tensor], Tensor]
    ) -> list[Tensor]:  # fmt: skip
        """A note of each of the patients who (s,), from its first word (1,) in `begin`."""
        rows, memory = torch.arange(len(who), device=who.device), self.blocks.memory()
        hours = torch.zeros(len(rows), device=who.device)
        of = lambda rows: (
            Layout.each(len(rows), who.device),
            Context.of(who[rows], seen.values, seen.group, together=True),
        )
        with frozen(self, encoder):
            reading = Reading(encoder, Ragged(begin, rows, hours, None, len(rows), [str(n) for n in rows.tolist()]))
            layout, context = of(rows)
            while True:
                hidden = self.blocks(self.enter(reading.last), layout, context=context, memory=memory)
                going = writing.add(draw(self.leave(hidden)))
                if going is None:
                    return writing.texts
                if len(going) < len(rows):
                    memory.keep(going)
                    rows = rows[going]
                    layout, context = of(rows)
                reading.on(going, writing.last)


class CaptionObjective(Objective):
    """The decoder, and what it is shown."""

    def __init__(self, spec: Caption, model: Backbone) -> None:
        super().__init__()
        encoder = words_of(model, "a caption")
        self.spec = spec
        self.pool = AttentionalPool(model.width, spec.queries, spec.heads) if spec.queries else None
        self.decoder: nn.Module
        if encoder.causal and model.own_trunks:
            self.decoder = OnTop(encoder, spec, model.width)
        else:
            self.decoder = WordDecoder(
                encoder.answer_size, spec.width, spec.depth, spec.heads, places=encoder.longest, context=model.width
            )
        # The hour alone is a small part of a token: an earlier record is marked, as a modality is.
        self.before = nn.Parameter(torch.randn(model.width) * 0.1) if spec.earlier else None

    def shown(self, tokens: Encoded) -> Tokens | None:
        """Of a batch's tokens those that a note is written from; None where nobody has any."""
        wanted = [m for m in Modality if m in tokens and self._shows(m)]
        if not wanted:
            return None
        shown = join([tokens[m] for m in wanted])
        if self.before is None:
            return shown
        earlier = (shown.time_h < -self.spec.study_h)[:, None]
        return with_values(shown, shown.values + self.before * earlier)

    def _shows(self, modality: Modality) -> bool:
        if modality in (self.spec.earlier or ()):
            return True
        return modality is not Modality.TEXT and (self.spec.modalities is None or modality in self.spec.modalities)

    def told(self, model: Backbone, batch: Batch, reports: Reports | None = None, earlier: bool = True) -> Batch:
        """What a note is written from: of each patient, or with `earlier` of each report, no other records than these.

        Args:
            model: that was trained with it.
            batch: b patients.
            reports: when they are written; None, or no time, for one of the patient's latest study, at its time.
            earlier: whether what was before the study is shown, where the specification has it.
        """
        window = self.spec.window(model.modalities)
        if window is None:
            return Batch({m: r for m, r in batch.payloads.items() if self._shows(m)}, {}, batch.patients)
        window = window if earlier else replace(window, earlier=frozenset())
        now = due(batch, window.study)
        return known(batch, now if reports is None else reports.or_else(now), window)

    def seen(self, tokens: Tokens) -> Seen:
        """What of them the decoder sees."""
        return self.pool(tokens) if self.pool is not None else Seen(tokens.values, tokens.patient)

    def forward(
        self, model: Backbone, batch: Batch, generator: torch.Generator, tokens: Encoded | None = None
    ) -> Losses:
        """The term `caption/text`, cross-entropy of the next words in nats: of the notes of patients who are shown anything."""
        ragged = batch.payloads.get(Modality.TEXT)
        if self.spec.earlier is not None:
            # What others read of the batch has what came after the note: nothing of that is read here.
            reports, ragged = written(batch)
            batch = self.told(model, batch, reports)
            tokens = None
        if ragged is None:
            return Losses({}, {})
        tokens = model.encode(batch) if tokens is None else tokens
        shown, longest = self.shown(tokens), words_of(model, "a caption").longest
        wanted = next_words(ragged.values, longest)
        if shown is not None:
            told = torch.tensor([len(text) for text in ragged.values], device=wanted.device)
            wanted = wanted.where((shown.lengths > 0)[ragged.patient].repeat_interleave(told), UNTOLD)
        if shown is None or not bool((wanted != UNTOLD).any()):
            return Losses({}, {})
        seen = self.seen(shown)
        if isinstance(self.decoder, OnTop):
            asked = wanted != UNTOLD
            own = (
                tokens
                if self.spec.earlier is None
                else model.encode(Batch({Modality.TEXT: ragged}, {}, batch.patients))
            )
            logits = self.decoder(own.own(Modality.TEXT), seen, asked)
            term = F.cross_entropy(logits.float(), wanted[asked])
        else:
            assert isinstance(self.decoder, WordDecoder)
            texts = list(ragged.values)
            term = self.decoder.loss(texts, Seen(seen.values, seen.group, ragged.patient), wanted)
        return Losses({"caption/text": term}, {"caption/text": self.spec.weight})

    @torch.no_grad()
    def write(
        self, model: Backbone, batch: Batch, most: int, language: str | None = None, sampling: Sampling = GREEDY,
        generator: torch.Generator | None = None, reports: Reports | None = None,
        earlier: bool = True,
    ) -> dict[int, Tensor]:  # fmt: skip
        """A note of each patient who is shown anything; what notes the batch has are not read, but for earlier ones with `earlier`.

        Args:
            model: that was trained with it.
            batch: b patients.
            most: words a note; no more than the text encoder reads.
            language: one that the text encoder has a word for; None begins as a note whose language nobody knows.
            sampling, generator: of the draws.
            reports, earlier: when they are written, one of each patient, and whether what was before is shown; see `told`.
        Returns:
            of each of the batch's patients, by number, (w,) word numbers without the first and the end.
        Raises:
            ObjectiveError: the encoder has no word for the language.
        """
        encoder = words_of(model, "a caption")
        first, shown = (
            first_word(encoder, language),
            self.shown(model.encode(self.told(model, batch, reports, earlier))),
        )
        if shown is None:
            return {}
        seen = self.seen(shown)
        who = torch.nonzero(shown.lengths > 0).flatten()
        most = min(most, encoder.longest - 1)
        begin = [torch.tensor([first], device=who.device)] * len(who)
        if isinstance(self.decoder, WordDecoder):
            texts = self.decoder.generate(begin, END, most, Seen(seen.values, seen.group, who), sampling, generator)
        else:
            assert isinstance(self.decoder, OnTop)
            writing = Writing(len(who), most, END, who.device)
            draw = lambda logits: sampling.draw(logits, generator, writing.said)
            texts = self.decoder.write(encoder, begin, seen, who, writing, draw)
        return dict(zip(who.tolist(), texts, strict=True))
