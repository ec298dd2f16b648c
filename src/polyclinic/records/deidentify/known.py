"""Who the records are about: the identifiers and names found in structured fields, before anything is written.

A note rarely gives its patient's name in a form that rules find; the patient's own DICOM header, FHIR resource or table does.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from .words import words

_PART = re.compile(r"[^\W\d_][^\W\d_'’-]*[^\W\d_]")
TITLES = frozenset(
    re.split(
        " ",
        "dr mr mrs ms miss prof professor sir md rn phd jr sr ii iii iv von van der de la del dos da bin al the of and",
    )
)


@dataclass(frozen=True, slots=True)
class Identity:
    """What is known of the person whom one text is about: in lower case."""

    names: frozenset[str] = frozenset()
    ids: AbstractSet[str] = frozenset()


NOBODY = Identity()
"""Nobody of whom anything is known."""


@dataclass(slots=True)
class Known:
    """All that was found in the structured fields of a folder."""

    ids: set[str] = field(default_factory=set)
    people: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    staff: set[str] = field(default_factory=set)
    parts: set[str] = field(default_factory=set)
    lower: Counter[str] = field(default_factory=Counter)
    patients: set[str] = field(default_factory=set)
    files: dict[str, str] = field(default_factory=dict)
    trials: set[str] = field(default_factory=set)
    same: dict[str, str] = field(default_factory=dict)
    ordinary: frozenset[str] = frozenset()
    told: dict[str, Identity] = field(default_factory=dict)

    def identify(self, value: object) -> None:
        """Note an identifier: of a patient, a visit, an examination; a word of the language or a short number is none to look for."""
        text = str(value if value is not None else "").strip().casefold()
        everyday = words("plain") | words("frequent") | words("english")
        if len(text) >= 3 and (len(text) >= 5 or not text.isdecimal()) and text not in everyday:
            self.ids.add(text)

    def patient(self, value: object) -> None:
        """Note whose records there are; a number too short to look for in words still counts in the name of a file."""
        self.identify(value)
        if text := str(value if value is not None else "").strip().casefold():
            self.patients.add(text)

    def file(self, name: str, who: str) -> None:
        """Note whose a file of that name is; nobody's that can be said where there are two."""
        if self.files.setdefault(name.casefold(), who) != who:
            self.files[name.casefold()] = ""

    def person(self, value: str) -> str:
        """One name for a person known by several numbers: dates move together."""
        while (other := self.same.get(value.strip().casefold())) is not None:
            value = other
        return value

    def alike(self, value: str, person: str) -> None:
        """Note that two numbers are one person's."""
        first, second = self.person(value), self.person(person)
        if first.strip().casefold() != second.strip().casefold():
            self.same[first.strip().casefold()] = second

    def name(self, patient: str | None, value: object) -> None:
        """Note a name of a patient, or, without one, of staff."""
        parts = name_parts(str(value if value is not None else ""))
        self.told.clear()
        self.parts |= parts
        (self.people[patient.strip().casefold()] if patient else self.staff).update(parts)

    def of(self, patient: str | None) -> Identity:
        """What is known of one patient and of all staff."""
        who = self.person(patient or "").strip().casefold()
        if who not in self.told:
            if len(self.told) > 1000:
                self.told.clear()
            self.told[who] = Identity(
                frozenset(self.people.get(who, set()) | self.staff), self.ids
            )  # the set itself: there may be millions
        return self.told[who]

    def close(self) -> None:
        """All was looked at: what the notes write small, again and again, is no name for its large first letter."""
        self.ordinary = frozenset(word for word, n in self.lower.items() if n >= 3 and word not in self.parts)
        for who in list(self.people):  # a number may have become another's only after its names were noted
            if (person := self.person(who).strip().casefold()) != who:
                self.people[person] |= self.people.pop(who)
        self.told.clear()


def name_parts(value: str) -> set[str]:
    """`Doe^Jane Q.` → doe, jane. Numbers at the end, as synthetic people have, are kept apart."""
    whole = {t.casefold() for t in re.findall(r"[^\W\d_]+\d+", value)}
    return whole | {p.casefold() for p in _PART.findall(value) if p.casefold() not in TITLES}
