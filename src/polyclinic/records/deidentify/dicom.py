"""DICOM: PS3.15 Annex E, Basic Application Confidentiality Profile with options, over every nested item; the pixels stay bit for bit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..dicom_header import opened
from ..source import content_id, quiet
from . import pixel_text, pixels, profile
from .cleaning import ABOUT_PEOPLE, Cleaning
from .keyed import shifted
from .known import Known
from .options import OLDEST
from .words import words

_TEXT = frozenset({"LO", "SH", "ST", "LT", "UT", "UC", "UR", "AE"})
_NUMBERS = frozenset({"US", "SS", "UL", "SL", "FL", "FD", "UV", "SV", "AT", "OF", "OD", "OL", "OV"})
_BYTES = frozenset({"OB", "OW", "UN", "OB or OW"})
_TECHNICAL, _BINARY = frozenset(profile.TECHNICAL.split()), frozenset(profile.BINARY.split())
_VERBATIM, _FREE = frozenset(profile.VERBATIM.split()), frozenset(profile.FREE_TEXT.split())
_UID_KEPT = frozenset(profile.UID_KEPT.split())
_LABELS = frozenset({"StructureSetLabel", "RTPlanLabel", "AnnotationGroupLabel"})
_DUMMY = {
    "PN": "Removed",
    "AS": "000D",
    "DA": "19000101",
    "DT": "19000101",
    "TM": "000000",
    "UR": "urn:removed",
    "OB": b"\0\0",
    "UN": b"\0\0",
}
_STRUCTURED, _GRAPHICS, _PRIVATE = "113104", "113103", "113111"


@dataclass(slots=True)
class Cleaner(Cleaning):
    """Cleans the objects of one patient's file; `used` are the codes of what was done beyond the profile."""

    used: set[str] = field(default_factory=set)

    def clean(self, dataset: Any, place: str = "") -> None:
        """All elements of a dataset and of the items in it, in place."""
        actions = _actions(
            self.options.retain_device, self.options.clean_descriptors, self.options.retain_characteristics
        )
        creators = _creators(dataset)
        about_people = _about_people(dataset)
        for tag in list(dataset.keys()):
            try:
                element = dataset[tag]
                done = self._element(dataset, element, actions, creators, place, about_people)
            except Exception:  # a value that the library cannot read cannot be judged
                done = "X: unreadable"
                dataset.pop(tag, None)
            if done:
                self.did(f"{place}{_shown(tag)}", done)

    def _element(
        self, dataset: Any, element: Any, actions: dict[str, str], creators: dict[int, str], place: str, people: bool
    ) -> str:
        tag, vr, keyword = element.tag, str(element.VR), element.keyword
        if tag.is_private:
            return self._private(dataset, element, creators)
        group = tag.group
        if (
            group in profile.GONE_GROUPS
            or 0x5000 <= group <= 0x50FF
            or 0x6000 <= group <= 0x60FF
            or group < 8
            or group in (0xFFFA, 0xFFFC)
        ):
            del dataset[tag]
            return "X"
        action = actions.get(keyword)
        if action is None:
            action = self._by_representation(element, place, people)
        return self._apply(dataset, element, action, vr, place)

    def _by_representation(self, element: Any, place: str, people: bool) -> str:
        vr, keyword = str(element.VR), element.keyword
        if not keyword or (vr in _TEXT and _dictionary_vr(element.tag) not in _TEXT):
            return "X"
        if vr == "PN":
            return "Z"
        if vr == "UI":
            return "U"
        if vr in ("DA", "DT", "TM"):
            return "DATE" if self.options.dates == "shift" else "Z"
        if vr in _BYTES:
            return "K" if keyword in _BINARY and not (place and "PixelData" in keyword) else "X"
        if vr in _TEXT:
            return "D" if keyword == "TextValue" and people else "TEXT" if keyword in _TECHNICAL | _FREE else "X"
        if vr == "SQ":
            return "SQ"
        return (
            "NUMBER"
            if vr in ("DS", "IS")
            else "CODE"
            if vr in ("CS", "AS")
            else "K"
            if vr in _NUMBERS or " or " in vr
            else "X"
        )

    def _apply(self, dataset: Any, element: Any, action: str, vr: str, place: str) -> str:
        tag, keyword = element.tag, element.keyword
        if action in ("Z", "D") and vr == "SQ":
            element.value = [_dummy_code()] if keyword == "PersonIdentificationCodeSequence" else []
            return action
        match action:
            case "X":
                del dataset[tag]
            case "Z":
                element.value = (
                    None if vr in ("PN", *_TEXT, "DA", "TM", "DT", "CS", "AS") else b"" if vr in _BYTES else None
                )
            case "D":
                element.value = _DUMMY.get(vr, "REMOVED")
            case "P":
                if _empty(element.value):
                    return ""
                element.value = self.key.pseudonym(_text(element.value))
                return "D: pseudonym"
            case "C":
                return self._descriptor(dataset, element)
            case "U":
                return self._uids(element)
            case "DATE":
                return self._dates(dataset, element, vr)
            case "TEXT":
                return self._text(element, place)
            case "SQ":
                return self._items(element, place)
            case "NUMBER":
                if not all(re.fullmatch(r"[ ]*[-+0-9.eE]*[ ]*", _original(v)) for v in _each(element.value)):
                    del dataset[tag]
                    return "X: no number"
                return ""
            case "CODE" | "K":
                return self._code(dataset, element, vr)
        return action

    def _items(self, element: Any, place: str) -> str:
        keyword = element.keyword
        if keyword == "ContentSequence" or keyword in (
            "AcquisitionContextSequence",
            "SpecimenPreparationStepContentItemSequence",
        ):
            self.used.add(_STRUCTURED)
        if keyword in ("GraphicAnnotationSequence", "TextObjectSequence"):
            self.used.add(_GRAPHICS)
        for number, item in enumerate(element.value or []):
            self.clean(item, f"{place}{keyword}[{number}]/")
        return ""

    def _private(self, dataset: Any, element: Any, creators: dict[int, str]) -> str:
        """Only numbers of a known place stay, with their creator's line."""
        tag = element.tag
        if 0x10 <= tag.element <= 0xFF:
            creator = creators.get((tag.group << 16) | tag.element << 8, "")
            mine = any(creator == c and tag.group == g for c, g, _ in profile.SAFE_PRIVATE)
            others = any(
                _safe(t, str(dataset[t].VR), creators)
                for t in list(dataset.keys())
                if t.group == tag.group and t.element >> 8 == tag.element
            )
            if mine and others:
                return ""
        elif _safe(tag, str(element.VR), creators) and all(
            re.fullmatch(r"[ ]*[-+0-9.eE]+[ ]*", _original(v)) for v in _each(element.value)
        ):
            self.used.add(_PRIVATE)
            return "K: safe private"
        del dataset[tag]
        return "X"

    def _uids(self, element: Any) -> str:
        if _empty(element.value):
            return ""
        kept = element.keyword in _UID_KEPT
        new = [
            v if kept and str(v).startswith(profile.UID_ROOTS) else self.key.uid(str(v)) for v in _each(element.value)
        ]
        if new == [str(v) for v in _each(element.value)]:
            return ""
        element.value = new if len(new) > 1 else new[0]
        return "U"

    def _dates(self, dataset: Any, element: Any, vr: str) -> str:
        if _empty(element.value):
            return ""
        if vr == "TM":
            if all(re.fullmatch(r"[\d:. -]*", str(v)) for v in _each(element.value)):
                return ""
            del dataset[element.tag]
            return "X: no time"
        new = [shifted(str(v), self.days) for v in _each(element.value)]
        if any(v is None for v in new):
            element.value = None
            return "Z: no date"
        element.value = new if len(new) > 1 else new[0]
        return "C: date moved"

    def _descriptor(self, dataset: Any, element: Any) -> str:
        """Clean Descriptors: the words that say nothing about a person."""
        plain = words("plain") | self.options.keep_words
        kept = [
            w
            for w in re.findall(r"[A-Za-z0-9]+|[+*/-]", _text(element.value))
            if w.casefold() in plain and w.casefold() not in self.identity.names
        ]
        text = " ".join(kept)[: 16 if str(element.VR) == "SH" else 64]
        if text or element.keyword in _LABELS:
            element.value = text or "REMOVED"
            return "C"
        del dataset[element.tag]
        return "X"

    def _text(self, element: Any, place: str) -> str:
        if _empty(element.value):
            return ""
        free = element.keyword in _FREE
        if element.keyword in _VERBATIM:
            lower = {
                w
                for v in _each(element.value)
                for w in (str(v).casefold().strip(), *re.findall(r"[^\W_]+", str(v).casefold()))
            }
            if not lower & (self.identity.names | self.identity.ids):
                return ""
            element.value = "REMOVED"
            return "D"
        done = [self.scrubbed(str(v), light=not free, kinds=None if free else _KINDS) for v in _each(element.value)]
        for part in done:
            for span in part.unsure:
                self.ask(f"{place}{_shown(element.tag)} characters {span.start}–{span.stop}", "may be a name")
        if not any(part.found for part in done):
            return ""
        most = {"SH": 16, "LO": 64}.get(str(element.VR), 1 << 20)
        new = [part.text[:most] for part in done]
        element.value = new if len(new) > 1 else new[0]
        return "C"

    def _code(self, dataset: Any, element: Any, vr: str) -> str:
        """A code string is one, and none of the person's words; an age over 89 is 90."""
        if vr == "AS":
            found = re.fullmatch(r"(\d{3})([DWMY])", _text(element.value))
            if not found and not _empty(element.value):
                del dataset[element.tag]
                return "X: no age"
            if found and found[2] == "Y" and int(found[1]) >= OLDEST:
                element.value = f"{OLDEST:03d}Y"
                return "C: age capped"
        if vr == "CS":
            for value in _each(element.value):
                text = str(value)
                if not re.fullmatch(r"[A-Z0-9 _]{0,16}", text.upper()) or self.says_who(text):
                    del dataset[element.tag]
                    return "X: no code"
        return ""


