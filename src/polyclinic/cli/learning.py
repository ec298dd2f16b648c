"""`continual`, and `adapt` with several numbers of labels: what learning costs and saves, measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .frame import Reply, command, progress, table

if TYPE_CHECKING:
    from ..schema import Figure


Minutes = Annotated[
    float | None,
    typer.Option(
        min=0, help="Begin nothing new after so many; what is finished is told, and the same command goes on."
    ),
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    example = "runs/demo --tasks finding,icu,survival --protect none,replay,ewc=10+distil --seeds 0,1,2"
    app.command(epilog=f"Example: polyclinic continual {example}")(continual)


def listed(words: str, what: str) -> list[str]:
    """Words with commas between them, none of them empty."""
    found = [word.strip() for word in words.split(",")]
    if not all(found):
        raise typer.BadParameter(f"{what} {words!r}: expected words with commas between them")
    return found


def whole(words: str, what: str) -> list[int]:
    """Whole numbers with commas between them."""
    try:
        return [int(word) for word in listed(words, what)]
    except ValueError as error:
        raise typer.BadParameter(f"{what} {words!r}: expected whole numbers with commas between them") from error


def label_counts(words: str | None) -> list[int | None] | int | None:
    """One number, or several of which the last may be `all`; None for all of them, once."""
    if words is None or words.strip().lower() == "all":
        return None
    each = listed(words, "--labels")
    counts: list[int | None] = []
    for word in each:
        if word.lower() != "all" and not (word.isdecimal() and int(word)):
            raise typer.BadParameter(f"--labels {words!r}: {word!r} is no number of patients; say 10, or 10,50,200,all")
        counts.append(None if word.lower() == "all" else int(word))
    return counts if len(counts) > 1 else counts[0]


@command
def continual(
    run: Annotated[Path, typer.Argument(help="The pretrained run's folder.", show_default=False)],
    tasks: Annotated[
        str, typer.Option(help="Tasks of its recipe, with commas, in the order in which they are learned.")
    ],
    method: Annotated[
        str,
        typer.Option(
            help="full moves the backbone; adapters (lora, adapter, prefix …) go on learning; with options as YAML."
        ),
    ] = "full",
    protect: Annotated[
        str,
        typer.Option(
            help="Ways to keep the old, with commas, each a run through the sequence: none, replay, rehearsal, ewc, distil, interpolate; "
            "joined by +, with a strength as ewc=10."
        ),
    ] = "none",
    seeds: Annotated[str, typer.Option(help="Of labels, heads and batches, with commas.")] = "0,1,2",
    labels: Annotated[int | None, typer.Option(min=1, help="Labelled patients of each task; all by default.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps of each task; by task by default.")] = None,
    cohort: Annotated[
        Path | None, typer.Option("--cohort", help="Where the catalogue lies now; by default where it lay.")
    ] = None,
    into: Annotated[
        Path | None, typer.Option(help="The folder of runs, answers and results; below the run by default.")
    ] = None,
    minutes: Minutes = None,
) -> Reply:
    """Teach one task after another and ask all after each: accuracy, transfer, forgetting. Ctrl-C stops; the same command goes on."""
    from ..harmonise.unread import listed as named
    from ..training import Run
    from ..trust import continual as teach
    from ..trust.comparisons.continual_page import CALLED, verdict
    from ..trust.comparisons.line_plot import averaged

    ways, names, numbers = listed(protect, "--protect"), listed(tasks, "--tasks"), whole(seeds, "--seeds")
    opened = Run.open(run).backbone
    with progress("continual") as report:
        made = teach(
            opened, names, method, protect=ways, labels=labels, seeds=numbers, steps=steps, cohort=cohort, into=into,
            minutes=minutes, progress=report,
        )  # fmt: skip
    place = into or opened.path / "continual" / f"{'-'.join(made.tasks)}-{made.method}"
    shown: list[Any] = []
    for way in made.ways:
        rows = [
            (
                "pretraining" if i == 0 else made.tasks[i - 1],
                *(f"{f.value:.3f}" if j < i else f"[{f.value:.3f}]" for j, f in enumerate(row)),
            )
            for i, row in enumerate(way.results)
        ]
        heads = [f"#{t} ({m})" for t, m in zip(made.tasks, made.metrics, strict=True)]
        shown.append(table(f"{way.protect}: each task after …  [not learned yet]", ("after", *heads), rows))
    rows = [(w.protect, *(interval(w.measures[name]) for name in CALLED)) for w in made.ways]
    shown += [
        table(f"{averaged(made.seeds)} (95% interval)", ("protect", *(f"#{words}" for words in CALLED.values())), rows),
        *verdict(made), *left(numbers, made.seeds, minutes), *named(made.unread, f"{place}/continual.json"),
        f"written to {place}/continual.html and .json",
    ]  # fmt: skip
    data = {
        "into": str(place),
        "tasks": made.tasks,
        "split": made.split,
        "ways": made.ways,
        "fresh": made.fresh,
        "verdict": verdict(made),
        "unread": made.unread,
    }
    return Reply(data, shown)


def left(asked: Sequence[int], made: Sequence[int], minutes: float | None) -> list[str]:
    """The seeds for which there was no time, in a line."""
    missing = ", ".join(str(seed) for seed in asked if seed not in made)
    return [f"not finished within {minutes:g} minutes: seed {missing}; the same command goes on"] if missing else []


def interval(figure: Figure) -> str:
    """A figure with its interval, for a table on the screen."""
    return f"{figure.value:.3f} ({figure.low:.3f} – {figure.high:.3f})"


def curve(
    run: Path, task: str, method: str | None, counts: Sequence[int | None], baselines: str | None, seed: int | None, seeds: int,
    steps: int | None, cohort: Path | None, into: Path | None, minutes: float | None,
) -> Reply:  # fmt: skip
    """The answer of `adapt` with several numbers of labels; `seeds` from `seed` on, by default from the recipe's."""
    from ..harmonise.unread import listed as named
    from ..training import Run
    from ..trust import label_curve
    from ..trust.comparisons.label_arms import BASELINES
    from ..trust.comparisons.label_page import verdict
    from ..trust.comparisons.line_plot import averaged

    opened = Run.open(run).backbone
    first = opened.recipe.seed if seed is None else seed
    against = BASELINES if baselines is None else () if baselines == "none" else tuple(listed(baselines, "--baselines"))
    with progress(f"labels of {task}") as report:
        made = label_curve(
            opened, task, counts, method, baselines=against, seeds=range(first, first + seeds), steps=steps, cohort=cohort,
            into=into, minutes=minutes, progress=report,
        )  # fmt: skip
    place = into or opened.path / "labels" / f"{task}-{made.method}"
    rows = [
        (p.arm, p.labels, f"{p.read:g}", interval(p.figure), p.figure.n, interval(p.behind) if p.behind else "")
        for p in made.points
    ]
    columns = ("arm", "#labels", "#could read", f"#{made.metric} (95% interval)", "#n", "#behind the pretrained")
    shown: list[Any] = [
        table(f"{task} by {made.method}, {averaged(made.seeds)} (split {made.split[:8]})", columns, rows), *verdict(made),
        *(f"not run: {s.what}: {s.why}" for s in made.skipped), *named(made.unread, f"{place}/labels.json"),
        f"written to {place}/labels.html and .json",
    ]  # fmt: skip
    return Reply({"into": str(place), "curve": made, "verdict": verdict(made)}, shown)
