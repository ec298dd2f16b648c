"""How a language speaks of findings: the words, read from a file of data, as patterns that find them in a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from ...schema import PolyclinicError

HERE = Path(__file__).parent
LANGUAGES = tuple(sorted(p.stem for p in HERE.glob("??.yaml")))


CUES = (
    "denies_after", "denies_before", "doubts_after", "doubts_before", "doubts_between", "silent_after", "ends", "not_denials",
)  # fmt: skip


class LexiconError(PolyclinicError):
    """A language without a lexicon, or a lexicon that cannot be read."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding, whatever the language.

    Args:
        name: ours.
        chexpert: its observation of CheXpert (Irvin et al. 2019), where it is one.
        within: the finding that it is a kind of.
        codes: code system (`records.vocabularies`) → code.
    """

    name: str
    chexpert: str | None = None
    within: str | None = None
    codes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Match:
    """A place in a sentence where a phrase stands.

    Args:
        start, end: characters.
        what: what the phrase means.
        kind: the list of the lexicon that has it.
        side: of a place that lies on one only.
    """

    start: int
    end: int
    what: str
    kind: str
    side: str | None = None


@dataclass(frozen=True, slots=True)
class Phrase:
    """A pattern, what it means, the list that has it, and of what words one must be there for it: to look for those is quick."""

    pattern: re.Pattern[str]
    needs: tuple[str, ...]
    what: str
    kind: str
    side: str | None = None


@dataclass(frozen=True, eq=False)
class Lexicon:
    """A language's phrases.

    Args:
        language: its tag.
        findings: names and normal statements of findings, and what is none.
        cues: of denial, doubt and silence, and what ends their scope.
        changes: since an earlier study.
        prior: that an earlier study is spoken of.
        sides, places: of the body.
        joins, between_places, leads_to_place, spares, not_before_finding: words that stand between findings, between a side and a place,
            before a place that is of the finding before it, before one that is not, and between a place and the finding after it that are
            not of each other.
        asserts, one_only, anaphora: what a text may begin with, see the files.
        no_prior: phrases of a section of comparison that has none.
        prompts: of each finding sentences that say that it is there, and that it is not.
    """

    language: str
    findings: tuple[Phrase, ...]
    cues: tuple[Phrase, ...]
    changes: tuple[Phrase, ...]
    prior: tuple[Phrase, ...]
    sides: tuple[Phrase, ...]
    places: tuple[Phrase, ...]
    joins: frozenset[str]
    between_places: frozenset[str]
    leads_to_place: frozenset[str]
    spares: frozenset[str]
    not_before_finding: frozenset[str]
    asserts: re.Pattern[str]
    one_only: re.Pattern[str]
    anaphora: re.Pattern[str]
    no_prior: re.Pattern[str]
    prompts: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]


@lru_cache(maxsize=1)
def findings() -> dict[str, Finding]:
    """Every finding that is known, by name."""
    told = yaml.safe_load((HERE / "findings.yaml").read_text(encoding="utf-8"))
    return {name: Finding(name, **fields) for name, fields in told.items()}


def kinds_above(name: str) -> Iterator[str]:
    """The findings that a finding is a kind of, the nearest first."""
    above = findings()[name].within
    while above is not None:
        yield above
        above = findings()[above].within


_ITEM = re.compile(r"\((?P<one>[^)]*)\)|\[(?P<may>[^\]]*)\]|(?P<word>\S+)")
_JOIN, _WORD = r"[\s-]+", r"[^\s,;:.]+"


def compiled(phrase: str) -> re.Pattern[str]:
    """A phrase of a lexicon's file as a regular expression, for text in lower case.

    >>> compiled("(lung|lungs) .. clear [of]").search("both lungs are well aerated and clear").group()
    'lungs are well aerated and clear'
    """
    out, begun, first = "", False, ""
    for item in _ITEM.finditer(phrase):
        if item["may"] is not None:
            some = _any(item["may"].split("|"))
            out += rf"(?:{_JOIN}{some})?" if begun else rf"(?:{some}{_JOIN})?"
            first = first or "w"
        elif item["word"] == "..":
            out += rf"(?:{_JOIN}{_WORD}){{0,4}}?"
        elif item["word"] == "^":
            out += r"\A\W*"
        elif item["word"] == "$":
            out += r"\W*\Z"
        else:
            words = _any(item["one"].split("|")) if item["one"] is not None else _words(item["word"])
            out += (_JOIN if begun else "") + words
            begun, first = True, first or (item["one"] or item["word"])[0]
    before = r"(?<!\w)" if first.isalnum() else ""
    after = r"(?!\w)" if phrase.rstrip(")]")[-1].isalnum() else ""
    return re.compile(before + out + after)


def needed(phrase: str) -> tuple[str, ...]:
    """Of a phrase's first part that must be there the beginnings, of which a sentence has one."""
    for item in _ITEM.finditer(phrase):
        if item["may"] is None and item["word"] not in ("..", "^", "$"):
            return tuple(words.split()[0].rstrip("*") for words in (item["one"] or item["word"]).split("|"))
    return ("",)