_KINDS = frozenset({"EMAIL", "URL", "DATE"})


def survey(path: Path, place: str, known: Known) -> str:
    """Who the object is about: notes its identifiers and names; gives the patient's id."""
    dataset = opened(path, pixels=False)
    patient = _text(dataset.get("PatientID"))
    known.identify(patient)
    for keyword in (
        "AccessionNumber",
        "OtherPatientIDs",
        "AdmissionID",
        "StudyID",
        "IssuerOfPatientID",
        "DeviceSerialNumber",
    ):
        for value in _each(dataset.get(keyword)):
            known.identify(value)
    own = {"PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName", "ResponsiblePerson"}
    for element in _quiet_walk(dataset):
        if element.VR == "PN":
            for value in _each(element.value):
                known.name(patient if element.keyword in own else None, value)
        elif element.keyword == "PatientID":
            known.identify(element.value)
    return patient


def _quiet_walk(dataset: Any) -> Iterator[Any]:
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
        except Exception:
            continue
        if element.VR == "SQ":
            for item in element.value or []:
                yield from _quiet_walk(item)
        else:
            yield element


@quiet("pydicom")
def deidentify(path: Path, to: Path, cleaning: Cleaning) -> None:
    """Write the object without what identifies.

    Raises:
        RecordError: it is not to be copied, and why.
    """
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID

    cleaner, dataset = Cleaner.of(cleaning), opened(path, pixels=True)
    meta = getattr(dataset, "file_meta", None) or FileMetaDataset()
    kind = _text(dataset.get("SOPClassUID")) or _text(meta.get("MediaStorageSOPClassUID"))
    pixels.refuse(dataset, meta, kind, cleaner.options)
    if pixels.burned_in(dataset, kind) or pixels.overlay_within(dataset):
        cleaner.ask("(7FE0,0010) PixelData", "may have text burned in")
    pixel_text.dicom(dataset, cleaner)
    if pixels.comment_within(dataset, meta):
        cleaner.ask("(7FE0,0010) PixelData", "its compressed pixels hold a comment or EXIF")
    if not _text(dataset.get("SOPInstanceUID")):  # lost by another's de-identification: one of its own, from its bytes
        dataset.SOPInstanceUID = UID(cleaner.key.uid(content_id(path)))
    dataset.SOPClassUID = kind
    cleaner.clean(dataset)
    _say_so(dataset, cleaner)
    new = FileMetaDataset()
    new.MediaStorageSOPClassUID = UID(kind)
    new.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    new.TransferSyntaxUID = meta.TransferSyntaxUID  # unpacked, where text was blanked
    cleaner.did("file meta", "U")
    dataset.file_meta, dataset.preamble = new, b"\0" * 128
    dataset.save_as(to, enforce_file_format=True)


