"""Named cohorts: who was chosen, frozen, so that a recipe means the same people next year.

    cohorts/NAME/1.json               the definition, how many it chose, their hash, when and of which catalogue
    cohorts/NAME/HASH.parquet         id, patient: the records it chose, sorted by id

A version is written once and never changed; a definition that chooses others, or otherwise, is the next version. In SQL a version
is a table of that name, `"NAME/1"`, with the columns id and patient.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from .catalogue import Cohort, EmptyCohortError, condition
from .parts import CohortError, no_room, write_whole
from .snapshot import COHORTS, key

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


@dataclass(frozen=True, slots=True)
class Definition:
    """A version of a named cohort.

    Args:
        name, version: which.
        where: the DuckDB condition on the records; None for all.
        having: the condition on the rows of `patients`; None for all.
        records, patients: how many it chose.
        hash: blake2b-128 of the sorted record ids, a line each.
        created: when, in UTC.
        catalogue: the state of the catalogue that it chose from.
        polyclinic: the library's version.
    """

    name: str
    version: int
    where: str | None
    having: str | None
    records: int
    patients: int
    hash: str
    created: str
    catalogue: str
    polyclinic: str

    @property
    def chosen(self) -> str:
        """The condition on the records that admits just these."""
        return chosen(self.name, self.version)


@dataclass(frozen=True, slots=True)
class Difference:
    """From one version to another: the ids of records, sorted, and how many patients."""

    records_added: tuple[str, ...]
    records_gone: tuple[str, ...]
    patients_added: int
    patients_gone: int


def chosen(name: str, version: int) -> str:
    """The condition on the records that admits just those of a version."""
    return f'id in (select id from "{name}/{version}")'


def define(cohort: Cohort, name: str, where: str | None = None, having: str | None = None) -> Definition:
    """Choose records and freeze the choice as the next version of a named cohort.

    What chooses the same in the same way as the latest version is that version.

    Args:
        cohort: the catalogue.
        name: letters, digits, dots, dashes.
        where: a DuckDB condition on the records.
        having: a DuckDB condition on the patients, one row each: images, texts, signals … (how many records of it), first, last,
            sites, sex, age; they count all of a patient's records, whatever `where` says.
    Raises:
        EmptyCohortError: nothing is chosen.
        CohortError: a name or a condition that is none; the disk is full.
    """
    _checked(name)
    whose = f"patient in (select patient from patients where (\n{having}\n))" if having else None
    both = " and ".join(f"(\n{c}\n)" for c in (where, whose) if c)
    table = cohort.query(f"select id, patient from records {condition(both)} order by id")
    if not len(table):
        raise EmptyCohortError(
            f"no record where {where or 'true'}" + (f" of patients having {having}" if having else ""),
            "at least one record", f"see `polyclinic cohort describe {cohort.path}` for what there is",
        )  # fmt: skip
    ids = hashlib.blake2b(digest_size=16)
    for chunk in table["id"].chunks:
        ids.update("".join(f"{record}\n" for record in chunk.to_pylist()).encode())
    frozen = ids.hexdigest()
    before = versions(cohort, name)
    if before and (before[-1].where, before[-1].having, before[-1].hash) == (where, having, frozen):
        return before[-1]
    folder = cohort.path / COHORTS / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / f"{frozen}.parquet", table)
        number = before[-1].version + 1 if before else 1
        while True:
            made = Definition(
                name, number, where, having, len(table), len(table["patient"].unique()), frozen,
                datetime.now(UTC).isoformat(timespec="seconds"), key(cohort.path)[0], version("polyclinic"),
            )  # fmt: skip
            if _written(folder / f"{number}.json", made):
                return made
            number += 1  # another process was first
    except OSError as error:
        raise no_room(error, f"the cohort {name}") from error


def _written(place: Path, made: Definition) -> bool:
    """Write a version whole; False where there is one of its number."""
    beside = place.with_name(f".{place.name}.{os.getpid()}")
    beside.write_text(json.dumps(asdict(made), indent=1), encoding="utf-8")
    try:
        os.link(beside, place)  # unlike a rename it does not take another's place
    except FileExistsError:
        return False
    finally:
        beside.unlink()
    return True


def versions(cohort: Cohort, name: str) -> list[Definition]:
    """The versions of a name, the first first; none for a name that was never defined."""
    _checked(name)
    files = (p for p in (cohort.path / COHORTS / name).glob("*.json") if p.stem.isdigit())
    return sorted(map(_read, files), key=lambda d: d.version)


def definitions(cohort: Cohort) -> list[Definition]:
    """All versions of all named cohorts."""
    folders = sorted(p.name for p in (cohort.path / COHORTS).glob("*") if p.is_dir())
    return [one for name in folders for one in versions(cohort, name)]


def definition(cohort: Cohort, name: str, version: int | None = None) -> Definition:
    """A version of a named cohort; None for the latest.

    Raises:
        CohortError: there is none, with those there are.
    """
    found = versions(cohort, name)
    of = [one for one in found if version in (None, one.version)]
    if not of:
        names = sorted({one.name for one in definitions(cohort)})
        what = f"no version {version} of the cohort {name!r}" if found else f"no cohort {name!r} in {cohort.path}"
        there = (
            f"versions {', '.join(str(one.version) for one in found)}"
            if found
            else f"one of {', '.join(names) or 'none'}"
        )
        raise CohortError(what, there, f"polyclinic cohort define {cohort.path} {name} --where …")
    return of[-1]


def difference(cohort: Cohort, name: str, one: int, other: int) -> Difference:
    """What changed from one version of a cohort to another.

    Raises:
        CohortError: there is no such version.
    """
    a, b = (f'"{name}/{definition(cohort, name, v).version}"' for v in (one, other))
    ids = lambda x, y: tuple(cohort.query(f"select id from {x} anti join {y} using (id) order by id")["id"].to_pylist())
    who = lambda x, y: cohort.query(f"select count(distinct patient) as n from {x} anti join {y} using (patient)")["n"][
        0
    ].as_py()
    return Difference(ids(b, a), ids(a, b), who(b, a), who(a, b))


def _checked(name: str) -> None:
    if not re.match(NAME, name):
        raise CohortError(
            f"a cohort called {name!r}", "letters, digits, dots, dashes and underscores", "choose such a name"
        )


def _read(place: Path) -> Definition:
    try:
        return Definition(**json.loads(place.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CohortError(
            f"a damaged definition {place.parent.name}/{place.name}", "one that `polyclinic cohort define` wrote",
            "put it back, or define the cohort again under another name",
        ) from error  # fmt: skip
