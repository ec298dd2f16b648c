"""`synthesise`: records that could be, or that a patient's others say there would be; never mistakable for a patient's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from .frame import Reply, command, progress
from .runs import CohortOption, RunPath


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(epilog="Example: polyclinic synthesise runs/latent-diffusion --n 64 --given note.txt")(synthesise)


@command
def synthesise(
    run: RunPath,
    n: Annotated[
        int | None, typer.Option("--n", min=1, help="How many; by default 16 drawn ones, or one translation a patient.")
    ] = None,
    given: Annotated[
        list[Path] | None,
        typer.Option(help="A file of the one patient who is shown; may be repeated.", show_default=False),
    ] = None,
    patient: Annotated[
        list[str] | None,
        typer.Option(
            help="Of the catalogue, who is shown; may be repeated. Nobody, or of a translation the test side, by default."
        ),
    ] = None,
    by: Annotated[
        Literal["latent_diffusion", "translation"] | None, typer.Option(help="Where the last stage learned both.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Of the diffusion.")] = 50,
    guidance: Annotated[
        float, typer.Option(min=0, help="How much what is shown counts; 1 as it was learned, 0 not at all.")
    ] = 2.0,
    seed: Annotated[int, typer.Option(min=0, help="The same gives the same records.")] = 0,
    cohort: CohortOption = None,
    into: Annotated[Path | None, typer.Option(help="An empty folder; `synthetic` in the run's by default.")] = None,
) -> Reply:
    """Make images or volumes by a run whose last stage learned to: PNG or NIfTI, each marked SYNTHETIC, with a manifest. No DICOM."""
    from ..inference import synthesise as write

    with progress("synthesise") as report:
        place = write(
            run, n, cohort=cohort, patients=patient, files=given or (), by=by, steps=steps, guidance=guidance, seed=seed, into=into,
            progress=report,
        )  # fmt: skip
    told = json.loads((place / "manifest.json").read_text())
    shown = [
        f"{place}: {len(told['records'])} synthetic {told['what']}s by {told['made_by']}, and manifest.json",
        told["notice"],
        f"how real, how faithful and how much by heart they are: polyclinic evaluate {run}",
    ]
    return Reply({"into": str(place), **told}, shown)
