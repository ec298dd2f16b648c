"""`cohort define`, `cohort list` and `cohort diff`: named cohorts, whose versions stay as they were."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .frame import Reply, command, table

CohortPath = Annotated[Path, typer.Argument(help="The catalogue's folder.", show_default=False)]
Name = Annotated[str, typer.Argument(help="The cohort's name.", show_default=False)]


def add_to(group: typer.Typer) -> None:
    """Register the commands."""
    group.command(
        epilog='Example: polyclinic cohort define cohort/ chest --where "kind like \'CR%\'" --having "texts > 0"'
    )(define)
    group.command("list", epilog="Example: polyclinic cohort list cohort/")(listed)
    group.command(epilog="Example: polyclinic cohort diff cohort/ chest 1 2")(diff)


@command
def define(
    path: CohortPath,
    name: Name,
    where: Annotated[str | None, typer.Option(help="A DuckDB condition on the records.")] = None,
    having: Annotated[
        str | None, typer.Option(help="One on the patients: images, texts, signals …, first, last, sites, sex, age.")
    ] = None,
) -> Reply:
    """Choose records and freeze the choice under a name; what would be chosen otherwise is the next version, and the others stay."""
    from ..cohort import Cohort
    from ..cohort import define as freeze

    made = freeze(Cohort.open(path), name, where, having)
    shown = [
        f"{name} version {made.version}: {made.records} records of {made.patients} patients; hash {made.hash}",
        f"in a recipe: cohort: {{name: {name}, version: {made.version}}}",
    ]
    return Reply(asdict(made), shown)


@command
def listed(path: CohortPath) -> Reply:
    """The named cohorts of a catalogue."""
    from ..cohort import Cohort, definitions

    found = definitions(Cohort.open(path))
    rows = [(d.name, d.version, d.records, d.patients, d.created, d.where or "all", d.having or "") for d in found]
    columns = ("name", "#version", "#records", "#patients", "created", "where", "having")
    return Reply(
        {"cohorts": [asdict(d) for d in found]},
        [table("", columns, rows)] if rows else [f"none: polyclinic cohort define {path} NAME --where …"],
    )


@command
def diff(
    path: CohortPath,
    name: Name,
    one: Annotated[int, typer.Argument(help="A version.", show_default=False)],
    other: Annotated[int, typer.Argument(help="Another.", show_default=False)],
) -> Reply:
    """What came and went from one version of a named cohort to another; --json has the records' ids."""
    from ..cohort import Cohort, definition
    from ..cohort.definitions import difference

    cohort = Cohort.open(path)
    found = difference(cohort, name, one, other)
    a, b = (definition(cohort, name, version) for version in (one, other))
    shown = [
        f"{name} {one} → {other}: {len(found.records_added)} records came and {len(found.records_gone)} went; "
        f"{found.patients_added} patients came and {found.patients_gone} went"
    ]
    shown += [
        f"{what}: {x or 'all'} → {y or 'all'}"
        for what, x, y in (("where", a.where, b.where), ("having", a.having, b.having))
        if x != y
    ]
    return Reply({"name": name, "from": one, "to": other, **asdict(found)}, shown)
