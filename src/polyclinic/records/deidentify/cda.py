"""CDA R2: the document anew, element by element: people, places and numbers out, dates moved, narrative by the rules for notes.

What is in no list below goes: an attribute, an element of another namespace, comments, instructions to a browser. The words of one
section are read together, through all their markup.

Source: HL7 Clinical Document Architecture, Release 2.0 (ISO/HL7 27932:2009), 4.2 (header), 4.3 (body); 45 CFR 164.514(b)(2).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import cda as reader
from ..source import RecordError
from ..vocabularies import is_known
from .cleaning import ABOUT_PEOPLE, YEARS, Cleaning
from .known import Known
from .options import OLDEST

_NAMESPACE = "urn:hl7-org:v3"
_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_DROPPED = frozenset(
    {
        "addr", "telecom", "guardian", "birthplace", "religiousAffiliationCode", "observationMedia", "asMaintainedEntity",
        "manufacturerModelName", "softwareName", "lotNumberText", "signatureText", "thumbnail", "integrityCheck", "renderMultiMedia",
    }
)  # fmt: skip
_KEPT = frozenset(
    {
        "nullFlavor", "classCode", "moodCode", "typeCode", "negationInd", "inversionInd", "contextConductionInd", "contextControlCode",
        "determinerCode", "independentInd", "operator", "inclusive", "institutionSpecified", "unit", "codeSystemVersion", "mediaType",
        "representation", "revised", "listType", "styleCode", "align", "valign", "colspan", "rowspan", "border", "width", "partType",
        "language", "currency", "preferenceInd", "separatableInd",
    }
)  # fmt: skip
"""Attributes whose values are words of the standard, or small numbers."""
_WORD = re.compile(r"[A-Za-z0-9%µ\[\]{}()./*^_' -]{0,40}")
_PLACES = ("Organization", "location", "healthCareFacility", "Entity", "asOrganizationPartOf", "Place", "place")
_PUBLIC_ROOT = re.compile(
    r"2\.16\.840\.1\.113883\.(?:1\.3|10\.|3\.88\.|5\.|6\.|12\.)|1\.3\.6\.1\.4\.1\.19376\.|1\.2\.276\.0\.76\.(?:3|5|10|11)\."
)
"""HL7's, HITSP's, IHE's and the German registry's: templates and vocabularies, no one's numbers."""
_NATIONAL = frozenset({"2.16.840.1.113883.4.1", "2.16.840.1.113883.4.6", "2.16.840.1.113883.2.1.4.1"})
"""Social security, national provider and NHS numbers: told apart from a hospital's, and left out."""
_INLINE = frozenset({"content", "sub", "sup", "linkHtml", "footnote", "footnoteRef"})
_NUMBER = re.compile(r"[-+]?\d{1,9}(?:\.\d+)?(?:[eE][-+]?\d+)?")
_CODE = re.compile(r"[A-Za-z0-9][\w.:/+-]{0,40}")


def _local(element: Any) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _patient(root: Any) -> str:
    """Whose document it is, as the reader has it of the new one: the first number of theirs that stays."""
    for element in root.iter():
        if _local(element) == "patientRole":
            ids = [c for c in element if _local(c) == "id" and c.get("extension")]
            ids.sort(key=lambda c: c.get("root") in _NATIONAL)
            return ids[0].get("extension") if ids else ""
    return ""


def _words(element: Any) -> str:
    return " ".join(" ".join(element.itertext()).split())


def _named(element: Any, of: str = "") -> Iterator[tuple[str, Any]]:
    """Every element with the element within which it stands."""
    yield of, element
    for child in element:
        yield from _named(child, _local(element))


def survey(path: Path, place: str, known: Known) -> str | None:
    """Note whose it is, all their numbers, and everybody's names; a document is its patient's."""
    root = reader.root_of(path)
    who = _patient(root)
    for element in root.iter():
        if _local(element) in ("patientRole", "relatedSubject"):
            for child in element:
                if _local(child) == "id" and len(child.get("extension") or "") >= 4 and who:
                    known.alike(child.get("extension"), who)
            for name in (n for n in element.iter() if _local(n) == "name"):
                known.name(who or None, _words(name))
    for parent, element in _named(root):
        if _local(element) == "name" and not parent.endswith(_PLACES):
            known.name(None if parent in ("assignedPerson", "authorPerson") else who or None, _words(element))
        elif _local(element) in ("id", "setId") and element.get("extension") and "templateId" not in parent:
            known.identify(element.get("extension"))
    return who or path.stem.split("_")[0]


