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

from ...schema import MissingExtraError
from ..source import RecordError, place_of
from .cleaning import Cleaning
from .keyed import DeidentifyError, Key, open_key
from .kinds import Kind, kind_of
from .known import Known
from .naming import Namer, person_by_name, split_ending
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
    report.warnings += [told for recogniser in recognisers if (told := getattr(recogniser, "warning", ""))]
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
                kinds[path] = kind = kind_of(path, self.root)
                self._survey(path, kind)
            except MissingExtraError:
                raise
            except Exception as error:
                kinds[path] = _reason(error)
            if progress:
                progress(number + 1, 2 * len(found), "looking")
        self.known.close()
        for number, path in enumerate(found):
            place, kind = self.namer.place(place_of(path, self.root)), kinds[path]
            if isinstance(kind, Kind) and kind.ending:
                place = place.removesuffix(split_ending(place)[1]) + kind.ending
            self.names.append((place, os.fsencode(place_of(path, self.root)).decode("utf-8", "replace")))
            reason = kind if isinstance(kind, RecordError) else self._take(path, place, kind)
            if reason:
                self.report.aside.append(Aside(place, reason.found, reason.remedy))
            if progress:
                progress(len(found) + number + 1, 2 * len(found), place)

    def _survey(self, path: Path, kind: Kind) -> None:
        place = place_of(path, self.root)
        who = kind.survey(path, place, self.known)
        if who == "":  # of many
            return
        self.patients[path] = who = who or person_by_name(place)
        self.known.patient(who)
        self.known.file(path.name, who)

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
        who = self.patients.get(path, "")
        cleaning = Cleaning(self.key, self.options, self.report, place, self.recognisers, self.known, self.namer, who)
        try:
            kind.clean(path, part, cleaning)
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
        self.report.kinds[kind.name] += 1
        return None


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
