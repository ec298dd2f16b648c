"""Reports: the run's own decoder as a task, tuned to pairs of records and reports."""

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
from ..harmonise.text import TextStandard
from ..harmonise.unread import UnreadRecordError, check, reading
from ..models import Model
from ..models.adapters import AdapterFields, put, settle
from ..objectives import CaptionObjective, RetellObjective
from ..objectives.reported import Reports
from ..records.findings import ABSENT, PRESENT, read_findings, summary
from ..schema import Modality, Record
from ..tasks import Report, ReportTask
from ..tasks.correctness import NAMES
from ..training import Run
from ..training.methods import Full, Probe
from ..training.ranks import fabric_for
from ..training.repeatable import generator, repeatable
from .adapted import write
from .fine_tune import Progress, descend, drawn
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
    for part in run.parts:
        if part.kind in ("caption", "retell"):
            writer = run.learned(part, model)
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


def words_of(loader: Loader, task: ReportTask, record: Record) -> str | None:
    """What of a report counts, in its own words; None, and its patient is set aside, where it can no longer be read."""
    try:
        with reading(record):
            return task.standard.of(loader.load(record).text)
    except UnreadRecordError as error:
        loader.note(error.aside)
        return None


def reports_of(loader: Loader, patients: Sequence[str], language: str | None) -> tuple[Reports, list[Record | None]]:
    """When the report of each patient was written, as far as that is known, and the report itself."""
    own = [reference(loader, p, language) for p in patients]
    hours = [math.nan if r is None else loader.hours(r) for r in own]
    studies = [None if r is None or not r.attributes.get("study") else str(r.attributes["study"]) for r in own]
    return Reports(tuple(range(len(own))), tuple(hours), tuple(studies)), own


def shown_of(task: ReportTask, inputs: Sequence[Modality]) -> tuple[Modality, ...]:
    """The modalities that a report is written from; text among them only where earlier reports are shown.

    Raises:
        AdaptError: there is none, or the task asks for earlier reports of a decoder that was never shown any.
    """
    if Modality.TEXT in (task.spec.inputs or ()) and not task.reads_reports:
        raise AdaptError(
            f"task {task.name!r}, which reads text, of a decoder that was shown no earlier report", "`earlier: [text]` in the last stage's "
            "`caption`", "pretrain with it, or leave text out of the task's `inputs`: the report itself is never read",
        )  # fmt: skip
    shows = tuple(m for m in inputs if m is not Modality.TEXT or task.reads_reports)
    if not shows:
        raise AdaptError(
            f"task {task.name!r}, which may read nothing but text", "another modality", "give it more inputs"
        )
    return shows


def adapt_report(
    run: Run, name: str, methods: tuple[Any, ...], labels: int | Sequence[str] | None, cohort: Cohort, seed: int, steps: int | None,
    inputs: Sequence[Modality], into: str | Path | None, progress: Progress | None,
) -> Run:  # fmt: skip
    """Tune the run's decoder to pairs; arguments as `adapt`. `probe` leaves the encoders as they are, `steps` of 0 the decoder too."""
    if not isinstance(methods[0], Probe | Full | AdapterFields):
        raise AdaptError(
            f"a report by {methods[0].kind}",
            "probe, full or adapters such as lora",
            "choose one: a decoder is pretrained",
        )
    model = run.model()
    task = writer_of(run, name, model)
    reads, loader = shown_of(task, inputs), run.loader(cohort, run.split.train)
    there = [p for p in loader.patients if set(reads) & set(loader.by_patient[p])]
    has = [p for p in there if (r := reference(loader, p, task.spec.language)) and (r.time or task.window is None)]
    if labels is None or isinstance(labels, int):
        chosen = sorted(subset(dict.fromkeys(has, 0), labels, seed))
    else:
        chosen = sorted(set(labels) & set(has))
    if not chosen:
        raise AdaptError(
            f"no training patient with a {'' if task.window is None else 'dated '}report and one of {', '.join(reads)}",
            "at least one",
            "read more modalities",
        )
    tried, chosen = chosen, loader.readable(chosen, (*reads, Modality.TEXT))
    steps = min(STEPS, math.ceil(8 * len(chosen) / PATIENTS)) if steps is None else steps
    unread = loader.aside(set(tried))
    plan = Plan(run, name, methods, reads, loader, chosen, seed, steps, cohort, unread=unread)
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
    fabric, who = fabric_for(plan.run.recipe.precision), plan.patients
    each = max(1, math.ceil(len(who) / PATIENTS))

    def loss_of(step: int) -> Tensor | None:
        turn, place = divmod(step, each)
        order = torch.randperm(len(who), generator=generator(plan.seed, "order", turn)).tolist()
        picked = sorted(who[i] for i in order[place * PATIENTS : (place + 1) * PATIENTS])
        batch = drawn(plan, picked, (*plan.reads, Modality.TEXT), step)
        if not batch.patients:
            return None
        with fabric.autocast():
            return task.output(model, batch)

    descend(plan, model, task, SPENT, loss_of, progress)
    settle(model)
    return {"lr": min(m.lr for m in plan.methods) * SPENT}


@torch.no_grad()
def _compare(plan: Plan, model: Model, task: ReportTask) -> None:
    """Learn of the training patients' own reports from when on a finding counts as seen."""
    found, said, denied = [], [], []
    for batch in plan.loader.each(32, plan.patients, plan.reads):
        reports, own = reports_of(plan.loader, batch.patients, task.spec.language)
        words = [words_of(plan.loader, task, record) for record in own if record is not None]
        assert len(words) == len(own)  # they were chosen by it
        there = [number for number, text in enumerate(words) if text is not None]
        found.append(task.margins(model, task.told(model, batch, reports)).float().cpu()[there])
        for text in (text for text in words if text is not None):
            told = summary(read_findings(text, task.language).mentions)
            said.append([told.get(n) == PRESENT for n in NAMES])
            denied.append([told.get(n) == ABSENT for n in NAMES])
    check(len(plan.chosen), plan.loader.aside(set(plan.chosen)))
    task.learn_thresholds(torch.cat(found), np.array(said), np.array(denied))