@lru_cache(maxsize=8)
def _actions(device: bool, descriptors: bool, characteristics: bool) -> dict[str, str]:
    return profile.table(device, descriptors, characteristics)


def _say_so(dataset: Any, cleaner: Cleaner) -> None:
    """PS3.15 E.1.1 6., 7.: that it was done and by which profile and options; PS3.3 C.12.1.1.9 for the times."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence as Items

    options = cleaner.options
    used = {"113100", *cleaner.used}
    used |= {"113105"} if options.clean_descriptors else set()
    used |= {"113107"} if options.dates == "shift" else set()
    used |= {"113108"} if options.retain_characteristics else set()
    used |= {"113109"} if options.retain_device else set()
    items = []
    for code in sorted(used):
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, "DCM", profile.CODES[code]
        items.append(item)
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = "polyclinic: DICOM PS3.15 Annex E, keyed UIDs and dates"
    dataset.DeidentificationMethodCodeSequence = Items(items)
    dataset.LongitudinalTemporalInformationModified = "MODIFIED" if options.dates == "shift" else "REMOVED"


def _dummy_code() -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "REMOVED", "99REMOVED", "Removed"
    return item


def _creators(dataset: Any) -> dict[int, str]:
    """(group, block) → the private creator, as its line in the dataset says."""
    found = {}
    for tag in list(dataset.keys()):
        if tag.is_private and 0x10 <= tag.element <= 0xFF:
            try:
                found[(tag.group << 16) | tag.element << 8] = _text(dataset[tag].value)
            except Exception:
                continue
    return found


def _safe(tag: Any, vr: str, creators: dict[int, str]) -> bool:
    creator = creators.get((tag.group << 16) | (tag.element & 0xFF00), "")
    return (creator, tag.group, tag.element & 0xFF) in profile.SAFE_PRIVATE and vr in (_NUMBERS | {"DS", "IS"})


def _about_people(dataset: Any) -> bool:
    """Whether a content item's concept is a name, a number or an address of someone."""
    try:
        concept = dataset.ConceptNameCodeSequence[0]
    except Exception:
        return False
    return bool(ABOUT_PEOPLE.search(_text(concept.get("CodeMeaning"))))


@lru_cache(maxsize=4096)
def _dictionary_vr(tag: int) -> str:
    from pydicom.datadict import dictionary_VR

    try:
        return dictionary_VR(tag)
    except KeyError:
        return ""


def _shown(tag: Any) -> str:
    from pydicom.datadict import keyword_for_tag

    return f"({tag.group:04X},{tag.element:04X}) {keyword_for_tag(tag)}".strip()


def _each(value: Any) -> list[Any]:
    from pydicom.multival import MultiValue

    if value is None:
        return []
    return list(value) if isinstance(value, MultiValue | list | tuple) else [value]


def _empty(value: Any) -> bool:
    return value is None or str(value) == "" or value in ([], b"")


def _text(value: Any) -> str:
    return str(value if value is not None else "").strip().strip("\0")


def _original(value: Any) -> str:
    return str(getattr(value, "original_string", value))
