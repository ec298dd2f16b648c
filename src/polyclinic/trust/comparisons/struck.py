"""Notes without the words that give the diagnosis away: what is left of a figure that may have been read off the text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from ...cohort import Cohort
from ...records import content_id
from ...schema import Modality, Payload, Record

DISEASE_WORDS = (
    "covid", "sars", "mers", "ncov", "coronavirus", "corona virus", "pneumoni", "pneumocystis", "influenza", "h1n1",
    "legionella", "klebsiella", "streptococc", "mycoplasma", "varicella", "tuberculosis", "lipoid", "herpes",
    "chlamydophila", "e. coli", "e.coli", "aspergill", "nocardi", "staphylococc", "mrsa", "ards", "pcr",
    "swab", "wuhan", "hiv", "immunocompromised", "acute respiratory distress",
)  # fmt: skip
"""Words by which a note of a chest X-ray gives its diagnosis away."""


def strike(text: str, words: Sequence[str]) -> str:
    """The text without the words, whatever their case, and without what is joined to them (`COVID-19-positive`)."""
    if not words:
        return text
    pattern = "|".join(re.escape(w) for w in sorted(words, key=len, reverse=True))
    return re.sub(rf"(?i)[\w-]*(?:{pattern})[\w-]*", " ", text)


class Struck(Cohort):
    """A cohort whose notes have lost some words; a note's id changes with its words, so that no cache mistakes one for the other."""

    def __init__(self, cohort: Cohort, words: Sequence[str]) -> None:
        super().__init__(cohort.path)
        self.cohort, self.words = cohort, tuple(words)
        self._whole: dict[str, Record] = {}

    def records(self, where: str | None = None, patients: Sequence[str] | None = None) -> list[Record]:
        """As the cohort's."""
        return [self._struck(r) if r.modality is Modality.TEXT else r for r in self.cohort.records(where, patients)]

    def _struck(self, record: Record) -> Record:
        name = content_id(("\x00".join((record.id, *self.words))).encode())
        self._whole[name] = record
        return replace(record, id=name)

    def load(self, record: Record) -> Payload:
        """As the cohort's, without the words."""
        if record.id not in self._whole:
            return self.cohort.load(record)
        payload = self.cohort.note(self._whole[record.id])
        return replace(payload, text=strike(payload.text or "", self.words))
