"""Tables and EHR events: known codes with their standardised value and hour; a label column never enters."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ..schema import Payload, Record
from .fingerprint import Fingerprint


class TableStandard(BaseModel):
    """Which codes count.

    Args:
        exclude: columns that never enter: labels, outcomes, names of files.
        fewest: a code that fewer training patients have is not learned: it would name a person.
        most: events a record; the latest are kept.
        ancestors: a diagnosis or a drug that is too rare to be learned counts under the nearest of its ancestors that is not
            (ICD-10 E11.65 under E11.6, then E11; ICD-9-CM 250.02 under 250.0, then 250; ATC C09AA05 under C09AA, C09A, C09, C).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["table"] = "table"
    exclude: tuple[str, ...] = ()
    fewest: int = Field(default=3, ge=1)
    most: int = Field(default=512, ge=1)
    ancestors: bool = False


_ATC = (5, 4, 3, 1)
"""Characters of the levels of an ATC code (WHO Collaborating Centre for Drug Statistics Methodology), the finest first."""


def ancestors(name: str) -> tuple[str, ...]:
    """What a code stands under in its own hierarchy, the nearest first; nothing for one that has none.

    Args:
        name: as in `Payload.names`: `ICD10CM E11.65`.
    """
    system, _, code = name.partition(" ")
    if system.startswith("ICD") and system != "ICD10PCS":  # ICD-10-PCS has axes, no hierarchy of prefixes
        before, dot, after = code.partition(".")
        shorter = [f"{before}.{after[:n]}" for n in range(len(after) - 1, 0, -1)] if dot else []
        return tuple(f"{system} {c}" for c in (*shorter, *([before] if dot else [])))
    if system == "ATC":
        return tuple(f"ATC {code[:n]}" for n in _ATC if n < len(code))
    return ()


def is_of(name: str, columns: Collection[str]) -> bool:
    """Whether an event is of one of the columns, whose own names may hold a `=`."""
    return any(name == column or name.startswith(column + "=") for column in columns)


def harmonise(payload: Payload, record: Record, standard: TableStandard, fingerprint: Fingerprint) -> Payload:
    """(e 3) float32: code number, standardised value (0 for a category), hours from the record's first event."""
    excluded = set(standard.exclude)
    rows, names = [], []
    for name, (value, hours) in zip(payload.names, payload.array.reshape(-1, 2), strict=True):
        line = (name, *ancestors(name)) if standard.ancestors else (name,)
        known = next((n for n in line if n in fingerprint.codes), None)
        if known is None or any(is_of(n, excluded) for n in line):  # nor what stands under a label
            continue
        code = fingerprint.codes[known]
        rows.append((code.number, np.clip((value - code.mean) / code.sd, -8, 8) if code.sd > 0 else 0.0, hours))
        names.append(known)
    array = np.array(rows[-standard.most :], dtype=np.float32).reshape(-1, 3)
    return Payload(array, names=tuple(names[-standard.most :]))


def earlier(payload: Payload, hours: float) -> Payload:
    """Of a source's events (e 2), value and hours, those up to an hour: what had not happened yet is not known."""
    events = payload.array.reshape(-1, 2)
    kept = events[:, 1] <= hours
    names = tuple(name for name, there in zip(payload.names, kept, strict=True) if there)
    return replace(payload, array=events[kept], names=names)
