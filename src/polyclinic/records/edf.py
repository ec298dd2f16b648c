"""EDF, EDF+ and BDF signals: sleep, EEG, long ECG; signals of one rate are one record, and of a recording with gaps each unbroken run.

Headers and notes are read by `pyedflib`; what it does not open (gaps, letters outside ASCII) it is given as it can, and samples are
taken from the file as they lie there.

Source: Kemp and Olivan 2003, EDF+ (edfplus.info/specs/edfplus.html); BioSemi's BDF is EDF in 24 bits.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import product
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from ..schema import MissingExtraError, Modality, Payload, Record, Rejected
from .edf_gaps import Run, runs
from .naming import patient_of
from .source import RecordError, check_size, content_id, part_number, place_id, place_of, split_uri

MOST_ANNOTATIONS = 1000
_BDF = b"\xffBIOSEMI"
NOT_SIGNALS = ("EDF Annotations", "BDF Annotations")
_ONE_AT_A_TIME = Lock()  # edflib refuses a file that is open


def recognises(path: Path, head: bytes) -> bool:
    """Whether it begins as EDF or BDF does, and its header counts its own bytes."""
    return head.startswith((_BDF, b"0       ")) and all(
        head[a:b].strip().isdigit() for a, b in ((184, 192), (252, 256))
    )


@dataclass(frozen=True, slots=True)
class _Header:
    """What the header says.

    Args:
        labels: of each signal, those of annotations too.
        samples: of each signal in one data record.
        records: data records.
        seconds: of one data record.
        size: of the header, in bytes.
        width: of a sample, in bytes.
        bounds: of each signal the physical and the digital minimum and maximum, as they were written.
        gaps: whether there may be gaps between data records.
        undated: whether the date is unknown.
        patient: what its patient is called by where letters of that are outside ASCII, else empty.
    """

    labels: tuple[str, ...]
    samples: tuple[int, ...]
    records: int
    seconds: float
    size: int
    width: int
    bounds: tuple[tuple[str, ...], ...]
    gaps: bool
    undated: bool
    patient: str = ""

    @property
    def signals(self) -> list[int]:
        """The numbers of those signals that are none of annotations."""
        return [i for i, label in enumerate(self.labels) if label not in NOT_SIGNALS]

    @property
    def counts(self) -> list[int]:
        """Samples a data record of each signal that is none of annotations: as pyedflib counts them."""
        return [self.samples[i] for i in self.signals]

    @property
    def names(self) -> list[str]:
        """The labels of those signals, as they were written."""
        return [self.labels[i] for i in self.signals]

    def groups(self) -> list[list[int]]:
        """Signals of one rate, in the order of the first of each."""
        found: dict[int, list[int]] = {}
        for number, count in enumerate(self.counts):
            found.setdefault(count, []).append(number)
        return list(found.values())

    def block(self, path: Path, signal: int) -> np.ndarray:
        """(records bytes) uint8 of one signal, of annotations or not, as it lies in the file."""
        every = np.memmap(path, np.uint8, "r", self.size, (self.records, sum(self.samples) * self.width))
        start = sum(self.samples[:signal]) * self.width
        return every[:, start : start + self.samples[signal] * self.width]

    def values(self, path: Path, signal: int, run: slice) -> np.ndarray:
        """(t) float32 of a signal in its unit, of some data records."""
        stored = np.ascontiguousarray(self.block(path, signal)[run]).reshape(-1, self.width)
        digital = np.zeros((len(stored), 4), np.uint8)
        digital[:, 4 - self.width :] = stored
        least, most, lowest, highest = map(float, self.bounds[signal])
        step = (most - least) / (highest - lowest)
        counts = digital.view("<i4")[:, 0] >> 8 * (4 - self.width)
        return (counts * step + (least - lowest * step)).astype(np.float32)


def _header(path: Path) -> _Header:
    """The header, checked against the file's length before a library allocates anything.

    Raises:
        RecordError: they disagree.
    """
    with path.open("rb") as file:
        head = file.read(256)
        try:
            size, count = int(head[184:192]), int(head[252:256])
            if not 0 < count <= 4096 or size != 256 * (count + 1):
                raise _contradicts()
            more = file.read(256 * count)
            field = lambda start, width: [
                _words(more[start * count + i * width : start * count + (i + 1) * width]).strip() for i in range(count)
            ]
            labels, samples = field(0, 16), [int(v) for v in field(216, 8)]
            bounds = list(zip(*(field(start, 8) for start in (104, 112, 120, 128)), strict=True))
            records, seconds = int(head[236:244]), float(head[244:252])
        except ValueError as error:
            raise RecordError(
                "an EDF header that does not parse", "numbers where EDF has them", "copy it again"
            ) from error
    if records == -1:
        raise RecordError("an EDF recording that was not finished", "a number of data records", "finish or repair it")
    if records < 1 or min(samples) < 1:
        raise _contradicts()
    if all(label in NOT_SIGNALS for label in labels) or not (np.isfinite(seconds) and seconds > 0):
        raise RecordError("an EDF file without a signal", "at least one signal", "give the recording that it is about")
    width = 3 if head.startswith(_BDF) else 2
    expected = size + records * sum(samples) * width
    if path.stat().st_size != expected:
        short = "that was cut short" if path.stat().st_size < expected else "of another length than its header says"
        raise RecordError(
            f"an EDF file {short}: {path.stat().st_size} of {expected} bytes",
            "as many as the header says",
            "copy it again",
        )
    undated = head[88:168].startswith(b"Startdate X ") or head[168:176] == b"01.01.85"  # as EDF+ 2.1.3.4 has it
    code = head[8:88].split(b" ")[0]  # EDF+ 2.1.3.3: the first of the subfields
    named = "" if code.isascii() or head[192:196] not in (b"EDF+", b"BDF+") else _words(code)
    gaps = head[192:197] in (b"EDF+D", b"BDF+D")
    return _Header(tuple(labels), tuple(samples), records, seconds, size, width, tuple(bounds), gaps, undated, named)


def _contradicts() -> RecordError:
    return RecordError(
        "an EDF header that contradicts itself",
        "256 bytes a signal and 256 more, each of a sample or more",
        "copy it again",
    )


_WIDTHS = (8, 80, 80, 8, 8, 8, 44, 8, 8, 4)
_OF_SIGNALS = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)


def _words(field: bytes) -> str:
    """A field as it was meant: UTF-8, or else what older Windows programs wrote."""
    try:
        return field.decode()
    except UnicodeDecodeError:
        return field.decode("cp1252", "replace")


def _plain(head: bytes) -> bytes:
    """A header in the letters that the standard allows, each field of its own width: µ is u, é is e, others are `?`."""
    count = (len(head) - 256) // 256
    widths = [*_WIDTHS, *(width for width in _OF_SIGNALS for _ in range(count))]
    out, at = [], 0
    for width in widths:
        field = head[at : at + width]
        if not field.isascii() and not (at == 0 and field == _BDF):
            kept = unicodedata.normalize("NFKD", _words(field)).replace("\u03bc", "u")
            letters = "".join(c if c.isascii() else "?" for c in kept if not unicodedata.combining(c))
            field = letters.encode()[:width].ljust(width)
        out.append(field)
        at += width
    return b"".join(out)


@contextmanager
def _readable(path: Path, header: _Header) -> Iterator[Path]:
    """The file, or a copy of it that keeps to what edflib opens: a header in ASCII, and of one with gaps the first data record."""
    with path.open("rb") as file:
        head = file.read(header.size)
    plain = _plain(head)
    if plain == head and not header.gaps:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / f"recording{path.suffix}"
        if header.gaps:
            copy.write_bytes(plain[:196] + b"C" + plain[197:236] + b"1".ljust(8) + plain[244:] + _first(path, header))
        else:
            shutil.copyfile(path, copy)
            with copy.open("r+b") as file:
                file.write(plain)
        yield copy


def _first(path: Path, header: _Header) -> bytes:
    """The first data record, begun at 0 and without notes."""
    blocks = [header.block(path, i)[0].tobytes() for i in range(len(header.labels))]
    notes = [i for i, label in enumerate(header.labels) if label in NOT_SIGNALS]
    for i in notes:
        blocks[i] = (b"+0\x14\x14" if i == notes[0] else b"").ljust(len(blocks[i]), b"\0")[: len(blocks[i])]
    return b"".join(blocks)


@contextmanager
def _open(path: Path, header: _Header) -> Iterator[Any]:
    try:
        import pyedflib
    except ImportError as error:
        raise MissingExtraError("pyedflib", "signals") from error
    with _ONE_AT_A_TIME, _readable(path, header) as plain:
        try:
            reader = pyedflib.EdfReader(str(plain))
        except Exception as error:
            reason = re.search(r"compliant(?:, | \()([A-Za-z ]+)", str(error))
            raise RecordError(
                f"an EDF file that does not open ({reason[1].lower() if reason else type(error).__name__})",
                "a file that keeps to EDF, EDF+ or BDF", "check it with the system that wrote it",
            ) from error  # fmt: skip
        try:
            yield reader
        finally:
            reader.close()


def _kind(labels: list[str]) -> str:
    words = [label.upper().split(" ")[0] for label in labels]
    eeg, ecg = words.count("EEG"), words.count("ECG") + words.count("EKG")
    if eeg or ecg:
        return f"EEG {eeg}-channel" if eeg >= ecg else f"ECG {ecg}-lead"
    return "signal " + " ".join(label.lower() for label in labels[:3])


def _age(born: str, taken: datetime | None) -> float | None:
    try:
        return round((taken - datetime.strptime(born, "%d %b %Y")).days / 365.25, 2) if taken else None
    except ValueError:
        return None


def read(path: Path, root: Path) -> Iterator[Record | Rejected]:
    """One record a rate and unbroken run; `annotations` of a run's first has what was noted in it: [onset s, duration s, words].

    Where a recording has gaps (EDF+D), each run is a record with its own time (`#group=1&run=2`) and says in `onset_s` when it began
    after the file's start; nothing is made up between them.
    """
    header = _header(path)
    place, groups = place_of(path, root), header.groups()
    for group in groups:
        check_size((len(group), header.records * header.counts[group[0]]), 8)
    every = _runs(path, header) if header.gaps else []
    with _open(path, header) as reader:
        about, signals = reader.getHeader(), reader.getSignalHeaders()
        noted = zip(*(found.tolist() for found in reader.readAnnotations()), strict=True)
        every = every or [Run(0, header.records, 0.0, tuple(noted))]
    began = None if header.undated else about["startdate"]
    code = header.patient or about["patientcode"].strip()
    named = bool(code) and code != "X"
    whole = content_id(path) if len(every) > 1 else ""
    for (turn, run), (number, group) in product(enumerate(every, start=1), enumerate(groups, start=1)):
        part = f"group={number}" if len(groups) > 1 or len(every) > 1 else ""
        fragment = f"{part}&run={turn}" if len(every) > 1 else part
        mine = [signals[i] for i in group]
        notes = {
            "annotation_count": len(run.notes),
            "annotations": json.dumps(run.notes[:MOST_ANNOTATIONS], ensure_ascii=False),
        }
        of = {"run": turn, "runs": len(every), "onset_s": run.onset_s} if len(every) > 1 else {}
        samples, taken = header.counts[group[0]], began and began + timedelta(seconds=run.onset_s)
        yield Record(
            id=place_id(whole, fragment) if whole else content_id(path, fragment),
            patient=code if named else patient_of(place, path.stem) or path.stem,
            time=taken,
            modality=Modality.SIGNAL,
            kind=_kind([header.names[i] for i in group]),
            uri=f"{place}#{fragment}" if fragment else place,
            device=about["equipment"].strip() or None,
            attributes={
                "rate_hz": samples / header.seconds, "channels": len(group), "seconds": run.records * header.seconds,
                "unit": " ".join(sorted({s["dimension"].strip() for s in mine} - {""})) or None,
                "age": _age(about["birthdate"], taken), "sex": about["sex"][:1].upper() or None,
                "anonymous": not named, **of, **(notes if number == 1 and run.notes else {}),
            },
        )  # fmt: skip


def _runs(path: Path, header: _Header) -> list[Run]:
    notes = [header.block(path, i) for i, label in enumerate(header.labels) if label in NOT_SIGNALS]
    if not notes:
        raise RecordError(
            "an EDF+D recording without a signal of annotations, which tells when each data record began",
            "one named `EDF Annotations`",
            "check what wrote it",
        )
    return runs(notes, header.seconds, max(header.counts))


def load(record: Record) -> Payload:
    """array (c t) float32 in the file's physical units, to_world[0, 0] seconds a sample, names the signals' labels."""
    path = Path(split_uri(record.uri)[0])
    header = _header(path)
    group = header.groups()[(part_number(record.uri, "group") or 1) - 1]
    rate = header.counts[group[0]] / header.seconds
    which = slice(None)
    if turn := part_number(record.uri, "run"):
        run = _runs(path, header)[turn - 1]
        which = slice(run.first, run.first + run.records)
    array = np.stack([header.values(path, header.signals[i], which) for i in group])
    return Payload(array, np.diag([1.0 / rate, 1.0, 1.0, 1.0]), names=tuple(header.names[i] for i in group))
