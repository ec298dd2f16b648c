"""FHIR R4 and R5 in JSON: bundles of any number of people, single resources, and bulk export (NDJSON, also gzipped).

Observations, conditions, medication and the like are events; a report's or a document's words are a TEXT record. A document that
only has an address is set aside: nothing is fetched.

Source: HL7 FHIR R4 and R5, Bundle, References (`reference`, `fullUrl`, contained), and the Bulk Data Access guide for NDJSON.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import Events, Modality, Payload, Record, Rejected
from .documents import decoded, words_of
from .fhir_resources import (
    DOCUMENTS,
    EVENTS,
    Resource,
    code_of,
    fields,
    first,
    happened,
    items,
    name_of,
    take,
    take_person,
    time_of,
)
from .history import History
from .source import Lines, RecordError, content_id, open_text, part_number, place_id, place_of

_LARGEST = 128 * 2**20
"""JSON takes twenty times its size in memory, at worst."""
_REFERENCE = re.compile(r"(?:^|/)([A-Z][A-Za-z]+)/([A-Za-z0-9.\-]{1,64})(?:/_history/[^/]+)?$")
_LINES = (".ndjson", ".jsonl", ".ndjson.gz", ".jsonl.gz")
_DEEPEST = 4


def recognises(path: Path, head: bytes) -> bool:
    """Whether it is JSON, or lines of JSON, that name a FHIR resource type."""
    name = path.name.lower()
    if name.endswith(".gz") and name.endswith(_LINES):
        try:
            head = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, 4096)
        except zlib.error:
            return False
    return name.endswith((".json", *_LINES)) and b"{" in head[:64] and b'"resourceType"' in head


class _Source:
    """What a file holds, and how its references lead from one resource to another."""

    def __init__(self, path: Path) -> None:
        self.path, self.lines = path, path.name.lower().endswith(_LINES)
        self.by_url: dict[str, Resource] = {}
        self.alone: str | None = None
        self.bundle = False
        self.sites: dict[str, str] = {}
        self.all = [] if self.lines else list(self._whole())
        people = [r for r in self.all if r.get("resourceType") == "Patient"]
        if len(people) == 1:  # what names nobody is this one's
            self.alone = self.name(people[0])
        for person in people:
            if (name := self.name(person)) and (site := self.site(person)):
                self.sites[name] = site

    def _whole(self) -> Iterator[Resource]:
        if self.path.stat().st_size > _LARGEST:
            raise RecordError(
                f"a bundle of over {_LARGEST >> 20} MiB", "a person's bundle", "use the bulk export (NDJSON)"
            )
        try:
            found = json.loads(self.path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise RecordError("JSON that does not parse", "a whole FHIR bundle", "export it again") from error
        if not isinstance(found, dict) or not isinstance(found.get("resourceType"), str):
            raise RecordError(
                "JSON that is no FHIR resource", "a Bundle or a resource", "export the person's bundle ($everything)"
            )
        if found["resourceType"] == "Bundle":
            self.bundle = True
            yield from self._entries(found, _DEEPEST)
        else:
            self._known(found, None)
            yield found

    def _entries(self, bundle: Resource, depth: int) -> Iterator[Resource]:
        """The newest version of each resource of a bundle; a deleted one has no resource."""
        entries = [fields(e) for e in items(bundle.get("entry"))]
        versions = [(str(fields(fields(e.get("resource")).get("meta")).get("lastUpdated", "")), e) for e in entries]
        newest: dict[object, tuple[str, Resource]] = {}
        for number, (updated, entry) in enumerate(versions):
            resource = fields(entry.get("resource"))
            key = (str(resource.get("resourceType")), str(resource["id"])) if resource.get("id") else number
            if resource and (key not in newest or updated > newest[key][0]):
                newest[key] = (updated, entry)
        for _, entry in newest.values():
            resource = entry["resource"]
            if resource.get("resourceType") == "Bundle" and depth:
                yield from self._entries(resource, depth - 1)
            elif isinstance(resource.get("resourceType"), str):
                self._known(resource, entry.get("fullUrl"))
                yield resource

    def _known(self, resource: Resource, url: Any) -> None:
        if isinstance(url, str):
            self.by_url[url] = resource
            resource.setdefault("id", url.rsplit(":", 1)[-1].rsplit("/", 1)[-1])
        if resource.get("id"):
            self.by_url.setdefault(f"{resource['resourceType']}/{resource['id']}", resource)

    def numbered(self, history: History | None = None) -> Iterator[tuple[int, Resource]]:
        """Every resource with its number, from 1; of lines, one at a time, and a broken one is left out."""
        if not self.lines:
            yield from enumerate(self.all, 1)
            return
        with open_text(self.path) as stream:
            lines = Lines(stream)
            for number, line in enumerate(lines, 1):
                lines.fed = 0
                try:
                    found = json.loads(line) if line.strip() else None
                except (ValueError, RecursionError):
                    found = 0
                if isinstance(found, dict) and isinstance(found.get("resourceType"), str):
                    yield number, found
                elif found is not None and history is not None:
                    history.leave("lines that are no FHIR resource", "a JSON object a line", "export them again")

    def name(self, person: Resource) -> str:
        """What a Patient is called everywhere: its id, not its names."""
        return str(person.get("id") or re.sub(r"\W", "", self.path.stem))

    def site(self, person: Resource) -> str | None:
        """The organisation that keeps the patient's record."""
        where = fields(person.get("managingOrganization"))
        reference = where.get("reference")
        name = where.get("display") or (reference.rsplit("/", 1)[-1] if isinstance(reference, str) else None)
        return str(name) if name else None

    def resolve(self, reference: Any, within: Resource | None = None) -> Resource | None:
        """The resource that a Reference means: a contained one, one of this bundle, a Medication of the export's other file."""
        url = fields(reference).get("reference")
        if not isinstance(url, str):
            return None
        if url.startswith("#"):
            return next(
                (c for c in map(fields, items(fields(within).get("contained"))) if c.get("id") == url[1:]), None
            )
        kind = _REFERENCE.search(url)
        found = self.by_url.get(url) or (self.by_url.get(f"{kind[1]}/{kind[2]}") if kind else None)
        if found is None and kind and kind[1] == "Medication" and self.lines:
            return _medications(self.path.parent, self.path.parent.stat().st_mtime_ns).get(kind[2])
        return found

    def patient(self, resource: Resource) -> str | None:
        """Whose a resource is; None where it says nobody's, or a group's or a device's."""
        reference = first(resource.get("subject")) or resource.get("patient")
        target = self.resolve(reference, resource)
        if target is not None:
            return self.name(target) if target.get("resourceType") == "Patient" and target.get("id") else None
        url = fields(reference).get("reference")
        if isinstance(url, str):
            kind = _REFERENCE.search(url)
            return kind[2] if kind and kind[1] == "Patient" else None
        return self.alone


