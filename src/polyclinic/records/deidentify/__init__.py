"""A folder of a hospital's files → the same folder without what says whose they are.

First everything is looked at (whose records are these, what are they called), then everything is written. The source is never
changed; what is not known is not copied; nothing that identifies goes into the report or a log.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ...schema import MissingExtraError
from .. import cda, gct, hl7v2, raster, slide, waveform
from .. import dicom as dicom_reader
from .. import tables as tables_reader
from .. import text as text_reader
from ..source import RecordError, encoding_of, parse_time, place_of
from . import dicom, fhir, pictures, signals, tables, volumes
from .keyed import DeidentifyError, Key, moved_time, open_key
from .known import Known
from .naming import Namer, person_by_name
from .notes import Recogniser, Scrubbed, Span, scrub
from .options import Options
from .report import Action, Aside, Report

__all__ = [
    "Action",
    "Aside",
    "DeidentifyError",
    "Key",
    "Known",
    "Options",
    "Recogniser",
    "Report",
    "Scrubbed",
    "Span",
    "deidentify",
    "open_key",
    "scrub",
]

MARK = ".deidentified.json"
"""The report, beside the files it speaks of; a hidden name, which no reader takes for a record."""
_PART = ".part"
Progress = Callable[[int, int, str], None]
Kind = Literal["dicom", "nifti", "picture", "signal header", "signal samples", "annotations", "fhir", "table", "note"]


def deidentify(
    source: str | Path,
    out: str | Path,
    key: str | Path,
    options: Options | None = None,
    *,
    recognisers: Sequence[Recogniser] = (),
    progress: Progress | None = None,
) -> Report:
    """Write a de-identified copy of a folder.

    Args:
        source: the folder (or one file).
        out: a new folder; one that was made with the same key may be written again.
        key: the secret's file, made if it is not there; keep it apart from `out`. Beside it `<key>.names.csv` says which new name
            was which file, for whoever has to look at what was set aside.
        options: see `Options`.
        recognisers: further ones for free text.
        progress: called with done, all and the new name of what is being done.
    Returns:
        what was done, what a person has to look at, and what was not copied.
    Raises:
        DeidentifyError: the folders cannot be used so.
    """
    root, to, secret = Path(source), Path(out), Path(key)
    options = options or Options()
    found = _files(root)
    _check(root, to, secret)
    root = root if root.is_dir() else root.parent
    made = open_key(secret)
    report = Report(made.check, options.as_data())
    _begin(to, report)
    if secret.stat().st_mode & 0o077:
        report.warnings.append("the key's file may be read by others than its owner: chmod 600")
    job = _Job(root, to, made, options, report, tuple(recognisers))
    job.run(found, progress)
    _end(to, secret, job)
    return report


def _files(root: Path) -> list[Path]:
    if not root.exists():
        raise DeidentifyError(f"nothing at {root}", "a folder of files", "check the path")
    found = [root] if root.is_file() else sorted(Path(f) / n for f, _, names in os.walk(root) for n in names)
    if not found:
        raise DeidentifyError(f"no file in {root}", "at least one", "check the path")
    return found


def _check(root: Path, to: Path, secret: Path) -> None:
    inside = lambda a, b: a.resolve().is_relative_to(b.resolve())
    if inside(to, root) or inside(root, to):
        raise DeidentifyError("an output within its source, or around it", "two folders apart", "give another --out")
    if inside(secret, to) or inside(secret, root):
        raise DeidentifyError("a key within the records", "a key that is kept apart", "give another --key")


def _begin(to: Path, report: Report) -> None:
    """Take the folder: a new one, or one of the same key."""
    mark = to / MARK
    if to.exists() and not to.is_dir():
        raise DeidentifyError(f"{to}, which is no folder", "a new folder", "give another --out")
    if mark.is_file():
        try:
            before = json.loads(mark.read_text())
        except ValueError:
            before = {}
        if before.get("key_check") != report.key_check:
            raise DeidentifyError(
                f"{to}, made with another key", "a new folder", "give another --out, or the key of then"
            )
        for place in before.get("files", []):
            if isinstance(place, str) and (to / place).resolve().is_relative_to(to.resolve()):
                (to / place).unlink(missing_ok=True)
    elif to.is_dir() and any(to.iterdir()):
        raise DeidentifyError(f"files in {to}", "a new or empty folder", "give another --out")
    to.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(to / _PART, ignore_errors=True)
    _write_mark(to, {"unfinished": True, "key_check": report.key_check, "files": []})


def _write_mark(to: Path, data: dict[str, object]) -> None:
    part = to / f"{MARK}.part"
    part.write_text(json.dumps(data, ensure_ascii=False, indent=1))
    part.replace(to / MARK)


def _end(to: Path, secret: Path, job: _Job) -> None:
    shutil.rmtree(to / _PART, ignore_errors=True)
    _write_mark(to, job.report.as_data())
    beside = secret.with_name(secret.name + ".names.csv")
    number = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(number, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["new", "source"])
        writer.writerows(sorted(job.names))


@dataclass(slots=True)
class _Job:
    """One run over one folder."""

    root: Path
    to: Path
    key: Key
    options: Options
    report: Report
    recognisers: tuple[Recogniser, ...]
    known: Known = field(default_factory=Known)
    patients: dict[Path, str] = field(default_factory=dict)
    names: list[tuple[str, str]] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)

    @property
    def namer(self) -> Namer:
        return Namer(self.key, self.known, self.options.keep_words)

    def run(self, found: Sequence[Path], progress: Progress | None) -> None:
        """Look at everything, then write everything."""
        kinds: dict[Path, Kind | RecordError] = {}
        for number, path in enumerate(found):
            try:
                kinds[path] = kind = _kind(path, self.root)
                self._survey(path, kind)
            except MissingExtraError:
                raise
            except Exception as error:
                kinds[path] = _reason(error)
            if progress:
                progress(number + 1, 2 * len(found), "looking")
        self.known.close()
        for number, path in enumerate(found):
            place = self.namer.place(place_of(path, self.root))
            self.names.append((place, os.fsencode(place_of(path, self.root)).decode("utf-8", "replace")))
            kind = kinds[path]
            reason = kind if isinstance(kind, RecordError) else self._take(path, place, kind)
            if reason:
                self.report.aside.append(Aside(place, reason.found, reason.remedy))
            if progress:
                progress(len(found) + number + 1, 2 * len(found), place)

    def _take(self, path: Path, place: str, kind: Kind) -> RecordError | None:
        """Write one file; why not, if not."""
        if place.casefold() in self.taken:
            return RecordError(
                "a second file of that new name",
                "names that differ in more than identifiers",
                "rename the source's file",
            )
        part = self.to / _PART / Path(place).name
        part.parent.mkdir(exist_ok=True)
        try:
            self._write(path, part, place, kind)
            (self.to / place).parent.mkdir(parents=True, exist_ok=True)
            part.replace(self.to / place)
        except (MissingExtraError, DeidentifyError):
            raise
        except OSError as error:
            if error.errno is not None and not isinstance(error, FileNotFoundError | PermissionError | EOFError):
                raise
            return _reason(error)
        except Exception as error:
            return _reason(error)
        finally:
            part.unlink(missing_ok=True)
        self.taken.add(place.casefold())
        self.report.files.append(place)
        self.report.kinds[kind] += 1
        return None

    def _survey(self, path: Path, kind: Kind) -> None:
        place = place_of(path, self.root)
        who = person_by_name(place)
        match kind:
            case "dicom":
                who = dicom.survey(path, self.known) or who
            case "nifti":
                bids = re.match(r"sub-[A-Za-z0-9]+", path.name)  # BIDS 1.10, entities: the first is the subject
                who = bids[0] if bids else who
            case "picture":
                first = who.split("_")[0]
                who = first if re.search(r"\d", first) else who
            case "signal header":
                who = signals.patient_of(path) or path.stem
                self.known.patient(path.stem)
            case "signal samples" | "annotations":
                header = waveform.header_of(path) or path
                who = signals.patient_of(header) or header.stem
            case "fhir":
                fhir.survey(path, self.known)
                return
            case "table":
                tables.survey(path, self.known)
                return
            case "note":
                fields, body = text_reader.split_head(_words(path))
                who = fields.get("patient") or path.stem.split("_")[0]
                self.known.lower.update(re.findall(r"\b[a-z][a-z'’-]+\b", body))
        self.known.patient(who)
        self.patients[path] = who

    def _write(self, path: Path, to: Path, place: str, kind: Kind) -> None:
        who = self.patients.get(path, "")
        days = self.key.days(self.known.person(who))
        done: list[tuple[str, str]] = []
        needed = (self.key, self.options, self.report, place, self.recognisers)
        match kind:
            case "dicom":
                dicom.deidentify(path, to, dicom.Cleaner(*needed, days, self.known.of(who)))
            case "nifti":
                done = volumes.deidentify(path, to)
            case "picture":
                done = pictures.deidentify(path, to)
                self.report.ask(place, "pixels", "a picture says nothing of itself: text may be burned in")
            case "signal header":
                named = signals.patient_of(path) is not None
                done = signals.deidentify_header(path, to, who, named, days, self.key, self.namer.file)
            case "signal samples":
                done = signals.deidentify_samples(path, to)
            case "annotations":
                done = signals.deidentify_annotations(path, to)
            case "fhir":
                _fhir(path, to, fhir.Cleaner(*needed, self.known))
            case "table":
                tables.Cleaner(*needed, self.known, self.namer).deidentify(path, to)
            case "note":
                self._note(path, to, place, who, days)
        for where, action in done:
            self.report.did(place, where, action)

    def _note(self, path: Path, to: Path, place: str, who: str, days: int) -> None:
        fields, body = text_reader.split_head(_words(path))
        head = []
        for name, value in fields.items():
            if name == "patient":
                head.append(f"Patient: {self.key.pseudonym(value)}")
            elif name == "date":
                moment = parse_time(value)
                if moment and self.options.dates == "shift":
                    head.append(f"Date: {moved_time(moment, days):%Y-%m-%d}")
            elif name == "time" and re.fullmatch(r"\d{1,2}:\d\d(:\d\d)?", value):
                head.append(f"Time: {value}")
            elif name == "site" and value:
                head.append(f"Site: {self.key.pseudonym(value)}")
            elif name in ("type", "language"):
                head.append(
                    f"{name.capitalize()}: {scrub(value, self.known.of(who), ordinary=self.known.ordinary).text}"
                )
        done = scrub(body, self.known.of(who), ordinary=self.known.ordinary, recognisers=self.recognisers)
        start = len("\n".join(head)) + 2 if head else 0
        to.write_text(("\n".join(head) + "\n\n" if head else "") + done.text + "\n", encoding="utf-8")
        for kind, n in sorted(done.found.items()):
            self.report.did(place, f"{n} × {kind}", "C: words")
        for span in done.unsure:
            self.report.ask(place, f"characters {start + span.start}–{start + span.stop}", "may be a name")


def _fhir(path: Path, to: Path, cleaner: fhir.Cleaner) -> None:
    new = cleaner.clean(fhir.load(path))
    lines = path.suffix.lower() == ".ndjson"
    to.write_text(
        "\n".join(json.dumps(r, ensure_ascii=False, indent=None if lines else 1) for r in new) + "\n",
        encoding="utf-8",
    )


def _words(path: Path) -> str:
    if path.stat().st_size > 8 << 20:
        raise RecordError("a note of over 8 MiB", "a note", "split it, or give it as a table")
    data = path.read_bytes()
    return data.decode(encoding_of(data), errors="replace")


def _kind(path: Path, root: Path) -> Kind:
    """What a file is.

    Raises:
        RecordError: nothing that is known here.
    """
    if path.is_symlink():
        raise RecordError("a link", "a file", "copy its target here")
    if not path.is_file():
        raise RecordError("neither a file nor a folder", "a file", "leave it out")
    if any(part.startswith(".") for part in path.relative_to(root).parts):
        raise RecordError("a hidden file", "a record", "leave it out")
    with path.open("rb") as file:
        head = file.read(4096)
    if not head:
        raise RecordError("an empty file", "a file with content", "export it again")
    for what, mine in _REFUSED:
        if mine(path, head):
            raise RecordError(what, "a kind that can be looked into", "leave it out, or export its parts apart")
    for kind, mine in _RECOGNISERS:
        if mine(path, head):
            return kind
    return _other(path)


def _other(path: Path) -> Kind:
    header = waveform.header_of(path)
    if header is not None and header.is_file():
        return "signal samples" if path.name in signals.signal_files(header) else "annotations"
    raise RecordError(
        "a file of a kind that is not known here", "a kind that can be looked into", "convert it, or leave it out"
    )


_REFUSED: tuple[tuple[str, Callable[[Path, bytes], bool]], ...] = (
    ("an HL7 v2 message", hl7v2.recognises),  # by a name that ends in .txt it would pass for a note
    ("a CDA document", cda.recognises),
    ("a table with a patient a column", gct.recognises),
    ("a whole slide, whose label and macro pictures name the patient", slide.recognises),
)
_RECOGNISERS: tuple[tuple[Kind, Callable[[Path, bytes], bool]], ...] = (
    ("dicom", dicom_reader.recognises),
    ("nifti", volumes.recognises),
    ("picture", raster.recognises),
    ("signal header", waveform.recognises),
    ("fhir", fhir.recognises),
    ("table", tables_reader.recognises),
    (
        "note",
        lambda p, h: text_reader.recognises(p, h) and p.stem.lower() not in {"readme", "license", "licence", "notice"},
    ),
)


def _reason(error: Exception) -> RecordError:
    """Why a file is not copied, without a word of what is in it."""
    if type(error) is RecordError:
        safe = error.found if not re.search(r"the columns|column name", error.found) else "a table that is none"
        return RecordError(safe, error.expected, error.remedy)
    return RecordError(
        f"a file that could not be taken ({type(error).__name__})",
        "a whole, valid file",
        "check it with the system that wrote it",
    )
