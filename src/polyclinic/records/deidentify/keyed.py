"""What is the same for the same secret: pseudonyms, UIDs, and each patient's shift of dates.

Everything is an HMAC-SHA256 of the value with the key file's secret: links between records survive, and who has not the key can
neither go back nor try out all hospital numbers. The key is never written anywhere else.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import uuid
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path

from ...schema import PolyclinicError

FEWEST_BYTES = 16
MOST_DAYS = 365
_PERSON = re.compile(r"^(sub|subject|patient|pat|person|case)([-_ ]?)\w*\d\w*$", re.IGNORECASE)
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
UID = re.compile(r"[0-9]+(?:\.[0-9]+){4,}")


class DeidentifyError(PolyclinicError):
    """What keeps a folder from being de-identified at all."""


@dataclass(frozen=True, slots=True)
class Key:
    """The secret, and all that is derived from it."""

    secret: bytes = field(repr=False)

    def number(self, purpose: str, value: str) -> int:
        """256 bits of the value; another purpose is another number."""
        message = f"{purpose}\x00{value}".encode("utf-8", "surrogateescape")
        return int.from_bytes(hmac.digest(self.secret, message, hashlib.sha256), "big")

    @property
    def check(self) -> str:
        """Says whether two outputs were made with one key, and nothing about the key."""
        return f"{self.number('check', '') >> 192:016x}"

    def pseudonym(self, value: str) -> str:
        """An identifier's other name: a letter and 15 digits, which fits the shortest field (DICOM SH, 16 characters).

        A name like `sub-07` keeps its first word, by which a folder is known as a person's; a UUID gives a UUID and a UID a UID.
        """
        plain = value.strip()
        if UUID.fullmatch(plain):
            return self.uuid(plain)
        if UID.fullmatch(plain):
            return self.uid(plain)
        found = _PERSON.match(plain)
        lead = f"{found[1]}{found[2] or '-'}" if found else ""
        return f"{lead}P{self.number('identifier', plain.casefold()) % 10**15:015d}"

    def uid(self, uid: str) -> str:
        """A UID in the UUID root, DICOM PS3.5 B.2: `2.25.` and an integer of 128 bits."""
        return f"2.25.{self.number('uid', uid.strip().removeprefix('urn:oid:').rstrip(chr(0))) >> 128}"

    def uuid(self, value: str) -> str:
        """A UUID of version 8 (RFC 9562)."""
        bits = self.number("uuid", value.strip().casefold()) >> 128
        bits = bits & ~(0xF << 76) | 8 << 76
        return str(uuid.UUID(int=bits & ~(3 << 62) | 2 << 62))

    def days(self, patient: str) -> int:
        """How far all dates of a patient are moved: 1 to 365 days, back or on."""
        number = self.number("days", patient.strip().casefold())
        return (number // 2 % MOST_DAYS + 1) * (1 if number % 2 else -1)


def open_key(path: Path) -> Key:
    """The key of a file; made of the system's randomness, for its owner alone, where there is none.

    Raises:
        DeidentifyError: the file is too short to be a secret.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(number, "w") as file:
            file.write(os.urandom(32).hex() + "\n")
    if not path.is_file():
        raise DeidentifyError(f"{path}, which is no file", "a key file", "give another --key")
    secret = path.read_bytes().strip()
    if len(secret) < FEWEST_BYTES:
        raise DeidentifyError(
            f"a key file of {len(secret)} bytes", f"at least {FEWEST_BYTES}", "name a file that is not there: a key is made"
        )  # fmt: skip
    return Key(secret)


def moved(day: date, days: int) -> date:
    """The day moved; at the calendar's ends it stays within."""
    try:
        return day + timedelta(days=days)
    except OverflowError:
        return day - timedelta(days=days)


def moved_time(moment: datetime, days: int) -> datetime:
    """The moment moved by whole days: the hour stays."""
    return datetime.combine(moved(moment.date(), days), moment.timetz())


def shifted(value: str, days: int) -> str | None:
    """A date or time of DICOM (DA, DT) or HL7 (TS), moved; a year alone stays, a month moves as its middle; None where it is neither."""
    text = value.strip().replace(".", "", 2) if re.match(r"\d{4}\.\d\d\.\d\d$", value.strip()) else value.strip()
    found = re.fullmatch(r"(\d{4})(\d\d)?(\d\d)?(\d{0,6}(?:\.\d{1,6})?)([+-]\d{4})?", text)
    if not found:
        return None
    year, month, day, hour, zone = found.groups()
    if month is None:
        return year
    try:
        new = moved(datetime.strptime(year + month + (day or "15"), "%Y%m%d").date(), days)
    except ValueError:
        return None
    return new.strftime("%Y%m%d")[: 8 if day else 6].zfill(8 if day else 6) + hour + (zone or "")
