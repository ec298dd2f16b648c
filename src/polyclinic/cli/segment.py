"""`segment`: one structure of one patient's record, drawn from points, a box or its name."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated

import typer

from .frame import Reply, command, files_in
from .runs import RunPath


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    example = "runs/sam x-ray.dcm --point 820,1100 --off 400,400 --into lung.png"
    app.command(epilog=f"Example: polyclinic segment {example}")(segment)


def numbers(told: str) -> tuple[float, ...]:
    """`120,88` as numbers."""
    try:
        return tuple(float(part) for part in told.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{told!r} is not numbers with commas between them, such as 120,88") from error


@command
def segment(
    run: RunPath,
    files: Annotated[
        list[Path], typer.Argument(help="One patient's files, one of them to draw on.", show_default=False)
    ],
    point: Annotated[
        list[str] | None,
        typer.Option(
            help="On the structure: x,y of an image, x,y,z of a volume, in its own samples from 0; may be repeated."
        ),
    ] = None,
    off: Annotated[list[str] | None, typer.Option(help="Beside the structure; may be repeated.")] = None,
    box: Annotated[
        str | None, typer.Option(help="Two corners that hold it: x0,y0,x1,y1, or x0,y0,z0,x1,y1,z1.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Its name, of a run that learned names.")] = None,
    into: Annotated[
        Path | None, typer.Option(help="Write the mask: .png of an image, .nii.gz of a volume.", show_default=False)
    ] = None,
    overlay: Annotated[Path | None, typer.Option(help="Write the picture with the mask on it to this PNG.")] = None,
) -> Reply:
    """Draw a structure that is shown by points, a box or its name. The run's last stage must have learned it: `promptable`."""
    from ..clinic.reply import NOTICE
    from ..clinic.views import overlay_of, stack_of
    from ..inference.interactive import Segmenter, write_mask

    corners = None
    if box is not None:
        given = numbers(box)
        if len(given) not in (4, 6):
            raise typer.BadParameter(f"a box of {len(given)} numbers; 4 of an image, 6 of a volume")
        corners = given[: len(given) // 2], given[len(given) // 2 :]
    segmenter = Segmenter(run)
    session = segmenter.begin(files_in(files))
    answer = session.segment([numbers(p) for p in point or ()], [numbers(p) for p in off or ()], corners, name)
    if into is not None:
        write_mask(answer, into, segmenter.told(answer))
    if overlay is not None:
        overlay.parent.mkdir(parents=True, exist_ok=True)
        overlay.write_bytes(base64.b64decode(overlay_of(stack_of(session.record, session.source, answer.overlay))))
    data = {
        "run": str(run), "headline": answer.headline, "values": dict(answer.values), "used": [m.value for m in answer.used],
        "mask": str(into) if into else None, "overlay": str(overlay) if overlay else None, "notice": NOTICE,
    }  # fmt: skip
    shown = [
        answer.headline,
        f"read: {', '.join(data['used'])}",
        *(f"written to {place}" for place in (into, overlay) if place),
        f"How well this run draws what it is shown is measured by: polyclinic evaluate {run}",
        NOTICE,
    ]
    return Reply(data, shown)
