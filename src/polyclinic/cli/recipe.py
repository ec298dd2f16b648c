"""`recipe`: is it one, what may it hold, what does it say in full."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .frame import Reply, command, table

RecipePath = Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped recipe.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.KEY=VALUE", help="Override a value; may be repeated.", show_default=False),
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    group = typer.Typer(no_args_is_help=True, help="Check, show and list recipes.")
    for function in (validate, show):
        group.command()(function)
    group.command("schema")(schema)
    group.command("list")(shipped)
    app.add_typer(group, name="recipe")


@command
def validate(
    recipe: RecipePath,
    overrides: Overrides = None,
    memory: Annotated[
        bool, typer.Option(help="Estimate the memory that it takes, on made-up records of the largest size.")
    ] = True,
    fingerprint: Annotated[
        Path | None,
        typer.Option(
            help="Of the records: a run's model/fingerprint.json. Without it one is assumed.", show_default=False
        ),
    ] = None,
) -> Reply:
    """Check a recipe, all of it, and what memory it takes, without loading any data."""
    from ..training import Recipe

    checked = Recipe.load(recipe, overrides or ())
    steps = sum(stage.steps for stage in checked.stages)
    data: dict[str, Any] = {
        "valid": True, "name": checked.name, "encoders": [str(m) for m in checked.encoders], "tasks": list(checked.tasks),
        "stages": [s.name for s in checked.stages], "steps": steps,
    }  # fmt: skip
    shown = [
        f"{checked.name} is a recipe: reads {', '.join(data['encoders'])}; {steps} steps; tasks {', '.join(data['tasks']) or 'none'}"
    ]
    if memory:
        from ..training.needs import fingerprint_of, needs

        found = needs(checked, None if fingerprint is None else fingerprint_of(fingerprint))
        data["memory"] = {
            "stages": [{"stage": n.stage, "parameters": n.parameters, "bytes": n.total} for n in found.stages],
            "assumed": list(found.assumed), "machine": found.machine, "free": found.free, "fits": found.fits,
        }  # fmt: skip
        shown += found.as_words(checked)
    return Reply(data, shown)


@command
def show(recipe: RecipePath, overrides: Overrides = None) -> Reply:
    """The recipe with every default written out, as YAML."""
    from ..training import Recipe

    checked = Recipe.load(recipe, overrides or ())
    return Reply(checked.model_dump(mode="json"), [checked.as_yaml()])


@command
def schema() -> Reply:
    """The JSON Schema of recipes, for editors."""
    import json

    from ..training import Recipe

    found = Recipe.model_json_schema()
    return Reply(found, [json.dumps(found, indent=2)])


@command
def shipped() -> Reply:
    """The recipes that come with polyclinic, and where each stands in the field's taxonomy."""
    from ..training import Recipe
    from ..training.recipe import folder
    from ..training.taxonomy import taxonomy

    rows = []
    for path in sorted(folder().glob("*.yaml")):
        recipe, first = Recipe.load(path), path.read_text(encoding="utf-8").splitlines()[0]
        place = taxonomy(recipe)
        rows.append({
            "name": path.stem, "reads": list(recipe.encoders), "dimensions": place.dimensions, "proxy": place.proxy,
            "asks": place.asks, "stream": place.stream, "assembly": place.assembly, "fusion": place.fusion,
            "about": first.removeprefix("#").strip() if first.startswith("#") else "",
        })  # fmt: skip
    columns = ("name", "dimensions", "proxy task", "stream", "assembly", "fusion", "about")
    shown = [
        (
            r["name"],
            ", ".join(r["dimensions"]) or "–",
            *(r[k] for k in ("proxy", "stream", "assembly", "fusion", "about")),
        )
        for r in sorted(rows, key=lambda r: (r["dimensions"] or ("~",), r["proxy"], r["name"]))
    ]
    return Reply({"recipes": rows}, [table("", columns, shown)])
