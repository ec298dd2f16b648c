"""`ask`: a question in words of patients, to a run that learned to answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .frame import Reply, command, table
from .runs import CohortOption, RunPath

if TYPE_CHECKING:
    from ..objectives import Finding

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
    from ..inference.ask import as_table, known_of, lineage, taught
    from ..training import Run

    backbone = Run.open(run).backbone
    found = put(backbone, task, question, cohort=cohort, patients=patient, inputs=reads)
    in_words = question or taught(backbone)[task] == "question"  # by a head of its own nothing is said
    each = known_of(backbone)[task]
    said = question or (
        " ".join(backbone.recipe.tasks[task].asked()[:1]) if in_words and len(each.names) == 1 else None
    )
    answers = as_table(backbone, found, said)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, answers)
    told = lineage(backbone)
    silent = [p for p in patient or () if p not in found.patients]
    data = {"task": task, "question": said, "lineage": told, "answers": answers.to_pylist(), "nothing_to_read": silent}
    name = "log hazard" if "event" in answers.column_names else "score"
    rows = [
        (a["patient"], a["side"], _told(a["output"], each), _truth(a, each), ", ".join(a["modalities"]))
        for a in data["answers"]
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


def _told(output: Any, each: Finding) -> str:
    """A number, or several by their names."""
    if not isinstance(output, list):
        return f"{output:.3f}"
    return ", ".join(f"{name} {'–' if p is None else f'{p:.3f}'}" for name, p in zip(each.names, output, strict=True))


def _truth(answer: dict[str, Any], each: Finding) -> str:
    """What is known of a patient, in a word or two."""
    if each.outcome == "findings":
        yes = [name for name, value in zip(each.names, answer["truth"], strict=True) if value]
        return ", ".join(yes) or ("none" if 0.0 in answer["truth"] else "not known")
    if each.outcome in ("classes", "grade"):
        return "not known" if answer["truth"] is None else each.names[int(answer["truth"])]
    if "event" not in answer:
        return {1: "yes", 0: "no"}.get(answer["truth"], "not known")
    return (
        "not known" if answer["event"] is None else f"{answer['time']:g}, {'event' if answer['event'] else 'censored'}"
    )
