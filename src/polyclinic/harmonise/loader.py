"""The loader: records → `Batch`es. A training batch is a function of (seed, step) and nothing else."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import torch

from ..cohort.catalogue import inputs, signatures
from ..cohort.labels import Label, check_column, labels_of
from ..cohort.mixture import Mixture, Part
from ..cohort.sampling import Harder, Sampler
from ..cohort.sampling import rarity as rarities
from ..schema import Batch, Modality, Payload, Record, Target
from . import harmonise, table
from .cache import Cache
from .drawings import Drawings, records_of
from .fingerprint import Fingerprint
from .ragged import Box, ragged_of
from .unread import Unread, UnreadRecordError, check, noted, reading

ABOUT = 1 / 3
"""How often a box of training is drawn about a structure: most of a large volume has none (Isensee et al. 2021, nnU-Net)."""


class Loader:
    """Hands out batches of harmonised payloads and targets.

    Args:
        records: of the patients, masks among them.
        patients: who is drawn.
        standards: what each encoder wants; a modality without one is not loaded.
        fingerprint: of the training patients.
        load: record → source payload.
        labels: what the tasks ask.
        cache: shared with other loaders of the run.
        batch: patients a training batch.
        seed: of the draws.
        most: records a patient and modality in a training batch; None for all.
        temperature: of the sampler.
        site_temperature: of the sampler, over sites.
        rare: a table's column; patients with a rare cell of it are drawn more often, by its rarity ** `rarity`.
        rarity: 0 draws all cells' patients alike, 1 draws cells evenly.
        harder, rank, world: of the sampler.
        mixture: parts that training batches are drawn from in their shares, instead of all patients alike; without `harder`.
        unread: where it is noted who was set aside, by the record that could not be read.
    """

    def __init__(
        self,
        records: Sequence[Record],
        patients: Sequence[str],
        standards: Mapping[Modality, Any],
        fingerprint: Fingerprint,
        load: Callable[[Record], Payload],
        labels: Sequence[Label] = (),
        cache: Cache | None = None,
        batch: int = 16,
        seed: int = 0,
        most: int | None = 2,
        temperature: float = 0.5,
        site_temperature: float = 1.0,
        rare: str | None = None,
        rarity: float = 0.5,
        harder: Harder | None = None,
        rank: int = 0,
        world: int = 1,
        mixture: Sequence[Part] = (),
        unread: dict[str, Unread] | None = None,
    ) -> None:
        self.standards, self.fingerprint, self.load = dict(standards), fingerprint, load
        self.cache, self.seed, self.most = cache or Cache(), seed, most
        self.unread: dict[str, Unread] = {} if unread is None else unread
        self.gone = dict[str, Unread]()  # patient → the first record; of this loader, and of it as it stood earlier
        chosen = set(patients)
        mine = [r for r in inputs(records) if r.modality in self.standards and r.patient in chosen]
        self.by_patient: dict[str, dict[Modality, list[Record]]] = {}
        start: dict[str, datetime] = {}
        for record in sorted(mine, key=lambda r: (r.patient, r.time or datetime.min, r.id)):
            self.by_patient.setdefault(record.patient, {}).setdefault(record.modality, []).append(record)
            if record.time:
                start.setdefault(record.patient, record.time)
        self.start, self.until = start, dict[str, datetime]()
        self._then: dict[str, list[Loader]] = {}
        self.begun = {label.task: label.landmarks.begun(records, start) for label in labels if label.landmarks}
        self.patients = [p for p in patients if p in self.by_patient]
        self.labels = list(labels)
        self.answers = {label.task: labels_of(records, label) for label in labels}
        self.drawings = Drawings(load, self.standards, fingerprint, self.cache)
        kept = {p: s for p, s in signatures(mine).items() if p in set(self.patients)}
        sites = {r.patient: r.site for r in reversed(mine) if r.site and r.patient in kept}
        weights = rarities(_cells(records, rare, kept), rarity) if rare else None
        sampled = lambda groups: Sampler(
            groups, batch, seed, temperature, sites=sites, site_temperature=site_temperature, weights=weights,
            harder=harder, rank=rank, world=world,
        )  # fmt: skip
        self.sampler = Mixture(mixture, kept, sampled) if mixture else sampled(kept)

    def batch(self, step: int) -> Batch:
        """The training batch of one step."""
        return self.batches(step, 1)[0]

    def batches(self, step: int, count: int) -> list[Batch]:
        """The same patients and records in so many batches, as equal as can be.

        For a patient of whom a drawn record cannot be read the next one in order stands in: a function of the files, too.

        Raises:
            UnreadError: nearly nobody can be read.
        """
        who, out = list(self.sampler.batch(step)), set[str]()
        while True:
            random = np.random.default_rng([self.seed, step, 1])
            try:
                return [self._assemble(part.tolist(), None, random) for part in np.array_split(who, count)]
            except UnreadRecordError as error:
                self.note(error.aside)
                check(len(self.patients), self.gone.values())
                out.add(error.aside.patient)
                who = self._stood_in(who, error.aside.patient, out)

    def _stood_in(self, who: list[str], gone: str, out: Collection[str]) -> list[str]:
        """The patients of a batch with another for one who cannot be read; without, where every other is in it."""
        start = self.patients.index(gone)
        others = (p for p in (*self.patients[start + 1 :], *self.patients[:start]) if p not in out and p not in who)
        other = next(others, None)
        return sorted(p for p in (*who, other) if p not in (gone, None))

    def each(
        self, size: int = 32, patients: Sequence[str] | None = None, modalities: Sequence[Modality] | None = None,
        whole: bool = False,
    ) -> Iterator[Batch]:  # fmt: skip
        """Every patient once, with all records, in the order given; who cannot be read is left out and noted in `unread`.

        Args:
            size: patients a batch.
            patients: who; by default all of the loader's.
            modalities: what may be seen of them; by default everything. A patient left with nothing still comes.
            whole: give volumes that are read a box at a time whole, with their masks; else the box in the middle.
        Raises:
            UnreadError: when all were tried, and nearly nobody could be read.
        """
        who = [p for p in (self.patients if patients is None else patients) if p in self.by_patient]
        aside = list[Unread]()
        for start in range(0, len(who), size):
            batch, unread = self.parted(who[start : start + size], modalities, whole)
            for one in unread:
                self.note(one)
            aside += unread
            if batch is not None:
                yield batch
        self.cache.flush()
        check(len(who), aside)

    def parted(
        self, patients: Sequence[str], modalities: Sequence[Modality] | None = None, whole: bool = False, seed: int | None = None
    ) -> tuple[Batch | None, list[Unread]]:  # fmt: skip
        """One batch of those patients who can be read, None without any, and the others; arguments as `each`'s and `of`'s."""
        who, aside = list(patients), list[Unread]()
        while who:
            random = None if seed is None else np.random.default_rng([self.seed, seed, 2])
            try:
                return self._assemble(who, modalities, random, whole), aside
            except UnreadRecordError as error:  # the others' records are kept: to begin again is cheap
                aside.append(error.aside)
                who.remove(error.aside.patient)
        return None, aside

    def readable(self, patients: Sequence[str], modalities: Sequence[Modality] | None = None) -> list[str]:
        """Those who can be read, and what was drawn on their records too; the others are noted in `unread`.

        Raises:
            UnreadError: nearly nobody can be.
        """
        return [p for batch in self.each(1, patients, modalities, whole=True) for p in batch.patients]

    def note(self, one: Unread) -> None:
        """Keep who was set aside."""
        noted(self.unread, one)
        self.gone.setdefault(one.patient, one)

    def aside(self, patients: Collection[str]) -> tuple[Unread, ...]:
        """Whoever of them this loader set aside, and why."""
        return tuple(one for patient, one in self.gone.items() if patient in patients)

    def left(self, patients: Sequence[str]) -> list[str]:
        """Whoever of them it did not."""
        return [p for p in patients if p not in self.gone]

    def drawn(
        self, patients: Sequence[str], modalities: Sequence[Modality], seed: int, among: Sequence[str]
    ) -> Batch:  # fmt: skip
        """A batch as `of`, of those who can still be read; who no longer can is noted, and left out from then on.

        Args:
            patients, modalities, seed: as `of`'s.
            among: whom all batches are drawn from.
        Raises:
            UnreadError: nearly nobody of them can be read any more.
        """
        batch, unread = self.parted(self.left(patients), modalities, seed=seed)
        for one in unread:
            self.note(one)
        if unread:
            check(len(among), self.aside(set(among)))
        return batch or self.of([], modalities)

    def of(
        self, patients: Sequence[str], modalities: Sequence[Modality] | None = None, seed: int | None = None, whole: bool = False
    ) -> Batch:  # fmt: skip
        """One batch of just these patients: all their records, or at most `most` a modality drawn by `seed`; `whole` as `each`'s.

        Raises:
            PolyclinicError, OSError: one of them cannot be read.
        """
        random = None if seed is None else np.random.default_rng([self.seed, seed, 2])
        try:
            return self._assemble(list(patients), modalities, random, whole)
        except UnreadRecordError as error:
            raise error.__cause__ or error from None

    def label(self, task: str) -> Label:
        """What a task asks."""
        return next(label for label in self.labels if label.task == task)

    def labelled(self, task: str) -> dict[str, Any]:
        """What is known of the loader's patients: patient → class, grade or (time, event); of a mask or points that there are some, 0;
        of boxes whether anything was drawn, 0 or 1 (a mask that they are made of may be empty all the same)."""
        answers, mine = self.answers[task], set(self.patients)
        label = self.label(task)
        if not label.placed:
            return {p: v for p, v in answers.items() if p in mine}
        found: dict[str, int] = {}
        for drawn in (d for of in answers.values() for d in records_of(of) if d.patient in mine):
            there = int(label.kind == "boxes" and drawn.attributes.get("shapes") != 0)
            found[drawn.patient] = max(there, found.get(drawn.patient, 0))
        return found

    def before(self, until: Mapping[str, datetime], undated: bool = False) -> Loader:
        """The same, as it stood at a moment of each patient: what is dated later is not there, nor are later events within a record.

        A record counts by when it begins. A patient left with nothing still comes.

        Args:
            until: patient → the last moment that is read; of others nothing dated is.
            undated: keep what has no date, which may be of any time.
        """
        known = lambda r: undated if r.time is None else r.patient in until and r.time <= until[r.patient]
        then = copy.copy(self)
        then._then = {}
        then.until = {p: until.get(p, datetime.min) for p in self.by_patient}
        then.by_patient = {
            patient: {m: kept for m, records in by.items() if (kept := [r for r in records if known(r)])}
            for patient, by in self.by_patient.items()
        }
        return then

    def landmarks(self, task: str) -> list[Loader]:
        """This, or one for each landmark at which a task is asked: with what was known then, of the patients still at risk.

        What is known of them counts from the landmark.
        """
        marks = self.label(task).landmarks
        if marks is None:
            return [self]
        if task in self._then:
            return self._then[task]
        found = self._then[task] = []
        for number in range(len(marks.times)):
            then = self.before(marks.cutoffs(number, self.begun[task]), marks.undated)
            then.answers = {**self.answers, task: marks.asked(number, self.answers[task])}
            found.append(then)
        return found

    def subset(self, task: str, n: int | None, seed: int) -> tuple[str, ...]:
        """The first n patients of whom its answer is known, see `cohort.subset`."""
        return self.label(task).subset(self.labelled(task), n, seed)

    def only(self, task: str, patients: Sequence[str]) -> None:
        """Forget what is known of everybody else: the few labels of a few-label comparison."""
        kept = set(patients)
        self._then.pop(task, None)
        placed = self.label(task).placed
        whose = lambda name, answer: records_of(answer)[0].patient if placed else name
        self.answers[task] = {n: answer for n, answer in self.answers[task].items() if whose(n, answer) in kept}

    def source(self, record: Record) -> Payload:
        """A record as it was; of a history what was known until the patient's landmark."""
        if record.modality is Modality.TABLE and record.patient in self.until:
            return table.earlier(self.load(record), self._hours(record))
        return self.load(record)

    def _hours(self, record: Record) -> float:
        """From a record's time to its patient's landmark."""
        return (self.until[record.patient] - record.time).total_seconds() / 3600 if record.time else 0.0

    def payload(self, record: Record) -> Payload:
        """The harmonised payload of a record."""
        standard = self.standards[record.modality]
        told = record.kind + self.fingerprint.decides(record, standard)
        make = lambda: harmonise(self.source(record), record, standard, self.fingerprint)
        if record.modality is Modality.TABLE and record.patient in self.until:  # a history, whose events have hours
            told += f" to {self._hours(record)!r} h"
        return self.cache.get(record.id, standard, told, make)

    def _read(self, record: Record) -> Payload:
        with reading(record):
            return self.payload(record)

    def _assemble(
        self, patients: list[str], modalities: Sequence[Modality] | None, random: np.random.Generator | None, whole: bool = False
    ) -> Batch:  # fmt: skip
        chosen: dict[Modality, list[tuple[int, Record]]] = {}
        for number, patient in enumerate(patients):
            for modality, records in self.by_patient[patient].items():
                if modalities is not None and modality not in modalities:
                    continue
                if random is not None and self.most is not None and len(records) > self.most:
                    picked = np.sort(random.choice(len(records), self.most, replace=False))
                    records = [records[i] for i in picked]
                chosen.setdefault(modality, []).extend((number, r) for r in records)
        payloads, kept, boxes = {}, {}, dict[str, Box]()
        for modality in (m for m in Modality if m in chosen):
            # A table whose every code is unknown has no events: it is not a record of this batch.
            pairs = [(n, r, p) for n, r in chosen[modality] if (p := self._read(r)).array.size]
            if pairs:
                if not whole and (size := getattr(self.standards[modality], "box", None)) is not None:
                    boxes |= {r.id: self._box(r, p, size, random) for _, r, p in pairs}
                payloads[modality] = ragged_of(modality, pairs, len(patients), self.hours, boxes)
                kept[modality] = pairs
        targets = {label.task: self._target(label, patients, kept, boxes) for label in self.labels}
        return Batch(payloads, targets, list(patients))

    def _box(self, record: Record, payload: Payload, size: Sequence[int], random: np.random.Generator | None) -> Box:
        """What of a whole volume is seen: the middle, or a random box, every third about a structure where there is a mask."""
        shape = payload.array.shape[1:]
        start = [(n - b) // 2 for n, b in zip(shape, size, strict=True)]
        if random is not None:
            start = [int(random.integers(n - b + 1)) for n, b in zip(shape, size, strict=True)]
            drawn = [label for label in self.labels if label.placed and record.id in self.answers[label.task]]
            if drawn and random.random() < ABOUT:
                label = drawn[int(random.integers(len(drawn)))]
                places = self.drawings.places(label, self.answers[label.task][record.id], record, payload)
                if len(places):
                    about = places[int(random.integers(len(places)))].tolist()
                    start = [min(max(0, a - b // 2), n - b) for a, b, n in zip(about, size, shape, strict=True)]
        return tuple(slice(s, s + b) for s, b in zip(start, size, strict=True))

    def hours(self, record: Record) -> float:
        """From the patient's index time; NaN of a record without a date."""
        # By difference, not by the machine's own clock, which knows summers and a zone.
        return (record.time - self.start[record.patient]).total_seconds() / 3600 if record.time else math.nan

    def _target(
        self, label: Label, patients: list[str], kept: Mapping[Modality, list[tuple[int, Record, Payload]]], boxes: Mapping[str, Box]
    ) -> Target:  # fmt: skip
        answers = self.answers[label.task]
        if label.placed:
            return self.drawings.target(label, answers, kept.get(label.modality or Modality.VOLUME, []), boxes)
        values = torch.zeros(len(patients), label.width)
        for number, patient in enumerate(patients):
            if patient in answers:
                values[number] = torch.tensor(answers[patient], dtype=torch.float32)
        return Target(
            values.squeeze(1) if label.width == 1 else values,
            torch.tensor([p in answers for p in patients], dtype=torch.bool),
        )


def _cells(records: Sequence[Record], column: str, patients: Collection[str]) -> dict[str, str]:
    """Each patient's cell of a column; of several the one that the fewest records have."""
    check_column(records, column, "a stage's `rare`")
    found = [
        (r.patient, str(c)) for r in records if r.patient in patients and (c := r.attributes.get(column)) is not None
    ]
    often = Counter(cell for _, cell in found)
    return dict(sorted(found, key=lambda pair: (-often[pair[1]], pair[1], pair[0])))
