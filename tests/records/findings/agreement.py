"""Labelled sentences, and how far a reading agrees with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from polyclinic.records.findings import Mention, read_findings

STATUS = {"+": "present", "-": "absent", "?": "uncertain"}
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Label:
    """What a person read."""

    finding: str
    status: str
    side: str | None = None
    places: frozenset[str] = frozenset()
    compared: str | None = None

    @classmethod
    def of(cls, mention: Mention) -> Label:
        return cls(mention.finding, mention.status, mention.side, frozenset(mention.places), mention.compared)


def label(words: str) -> Label:
    """`effusion + left @base,apex ~new`."""
    head, _, change = words.partition("~")
    head, _, places = head.partition("@")
    finding, status, *side = head.split()
    return Label(
        finding, STATUS[status], side[0] if side else None,
        frozenset(p.strip() for p in places.split(",") if p.strip()), change.strip() or None,
    )  # fmt: skip


def gold(name: str) -> Iterator[tuple[str, list[Label], bool]]:
    """(sentence, its labels, whether it speaks of an earlier study) of each line of a file."""
    for line in (HERE / name).read_text("utf-8").splitlines():
        if not line.startswith("#"):
            sentence, labels, prior = told(line)
            yield sentence, labels, prior


def told(line: str) -> tuple[str, list[Label], bool]:
    sentence, _, said = line.partition("\t")
    parts = [p.strip() for p in said.split(";") if p.strip()]
    labels = [label(p) for p in parts if p != "prior"]
    return sentence, labels, "prior" in parts or any(x.compared for x in labels)


@dataclass
class Agreement:
    """Counts (matched, said too much, missed) by finding and status; and of what was matched, how often the rest agrees too."""

    counts: Counter[tuple[str, str, str]]
    details: Counter[tuple[str, bool]]

    def scores(self, by: int | None = None) -> dict[str, tuple[float, float, int]]:
        """Precision, recall and n (labels) over all, by finding (0) or by status (1)."""
        found: dict[str, Counter[str]] = {}
        for key, n in self.counts.items():
            found.setdefault("all" if by is None else key[by], Counter())[key[2]] += n
        share = lambda a, b: a / (a + b) if a + b else float("nan")
        return {
            k: (share(c["hit"], c["extra"]), share(c["hit"], c["missed"]), c["hit"] + c["missed"])
            for k, c in sorted(found.items())
        }

    def detail(self, name: str) -> tuple[float, int]:
        """The share of matched mentions whose side, places or change is right too, and how many are matched."""
        right, wrong = self.details[name, True], self.details[name, False]
        return right / (right + wrong), right + wrong


def agreement(pairs: Iterable[tuple[list[Label], list[Label]]]) -> Agreement:
    """Of (read, labelled) sentences; a mention is matched where finding and status are the same, in their order."""
    counts: Counter[tuple[str, str, str]] = Counter()
    details: Counter[tuple[str, bool]] = Counter()
    for read, labelled in pairs:
        left = list(read)
        for true in labelled:
            same = [m for m in left if (m.finding, m.status) == (true.finding, true.status)]
            if not same:
                counts[true.finding, true.status, "missed"] += 1
                continue
            mine = max(same, key=lambda m: (m.side == true.side) + (m.places == true.places) + (m.compared == true.compared))
            left.remove(mine)
            counts[true.finding, true.status, "hit"] += 1
            for what in ("side", "places", "compared"):
                details[what, getattr(mine, what) == getattr(true, what)] += 1
        for mine in left:
            counts[mine.finding, mine.status, "extra"] += 1
    return Agreement(counts, details)


def read(sentence: str, language: str = "en") -> list[Label]:
    return [Label.of(m) for m in read_findings(sentence, language).mentions]
