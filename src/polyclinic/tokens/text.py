"""Text: word pieces in their order (BERT, Devlin et al. 2019)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..harmonise import Fingerprint, TextStandard
from ..schema import Modality, Ragged, Tokens
from .encoder import Encoder, EncoderFields, rows_of


class Bert(EncoderFields):
    """A bidirectional transformer on at most `words` of a `vocabulary` of word pieces learned from the training notes."""

    kind: Literal["bert"] = "bert"
    words: int = Field(default=96, ge=4)
    vocabulary: int = Field(default=2048, ge=64)

    def standard(self, exclude: tuple[str, ...] = ()) -> TextStandard:
        """What it wants from the harmoniser."""
        return TextStandard(words=self.words, vocabulary=self.vocabulary)

    def build(self, fingerprint: Fingerprint) -> TextEncoder:
        """The module, freshly initialised, with the fingerprint's vocabulary."""
        return TextEncoder(self, fingerprint.words)


class TextEncoder(Encoder):
    """m notes of (w,) word numbers → a token a word."""

    answer_kind = "categorical"

    def __init__(self, spec: Bert, vocabulary: int) -> None:
        super().__init__(Modality.TEXT, spec)
        self.answer_size = vocabulary
        self.words = nn.Embedding(vocabulary, spec.width)
        nn.init.normal_(self.words.weight, std=0.1)

    def embed(self, ragged: Ragged) -> Tokens:
        """One token a word; its position's s is the word's order."""
        record = rows_of(ragged)
        position = torch.zeros(len(record), 4, device=record.device)
        position[:, 3] = torch.cat([torch.arange(len(v), device=record.device) for v in ragged.values]).float()
        return self.tokens(ragged, self.words(self.answer(ragged)), record, position)

    def answer(self, ragged: Ragged) -> Tensor:
        """(n,) word numbers."""
        return torch.cat(list(ragged.values))
