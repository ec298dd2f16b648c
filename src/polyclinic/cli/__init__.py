"""The command line: it parses and prints; all that it does is a public function of the library.

One file a group of commands. Nothing heavy is imported before a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import typer

from . import cohort, machine, recipe, runs
from .frame import EXIT_CODES

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
runs.add_to(app)
recipe.add_to(app)
machine.add_to(app)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
