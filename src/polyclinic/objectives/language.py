"""Language: hidden words from both sides (BERT, Devlin et al. 2019), or the next word from those before it (GPT, LLaMA)."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..fusion import FusionFields
from ..harmonise.text import FIRST, MASK, PAD, SPECIAL
from ..schema import Batch, Losses, Modality, Ragged, Tokens
from ..tokens import Encoded, EncoderFields, Layout, TextEncoder
from ..tokens.text import TextFields
from .generative import keep_some
from .objective import Backbone, Objective, ObjectiveError, ObjectiveFields, Structure
from .words import UNTOLD, numbers

END = PAD
"""Tokens are packed, not padded: the word for padding is free to be a note's end."""


class LanguageFields(ObjectiveFields, ABC):
    """What every objective has that asks the text encoder itself for words.

    Args:
        weight: in a hybrid objective.
    """

    causal: ClassVar[bool] = True
    """Whether the encoder must read from the first word to the last, or both ways."""
    weight: float = Field(default=1.0, ge=0)

    def named(self) -> set[Modality]:
        """Text."""
        return {Modality.TEXT}

    def fits(self, encoders: Mapping[Modality, EncoderFields], width: int, fusion: FusionFields) -> None:
        """There is an encoder of words, with a trunk, that reads in this way."""
        spec = encoders[Modality.TEXT]
        if not fusion.own_trunks:
            raise ValueError("early fusion leaves the text encoder no trunk to read with; use intermediate or late")
        if not isinstance(spec, TextFields):
            kind = getattr(spec, "kind", "another")
            raise ValueError(f"needs an encoder that learns its own words (bert, gpt or llama); there is {kind}")
        if spec.causal != self.causal:
            wants, reads = ("gpt or llama", "reads both ways") if self.causal else ("bert", "sees no later word")
            raise ValueError(f"needs a text encoder of kind {wants}; {getattr(spec, 'kind', 'this')} {reads}")


class MaskedLanguage(LanguageFields):
    """Words are hidden in their places, and asked for (Devlin et al. 2019, section 3.1).

    Args:
        ratio: the share of a note's words that is asked for: of these 80% are replaced by [MASK], 10% by any word, 10% stay.
    """

    causal = False
    kind: Literal["masked_language"] = "masked_language"
    ratio: float = Field(default=0.15, gt=0, lt=1)

    def build(self, model: Backbone, structures: Mapping[str, Structure]) -> MaskedLanguageObjective:
        """The module, with what turns a word's token into an answer."""
        return MaskedLanguageObjective(self, model)


class CausalLanguage(LanguageFields):
    """Each word is asked for from those before it (Radford et al. 2019); of a note that was not cut, its end too."""

    kind: Literal["causal_language"] = "causal_language"

    def build(self, model: Backbone, structures: Mapping[str, Structure]) -> CausalLanguageObjective:
        """The module, which has no weights: a word's logit is the product with its embedding."""
        return CausalLanguageObjective(self, model)


def words_of(model: Backbone, what: str, causal: bool | None = None) -> TextEncoder:
    """The model's encoder of words.

    Args:
        model: that is asked.
        what: is asked for, in the message.
        causal: whether it must, or must not, read from the first word to the last; None for either.
    Raises:
        ObjectiveError: it has none, or reads in the other way, or has no trunk of its own.
    """
    encoder = model.encoder(Modality.TEXT) if Modality.TEXT in model.modalities else None
    if not isinstance(encoder, TextEncoder):
        raise ObjectiveError(
            f"{what} of a model without an encoder of words", "kind bert, gpt or llama", "add one to `encoders`"
        )
    if causal is not None and not model.own_trunks:
        raise ObjectiveError(
            f"{what} with early fusion, whose encoders have no trunk", "a text encoder that reads alone",
            "use intermediate or late fusion",
        )  # fmt: skip
    if causal is not None and causal != encoder.causal:
        told = ("reads both ways, and would see the word that it is asked for", "gpt or llama")
        raise ObjectiveError(
            f"{what} by a text encoder that {told[0] if causal else 'sees no later word'}",
            f"kind {told[1] if causal else 'bert'}", "change `encoders.text.kind`",
        )  # fmt: skip
    return encoder


def first_word(encoder: TextEncoder, language: str | None) -> int:
    """The word that begins a note in a language; None for that of a note whose language nobody knows.

    Raises:
        ObjectiveError: the encoder has no word for the language.
    """
    if language is None:
        return FIRST
    if language not in encoder.begins:
        raise ObjectiveError(
            f"a note in the language {language!r}", f"one of {', '.join(encoder.begins) or 'none'}",
            "name it in `encoders.text.languages` and train anew",
        )  # fmt: skip
    return encoder.begins[language]


