"""`polyclinic phantom`: a simulated hospital whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .frame import Reply, command, progress, table


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(epilog="Example: polyclinic phantom --patients 200 --out phantom/ --modalities xray,report,ecg,ehr")(
        phantom
    )


@command
def phantom(
    out: Annotated[Path, typer.Option(help="A new folder.", show_default=False)],
    patients: Annotated[int, typer.Option(min=1, help="How many.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of everything: patient i of a seed is always the same.")] = 0,
    modalities: Annotated[
        str | None,
        typer.Option(
            help="Of xray, ct, mr, ultrasound, ecg, ehr, omics, report, with commas; all of them without it. Also earlier_report."
        ),
    ] = None,
    size: Annotated[int, typer.Option(help="Voxels a side of the CT; the radiograph has twice as many pixels.")] = 64,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
) -> Reply:
    """Make a simulated hospital: people from a causal graph, every record of them by physics, and the truth apart.

    OUT/hospital is to be ingested; OUT/truth has every hidden state, the other world's survival, all masks, what each sentence of a
    report says, and the best possible answers. Nothing learned from it is clinical evidence.
    """
    from ..phantom import simulate

    chosen = [name.strip() for name in modalities.split(",") if name.strip()] if modalities is not None else None
    with progress("phantom") as report:
        made = simulate(out, patients, seed=seed, modalities=chosen, size=size, workers=workers, progress=report)
    data = {
        "hospital": str(made.hospital), "truth": str(made.truth), "patients": made.patients, "seed": seed, "records": made.records,
    }  # fmt: skip
    shown: list[Any] = [
        f"{made.hospital}: {made.patients} patients; ingest it. {made.truth}: the truth; no model may see it.",
        "",
        table("", ("modality", "#records"), sorted(made.records.items())),
        "",
        "Nothing learned from it is clinical evidence.",
    ]
    return Reply(data, shown)
