"""HL7 CDA R2 and C-CDA documents (`defusedxml`): the narrative of their sections as one TEXT record, a heading a line.

The narrative is what a person signed (CDA R2 4.3.5); the entries repeat it in codes, and are left. Entities, external ones too,
and document types are refused: nothing is fetched or expanded.

Source: HL7 Clinical Document Architecture, Release 2.0 (ISO/HL7 27932:2009).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import MissingExtraError, Modality, Payload, Record, Rejected
from .documents import tidy
from .history import sex_code
from .source import RecordError, content_id, parse_time, place_of

_LARGEST = 32 * 2**20
_DEEPEST = 100
_LINES = frozenset({"paragraph", "list", "item", "table", "tr", "br", "caption", "thead", "tbody"})


def recognises(path: Path, head: bytes) -> bool:
    """Whether it is XML whose first element is a ClinicalDocument."""
    text = head.replace(b"\x00", b"")  # UTF-16 too
    return b"ClinicalDocument" in text and text.lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")[:1] == b"<"


def _document(data: bytes) -> Any:
    """The document's element.

    Raises:
        RecordError: it does not parse, is no CDA, or has what does harm.
    """
    try:
        from defusedxml import DefusedXmlException
        from defusedxml.ElementTree import fromstring
    except ImportError as error:
        raise MissingExtraError("defusedxml", "ehr") from error
    try:
        root = fromstring(data, forbid_dtd=True, forbid_entities=True, forbid_external=True)
    except DefusedXmlException as error:
        raise RecordError(
            "a document with entities of its own", "a CDA without a DTD", "check where it comes from"
        ) from error
    except Exception as error:  # ParseError, and whatever encodings raise
        raise RecordError("XML that does not parse", "a whole CDA document", "export it again") from error
    if root.tag.rpartition("}")[2] != "ClinicalDocument":
        raise RecordError("XML that is no ClinicalDocument", "a CDA document", "export it again")
    return root


def _local(element: Any) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _children(element: Any, name: str) -> list[Any]:
    return [child for child in element if _local(child) == name] if element is not None else []


def _at(element: Any, *names: str) -> Any:
    """The first element at the end of a path; None where there is none."""
    for name in names:
        element = next(iter(_children(element, name)), None)
    return element


def _said(element: Any, attribute: str) -> str:
    return str(element.get(attribute) or "") if element is not None else ""


def _narrative(element: Any, depth: int = 0) -> Iterator[str]:
    """The words of a section's text (4.3.5.1): what was struck out (`revised="delete"`) and markup left out."""
    name = _local(element)
    if depth > _DEEPEST or element.get("revised") == "delete" or name in {"renderMultiMedia", "footnoteRef"}:
        return
    if name in _LINES:
        yield "\n"
    yield "- " if name == "item" else "\t" if name in {"td", "th"} else ""
    yield re.sub(r"\s+", " ", element.text or "")
    for child in element:
        yield from _narrative(child, depth + 1)
        yield re.sub(r"\s+", " ", child.tail or "")
    if name in _LINES - {"br"}:
        yield "\n"


def _sections(parent: Any, depth: int = 0) -> Iterator[str]:
    """Sections and the sections in them, each under its title."""
    for component in _children(parent, "component") if depth <= _DEEPEST else ():
        section = _at(component, "section")
        if section is None or section.get("nullFlavor") == "NA":
            continue
        title = " ".join("".join(_at(section, "title").itertext()).split()) if _at(section, "title") is not None else ""
        title = title or _said(_at(section, "code"), "displayName")
        text = _at(section, "text")
        words = tidy("".join(_narrative(text))) if text is not None else ""
        if words:
            yield f"{title.rstrip(':')}:\n{words}" if title else words
        yield from _sections(section, depth + 1)


def _words(root: Any) -> str:
    body = _at(root, "component")
    structured, plain = _at(body, "structuredBody"), _at(body, "nonXMLBody", "text")
    if structured is None and plain is not None:
        from .documents import decoded, words_of

        text = "".join(plain.itertext())
        kind = plain.get("mediaType") or "text/plain"
        if "ClinicalDocument" in text[:4096] or "xml" in kind:
            raise RecordError("a document in a document", "its words", "export it as a file of its own")
        data = decoded(text) if plain.get("representation") == "B64" else text.encode()
        return words_of(data, kind)
    words = "\n\n".join(_sections(structured)) if structured is not None else ""
    if not words:
        raise RecordError("a clinical document without words", "sections with a narrative", "export it again")
    return words


def words_of_document(data: bytes) -> str:
    """The narrative of a CDA document that another format carries.

    Raises:
        RecordError: it is none, or has no words.
    """
    return _words(_document(data))


def _bytes(path: Path) -> bytes:
    if path.stat().st_size > _LARGEST:
        raise RecordError(f"a document of over {_LARGEST >> 20} MiB", "a note", "export it without its pictures")
    return path.read_bytes()


def root_of(path: Path) -> Any:
    """A file's ClinicalDocument element, for who walks it as a whole.

    Raises:
        RecordError: it does not parse, is no CDA, is too large, or has what does harm.
    """
    return _document(_bytes(path))


def _time(element: Any) -> Any:
    """A TS value or the low end of an interval, `YYYYMMDDHHMMSS+ZZZZ`, by its own clock."""
    value = _said(element, "value") or _said(_at(element, "low"), "value")
    return parse_time(re.sub(r"[+-]\d{4}$", "", value))


def read(path: Path, root: Path) -> Iterator[Record | Rejected]:
    """The document as one record: of its service or its encounter's time, else of when it was written."""
    document = _document(_bytes(path))
    words = _words(document)
    role = _at(document, "recordTarget", "patientRole")
    identifier = next((i for i in _children(role, "id") if i.get("extension")), None) if role is not None else None
    person = _at(role, "patient")
    title = _at(document, "title")
    kind = (
        " ".join("".join(title.itertext()).split())
        if title is not None
        else _said(_at(document, "code"), "displayName")
    )
    if not re.search("note|report|letter|summary", kind, re.IGNORECASE):
        kind = f"note {kind}".strip()
    times = (
        _time(_at(document, "documentationOf", "serviceEvent", "effectiveTime")),
        _time(_at(document, "componentOf", "encompassingEncounter", "effectiveTime")),
        _time(_at(document, "effectiveTime")),
    )
    site = _at(document, "custodian", "assignedCustodian", "representedCustodianOrganization", "name")
    sex = sex_code(_said(_at(person, "administrativeGenderCode"), "code"))
    yield Record(
        id=content_id(path),
        patient=identifier.get("extension") if identifier is not None else path.stem.split("_")[0],
        time=next((t for t in times if t is not None), None),
        modality=Modality.TEXT,
        kind=kind[:100],
        uri=place_of(path, root),
        site=(" ".join("".join(site.itertext()).split()) or None) if site is not None else None,
        attributes={
            "words": len(words.split()),
            "language": _said(_at(document, "languageCode"), "code") or None,
            "sex": sex[-1] if sex else None,
            "anonymous": identifier is None,
        },
    )


def load(record: Record) -> Payload:
    """The document's words in `Payload.text`, a section's title before them."""
    return Payload(np.empty(0, dtype=np.int64), text=words_of_document(_bytes(Path(record.uri))))
