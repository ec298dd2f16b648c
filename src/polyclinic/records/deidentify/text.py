"""Notes (`.txt`): the head's fields anew, the body by the rules for notes."""

from __future__ import annotations

import re
from pathlib import Path

from .. import text as reader
from ..source import RecordError, encoding_of, parse_time
from .cleaning import Cleaning
from .keyed import moved_time
from .known import Known

_PAPERS = frozenset({"readme", "license", "licence", "notice"})


def recognises(path: Path, head: bytes) -> bool:
    """Whether it is a text, and none about the data."""
    return reader.recognises(path, head) and path.stem.lower() not in _PAPERS


def _words(path: Path) -> str:
    if path.stat().st_size > 8 << 20:
        raise RecordError("a note of over 8 MiB", "a note", "split it, or give it as a table")
    data = path.read_bytes()
    return data.decode(encoding_of(data), errors="replace")


def survey(path: Path, place: str, known: Known) -> str:
    """Whose the note is; what it writes small is no name."""
    fields, body = reader.split_head(_words(path))
    known.lower.update(re.findall(r"\b[a-z][a-z'’-]+\b", body))
    return fields.get("patient") or path.stem.split("_")[0]


def _head(fields: dict[str, str], cleaning: Cleaning) -> list[str]:
    head = []
    for name, value in fields.items():
        if name == "patient":
            head.append(f"Patient: {cleaning.key.pseudonym(value)}")
        elif name == "date":
            moment = parse_time(value)
            if moment and cleaning.options.dates == "shift":
                head.append(f"Date: {moved_time(moment, cleaning.days):%Y-%m-%d}")
        elif name == "time" and re.fullmatch(r"\d{1,2}:\d\d(:\d\d)?", value):
            head.append(f"Time: {value}")
        elif name == "site" and value:
            head.append(f"Site: {cleaning.key.pseudonym(value)}")
        elif name in ("type", "language"):
            head.append(f"{name.capitalize()}: {cleaning.scrubbed(value).text}")
    return head


def deidentify(path: Path, to: Path, cleaning: Cleaning) -> None:
    """Write the note anew.

    Raises:
        RecordError: it is larger than any note.
    """
    fields, body = reader.split_head(_words(path))
    head = _head(fields, cleaning)
    done = cleaning.scrubbed(body)
    start = len("\n".join(head)) + 2 if head else 0
    to.write_text(("\n".join(head) + "\n\n" if head else "") + done.text + "\n", encoding="utf-8")
    for kind, n in sorted(done.found.items()):
        cleaning.did(f"{n} × {kind}", "C: words")
    for span in done.unsure:
        cleaning.ask(f"characters {start + span.start}–{start + span.stop}", "may be a name")
