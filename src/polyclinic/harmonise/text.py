"""Text: cut into word pieces, learned of the training notes (lower-cased) or those of a tokenizer that was brought along."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ..records.sections import NAMES, kept
from ..schema import Payload, PolyclinicError, Record
from .fingerprint import Fingerprint

PAD, UNKNOWN, FIRST, MASK = 0, 1, 2, 3
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[MASK]"]
GOES_ON = "##"
"""Before a word piece that goes on a word, where text is to be written too (Wu et al. 2016, as BERT has it)."""


Language = Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]
"""A language's primary subtag (BCP 47, RFC 5646, section 2.2.1), such as "en"."""


class TokenizerError(PolyclinicError):
    """A tokenizer that cannot be read."""


class TextStandard(BaseModel):
    """At most `words` word pieces of a vocabulary of `vocabulary`.

    No word is ever dropped for its meaning: "no" and "without" are what a report turns on.

    Args:
        words: word pieces a note.
        vocabulary: word pieces that are learned.
        tokenizer: the file (tokenizer.json, of `tokenizers`) of one that is taken instead, with its own marks of beginning and end;
            it enters the fingerprint, and the file is not read again.
        sections: which of a note's sections count (`records.sections.NAMES`: findings, impression, history ...); none means the
            whole note. A note without any heading counts whole; one that has headings, but none of these, says nothing.
        languages: whose notes begin with a word of their own, `[es]` say, instead of the usual first word: a decoder that is begun
            with it writes that language. A note is in what its record's attribute `language` says; of another, or none, nothing
            changes. Word pieces that go on a word are then marked, so that what is written can be read (`spelled`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["text"] = "text"
    words: int = Field(default=96, ge=4)
    vocabulary: int = Field(default=2048, ge=64)
    tokenizer: str | None = None
    sections: tuple[str, ...] = ()
    languages: tuple[Language, ...] = ()

    @model_validator(mode="after")
    def _own_words(self) -> Self:
        if self.languages and self.tokenizer is not None:
            raise ValueError(
                "`languages` with a tokenizer that was brought along, which has no word for them: leave one out"
            )
        if twice := sorted({name for name in self.languages if self.languages.count(name) > 1}):
            raise ValueError(f"the language {twice[0]!r} twice: name each once")
        return self

    @field_validator("sections")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := sorted(set(names) - set(NAMES)):
            raise ValueError(f"no section is called {', '.join(unknown)}; there are {', '.join(NAMES)}")
        return names

    def of(self, text: str | None) -> str:
        """What of a note counts."""
        return kept(text or "", self.sections)

    def begin(self, language: str | None) -> int:
        """The word that begins a note in a language: `FIRST`, where it is none of `languages`.

        Args:
            language: a tag of BCP 47, of which the primary subtag counts: "es", "es-MX"; None where nobody knows.
        """
        name = (language or "").replace("_", "-").split("-")[0].lower()
        return len(SPECIAL) + self.languages.index(name) if name in self.languages else FIRST


def train_tokenizer(texts: Iterable[str], vocabulary: int, languages: Sequence[str] = ()) -> str:
    """A byte-pair tokenizer (Sennrich et al. 2016) of the texts, as JSON; the same texts give the same one.

    Args:
        texts: of the training notes.
        vocabulary: word pieces, with the special ones.
        languages: that have a word of their own after the special ones, see `TextStandard`.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    mark: dict[str, Any] = {"continuing_subword_prefix": GOES_ON} if languages else {}
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL[UNKNOWN], **mark))
    if languages:
        tokenizer.decoder = decoders.WordPiece(prefix=GOES_ON)  # type: ignore[assignment]
    special = SPECIAL + [f"[{language}]" for language in languages]
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])  # type: ignore[assignment]
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(  # type: ignore[call-arg]
        vocab_size=vocabulary, special_tokens=special, show_progress=False, min_frequency=2, **mark
    )  # fmt: skip
    tokenizer.train_from_iterator(sorted(texts), trainer)
    return tokenizer.to_str()


def import_tokenizer(place: str | Path) -> str:
    """A tokenizer of `tokenizers`, as JSON.

    Raises:
        TokenizerError: the file is not there, or is none.
    """
    from tokenizers import Tokenizer

    try:
        text = Path(place).read_text(encoding="utf-8")
        Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises Exception itself
        found = "which is not there" if not Path(place).exists() else f"which does not open ({str(error)[:80]})"
        raise TokenizerError(
            f"the tokenizer {place}, {found}",
            "a tokenizer.json, as `tokenizers` writes it",
            "open the folder with transformers where it came from, and `AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`",
        ) from error
    return text


def largest(tokenizer: str) -> int:
    """The largest number of a tokenizer's word pieces."""
    return max(_tokenizer(tokenizer).get_vocab(with_added_tokens=True).values(), default=0)


@lru_cache(maxsize=4)
def _tokenizer(text: str, words: int | None = None) -> Any:
    """The tokenizer; with `words`, one that cuts a note there and keeps its mark of the end."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(text)
    if words is not None:
        tokenizer.no_padding()  # a file may bring both along
        tokenizer.enable_truncation(words)
    return tokenizer


def spelled(numbers: Sequence[int], fingerprint: Fingerprint) -> str:
    """Word numbers as text, without special words.

    Of a tokenizer whose pieces do not say whether they go on a word (one that was learned without `languages`) every piece stands alone.
    """
    return "" if fingerprint.tokenizer is None else _tokenizer(fingerprint.tokenizer).decode(list(numbers))


def harmonise(payload: Payload, record: Record, standard: TextStandard, fingerprint: Fingerprint) -> Payload:
    """(w,) int64 word numbers, at most `words`, begun with `[CLS]`, the note's language, or whatever an imported tokenizer begins with."""
    language = record.attributes.get("language")
    numbers, text = [standard.begin(None if language is None else str(language))], standard.of(payload.text)
    if fingerprint.tokenizer is not None and standard.tokenizer is not None:
        numbers = _tokenizer(fingerprint.tokenizer, standard.words).encode(text).ids
    elif fingerprint.tokenizer is not None:
        numbers += _tokenizer(fingerprint.tokenizer).encode(text).ids
    return Payload(
        np.array(numbers[: standard.words], dtype=np.int64), text=text if standard.sections else payload.text
    )
