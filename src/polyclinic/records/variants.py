"""What VCF and MAF share: mutations counted by sample and gene, and the records and arrays of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..schema import Modality, Payload, Record, Rejected, Scalar
from . import genes
from .naming import patient_of
from .source import RecordError, content_id, part_number, place_id, place_of, split_uri

MOST_REASONS = 20
"""Rows of a file that are set aside one by one; of the others it is told how many they are."""
MOST_SAMPLES, MOST_COUNTS = 100_000, 10_000_000
"""Of a file, which is held as a whole: samples, and genes with a count, over all samples."""
NAMELESS = frozenset({"tumor", "tumour", "sample", "sample1", "unknown", "none", "proband", "default"})
"""What callers write where they were not told a sample's name."""


@dataclass(slots=True)
class Sample:
    """One sample's mutations.

    Args:
        name: as the file has it; None where it has none.
        counts: by the payload's names (`TP53_mut`, `chr7_variants`); what is not in it is 0.
        about: sums and rates, for the record's attributes.
    """

    name: str | None
    counts: Counter[str] = field(default_factory=Counter)
    about: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Mutations:
    """What a file holds: its samples, what holds of all of them, and the rows that were left out (number → reason)."""

    samples: list[Sample]
    about: dict[str, Scalar] = field(default_factory=dict)
    wrong: dict[int, RecordError] = field(default_factory=dict)
    more_wrong: int = 0

    def leave_out(self, row: int, reason: RecordError) -> None:
        """Note a row that is none."""
        if len(self.wrong) < MOST_REASONS:
            self.wrong[row] = reason
        else:
            self.more_wrong += 1

    def check(self, row: int) -> None:
        """Now and then, whether a file grows beyond bound.

        Raises:
            RecordError: it does.
        """
        if row % 1000 == 1 and (
            len(self.samples) > MOST_SAMPLES or sum(len(s.counts) for s in self.samples) > MOST_COUNTS
        ):
            raise RecordError(
                "more samples or mutations than are held at once", f"{MOST_SAMPLES} samples, {MOST_COUNTS} genes with a count",
                "split the file by samples",
            )  # fmt: skip

    def names(self) -> list[str]:
        """Every name that any sample has, sorted."""
        return sorted(set().union(*(s.counts for s in self.samples)))


def records_of(found: Mutations, path: Path, root: Path, stem: str) -> Iterator[Record | Rejected]:
    """A record a sample, `#sample=2`; the normal sample beside a tumour is none of its own.

    Args:
        found: the file's.
        path: the file.
        root: the ingested folder.
        stem: its name without endings, for a sample that has none.
    """
    source, place = content_id(path), place_of(path, root)
    for row, reason in found.wrong.items():
        yield Rejected(f"{place}#row={row}", f"{reason.found} (line {row})", reason.expected, reason.remedy)
    if found.more_wrong:
        yield Rejected(place, f"{found.more_wrong} more lines that are none", "whole lines", "export it again")
    for number, sample in enumerate(found.samples):
        uri, name = f"{place}#sample={number}", (sample.name or "").strip()
        if name.lower() == "normal" and len(found.samples) > 1:
            yield Rejected(
                uri, "the normal sample of a tumour", "a tumour's", "nothing: the tumour's variants are read"
            )
            continue
        named = bool(name) and name.lower() not in NAMELESS
        who = genes.patient_of_sample(name) or name if named else patient_of(place, stem) or stem
        yield Record(
            id=place_id(source, f"sample={number}"),
            patient=who,
            time=None,
            modality=Modality.OMICS,
            kind="mutation",
            uri=uri,
            attributes={**found.about, **sample.about, **({"sample": name} if named else {"anonymous": True})},
        )


def load(record: Record, mutations: Callable[[Path, int], Mutations]) -> Payload:
    """(g,) float32 counts of one sample over the names of all of its file's.

    Args:
        record: the sample's.
        mutations: reads a file, as it was when it last changed.
    Raises:
        RecordError: it is gone.
    """
    path, number = Path(split_uri(record.uri)[0]), part_number(record.uri, "sample") or 0
    found = mutations(path, path.stat().st_mtime_ns)
    if number >= len(found.samples):
        raise RecordError(f"no sample {number} in {path.name}", "the file as ingested", "ingest it again")
    names = found.names()
    counts = found.samples[number].counts
    return Payload(np.array([counts.get(n, 0) for n in names], dtype=np.float32), names=tuple(names))
