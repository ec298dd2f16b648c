"""FHIR R4 (JSON): people, places and numbers out, ids and references remapped together, dates moved, words through the rules for notes.

What is not known to be harmless is treated as words: an element that a profile adds does not slip through.
Source: HL7 FHIR R4, datatypes and references; 45 CFR 164.514(b)(2).
"""

from __future__ import annotations

import base64
import binascii
import calendar
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from ..source import RecordError
from .cleaning import Cleaning
from .keyed import moved
from .known import Known
from .notes import scrub
from .options import OLDEST

_set = lambda text: frozenset(text.split())
_LARGEST = 256 * 2**20
_PEOPLE = _set(
    """
    Patient Person Practitioner RelatedPerson
    """
)
_PLACES = _set(
    """
    CareTeam Endpoint Group HealthcareService InsurancePlan Location Organization
    """
)
_DROPPED = _set(
    """
    address alias carrierAIDC carrierHRF city contact copyright country dependent deviceIdentifier
    distinctIdentifier district etag expirationDate hash implicitRules line lotNumber manufactureDate
    modifierExtension multipleBirthBoolean multipleBirthInteger patientInstruction photo position postalCode
    preadmissionCheck publisher qualification renderedDosageInstruction security serialNumber signature source
    subscriberId telecom text thumbnail udiCarrier valueAttachment versionId
    """
)
_CODED = _set(
    """
    category code comparator contentType criticality currency daysOfWeek dimensions doNotPerform durationUnit
    fhirVersion gender intent kind language linkId lowerLimit method modality mode operator outcome periodUnit
    priority profile rank resourceType severity status timeOfDay type unit upperLimit use valueCode
    verificationStatus version when
    """
)
_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:/{}\[\]%*()^+'|,#&=-]{0,119}|\S")
_SYSTEMS = re.compile(
    r"https?://(?:[\w-]+\.)*(?:loinc\.org|snomed\.info|hl7\.org|nlm\.nih\.gov|unitsofmeasure\.org|nubc\.org|ama-assn\.org|ada\.org|dicom\.nema\.org|fhir\.org|who\.int|nahdo\.org)(?:[/?#].*)?$"
    r"|urn:(?:oid:2\.16\.840\.1\.113883\.6\.[\d.]+|ietf:[\w:.-]+|iso:std:iso:[\d-]+|dicom:uid|ietf:bcp:\d+)$|http://synthetichealth\.github\.io/synthea/disability-adjusted-life-years$"
)
_EXTENSIONS = re.compile(
    r"http://hl7\.org/fhir/(?:us/core/)?StructureDefinition/(?:us-core-race|us-core-ethnicity|us-core-birthsex|data-absent-reason|condition-dueTo)$"
    r"|http://synthetichealth\.github\.io/synthea/(?:disability|quality)-adjusted-life-years$|ombCategory$|detailed$"
)
_DATE = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d)(T\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:\d\d)?)?)?)?")
_REFERENCE = re.compile(
    r"(?:(?P<base>https?://.+?)/)?(?P<type>[A-Z][A-Za-z]+)/(?P<id>[A-Za-z0-9\-.]{1,64})(?:/_history/.*)?"
)
_UUID = re.compile(r"urn:uuid:([0-9a-fA-F-]{32,36})")
_OID = re.compile(r"(?:urn:oid:)?[0-9]+(?:\.[0-9]+){3,}")


def recognises(path: Path, head: bytes) -> bool:
    """Whether it is JSON that names a FHIR resource type."""
    return path.suffix.lower() in {".json", ".ndjson"} and b"{" in head[:64] and b'"resourceType"' in head


def load(path: Path) -> list[dict[str, Any]]:
    """The resource of a file, or those of its lines.

    Raises:
        RecordError: it is none.
    """
    if path.stat().st_size > _LARGEST:
        raise RecordError(f"a bundle of over {_LARGEST >> 20} MiB", "a person's bundle", "use the bulk export")
    data = path.read_bytes()
    try:
        whole = (
            [json.loads(line) for line in data.splitlines() if line.strip()]
            if path.suffix.lower() == ".ndjson"
            else [json.loads(data)]
        )
    except (ValueError, RecursionError) as error:
        raise RecordError("JSON that does not parse", "a whole FHIR resource", "export it again") from error
    if not all(isinstance(r, dict) and isinstance(r.get("resourceType"), str) for r in whole):
        raise RecordError("JSON that is no FHIR resource", "a resource", "leave it out")
    return whole


