"""DICOM measurement reports (TID 1500): one table record a group of measurements, a lesion's or an organ's.

Source: DICOM PS3.16 TID 1500 (measurement report), TID 1501 and 1410 (measurement groups), TID 300 (measurement).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..schema import Modality, Payload, Record, Rejected, Scalar
from . import tables
from .dicom_header import first, record_of, text
from .source import RecordError, content_id, place_of

_REPORT, _GROUP = "126000", "125007"
_EVALUATIONS = "C0034375"
_HOW = {"121401", "370129005", "G-C036", "363698007", "G-C0E3"}
"""What makes another quantity of a measurement: its derivation, method or site, not what is thought of its value."""


def _concept(item: Any) -> tuple[str, str]:
    """Code and meaning of what an item is about."""
    name = first(item, "ConceptNameCodeSequence")
    return text(name, "CodeValue"), text(name, "CodeMeaning")


def mine(dataset: Any) -> bool:
    """Whether it is a measurement report, by its template or its title."""
    template = text(first(dataset, "ContentTemplateSequence"), "TemplateIdentifier")
    return text(dataset, "Modality") == "SR" and (template == "1500" or _concept(dataset)[0] == _REPORT)


def _groups(dataset: Any) -> Iterator[Any]:
    """The groups of measurements and the evaluations, in the report's order."""
    waiting = list(reversed(dataset.get("ContentSequence") or ()))
    while waiting:
        item = waiting.pop()
        if text(item, "ValueType") == "CONTAINER" and _concept(item)[0] in (_GROUP, _EVALUATIONS):
            yield item
        else:
            waiting += reversed(item.get("ContentSequence") or ())


def _coded(items: Sequence[Any]) -> list[tuple[str, str]]:
    """What coded items say: the concept and the value."""
    return [
        (_concept(item)[1], value)
        for item in items
        if text(item, "ValueType") == "CODE" and (value := text(first(item, "ConceptCodeSequence"), "CodeMeaning"))
    ]


def _measured(item: Any) -> tuple[str, float] | None:
    """`Diameter, Maximum (mm)` and its value; None where nothing was measured."""
    measured = first(item, "MeasuredValueSequence")
    try:
        value = float(measured.get("NumericValue"))
    except (TypeError, ValueError):
        return None
    unit = text(first(measured, "MeasurementUnitsCodeSequence"), "CodeValue")
    how = [said for _, said in _coded([i for i in item.get("ContentSequence") or () if _concept(i)[0] in _HOW])]
    name = ", ".join([_concept(item)[1], *how]) + (f" ({unit})" if unit not in ("", "1") else "")
    return (name, value) if math.isfinite(value) else None


def _cells(group: Any) -> dict[str, Scalar]:
    """A group as a row: a column a measurement (with its unit) and a coded finding; names of lesions and free text are left."""
    items = group.get("ContentSequence") or ()
    said: list[tuple[str, Scalar]] = [*_coded(items)]
    said += [found for item in items if text(item, "ValueType") == "NUM" and (found := _measured(item))]
    cells: dict[str, Scalar] = {}
    for name, value in said:
        again = sum(other == name or other.startswith(f"{name} #") for other in cells)
        cells[f"{name} #{again + 1}" if again else name] = value
    return cells


def read(dataset: Any, path: Path, root: Path) -> Iterator[Record | Rejected]:
    """One record a group; kind `SR measurements nodule` where the group says what it is about."""
    content = dataset.get_item("ContentSequence")  # pydicom reads what is left of it and says nothing
    if isinstance(getattr(content, "value", None), bytes) and len(content.value) < content.length:
        raise RecordError("a report that was cut short", "a whole file", "send it again")
    whole, place = record_of(dataset, path, root), place_of(path, root)
    rows = [cells for group in _groups(dataset) if (cells := _cells(group))]
    if not rows:
        raise RecordError("a measurement report without a measurement", "at least one", "leave it out")
    for number, cells in enumerate(rows, start=1):
        about = str(cells.get("Finding") or cells.get("Finding Site") or "")
        yield replace(
            whole,
            id=content_id(path, f"group={number}"),
            modality=Modality.TABLE,
            kind=f"SR measurements {about.lower()}".strip(),
            uri=f"{place}#group={number}",
            attributes=cells,
        )


def load(dataset: Any, record: Record) -> Payload:
    """As a table's row."""
    return tables.load(record)
