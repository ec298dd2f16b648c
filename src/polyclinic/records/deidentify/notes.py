"""Free text: what points at a person is replaced by what kind of thing it was, `[NAME]`, `[DATE]`, `[ID]` …

Rules only, and made to lose a harmless word rather than to leave a name: a capitalised word within a sentence that is neither an
ordinary word, nor a drug, nor an eponym, is taken for a name. A recogniser of another kind can be plugged in beside them.
Kinds follow HIPAA's list of eighteen (45 CFR 164.514(b)(2)).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

from . import patterns
from .known import NOBODY, Identity
from .words import words


@dataclass(frozen=True, slots=True)
class Span:
    """Characters start..stop of a text, and what they are: NAME, DATE, PHONE, ID, PLACE …"""

    start: int
    stop: int
    kind: str


class Recogniser(Protocol):
    """Anything that finds identifying spans, such as Presidio's analyser behind a function of five lines."""

    def __call__(self, text: str, /) -> Iterable[Span]:
        """The spans to be replaced."""
        ...


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """A text without what was found.

    Args:
        text: with surrogates.
        found: how often each kind was replaced.
        unsure: spans of `text` that may be a name and were left.
        spans: what was replaced, in the text as it was; ascending, apart.
    """

    text: str
    found: Counter[str] = field(default_factory=Counter)
    unsure: tuple[Span, ...] = ()
    spans: tuple[Span, ...] = ()


_COMPILED = tuple((kind, re.compile(pattern, flags)) for kind, pattern, flags in patterns.RULES)
_NAMED = tuple(re.compile(pattern, flags) for pattern, flags in patterns.NAMING)
_STRUCTURED = frozenset({"EMAIL", "URL", "IP", "PHONE", "ID", "DATE", "ADDRESS", "AGE>89"})


def scrub(
    text: str,
    known: Identity = NOBODY,
    *,
    ordinary: frozenset[str] = frozenset(),
    recognisers: Sequence[Recogniser] = (),
    light: bool = False,
    kinds: frozenset[str] | None = None,
) -> Scrubbed:
    """The text with typed surrogates.

    Args:
        text: of any length.
        known: the person's names and identifiers, from structured records.
        ordinary: words that the same notes write small.
        recognisers: further ones; what they find is replaced too.
        light: only what has a form of its own, and what is known: for short cells of a table, whose capitals say nothing.
        kinds: only rules of these kinds, besides what is known.
    """
    spans = list(_known(text, known))
    for kind, pattern in _COMPILED:
        if kind in (kinds or _STRUCTURED) if light else True:
            spans += [Span(*m.span(), kind) for m in pattern.finditer(text)]
    unsure: list[Span] = []
    if not light:
        spans += list(_named(text))
        sure, unsure = _capitals(text, ordinary, _covered(text, spans))
        spans += sure
        spans += list(_again(text, spans))
    for recogniser in recognisers:
        spans += list(recogniser(text))
    return _replace(text, spans, unsure)


def _known(text: str, known: Identity) -> Iterator[Span]:
    """The person's own names and all known identifiers, word by word."""
    ordinary = words("frequent") | words("ambiguous")
    lengthy = [name for name in known.names if len(name) >= 6]
    for found in re.finditer(r"[^\W_]+", text):
        word = found[0].casefold()
        large = found[0][0].isupper()
        if (word in known.names and (large or (len(word) >= 3 and word not in ordinary))) or (
            large and len(word) >= 6 and word not in ordinary and any(_near(word, name) for name in lengthy)
        ):
            yield Span(*found.span(), "NAME")
    for found in re.finditer(r"[^\W_]+(?:[-_./][^\W_]+)*", text):
        for start, stop in _pieces(found[0]):
            if found[0][start:stop].casefold() in known.ids:
                yield Span(found.start() + start, found.start() + stop, "ID")


def _pieces(token: str) -> Iterator[tuple[int, int]]:
    """All parts of a token between its separators, the whole first."""
    yield 0, len(token)
    bounds = [m.span() for m in re.finditer(r"[^\W_]+", token)][:8]
    for i, (start, _) in enumerate(bounds):
        for _, stop in bounds[i:]:
            yield start, stop


