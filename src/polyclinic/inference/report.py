"""Reports of a cohort, and one report with what each of its sentences rests on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..adaptation.adapted import Adapted
from ..adaptation.plan import AdaptError
from ..adaptation.report import reference, reference_text, shown_of
from ..harmonise.loader import Loader
from ..harmonise.text import spelled
from ..records.findings import read_findings
from ..schema import Batch, Modality
from ..tasks import Answer, Claim, Predictions, ReportTask
from ..tasks.correctness import NAMES
from ..tasks.report import GROUND_NATS


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
