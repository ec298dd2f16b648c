"""`deidentify`: a folder of files → the same without what says whose they are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .frame import Reply, command, progress, table

MOST_SHOWN = 20


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(epilog="Example: polyclinic deidentify MY_FOLDER --out clean/ --key ~/keys/study.key")(deidentify)


@command
def deidentify(
    source: Annotated[Path, typer.Argument(help="A folder of files of any kind, or one file.", show_default=False)],
    out: Annotated[Path, typer.Option(help="A new folder.", show_default=False)],
    key: Annotated[
        Path, typer.Option(help="The secret's file, made if it is not there; keep it apart.", show_default=False)
    ],
    dates: Annotated[
        Literal["shift", "remove"],
        typer.Option(help="Move each patient's dates by one secret number of days, or empty them."),
    ] = "shift",
    burned_in: Annotated[
        Literal["aside", "keep", "blank"],
        typer.Option(
            help="Images with text in their pixels, found or to be expected: set aside, copy and list, or black out."
        ),
    ] = "aside",
    clean_descriptors: Annotated[bool, typer.Option(help="Keep the harmless words of DICOM's descriptions.")] = False,
    retain_device: Annotated[bool, typer.Option(help="Keep serial numbers and names of devices.")] = False,
    retain_characteristics: Annotated[
        bool, typer.Option(help="Keep sex, age (to 90), size and weight in DICOM.")
    ] = True,
    recogniser: Annotated[
        Literal["presidio"] | None, typer.Option(help="A further recogniser of names and numbers in free text.")
    ] = None,
    k: Annotated[int | None, typer.Option(min=2, help="Suppress quasi-identifiers of tables to k-anonymity.")] = None,
    quasi: Annotated[
        list[str] | None, typer.Option(help="A quasi-identifying column (repeat it); else age, sex and the like.")
    ] = None,
    keep_word: Annotated[
        list[str] | None, typer.Option(help="A word that may stay in names of files and descriptors (repeat it).")
    ] = None,
) -> Reply:
    """Write a de-identified copy of a folder: DICOM, FHIR, HL7 v2, CDA, notes, tables, omics, slides, videos, NIfTI, WFDB and pictures.

    The source is never changed. What is not known is not copied. The report (OUT/.deidentified.json) names what was done, what a
    person has to look at, and what was set aside, by new names only; KEY.names.csv says which was which, and stays with the key.
    """
    from ..records.deidentify import Options
    from ..records.deidentify import deidentify as clean

    options = Options(
        dates=dates, clean_descriptors=clean_descriptors, retain_device=retain_device, retain_characteristics=retain_characteristics,
        burned_in=burned_in, k=k, quasi_identifiers=tuple(quasi) if quasi else None,
        keep_words=frozenset(w.casefold() for w in keep_word or ()),
    )  # fmt: skip
    recognisers = []
    if recogniser == "presidio":
        from ..records.deidentify.presidio import presidio

        recognisers.append(presidio())
    with progress("deidentify") as report:
        done = clean(source, out, key, options, recognisers=recognisers, progress=report)
    data = done.as_data()
    data.pop("actions")
    shown: list[Any] = [
        f"{out}: {len(done.files)} files written, {len(done.aside)} set aside, {len(done.review)} places for a person to look at",
        "",
        table("", ("kind", "#files"), sorted(done.kinds.items())),
    ]
    for name, found in done.tables.items():
        if "k_before" in found:
            after = f", after suppression {found['k_after']}" if "k_after" in found else ""
            shown.append(
                f"{name}: k-anonymity {found['k_before']}{after} over {len(found['quasi_identifiers'])} columns"
            )
    if done.aside:
        shown += ["", f"{len(done.aside)} set aside (which files: {key}.names.csv):"]
        shown += [f"  {a.file}\n    {a.found}; do: {a.remedy}" for a in done.aside[:MOST_SHOWN]]
    if done.review:
        shown += ["", "to look at:", *(f"  {a.file}: {a.place}: {a.action}" for a in done.review[:MOST_SHOWN])]
    if max(len(done.review), len(done.aside)) > MOST_SHOWN:
        shown.append(f"… all of them in {out}/.deidentified.json")
    shown += ["", *(f"warning: {w}" for w in done.warnings)] if done.warnings else []
    return Reply(data, shown)
