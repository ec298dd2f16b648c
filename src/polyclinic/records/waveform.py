"""WFDB signals (`wfdb`): ECG, pressure, respiration, in formats 8, 16, 80, 212, 310 and MATLAB's; and what was noted along them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import MissingExtraError, Modality, Payload, Record, Rejected
from . import beats
from .source import RecordError, check_size, content_id, place_of

_LEADS = (
    "i",
    "ii",
    "iii",
    "avr",
    "avl",
    "avf",
    "v",
    "v1",
    "v2",
    "v3",
    "v4",
    "v5",
    "v6",
    "mli",
    "mlii",
    "mliii",
    "mcl1",
)
_OWN_READERS = {
    ".hea",
    ".txt",
    ".text",
    ".csv",
    ".tsv",
    ".json",
    ".dcm",
    ".png",
    ".jpg",
    ".jpeg",
    ".tif",
    ".tiff",
    ".nii",
    ".gz",
    ".zip",
    ".edf",
    ".bdf",
}


def recognises(path: Path, head: bytes) -> bool:
    """Whether it is a WFDB header (.hea); the signal files beside it belong to it."""
    return path.suffix.lower() == ".hea" and b"\x00" not in head


def header_of(path: Path) -> Path | None:
    """The header beside a file that names it as its signal, or whose annotations it holds; None for any other file.

    Annotations have the header's name and whatever ending (WFDB Applications Guide, `annot(5)`), so a file of a kind that
    has a reader of its own (a note, a table) is not taken for them.
    """
    if path.suffix.lower() in _OWN_READERS or not path.suffix:
        return None
    signals, stems = _folder(path.parent, path.parent.stat().st_mtime_ns)
    named = signals.get(path.name) or stems.get(path.stem)
    return path.parent / named if named else None


@lru_cache(maxsize=64)
def _folder(folder: Path, changed: int) -> tuple[dict[str, str], dict[str, str]]:
    """Signal file → header, and stem → header, of all headers in a folder."""
    signals: dict[str, str] = {}
    stems: dict[str, str] = {}
    for header in sorted(folder.glob("*.hea")):
        try:
            with header.open("rb") as file:
                lines = file.read(1 << 16).decode("latin-1").splitlines()
        except OSError:
            continue
        stems[header.stem] = header.name
        spoken = [line for line in lines if line.strip() and not line.startswith("#")]
        signals |= {line.split()[0]: header.name for line in spoken[1:]}
    return signals, stems


@lru_cache(maxsize=64)
def _beside(folder: Path, changed: int) -> dict[str, list[Path]]:
    """Stem → the files of a folder that may be annotations."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix and path.suffix.lower() not in _OWN_READERS:
            found.setdefault(path.stem, []).append(path)
    return found


def _noted(path: Path, header: Any) -> tuple[list[beats.Notes], list[tuple[Path, RecordError]]]:
    """The annotations beside a header, and those that cannot be taken."""
    taken, aside = [], []
    rate_hz = float(header.fs)
    for one in _beside(path.parent, path.parent.stat().st_mtime_ns).get(path.stem, []):
        if one.name in header.file_name or not one.is_file():
            continue
        try:
            taken.append(beats.notes_of(one, rate_hz, header.sig_len / rate_hz))
        except RecordError as reason:
            aside.append((one, reason))
    return taken, aside


def _header(path: Path) -> Any:
    try:
        import wfdb
    except ImportError as error:
        raise MissingExtraError("wfdb", "signals") from error
    if path.stat().st_size > 1 << 20:
        raise RecordError("a WFDB header of over a megabyte", "a few lines", "check where it comes from")
    try:
        header: Any = wfdb.rdheader(str(path.with_suffix("")))
    except Exception as error:
        raise RecordError(
            f"a WFDB header that does not parse ({type(error).__name__})", "a valid .hea", "copy it again"
        ) from error
    if isinstance(header, wfdb.MultiRecord):
        raise RecordError("a WFDB record of several segments", "one segment a header", "give the segments' own headers")
    if not header.n_sig or not header.file_name:
        raise RecordError("a WFDB header without a signal", "at least one signal file", "export the signal with it")
    missing = sorted({n for n in header.file_name if not (path.parent / n).is_file()})
    if missing:
        raise RecordError(
            f"a WFDB header whose signal file {missing[0]} is not there", "the file beside it", "copy it too"
        )
    if not header.fs or not np.isfinite(header.fs) or header.fs <= 0:
        raise RecordError("a WFDB header without a rate", "samples a second in the first line", "add it")
    if not header.sig_len:
        raise RecordError("a WFDB header without a length", "samples a signal in the first line", "add it")
    check_size((int(header.sig_len), int(header.n_sig)), 8)
    return header


def _kind(names: list[str]) -> str:
    leads = [n for n in names if n in _LEADS or "ecg" in n]
    return f"ECG {len(leads)}-lead" if leads else "signal " + " ".join(names[:3])


def read(path: Path, root: Path) -> Iterator[Record | Rejected]:
    """One record a header; kind "ECG 12-lead" where the leads say so. `annotations` has [onset s, 0, code] of beats, as EDF's has."""
    header = _header(path)
    comments = " ".join(header.comments or [])
    said = lambda pattern: re.search(pattern, comments, re.IGNORECASE)
    patient, age, sex = (
        said(r"\bpatient(?: ?id)?\s*[:=]\s*(\S+)"),
        said(r"\bage>?\s*[:=]?\s*(\d+)"),
        said(r"\bsex>?\s*[:=]?\s*([fm])"),
    )
    load_part(path, max(0, header.sig_len - 16), header.sig_len)  # a file that was cut short has no end
    noted, aside = _noted(path, header)
    for one, reason in aside:
        yield Rejected(place_of(one, root), reason.found, reason.expected, reason.remedy)
    yield Record(
        id=content_id(path, "+".join(content_id(path.parent / n) for n in sorted(set(header.file_name)))),
        patient=patient[1] if patient else path.stem,
        time=header.base_datetime,
        modality=Modality.SIGNAL,
        kind=_kind([str(n).strip().lower() for n in header.sig_name]),
        uri=place_of(path, root),
        attributes={
            "rate_hz": float(header.fs), "channels": int(header.n_sig), "seconds": float(header.sig_len / header.fs),
            "age": float(age[1]) if age else None, "sex": sex[1].upper() if sex else None,
            "anonymous": patient is None, **beats.attributes_of(noted),
        },
    )  # fmt: skip


def load_part(path: Path, start: int, stop: int | None) -> Any:
    """The samples start..stop of every signal.

    Raises:
        RecordError: the signal file is shorter than its header says, or packed in a way that wfdb does not know.
    """
    import wfdb

    try:
        return wfdb.rdrecord(str(path.with_suffix("")), sampfrom=start, sampto=stop)
    except Exception as error:
        raise RecordError(
            f"a WFDB signal that was cut short ({type(error).__name__})", "as many samples as the header says", "copy it again"
        ) from error  # fmt: skip


def load(record: Record) -> Payload:
    """array (c t) float32 in the header's physical units, to_world[0, 0] seconds a sample, names the leads."""
    path = Path(record.uri)
    _header(path)
    signal = load_part(path, 0, None)
    to_world = np.diag([1.0 / float(signal.fs), 1.0, 1.0, 1.0])
    return Payload(
        np.ascontiguousarray(signal.p_signal.T, dtype=np.float32), to_world, names=tuple(map(str, signal.sig_name))
    )