def deidentify(path: Path, to: Path, cleaning: Cleaning) -> None:
    """Write the document anew.

    Raises:
        RecordError: it is none, or its body is a document of another kind.
    """
    from xml.etree import ElementTree

    ElementTree.register_namespace("", _NAMESPACE)
    ElementTree.register_namespace("xsi", _XSI)
    new = Cleaner.of(cleaning, year=None).document(reader.root_of(path))
    to.write_bytes(
        b'<?xml version="1.0" encoding="UTF-8"?>\n'
        + ElementTree.tostring(new, encoding="utf-8", xml_declaration=False)
        + b"\n"
    )


@dataclass(slots=True)
class Cleaner(Cleaning):
    """Cleans one document, whose last year is known."""

    year: int | None

    def document(self, root: Any) -> Any:
        """The root anew."""
        years = [
            int(v[:4])
            for e in root.iter()
            if re.match(r"(?:19|20)\d{6}", v := e.get("value") or "") and _local(e) != "birthTime"
        ]
        self.year = max((y for y in years if y < 2200), default=None)
        return self._element(root, "", False)

    def _element(self, element: Any, parent: str, timed: bool, asked: bool = False) -> Any:
        """An element anew; None where it goes.

        Args:
            element: as it was.
            parent: the name of that within which it stands.
            timed: whether its value is a time.
            asked: whether its observation asks who somebody is.
        """
        from xml.etree.ElementTree import Element

        name = _local(element)
        if not isinstance(element.tag, str) or element.tag != f"{{{_NAMESPACE}}}{name}" or name in _DROPPED:
            self.did(name or "a comment", "X")
            return None
        if name in ("id", "setId", "templateId", "typeId"):
            return self._identifier(element, name)
        if name == "name":
            return self._name(element, parent)
        if name in ("text", "title") and (parent in ("section", "ClinicalDocument") or len(element)):
            return self._narrative(element, name, parent)
        if name == "text" and parent == "nonXMLBody":
            return self._body(element)
        if name == "value" and asked:
            self.did("value", "X")
            return Element(element.tag, {"nullFlavor": "MSK"})
        timed = timed or name.lower().endswith("time") or _type(element) in ("TS", "IVL_TS", "PIVL_TS")
        new = Element(element.tag, self._attributes(element, name, timed))
        if text := (element.text or "").strip():
            new.text = self.words(text, name)
        asked = any(_local(c) == "code" and ABOUT_PEOPLE.search(c.get("displayName") or "") for c in element)
        new.extend([c for child in element if (c := self._element(child, name, timed, bool(asked))) is not None])
        return new

    def _attributes(self, element: Any, name: str, timed: bool) -> dict[str, str]:
        new: dict[str, str] = {}
        system = element.get("codeSystem") or ""
        public = is_known(system) or bool(_PUBLIC_ROOT.match(system))
        for key, value in element.items():
            cleaned: str | None = None
            if key == f"{{{_XSI}}}type":
                cleaned = value.rpartition(":")[2] if re.fullmatch(r"(\w+:)?[A-Z][\w.]*", value) else None
            elif key == "code":
                cleaned = value if _CODE.fullmatch(value) and not self.says_who(value) else None
            elif key == "codeSystem":
                cleaned = value if public else self.key.uid(value)
            elif key == "codeSystemName":
                cleaned = value if public and _WORD.fullmatch(value) else None
            elif key == "displayName":
                cleaned = self.words(value, name, light=True if public else None)
            elif key == "value":
                cleaned = self._value(element, name, value, timed)
            elif key in ("ID", "IDREF"):
                cleaned = self.key.pseudonym(value)
            elif (
                key in _KEPT and _WORD.fullmatch(value) and not self.says_who(value) and not re.search(r"\d{5}", value)
            ):
                cleaned = value
            if cleaned is not None:
                new[key] = cleaned
        if len(new) < len(element.attrib):
            self.did(name, "X: attributes")
        return new

    def _value(self, element: Any, name: str, value: str, timed: bool) -> str | None:
        """A time, a number, a link within the document, or words."""
        if name == "birthTime":
            self.did(name, "C: year of birth")
            return self.born(value, self.year)
        if timed:
            if _NUMBER.fullmatch(value) and element.get("unit"):  # a width, or a period
                return value
            self.did(name, "C: date moved")
            return self.moved(value) or None
        if name == "reference" or value.startswith("#"):
            return f"#{self.key.pseudonym(value[1:])}" if value.startswith("#") else None
        if _NUMBER.fullmatch(value) and not self.says_who(value):
            old = (element.get("unit") or "").lower() in YEARS and float(value) > OLDEST
            return str(OLDEST) if old else value
        return value if value in ("true", "false") else self.words(value, name)

    def _identifier(self, element: Any, name: str) -> Any:
        """Templates and types stay where they are public; else a root becomes another UID and an extension its pseudonym."""
        from xml.etree.ElementTree import Element

        root, extension = element.get("root") or "", element.get("extension") or ""
        if name in ("templateId", "typeId"):
            if not _PUBLIC_ROOT.match(root):
                self.did(name, "X")
                return None
            plain = extension if re.fullmatch(r"POCD_\w{1,12}|\d{4}-\d\d-\d\d", extension) else ""
            return Element(element.tag, {"root": root} | ({"extension": plain} if plain else {}))
        if root in _NATIONAL:
            self.did(name, "X")
            return None
        self.did(name, "D: pseudonym")
        new = {"root": self.key.pseudonym(root)} if root else {}
        if re.fullmatch(r"P\d{15}", new.get("root", "")):
            new["root"] = self.key.uid(root)
        new |= {"extension": self.key.pseudonym(extension)} if extension else {}
        if not new:
            new = {"nullFlavor": "MSK"}
        return Element(element.tag, new)

    def _name(self, element: Any, parent: str) -> Any:
        """A person's goes; a place's becomes a pseudonym."""
        from xml.etree.ElementTree import Element

        said = _words(element)
        if not parent.endswith(_PLACES) or not said:
            self.did(f"{parent}/name", "X")
            return None
        self.did(f"{parent}/name", "D: pseudonym")
        new = Element(element.tag)
        new.text = self.key.pseudonym(said)
        return new

    def _narrative(self, element: Any, name: str, parent: str) -> Any:
        """The words of a section, read together, in the markup that they had: a name may be bold by half."""
        found: list[tuple[Any, str, str]] = []
        new = self._markup(element, found)
        texts = [re.sub(r"[ \t\r\n]+", " ", getattr(where, part) or "") for where, part, _ in found]
        done = self.together(texts, f"{parent}/{name}", light=False, before=[before for *_, before in found])
        for (where, part, _), text in zip(found, done, strict=True):
            setattr(where, part, text)
        return new

    def _markup(self, element: Any, found: list[tuple[Any, str, str]]) -> Any:
        """The element anew; what has words is added to `found`: the element, `text` or `tail`, and what parts it from the last."""
        from xml.etree.ElementTree import Element

        name = _local(element)
        new = Element(element.tag, self._attributes(element, name, False))
        new.text = element.text
        apart = "" if name in _INLINE else "\n"
        found.append((new, "text", apart))
        for child in element:
            if (
                isinstance(child.tag, str)
                and _local(child) not in _DROPPED
                and child.tag.startswith(f"{{{_NAMESPACE}}}")
            ):
                inner = self._markup(child, found)
                new.append(inner)
            else:
                inner = Element(f"{{{_NAMESPACE}}}content")  # holds the words that follow what goes
                new.append(inner)
            inner.tail = child.tail
            found.append((inner, "tail", "" if _local(child) in _INLINE else "\n"))
        return new

    def _body(self, element: Any) -> Any:
        """A body of plain words.

        Raises:
            RecordError: it is a PDF or another document, which cannot be looked into.
        """
        from xml.etree.ElementTree import Element

        kind, text = element.get("mediaType") or "text/plain", "".join(element.itertext())
        packed = element.get("representation") == "B64"
        if kind != "text/plain":
            raise RecordError(
                "a clinical document whose body is another document",
                "sections or plain words",
                "export it with a narrative",
            )
        try:
            said = base64.b64decode(text).decode("utf-8", "replace") if packed else text
        except (binascii.Error, ValueError) as error:
            raise RecordError("a body that is no Base64", "a whole document", "export it again") from error
        said = self.words(said, "nonXMLBody", light=False)
        new = Element(element.tag, {"mediaType": kind} | ({"representation": "B64"} if packed else {}))
        new.text = base64.b64encode(said.encode()).decode() if packed else said
        return new


def _type(element: Any) -> str:
    return (element.get(f"{{{_XSI}}}type") or "").rpartition(":")[2]
