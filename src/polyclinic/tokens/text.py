"""Text: word pieces in their order, read both ways (BERT, Devlin et al. 2019) or from the first to the last (GPT, LLaMA)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..harmonise import Fingerprint, TextStandard, harmonise
from ..harmonise.text import Language
from ..schema import Modality, Payload, Ragged, Record, Tokens
from .attention import Rotary
from .encoder import Encoder, EncoderFields, rows_of
from .layout import Layout
from .packing import select
from .transformer import Style


class TextFields(EncoderFields):
    """What every encoder of words has.

    Args:
        words: at most, of a note.
        vocabulary: word pieces, learned from the training notes.
        languages: whose notes begin with a word that says so, see `TextStandard`.
    """

    words: int = Field(default=96, ge=4)
    vocabulary: int = Field(default=2048, ge=64)
    languages: tuple[Language, ...] = ()

    def standard(self, exclude: tuple[str, ...] = ()) -> TextStandard:
        """What it wants from the harmoniser."""
        return TextStandard(words=self.words, vocabulary=self.vocabulary, languages=self.languages)

    def style(self) -> Style:
        """Of the trunk."""
        return Style()

    def mlp_ratio(self) -> float:
        """Hidden width of the trunk's perceptrons over d."""
        return 4.0

    def build(self, fingerprint: Fingerprint) -> TextEncoder:
        """The module, freshly initialised, with the fingerprint's vocabulary."""
        encoder = TextEncoder(self, fingerprint.words)
        encoder.spelling = partial(spelled, standard=self.standard(), fingerprint=fingerprint)
        return encoder


class Bert(TextFields):
    """A bidirectional Transformer."""

    kind: Literal["bert"] = "bert"


class CausalFields(TextFields):
    """What every encoder has that reads from the first word to the last.

    Args:
        class_token: whether a learned token stands behind each note's last word: it hears all of them, and none hears it. A note
            is then compared by it, and not by the mean of its words (CoCa, Yu et al. 2022, section 3.2); whatever else reads
            the note has the words alone.
    """

    causal: ClassVar[bool] = True
    class_token: bool = False

    @model_validator(mode="after")
    def _hears(self) -> Self:
        if self.class_token and not self.depth:
            raise ValueError("a class token without a block in which it hears the words: give `depth` 1 or more")
        return self


class Gpt(CausalFields):
    """A word's token knows what came before it (Radford et al. 2019)."""

    kind: Literal["gpt"] = "gpt"

    def style(self) -> Style:
        """GPT-2's."""
        return Style(activation="gelu_tanh", causal=True)


class Llama(CausalFields):
    """A causal one with rotary places, RMS norms and SwiGLU (Touvron et al. 2023).

    Args:
        groups: heads of keys and values (GQA); as many as heads where None.
        theta: of the rotary places.
    """

    kind: Literal["llama"] = "llama"
    groups: int | None = Field(default=None, ge=1)
    theta: float = Field(default=10000.0, gt=1)

    @model_validator(mode="after")
    def _grouped(self) -> Self:
        if self.groups is not None and self.heads % self.groups:
            raise ValueError(f"{self.groups} groups of keys do not divide {self.heads} heads")
        if (self.width // self.heads) % 2:
            raise ValueError(
                f"rotary places turn pairs, and a head has {self.width // self.heads} numbers: make it even"
            )
        return self

    def style(self) -> Style:
        """LLaMA's."""
        return Style(
            norm="rms",
            eps=1e-6,
            activation="swiglu",
            bias=False,
            causal=True,
            groups=self.groups,
            rotary=Rotary(self.theta),
        )

    def mlp_ratio(self) -> float:
        """Two thirds of four, for SwiGLU has three matrices instead of two (Shazeer 2020)."""
        return 8 / 3


def spelled(text: str, standard: TextStandard, fingerprint: Fingerprint) -> Tensor:
    """(w,) int64: a text's word numbers as a note's harmoniser gives them, without the first, which begins a note."""
    return as_note(text, standard, fingerprint)[1:] if text else torch.zeros(0, dtype=torch.int64)


def as_note(text: str, standard: TextStandard, fingerprint: Fingerprint, language: str | None = None) -> Tensor:
    """(w,) int64: a text's word numbers as a note's harmoniser gives them."""
    note = Record("", "", None, Modality.TEXT, "text", "", attributes={"language": language} if language else {})
    return torch.from_numpy(harmonise(Payload(np.zeros(0), text=text), note, standard, fingerprint).array)


class TextEncoder(Encoder):
    """m notes of (w,) word numbers → a token a word.

    Where the trunk has places of its own, a word's order is not added to its embedding. `begins` has the word that begins a note of
    each language that has one. `spelling` turns a text into the word numbers that it reads, without the word that begins a note; None
    where it was built without a fingerprint.
    """

    answer_kind = "categorical"
    spelling: Callable[[str], Tensor] | None = None

    def __init__(self, spec: TextFields, vocabulary: int) -> None:
        super().__init__(Modality.TEXT, spec, style=spec.style(), mlp_ratio=spec.mlp_ratio())
        self.answer_size, self.longest = vocabulary, spec.words
        standard = spec.standard()
        self.begins = {language: standard.begin(language) for language in standard.languages}
        self.words = nn.Embedding(vocabulary, spec.width)
        nn.init.normal_(self.words.weight, std=0.1)
        ends = isinstance(spec, CausalFields) and spec.class_token
        self.class_token = nn.Parameter(torch.randn(spec.width) * 0.1) if ends else None

    def embed(self, ragged: Ragged) -> Tokens:
        """One token a word; its position's s is the word's order."""
        record = rows_of(ragged.values)
        position = torch.zeros(len(record), 4, device=record.device)
        position[:, 3] = torch.cat([torch.arange(len(v), device=record.device) for v in ragged.values]).float()
        return self.tokens(ragged, self.words(self.answer(ragged)), record, position)

    def ended(self, ragged: Ragged) -> tuple[Tokens, Tokens]:
        """The words' tokens, and those that a note is compared by: its class token, where there is one; else the words'."""
        if self.class_token is None:
            return super().ended(ragged)
        words = self.words(self.answer(ragged))
        lengths = torch.tensor([len(v) for v in ragged.values], device=words.device)
        record = torch.arange(len(lengths), device=words.device).repeat_interleave(lengths + 1)
        order = Layout.of(record).order()
        last = order == lengths[record]
        row = torch.where(last, len(words), torch.cumsum(~last, 0) - 1)
        values = torch.cat([words, self.class_token[None]]).index_select(0, row)
        position = torch.zeros(len(record), 4, device=words.device)
        position[:, 3] = order.float()
        both = self.trunk(self.tokens(ragged, values, record, position))
        return select(both, ~last), select(both, last)

    def placed(self, position: Tensor) -> Tensor:
        """The order is left to the trunk where it knows it."""
        return position if self.blocks.style.rotary is None else torch.zeros_like(position)

    def answer(self, ragged: Ragged) -> Tensor:
        """(n,) word numbers."""
        return torch.cat(list(ragged.values))
