"""Where a finding lies and how it has changed: which of a sentence's sides, places and changes are said of which of its findings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .lexicon import Lexicon, Match, longest
from .scope import joined

_BREAK = re.compile(r"[;.]")
_PART = re.compile(r"[\w/&-]+|,|[;:.()]")


@dataclass(frozen=True, slots=True)
class Spot:
    """A run of sides and places that say one thing: "right upper and middle lobes".

    Args:
        start, end: characters.
        side: "left", "right", "both" or None.
        places: of the lexicon.
    """

    start: int
    end: int
    side: str | None
    places: tuple[str, ...]


def spots(sentence: str, lexicon: Lexicon, found: Sequence[Match]) -> list[Spot]:
    """The spots of a sentence (in lower case)."""
    groups: list[list[Match]] = []
    for match in sorted((*longest(lexicon.sides, sentence), *longest(lexicon.places, sentence)), key=lambda m: m.start):
        last = groups[-1][-1] if groups else None
        parted = last is not None and any(last.end <= f.start and f.end <= match.start for f in found)
        if last is not None and not parted and _one(sentence[last.end : match.start], lexicon):
            groups[-1].append(match)
        else:
            groups.append([match])
    return [_spot(group) for group in groups]


def _one(between: str, lexicon: Lexicon) -> bool:
    """Whether only small words lie between."""
    return all(word in lexicon.between_places for word in _PART.findall(between))


def _spot(group: Sequence[Match]) -> Spot:
    sides = {m.what for m in group if m.kind == "side"} or {m.side for m in group if m.side}
    side = None if not sides else "both" if len(sides) > 1 else sides.pop()
    places = dict.fromkeys(m.what for m in group if m.kind == "place")
    return Spot(group[0].start, max(m.end for m in group), side, tuple(places))


def assigned(
    sentence: str, found: Sequence[Match], told: Sequence[str | None], things: Sequence[Spot] | Sequence[Match], lexicon: Lexicon
) -> list[list[int]]:  # fmt: skip
    """Of each finding the numbers of the spots (or changes) that are said of it.

    One that stands in a finding's words or right before them is that finding's; any other is of the nearest finding before it in the
    clause, else of the nearest after it. What is said before the first or after the last of a list of findings ("effusion and
    atelectasis on the left") is said of those of the list that have none of their own.
    """
    own: list[list[int]] = [[] for _ in found]
    ahead: dict[int, bool] = {}
    for number, thing in enumerate(things):
        which = _whose(sentence, found, thing, lexicon)
        if which is not None:
            own[which].append(number)
            ahead[number] = thing.start < found[which].start
    shared, same = [list(mine) for mine in own], [False] * len(found)
    for i in range(1, len(found)):
        apart = sentence[found[i - 1].end : found[i].start]
        same[i] = told[i - 1] == told[i] and joined(apart, lexicon)
        if found[i - 1].start == found[i].start:
            shared[i - 1] = shared[i] = shared[i - 1] or shared[i]  # one word for two findings
        elif same[i] and not own[i]:
            shared[i] = [n for n in shared[i - 1] if ahead[n]]
    for i in range(len(found) - 2, -1, -1):
        if same[i + 1] and not shared[i]:
            shared[i] = [n for n in shared[i + 1] if not ahead[n]]
    return shared


def _whose(sentence: str, found: Sequence[Match], thing: Spot | Match, lexicon: Lexicon) -> int | None:
    within = [i for i, f in enumerate(found) if f.start <= thing.start < f.end]
    if within:
        return within[0]
    after = [
        i
        for i, f in enumerate(found)
        if f.start >= thing.start and not _BREAK.search(sentence[thing.end : max(f.start, thing.end)])
    ]
    before = [
        i for i, f in enumerate(found) if f.end <= thing.start and not _BREAK.search(sentence[f.end : thing.start])
    ]
    if after and not (before and _led_to(sentence[: thing.start], lexicon)):
        between = sentence[thing.end : max(found[after[0]].start, thing.end)]
        if len(between.split()) <= 4 and not any(word in lexicon.not_before_finding for word in _PART.findall(between)):
            return after[0]
    if before:
        spared = isinstance(thing, Spot) and any(
            word in lexicon.spares for word in _PART.findall(sentence[found[before[-1]].end : thing.start])
        )
        return None if spared else before[-1]
    return after[0] if after else None


def _led_to(before: str, lexicon: Lexicon) -> bool:
    """Whether a word such as "in" stands right before, or before an article."""
    return any(word in lexicon.leads_to_place for word in _PART.findall(before)[-2:])
