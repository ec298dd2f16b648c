"""`ingest` and `cohort`: a folder of files → the catalogue; what is in it."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from . import named
from .frame import Reply, command, progress, table

MOST_SHOWN = 20
CohortPath = Annotated[Path, typer.Argument(help="The catalogue's folder.", show_default=False)]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command(epilog="Example: polyclinic ingest MY_FOLDER --into cohort/")(ingest)
    group = typer.Typer(
        no_args_is_help=True, help="Look into a catalogue: who is in it, what was set aside, how it splits."
    )
    examples = {
        query: "cohort/ \"select kind, count(*) from records group by kind\"", split: "cohort/ --test 0.2 --stratify finding",
        describe: "cohort/", check: "cohort/ recipes/demo.yaml", patient: "cohort/ CXR-0234",
    }  # fmt: skip
    for function in (describe, check, query, split, patient):
        group.command(epilog=f"Example: polyclinic cohort {function.__name__} {examples[function]}")(function)
    named.add_to(group)
    app.add_typer(group, name="cohort")


@command
def ingest(
    source: Annotated[Path, typer.Argument(help="A folder of files of any kind, or one file.", show_default=False)],
    into: Annotated[Path, typer.Option(help="The catalogue's folder; made if it is not there.")] = Path("cohort"),
    workers: Annotated[int, typer.Option(min=1, help="Processes that read files.")] = 1,
    engine: Annotated[
        Literal["processes", "ray"], typer.Option(help="Who reads: processes here, or a Ray cluster (RAY_ADDRESS).")
    ] = "processes",
    follow: Annotated[
        bool, typer.Option("--watch", help="Go on: take what comes into the folder until Ctrl-C.")
    ] = False,
    every: Annotated[float, typer.Option(min=0.1, help="With --watch: seconds from one look to the next.")] = 10.0,
) -> Reply:
    """Take a folder of files into a catalogue: finds out what each file is, and sets aside what cannot be used, with the reason.

    The source is never changed. What was read is kept: a run that was stopped goes on where it stopped, and a second run
    reads only what is new or changed.
    """
    from ..cohort import Cohort, watch
    from ..cohort import ingest as take

    before = Cohort.open(into).ids() if (into / "cohort.json").exists() else set()
    if follow:
        count = len(before)
        with suppress(KeyboardInterrupt):
            for grown in watch(source, into, every_s=every, workers=workers, engine=engine):
                now = len(grown.ids())
                typer.echo(f"{datetime.now():%H:%M:%S} {into}: {now} records ({now - count:+d})", err=True)
                count = now
        cohort = Cohort.open(into)
    else:
        with progress("ingest") as report:
            cohort = take(source, into, progress=report, workers=workers, engine=engine)
    now, described, aside = cohort.ids(), cohort.describe(), cohort.rejected()
    rejected = [{"uri": r.uri, "found": r.found, "expected": r.expected, "do": r.remedy} for r in aside]
    data = {
        "cohort": str(into), "added": len(now - before), "gone": len(before - now), "records": described["records"],
        "patients": described["patients"], "modality": described["modality"], "masks": described["masks"], "rejected": rejected,
    }  # fmt: skip
    changes = f"{data['added']} new" + (f", {data['gone']} no longer there" if data["gone"] else "")
    shown: list[Any] = [
        f"{into}: {described['records']} records ({described['masks']} of them masks) of {described['patients']} patients; {changes}",
        "",
        _counts(described),
    ]
    if rejected:
        shown += ["", f"{len(rejected)} set aside:", *(_aside(r) for r in rejected[:MOST_SHOWN])]
    if len(rejected) > MOST_SHOWN:
        shown.append(f"… and {len(rejected) - MOST_SHOWN} more: polyclinic cohort query {into} 'from rejected'")
    return Reply(data, shown)


def _aside(reason: dict[str, str]) -> str:
    return f"  {reason['uri']}\n    {reason['found']}; do: {reason['do']}"


def _counts(described: dict[str, Any]) -> Any:
    rows = [(m, n, described["patients_by_modality"].get(m, "")) for m, n in described["modality"].items()]
    return table("", ("modality", "#records", "#patients"), rows)


@command
def describe(
    path: CohortPath,
    html: Annotated[Path | None, typer.Option(help="Write a page too: by site and year, shift between sites.")] = None,
    fewest: Annotated[int, typer.Option(min=1, help="On the page, a count of fewer patients is not shown.")] = 5,
) -> Reply:
    """Who is in the cohort: modalities, kinds, what is missing, sex, age, sites, labels, and what was set aside."""
    from ..cohort import Cohort

    cohort = Cohort.open(path)
    found = cohort.describe()
    if html is not None:
        from ..trust.pages.population_page import write_population_page

        write_population_page(html, cohort, fewest)
    age = found["age"]
    middle = f"{age['median']:.0f} ({age['q05']:.0f}–{age['q95']:.0f})" if age["n"] else "unknown"
    shown: list[Any] = [
        f"{found['patients']} patients, {found['records']} records, {found['masks']} masks, {found['rejected']} files set aside",
        f"sex {', '.join(f'{k} {v}' for k, v in found['sex'].items())}; age, median (90% range): {middle}, known of {age['n']}",
        _counts(found),
        "",
        table("who has what", ("modalities", "#patients"), list(found["missingness"].items())),
        "",
        table("kinds", ("kind", "#records"), list(found["kind"].items())[:20]),
    ]
    sites = list(found["patients_by_site"].items())
    shown += ["", table("the largest sites", ("site", "#patients"), sites)] if sites else []
    columns = [
        (name, ", ".join(f"{cell} {n}" for cell, n in cells.items()))
        for name, cells in sorted(found["columns"].items())
    ]
    shown += ["", table("columns of words (possible labels)", ("column", "cells"), columns)] if columns else []
    shown += (
        ["", table("set aside", ("reason", "#files"), list(found["rejected_reasons"].items()))]
        if found["rejected"]
        else []
    )
    shown += ["", f"written to {html}; counts below {fewest} are not shown there"] if html else []
    return Reply(found, shown)


@command
def check(
    path: CohortPath,
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped recipe.", show_default=False)],
    notes: Annotated[bool, typer.Option(help="Read the notes too, for words that give an answer away.")] = True,
) -> Reply:
    """Before anything is trained: who is labelled for each task of a recipe, and which columns and words alone give an answer away."""
    from ..cohort import Cohort, labels_of
    from ..cohort.giveaways import giveaways
    from ..schema import Modality
    from ..training import Recipe

    cohort, asked = Cohort.open(path), Recipe.load(recipe)
    found = cohort.records(asked.cohort.where)
    tables = asked.standards().get(Modality.TABLE)
    exclude = tables.exclude if tables is not None else asked.excluded()
    rows, told, data = list[tuple[str, str, int, str]](), list[str](), dict[str, Any]()
    for name, task in asked.tasks.items():
        if (label := task.label(name)) is None or label.placed:
            continue
        answers = labels_of(found, label)
        counts = Counter(label.groups(list(answers.values())))
        lacking = label.lacking(list(answers.values()))
        reads = [m for m in asked.encoders if m in (task.inputs or asked.encoders)]
        given = giveaways(found, label, exclude=exclude, reads=reads, load=cohort.load if notes else None)
        words = ", ".join(f"{group}: {n}" for group, n in sorted(counts.items()))
        rows.append((name, task.kind, len(answers), words + (f" ({lacking[0]})" if lacking else "")))
        told += [f"{one}\n    do: {one.remedy}" for one in given]
        data[name] = {
            "labelled": len(answers),
            "groups": {str(k): n for k, n in sorted(counts.items())},
            "giveaways": given,
        }
    shown: list[Any] = [table("", ("task", "kind", "#labelled", "answers (by rank): patients"), rows), ""]
    shown += told or ["no column and no word alone gives an answer away, as far as these patients can show"]
    return Reply(data, shown)


@command
def query(
    path: CohortPath,
    sql: Annotated[str, typer.Argument(help="DuckDB SQL over the views `records` and `rejected`.", show_default=False)],
    limit: Annotated[int, typer.Option(min=1, help="Rows that are printed; --json gives all.")] = 50,
) -> Reply:
    """Ask the catalogue in SQL; `attributes->>'age'` is a cell of a record's attributes."""
    import pyarrow as pa

    from ..cohort import Cohort

    answer = Cohort.open(path).query(sql)
    rows = answer.to_pylist()
    for row in rows:
        if isinstance(row.get("attributes"), str):
            row["attributes"] = json.loads(row["attributes"])
    numbers = [pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in answer.schema.types]
    columns = ["#" * number + name for number, name in zip(numbers, answer.column_names, strict=True)]
    shown: list[Any] = [table("", columns, [[_cell(v) for v in row.values()] for row in rows[:limit]])]
    shown += [f"… {len(rows) - limit} more rows (--limit)"] * (len(rows) > limit)
    return Reply({"columns": answer.column_names, "rows": rows}, shown)


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value


