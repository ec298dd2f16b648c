"""CSV: identifying columns dropped or pseudonymised, by name and by content; dates moved, ages capped; k-anonymity measured and, if asked
for, reached by suppression.

Source: L. Sweeney, k-anonymity (2002); 45 CFR 164.514(b)(2).
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from .. import tables
from ..source import RecordError, parse_time
from .cleaning import Cleaning
from .columns import DROP, MOST_DISTINCT, PLACE, SMALL, Column, is_id, judge
from .keyed import moved_time
from .known import Known
from .naming import split_ending
from .notes import Scrubbed, scrub
from .options import OLDEST
from .words import words

_QUASI = frozenset(
    {
        "age", "ageyears", "sex", "gender", "race", "ethnicity", "zip", "zip3", "yearofbirth", "birthyear", "birthdate", "dob",
        "maritalstatus", "language", "occupation", "nationality", "country", "isfemale", "ismale",
    }
)  # fmt: skip


_CLOCK = re.compile(r"time|stamp|clock|epoch|date|^t$|secs?$|_at$", re.IGNORECASE)
_EPOCH = re.compile(r"(1[0-9]\d{8}(?:\d{3}|\d{6}|\d{9})?)(\.\d*)?")
"""Seconds (ms, µs, ns) since 1970, of the years 2001 to 2033."""
Opened = Callable[[], AbstractContextManager[tuple[list[str], Iterator[tuple[int, list[str]]]]]]
"""What opens a table, as often as it is read: its columns' names, and its rows with their numbers, as `records.tables.table` has them."""


def survey(path: Path, place: str, known: Known) -> str:
    """Note the identifiers of the patient's column and the columns like it, and names; a table is of many."""
    look(lambda: tables.table(path), known)
    return ""


def look(opened: Opened, known: Known) -> None:
    """As `survey`, of a table in whatever file."""
    with opened() as (names, rows):
        patient = _patient(names)
        ids = [i for i, n in enumerate(names) if i != patient and n and is_id(n) and not PLACE.search(n)]
        people = [i for i, n in enumerate(names) if n and re.search(r"name", n, re.IGNORECASE) and DROP.search(n)]
        if patient < 0 and not ids and not people:
            return
        for _, cells in rows:
            who = tables.identifier(cells[patient]) if 0 <= patient < len(cells) else None
            known.patient(who)
            for i in ids:
                if i < len(cells) and re.search(r"\d", cells[i]):
                    known.identify(split_ending(tables.identifier(cells[i]))[0])
            for i in people:
                if i < len(cells):
                    staff = re.search(r"physician|doctor|provider|surgeon|nurse|user", names[i], re.IGNORECASE)
                    known.name(None if staff else who, cells[i])


def _patient(names: Sequence[str]) -> int:
    """The number of the patient's column; -1 where none is."""
    try:
        return tables.patient_column(names)
    except RecordError:
        return -1


def deidentify(path: Path, to: Path, cleaning: Cleaning) -> None:
    """Write the table anew.

    Raises:
        RecordError: it is no table.
    """
    cleaner = Cleaner.of(cleaning, opened=lambda: tables.table(path))
    kept = cleaner.plan()
    with writer(to) as write:
        write([heading for heading, _ in kept])
        for cells in cleaner.rows():
            write(cells)