@lru_cache(maxsize=2)
def _medications(folder: Path, changed: int) -> dict[str, Resource]:
    """The codes of a bulk export's Medication file, by id."""
    found: dict[str, Resource] = {}
    for path in sorted(
        p for p in folder.iterdir() if p.name.lower().endswith(_LINES) and p.name.lower().startswith("medication.")
    ):
        found |= {str(r["id"]): {"code": r.get("code")} for _, r in _Source(path).numbered() if r.get("id")}
    return found


def read(path: Path, root: Path) -> Iterator[Record | Rejected | Events]:
    """The events of all its people in tables, its documents as TEXT records, and what was left out, with how many."""
    source, history = _Source(path), History(place_of(path, root))
    digest = ""
    for number, resource in source.numbered(history):
        try:
            words = _take(source, resource, history)
        except (AttributeError, KeyError, TypeError, ValueError):  # of another form than FHIR's; the others go on
            history.leave("resources of another form than FHIR's", "FHIR R4 or R5", "validate the export")
            continue
        if words:
            digest = digest or content_id(path)
            yield _document(source, resource, words, f"item={number}", history.place, digest)
        if history.full():
            yield from history.given()
    if not history.count and not digest and not history.left:
        found = "a bundle of 0 Patients" if source.bundle else "a FHIR file without a patient's history"
        raise RecordError(found, "patients, observations, conditions or the like", "leave it out")
    yield from history.given()
    yield from history.aside()