class Reading:
    """Texts that a causal encoder of words has read so far: a further word costs one word's work.

    Args:
        encoder: causal.
        ragged: s texts, none empty.
    """

    def __init__(self, encoder: TextEncoder, ragged: Ragged) -> None:
        self.encoder, self.texts, self.memory = encoder, ragged, encoder.blocks.memory()
        tokens = encoder.embed(ragged)
        layout = Layout.of(tokens.record, together=True)
        hidden = encoder.blocks(tokens.values, layout, encoder.place(tokens), memory=self.memory)
        self.last = hidden[self._lengths.cumsum(0) - 1]
        """(s c) the encoder's token of each text's last word."""

    @property
    def _lengths(self) -> Tensor:
        assert self.memory.lengths is not None
        return self.memory.lengths

    def on(self, going: Tensor, words: Tensor) -> Tensor:
        """Some of the texts go on by a word each.

        Args:
            going: (k,) which of those that went on so far, ascending.
            words: (k,) the further words.
        Returns:
            (k c) the encoder's tokens of these words.
        """
        if len(going) < len(self._lengths):
            self.memory.keep(going)
            self.texts = self.texts.only(going.tolist())
        row = torch.arange(len(words), device=words.device)
        position = torch.zeros(len(words), 4, device=words.device)
        position[:, 3] = self._lengths.float()
        tokens = self.encoder.tokens(self.texts, self.encoder.words(words), row, position)
        place = self.encoder.place(tokens)
        self.last = self.encoder.blocks(tokens.values, Layout.each(len(row), row.device), place, memory=self.memory)
        return self.last


def next_words(texts: Tensor | list[Tensor], longest: int) -> Tensor:
    """(n,) what comes after each of all texts' words: the next, or the end; not told after a text that was cut at `longest`."""
    last = lambda text: UNTOLD if len(text) >= longest else END
    return torch.cat([F.pad(text[1:], (0, 1), value=last(text)) for text in texts])


def next_word_loss(encoder: TextEncoder, tokens: Tokens, wanted: Tensor) -> Tensor:
    """Cross-entropy in nats a word of what comes after each of all texts' words, (n,) int64, where it is told of any.

    Args:
        encoder: causal; a word's logit is the product with its embedding.
        tokens: its own of the texts.
        wanted: `UNTOLD` where it is not told.
    """
    asked = wanted != UNTOLD
    logits = F.linear(tokens.values[asked], encoder.words.weight)
    return F.cross_entropy(logits.float(), wanted[asked])


class MaskedLanguageObjective(Objective):
    """BERT's head on the text encoder's tokens."""

    def __init__(self, spec: MaskedLanguage, model: Backbone) -> None:
        super().__init__()
        encoder = words_of(model, "masked language", causal=False)
        self.spec = spec
        self.transform = nn.Sequential(nn.Linear(encoder.width, encoder.width), nn.GELU(), nn.LayerNorm(encoder.width))
        self.bias = nn.Parameter(torch.zeros(encoder.answer_size))

    def forward(
        self, model: Backbone, batch: Batch, generator: torch.Generator, tokens: Mapping[Modality, Tokens] | None = None
    ) -> Losses:
        """The term `masked_language/text`, cross-entropy of the words that are asked for in nats."""
        ragged = batch.payloads.get(Modality.TEXT)
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        if ragged is None:
            return Losses({}, {})
        encoder = words_of(model, "masked language")
        words = encoder.answer(ragged)
        hidden, asked = self.hide(ragged, words, encoder.answer_size, torch.Generator().manual_seed(seed))
        if not bool(asked.any()):
            return Losses({}, {})
        seen = encoder(hidden).values[asked]
        logits = F.linear(self.transform(seen), encoder.words.weight, self.bias)
        return Losses(
            {"masked_language/text": F.cross_entropy(logits.float(), words[asked])},
            {"masked_language/text": self.spec.weight},
        )

    def hide(self, ragged: Ragged, words: Tensor, vocabulary: int, draws: torch.Generator) -> tuple[Ragged, Tensor]:
        """The notes with words hidden, and which words (n,) bool are asked for: never a note's first, which begins it."""
        record = numbers(list(ragged.values))
        first = torch.ones_like(record, dtype=torch.bool)
        first[1:] = record[1:] != record[:-1]
        asked = ~keep_some(record, self.spec.ratio, draws) & ~first
        at = draws.device
        how = torch.rand(len(record), generator=draws, device=at).to(words.device)
        least = min(len(SPECIAL), vocabulary - 1)
        any_word = torch.randint(least, vocabulary, (len(record),), generator=draws, device=at).to(words.device)
        put = torch.where(how < 0.8, MASK, torch.where(how < 0.9, any_word, words))
        return replace(
            ragged, values=list(torch.where(asked, put, words).split([len(t) for t in ragged.values]))
        ), asked


class CausalLanguageObjective(Objective):
    """The text encoder's own next words."""

    def __init__(self, spec: CausalLanguage, model: Backbone) -> None:
        super().__init__()
        words_of(model, "causal language", causal=True)
        self.spec = spec

    def forward(
        self, model: Backbone, batch: Batch, generator: torch.Generator, tokens: Encoded | None = None
    ) -> Losses:
        """The term `causal_language/text`, cross-entropy of the next words in nats."""
        ragged = batch.payloads.get(Modality.TEXT)
        if ragged is None:
            return Losses({}, {})
        encoder = words_of(model, "causal language")
        wanted = next_words(ragged.values, encoder.longest)
        if not bool((wanted != UNTOLD).any()):
            return Losses({}, {})
        own = (model.encode(batch) if tokens is None else tokens).own(Modality.TEXT)
        term = next_word_loss(encoder, own, wanted)
        return Losses({"causal_language/text": term}, {"causal_language/text": self.spec.weight})
