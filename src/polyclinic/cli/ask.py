"""`ask`: a question in words of patients, to a run that learned to answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .frame import Reply, command, table
from .runs import CohortOption, RunPath

SHOWN = 20
"""Patients of whom the answer is printed."""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    example = 'runs/m3fm-ct "Does the lung show consolidation?" --task pneumonia --patient P000007'
    app.command(epilog=f"Example: polyclinic ask {example}")(ask)


@command
def ask(
    run: RunPath,
    task: Annotated[
        str, typer.Option(help="Whose labels are the truth, and which says what may be read.", show_default=False)
    ],
    question: Annotated[
        str | None, typer.Argument(help="In words; by default the task's own question.", show_default=False)
    ] = None,
    patient: Annotated[
        list[str] | None, typer.Option(help="Of whom; may be repeated. The test side by default.", show_default=False)
    ] = None,
    reads: Annotated[
        list[str] | None,
        typer.Option(help="A modality that may be read; may be repeated. The task's by default.", show_default=False),
    ] = None,
    cohort: CohortOption = None,
    out: Annotated[Path | None, typer.Option(help="Write all answers to this Parquet file.")] = None,
) -> Reply:
    """Ask a pretrained run about patients in words. Its last stage must have learned to answer: `question` or `supervised`."""
    from ..clinic.reply import NOTICE
    from ..cohort.parts import write_whole
    from ..inference import ask as put
    from ..inference.ask import as_table, lineage, taught
    from ..training import Run

    backbone = Run.open(run).backbone
    found = put(backbone, task, question, cohort=cohort, patients=patient, inputs=reads)
    in_words = question or taught(backbone)[task] == "question"  # by a head of its own nothing is said
    said = question or (backbone.recipe.tasks[task].asked()[0] if in_words else None)  # type: ignore[union-attr]
    answers = as_table(backbone, found, said)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, answers)
    told = lineage(backbone)
    silent = [p for p in patient or () if p not in found.patients]
    data = {"task": task, "question": said, "lineage": told, "answers": answers.to_pylist(), "nothing_to_read": silent}
    name = "log hazard" if "event" in answers.column_names else "score"
    rows = [
        (a["patient"], a["side"], f"{a['output']:.3f}", _truth(a), ", ".join(a["modalities"])) for a in data["answers"]
    ]
    more = f"… and {len(rows) - SHOWN} more: --out FILE.parquet, or --json" if len(rows) > SHOWN else ""
    shown = [
        table(
            f"{task}: {said}" if said else task,
            ("patient", "side", f"#{name}", "truth", "read"),
            rows[:SHOWN],
        ),
        more,
        f"nothing to read of {', '.join(silent)}" if silent else "",
        f"written to {out}" if out else "",
        f"A {name} ranks patients; what it is worth is measured by: polyclinic evaluate {run}",
        f"run {told['run']}: backbone {told['backbone'][:8]}, objective {told['objective'][:8]}, split {told['split'][:8]}",
        NOTICE,
    ]
    return Reply(data, [part for part in shown if part != ""])


def _truth(answer: dict[str, object]) -> str:
    """What is known of a patient, in a word or two."""
    if "event" not in answer:
        return {1: "yes", 0: "no"}.get(answer["truth"], "not known")  # type: ignore[call-overload]
    return (
        "not known" if answer["event"] is None else f"{answer['time']:g}, {'event' if answer['event'] else 'censored'}"
    )
