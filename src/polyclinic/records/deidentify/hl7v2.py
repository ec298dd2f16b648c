"""HL7 v2: segments and fields that are in the table below, each by its rule; all others are left out.

Contacts, insurance and guarantors (NK1, GT1, IN1 …) go whole. A repetition, a component or an escape sequence hides nothing: words
are read as they are meant (`\\T\\`, `\\X5A\\`) before the rules for notes see them, and written with their escapes again. The
lines of one report are read together.

Source: HL7 Messaging Standard 2.5.1, chapters 2 (control, escapes), 3 (PID, PV1, AL1), 4 (OBR, ORC, RXA), 6 (DG1), 7 (OBX, SPM), 9 (TXA);
45 CFR 164.514(b)(2).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from .. import hl7v2 as reader
from ..source import RecordError
from ..vocabularies import is_known
from .cleaning import ABOUT_PEOPLE, YEARS, Cleaning
from .known import Known
from .options import OLDEST

_FIELDS = {
    "MSH": "3P 4P 5P 6P 7DATE 9K 10P 11K 12K 15K 16K 19K",
    "EVN": "1K 2DATE 3DATE 4K 6DATE",
    "PID": "1K 2IDS 3IDS 4IDS 7BIRTH 8K 10CODED 15CODED 16K 22CODED 29DATE 30K",
    "PV1": "1K 2K 3P 4K 7P 8P 9P 10K 14K 17P 18K 19P 36K 39P 44DATE 45DATE",
    "PV2": "3CODED 8DATE 9DATE 33DATE",
    "DG1": "1K 2K 3CODED 4WORDS 5DATE 6K 15K 16P",
    "PR1": "1K 2K 3CODED 4WORDS 5DATE 6K 7K 8P 11P 14K",
    "AL1": "1K 2CODED 3CODED 4CODED 5WORDS 6DATE",
    "ORC": "1K 2P 3P 4P 5K 9DATE 10P 11P 12P 15DATE",
    "OBR": "1K 2P 3P 4CODED 5K 6DATE 7DATE 8DATE 10P 11K 13WORDS 14DATE 15CODED 16P 22DATE 24K 25K 31CODED 32P 33P 34P 35P 36DATE 44CODED",
    "OBX": "1K 2K 3CODED 4K 5VALUE 6CODED 7WORDS 8K 9K 10K 11K 14DATE 15P 16P 17CODED 19DATE",
    "NTE": "1K 2K 3WORDS 4CODED",
    "TXA": "1K 2K 3K 4DATE 5P 6DATE 7DATE 8DATE 9P 10P 11P 12P 13P 17K 18K 19K",
    "SPM": "1K 2P 4CODED 5CODED 6CODED 7CODED 8CODED 11CODED 17DATE 18DATE",
    "RXA": "1K 2K 3DATE 4DATE 5CODED 6K 7CODED 8CODED 9CODED 10P 11P 18CODED 20K 21K 22DATE",
    "RXR": "1CODED 2CODED",
    "MSA": "1K 2P",
}  # fmt: skip
_RULES = {
    name: {field.rstrip("ABCDEHIKLNOPRSTUVW"): field.lstrip("0123456789") for field in said.split()}
    for name, said in _FIELDS.items()
}
"""Segment → number of the field → K a code that stays, P pseudonym, IDS a person's numbers, CODED, WORDS, DATE, BIRTH, VALUE."""
_NAMES = {"PID": (5, 6, 9), "NK1": (2,), "GT1": (3,), "IN1": (16,)}
_STAFF = {
    "PV1": (7, 8, 9, 17, 52), "OBR": (10, 16, 28, 32, 33, 34, 35), "OBX": (16,), "ORC": (10, 11, 12), "TXA": (5, 9, 10, 11), "RXA": (10,),
    "DG1": (16,), "PR1": (8, 11),
}  # fmt: skip
_NUMBERS = {"PV1": (19,), "OBR": (2, 3), "ORC": (2, 3, 4), "TXA": (12,), "MSH": (10,), "SPM": (2,)}
_IDENTITIES = frozenset({"SS", "DL", "PPN", "BA", "CZ", "DFN", "TAX", "NPI", "MC", "MA", "DN", "MD", "PRN"})
"""HL7 table 0203: kinds of numbers that are no hospital's: social security, licence, passport, insurance …"""
_CODE = re.compile(r"[A-Za-z0-9<>*+-][\w .+/<>*%-]{0,40}")
_SHORT = re.compile(r"(?!.*\d{5})[A-Za-z0-9<>*+-][\w .+/<>*%-]{0,40}")
"""A code of the standard's own tables: no date and no number of anyone's."""
_NUMBER = re.compile(r"\s*[<>]?=?\s*[-+]?\d{1,12}(?:\.\d+)?(?:[eE][-+]?\d+)?\s*")


