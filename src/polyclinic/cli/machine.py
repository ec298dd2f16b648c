"""`demo` and `doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .frame import Reply, command, progress, table


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for function in (demo, doctor):
        app.command()(function)


def print_version(wanted: bool) -> None:
    """Print the version and leave."""
    if wanted:
        from .. import __version__

        typer.echo(__version__)
        raise typer.Exit


@command
def demo(
    hospital: Annotated[Path, typer.Option(help="A folder of a hospital's files.")] = Path("examples/hospital/data"),
    out: Annotated[Path, typer.Option(help="Where the cohort, the runs and the report go.")] = Path("demo"),
    quick: Annotated[bool, typer.Option(help="A few steps of everything, to see that it works.")] = False,
) -> Reply:
    """The whole way on the embedded hospital: ingest, pretrain, adapt, prove; ends with a report and the command that serves."""
    from ..demo import demo as show

    done = show(hospital, out, quick=quick, bar=progress)
    took = sum(done.seconds.values())
    data = {
        "report": str(done.report),
        "summary": str(done.summary),
        "run": str(done.run.path),
        "serve": done.serve_command,
        "seconds": done.seconds,
    }
    shown = [
        f"report:  {done.report}",
        f"figures: {done.summary}",
        f"serve:   {done.serve_command}",
        f"took {took:.0f} s: " + ", ".join(f"{name} {s:.0f}" for name, s in done.seconds.items()),
    ]
    return Reply(data, shown)


@command
def doctor() -> Reply:
    """What is installed, what this machine can do, and what to change."""
    from ..doctor import examine

    found = examine()
    core = [(name, version or "missing") for name, version in found["core"].items()]
    extras = [
        (name, "yes" if not e["missing"] else "no", ", ".join(e["missing"]), e["install"] if e["missing"] else "")
        for name, e in found["extras"].items()
    ]
    machine: list[tuple[str, Any]] = [
        ("python", found["python"]),
        ("system", found["system"]),
        ("cores", f"{found['cpu']['usable']} usable of {found['cpu']['cores']}"),
        ("processor", found["cpu"]["model"]),
        ("instructions", ", ".join(found["cpu"]["instructions"]) or "none of note"),
        ("torch threads", found["torch"]["threads"]),
        ("bf16", "multiplied by the processor" if found["torch"]["bf16"] else "emulated: recipes use fp32"),
        ("memory", f"{found['memory']['available_gib']} of {found['memory']['total_gib']} GiB free"),
        ("disk", f"{found['disk']['free_gib']} of {found['disk']['total_gib']} GiB free here"),
        ("chromium", found["chromium"] or "not found"),
    ] + [(name, value or "not set") for name, value in found["environment"].items()]
    shown = [
        table("machine", ("", ""), machine),
        "",
        table("core", ("package", "version"), core),
        "",
        table("extras", ("extra", "complete", "missing", "to install"), extras),
        "",
        *([f"• {line}" for line in found["advice"]] or ["nothing to change"]),
    ]
    return Reply(found, shown)
