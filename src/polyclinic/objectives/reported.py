"""What was known when a report was written: a patient's records as they stood then, and nothing that says what it says.

report at T ──┬── records of its study, dated in the `study_h` hours before T or at T
              └── earlier ones, dated before that; earlier reports among them

Whatever a recipe asks for, there is no way to: the report itself, what is dated later (nor later events within a health record), any report
of the same study or of the hours of it, and what has no date. The batch that is given out does not hold them, so that no encoder,
fusion or decoder can look. Hours count from the report, so that a network knows an earlier record from one of the study.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..records.events import KIND
from ..schema import Batch, Modality, Ragged

AROUND = frozenset({Modality.TEXT, Modality.TABLE})
"""What accompanies a study and is none."""


@dataclass(frozen=True, slots=True)
class Reports:
    """When reports are written, and of whom.

    Args:
        patient: of each of s reports the number of its patient in the batch, ascending.
        at_h: hours from the patient's index time; NaN where nothing of the study has a date.
        studies: the uid of each one's study; None where it is not known.
    """

    patient: tuple[int, ...]
    at_h: tuple[float, ...]
    studies: tuple[str | None, ...]

    def or_else(self, due: Reports) -> Reports:
        """The same, but of what has no time another time of the same patient: `due` has one of each."""
        undated = [math.isnan(hour) for hour in self.at_h]
        pick = lambda mine, theirs: tuple(
            theirs[p] if n else m for m, p, n in zip(mine, self.patient, undated, strict=True)
        )
        return Reports(self.patient, pick(self.at_h, due.at_h), pick(self.studies, due.studies))


@dataclass(frozen=True, slots=True)
class Window:
    """What of a patient's records is shown.

    Args:
        study: the modalities of the study itself; text is none of them.
        earlier: those of earlier records; text stands for earlier reports.
        study_h: how many hours before its report a study begins.
    """

    study: frozenset[Modality]
    earlier: frozenset[Modality]
    study_h: float

    def shows(self, modality: Modality, when: float, at: float, same_study: bool) -> bool:
        """Whether a record of some hour is shown to who writes at another (NaN: nobody knows either)."""
        if math.isnan(at):
            return math.isnan(when) and modality in self.study - {Modality.TEXT}
        if math.isnan(when) or when > at:
            return False
        before = when < at - self.study_h
        if modality is Modality.TEXT:
            return before and not same_study and modality in self.earlier
        return modality in (self.earlier if before else self.study)


def dated(ragged: Ragged) -> list[float]:
    """Of each record the hours from the patient's index time; NaN where it has no date, or nobody knows."""
    return [math.nan] * len(ragged) if ragged.dated_h is None else ragged.dated_h.tolist()


def written(batch: Batch) -> tuple[Reports, Ragged | None]:
    """The batch's own dated notes as reports, and their words, each as of a patient of its own, at hour 0; None where there is none."""
    ragged = batch.payloads.get(Modality.TEXT)
    if ragged is None:
        return Reports((), (), ()), None
    hours = dated(ragged)
    rows = [i for i, hour in enumerate(hours) if not math.isnan(hour)]
    if not rows:
        return Reports((), (), ()), None
    own = [ragged.patient.tolist()[i] for i in rows]
    studies = [None if ragged.studies is None else ragged.studies[i] for i in rows]
    return Reports(tuple(own), tuple(hours[i] for i in rows), tuple(studies)), _given(
        ragged, rows, range(len(rows)), [0.0] * len(rows)
    )


def due(batch: Batch, study: Collection[Modality]) -> Reports:
    """The report that is to be written now of each patient: of the latest of their studies, at its hour.

    Who has no dated record of one is written of, of what has no date alone: nobody can tell what else was earlier.
    """
    latest, uids = [math.nan] * len(batch.patients), list[str | None]([None] * len(batch.patients))
    for modality, ragged in batch.payloads.items():
        if modality in AROUND or modality not in study:
            continue
        for i, (patient, hour) in enumerate(zip(ragged.patient.tolist(), dated(ragged), strict=True)):
            if hour >= latest[patient] or (math.isnan(latest[patient]) and not math.isnan(hour)):
                latest[patient], uids[patient] = hour, None if ragged.studies is None else ragged.studies[i]
    for patient, hour in _events_alone(batch, study, latest):
        latest[patient] = hour
    return Reports(tuple(range(len(batch.patients))), tuple(latest), tuple(uids))