@dataclass(slots=True)
class Cleaner(Cleaning):
    """Cleans one table: first `plan`, then `rows`.

    Args:
        opened: opens it.
        part: of a file of several tables, which; for the report.
    """

    opened: Opened
    part: str = ""
    seen: dict[tuple[str, bool], Scrubbed] = field(default_factory=dict)
    columns: list[Column] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    quasi: list[int] = field(default_factory=list)
    patient: int = -1
    suppressed: dict[tuple[str, ...], frozenset[int]] = field(default_factory=dict)

    def plan(self) -> list[tuple[str, Column]]:
        """What is done with each column, by its name and its cells; gives the new names of those that stay."""
        self._judge()
        columns = self.columns
        self.kept = [i for i, c in enumerate(columns) if c.action != "drop" and c.name]
        self.quasi = self._quasi(columns, self.kept)
        self.suppressed, classes = self._suppressed(columns, self.patient, self.quasi)
        for number, column in enumerate(columns):
            if column.action != "keep" and column.name:
                self.did(f"{self.part}column {number + 1}", f"{column.action}")
        self.report.tables[self.file + (f"#{self.part.strip()}" if self.part else "")] = {
            "columns": {str(i + 1): c.action for i, c in enumerate(columns) if c.action != "keep"},
            "quasi_identifiers": [i + 1 for i in self.quasi],
            **classes,
        }
        return [(self._heading(columns[i].name), columns[i]) for i in self.kept]

    def rows(self) -> Iterator[list[str]]:
        """The rows anew, of the columns that stay; those without a patient, or of too many cells, are left out."""
        dropped, patient, columns = 0, self.patient, self.columns
        with self.opened() as (names, rows):
            for number, cells in rows:
                wrong = tables.wrong(cells, names, patient, "", number) if patient >= 0 else len(cells) > len(names)
                if wrong:
                    dropped += 1
                    continue
                who = tables.identifier(cells[patient]) if patient >= 0 else f"row {number} of {self.file}"
                blank = self.suppressed.get(_class(cells, self.quasi, columns), frozenset())
                cell = lambda i, cells=cells: cells[i] if i < len(cells) else ""
                yield [self.cell(columns[i], cell(i), who, number, i in blank) for i in self.kept]
        if dropped:
            self.did(f"{self.part}{dropped} rows", "X: rows without a patient or with too many cells")

    def _heading(self, name: str) -> str:
        """A column's name is one of the data model, unless it holds a number or a name of somebody."""
        parts = {name.casefold(), *re.findall(r"[^\W_]+(?:-[^\W_]+)*", name.casefold())}
        if parts & self.known.ids or parts & (self.known.parts - words("plain") - words("frequent") - words("english")):
            return self.namer.word(name)
        return scrub(name, light=True, kinds=frozenset({"EMAIL", "PHONE", "URL"})).text

    def _judge(self) -> None:
        with self.opened() as (names, rows):
            self.patient = _patient(names)
            self.columns = [Column(name) for name in names]
            for seen, (_, cells) in enumerate(rows):
                if seen < 20_000:
                    for column, cell in zip(self.columns, cells, strict=False):
                        column.look(cell)
        for i, column in enumerate(self.columns):
            column.action = judge(column, i == self.patient, self.known)

    def _quasi(self, columns: Sequence[Column], kept: Sequence[int]) -> list[int]:
        chosen = self.options.quasi_identifiers
        if chosen is None:
            return [i for i in kept if tables.plain(columns[i].name) in _QUASI]
        wanted = {tables.plain(name) for name in chosen}
        return [i for i in kept if tables.plain(columns[i].name) in wanted]

    def _suppressed(
        self, columns: Sequence[Column], patient: int, quasi: Sequence[int]
    ) -> tuple[dict[tuple[str, ...], frozenset[int]], dict[str, Any]]:
        """Which combinations lose their quasi-identifiers, and how many people share one before and after."""
        if not quasi:
            return {}, {}
        people: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
        with self.opened() as (names, rows):
            for number, cells in rows:
                if len(cells) <= len(names) and (patient < 0 or len(cells) > patient):
                    who = tables.identifier(cells[patient]) if patient >= 0 else str(number)
                    people[_class(cells, quasi, columns)].add(who)
        sizes = Counter({values: len(who) for values, who in people.items()})
        measured: dict[str, Any] = {"k_before": min(sizes.values(), default=0), "classes": len(sizes)}
        k = self.options.k
        if k is None:
            return {}, measured
        small = {values for values, n in sizes.items() if n < k}
        hidden = set().union(*(people[v] for v in small)) if small else set()
        for values, _ in sorted(sizes.items(), key=lambda item: (item[1], item[0])):  # the suppressed are a class too
            if not small or len(hidden) >= k or values in small:
                continue
            small.add(values)
            hidden |= people[values]
        left = [n for values, n in sizes.items() if values not in small]
        measured |= {
            "k": k,
            "k_after": min([*left, *([len(hidden)] if small else [])], default=0),
            "suppressed_classes": len(small),
            "suppressed_people": len(hidden),
        }
        self.did(f"{self.part}{len(hidden)} people", "X: quasi-identifiers suppressed")
        return dict.fromkeys(small, frozenset(quasi)), measured

    def cell(self, column: Column, cell: str, who: str, number: int, blank: bool = False) -> str:
        """A cell anew.

        Args:
            column: its column, which was judged.
            cell: as it was.
            who: whose it is.
            number: of the row.
            blank: whether it is suppressed.
        """
        if column.action == "keep" and not blank and SMALL(cell):
            return cell
        text = cell.strip()
        if blank or not text:
            return ""
        unknown = text.lower() in tables.UNKNOWN
        match column.action:
            case _ if unknown:
                return cell
            case "code":
                return "" if text.casefold() in self.known.ids or text.casefold() in self.known.parts else cell
            case "patient":
                return self.key.pseudonym(tables.identifier(text))
            case "pseudonym":
                return self._pseudonym(text)
            case "date":
                return self._date(text, who)
            case "birth":
                return self._birth(text)
            case "age":
                return _capped(text)
            case "text":
                done = self._scrubbed(text, who, light=False)
                for span in done.unsure:
                    self.ask(f"{self.part}row {number} characters {span.start}–{span.stop}", "may be a name")
                return done.text
        if _CLOCK.search(column.name) and (found := _EPOCH.fullmatch(text)):
            return self._epoch(found, who if self.patient >= 0 else self.file)
        if isinstance(tables.typed(text), float) and not re.fullmatch(r"\d{6,}", text):
            return cell
        if parse_time(text) is not None:
            return self._date(text, who)
        return self._scrubbed(text, who, light=True).text

    def _scrubbed(self, text: str, who: str, light: bool) -> Scrubbed:
        """The words by the rules for notes; a table says the same few things over and over."""
        known = self.known
        if any(w in known.parts for w in re.findall(r"[^\W\d_]{2,}", text.casefold())):
            return scrub(text, known.of(who), ordinary=known.ordinary, recognisers=self.recognisers, light=light)
        if (text, light) not in self.seen:
            done = scrub(text, known.of(None), ordinary=known.ordinary, recognisers=self.recognisers, light=light)
            if len(self.seen) >= MOST_DISTINCT:
                self.seen.clear()
            self.seen[text, light] = done
        return self.seen[text, light]

    def _pseudonym(self, text: str) -> str:
        """A file's name keeps its ending, as its new name does."""
        stem, ending = split_ending(tables.identifier(text))
        if not ending:
            return self.key.pseudonym(stem)
        return self.namer.place(text.replace("\\", "/")) if "/" in text else self.namer.file(text)

    def _date(self, text: str, who: str) -> str:
        if re.fullmatch(r"(18|19|20|21)\d\d(\.0)?", text):
            return text
        if self.options.dates == "remove":
            return ""
        moment = parse_time(text)
        if moment is None:
            if re.fullmatch(r"\d{1,2}:\d\d(:\d\d(\.\d+)?)?( ?[AP]M)?|[-+]?\d+(\.\d+)?", text, re.IGNORECASE):
                return text  # an hour, or a number of days
            self.report.counts["dates that could not be read: emptied"] += 1
            return ""
        new = moved_time(moment, self.key.days(self.known.person(who)))
        if ":" not in text and not re.search(r"\d{8}[ T]?\d{4}", text):
            return new.strftime("%Y-%m-%d")
        part = re.search(r":\d\d(\.\d{1,9})", text)
        return new.strftime("%Y-%m-%d %H:%M:%S") + (part[1] if part else "")

    def _epoch(self, found: re.Match[str], who: str) -> str:
        """A time since 1970, in whatever unit its digits tell, moved; of a table of no one, by the same days in every row."""
        if self.options.dates == "remove":
            return ""
        day = 86_400 * 10 ** (len(found[1]) - 10)
        return f"{int(found[1]) + day * self.key.days(self.known.person(who))}{found[2] or ''}"

    def _birth(self, text: str) -> str:
        moment = parse_time(text)
        year = moment.year if moment else int(text[:4]) if re.fullmatch(r"(18|19|20)\d\d(-\d\d)?(\.0)?", text) else None
        return str(max(year, _this_year() - OLDEST)) if year is not None else ""


