"""What a table's column holds, by its name and by its cells, and so what is to be done with it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .. import tables
from ..source import parse_time
from .known import Known, name_parts
from .words import words

DROP = re.compile(
    r"(^|[^a-z])(first|last|middle|given|family|full|maiden|sur|fore|nick|pre|patient|pt|mother"
    r"|father|spouse|physician|doctor|provider"
    r"|surgeon|nurse|contact|nok|guarantor|user|display|person|subject)?[ _.-]*name[0-9]*$|^name"
    r"|surname|lastname|firstname|initials"
    r"|address|street|^addr|^line\d|phone|telephone|^tel$|mobile|^cell$|fax|pager|e-?mail|^mail$"
    r"|\burl\b|website|^ip$|ip[ _-]?addr|ssn"
    r"|social[ _]?security|passport|driver|licen[cs]e[ _]?(no|num|plate)|plate|insurance|policy"
    r"|beneficiary|account|^acct|iban|zip|postcode"
    r"|postal|^plz$|^city$|^town|county|birth[ _]?place|religion|employer|next[ _]?of[ _]?kin"
    r"|signature|photo|^vin$|latitude|longitude"
    r"|^lat$|^lon$|^geo|vorname|nachname|strasse|stra[sß]e|wohnort",
    re.IGNORECASE,
)
_ID = re.compile(
    r"(^|[_ .-])(id|ids|mrn|uid|uuid|identifier|identifiers|accession|serial|barcode|filename|file"
    r"|image|path|number|no|nr|key|stem)$"
    r"|^(mrn|accession|encounter|visit|order|episode|case|sample|specimen|slide|hadm|stay|subject"
    r"|patient|participant|chart|device)"
    r"([_ .-]?(id|no|nr|number|num|key|uid|serial))?$|study.*uid|series.*uid|patientunitstayid|fallnummer|sopinstance"
)
_CONCEPT = re.compile(r"(concept|vocabulary|domain|relationship)_id$", re.IGNORECASE)
"""OMOP's: the number of a code, which is the same everywhere."""
_THING = re.compile(
    r"(concept|drug|medication|vaccine|test|lab|item|gene|variable|unit|vocabulary|domain|class|procedure|diagnosis)[ _-]?name$",
    re.I,
)
"""Names of no one."""
_CAMEL_ID = re.compile(r"(?<=[a-z])(ID|Id|UID|Uid|Identifier|Number|Key|Serial)$")
PLACE = re.compile(
    r"^(site|location|region|place|department|ward|careunit|center|centre)([_ ]?(id|code))?$|_by$|(^"
    r"|[^a-z])(physician|doctor|provider|surgeon"
    r"|operator|radiologist|nurse|caregiver|attending|hospital|clinic|institution|facility)([_ ]?(id"
    r"|code))?$|^hospitalid$",
    re.IGNORECASE,
)
_BIRTH = re.compile(r"birth|^dob$|^born|geburt", re.IGNORECASE)
_AGE = re.compile(r"(^|[_ .-])age([_ .-]|$)|^age|^alter$", re.IGNORECASE)
_WHEN = re.compile(r"date|time|^day$|_at$|^when|dt$|datum|admit|discharge|timestamp", re.IGNORECASE)
_TEXT = re.compile(
    r"note|text|comment|report|description|history|narrative|impression|findings|remark|summary|free"
    r"|dialogue|section_text",
    re.IGNORECASE,
)
SMALL = re.compile(r"[-+]?\d{0,4}(?:\.\d*)?(?:[eE][-+]?\d{1,3})?").fullmatch
"""A number too short to name anyone."""
MOST_DISTINCT = 200_000


@dataclass(slots=True)
class Column:
    """What is done with a column, and what its cells looked like."""

    name: str
    action: str = "keep"
    cells: int = 0
    numbers: int = 0
    dates: int = 0
    names: int = 0
    digits: int = 0
    words: int = 0
    distinct: set[str] = field(default_factory=set)

    def look(self, cell: str) -> None:
        """Take a cell into account."""
        if cell and SMALL(cell):
            self.cells += 1
            self.numbers += 1
            return
        text = cell.strip()
        if text.lower() in tables.UNKNOWN:
            return
        self.cells += 1
        if isinstance(tables.typed(text), float):
            self.numbers += 1
            if not re.fullmatch(r"\d{5,}(\.0)?", text):
                return
        elif parse_time(text) is not None or re.match(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}(?!\d)", text):
            self.dates += 1
        else:
            self.words += len(text.split())
            parts = name_parts(text)
            known = words("first_names") | words("surnames")
            self.names += (
                bool(parts)
                and len(text.split()) <= 5
                and bool(parts & (known - words("ambiguous")))
                and text[:1].isupper()
            )
        if re.search(r"\d", text):
            self.digits += 1
        if len(self.distinct) < MOST_DISTINCT:
            self.distinct.add(text)


def is_id(name: str) -> bool:
    """Whether a column's name speaks of an identifier."""
    if _CONCEPT.search(name):
        return False
    return bool(_ID.search(name.lower()) or _CAMEL_ID.search(name))


def judge(column: Column, patient: bool, known: Known) -> str:
    """What is to be done with a column: patient, drop, pseudonym, birth, date, age, text, code or keep."""
    name = column.name
    if patient:
        return "patient"
    if _CONCEPT.search(name):
        return "code"
    if tables.plain(name) in tables.PATIENT_COLUMNS:
        return "pseudonym"
    if _BIRTH.search(name) and not re.search(r"weight|order|year", name, re.IGNORECASE) and not DROP.search(name):
        return "birth"
    if PLACE.search(name):
        return "pseudonym"
    if DROP.search(name) and not _THING.search(name):
        return "drop"
    if _AGE.search(name) and column.dates == 0:
        return "age"
    if is_id(name) and not (column.cells and column.numbers == column.cells and not column.distinct):
        return "pseudonym"
    if column.cells and (
        column.dates >= 0.5 * column.cells or (_WHEN.search(name) and column.dates >= 0.1 * column.cells)
    ):
        return "date"
    if column.cells >= 5 and column.names >= 0.5 * column.cells:
        return "drop"
    if _TEXT.search(name) or (
        column.cells and column.words >= 4 * max(1, column.cells - column.numbers) and column.words
    ):
        return "text"
    share = len(column.distinct) / column.cells if column.cells else 0.0
    if (
        column.cells >= 20
        and column.digits >= 0.9 * column.cells
        and share > 0.9
        and column.digits == column.cells
        and len(column.distinct) >= 20
    ):
        return "pseudonym"
    hits = sum(value.casefold() in known.ids for value in column.distinct)
    return "pseudonym" if hits and hits >= 0.2 * len(column.distinct) else "keep"