def _near(word: str, name: str) -> bool:
    """One letter wrong, missing or too many; two changed places."""
    if abs(len(word) - len(name)) > 1 or word[0] != name[0]:
        return False
    if len(word) == len(name):
        wrong = [i for i in range(len(word)) if word[i] != name[i]]
        swapped = (
            len(wrong) == 2
            and wrong[1] == wrong[0] + 1
            and word[wrong[0]] == name[wrong[1]]
            and word[wrong[1]] == name[wrong[0]]
        )
        return len(wrong) <= 1 or swapped
    long, short = (word, name) if len(word) > len(name) else (name, word)
    return any(long[:i] + long[i + 1 :] == short for i in range(len(long)))


def _plain(word: str) -> str:
    return re.sub(r"['’]s?$", "", word).casefold()


def _is_name(word: str) -> bool:
    return word in words("first_names") or word in words("surnames")


@lru_cache(maxsize=1)
def _everyday() -> frozenset[str]:
    return words("frequent") | words("plain") | words("english")


def _is_word(word: str) -> bool:
    """Whether it is an ordinary word; of one with a hyphen, each half."""
    known = _everyday()
    return word in known or ("-" in word and all(part in known for part in word.split("-")))


def _named(text: str) -> Iterator[Span]:
    """What a title, a degree, a field's name or a relation says is a name."""
    for pattern in _NAMED:
        for found in pattern.finditer(text):
            start, stop = found.span("it")
            if re.search(r"[:/]|^(?:[A-Z]\.){2,3}$", found["it"]):  # initials, and who dictated and who typed: AB/cd
                yield Span(start, stop, "NAME")
                continue
            for word in re.finditer(r"[^\W\d_][\w'’-]*\.?", text[start:stop]):
                plain = _plain(word[0].rstrip("."))
                ordinary = (_is_word(plain) or plain in words("medical")) and not _is_name(plain)
                if not ordinary and not (word[0].islower() and len(plain) < 3):
                    yield Span(
                        start + word.start(), start + word.end() - word[0].endswith(".") * (len(plain) > 1), "NAME"
                    )


def _again(text: str, spans: Sequence[Span]) -> Iterator[Span]:
    """What was a name in one place is one in another of the same text."""
    found: set[str] = set()
    for span in spans:
        if span.kind == "NAME":
            found |= {
                w
                for w in re.findall(r"[^\W\d_][\w’'-]{2,}", text[span.start : span.stop])
                if w[0].isupper() and not _is_word(_plain(w))
            }
    if found:
        for word in re.finditer(
            r"(?<![\w-])(?:" + "|".join(map(re.escape, sorted(found, key=len, reverse=True))) + r")(?!\w)", text
        ):
            yield Span(*word.span(), "NAME")


def _covered(text: str, spans: Sequence[Span]) -> bytearray:
    covered = bytearray(len(text))
    for span in spans:
        covered[span.start : span.stop] = b"\x01" * (span.stop - span.start)
    for found in patterns.SURROGATE.finditer(text):
        covered[found.start() : found.end()] = b"\x01" * (found.end() - found.start())
    return covered


def _capitals(text: str, ordinary: frozenset[str], covered: bytearray) -> tuple[list[Span], list[Span]]:
    """Names by their capital alone, and words that may be one."""
    sure: list[Span] = []
    unsure: list[Span] = []
    large = [w for w in patterns.WORD.finditer(text) if not covered[w.start()]]
    shouting = sum(c.isupper() for c in text) > 0.6 * max(1, sum(c.isalpha() for c in text))
    for number, word in enumerate(large):
        plain, whole = _plain(word[0]), word[0]
        if len(plain) < 2 or (any(c.isdigit() for c in plain) and not re.fullmatch(r"[a-z]+\d+", plain)):
            continue
        beside = [
            n
            for n in (number - 1, number + 1)
            if 0 <= n < len(large) and _touch(text, large[min(n, number)], large[max(n, number)])
        ]
        named_beside = any(_is_name(_plain(large[n][0])) for n in beside) or _by_name(text, word, covered)
        eponym = bool(patterns.EPONYM.match(text, word.start() + len(plain)))
        shout = whole.isupper() and len(plain) > 1
        ambiguous = plain in words("ambiguous")
        start = bool(patterns.START.search(text[max(0, word.start() - 8) : word.start()]))
        if _is_name(plain) and not eponym:
            if (not ambiguous and not (plain in words("medical") and not named_beside)) or (
                named_beside
                or (not start and not shout and not _is_word(plain))
                or (start and patterns.ACTS.match(text, word.end()))
            ):
                sure.append(Span(*word.span(), "NAME"))
            continue
        if (
            _is_word(plain)
            or plain in words("medical")
            or plain in ordinary
            or eponym
            or (shout and (len(plain) <= 5 or shouting))
        ):
            continue
        doubtful = shout or (patterns.DRUG.search(plain) and len(plain) > 6)
        if doubtful and not named_beside and not _pair(beside, large):
            unsure.append(Span(*word.span(), "NAME"))
        else:
            sure.append(Span(*word.span(), "NAME"))
    return sure, unsure


