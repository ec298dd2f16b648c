"""The command line: it parses and prints; all that it does is a public function of the library.

One file a group of commands. Nothing heavy is imported before a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import typer

from . import ask, cohort, export, learning, machine, phantom, privacy, recipe, runs, search, segment, synthesise
from .frame import EXIT_CODES, OK, USAGE

app = typer.Typer(
    name="polyclinic",
    help="From a hospital's scattered records to a medical multimodal foundation model that it can trust.",
    epilog=f"Exit codes: {EXIT_CODES}. Research use only; not a medical device.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _about(
    version: bool = typer.Option(
        False, "--version", callback=machine.print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """From a hospital's scattered records to a medical multimodal foundation model that it can trust."""


cohort.add_to(app)
privacy.add_to(app)
phantom.add_to(app)
runs.add_to(app)
learning.add_to(app)
ask.add_to(app)
segment.add_to(app)
export.add_to(app)
search.add_to(app)
synthesise.add_to(app)
recipe.add_to(app)
machine.add_to(app)


_UsageError: Any = typer.BadParameter.__bases__[0]  # typer has no name of its own for all wrong usage


def main() -> None:
    """Run the command line. Who asked for JSON gets it for wrong usage too."""
    if "--json" not in sys.argv:
        app()
        return
    try:
        sys.exit(app(standalone_mode=False) or OK)
    except _UsageError as error:
        error.show()
        told = {"found": error.format_message(), "expected": "", "do": "see --help"}
        typer.echo(json.dumps({"error": told, "exit": USAGE}, ensure_ascii=False))
        sys.exit(USAGE)


if __name__ == "__main__":
    main()
