"""Files that were whole when they were ingested, and no longer are."""

from __future__ import annotations

import gzip
from pathlib import Path

from polyclinic.cohort import Cohort
from polyclinic.schema import Modality, Record


def path_of(record: Record, folder: Path) -> Path:
    """Where a record's file lies."""
    return folder / record.uri.split("#")[0]


def of(cohort: Cohort, patients: tuple[str, ...], modality: Modality) -> Record:
    """The first record of a modality that some of these patients have, with a file of its own."""
    mine = [r for r in cohort.records() if r.patient in patients and r.modality is modality]
    return next(r for r in mine if not r.attributes.get("mask") and not r.uri.endswith(".csv"))


def cut(path: Path) -> None:
    """End a file in its middle."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def cut_inside(path: Path) -> None:
    """A packed volume whose header and packing are whole, and whose array ends early."""
    data = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(data[: len(data) * 2 // 3]))


def unmarked(path: Path) -> None:
    """Text as UTF-16 that does not say so."""
    path.write_bytes(path.read_text().encode("utf-16-le"))