def _any(choices: Iterable[str]) -> str:
    """One of several runs of words, the longest first."""
    return "(?:" + "|".join(sorted(map(_words, choices), key=len, reverse=True)) + ")"


def _words(words: str) -> str:
    spelled = (
        rf"(?:{_WORD}{_JOIN}){{0,4}}?" if w == ".." else re.escape(w).replace(r"\*", r"\w*") for w in words.split()
    )
    return _JOIN.join(spelled).replace(rf"?{_JOIN}", "?")


@lru_cache(maxsize=8)
def lexicon(language: str) -> Lexicon:
    """The lexicon of a language.

    Args:
        language: a tag of BCP 47, of which the primary subtag counts.
    Raises:
        LexiconError: there is none.
    """
    name = language.replace("_", "-").split("-")[0].lower()
    if name not in LANGUAGES:
        raise LexiconError(
            f"reports in the language {language!r}", "one of " + ", ".join(LANGUAGES),
            f"write {name}.yaml beside records/findings/en.yaml",
        )  # fmt: skip
    told: dict[str, Any] = yaml.safe_load((HERE / f"{name}.yaml").read_text(encoding="utf-8"))
    several = lambda kind, phrases, what="": [Phrase(compiled(p), needed(p), what or kind, kind) for p in phrases]
    found = [
        p
        for what, how in told["findings"].items()
        for kind in ("said", "normal")
        for p in several(kind, how.get(kind, ()), what)
    ]
    cues = [p for kind in CUES for p in several(kind, told[kind])]
    changes = [p for what, phrases in told["changes"].items() for p in several("change", phrases, what)]
    sides = [p for side, phrases in told["sides"].items() for p in several("side", phrases, side)]
    places = [
        Phrase(compiled(p), needed(p), one["place"], "place", one.get("side"))
        for one in told["places"]
        for p in one["said"]
    ]
    other = several("other", told["not_changes"])
    begins = lambda name: re.compile("|".join(compiled(f"^ {p}").pattern for p in told[name]))
    return Lexicon(
        language=name, findings=(*found, *several("other", told["not_findings"])), cues=tuple(cues), changes=(*changes, *other),
        prior=(*several("prior", told["prior"]), *other), sides=tuple(sides), places=tuple(places),
        joins=frozenset(told["joins"]), between_places=frozenset(told["between_places"]), spares=frozenset(told["spares"]),
        leads_to_place=frozenset(told["leads_to_place"]), not_before_finding=frozenset(told["not_before_finding"]),
        asserts=begins("asserts"), one_only=begins("one_only"), anaphora=begins("anaphora"), no_prior=begins("no_prior"),
        prompts={
            name: (_sentences(told["prompts"]["present"], noun), _sentences(told["prompts"]["absent"], noun))
            for name, noun in told["prompts"]["nouns"].items()
        },
    )  # fmt: skip


def _sentences(patterns: Iterable[str], noun: str) -> tuple[str, ...]:
    return tuple(words[:1].upper() + words[1:] for words in (p.format(noun) for p in patterns))


def longest(phrases: Iterable[Phrase], sentence: str) -> list[Match]:
    """Where phrases stand in a sentence (in lower case), in their order: of two that overlap the longer one; of one place all meanings."""
    found = [
        Match(*m.span(), p.what, p.kind, p.side)
        for p in phrases
        if any(word in sentence for word in p.needs)
        for m in p.pattern.finditer(sentence)
    ]
    kept: list[Match] = []
    taken: set[tuple[int, int]] = set()
    for match in sorted(found, key=lambda m: (m.start - m.end, m.start)):
        span = (match.start, match.end)
        if span in taken or all(match.end <= a or b <= match.start for a, b in taken):
            taken.add(span)
            if match not in kept:
                kept.append(match)
    return sorted(kept, key=lambda m: (m.start, m.end))