def resources(whole: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Those of bundles, and those that stand alone or are contained."""
    for resource in whole:
        yield resource
        entries = resource.get("entry")
        within = (
            [e["resource"] for e in entries if isinstance(e, dict) and isinstance(e.get("resource"), dict)]
            if isinstance(entries, list)
            else []
        )
        contained = resource.get("contained")
        yield from resources(
            [*within, *([c for c in contained if isinstance(c, dict)] if isinstance(contained, list) else [])]
        )


def survey(path: Path, place: str, known: Known) -> str:
    """Note all names, identifiers and ids; a bundle may be of many."""
    for resource in resources(load(path)):
        kind = resource.get("resourceType")
        patient = str(resource.get("id", "")) if kind == "Patient" else None
        if kind in _PEOPLE | _PLACES or kind in ("Encounter", "ImagingStudy", "Device", "Account", "Coverage"):
            known.identify(resource.get("id"))
            for identifier in _list(resource.get("identifier")):
                known.identify(
                    str(_dict(identifier).get("value", "")).removeprefix("urn:oid:").removeprefix("urn:uuid:")
                )
        if kind == "Patient":
            for identifier in _list(resource.get("identifier")):
                coded = [str(_dict(c).get("code")) for c in _list(_dict(_dict(identifier).get("type")).get("coding"))]
                if "MR" in coded and len(value := str(_dict(identifier).get("value", ""))) >= 4:
                    known.alike(value, str(resource.get("id", "")))
        if kind in _PEOPLE:
            for name in _list(resource.get("name")):
                for part in _words(name):
                    known.name(patient, part)
            for extension in _list(resource.get("extension")):
                if "mothersMaidenName" in str(_dict(extension).get("url")):
                    known.name(patient, _dict(extension).get("valueString"))
            for contact in _list(resource.get("contact")):
                for part in _words(_dict(contact).get("name")):
                    known.name(patient, part)
    return ""


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key in ("family", "given", "text"):
                yield from _words(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _words(inner)


def deidentify(path: Path, to: Path, cleaning: Cleaning) -> None:
    """Write the resources anew, as one JSON or as lines of it.

    Raises:
        RecordError: it is no FHIR.
    """
    new, lines = Cleaner.of(cleaning).clean(load(path)), path.suffix.lower() == ".ndjson"
    text = "\n".join(json.dumps(r, ensure_ascii=False, indent=None if lines else 1) for r in new)
    to.write_text(text + "\n", encoding="utf-8")


@dataclass(slots=True)
class Cleaner(Cleaning):
    """Cleans one file's resources."""

    last: date | None = None
    kind: str = ""

    def clean(self, whole: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The resources anew."""
        people = [str(r.get("id")) for r in resources(whole) if r.get("resourceType") == "Patient"]
        self.last = _last(whole)
        alone = people[0] if len(people) == 1 else ""
        return [self._resource(resource, alone, "") for resource in whole]

    def _resource(self, resource: dict[str, Any], patient: str, place: str) -> dict[str, Any]:
        kind = str(resource.get("resourceType"))
        if not re.fullmatch(r"[A-Z][A-Za-z]{1,60}", kind):
            raise RecordError("JSON that names no FHIR type", "a FHIR resource", "leave it out")
        if resource.get("modifierExtension"):
            self.ask(f"{place}{kind}.modifierExtension", "removed: it may change what the resource means")
        before = self.who, self.kind
        self.who, self.kind = whose, kind = _patient_of(resource) or patient, kind
        new: dict[str, Any] = {"resourceType": kind}
        for key, value in resource.items():
            if key == "resourceType":
                continue
            if key == "id":
                new["id"] = self.key.pseudonym(str(value))
            elif key == "entry" and kind == "Bundle":
                new["entry"] = [
                    self._entry(_dict(e), patient, f"{place}entry[{n}]/") for n, e in enumerate(_list(value))
                ]
            elif key == "contained":
                new["contained"] = [
                    self._resource(_dict(c), whose, f"{place}{kind}.contained[{n}]/")
                    for n, c in enumerate(_list(value))
                    if c
                ]
            elif (cleaned := self._element(key, value, f"{place}{kind}.{key}", {})) is not None:
                new[key] = cleaned
        self.who, self.kind = before
        return new

    def _entry(self, entry: dict[str, Any], patient: str, place: str) -> dict[str, Any]:
        new: dict[str, Any] = {}
        if isinstance(entry.get("fullUrl"), str):
            new["fullUrl"] = (
                self._reference(entry["fullUrl"], full=True) or f"urn:uuid:{self.key.uuid(entry['fullUrl'])}"
            )
        if isinstance(entry.get("resource"), dict):
            new["resource"] = self._resource(entry["resource"], patient, place)
        request = _dict(entry.get("request"))
        if request:
            url = str(request.get("url", ""))
            new["request"] = {
                "method": str(request.get("method"))
                if str(request.get("method")) in ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD")
                else "POST",
                "url": url if re.fullmatch("[A-Z][A-Za-z]{1,60}", url) else self._reference(url) or "removed",
            }
        mode = _dict(entry.get("search")).get("mode")
        if mode in ("match", "include", "outcome"):
            new["search"] = {"mode": mode}
        return new

    def _element(self, key: str, value: Any, place: str, parent: dict[str, Any]) -> Any:
        """An element anew; None where it goes."""
        if key in _DROPPED and not (key == "text" and isinstance(value, str)):
            self.did(place, "X")
            return None
        if key.startswith("_"):
            return None  # primitive extensions
        if key == "id":
            return (
                None if self.kind and parent is not None else value
            )  # an element's own id: only for links within a document
        if key == "extension":
            return self._extensions(value, place)
        if key == "name" or (key in ("family", "given", "prefix", "suffix")):
            return self._name(value, place)
        if key == "identifier":
            return self._identifiers(value, place)
        if isinstance(value, dict):
            return self._dict(key, value, place)
        if isinstance(value, list):
            kept = [new for v in value if (new := self._element(key, v, place, parent)) is not None]
            return kept or None
        if isinstance(value, str):
            return self._string(key, value, place, parent)
        return value

    def _dict(self, key: str, value: dict[str, Any], place: str) -> dict[str, Any] | None:
        if "div" in value and set(value) <= {"div", "status", "id", "extension"}:
            self.did(place, "X: narrative")
            return None
        if "resourceType" in value:
            return self._resource(value, "", f"{place}/")
        if "family" in value or ("given" in value and "reference" not in value):
            self.did(place, "X: name")
            return None
        if ("contentType" in value and ("data" in value or "url" in value)) or (
            key in ("attachment", "content") and "data" in value
        ):
            return self._attachment(value, place)
        public = [_dict(c) for c in _list(value.get("coding")) if _SYSTEMS.match(str(_dict(c).get("system", "")))]
        if isinstance(said := value.get("text"), str) and any(c.get("display") == said for c in public):
            value = value | {"text": None}  # a vocabulary's own words
        new = {
            k: c
            for k, v in value.items()
            if v is not None and (c := self._element(k, v, f"{place}.{k}", value)) is not None
        }
        if (
            "text" in value
            and value["text"] is None
            and (shown := next((c["display"] for c in _list(new.get("coding")) if "display" in c), None))
        ):
            new["text"] = shown
        number = new.get("value")
        years = str(new.get("code", "")) == "a" or str(new.get("unit", "")).lower() in (
            "a",
            "yr",
            "yrs",
            "year",
            "years",
        )
        if years and isinstance(number, int | float) and number > OLDEST:
            new["value"] = OLDEST
            self.did(place, "C: age capped")
        return new or None

    def _string(self, key: str, value: str, place: str, parent: dict[str, Any]) -> str | None:
        if key == "birthDate":
            self.did(place, "C: year of birth")
            return self.born(value, self.last.year if self.last else None)
        if found := _DATE.fullmatch(value):
            if key in _CODED | {"value"} and not found[2]:
                return value
            self.did(place, "C: date moved")
            return self._moved(found)
        if key in ("reference", "fullUrl"):
            return self._reference(value)
        if key == "uid" or (key in ("value", "valueOid", "valueUri") and _OID.fullmatch(value)):
            return ("urn:oid:" if value.startswith("urn:oid:") else "") + self.key.uid(value)
        if key in (
            "system",
            "url",
            "valueUri",
            "profile",
            "instantiatesUri",
            "instantiatesCanonical",
            "definition",
            "questionnaire",
        ):
            return self._system(value, place)
        if key == "display":
            return self._display(value, place, parent)
        if key in _CODED and _CODE.fullmatch(value) and not self.says_who(value):
            return value
        if key == "data":
            return None
        return self.words(value, place)

    def _display(self, value: str, place: str, parent: dict[str, Any]) -> str | None:
        if {"reference", "identifier"} & set(parent) or "code" not in parent:
            self.did(place, "X")
            return None
        public = _SYSTEMS.match(str(parent.get("system", "")))
        if not public:
            return self.words(value, place)
        return scrub(value, self.identity, light=True, kinds=frozenset({"EMAIL", "URL", "PHONE"})).text

    def _name(self, value: Any, place: str) -> Any:
        """A person's name goes; a place's or a thing's becomes a pseudonym."""
        if isinstance(value, str) and self.kind not in _PEOPLE:
            self.did(place, "D: pseudonym")
            return f"{self.kind} {self.key.pseudonym(value)}"
        self.did(place, "X")
        return None

    def _identifiers(self, value: Any, place: str) -> Any:
        """A patient's go; others keep a pseudonym, by which a conditional reference still finds them."""
        self.did(place, "X" if self.kind == "Patient" else "D: pseudonym")
        if self.kind == "Patient":
            return None
        one = lambda i: {
            "system": self._system(str(i.get("system", "")), place) or "urn:removed",
            "value": self._identifier(str(i["value"])),
        }
        kept = [
            one(i)
            for i in (_list(value) if isinstance(value, list) else [_dict(value)])
            if _dict(i).get("value") is not None
        ]
        return (kept if isinstance(value, list) else kept[0]) if kept else None

    def _identifier(self, value: str) -> str:
        if found := _UUID.fullmatch(value):
            return f"urn:uuid:{self.key.uuid(found[1])}"
        if _OID.fullmatch(value):
            return ("urn:oid:" if value.startswith("urn:oid:") else "") + self.key.uid(value)
        return self.key.pseudonym(value)

    def _reference(self, value: str, full: bool = False) -> str | None:
        if found := _UUID.fullmatch(value):
            return f"urn:uuid:{self.key.pseudonym(found[1])}"
        if value.startswith("urn:oid:"):
            return f"urn:oid:{self.key.uid(value)}"
        if value.startswith("#"):
            return f"#{self.key.pseudonym(value[1:])}" if value != "#" else value
        if found := _REFERENCE.fullmatch(value):
            new = f"{found['type']}/{self.key.pseudonym(found['id'])}"
            return f"https://deidentified.invalid/{new}" if full else new
        if found := re.fullmatch(r"([A-Z][A-Za-z]+)\?identifier=(?:([^|]*)\|)?(.+)", value):
            system = self._system(found[2], "") if found[2] else ""
            return f"{found[1]}?identifier={f'{system}|' if found[2] is not None else ''}{self._identifier(found[3])}"
        return None

    def _system(self, value: str, place: str) -> str | None:
        """A public vocabulary's address stays; a hospital's becomes a pseudonym."""
        if not value:
            return None
        if _SYSTEMS.match(value) and not self.says_who(value) and "@" not in value:
            return value.split("?")[0]
        if place:
            self.did(place, "D: pseudonym")
        return f"urn:deidentified:{self.key.pseudonym(value)}"

    def _extensions(self, value: Any, place: str) -> list[Any] | None:
        kept = []
        for extension in _list(value):
            url = str(_dict(extension).get("url"))
            if not _EXTENSIONS.match(url):
                self.did(place, "X")
                continue
            new: dict[str, Any] = {"url": url}
            for key, inner in _dict(extension).items():
                if key == "url" or (key == "valueString" and not re.fullmatch(r"[\w ,./-]{1,60}", str(inner))):
                    continue
                cleaned = self._element(key, inner, f"{place}.{key}", _dict(extension))
                if cleaned is not None:
                    new[key] = cleaned
            kept.append(new)
        return kept or None

    def _attachment(self, value: dict[str, Any], place: str) -> dict[str, Any] | None:
        """Text is scrubbed; anything else cannot be looked into and goes."""
        kind = str(value.get("contentType", ""))
        if kind.startswith("text/plain") and isinstance(value.get("data"), str):
            try:
                said = base64.b64decode(value["data"], validate=False).decode("utf-8", "replace")
            except (binascii.Error, ValueError):
                return None
            new = {"contentType": "text/plain", "data": base64.b64encode(self.words(said, place).encode()).decode()}
            if isinstance(value.get("creation"), str) and (found := _DATE.fullmatch(value["creation"])):
                new["creation"] = self._moved(found)
            return new
        self.did(place, "X: attachment")
        return None

    def _moved(self, found: re.Match[str]) -> str:
        year, month, day, hour = found.groups()
        if month is None:
            return year
        if self.options.dates == "remove":
            return year
        try:
            middle = int(day) if day else min(15, calendar.monthrange(int(year), int(month))[1])
            new = moved(date(int(year), int(month), middle), self.days)
        except ValueError:
            return year
        return f"{new.year:04d}-{new.month:02d}" + (f"-{new.day:02d}" if day else "") + (hour or "")


def _last(whole: Sequence[dict[str, Any]]) -> date | None:
    """The last day that the resources know of."""
    last = None
    for text in re.findall(r'"(\d{4}-\d\d-\d\d)', json.dumps(list(whole))):
        try:
            day = date.fromisoformat(text)
        except ValueError:
            continue
        if day.year < 2200 and (last is None or day > last):
            last = day
    return last


def _patient_of(resource: dict[str, Any]) -> str | None:
    if resource.get("resourceType") == "Patient":
        return str(resource.get("id", ""))
    for key in ("subject", "patient", "beneficiary", "individual", "for"):
        reference = _dict(resource.get(key)).get("reference")
        if isinstance(reference, str) and (found := re.search(r"(?:Patient/|urn:uuid:)([A-Za-z0-9\-.]+)$", reference)):
            return found[1]
    return None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
