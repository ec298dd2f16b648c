"""Tables and EHR events: known codes with their standardised value and hour; a label column never enters."""

from __future__ import annotations

from collections.abc import Collection
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
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["table"] = "table"
    exclude: tuple[str, ...] = ()
    fewest: int = Field(default=3, ge=1)
    most: int = Field(default=512, ge=1)


def is_of(name: str, columns: Collection[str]) -> bool:
    """Whether an event is of one of the columns, whose own names may hold a `=`."""
    return any(name == column or name.startswith(column + "=") for column in columns)


def harmonise(payload: Payload, record: Record, standard: TableStandard, fingerprint: Fingerprint) -> Payload:
    """(e 3) float32: code number, standardised value (0 for a category), hours from the record's first event."""
    excluded = set(standard.exclude)
    rows, names = [], []
    for name, (value, hours) in zip(payload.names, payload.array.reshape(-1, 2), strict=True):
        code = fingerprint.codes.get(name)
        if code is None or is_of(name, excluded):
            continue
        rows.append((code.number, np.clip((value - code.mean) / code.sd, -8, 8) if code.sd > 0 else 0.0, hours))
        names.append(name)
    array = np.array(rows[-standard.most :], dtype=np.float32).reshape(-1, 3)
    return Payload(array, names=tuple(names[-standard.most :]))