class _Marks:
    """The five separators of a message, and words with and without their escapes (2.7)."""

    def __init__(self, head: str) -> None:
        self.field, marks = head[3], head[4:].split(head[3])[0]
        self.component, self.repeat = marks[0], marks[1]
        self.escape, self.sub = (marks[2:3] or "\\"), (marks[3:4] or "&")
        self.names = {"F": self.field, "S": self.component, "T": self.sub, "R": self.repeat, "E": self.escape}
        mark = re.escape(self.escape)
        self.escapes = re.compile(f"{mark}([^{mark}]{{0,400}}){mark}")

    def plain(self, text: str) -> str:
        """As it is meant; `\\H\\` and the like are mere emphasis."""

        def sign(found: re.Match[str]) -> str:
            if re.fullmatch(r"X(?:[0-9A-Fa-f]{2})+", found[1]):
                return bytes.fromhex(found[1][1:]).decode("utf-8", "replace")
            return self.names.get(found[1], "\n" if found[1][:3] in (".br", ".sp") else "")

        return self.escapes.sub(sign, text)

    def written(self, text: str) -> str:
        """With escapes where a separator would be one, and no line end."""
        signs = {mark: f"{self.escape}{name}{self.escape}" for name, mark in self.names.items()}
        signs |= {"\n": f"{self.escape}.br{self.escape}", "\r": "", "\x0b": "", "\x1c": ""}
        return "".join(signs.get(letter, letter) for letter in text)

    def parts(self, repetition: str) -> list[str]:
        """Components of a repetition, as they are meant."""
        return [self.plain(part).strip() for part in repetition.split(self.component)]

    def fields(self, segment: str) -> list[str]:
        """By number: a header's first is its own separator."""
        cells = segment.split(self.field)
        return [cells[0], self.field, *cells[1:]] if cells[0] == "MSH" else cells


def _messages(path: Path) -> Iterator[tuple[_Marks, list[list[str]]]]:
    for message in reader.messages(path):
        lines = [line for line in message.split("\r") if line.strip()]
        if not re.match(r"MSH[^\w\s][^\w\s]{3,5}", lines[0]):
            raise RecordError("a message without its separators", "MSH|^~\\&", "send it again")
        marks = _Marks(lines[0])
        yield marks, [marks.fields(line) for line in lines]


def _get(segment: list[str], number: int, marks: _Marks) -> list[list[str]]:
    """A field's repetitions, each as its components."""
    cell = segment[number] if number < len(segment) else ""
    return [marks.parts(repetition) for repetition in cell.split(marks.repeat)] if cell not in ("", '""') else []


def _person(segment: list[str], marks: _Marks) -> tuple[str, list[str]]:
    """Whom a PID is about, as the reader has it, and all numbers of theirs."""
    numbers = [(p[4] if len(p) > 4 else "", p[0]) for p in _get(segment, 3, marks) if p[0]]
    others = [p[0] for n in (2, 4) for p in _get(segment, n, marks) if p[0]]
    who = (
        next((i for kind, i in numbers if kind == "MR"), "") or next((i for _, i in numbers), "") or (others or [""])[0]
    )
    return who, [*(i for _, i in numbers), *others]


def survey(path: Path, place: str, known: Known) -> str:
    """Note numbers and names of patients, of their kin and of staff; a file may be of many."""
    for marks, segments in _messages(path):
        pid = next((s for s in segments if s[0] == "PID"), [])
        who, numbers = _person(pid, marks)
        known.patient(who)
        for number in numbers:
            known.identify(number)
            if who and len(number) >= 4:
                known.alike(number, who)
        for number in (18, 19, 20):
            for parts in _get(pid, number, marks):
                known.identify(parts[0])
        for segment in segments:
            for number in _NAMES.get(segment[0], ()):
                for parts in _get(segment, number, marks):
                    known.name(who or None, " ".join(parts[:3]).replace(marks.sub, " "))
            for number in _STAFF.get(segment[0], ()):
                for parts in _get(segment, number, marks):
                    known.name(None, " ".join(parts[1:4] if len(parts) > 1 else parts[:1]).replace(marks.sub, " "))
            for number in _NUMBERS.get(segment[0], ()):
                for parts in _get(segment, number, marks):
                    known.identify(parts[0])
    return ""