@command
def split(
    path: CohortPath,
    by: Annotated[
        Literal["patient", "site", "device", "time", "fold"],
        typer.Option(help="What stays together; or time, with --before; or fold: a column says who tests."),
    ] = "patient",
    before: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="By time: whose first record is before this day trains."),
    ] = None,
    test: Annotated[float, typer.Option(min=0.01, max=0.99, help="The share of patients that test.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Of the order.")] = 0,
    steady: Annotated[bool, typer.Option(help="Each name decides alone: whoever comes later moves nobody.")] = False,
    folds: Annotated[int | None, typer.Option(min=2, help="Deal into so many parts, of which one tests.")] = None,
    turn: Annotated[int, typer.Option(min=0, help="Which of them tests, from 0.")] = 0,
    column: Annotated[
        str, typer.Option(help="By fold: the column that says to which part a patient belongs.")
    ] = "fold",
    tests: Annotated[list[str] | None, typer.Option(help="By fold: the parts that test; by default `test`.")] = None,
    leave: Annotated[list[str] | None, typer.Option(help="By fold: the parts that do neither.")] = None,
    stratify: Annotated[str | None, typer.Option(help="A table's column whose cells are dealt evenly.")] = None,
    where: Annotated[str | None, typer.Option(help="A DuckDB condition on the records.")] = None,
    into: Annotated[Path | None, typer.Option(help="Write the two lists of patients to this JSON file.")] = None,
) -> Reply:
    """Deal the patients into train and test as a recipe would: near-duplicate images and copied notes on one side; checks for leaks."""
    from ..cohort import Cohort, guard
    from ..cohort import split as deal

    cohort = Cohort.open(path)
    if (by == "time") != (before is not None):
        raise typer.BadParameter("--by time and --before DAY go together")
    spec = _asked(
        by=by, test=test, seed=seed, stratify=stratify, before=before.date() if before else None, steady=steady,
        folds=folds, turn=turn, column=column, tests=tests or ["test"], leave=leave or [],
    )  # fmt: skip
    found = cohort.records(spec.seen(where))
    labels = _cells(found, stratify) if stratify else None
    parted = deal(found, spec, cohort.load, labels)
    guard(parted.train, parted.test, found, cohort.load)
    data: dict[str, Any] = {"hash": parted.hash, "train": list(parted.train), "test": list(parted.test)}
    if into is not None:
        into.write_text(json.dumps(data, indent=1))
    shown = [
        f"train {len(parted.train)}, test {len(parted.test)} patients; split {parted.hash}",
        "no patient, no near-duplicate image and no copied note on two sides",
    ]
    return Reply(data, shown + ([f"written to {into}"] if into else ["give --into FILE or --json for the names"]))