def _this_year() -> int:
    from datetime import datetime

    return datetime.now().year


def _class(cells: Sequence[str], quasi: Sequence[int], columns: Sequence[Column]) -> tuple[str, ...]:
    """The combination of a row's quasi-identifiers as it will be written."""
    values = []
    for i in quasi:
        text = cells[i].strip() if i < len(cells) else ""
        text = "" if text.lower() in tables.UNKNOWN else text
        action = columns[i].action
        values.append(_capped(text) if action == "age" and text else text[:4] if action == "birth" else text)
    return tuple(values)


def _capped(text: str) -> str:
    found = re.fullmatch(r"[>≥ ]*(\d+(?:\.\d+)?)(.*)", text)
    if not found:
        return "" if re.search(r"\d{3,}", text) else text
    return (
        f"{OLDEST}{found[2]}"
        if float(found[1]) >= OLDEST or (text[0] in ">≥" and float(found[1]) >= OLDEST - 1)
        else text
    )


@contextmanager
def writer(to: Path) -> Iterator[Any]:
    """A function that writes a row, into a plain, gzipped or zipped table; tabs part its cells unless its name says CSV."""
    name = to.name.lower()
    tabs = ".csv" not in name
    raw: IO[bytes]
    with to.open("wb") as file:
        if name.endswith(".gz"):
            raw = gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=6)  # type: ignore[assignment]
        elif name.endswith(".zip"):
            raw = io.BytesIO()
        else:
            raw = file
        text = io.TextIOWrapper(raw, encoding="utf-8", newline="", write_through=True)
        yield csv.writer(text, delimiter="\t" if tabs else ",", lineterminator="\n").writerow
        text.flush()
        if name.endswith(".zip"):
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(zipfile.ZipInfo(to.name[: -len(".zip")]), raw.getvalue())  # type: ignore[attr-defined]
        text.detach()
        if raw is not file:
            raw.close()