def _take(source: _Source, resource: Resource, history: History) -> str | None:
    """Put a resource's events into the history; the words of a document whose patient is known."""
    kind = resource["resourceType"]
    if kind == "Patient":
        return take_person(resource, source.name(resource), source.site(resource), history)
    if not (kind in EVENTS or kind in DOCUMENTS) or not happened(resource):
        return None
    patient = source.patient(resource)
    if patient is None:
        return history.leave(
            "entries of no known patient", "a subject that is a Patient", "export the subjects with them"
        )
    if kind in EVENTS:
        return take(resource, patient, source.sites.get(patient), history, lambda r: source.resolve(r, resource))
    try:
        return _words(source, resource)
    except RecordError as error:
        what = error.found.removeprefix("a ").replace("document", "documents", 1)
        return history.leave(what, error.expected, error.remedy)


def _document(source: _Source, resource: Resource, words: str, part: str, place: str, digest: str) -> Record:
    """The TEXT record of a report or a document."""
    patient, report = source.patient(resource) or "", resource["resourceType"] == "DiagnosticReport"
    concept = resource.get("code" if report else "type")
    called = name_of(concept) or code_of(concept) or ""
    if not re.search("note|report|letter|summary", called, re.IGNORECASE):
        called = f"{'report' if report else 'note'} {called}".strip()
    return Record(
        id=place_id(digest, part),
        patient=patient,
        time=time_of(resource, DOCUMENTS[resource["resourceType"]]),
        modality=Modality.TEXT,
        kind=called[:100],
        uri=f"{place}#{part}",
        site=source.sites.get(patient),
        attributes={
            "words": len(words.split()),
            "language": str(resource["language"]) if resource.get("language") else None,
        },
    )


def _words(source: _Source, resource: Resource) -> str | None:
    """A document's words: of its forms the first that has any, and a report's conclusion where they do not say it.

    None for a report that only points to its observations.

    Raises:
        RecordError: forms without words only.
    """
    attachments = [fields(fields(c).get("attachment")) for c in items(resource.get("content"))]
    reason: RecordError | None = None
    words: str | None = None
    for attachment in [*attachments, *map(fields, items(resource.get("presentedForm")))]:
        try:
            words = _attached(source, attachment, resource)
            break
        except RecordError as error:
            reason = reason or error
    conclusion = resource.get("conclusion")
    if isinstance(conclusion, str) and conclusion.strip() and conclusion.strip() not in (words or ""):
        return f"{words}\n\nConclusion: {conclusion.strip()}" if words else conclusion.strip()
    if words is None and reason is not None:
        raise reason
    return words


def _attached(source: _Source, attachment: Resource, within: Resource) -> str:
    """The words of an attachment, which holds them or leads to a Binary of the same bundle.

    Raises:
        RecordError: they are elsewhere, or it has none.
    """
    data, kind = attachment.get("data"), str(attachment.get("contentType", ""))
    if not data and attachment.get("url"):
        binary = fields(source.resolve({"reference": attachment["url"]}, within))
        data, kind = binary.get("data"), str(binary.get("contentType", kind))
        if not data:
            raise RecordError(
                "a document behind an address",
                "its words in the export",
                "export it with its content (nothing is fetched)",
            )
    if not isinstance(data, str) or not data:
        raise RecordError("a document without content", "its words in the export", "export it with its content")
    return words_of(decoded(data), kind)


def load(record: Record) -> Payload:
    """A document's words in `Payload.text`.

    Raises:
        RecordError: they are no longer there.
    """
    place = record.uri.rsplit("#", 1)[0]
    source, number = _Source(Path(place)), part_number(record.uri, "item")
    resource = next((r for n, r in source.numbered() if n == number), None)
    words = _words(source, resource) if resource is not None else None
    if words is None:
        raise RecordError("a FHIR file without the document that it had", "the file as ingested", "ingest it again")
    return Payload(np.empty(0, dtype=np.int64), text=words)
