"""Reports of a cohort, and one report with what each of its sentences rests on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..adaptation.adapted import Adapted
from ..adaptation.plan import AdaptError
from ..adaptation.report import reports_of, shown_of, words_of
from ..harmonise.loader import Loader
from ..harmonise.text import spelled
from ..records.findings import read_findings
from ..schema import Batch, Modality, Payload, Record
from ..tasks import Answer, Claim, Predictions, ReportTask, Thing
from ..tasks.correctness import NAMES
from ..tasks.grounds import BLOCKS, drawn_on, region_of
from ..tasks.report import GROUND_NATS
from .places import outlines, thing_of


def written(
    adapted: Adapted, loader: Loader, patients: Sequence[str], reads: Sequence[Modality], earlier: bool = True
) -> Predictions:
    """Reports as outputs, the patients' own as targets; who has no own one, or of whom nothing is written, is not labelled.

    Where the decoder is shown earlier records, each is written as of the time of the patient's own report: what is dated later is not
    shown, and a report without a date is nobody's target. Without `earlier` it is shown the study alone.
    """
    task, reports, has = adapted.task, dict[str, str](), dict[str, tuple[Modality, ...]]()
    assert isinstance(task, ReportTask)
    shows, own = shown_of(task, reads), dict[str, Record | None]()
    patients = loader.readable(patients, (*shows, Modality.TEXT))  # of whom the own report, too
    for batch in loader.each(32, patients, shows):
        asked, found = reports_of(loader, batch.patients, task.spec.language)
        own |= dict(zip(batch.patients, found, strict=True))
        told = task.told(adapted.model, batch, asked, earlier)
        for number, numbers in task.write(adapted.model, batch, asked, earlier).items():
            reports[batch.patients[number]] = spelled(numbers.tolist(), task.fingerprint)
        owners = {m: set(ragged.patient.tolist()) for m, ragged in told.payloads.items()}
        has |= {p: tuple(m for m in owners if n in owners[m]) for n, p in enumerate(batch.patients)}
    counts = lambda r: r is not None and (r.time is not None or task.window is None)
    texts = lambda values: np.array([*values, None], dtype=object)[
        :-1
    ]  # None: an array of nothing but texts would be one of letters
    words = {p: "" if r is None else words_of(loader, task, r) for p, r in own.items()}
    patients = [p for p, text in words.items() if text is not None]  # who could be read, each time
    targets = texts(words[p] for p in patients)
    known = np.array([counts(own[p]) and p in reports for p in patients], dtype=bool)
    return Predictions(
        adapted.name,
        tuple(patients),
        texts(reports.get(p, "") for p in patients),
        targets,
        known,
        tuple(has[p] for p in patients),
    )


@torch.no_grad()
def present_report(adapted: Adapted, batch: Batch, used: tuple[Modality, ...], loader: Loader | None = None) -> Answer:
    """One patient's report with, a sentence, the part of the picture or volume that it rests on and what the picture says against it.

    Of a volume the parts that are cited are outlined on its file's grid; `extra` has `structures` then, and how many sentences cite each.

    Args:
        adapted: that writes.
        batch: of one patient.
        used: the modalities that were given.
        loader: of the patient's records, by which a part's place on its file is told.
    Raises:
        AdaptError: records from which the run's decoder does not write.
    """
    task, model = adapted.task, adapted.model
    assert isinstance(task, ReportTask)
    told = task.told(model, batch)
    numbers = task.write(model, batch).get(0)
    if numbers is None:
        raise AdaptError(
            f"records of {', '.join(used)}, from which this run does not write",
            "those that it learned to write from" + ("" if task.window is None else ", of the study, dated"),
            "give one",
        )
    ends = sentence_ends(numbers, task)
    grounds = task.grounds(model, told, numbers, ends)
    margins = task.margins(model, told)[0]
    claims = []
    for n, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        text = spelled(numbers[start:end].tolist(), task.fingerprint)
        said = {m.finding: m.status for m in read_findings(text, task.language).mentions}
        part, nats = max(grounds[n].items(), key=lambda item: item[1]) if grounds and said else (None, 0.0)
        cited = part if nats >= GROUND_NATS else None
        place = None if cited is None or loader is None else _place(task, told, cited, nats, loader)
        claims.append(Claim(text, said, cited, round(nats, 2), task.against(said, margins), place))
    report = " ".join(c.text for c in claims)
    values = {"sentences": len(claims), "against the picture": sum(bool(c.against) for c in claims), "report": report}
    extra = {"claims": tuple(claims), "notes": _notes(task, grounds is not None), "shown": _ids(told)}
    overlay, more = (None, {}) if loader is None else _outlined(task, told, claims, loader)
    shows = tuple(m for m in used if m in told.payloads)
    return Answer(report or "nothing was written", values, shows, overlay, {**extra, **more})


def _ids(told: Batch) -> tuple[str, ...]:
    """The records that were shown."""
    return tuple(i for ragged in told.payloads.values() for i in ragged.ids)


def _of(task: ReportTask, told: Batch, modality: Modality, loader: Loader) -> tuple[Payload, Sequence[int], str]:
    """The study's one image or volume as it was harmonised, the shape of what is shown of it, and its record's id."""
    ragged, row = told.payloads[modality], task.pictures(told)[modality]
    records = [r for by in loader.by_patient.values() for r in by.get(modality, []) if r.id == ragged.ids[row]]
    return loader.payload(records[0]), ragged.values[row].shape[1:], ragged.ids[row]


def _place(task: ReportTask, told: Batch, part: str, nats: float, loader: Loader) -> Thing | None:
    """Where a part lies on its file; None where it lies beyond that."""
    payload, shape, _ = _of(task, told, drawn_on(part), loader)
    # Of a volume that is read a box at a time the box in the middle is seen.
    start = [(n - b) // 2 for n, b in zip(payload.array.shape[1:], shape, strict=True)]
    spans = list(zip(region_of(part, shape), start, strict=True))
    low, high = (np.array([getattr(span, end) + s - 0.5 for span, s in spans]) for end in ("start", "stop"))
    return thing_of(part, round(nats, 2), low, high, payload)


def _outlined(
    task: ReportTask, told: Batch, claims: Sequence[Claim], loader: Loader
) -> tuple[np.ndarray | None, dict[str, object]]:
    """Outlines of the parts of the volume that sentences cite, whose record that is, and how often each is cited."""
    cited = {c.part: c.place for c in claims if c.place is not None and c.part in BLOCKS}
    if not cited:
        return None, {}
    payload, _, record = _of(task, told, Modality.VOLUME, loader)
    drawn = outlines(
        [place for place in cited.values() if place], [str(part) for part in cited], payload.history[0].shape
    )
    times = {f"{part}_sentences": sum(c.part == part for c in claims) for part in cited}
    return drawn, {"record": record, "structures": times}


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
