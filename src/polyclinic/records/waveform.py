"""WFDB signals (`wfdb`): ECG, pressure, respiration, in formats 8, 16, 80, 212, 310 and MATLAB's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import MissingExtraError, Modality, Payload, Record, Rejected
from .source import RecordError, check_size, content_id

_HEAD = re.compile(rb"^[\w/\-]+(/\d+)? +\d+( +[\d.]+)?", re.MULTILINE)
LIMB = ("i", "ii", "iii", "avr", "avl", "avf", "v1", "v2", "v3", "v4", "v5", "v6")


def recognises(path: Path, head: bytes) -> bool:
    """Whether it is a WFDB header (.hea); the signal files beside it belong to it."""
    return path.suffix.lower() == ".hea" and b"\x00" not in head


def belongs_to_header(path: Path) -> bool:
    """Whether a .dat, .mat or annotation file lies beside a header that speaks of it."""
    return path.suffix.lower() != ".hea" and any(
        h.stem == path.stem or path.name in h.read_text(errors="replace") for h in path.parent.glob("*.hea")
    )


def _header(path: Path) -> Any:
    try:
        import wfdb
    except ImportError as error:
        raise MissingExtraError("wfdb", "signals") from error
    try:
        header: Any = wfdb.rdheader(str(path.with_suffix("")))
    except Exception as error:
        raise RecordError(
            f"a WFDB header that does not parse ({type(error).__name__})", "a valid .hea", "copy it again"
        ) from error
    if not getattr(header, "n_sig", 0) or not getattr(header, "file_name", None):
        raise RecordError("a WFDB header without a signal", "at least one signal file", "export the signal with it")
    missing = sorted({n for n in header.file_name if not (path.parent / n).is_file()})
    if missing:
        raise RecordError(
            f"a WFDB header whose signal file {missing[0]} is not there", "the file beside it", "copy it too"
        )
    if not header.fs or header.fs <= 0:
        raise RecordError("a WFDB header without a rate", "samples a second in the first line", "add it")
    check_size((int(header.sig_len or 1), int(header.n_sig)), 8)
    return header


def read(path: Path) -> Iterator[Record | Rejected]:
    """One record a header; kind "ECG 12-lead" where the leads say so."""
    header = _header(path)
    names = [str(n).strip().lower() for n in header.sig_name]
    leads = len(set(names) & set(LIMB))
    kind = (
        f"ECG {leads}-lead"
        if leads >= 2 or any("ecg" in n or "mlii" in n for n in names)
        else "signal " + " ".join(names[:3])
    )
    comments = " ".join(header.comments or [])
    patient = re.search(r"patient\s*[:=]?\s*(\S+)", comments, re.IGNORECASE)
    age, sex = (
        re.search(r"\bage\s*:?\s*(\d+)", comments, re.IGNORECASE),
        re.search(r"\bsex\s*:?\s*(\w)", comments, re.IGNORECASE),
    )
    _check_end(path, header)
    yield Record(
        id=content_id(path, "+".join(content_id(path.parent / n) for n in sorted(set(header.file_name)))),
        patient=patient[1] if patient else path.stem,
        time=header.base_datetime,
        modality=Modality.SIGNAL,
        kind=kind.strip(),
        uri=str(path),
        attributes={
            "rate_hz": float(header.fs), "channels": int(header.n_sig), "seconds": float((header.sig_len or 0) / header.fs),
            "age": float(age[1]) if age else None, "sex": sex[1].upper() if sex else None,
        },
    )  # fmt: skip


def _check_end(path: Path, header: Any) -> None:
    if not header.sig_len:
        raise RecordError("a WFDB header without a length", "samples a signal in the first line", "add it")
    load_part(path, max(0, header.sig_len - 16), header.sig_len)


def load_part(path: Path, start: int, stop: int | None) -> Any:
    """The samples start..stop of every signal.

    Raises:
        RecordError: the signal file is shorter than its header says.
    """
    import wfdb

    try:
        return wfdb.rdrecord(str(path.with_suffix("")), sampfrom=start, sampto=stop)
    except Exception as error:
        raise RecordError(
            "a WFDB signal that was cut short", "as many samples as the header says", "copy it again"
        ) from error


def load(record: Record) -> Payload:
    """array (c t) float32 in the header's physical units, to_world[0, 0] seconds a sample, names the leads."""
    path = Path(record.uri)
    _header(path)
    signal = load_part(path, 0, None)
    to_world = np.diag([1.0 / float(signal.fs), 1.0, 1.0, 1.0])
    return Payload(
        np.ascontiguousarray(signal.p_signal.T, dtype=np.float32), to_world, names=tuple(map(str, signal.sig_name))
    )
