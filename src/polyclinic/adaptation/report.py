"""Reports: the run's decoder tuned to pairs of records and reports, its reports of a cohort, and one report with what it rests on."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..cohort import Cohort, subset
from ..harmonise.loader import Loader
from ..harmonise.text import TextStandard, spelled
from ..models import Model
from ..models.adapters import AdapterFields, put, settle
from ..objectives import CaptionObjective, RetellObjective
from ..objectives.hybrid import places
from ..records.findings import ABSENT, PRESENT, read_findings, summary
from ..schema import Batch, Modality, Record
from ..tasks import Answer, Claim, Predictions, Report, ReportTask
from ..tasks.correctness import NAMES
from ..tasks.report import GROUND_NATS
from ..training import Run
from ..training.methods import Full, Probe
from ..training.ranks import fabric_for
from ..training.repeatable import generator, repeatable
from .adapted import Adapted, write
from .fine_tune import Progress, descend
from .plan import AdaptError, Plan

STEPS, PATIENTS = 200, 16
SPENT = 0.1
"""The share of the learning rate: the decoder is trained already."""


def writer_of(run: Run, name: str, model: Model) -> ReportTask:
    """The run's own decoder, as the last stage left it, as a task.

    Raises:
        AdaptError: the last stage did not learn to write, or what it writes cannot be read as words.
    """
    spec, standard = run.recipe.tasks[name], run.recipe.standards().get(Modality.TEXT)
    assert isinstance(spec, Report)
    if not isinstance(standard, TextStandard) or not (standard.languages or standard.tokenizer):
        raise AdaptError(
            "word pieces that do not say which of them go on a word, so that a report could not be spelled",
            "`languages` of the text encoder, or a `tokenizer`", "say `languages: [en]` in `encoders.text` and pretrain anew",
        )  # fmt: skip
    if spec.language is not None and spec.language not in standard.languages:
        raise AdaptError(
            f"reports in the language {spec.language!r}", "one of " + (", ".join(standard.languages) or "none"),
            "name it in `encoders.text.languages` and pretrain anew, or leave `language` out",
        )  # fmt: skip
    for part, place in places(run.recipe.stages[-1].objective):
        if part.kind in ("caption", "retell"):
            writer = run.objective(model).get_submodule(place.rstrip("."))
            assert isinstance(writer, CaptionObjective | RetellObjective)
            return ReportTask(name, spec, writer, standard, run.fingerprint)
    raise AdaptError(
        f"the run {run.path}, whose last stage did not learn to write", "a last stage with `caption` or `retell`",
        "pretrain a recipe such as coca or m3fm",
    )  # fmt: skip


def reference(loader: Loader, patient: str, language: str | None) -> Record | None:
    """A patient's last report, in the language where one is asked for; None where there is none."""
    found = loader.by_patient.get(patient, {}).get(Modality.TEXT, [])
    fitting = [
        r for r in found if language is None or str(r.attributes.get("language") or "").split("-")[0] == language
    ]
    return fitting[-1] if fitting else None


def reference_text(loader: Loader, task: ReportTask, record: Record) -> str:
    """What of a report counts, in its own words."""
    return task.standard.of(loader.load(record).text)


def shown_of(run: Run, name: str, inputs: Sequence[Modality]) -> tuple[Modality, ...]:
    """The modalities that a report is written from.

    Raises:
        AdaptError: there is none but text.
    """
    shows = tuple(m for m in inputs if m is not Modality.TEXT)
    if not shows:
        raise AdaptError(f"task {name!r}, which may read nothing but text", "another modality", "give it more inputs")
    return shows


def adapt_report(
    run: Run, name: str, methods: tuple[Any, ...], labels: int | None, cohort: Cohort, seed: int, steps: int | None,
    inputs: Sequence[Modality], into: str | Path | None, progress: Progress | None,
) -> Run:  # fmt: skip
    """Tune the run's decoder to pairs; arguments as `adapt`. `probe` leaves the encoders as they are, `steps` of 0 the decoder too."""
    if not isinstance(methods[0], Probe | Full | AdapterFields):
        raise AdaptError(
            f"a report by {methods[0].kind}",
            "probe, full or adapters such as lora",
            "choose one: a decoder is pretrained",
        )
    reads, model = shown_of(run, name, inputs), run.model()
    task = writer_of(run, name, model)
    loader = run.loader(cohort, run.split.train)
    has = [
        p
        for p in loader.patients
        if set(reads) & set(loader.by_patient[p]) and reference(loader, p, task.spec.language)
    ]
    chosen = sorted(subset(dict.fromkeys(has, ""), labels, seed))
    if not chosen:
        raise AdaptError(
            f"no training patient with a report and one of {', '.join(reads)}", "at least one", "read more modalities"
        )
    steps = min(STEPS, math.ceil(8 * len(chosen) / PATIENTS)) if steps is None else steps
    plan = Plan(run, name, methods, reads, loader, chosen, seed, steps, cohort)
    began, learned = time.monotonic(), dict[str, Any](steps=steps)
    with repeatable():
        if steps:
            learned |= _tune(plan, model, task, progress)
        _compare(plan, model, task)
    learned["seconds"] = round(time.monotonic() - began, 2)
    learned["checked"] = [n for n, t in zip(NAMES, task.thresholds.tolist(), strict=True) if math.isfinite(t)]
    place = Path(into) if into is not None else run.path / f"adapted/{name}-{plan.method}-{len(chosen)}-{seed}"
    return write(plan, place, model, task, learned)