def _asked(**options: Any) -> Any:
    """The split's specification, of options that may not go together."""
    from pydantic import ValidationError

    from ..cohort import SplitSpec

    try:
        return SplitSpec.model_validate(options)
    except ValidationError as error:
        raise typer.BadParameter(error.errors()[0]["msg"].removeprefix("Value error, ")) from error


def _cells(found: Any, column: str) -> dict[str, str]:
    """Each patient's cell of a column."""
    from ..cohort.labels import check_column

    check_column(found, column, "--stratify")
    return {r.patient: str(r.attributes[column]) for r in found if r.attributes.get(column) is not None}


@command
def patient(
    path: CohortPath,
    name: Annotated[str, typer.Argument(help="The patient's id.", show_default=False)],
) -> Reply:
    """One patient's records, in time."""
    import difflib

    from ..cohort import Cohort, CohortError

    cohort = Cohort.open(path)
    mine = [r for r in cohort.records() if r.patient == name]
    if not mine:
        close = difflib.get_close_matches(name, cohort.patients(), n=1)
        raise CohortError(
            f"no patient of this name among {len(cohort.patients())}", "one in the catalogue",
            f"did you mean {close[0]!r}?" if close else f"polyclinic cohort query {path} 'select distinct patient from records'",
        )  # fmt: skip
    mine.sort(key=lambda r: (r.time is None, r.time.timestamp() if r.time else 0.0, r.modality.number, r.uri))
    rows = [
        {
            "time": r.time,
            "modality": r.modality.value,
            "kind": r.kind,
            "uri": r.uri,
            "site": r.site,
            "id": r.id,
            "attributes": dict(r.attributes),
        }
        for r in mine
    ]
    shown = [
        table(
            name, ("time", "modality", "kind", "file"), [(r["time"], r["modality"], r["kind"], r["uri"]) for r in rows]
        )
    ]
    return Reply({"patient": name, "records": rows}, shown)
