"""Names of omics samples: one that says whose it is keeps the link to that patient, and nothing else of it stays."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ..genes import patient_of_sample
from ..tables import identifier
from .cleaning import Cleaning
from .known import Known


def note(names: Iterable[str], known: Known) -> None:
    """Note whose samples there are."""
    for name in names:
        if name.strip():
            known.patient(patient_of_sample(name) or identifier(name))
            known.identify(name)


def person_of(name: str) -> str:
    """Whose a sample is, as the readers have it."""
    return patient_of_sample(name) or identifier(name)


def renamed(name: str, cleaning: Cleaning) -> str:
    """A sample's new name: a patient's pseudonym, and of a TCGA barcode which of the patient's samples it is (`01A`)."""
    if not name.strip():
        return name
    patient = patient_of_sample(name)
    if patient is None:
        return cleaning.key.pseudonym(identifier(name))
    part = name.strip().upper().replace(".", "-")[len(patient) :].split("-")[1:2]
    kept = part[0] if part and re.fullmatch(r"\d\d[A-Z]?", part[0]) else ""
    return cleaning.key.pseudonym(patient) + (f"-{kept}" if kept else "")


def renamed_all(names: Sequence[str], cleaning: Cleaning) -> list[str]:
    """As `renamed`, no two alike: what only an aliquot's number told apart is counted."""
    new: list[str] = []
    taken: set[str] = set()
    for name in names:
        made, number = renamed(name, cleaning), 1
        while made in taken and made:
            number += 1
            made = f"{renamed(name, cleaning)}-{number}"
        taken.add(made)
        new.append(made)
    return new
