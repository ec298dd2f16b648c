"""How far the labeller of findings agrees with people: on its gold sets, on real notes, and on the phantom's known facts.

    python -m benchmarks.results.findings [--notes …/covid-chestxray/metadata.csv] [--patients 1500]

`gold` is what the rules were written with, `development` real notes that they were then mended by, `holdout` other real notes for which
nothing was changed: only the last one says how good they are. A mention counts as found where finding and status agree. Intervals:
95%, percentile bootstrap over sentences, 2000 draws.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from polyclinic.phantom.people import generator, person
from polyclinic.phantom.report import write
from polyclinic.records.findings import Mention, read_findings

STATUS = {"+": "present", "-": "absent", "?": "uncertain"}
HERE = Path(__file__).parents[2] / "tests/records/findings"
DRAWS = 2000
Sentence = tuple[str, list["Label"], bool]
"""The words, their labels, and whether an earlier study is spoken of."""


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
        """What the labeller read."""
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


def gold(name: str, notes: Path | None = None) -> Iterator[Sentence]:
    """The sentences of a file; of notes that may not be quoted, the words are taken from the set's table."""
    texts = {}
    if notes is not None:
        with notes.open(encoding="utf-8", newline="") as file:
            texts = {row["filename"]: row["clinical_notes"] for row in csv.DictReader(file)}
    for line in (HERE / f"{name}.txt").read_text("utf-8").splitlines():
        if not line.startswith("#"):
            sentence, labels, prior = told(line)
            if notes is not None:
                file_name, first, last = sentence.rsplit(" ", 2)
                sentence = texts[file_name][int(first) : int(last)]
            yield sentence, labels, prior


def told(line: str) -> Sentence:
    """A line of a file."""
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
            mine = max(
                same, key=lambda m: (m.side == true.side) + (m.places == true.places) + (m.compared == true.compared)
            )
            left.remove(mine)
            counts[true.finding, true.status, "hit"] += 1
            for what in ("side", "places", "compared"):
                details[what, getattr(mine, what) == getattr(true, what)] += 1
        for mine in left:
            counts[mine.finding, mine.status, "extra"] += 1
    return Agreement(counts, details)


def read(sentence: str, language: str = "en") -> list[Label]:
    return [Label.of(m) for m in read_findings(sentence, language).mentions]


PLACES = {"upper": "upper lobe", "middle": "middle lobe", "lower": "lower lobe"}


def phantom(index: int, language: str, seed: int = 0) -> tuple[str, list[Label]]:
    """A report of the phantom hospital, and what its facts say."""
    who = {**person(seed, index), "language": ("en", "es").index(language)}
    text, sentences = write(who, generator(seed, index, "report"))
    labels: list[Label] = []
    for fact in (s.fact for s in sentences):
        side, _, lobe = (fact.lobe or "").partition(" ")
        if fact.change:  # a sentence of its own about the finding before it
            last = labels.pop()
            labels.append(Label(last.finding, last.status, last.side, last.places, fact.change))
        elif fact.finding == "none":
            labels.append(Label("no_finding", "present"))
        else:
            labels.append(Label(fact.finding, fact.status, side or None, frozenset(PLACES[p] for p in lobe.split())))
    return text, labels


def interval(rows: Sequence[Agreement], seed: int = 0) -> dict[str, list[float]]:
    """Precision and recall over sentences, each with its 95% interval."""
    counts = np.array(
        [[sum(n for k, n in r.counts.items() if k[2] == what) for what in ("hit", "extra", "missed")] for r in rows]
    )
    rng = np.random.default_rng(seed)
    weights = np.vstack([np.ones(len(rows)), rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), DRAWS)])
    hit, extra, missed = (weights @ counts).T
    found = {}
    for name, other in (("precision", extra), ("recall", missed)):
        drawn = hit / (hit + other)
        found[name] = [round(float(v), 3) for v in (drawn[0], *np.nanpercentile(drawn[1:], [2.5, 97.5]))]
    return found


def shown(name: str, pairs: Sequence[tuple[list[Label], list[Label]]]) -> dict[str, object]:
    """Print the figures of (read, labelled) texts."""
    every, at = agreement(pairs), interval([agreement([pair]) for pair in pairs])
    print(f"\n{name}: {len(pairs)} texts, {every.scores()['all'][2]} labels")
    for what, (value, low, high) in at.items():
        print(f"  {what:<28}{value:.3f} ({low:.3f}, {high:.3f})")
    for by in (1, 0):
        for key, (precision, recall, n) in every.scores(by).items():
            print(f"  {key:<28}precision {precision:.3f}  recall {recall:.3f}  n = {n}")
    details = {what: every.detail(what) for what in ("side", "places", "compared")}
    for what, (share, n) in details.items():
        print(f"  {what + ' right':<28}{share:.3f}  of {n} found")
    return {"texts": len(pairs), **at, **{what: round(share, 3) for what, (share, _) in details.items()}}


def main() -> None:
    """Read everything, and count."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--notes", type=Path, help="metadata.csv of covid-chestxray-dataset")
    parser.add_argument("--patients", type=int, default=1500, help="of the phantom")
    told_ = parser.parse_args()
    figures = {}
    for language in ("en", "es"):
        figures[f"gold {language}"] = shown(
            f"gold {language}", [(read(s, language), w) for s, w, _ in gold(f"gold.{language}")]
        )
    for name in ("development", "holdout") if told_.notes else ():
        figures[name] = shown(name, [(read(s), w) for s, w, _ in gold(name, told_.notes)])
    for language in ("en", "es"):
        texts = [phantom(i, language) for i in range(told_.patients)]
        figures[f"phantom {language}"] = shown(f"phantom {language}", [(read(t, language), w) for t, w in texts])
    print(json.dumps({"name": "findings", **figures}))


if __name__ == "__main__":
    main()
