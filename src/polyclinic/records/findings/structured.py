"""A report as a typed record: what it says of each finding, with codes, the words it rests on, and the sections they stand in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from . import read_findings
from .lexicon import findings


@dataclass(frozen=True, slots=True)
class Entry:
    """A mention, with what a receiver needs to make sense of it.

    Args:
        finding, status, side, places, compared: see `Mention`.
        codes: code system (as `records.vocabularies` names it, and RadLex) → code; only where the concept is exactly this one.
        chexpert: CheXpert's name of it, where it has one.
        section: in which it stands, empty where the report has no heading.
        words: the whole sentence.
        start, end: of the finding's own words, characters of the report.
    """

    finding: str
    status: str
    side: str | None
    places: tuple[str, ...]
    compared: str | None
    codes: Mapping[str, str]
    chexpert: str | None
    section: str
    words: str
    start: int
    end: int


def structured(text: str, language: str = "en") -> tuple[Entry, ...]:
    """The entries of a report, in the order of its words.

    Args:
        text: a report.
        language: a tag of BCP 47.
    Raises:
        LexiconError: there is no lexicon of the language.
    """
    reading, known = read_findings(text, language), findings()
    entries = []
    for mention in reading.mentions:
        said, finding = reading.sentences[mention.sentence], known[mention.finding]
        own = {f.name: getattr(mention, f.name) for f in fields(mention) if f.name != "sentence"}
        words = text[said.start : said.end]
        entries.append(
            Entry(**own, codes=dict(finding.codes), chexpert=finding.chexpert, section=said.section, words=words)
        )
    return tuple(entries)
