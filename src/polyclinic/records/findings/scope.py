"""Whether a finding that is named is there, is not, or is doubted: cues of denial and doubt, and how far they reach.

Source: NegEx (Chapman et al. 2001): cues before and after, false denials, words that end a scope; NegBio (Peng et al. 2018): doubt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .lexicon import Lexicon, Match

ABSENT, PRESENT, UNCERTAIN = "absent", "present", "uncertain"
_STATUS = {"denies": ABSENT, "doubts": UNCERTAIN, "silent": None}
_STOP = re.compile(r"[;:]|\s[-–—]\s")
_LIST = re.compile(r"\b(or|nor|ni|o|u)\b")
NEAR = 4
"""Words between two findings that are joined: the second one's adjectives."""


def joined(between: str, lexicon: Lexicon) -> bool:
    """Whether the words between two findings make a list of them: a joining word and the second one's few adjectives."""
    words = re.findall(r"[\w/&-]+|,", between)
    return bool(words) and len(words) <= NEAR + 1 and words[0] in lexicon.joins


def statuses(sentence: str, found: Sequence[Match], lexicon: Lexicon, cues: Sequence[Match]) -> list[str | None]:
    """Of each finding of a sentence (in lower case) its status; None where it is not claimed of this study."""
    whole = [f for f in found if f.kind == "normal"]
    cues = [c for c in cues if not any(f.start <= c.start and c.end <= f.end for f in whole)]
    # A normal statement says what is not there; that there is no finding is itself a finding.
    told = [
        (PRESENT if f.what == "no_finding" else ABSENT)
        if f.kind == "normal"
        else _status(sentence, i, found, lexicon, cues)
        for i, f in enumerate(found)
    ]
    for cue in cues:
        if cue.kind == "doubts_between":
            _either(sentence, cue, found, told, lexicon)
    return told


def _status(sentence: str, i: int, found: Sequence[Match], lexicon: Lexicon, cues: Sequence[Match]) -> str | None:
    mine = found[i]
    reaching: list[tuple[int, str]] = []
    ahead: list[tuple[int, str]] = []
    for cue in cues:
        what, _, side = cue.kind.partition("_")
        if side == "after" and cue.end <= mine.start and _reaches_on(sentence, cue, mine, found, lexicon, cues):
            ahead.append((mine.start - cue.end, what))
        elif side == "before" and mine.end <= cue.start and _reaches_back(sentence, cue, i, found, lexicon, cues):
            reaching.append((cue.start - mine.end, what))
    if ahead:  # a doubt that a denial goes past is denied: "no features to suggest"
        reaching.append((min(ahead)[0], "denies" if any(what == "denies" for _, what in ahead) else min(ahead)[1]))
    if not reaching:
        return PRESENT
    return _STATUS[min(reaching)[1]]


def _reaches_on(
    sentence: str, cue: Match, mine: Match, found: Sequence[Match], lexicon: Lexicon, cues: Sequence[Match]
) -> bool:
    """Whether a cue's scope goes on to a finding after it."""
    between = sentence[cue.end : mine.start]
    if _STOP.search(between) or (cue.kind == "silent_after" and len(between.split()) > NEAR):
        return False
    for other in cues:
        if not cue.end <= other.start < mine.start:
            continue
        if other.kind == "ends" or (other.kind == "silent_after" and cue.kind != "silent_after"):
            return False
        if other.kind in ("denies_after", "doubts_after") and other.kind != cue.kind:
            # "no suspicious": what is doubted is denied, unless a finding or a comma lies between the two.
            apart = sentence[cue.end : other.start]
            if cue.kind != "denies_after" or "," in apart or any(cue.end <= f.start < other.start for f in found):
                return False
        if other.kind.endswith("_before") and any(cue.end <= f.start and f.end <= other.start for f in found):
            return False  # a sentence of its own has ended there: "effusion is not seen and …"
    for comma in re.finditer(",", between):
        if cue.kind == "silent_after":
            return False
        rest = sentence[cue.end + comma.end() :]
        if lexicon.asserts.match(rest) and not _LIST.search(rest.split(";")[0]):
            return False
    return True


def _reaches_back(
    sentence: str, cue: Match, i: int, found: Sequence[Match], lexicon: Lexicon, cues: Sequence[Match]
) -> bool:
    """Whether a cue's scope goes back to a finding before it: the nearest, and those in one list with it."""
    last = max(n for n, f in enumerate(found) if f.end <= cue.start)
    between = sentence[found[last].end : cue.start]
    if _STOP.search(between) or any(
        c.kind == "ends" and found[last].end <= c.start and c.end <= cue.start and sentence[c.start : c.end] != "which"
        for c in cues
    ):  # fmt: skip
        return False
    single = lexicon.one_only.match(sentence[cue.start :]) is not None
    for n in range(last, i, -1):
        words = sentence[found[n - 1].end : found[n].start]
        if not joined(words, lexicon) or (single and not _LIST.search(words)):
            return False
    return True


def _either(sentence: str, cue: Match, found: Sequence[Match], told: list[str | None], lexicon: Lexicon) -> None:
    """ "One or the other": both are doubted, unless they are denied."""
    before = [n for n, f in enumerate(found) if f.end <= cue.start]
    after = [n for n, f in enumerate(found) if f.start >= cue.end]
    if not before or not after:
        return
    one, other = before[-1], after[0]
    if found[one].what == found[other].what:
        return
    words = sentence[found[one].end : found[other].start]
    if (
        len(words.split()) <= NEAR + 2
        and not _STOP.search(words)
        and told[one] == PRESENT
        and told[other] in (PRESENT, UNCERTAIN)
    ):
        told[one] = told[other] = UNCERTAIN
