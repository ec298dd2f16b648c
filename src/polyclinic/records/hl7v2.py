"""HL7 v2 messages (`hl7`), alone, in batches or as MLLP sent them: results as events, report lines as one TEXT record a report.

ORU and VXU results, MDM documents and ADT admissions are read by their segments, whatever the message is called. What a laboratory
took back (OBX-11 of D, W or X) or has not measured yet is no event.

Source: HL7 Messaging Standard 2.5.1, chapters 2 (control, escapes), 3 (PID, PV1, AL1), 6 (DG1) and 7 (OBR, OBX; table 0085).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import Events, MissingExtraError, Modality, Payload, Record, Rejected
from .documents import decoded, tidy, words_of
from .events import BIRTH, DEATH
from .history import ADMITTED, DISCHARGED, RACE, History, born, sex_code
from .source import LONGEST_ROW, RecordError, content_id, encoding_of, parse_time, part_number, place_id, place_of
from .vocabularies import is_known, local, vocabulary

_START = re.compile(rb"^(?:\xef\xbb\xbf)?[\x0b\s]*(?:MSH|FHS|BHS)([^\w\s])([^\w\s]{3,5})\1")
_CHARSETS = {
    "ASCII": "ascii", "UNICODE UTF-8": "utf-8", "UNICODE UTF-16": "utf-16", "UTF-8": "utf-8", "UTF8": "utf-8", "GB 18030-2000": "gb18030",
    "ISO IR87": "iso2022_jp", "BIG-5": "big5", "KS X 1001": "euc_kr",
} | {f"8859/{n}": f"iso8859-{n}" for n in (*range(1, 10), 15)}  # fmt: skip
"""MSH-18, HL7 table 0211."""
_TAKEN_BACK = frozenset("DWXNIO")
"""OBX-11 (table 0085): deleted, wrong, cannot be obtained; not asked, pending, order detail."""
_LINES = frozenset({"TX", "FT"})
_HEADINGS = {"GDT": "FINDINGS", "IMP": "IMPRESSION", "REC": "RECOMMENDATION", "CON": "CONCLUSION"}
"""Suffixes of OBX-3 that part a report (7.4.2.3)."""
_CODED = {"DG1": (3, 5, ""), "PR1": (3, 5, ""), "RXA": (5, 3, ""), "AL1": (3, 6, "ALLERGY//")}
"""Segment: fields of its code and of its time, and what is put before the code."""
_EMBEDDED = {
    "PDF": "application/pdf",
    "HTML": "text/html",
    "HTM": "text/html",
    "XML": "text/xml",
    "RTF": "text/rtf",
    "JPEG": "image/jpeg",
}
_NUMBER = re.compile(r"\s*([<>]=?)?\s*([+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*")


def recognises(path: Path, head: bytes) -> bool:
    """Whether it begins with a message's, a file's or a batch's header, in MLLP's frame or not."""
    return _START.match(head) is not None


@dataclass(slots=True)
class _Report:
    """What stands under one OBR (or a document's TXA)."""

    name: str = ""
    time: datetime | None = None
    lines: list[str] = field(default_factory=list)
    part: str = ""


class _Message:
    """The segments of a message, whose fields are read by number, as the standard counts them."""

    def __init__(self, text: str) -> None:
        try:
            import hl7
        except ImportError as error:
            raise MissingExtraError("hl7", "ehr") from error
        self.parsed: Any = hl7.parse(text)
        mark = str(self.parsed.segment("MSH")[2])
        self.component, self.repeat = mark[0], mark[1]
        self.escape, self.sub = (mark[2:3] or "\\"), (mark[3:4] or "&")
        self.separator = str(self.parsed.segment("MSH")[1])

    def segments(self) -> Iterator[tuple[str, Any]]:
        for segment in self.parsed:
            yield str(segment[0]), segment

    def whole(self, segment: Any, number: int) -> list[str]:
        """A field's repetitions as they stand."""
        return str(segment[number]).split(self.repeat) if number < len(segment) else [""]

    def get(self, segment: Any, number: int, component: int = 1, repetition: int = 1) -> str:
        """A component's words; nothing where there is none."""
        parts = [*self.whole(segment, number), *[""] * repetition][repetition - 1].split(self.component)
        return self.plain(parts[component - 1]) if component <= len(parts) else ""

    def plain(self, text: str) -> str:
        """Without its escapes (2.7): `\\F\\` is the separator itself, `\\.br\\` a line's end, `\\X0A\\` bytes, `\\H\\` a mere emphasis."""
        if text.strip() == '""':  # explicitly null, 2.5.3
            return ""
        signs = {
            "F": self.separator,
            "S": self.component,
            "T": self.sub,
            "R": self.repeat,
            "E": self.escape,
            ".br": "\n",
            ".sp": "\n",
        }

        def sign(found: re.Match[str]) -> str:
            name = found[1]
            if name.startswith("X") and re.fullmatch(r"X(?:[0-9A-Fa-f]{2})+", name):
                return bytes.fromhex(name[1:]).decode("latin-1").replace("\r", "\n")
            return signs.get(name, "")

        mark = re.escape(self.escape)
        return re.sub(f"{mark}([^{mark}]{{0,40}}){mark}", sign, text).strip()

    def time(self, segment: Any, number: int) -> datetime | None:
        """A TS or DTM, `YYYYMMDDHHMM[SS[.S]][+ZZZZ]`, by its own clock."""
        return parse_time(re.sub(r"[+-]\d{4}$", "", self.get(segment, number)))

    def code(self, segment: Any, number: int) -> str | None:
        """`LOINC 2160-0` of a CE or CWE: of its two codings that which others share, else the first, else its words."""
        parts = [self.plain(part).split(self.sub)[0] for part in self.whole(segment, number)[0].split(self.component)]
        parts += [""] * 6
        codings = [(parts[i], parts[i + 2]) for i in (0, 3) if parts[i]]
        coding = next((c for c in codings if is_known(c[1])), next(iter(codings), None))
        return f"{vocabulary(coding[1])} {coding[0]}" if coding else local(parts[1])


def messages(path: Path) -> Iterator[str]:
    """The messages of a file, one at a time, in the character set that its first one names."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    first = re.search(rb"MSH[^\r\n]*", head)
    named = first[0].decode("latin-1").split(chr(first[0][3]))[17:18] if first and len(first[0]) > 4 else []
    encoding = _CHARSETS.get(named[0].split("~")[0].strip().upper()) if named else None
    lines: list[str] = []
    with path.open(encoding=encoding or encoding_of(head), errors="replace", newline=None) as stream:
        while line := stream.readline(LONGEST_ROW + 1):
            if len(line) > LONGEST_ROW:
                raise RecordError("a segment of over 16 million characters", "a message", "check where it comes from")
            line = line.strip("\x0b\x1c\r\n \ufeff")
            if line.startswith("MSH") and lines:
                yield "\r".join(lines)
                lines = []
            if line.startswith("MSH") or (lines and line[:3] not in {"FHS", "BHS", "BTS", "FTS"} and line):
                lines.append(line)
    if lines:
        yield "\r".join(lines)


class _Reading:
    """One message put into a history; its reports are kept."""

    def __init__(self, message: _Message, history: History, known: set[str]) -> None:
        self.message, self.history, self.known = message, history, known
        self.patient, self.encounter, self.site = "", None, None
        self.reports: list[_Report] = [_Report()]

    def read(self) -> None:
        """All segments in their order."""
        get = self.message.get
        for name, segment in self.message.segments():
            match name:
                case "MSH":
                    self.site = get(segment, 4) or None
                case "PID":
                    self._person(segment)
                case "PV1":
                    self._visit(segment)
                case "OBR" | "TXA":
                    called, when = (4, 7) if name == "OBR" else (2, 4)
                    title = get(segment, called, 2) or get(segment, called)
                    self.reports.append(
                        _Report(title, self.message.time(segment, when) or self.message.time(segment, 22))
                    )
                case "OBX":
                    self._result(segment)
                case _ if name in _CODED:
                    self._coded(segment, *_CODED[name])
        self.reports = [r for r in self.reports if any(line.strip() for line in r.lines)]

    def _add(self, when: datetime | None, code: str, **more: Any) -> None:
        if not self.patient:
            return self.history.leave(
                "segments of no known patient", "a PID with an identifier", "send them with PID-3"
            )
        return self.history.add(self.patient, when, code, encounter=self.encounter, site=self.site, **more)

    def _person(self, segment: Any) -> None:
        """Whose the message is: PID-3, its medical record number first; birth, sex, race and death are told once a file."""
        get, repetitions = self.message.get, len(self.message.whole(segment, 3))
        numbers = [(get(segment, 3, 5, n), get(segment, 3, 1, n)) for n in range(1, repetitions + 1)]
        self.patient = next((i for kind, i in numbers if kind == "MR" and i), "") or numbers[0][1] or get(segment, 2)
        if not self.patient or self.patient in self.known:
            return
        self.known.add(self.patient)
        day = get(segment, 7)[:8]
        if when := born("-".join(filter(None, (day[:4], day[4:6], day[6:8])))):
            self._add(when, BIRTH)
        if sex := sex_code(get(segment, 8)):
            self._add(None, sex)
        if race := get(segment, 10, 2):
            self._add(None, RACE + race)
        if dead := self.message.time(segment, 29):
            self._add(dead, DEATH)

    def _visit(self, segment: Any) -> None:
        self.encounter = self.message.get(segment, 19) or None
        kind = self.message.get(segment, 2)
        for number, what in ((44, ADMITTED), (45, DISCHARGED)):
            if (when := self.message.time(segment, number)) is not None:
                self._add(when, f"{what}//{kind}" if kind else what)

    def _coded(self, segment: Any, code: int, time: int, before: str) -> None:
        when, called = self.message.time(segment, time), self.message.code(segment, code)
        if called is None or when is None:
            return self.history.leave("segments without a code or a day", "both", "send them with both")
        if str(segment[0]) == "RXA" and self.message.get(segment, 20) in {
            "NA",
            "RE",
            "PA",
        }:  # not administered, refused, partly
            return None
        return self._add(when, before + called)

    def _result(self, segment: Any) -> None:
        """An OBX: a line of the report, or an event."""
        message, report = self.message, self.reports[-1]
        kind, status = message.get(segment, 2), message.get(segment, 11)
        if status in _TAKEN_BACK:
            return None
        if kind in _LINES:
            return self._line(segment, report)
        if kind == "ED":
            return self._embedded(segment, report)
        code, when = message.code(segment, 3), message.time(segment, 14) or report.time
        if kind == "RP" or code is None or when is None:
            what = "documents behind an address" if kind == "RP" else "results without a code or a day"
            return self.history.leave(what, "a coded result with its time", "send them with OBX-3, and OBX-14 or OBR-7")
        unit = message.get(segment, 6) or None
        for n in range(1, len(message.whole(segment, 5)) + 1):
            value, text = self._answer(segment, kind, n, unit is not None)
            if value is not None or text:
                self._add(when, code, value=value, unit=unit, text=text)
        return None

    def _line(self, segment: Any, report: _Report) -> None:
        suffix = self.message.whole(segment, 3)[0].split(self.message.component)[0].rpartition(self.message.sub)[2]
        if suffix in _HEADINGS and suffix != report.part:
            report.part = suffix
            report.lines.append(f"{_HEADINGS[suffix]}:")
        report.time = report.time or self.message.time(segment, 14)
        report.lines += [self.message.plain(part) for part in self.message.whole(segment, 5)]

    def _embedded(self, segment: Any, report: _Report) -> None:
        """An encapsulated document: source ^ type ^ subtype ^ encoding ^ data (2.A.24)."""
        get = self.message.get
        try:
            data = get(segment, 5, 5)
            raw = decoded(data) if get(segment, 5, 4).lower() == "base64" else data.encode()
            report.lines.append(words_of(raw, _EMBEDDED.get(get(segment, 5, 3).upper(), "text/plain")))
        except RecordError as error:
            what = error.found.removeprefix("a ").replace("document", "documents", 1)
            self.history.leave(what, error.expected, error.remedy)

    def _answer(self, segment: Any, kind: str, n: int, has_unit: bool) -> tuple[float | None, str | None]:
        """A number and its sign, or words. A text that is a number in a unit is one."""
        get, whole = self.message.get, self.message.get(segment, 5, 1, n)
        if kind == "SN":  # comparator ^ number ^ separator ^ number
            sign, low, mark, high = (get(segment, 5, c, n) for c in (1, 2, 3, 4))
            if mark and high:
                return None, f"{low}{mark}{high}"
            return (float(low) if _NUMBER.fullmatch(low) else None), (None if sign == "=" else sign or None)
        if kind == "NM" or (kind == "ST" and has_unit):
            found = _NUMBER.fullmatch(whole)
            if found:
                return float(found[2]), found[1]
            return (None, None) if kind == "NM" else (None, whole)
        if kind in {"CE", "CWE", "CNE", "CF"}:
            parts = [get(segment, 5, c, n) for c in range(1, 7)]
            named = next(((parts[i], parts[i + 2]) for i in (0, 3) if parts[i] and is_known(parts[i + 2])), None)
            return None, f"{vocabulary(named[1])} {named[0]}" if named else parts[1] or parts[0] or None
        return None, whole or None


def _readings(path: Path, history: History) -> Iterator[_Reading]:
    known: set[str] = set()
    for text in messages(path):
        try:
            reading = _Reading(_Message(text), history, known)
            reading.read()
        except MissingExtraError:
            raise
        except Exception:  # the library raises what it likes; the others go on
            history.leave("messages that do not parse", "HL7 v2 with its separators in MSH", "send them again")
            continue
        yield reading


def read(path: Path, root: Path) -> Iterator[Record | Rejected | Events]:
    """The events of all its messages, a TEXT record a report, and what was left out, with how many."""
    history, number, digest = History(place_of(path, root)), 0, content_id(path)
    for reading in _readings(path, history):
        for report in reading.reports:
            number += 1
            if not reading.patient:
                history.leave("reports of no known patient", "a PID with an identifier", "send them with PID-3")
                continue
            words = tidy("\n".join(report.lines))
            yield Record(
                id=place_id(digest, f"item={number}"), patient=reading.patient, time=report.time, modality=Modality.TEXT,
                kind=f"report {report.name}".strip()[:100], uri=f"{history.place}#item={number}", site=reading.site,
                attributes={"words": len(words.split())},
            )  # fmt: skip
        if history.full():
            yield from history.given()
    if not history.count and not number and not history.left:
        raise RecordError("HL7 v2 messages without results", "segments of PID, OBX, DG1 or the like", "leave them out")
    yield from history.given()
    yield from history.aside()


def load(record: Record) -> Payload:
    """A report's lines in `Payload.text`.

    Raises:
        RecordError: the report is not there any more.
    """
    path, number = Path(record.uri.rsplit("#", 1)[0]), part_number(record.uri, "item") or 1
    for reading in _readings(path, History("")):
        if number <= len(reading.reports):
            return Payload(np.empty(0, dtype=np.int64), text=tidy("\n".join(reading.reports[number - 1].lines)))
        number -= len(reading.reports)
    raise RecordError("messages without the report that they had", "the file as ingested", "ingest it again")
