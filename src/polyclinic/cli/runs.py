"""`pretrain`, `compare`, `adapt`, `evaluate`, `predict`, `serve`: a recipe → a run → an answer."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .frame import Reply, command, files_in, progress, table
from .learning import Minutes, curve, label_counts
from .recipe import Overrides, RecipePath

if TYPE_CHECKING:
    from ..training import Run

RunPath = Annotated[Path, typer.Argument(help="The run's folder.", show_default=False)]
CohortOption = Annotated[
    Path | None, typer.Option("--cohort", help="Where the catalogue lies now; by default where it lay.")
]
Kind = Literal[
    "probe", "prototype", "knn", "zero_shot", "lora", "dora", "adapter", "prompt", "prefix", "bitfit", "full", "scratch"
]
"""As `training.methods` has it, which is not imported before it is used."""


def _method(told: str | None) -> str | None:
    """The same words, where there is such a method."""
    if told is not None:
        from ..schema import PolyclinicError
        from ..training.methods import methods

        try:
            methods(told)
        except PolyclinicError as error:
            raise typer.BadParameter(str(error)) from error
    return told


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    adapted = "runs/demo/adapted/finding-lora-20-0"
    examples = {
        pretrain: "recipes/demo.yaml --cohort cohort/ --set stages.0.steps=50",
        adapt: "runs/demo --task finding --method lora --labels 20",
        compare: "clip mae hybrid-2d --task pneumonia --seeds 3 --budget flops=1e13 --cohort cohort/",
        evaluate: adapted,
        predict: f"{adapted} x-ray.dcm note.txt",
        serve: f"{adapted} --port 8000",
    }
    for function, example in examples.items():
        app.command(epilog=f"Example: polyclinic {function.__name__} {example}")(function)


@command
def pretrain(
    recipe: RecipePath,
    cohort: Annotated[Path, typer.Option(help="The catalogue's folder.")] = Path("cohort"),
    overrides: Overrides = None,
    into: Annotated[Path, typer.Option(help="The folder of runs.")] = Path("runs"),
    resume: Annotated[bool, typer.Option(help="Go on with a run of this name; --no-resume starts it anew.")] = True,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write the curves for TensorBoard too.")] = False,
) -> Reply:
    """Pretrain a model as a recipe says. Ctrl-C stops at a checkpoint; the same command goes on, to the same bits.

    On several processes: torchrun --nproc-per-node 2 -m polyclinic pretrain …
    """
    from ..harmonise.unread import listed
    from ..training import Recipe
    from ..training import pretrain as train
    from ..training.curves import is_loss

    checked = Recipe.load(recipe, overrides or ())
    with progress("pretrain") as report:
        run = train(checked, cohort, into=into, resume=resume, progress=report, tensorboard=tensorboard)
    if int(os.environ.get("RANK", "0")):  # one of torchrun's processes answers for all
        return Reply({"run": str(run.path)})
    curves, session = run.metrics().to_pylist(), (run.training["sessions"] or [None])[-1]
    last = {row["name"]: row["value"] for row in curves if is_loss(row["name"])}
    data = {
        "run": str(run.path), "recipe": checked.name, "split": run.split.hash, "train": len(run.split.train), "test": len(run.split.test),
        "steps": 1 + max((row["step"] for row in curves), default=-1), "losses": last,
        "session": session, "unread": run.set_aside,
    }  # fmt: skip
    shown = [
        f"{run.path}: {data['steps']} steps on {data['train']} patients ({data['test']} kept for testing; split {run.split.hash[:8]})",
        table("last step", ("loss", "#value"), [(k, f"{v:.4f}") for k, v in last.items()]),
        *listed(run.set_aside, f"{run.path}/lock.json and training.json"),
        *([] if session is None else [_cost(session)]),
        f"next: polyclinic adapt {run.path} --task {next(iter(checked.tasks), 'TASK')}",
    ]
    return Reply(data, shown)


def _cost(session: Mapping[str, Any]) -> str:
    """What the last session of training took, in a line."""
    energy = session["energy_kwh"]
    return (
        f"steps {session['steps'][0]} to {session['steps'][1]} took {session['wall_s']:.0f} s on {session['ranks']} process(es), "
        f"{session['processor_s']:.0f} s of processor time" + (f", {energy:.4f} kWh" if energy is not None else "")
    )


@command
def adapt(
    run: RunPath,
    task: Annotated[str, typer.Option(help="A task of the run's recipe.", show_default=False)],
    method: Annotated[
        str | None,
        typer.Option(
            callback=_method,
            help="probe, prototype, knn, zero_shot, lora, dora, adapter, prompt, prefix, bitfit, full or scratch; adapters joined by +; "
            "with options as '{kind: lora, rank: 4}'. By default the recipe's.",
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="Labelled training patients that may be used; all by default. Several, as 10,50,200,all, measure the curve."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the labels' order and the head; the recipe's by default.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps; by task by default.")] = None,
    after: Annotated[
        Path | None, typer.Option(help="An adapted run of this backbone whose weights this one goes on from.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Of a curve: how many, --seed and those after it; 3 by default.")
    ] = None,
    baselines: Annotated[
        str | None,
        typer.Option(
            help="Of a curve: scratch, single (one modality alone), plain, with commas, or none; all by default."
        ),
    ] = None,
    leave_out: Annotated[
        list[str] | None, typer.Option(help="A table's column that it may not read; may be given several times.")
    ] = None,
    cohort: CohortOption = None,
    into: Annotated[Path | None, typer.Option(help="The new run's folder; below the run by default.")] = None,
    minutes: Minutes = None,
) -> Reply:
    """Adapt a pretrained run to a task; what alone tells the answer is named. With several --labels: a curve, against baselines."""
    counts = label_counts(labels)
    if isinstance(counts, list):
        if after is not None or leave_out:
            raise typer.BadParameter("--after and --leave-out go with one number of labels")
        return curve(run, task, method, counts, baselines, seed, seeds or 3, steps, cohort, into, minutes)
    if seeds is not None or baselines is not None or minutes is not None:
        raise typer.BadParameter(
            "--seeds, --baselines and --minutes go with several numbers of labels, as --labels 10,50,all"
        )
    from ..adaptation import adapt as fit

    with progress(f"adapt {task}") as report:
        made = fit(
            run, task, method, counts, cohort=cohort, seed=seed, steps=steps, after=after, leave_out=leave_out or (), into=into,
            progress=report,
        )  # fmt: skip
    return _learned(made)


def _learned(made: Run) -> Reply:
    """What an adapted run learned from, and who could not be read."""
    from ..harmonise.unread import Unread, listed

    about = made.adapter
    known = {key: about[key] for key in ("task", "method", "labels", "inputs")}
    told = {key: about.get(key, []) for key in ("giveaways", "unread")}
    words = f"{about['task']} by {about['method']} from {about['labels']} labelled patients, reading {', '.join(about['inputs'])}"
    shown = [
        *listed([Unread(**one) for one in told["unread"]], f"{made.path}/adapter.json"),
        f"{made.path}: {words}",
        f"next: polyclinic evaluate {made.path}    polyclinic serve {made.path}",
    ]
    return Reply({"run": str(made.path), **known, "split": made.split.hash, **told}, shown)


@command
def compare(
    recipes: Annotated[list[str], typer.Argument(help="YAML files, or names of shipped recipes.", show_default=False)],
    task: Annotated[str, typer.Option(help="The question by which they are judged; all recipes have it.")],
    cohort: Annotated[Path, typer.Option(help="The catalogue's folder.")] = Path("cohort"),
    seeds: Annotated[int, typer.Option(min=1, help="How many times each is trained.")] = 3,
    budget: Annotated[
        str | None, typer.Option(help="tokens=N or flops=N, of each run; the recipes' own steps by default.")
    ] = None,
    method: Annotated[Kind, typer.Option(help="How runs are adapted.")] = "probe",
    labels: Annotated[int | None, typer.Option(min=1, help="Labelled patients for adapting; all by default.")] = None,
    overrides: Overrides = None,
    into: Annotated[Path, typer.Option(help="The folder of runs, answers and the comparison.")] = Path("compared"),
) -> Reply:
    """Compare recipes × seeds at an equal budget: a table with intervals, a plot, the winner's margin. Finished cells are kept."""
    from ..harmonise.unread import listed
    from ..training import Recipe
    from ..training.budget import Budget
    from ..trust import factorial

    spend = Budget.parse(budget) if budget else None
    loaded = [Recipe.load(recipe, overrides or ()) for recipe in recipes]
    with progress("compare") as report:
        made = factorial(
            loaded, cohort, task, into=into, seeds=seeds, budget=spend, method=method, labels=labels, progress=report
        )
    rows = [
        (
            a.recipe,
            a.steps,
            f"{a.tokens:.3g}",
            f"{a.flops:.3g}",
            f"{a.figure.value:.3f}",
            f"{a.figure.low:.3f} – {a.figure.high:.3f}",
        )
        for a in made.arms
    ]
    columns = ("recipe", "#steps", "#tokens", "#FLOPs", f"#{made.metric}", "#95% interval")
    shown = [
        table(f"{task} by {method}, n = {made.arms[0].figure.n}", columns, rows),
        made.verdict(),
        *listed(made.unread, f"{into}/comparison.json"),
        f"written to {into}/comparison.md, .json and .svg",
    ]
    return Reply({"comparison": made, "margin": made.margin, "verdict": made.verdict(), "into": str(into)}, shown)