def _pair(beside: Sequence[int], large: Sequence[re.Match[str]]) -> bool:
    """Whether a neighbour is another capitalised word that is none of the language's."""
    return any(not _is_word(_plain(large[n][0])) and _plain(large[n][0]) not in words("medical") for n in beside)


def _touch(text: str, first: re.Match[str], second: re.Match[str]) -> bool:
    return re.fullmatch(r"[ ]+(?:[A-Z]\.?[ ]+)?|,[ ]*", text[first.end() : second.start()]) is not None


def _by_name(text: str, word: re.Match[str], covered: bytearray) -> bool:
    """Whether a span that was found already ends right before, or begins right after: `[NAME] Ng`."""
    before, after = word.start() - 2, word.end() + 1
    ends = before >= 0 and text[before + 1] == " " and bool(covered[before]) and text[before].islower()
    return ends or (after < len(text) and text[after - 1] == " " and bool(covered[after]) and text[after].isupper())


def _replace(text: str, spans: Iterable[Span], unsure: Sequence[Span]) -> Scrubbed:
    """Overlapping spans as one, called after its longest; neighbours of one kind as one."""
    fixed = [f.span() for f in patterns.SURROGATE.finditer(text)]
    ordered = sorted((s for s in spans if s.stop > s.start), key=lambda s: (s.start, -s.stop))
    merged: list[tuple[Span, int]] = []
    for span in ordered:
        if any(a <= span.start and span.stop <= b for a, b in fixed):
            continue
        if merged:
            last, longest = merged[-1]
            between = text[last.stop : span.start]
            if span.start < last.stop:
                longer = span.stop - span.start > longest
                kind = span.kind if longer else last.kind
                merged[-1] = (Span(last.start, max(last.stop, span.stop), kind), max(longest, span.stop - span.start))
                continue
            if (
                span.kind == last.kind
                and span.kind in {"NAME", "PLACE", "ADDRESS"}
                and re.fullmatch(r"[ ,.'’-]{0,3}", between)
            ):
                merged[-1] = (Span(last.start, span.stop, span.kind), longest)
                continue
        merged.append((span, span.stop - span.start))
    for number, (span, longest) in enumerate(merged):  # a number that follows a name belongs to it
        if span.kind == "NAME" and (follows := re.match(r" \d{3,}\b(?![./,]\d)", text[span.stop :])):
            stop = span.stop + follows.end()
            if number + 1 == len(merged) or merged[number + 1][0].start >= stop:
                merged[number] = (Span(span.start, stop, "NAME"), longest)
        elif span.kind in ("ID", "PHONE") and (follows := re.match(r"(?:[-./#][A-Za-z0-9]+)+", text[span.stop :])):
            stop = span.stop + follows.end()
            if number + 1 == len(merged) or merged[number + 1][0].start >= stop:
                merged[number] = (Span(span.start, stop, span.kind), longest)
    parts: list[str] = []
    shifts: list[tuple[int, int]] = []
    at = length = 0
    for span, _ in merged:
        surrogate = f"[{span.kind}]"
        parts += [text[at : span.start], surrogate]
        length += span.start - at + len(surrogate)
        at = span.stop
        shifts.append((span.stop, length - span.stop))
    parts.append(text[at:])
    inside = lambda s: any(m.start < s.stop and s.start < m.stop for m, _ in merged)
    left = tuple(_shifted(s, shifts) for s in unsure if not inside(s))
    return Scrubbed("".join(parts), Counter(s.kind for s, _ in merged), left, tuple(s for s, _ in merged))


def _shifted(span: Span, shifts: Sequence[tuple[int, int]]) -> Span:
    by = next((shift for stop, shift in reversed(shifts) if stop <= span.start), 0)
    return Span(span.start + by, span.stop + by, span.kind)