def _events_alone(batch: Batch, study: Collection[Modality], latest: Sequence[float]) -> Iterator[tuple[int, float]]:
    """Of patients without a dated study the hour of the last event of their tables."""
    ragged = batch.payloads.get(Modality.TABLE)
    if ragged is None or Modality.TABLE not in study:
        return
    ends: dict[int, float] = {}
    for patient, hour, events in zip(ragged.patient.tolist(), dated(ragged), ragged.values, strict=True):
        if math.isnan(latest[patient]) and not math.isnan(hour):
            end = (
                hour + float(torch.nextafter(events[:, 2], events.new_tensor(math.inf)).max()) if len(events) else hour
            )
            ends[patient] = max(end, ends.get(patient, -math.inf))
    yield from ends.items()


def known(batch: Batch, reports: Reports, window: Window) -> Batch:
    """What is shown to who writes each of the reports: a batch with a report where there was a patient, hours counted from it.

    Args:
        batch: of any patients, with whatever of their records.
        reports: s of them, of these patients.
        window: which modalities of when.
    Returns:
        s "patients", one a report; who is shown nothing is there too.
    """
    payloads = {}
    for modality, ragged in batch.payloads.items():
        rows, whose, since, values = [], list[int](), list[float](), list[Tensor]()
        own, hours = ragged.patient.tolist(), dated(ragged)
        for n, (patient, at, study) in enumerate(zip(reports.patient, reports.at_h, reports.studies, strict=True)):
            for i in (i for i, p in enumerate(own) if p == patient):
                same = study is not None and ragged.studies is not None and ragged.studies[i] == study
                value = _shown(ragged, i, modality, hours[i], at, same, window)
                if value is None:
                    continue
                rows.append(i)
                whose.append(n)
                since.append(0.0 if math.isnan(at) else hours[i] - at)
                values.append(value)
        if rows:
            given = _given(ragged, rows, whose, since, len(reports.patient))
            payloads[modality] = replace(given, values=values) if modality is Modality.TABLE else given
    return Batch(payloads, {}, [batch.patients[p] for p in reports.patient])


def _shown(
    ragged: Ragged, i: int, modality: Modality, when: float, at: float, same: bool, window: Window
) -> Tensor | None:
    """A record's values as far as they are shown; None where they are not."""
    value = ragged.values[i]
    history = modality is Modality.TABLE and ragged.kinds is not None and ragged.kinds[i] == KIND
    if not history or math.isnan(at):
        return value if window.shows(modality, when, at, same) else None
    if math.isnan(when):
        return None
    # An hour in float32 may have been rounded down: what may have come after the report did. At hour 0 stands the first event, and
    # what has no time at all.
    hours = value[:, 2]
    end = when + torch.nextafter(hours, hours.new_tensor(math.inf)).double()
    before = when + hours.double() < at - window.study_h
    wanted = torch.where(before, modality in window.earlier, modality in window.study)
    kept = value[wanted & (end <= at) & (hours > 0)]
    return kept if len(kept) else None


def _given(
    ragged: Ragged, rows: Sequence[int], whose: Sequence[int], since: Sequence[float], patients: int | None = None
) -> Ragged:
    """Some of the records, any of them several times, of other patients and hours."""
    at = ragged.patient.device
    return replace(
        ragged.only(rows), patient=torch.tensor(list(whose), device=at), patients=len(rows) if patients is None else patients,
        time_h=torch.tensor(list(since), dtype=torch.float32, device=at),
        dated_h=torch.tensor(list(since), dtype=torch.float64, device=at),
    )  # fmt: skip


def of_the_study(shown: Batch, study_h: float) -> Batch:
    """Of what is shown, what is of the study itself and not earlier."""
    kept = {m: [i for i, hour in enumerate(dated(r)) if not hour < -study_h] for m, r in shown.payloads.items()}
    return Batch({m: r.only(kept[m]) for m, r in shown.payloads.items() if kept[m]}, {}, shown.patients)