@command
def evaluate(run: RunPath, cohort: CohortOption = None) -> Reply:
    """Examine a run on the patients it never saw: every figure with n, a 95% interval and the split's hash."""
    from ..cohort import Cohort
    from ..harmonise.unread import listed
    from ..training import Run
    from ..trust import evaluate as examine

    opened = Run.open(run)
    evidence = examine(opened, Cohort.open(cohort) if cohort else None)
    several = len(evidence.every) > 1
    rows = [
        (*([e.task] if several else []), f.name, f"{f.value:.3f}", f"{f.low:.3f} – {f.high:.3f}", f.n, f.note)
        for e in evidence.every
        for f in e.figures
    ]
    columns = (*(["task"] if several else []), "figure", "#value", "#95% interval", "#n", "note")
    data = {"run": str(run), "split": opened.split.hash, "task": evidence.task, "figures": list(evidence.figures)}
    if several:
        data["others"] = {e.task: list(e.figures) for e in evidence.others}
    shown: list[Any] = [table(f"{run} (split {opened.split.hash[:8]})", columns, rows)]
    for e in evidence.every:
        shown += _adds(e) + [f"beware: {told}" for told in e.giveaways]
    data["contributions"] = {e.task: e.contributions for e in evidence.every if e.contributions}
    data["giveaways"] = {e.task: list(e.giveaways) for e in evidence.every if e.giveaways}
    data["unread"] = list(evidence.unread)
    shown += listed(evidence.unread, f"{run}/evidence/evidence.json")
    return Reply(data, shown)


