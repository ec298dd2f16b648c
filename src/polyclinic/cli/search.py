"""`polyclinic index | search`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .frame import Reply, command, progress, table


def add_to(app: typer.Typer) -> None:
    """The commands."""
    app.command("index")(index)
    app.command("search")(search)


@command
def index(
    run: Annotated[Path, typer.Argument(help="A pretrained run's folder.", show_default=False)],
    cohort: Annotated[Path | None, typer.Option(help="Where the catalogue lies; by default where it lay.")] = None,
    into: Annotated[Path | None, typer.Option(help="The index's folder; `index` in the run's by default.")] = None,
) -> Reply:
    """Give every patient of a catalogue a place in the run's space, to be searched. Ctrl-C stops it; the same command goes on."""
    from ..harmonise.unread import Unread, listed
    from ..inference import index as build

    with progress("index") as report:
        made = build(run, cohort, into=into, progress=report)
    rows = [(side, n, f"{made.about['recall'][side]:.3f}") for side, n in made.about["rows"].items()]
    aside = [Unread(**one) for one in made.about["unread"]]
    shown = [
        table("", ("of", "#vectors", "#of the ten nearest are found"), rows),
        *listed(aside, f"{made.path}/index.json"),
        f"{made.path}",
        f'next: polyclinic search {made.path} --patient NAME    polyclinic search {made.path} --say "words"',
    ]
    return Reply({"index": str(made.path), **made.about}, shown)


@command
def search(
    index: Annotated[Path, typer.Argument(help="An index's folder, or its run's.", show_default=False)],
    patient: Annotated[str | None, typer.Option(help="Whose like are looked for.")] = None,
    say: Annotated[str | None, typer.Option(help="What is looked for, in words.")] = None,
    of: Annotated[str, typer.Option(help="Which of the patient's modalities asks; the whole by default.")] = "patient",
    to: Annotated[str | None, typer.Option(help="Which modality is looked for; as `--of` by default.")] = None,
    k: Annotated[int, typer.Option(min=1, help="How many.")] = 10,
) -> Reply:
    """The patients, images, notes … nearest to a patient, or to words."""
    from ..inference import Index

    if (patient is None) == (say is None):
        raise typer.BadParameter("give --patient or --say, one of them")
    opened = Index.open(index)
    if patient is not None:
        hits = opened.similar(patient, of, to, k)
    else:
        hits = opened.say(str(say), to or "patient", k)
    rows = [(h.rank, h.patient, f"{h.similarity:.3f}", ", ".join(h.records)) for h in hits]
    shown = [
        table("", ("#", "patient", "#cosine", "records"), rows),
        "alike to the model; not the same disease. Research use only.",
    ]
    return Reply({"index": str(opened.path), "weights": opened.about["weights"], "hits": hits}, shown)
