"""What a report says of findings: present, absent or uncertain, where, and how changed. By rules, from files of phrases.

report ── sections, sentences ── phrases of findings ── cues of denial and doubt and their scope ── sides, places, changes ── `Mention`s

A new language is a new file beside `en.yaml`; a new finding is a line in `findings.yaml` and its phrases in each language.
Sections that say what is asked or was known before (indication, history …) make no claims of the study and are passed by.

Source: CheXpert's labeller (Irvin et al. 2019), whose observations these are; NegEx (Chapman et al. 2001); NegBio (Peng et al. 2018).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from .lexicon import LANGUAGES, Finding, Lexicon, LexiconError, findings, kinds_above, lexicon, longest
from .scope import ABSENT, PRESENT, UNCERTAIN, statuses
from .sentences import sentences
from .where import assigned, spots

CLAIMING = ("", "findings", "impression", "assessment", "course", "examination", "addendum")
"""The sections that say what is seen."""

__all__ = [
    "ABSENT", "CLAIMING", "LANGUAGES", "PRESENT", "UNCERTAIN", "Finding", "LexiconError", "Mention", "Reading", "Said", "findings",
    "prompts", "read_findings", "summary",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mention:
    """A finding that a report speaks of.

    Args:
        finding: a name in `findings()`.
        status: "present", "absent" or "uncertain".
        side: "left", "right", "both", or None where none is said.
        places: lobes, base, apex … as the lexicon names them.
        sentence: which of the report's sentences, from 0.
        start, end: characters of the report.
        compared: "new", "larger", "smaller", "unchanged" or "resolved" since an earlier study; "prior" where one is named and no more.
    """

    finding: str
    status: str
    side: str | None
    places: tuple[str, ...]
    sentence: int
    start: int
    end: int
    compared: str | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """A sentence.

    Args:
        section: one of `sections.NAMES`, or empty.
        start, end: characters of the report.
        compared: whether it speaks of an earlier study.
    """

    section: str
    start: int
    end: int
    compared: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """A report's sentences and what they say."""

    sentences: tuple[Said, ...]
    mentions: tuple[Mention, ...]

    @property
    def compared(self) -> bool:
        """Whether the report speaks of an earlier study."""
        return any(s.compared for s in self.sentences)


def read_findings(text: str, language: str = "en") -> Reading:
    """What a report says.

    Args:
        text: a report, or any part of one.
        language: a tag of BCP 47.
    Raises:
        LexiconError: there is no lexicon of the language.
    """
    words, told, mentions = lexicon(language), list[Said](), list[Mention]()
    for section, start, end in sentences(text):
        claims = section in CLAIMING
        if not claims and section != "comparison":
            continue
        spoken = "".join(c.lower() if len(c.lower()) == 1 else c for c in text[start:end])
        if section == "comparison":
            told.append(Said(section, start, end, words.no_prior.search(spoken) is None))
            continue
        here, change, compared = _sentence(words, spoken)
        if change and not here and mentions and words.anaphora.match(spoken) and mentions[-1].sentence == len(told) - 1:
            mentions[-1] = replace(mentions[-1], compared=change)
            compared = True
        mentions += [replace(m, sentence=len(told), start=m.start + start, end=m.end + start) for m in here]
        told.append(Said(section, start, end, compared))
    return Reading(tuple(told), tuple(mentions))


@lru_cache(maxsize=1 << 14)
def _sentence(words: Lexicon, spoken: str) -> tuple[tuple[Mention, ...], str | None, bool]:
    """The mentions of a sentence (in lower case), a change that is said of none of them, and whether an earlier study is spoken of."""
    named = longest(words.findings, spoken)
    found, others = ([m for m in named if (m.kind == "other") is is_other] for is_other in (False, True))
    cues = [c for c in longest(words.cues, spoken) if not any(o.start <= c.start and c.end <= o.end for o in others)]
    status = statuses(spoken, found, words, [c for c in cues if c.kind != "not_denials"])
    where = spots(spoken, words, found)
    inside = lambda m: any(f.start <= m.start < f.end for f in found)
    changes = [m for m in longest(words.changes, spoken) if m.kind == "change" and not inside(m)]
    prior = any(m.kind == "prior" for m in longest(words.prior, spoken))
    at, changed = (assigned(spoken, found, status, things, words) for things in (where, changes))
    mentions = []
    for i, match in enumerate(found):
        if status[i] is None:
            continue
        mine = [where[n] for n in at[i]]
        sides = {s.side for s in mine if s.side}
        side = None if not sides else "both" if len(sides) > 1 else sides.pop()
        turns = [changes[n].what for n in changed[i]]
        compared = next((t for t in turns if t != "unchanged"), turns[0] if turns else "prior" if prior else None)
        places = tuple(dict.fromkeys(p for s in mine for p in s.places))
        mentions.append(Mention(match.what, str(status[i]), side, places, 0, match.start, match.end, compared))
    loose = changes[0].what if changes and not any(changed) else None
    return tuple(mentions), loose, prior or any(changed)


def prompts(language: str = "en") -> Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Of each finding but "no finding": sentences that say that it is there, and as many that say that it is not.

    Args:
        language: a tag of BCP 47.
    """
    return lexicon(language).prompts


def summary(mentions: Iterable[Mention], names: Iterable[str] | None = None) -> Mapping[str, str]:
    """One status a finding of a whole report, only of those that it speaks of: present where any mention is, else uncertain, else absent.

    A finding that is present or uncertain makes all that it is a kind of at least that. "No finding" is present where nothing but
    devices is present or uncertain (Irvin et al. 2019, section 2.2).

    Args:
        mentions: of a report.
        names: which findings; None for all.
    """
    rank = {ABSENT: 0, UNCERTAIN: 1, PRESENT: 2}
    told: dict[str, str] = {}
    for mention in mentions:
        above = kinds_above(mention.finding) if mention.status != ABSENT else ()
        for name in (mention.finding, *above):
            if name != "no_finding" and rank[mention.status] > rank.get(told.get(name, ""), -1):
                told[name] = mention.status
    if all(s == ABSENT for n, s in told.items() if n != "support_devices"):
        told["no_finding"] = PRESENT
    wanted = None if names is None else set(names)
    return {n: s for n, s in told.items() if wanted is None or n in wanted}