def _adds(evidence: Any) -> list[Any]:
    """What each modality adds, and what is lost without it."""
    if (found := evidence.contributions) is None:
        return []
    known = lambda f: f"({f.low:+.3f} – {f.high:+.3f})" if f.low == f.low else "(no interval)"
    words = lambda f: f"{f.value:+.3f} {known(f)}" if f.value == f.value else "not defined"
    rows = [(c.modality, words(c.shapley), c.patients, words(c.lost), c.lost.n) for c in found.each]
    reach = f"{found.metric.replace('_', ' ')} {found.nothing:.3f} to {found.whole:.3f}, n = {found.n}"
    head = f"what each modality adds to {evidence.task} ({reach})"
    return ["", table(head, ("modality", "#adds (95% interval)", "#have it", "#lost without it", "#n"), rows)]


@command
def predict(
    run: RunPath,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="One patient's files (or a folder of them), of any modalities the run reads.", show_default=False
        ),
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option(help="Write the picture of the answer to this PNG, where there is one.")
    ] = None,
    suggest: Annotated[
        bool, typer.Option("--suggest", help="Say too which missing kind of record would better the answer most.")
    ] = False,
    cohort: Annotated[
        Path | None, typer.Option(help="Answer about every patient of this catalogue instead, into Parquet files.")
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="Of a catalogue: a condition on the records that may be read.")
    ] = None,
    into: Annotated[
        Path | None, typer.Option(help="Of a catalogue: the files' folder; `answers` in the run's by default.")
    ] = None,
    engine: Annotated[Literal["processes", "ray"], typer.Option(help="Of a catalogue: who answers.")] = "processes",
    workers: Annotated[int, typer.Option(min=1, help="Of a catalogue: how many.")] = 1,
    landmark: Annotated[
        float | None, typer.Option(help="Of a task with landmarks: at which one; the first by default.")
    ] = None,
) -> Reply:
    """The answer about one patient, given as one or several files; or about everybody in a catalogue (Ctrl-C stops, the same goes on)."""
    if (cohort is None) == (not files):
        raise typer.BadParameter("give files, or --cohort")
    if cohort is not None:
        return _answers(run, cohort, where, into, engine, workers, landmark)
    assert files is not None
    from ..clinic import Desk

    every = files_in(files)
    answer = Desk(run, landmark=landmark).answer(every)
    if overlay is not None and answer.overlay:
        overlay.write_bytes(base64.b64decode(answer.overlay))
    shown: list[Any] = [
        answer.headline,
        table("", ("value", "#"), list(answer.values.items())),
        *map(_rests, answer.sentences),
        f"read: {', '.join(answer.used)}" + "".join(f"; not read: {n.file} ({n.why})" for n in answer.not_used),
        answer.uncertainty,
        f"model {answer.model.adapter[:8]} on backbone {answer.model.backbone[:8]}, split {answer.model.split[:8]}",
        answer.notice,
    ]
    asked = _suggestion(run, every) if suggest else None
    shown += _suggested(asked) if asked is not None else []
    data = (
        answer.model_dump(exclude={"views", "overlay"})
        | {"overlay": str(overlay) if overlay and answer.overlay else None}
        | ({"suggestion": asked} if suggest else {})
    )
    return Reply(data, shown)


