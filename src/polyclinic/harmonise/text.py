"""Text: lower-cased, cut into word pieces that were learned from the training notes."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..records.sections import NAMES, kept
from ..schema import Payload, Record
from .fingerprint import Fingerprint

PAD, UNKNOWN, FIRST, MASK = 0, 1, 2, 3
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[MASK]"]


class TextStandard(BaseModel):
    """At most `words` word pieces of a vocabulary of `vocabulary`.

    No word is ever dropped for its meaning: "no" and "without" are what a report turns on.

    Args:
        words: word pieces a note.
        vocabulary: word pieces there are.
        sections: which of a note's sections count (`records.sections.NAMES`: findings, impression, history ...); none means the
            whole note. A note without any heading counts whole; one that has headings, but none of these, says nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["text"] = "text"
    words: int = Field(default=96, ge=4)
    vocabulary: int = Field(default=2048, ge=64)
    sections: tuple[str, ...] = ()

    @field_validator("sections")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := sorted(set(names) - set(NAMES)):
            raise ValueError(f"no section is called {', '.join(unknown)}; there are {', '.join(NAMES)}")
        return names

    def of(self, text: str | None) -> str:
        """What of a note counts."""
        return kept(text or "", self.sections)


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> str:
    """A byte-pair tokenizer (Sennrich et al. 2016) of the texts, as JSON; the same texts give the same one."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL[UNKNOWN]))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])  # type: ignore[assignment]
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=SPECIAL, show_progress=False, min_frequency=2)  # type: ignore[call-arg]
    tokenizer.train_from_iterator(sorted(texts), trainer)
    return tokenizer.to_str()


@lru_cache(maxsize=4)
def _tokenizer(text: str) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(text)


def harmonise(payload: Payload, record: Record, standard: TextStandard, fingerprint: Fingerprint) -> Payload:
    """(w,) int64 word numbers, the first of them `[CLS]`; at most `words`."""
    numbers, text = [FIRST], standard.of(payload.text)
    if fingerprint.tokenizer is not None:
        numbers += _tokenizer(fingerprint.tokenizer).encode(text).ids
    return Payload(
        np.array(numbers[: standard.words], dtype=np.int64), text=text if standard.sections else payload.text
    )