def _tune(plan: Plan, model: Model, task: ReportTask, progress: Progress | None) -> dict[str, float]:
    """Train the decoder and, but for a probe, the encoders or what is added to them."""
    if isinstance(plan.methods[0], Probe):
        model.requires_grad_(False)
    elif isinstance(plan.methods[0], AdapterFields):
        put(model, plan.methods, plan.seed)
    fabric, each = fabric_for(plan.run.recipe.precision), max(1, math.ceil(len(plan.patients) / PATIENTS))

    def loss_of(step: int) -> Tensor:
        turn, place = divmod(step, each)
        order = torch.randperm(len(plan.patients), generator=generator(plan.seed, "order", turn)).tolist()
        picked = sorted(plan.patients[i] for i in order[place * PATIENTS : (place + 1) * PATIENTS])
        with fabric.autocast():
            return task.output(model, plan.loader.of(picked, (*plan.reads, Modality.TEXT), seed=step))

    descend(plan, model, task, SPENT, loss_of, progress)
    settle(model)
    return {"lr": min(m.lr for m in plan.methods) * SPENT}


@torch.no_grad()
def _compare(plan: Plan, model: Model, task: ReportTask) -> None:
    """Learn of the training patients' own reports from when on a finding counts as seen."""
    found, said, denied = [], [], []
    for batch in plan.loader.each(32, plan.patients, plan.reads):
        found.append(task.margins(model, batch).float().cpu())
        for patient in batch.patients:
            record = reference(plan.loader, patient, task.spec.language)
            assert record is not None
            told = summary(read_findings(reference_text(plan.loader, task, record), task.language).mentions)
            said.append([told.get(n) == PRESENT for n in NAMES])
            denied.append([told.get(n) == ABSENT for n in NAMES])
    task.learn_thresholds(torch.cat(found), np.array(said), np.array(denied))


def written(adapted: Adapted, loader: Loader, patients: Sequence[str], reads: Sequence[Modality]) -> Predictions:
    """Reports as outputs, the patients' own as targets; who has no own one, or of whom nothing is written, is not labelled."""
    task, reports, has = adapted.task, dict[str, str](), dict[str, tuple[Modality, ...]]()
    assert isinstance(task, ReportTask)
    shows = shown_of(adapted.run, adapted.name, reads)
    for batch in loader.each(32, patients, shows):
        for number, numbers in task.write(adapted.model, batch).items():
            reports[batch.patients[number]] = spelled(numbers.tolist(), task.fingerprint)
        owners = {m: set(ragged.patient.tolist()) for m, ragged in batch.payloads.items()}
        has |= {p: tuple(m for m in owners if n in owners[m]) for n, p in enumerate(batch.patients)}
    own = [reference(loader, p, task.spec.language) for p in patients]
    texts = lambda values: np.array([*values, None], dtype=object)[
        :-1
    ]  # None: an array of nothing but texts would be one of letters
    targets = texts("" if r is None else reference_text(loader, task, r) for r in own)
    known = np.array([r is not None and p in reports for p, r in zip(patients, own, strict=True)], dtype=bool)
    return Predictions(
        adapted.name,
        tuple(patients),
        texts(reports.get(p, "") for p in patients),
        targets,
        known,
        tuple(has[p] for p in patients),
    )


@torch.no_grad()
def present_report(adapted: Adapted, batch: Batch, used: tuple[Modality, ...]) -> Answer:
    """One patient's report with, a sentence, the part of the picture that it rests on and what the picture says against it.

    Raises:
        AdaptError: records from which the run's decoder does not write.
    """
    task, model = adapted.task, adapted.model
    assert isinstance(task, ReportTask)
    numbers = task.write(model, batch).get(0)
    if numbers is None:
        raise AdaptError(
            f"records of {', '.join(used)}, from which this run does not write",
            "those that it learned to write from",
            "give one",
        )
    ends = sentence_ends(numbers, task)
    grounds = task.grounds(model, batch, numbers, ends)
    margins = task.margins(model, batch)[0]
    claims = []
    for n, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        text = spelled(numbers[start:end].tolist(), task.fingerprint)
        said = {m.finding: m.status for m in read_findings(text, task.language).mentions}
        part, nats = max(grounds[n].items(), key=lambda item: item[1]) if grounds and said else (None, 0.0)
        claims.append(
            Claim(text, said, part if nats >= GROUND_NATS else None, round(nats, 2), task.against(said, margins))
        )
    flagged = sum(bool(c.against) for c in claims)
    report = " ".join(c.text for c in claims)
    values = {"sentences": len(claims), "against the picture": flagged, "report": report}
    notes = _notes(task, grounds is not None)
    return Answer(report or "nothing was written", values, used, extra={"claims": tuple(claims), "notes": notes})


def sentence_ends(numbers: Tensor, task: ReportTask) -> list[int]:
    """Where each sentence of a written report ends: after a full stop, or with the report."""
    stops = [
        n + 1 for n, word in enumerate(numbers.tolist()) if spelled([word], task.fingerprint).strip() in (".", "!", "?")
    ]
    return stops if stops and stops[-1] == len(numbers) else [*stops, len(numbers)] if len(numbers) else []


def _notes(task: ReportTask, grounded: bool) -> tuple[str, ...]:
    """What of the report could not be looked into."""
    checked = [n.replace("_", " ") for n, t in zip(NAMES, task.thresholds.tolist(), strict=True) if math.isfinite(t)]
    notes = [
        "Held against the picture: " + ", ".join(checked) + "."
        if checked
        else "No finding could be held against the picture: its comparison with words does not tell the training patients apart."
    ]
    if not grounded:
        notes.append("Which part of a picture a sentence rests on cannot be told: there is not just one picture.")
    return tuple(notes)