def _rests(sentence: Any) -> str:
    """A sentence of a report, and what it rests on."""
    slices = "" if sentence.slices is None else f", slices {sentence.slices[0]} to {sentence.slices[1]}"
    rests = "rests on no one part" if sentence.part is None else f"rests on the {sentence.part}{slices}"
    against = f"; the picture says otherwise: {', '.join(sentence.against)}" if sentence.against else ""
    return f"{sentence.text} ({rests}{against})"


def _suggestion(run: Path, files: list[Path]) -> Any:
    from ..trust import next_modality

    return next_modality(run, files)


def _suggested(found: Any) -> list[Any]:
    """What to ask for next, and what each would bring."""
    rows = [
        (
            g.modality,
            f"{g.brier.value:.3f}",
            f"{g.brier.low:.3f} – {g.brier.high:.3f}",
            f"{g.entropy.value:.3f}",
            g.brier.n,
        )
        for g in found.gains
    ]
    head = ("missing", "#expected fall of the Brier score", "#95% interval", "#of the entropy, bits", "#n")
    return [
        f"ask for {found.ask}: {found.why}" if found.ask else f"ask for nothing: {found.why}",
        table("", head, rows),
    ]


def _answers(
    run: Path, cohort: Path, where: str | None, into: Path | None, engine: Literal["processes", "ray"], workers: int,
    landmark: float | None,
) -> Reply:  # fmt: skip
    import pyarrow.parquet as pq

    from ..inference import answer_cohort

    with progress("predict") as report:
        place = answer_cohort(
            run, cohort, where=where, into=into, engine=engine, workers=workers, progress=report, landmark=landmark
        )
    told, why = 0, dict[str, int]()
    for part in sorted(place.glob("answers-*.parquet")):
        for reason in pq.read_table(part, columns=["why_not"])["why_not"].to_pylist():
            told += reason is None
            if reason is not None:
                why[reason] = why.get(reason, 0) + 1
    most = sorted(why.items(), key=lambda pair: -pair[1])
    shown = [
        f"{place}: {told} answers, {sum(why.values())} without one",
        *(f"  {n} × {reason}" for reason, n in most[:5]),
        f"what each rests on: {place}/lineage.json and the columns `records` and `modalities`. Research use only.",
    ]
    return Reply({"into": str(place), "answers": told, "without": sum(why.values()), "why_not": why}, shown)


@command
def serve(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="The folder of an adapted run, or of one that draws what it is shown; or several.", show_default=False
        ),
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="On the loopback address; 0 takes a free one.")] = 8000,
    host: Annotated[
        str, typer.Option(help="Another address than loopback. The service has no login of its own.")
    ] = "127.0.0.1",
    limit_mb: Annotated[int, typer.Option(min=1, help="The largest upload, all files together.")] = 256,
) -> Reply:
    """Serve runs: a page where one drops a file, `/predict`, `/segment`, `/health`, `/card`, `/docs`. Ctrl-C ends it."""
    from ..clinic import serve as run_service

    run_service(runs, port=port, host=host, limit_mb=limit_mb)
    return Reply({"runs": [str(run) for run in runs], "served": True}, ["stopped"])
