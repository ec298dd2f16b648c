"""What cleaning one file needs, whatever its kind, and what all kinds do alike: words, pseudonyms, dates, ages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Self

from .keyed import Key, shifted
from .known import Identity, Known
from .naming import Namer
from .notes import Recogniser, Scrubbed, scrub
from .options import OLDEST, Options
from .report import Report
from .words import words

ABOUT_PEOPLE = re.compile(
    r"\b(name|identifier|id|mrn|number|address|phone|telecom|birth|organi[sz]ation|institution|observer|serial|physician|contact)\b", re.I
)  # fmt: skip
"""What a coded question asks, whose answer is a person's."""
YEARS = frozenset({"a", "yr", "yrs", "year", "years", "ann"})
"""Units in which an age is told (UCUM `a`)."""


@dataclass(slots=True)
class Cleaning:
    """Cleans one file.

    Args:
        key: makes new names and moves dates.
        options: what is kept.
        report: what was done, and what a person has to look at.
        file: its new name, for the report.
        recognisers: further ones for free text.
        known: who all the records are about.
        namer: new names of files and folders.
        who: whose the file is, or the part of it that is being cleaned.
    """

    key: Key
    options: Options
    report: Report
    file: str
    recognisers: Sequence[Recogniser]
    known: Known
    namer: Namer
    who: str

    @classmethod
    def of(cls, cleaning: Cleaning, **more: Any) -> Self:
        """The same for one kind of file, with what only that needs."""
        return cls(*(getattr(cleaning, part.name) for part in fields(Cleaning)), **more)

    @property
    def days(self) -> int:
        """How far the person's dates move."""
        return self.key.days(self.known.person(self.who) or "nobody")

    @property
    def identity(self) -> Identity:
        """What is known of the person."""
        return self.known.of(self.who)

    def did(self, place: str, action: str) -> None:
        """Note an action."""
        self.report.did(self.file, place, action)

    def ask(self, place: str, why: str) -> None:
        """Leave something to a person's eyes."""
        self.report.ask(self.file, place, why)

    def scrubbed(self, text: str, light: bool = False, kinds: frozenset[str] | None = None) -> Scrubbed:
        """By the rules for notes."""
        return scrub(
            text, self.identity, ordinary=self.known.ordinary, recognisers=self.recognisers, light=light, kinds=kinds
        )

    def words(self, text: str, place: str, light: bool | None = None) -> str:
        """Words by the rules for notes; of a single one its capital says nothing, unless `light` says otherwise."""
        return self.together([text], place, light)[0]

    def together(
        self, texts: Sequence[str], place: str, light: bool | None = None, before: Sequence[str] | None = None
    ) -> list[str]:
        """Lines or cells of one text, each anew: a name is known by what stands before it, even where that is another's end.

        Args:
            texts: the parts.
            place: where they stand, for the report.
            light: as `scrub` has it; None for a single word, of which its capital says nothing.
            before: what parts each from the one before it; a line's end if None.
        """
        before = before or ["", *["\n"] * (len(texts) - 1)]
        whole = "".join(gap + text for gap, text in zip(before, texts, strict=True))
        done = self.scrubbed(whole, len(whole.split()) < 2 if light is None else light)
        if done.found:
            self.did(place, "C: words")
        for span in done.unsure:
            self.ask(f"{place} characters {span.start}–{span.stop}", "may be a name")
        new, start = [], 0
        for gap, text in zip(before, texts, strict=True):
            new.append(_replaced(text, start + len(gap), done))
            start += len(gap) + len(text)
        return new

    def says_who(self, value: str) -> bool:
        """Whether a code, or a part of it, is a known name or number."""
        plain = value.strip().casefold()
        parts = {plain, *re.findall(r"[^\W_]+(?:-[^\W_]+)*", plain), *re.findall(r"[^\W_]+", plain)}
        names = self.identity.names - words("plain") - words("frequent")
        return bool(parts & self.identity.ids or parts & names)

    def moved(self, value: str) -> str:
        """A date or time as DICOM and HL7 write them, `YYYYMMDD[HHMMSS]`; nothing where it is none."""
        return (shifted(value, self.days) or "") if self.options.dates == "shift" else ""

    def born(self, value: str, seen: int | None = None) -> str:
        """The year of birth; of who is 90 or more when last seen, the year of one who is 90."""
        if not re.match(r"(1[89]|20)\d\d", value):
            return ""
        return f"{max(int(value[:4]), (seen or datetime.now().year) - OLDEST):04d}"


def _replaced(text: str, start: int, done: Scrubbed) -> str:
    """A part of what was scrubbed; where a span reaches into the next part, its surrogate stands here."""
    parts, at, stop = [], start, start + len(text)
    for span in done.spans:
        if span.stop <= start or span.start >= stop:
            continue
        parts.append(text[at - start : max(at, span.start) - start])
        if span.start >= start:
            parts.append(f"[{span.kind}]")
        at = min(span.stop, stop)
    return "".join([*parts, text[at - start :]])
