"""Instruction tuning: an answer's words from an instruction, both of them records of one patient (FLAN, Wei et al. 2022).

    [CLS]  before  instruction  after  [MASK]  answer  [PAD]
    └────────────── read, not asked for ─────┘ └─ asked for ─┘

A reader that goes from the first word to the last hides none: the word for a hidden one is free to say that the answer begins, as
the word for padding is to say that it ends. The loss is of the answer's words alone, as Alpaca's is (Taori et al. 2023).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor

from ..harmonise.text import MASK
from ..schema import Batch, Losses, Modality, Ragged, Tokens
from ..tokens import frozen
from .language import END, LanguageFields, Reading, next_word_loss, words_of
from .objective import Backbone, Objective, ObjectiveError, Structure
from .words import GREEDY, UNTOLD, Sampling, Writing

ANSWER = MASK
"""The answer begins."""
TEXT = "{text}"


class Pair(BaseModel):
    """What is an instruction, and what its answer.

    Args:
        instruction, answer: the kinds of two text records of a patient at one time.
        prompt: what is said around the instruction, in whose place stands `{text}`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    instruction: str
    answer: str
    prompt: str = TEXT

    @field_validator("prompt")
    @classmethod
    def _once(cls, prompt: str) -> str:
        if prompt.count(TEXT) != 1:
            raise ValueError(f"{prompt.count(TEXT)} times {TEXT} in a prompt: the instruction stands in it once")
        return prompt


class Instruct(LanguageFields):
    """Answers to instructions.

    Of two or more records of a kind at one time nobody knows which answers which: they are not asked.

    Args:
        pairs: which kinds of records belong together.
    """

    kind: Literal["instruct"] = "instruct"
    pairs: tuple[Pair, ...] = Field(min_length=1)

    def build(self, model: Backbone, structures: Mapping[str, Structure]) -> InstructObjective:
        """The module, which has no weights: it goes on with the text encoder's own."""
        return InstructObjective(self, model)


class InstructObjective(Objective):
    """The text encoder's own next words, of answers alone."""

    def __init__(self, spec: Instruct, model: Backbone) -> None:
        super().__init__()
        encoder = words_of(model, "instructions", causal=True)
        if encoder.spelling is None:
            raise ObjectiveError(
                "instructions of a text encoder that cannot spell a prompt", "one built with a fingerprint",
                "build it by `build_model`",
            )  # fmt: skip
        self.spec, self.around = spec, []
        for pair in spec.pairs:
            before, after = (encoder.spelling(part) for part in pair.prompt.split(TEXT))
            if (room := encoder.longest - len(before) - len(after) - 2) < 2:
                raise ObjectiveError(
                    f"a prompt of {len(before) + len(after)} words for a reader of {encoder.longest}",
                    "room for a word of the instruction and one of the answer besides",
                    "shorten the prompt, or raise `encoders.text.words`",
                )
            self.around.append((before, after, room))

    def forward(
        self, model: Backbone, batch: Batch, generator: torch.Generator, tokens: Mapping[Modality, Tokens] | None = None
    ) -> Losses:
        """The term `instruct/text`, cross-entropy of the answers' words in nats."""
        ragged = batch.payloads.get(Modality.TEXT)
        found = [] if ragged is None else self.found(ragged)
        if ragged is None or not found:
            return Losses({}, {})
        encoder = words_of(model, "instructions")
        made = [self.put(ragged, *each, encoder.longest) for each in found]
        rows = torch.tensor([instruction for _, instruction, _ in found], device=ragged.patient.device)
        asked = Ragged(
            [text for text, _ in made], ragged.patient[rows], ragged.time_h[rows], None, ragged.patients,
            [ragged.ids[answer] for _, _, answer in found],
        )  # fmt: skip
        term = next_word_loss(encoder, encoder(asked), torch.cat([answer for _, answer in made]))
        return Losses({"instruct/text": term}, {"instruct/text": self.spec.weight})

    def found(self, ragged: Ragged) -> list[tuple[int, int, int]]:
        """Which pair of the specification, and the rows of its instruction and its answer; by patient."""
        if ragged.kinds is None:
            return []
        rows = defaultdict[tuple[int, float, str], list[int]](list)
        when = zip(ragged.patient.tolist(), ragged.time_h.tolist(), ragged.kinds, strict=True)
        for row, key in enumerate(when):
            rows[key].append(row)
        found = []
        for (patient, hour, kind), first in rows.items():
            for number, pair in enumerate(self.spec.pairs):
                second = rows.get((patient, hour, pair.answer), [])
                if kind == pair.instruction and len(first) == len(second) == 1 and first != second:
                    found.append((number, first[0], second[0]))
        return sorted(found, key=lambda each: (each[1], each[2], each[0]))

    def put(self, ragged: Ragged, pair: int, instruction: int, answer: int, longest: int) -> tuple[Tensor, Tensor]:
        """The whole text (w,), and of each of its words what is asked for after it (w,).

        Where both do not fit, the answer has at least half of the room, and each is cut at its end.
        """
        before, after, room = self.around[pair]
        begin, said, reply = ragged.values[instruction][:1], ragged.values[instruction][1:], ragged.values[answer][1:]
        whole = len(ragged.values[answer]) < longest  # of one that was cut nobody knows the end
        most = max(room - len(said), (room + 1) // 2)
        whole, reply = whole and len(reply) <= most, reply[:most]
        said = said[: room - len(reply)]
        mark = lambda word: torch.full_like(begin, word)
        at = begin.device
        text = torch.cat([begin, before.to(at), said, after.to(at), mark(ANSWER), reply])
        wanted = torch.full_like(text, UNTOLD)
        first = len(text) - len(reply) - 1
        wanted[first:-1] = reply
        wanted[-1] = END if whole else UNTOLD
        return text, wanted

    @torch.no_grad()
    def write(
        self, model: Backbone, ragged: Ragged, pair: int, most: int, sampling: Sampling = GREEDY,
        generator: torch.Generator | None = None,
    ) -> list[Tensor]:  # fmt: skip
        """An answer to each text.

        Args:
            model: that was trained with it.
            ragged: s texts, all of them instructions.
            pair: whose prompt is said around them.
            most: words an answer; no more than the text encoder reads, and the instruction is cut for them.
            sampling, generator: of the draws.
        Returns:
            s of (w,) word numbers, without the end.
        """
        encoder = words_of(model, "instructions")
        before, after, room = self.around[pair]
        most, at = min(most, room), ragged.patient.device
        mark = torch.tensor([ANSWER], device=at)
        texts = [
            torch.cat([text[:1], before.to(at), text[1 : 1 + room - most], after.to(at), mark])
            for text in ragged.values
        ]
        logits = lambda: F.linear(reading.last, encoder.words.weight)
        with frozen(encoder):
            reading, writing = Reading(encoder, replace(ragged, values=texts)), Writing(len(texts), most, END, at)
            while (going := writing.add(sampling.draw(logits(), generator, writing.said))) is not None:
                reading.on(going, writing.last)
        return writing.texts
