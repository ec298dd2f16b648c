"""`polyclinic export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .frame import Reply, command
from .runs import RunPath


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(epilog="Example: polyclinic export runs/demo/adapted/finding-lora-20-0 --modality image")(export)


@command
def export(
    run: RunPath,
    format: Annotated[
        Literal["onnx", "pt2", "safetensors", "monai"],
        typer.Option(help="ONNX, torch.export, one file of weights, or a MONAI bundle."),
    ] = "onnx",
    modality: Annotated[
        str | None, typer.Option(help="Which one the network reads, where the run reads several.")
    ] = None,
    into: Annotated[Path | None, typer.Option(help="The file or folder; `export` in the run's by default.")] = None,
) -> Reply:
    """Write an adapted run for another program, after holding its answers against ours."""
    from ..inference import export as write

    made = write(run, format, modality=modality, into=into)
    shown = [
        str(made.path),
        *(f"reads {name} ({' '.join(map(str, shape))})" for name, shape in made.inputs.items()),
        f"gives {made.output}; at most {made.difference:.1g} from ours",
    ]
    data = {"path": str(made.path), "inputs": made.inputs, "output": made.output, "difference": made.difference}
    return Reply(data, shown)