def deidentify(path: Path, to: Path, cleaning: Cleaning) -> None:
    """Write the messages anew, in UTF-8, without the frames and headers of a batch.

    Raises:
        RecordError: they have no separators.
    """
    written = 0
    with to.open("w", encoding="utf-8", newline="") as file:
        for number, (marks, segments) in enumerate(_messages(path), 1):
            pid = next((s for s in segments if s[0] == "PID"), [])
            year = segments[0][7][:4] if len(segments[0]) > 7 else ""
            cleaner = Cleaner.of(cleaning, marks=marks, number=number, sent=int(year) if year.isdecimal() else None)
            cleaner.who = _person(pid, marks)[0]
            file.write("\r".join(cleaner.message(segments)) + "\r")
            written = number
    if not written:
        raise RecordError("HL7 v2 without a message", "MSH and what follows", "leave it out")


@dataclass(slots=True)
class Cleaner(Cleaning):
    """Cleans one message, sent in a year."""

    marks: _Marks
    number: int
    sent: int | None

    def message(self, segments: list[list[str]]) -> list[str]:
        """Its segments anew."""
        asked = [self._asked(segment) for segment in segments]
        new: list[str] = []
        for _, group in groupby(enumerate(segments), key=lambda item: self._report(item[1], item[0])):
            found = [segment for _, segment in group]
            lines = iter(self._lines(found)) if len(found) > 1 or self._report(found[0], -1) == "report" else None
            for segment in found:
                place = f"message {self.number} {segment[0]}"
                if segment[0] not in _RULES:
                    self.did(place, "X")
                    continue
                new.append(self._segment(segment, place, next(lines) if lines else None, asked))
        return new

    def _report(self, segment: list[str], otherwise: int) -> str | int:
        """What is read together: lines of a report, or comments, that follow each other."""
        kind = segment[2] if segment[0] == "OBX" and len(segment) > 5 else ""
        return (
            "report"
            if kind in ("TX", "FT") and not self._asked(segment)
            else "note"
            if segment[0] == "NTE"
            else otherwise
        )

    def _asked(self, segment: list[str]) -> bool:
        """Whether an OBX asks who somebody is."""
        called = _get(segment, 3, self.marks) if segment[0] == "OBX" else []
        return any(len(parts) > 1 and bool(ABOUT_PEOPLE.search(re.sub("[_-]", " ", parts[1]))) for parts in called)

    def _lines(self, segments: list[list[str]]) -> list[str]:
        """The words of a report's or of comments' segments, read together."""
        at = 3 if segments[0][0] == "NTE" else 5
        cells = [segment[at] if at < len(segment) else "" for segment in segments]
        parts = [[self.marks.plain(part) for part in cell.split(self.marks.repeat)] for cell in cells]
        new = iter(
            self.together([p for cell in parts for p in cell], f"message {self.number} {segments[0][0]}", light=False)
        )
        return [self.marks.repeat.join(self.marks.written(next(new)) for _ in cell) for cell in parts]

    def _segment(self, segment: list[str], place: str, words: str | None, asked: list[bool]) -> str:
        name, marks, cells = segment[0], self.marks, [segment[0]]
        rules, at = _RULES[name], 3 if name == "NTE" else 5
        for number in range(1, len(segment)):
            rule, cell = rules.get(str(number)), segment[number]
            if name == "MSH" and number <= 2:
                cells.append(cell)
            elif name == "MSH" and number == 18:
                cells.append("UNICODE UTF-8")
            elif cell in ("", '""'):
                cells.append(cell)
            elif words is not None and number == at:
                cells.append(words)
            elif rule is None:
                self.did(f"{place}-{number}", "X")
                cells.append("")
            else:
                cells.append(self._field(rule, cell, segment, f"{place}-{number}"))
        if name == "MSH":
            cells += [""] * (18 - len(cells)) + ["UNICODE UTF-8"] * (len(cells) < 19)
            cells = [cells[0] + cells[1] + cells[2], *cells[3:]]
        return marks.field.join(cells).rstrip(marks.field) if name != "MSH" else marks.field.join(cells)

    def _field(self, rule: str, cell: str, segment: list[str], place: str) -> str:
        marks = self.marks
        if rule == "VALUE":
            return self._value(cell, segment, place)
        clean = {
            "K": self._code,
            "P": self._pseudonym,
            "IDS": self._ids,
            "CODED": self._coded,
            "DATE": self._dates,
        }.get(rule)
        if rule == "BIRTH":
            self.did(place, "C: year of birth")
            return self.born(cell, self.sent)
        if clean is None:
            return marks.repeat.join(
                marks.written(self.words(marks.plain(part), place)) for part in cell.split(marks.repeat)
            )
        new = [clean(part, place) for part in cell.split(marks.repeat)]
        return marks.repeat.join(part for part in new if part)

    def _code(self, part: str, place: str) -> str:
        """A code of the standard: each component stays where it is one."""
        kept = [
            p if not p or (_SHORT.fullmatch(p) and not self.says_who(p)) else ""
            for p in part.split(self.marks.component)
        ]
        if kept != part.split(self.marks.component):
            self.did(place, "X: no code")
        return self.marks.component.join(kept)

    def _pseudonym(self, part: str, place: str) -> str:
        value = next((p for p in self.marks.parts(part) if p), "")
        self.did(place, "D: pseudonym")
        return self.key.pseudonym(value) if value else ""

    def _ids(self, part: str, place: str) -> str:
        """A person's numbers: who assigned them and of what sort they are stay told; those that are no hospital's go."""
        parts = [*self.marks.parts(part), *[""] * 5]
        if not parts[0] or parts[4].upper() in _IDENTITIES:
            self.did(place, "X")
            return ""
        self.did(place, "D: pseudonym")
        kind = parts[4] if re.fullmatch("[A-Z]{1,5}", parts[4]) else ""
        whose = self.key.pseudonym(parts[3].split(self.marks.sub)[0]) if parts[3] else ""
        return self.marks.component.join([self.key.pseudonym(parts[0]), "", "", whose, kind]).rstrip(
            self.marks.component
        )

    def _coded(self, part: str, place: str) -> str:
        """code ^ words ^ system, twice; a public vocabulary's own words stay, others go through the rules for notes."""
        parts = [*self.marks.parts(part), *[""] * 6][:9]
        new = ["", "", "", "", "", ""]
        for at in (0, 3):
            code, said, system = (parts[at + i].split(self.marks.sub) for i in range(3))
            public = is_known(system[0])
            codes = [c if _CODE.fullmatch(c) and not self.says_who(c) else "" for c in code]
            new[at] = self.marks.sub.join(self.marks.written(c) for c in codes)
            text = self.marks.sub.join(said)
            new[at + 1] = self.marks.written(self.words(text, place, light=True if public else None)) if text else ""
            new[at + 2] = (
                system[0]
                if public or re.fullmatch(r"L|99[A-Z]{0,4}|HL7\d{4}|UCUM|ISO\+?|C4|CDCREC|HL7", system[0])
                else "L" * bool(system[0])
            )
        return self.marks.component.join(new).rstrip(self.marks.component)

    def _dates(self, part: str, place: str) -> str:
        """A time, or the two of a range."""
        new = [self.moved(p.split(self.marks.sub)[0]) for p in self.marks.parts(part)]
        self.did(place, "C: date moved")
        return self.marks.component.join(new).rstrip(self.marks.component)

    def _value(self, cell: str, segment: list[str], place: str) -> str:
        """OBX-5, by the kind that OBX-2 says it is."""
        if self._asked(segment):
            self.did(place, "X")
            return ""
        kind, marks = segment[2], self.marks
        return marks.repeat.join(self._answer(kind, part, segment, place) for part in cell.split(marks.repeat))

    def _answer(self, kind: str, part: str, segment: list[str], place: str) -> str:
        marks = self.marks
        match kind:
            case "NM" | "SN" if all(
                _NUMBER.fullmatch(p) or p in ("", "<", ">", "<=", ">=", "=", "-", ":", "/", "+")
                for p in marks.parts(part)
            ):
                unit = next((p[0].lower() for p in _get(segment, 6, marks)), "")
                old = kind == "NM" and unit in YEARS and float(part.strip(" <>=")) > OLDEST
                return str(OLDEST) if old else part
            case "CE" | "CWE" | "CNE" | "CF":
                return self._coded(part, place)
            case "DT" | "TS" | "DTM" | "DR":
                return self._dates(part, place)
            case "TM":
                return part if re.fullmatch(r"\d{2,6}(\.\d+)?([+-]\d{4})?", part.strip()) else ""
            case "ST" | "TX" | "FT" | "NM" | "SN" | "IS" | "ID":
                return marks.written(self.words(marks.plain(part), place))
            case "ED":
                return self._embedded(part, place)
        self.did(place, f"X: {kind if kind.isalpha() else 'a value of no kind'}")
        return ""

    def _embedded(self, part: str, place: str) -> str:
        """A plain text is read; any other document cannot be looked into and goes."""
        _, kind, sub, coding, *data = [*self.marks.parts(part), *[""] * 5][:5]
        if kind.upper() not in ("TX", "TEXT", "FT", "AP", "APPLICATION") or sub.upper() not in (
            "",
            "PLAIN",
            "TXT",
            "TEXT",
        ):
            self.did(place, "X: attachment")
            return ""
        try:
            text = base64.b64decode(data[0]).decode("utf-8", "replace") if coding.lower() == "base64" else data[0]
        except ValueError:
            return ""
        new = base64.b64encode(self.words(text, place, light=False).encode()).decode()
        return self.marks.component.join(["", kind, sub, "Base64", new])
