"""WFDB: the header is written anew with what the samples need, age and sex; its comments are left out; samples stay byte for byte.

Source: WFDB Applications Guide, `header(5)` and `annot(5)`.
"""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

from .. import waveform
from ..source import RecordError
from .cleaning import Cleaning
from .keyed import moved
from .known import Known
from .options import OLDEST

_LEAD = re.compile(r"[\w+./ ()#-]{1,24}")


def patient_of(header: Path) -> str | None:
    """Whom its comments name."""
    found = re.search(r"\bpatient(?: ?id)?\s*[:=]\s*(\S+)", "\n".join(_comments(_lines(header))), re.IGNORECASE)
    return found[1] if found else None


def _lines(header: Path) -> list[str]:
    if header.stat().st_size > 1 << 20:
        raise RecordError("a WFDB header of over a megabyte", "a few lines", "check where it comes from")
    return header.read_text(encoding="latin-1").splitlines()


def _comments(lines: list[str]) -> list[str]:
    return [line.lstrip("#").strip() for line in lines if line.lstrip().startswith("#")]


def signal_files(header: Path) -> list[str]:
    """The names of its signal files."""
    spoken = [line for line in _lines(header) if line.strip() and not line.lstrip().startswith("#")]
    return sorted({line.split()[0] for line in spoken[1:]} - {"~"})


def survey(path: Path, place: str, known: Known) -> str:
    """Whose signals they are: the header says, or is called so."""
    header = waveform.header_of(path) or path
    known.patient(header.stem)
    return patient_of(header) or header.stem


def deidentify_header(path: Path, to: Path, cleaning: Cleaning) -> None:
    """Write the header.

    Raises:
        RecordError: several segments, or no header.
    """
    lines = _lines(path)
    spoken = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not spoken:
        raise RecordError("an empty WFDB header", "a record line", "copy it again")
    first = spoken[0].split()
    if "/" in first[0]:
        raise RecordError("a WFDB record of several segments", "one segment a header", "give the segments' own headers")
    first[0] = to.stem
    if len(first) >= 6:
        first[5] = _moved(first[5], cleaning.days)
        cleaning.did("base date", "C: date moved")
    new = [" ".join(part for part in first[:6] if part)]
    for number, line in enumerate(spoken[1:]):
        parts = line.split(maxsplit=8)
        parts[0] = cleaning.namer.file(parts[0])
        if len(parts) > 8 and not (_LEAD.fullmatch(parts[8].strip()) and len(parts[8].split()) <= 3):
            parts[8] = f"signal {number}"
            cleaning.did(f"signal {number}", "D")
        new.append(" ".join(parts))
    comments = " ".join(_comments(lines))
    if comments:
        cleaning.did("comments", "X")
    if patient := patient_of(path):
        new.append(f"# patient: {cleaning.key.pseudonym(patient)}")
    age = re.search(r"\bage>?\s*[:=]?\s*(\d{1,3})", comments, re.IGNORECASE)
    sex = re.search(r"\bsex>?\s*[:=]?\s*([fm])", comments, re.IGNORECASE)
    if age or sex:
        told = [f"<age>: {min(int(age[1]), OLDEST)}"] if age else []
        new.append("# " + "  ".join(told + ([f"<sex>: {sex[1].upper()}"] if sex else [])))
    to.write_text("\n".join(new) + "\n", encoding="latin-1")


def _moved(day: str, days: int) -> str:
    try:
        return moved(datetime.strptime(day, "%d/%m/%Y").date(), days).strftime("%d/%m/%Y")
    except ValueError:
        return ""


def deidentify_samples(path: Path, to: Path) -> list[tuple[str, str]]:
    """Copy a signal file; of MATLAB's the 116 bytes of words at its head are blanked.

    Raises:
        RecordError: annotations with words of their own.
    """
    data = path.read_bytes()
    if data.startswith(b"MATLAB 5.0 MAT-file"):
        to.write_bytes(b"MATLAB 5.0 MAT-file".ljust(116) + data[116:])
        return [("MATLAB head", "Z")]
    to.write_bytes(data)
    return []


def deidentify_annotations(path: Path, to: Path) -> list[tuple[str, str]]:
    """Copy annotations whose strings are rhythm codes.

    Raises:
        RecordError: a string that somebody wrote.
    """
    data = path.read_bytes()
    at = 0
    while at + 2 <= len(data):
        word = int.from_bytes(data[at : at + 2], "little")
        code, length = word >> 10, word & 0x3FF
        at += 2
        if word == 0:
            break
        if code == 59:  # SKIP
            at += 4
        elif code == 63:  # AUX
            said = data[at : at + length].rstrip(b"\0")
            if not re.fullmatch(
                rb"\(?[A-Z0-9]{0,6}|## time resolution: \d+|[A-Za-z]{0,5}=?\d+(?:\.\d+)?(?:/\d+(?:\.\d+)?)?(?:ms|s|mV)?",
                said,
            ):
                raise RecordError(
                    "annotations with words of their own", "rhythm codes", "export the beats without notes"
                )
            at += length + length % 2
    to.write_bytes(data)
    return []
