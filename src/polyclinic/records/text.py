"""Plain-text notes (`.txt`): an optional head of `Patient:`, `Date:`, `Type:` lines, a blank line, the words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..schema import Modality, Payload, Record, Rejected
from .sections import sections
from .source import RecordError, content_id, encoding_of, parse_time, place_of

_HEAD = re.compile(r"^(patient|patient id|date|time|type|site|language)\s*:\s*(.*)$", re.IGNORECASE)
_LARGEST = 8 * 2**20


def recognises(path: Path, head: bytes) -> bool:
    """Whether the name ends in .txt or .text and the content is text."""
    return path.suffix.lower() in {".txt", ".text"} and (b"\x00" not in head or encoding_of(head) == "utf-16")


def split_head(text: str) -> tuple[dict[str, str], str]:
    """The head's fields (lower case) and the body."""
    lines = text.lstrip("\ufeff").splitlines()
    fields: dict[str, str] = {}
    for number, line in enumerate(lines):
        match = _HEAD.match(line.strip())
        if match is None:
            start = number + 1 if fields and not line.strip() else number
            return fields, "\n".join(lines[start:]).strip()
        fields[match[1].lower().replace(" id", "")] = match[2].strip()
    return fields, ""


def _words(path: Path) -> str:
    if path.stat().st_size > _LARGEST:
        raise RecordError("a note of over 8 MiB", "a note", "split it, or give it as a table")
    data = path.read_bytes()
    return data.decode(encoding_of(data), errors="replace")


def read(path: Path, root: Path) -> Iterator[Record | Rejected]:
    """One record a note; the patient from its head, else from the name up to the first `_`."""
    fields, body = split_head(_words(path))
    if not body:
        raise RecordError("a note without words", "text under the head", "export it again")
    kind = fields.get("type") or "note"
    date, hour = fields.get("date", ""), fields.get("time", "")
    yield Record(
        id=content_id(path),
        patient=fields.get("patient") or path.stem.split("_")[0],
        time=parse_time(f"{date} {hour}".strip()) or parse_time(date),
        modality=Modality.TEXT,
        kind=kind if re.search("note|report|letter|summary", kind, re.IGNORECASE) else f"note {kind}",
        uri=place_of(path, root),
        site=fields.get("site"),
        attributes={
            "words": len(body.split()),
            "language": fields.get("language"),
            "sections": " ".join(dict.fromkeys(part.name for part in sections(body) if part.name)) or None,
            "anonymous": not fields.get("patient"),
        },
    )


def load(record: Record) -> Payload:
    """The note's words in `Payload.text`; the array is empty until it is tokenised."""
    return Payload(np.empty(0, dtype=np.int64), text=split_head(_words(Path(record.uri)))[1])
