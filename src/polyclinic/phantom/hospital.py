"""The whole hospital: patients in parallel, the tables of many patients, and the truth apart from all that is ingested."""

from __future__ import annotations

import csv
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ..schema import PolyclinicError
from .omics import gene_names
from .patient import EPOCH, EXPRESSION, FOLDERS, MODALITIES, ON_REQUEST, Written, write
from .people import name_of
from .sites import SITES
from .truth import Truth

Progress = Callable[[int, int, str], None]
"""Called with done, all and what is being done."""

TOGETHER = 8
"""Patients a task of a worker."""
_OUTCOMES = ("patient_id", "site", "admitted", "treated", "survival_months", "died")
_DIAGNOSES = ("pneumonia", "nodule", "malignant", "effusion", "emphysema", "heart_failure", "fibrillation", "infarct")
_REGISTER = ("patient_id", "site", "date", "age", "sex", *_DIAGNOSES)


class PhantomError(PolyclinicError):
    """A hospital that cannot be made as it was asked for."""


@dataclass(slots=True)
class Phantom:
    """What was made.

    Args:
        hospital: the folder to ingest.
        truth: the folder that no model may see.
        patients: how many.
        records: modality → how many records the hospital has; masks apart.
    """

    hospital: Path
    truth: Path
    patients: int
    records: dict[str, int] = field(default_factory=dict)


def simulate(
    into: str | Path, patients: int = 1000, *, seed: int = 0, modalities: Sequence[str] | None = None, size: int = 64,
    workers: int = 1, progress: Progress | None = None,
) -> Phantom:  # fmt: skip
    """Make a hospital whose truth is known: `into/hospital` to ingest, `into/truth` to hold answers against.

    Patient i of a seed is the same to the bit whatever the number of patients, the modalities and the workers. Nothing
    learned from it is clinical evidence.

    Args:
        into: a folder that is not there yet; it appears when all is done.
        patients: how many.
        seed: of everything.
        modalities: of `MODALITIES`, all if None, and of `ON_REQUEST` ("earlier_report", of the earlier radiograph). The tables of
            outcomes and diagnoses are always there.
        size: voxels a side of the CT, even; the radiograph has twice as many, the MR half as many slices.
        workers: processes. More than one needs a program whose main module can be imported (multiprocessing's rule).
        progress: called with done, all, patient.
    Raises:
        PhantomError: the folder is there, or an argument is out of its range.
    """
    out, chosen = Path(into), tuple(modalities if modalities is not None else MODALITIES)
    _check(out, patients, seed, chosen, size)
    beside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    (beside / "truth").mkdir(parents=True)
    made = Phantom(out / "hospital", out / "truth", patients)
    try:
        task = partial(_write_some, seed=seed, size=size, modalities=chosen, beside=beside)
        parts = [range(start, min(start + TOGETHER, patients)) for start in range(0, patients, TOGETHER)]
        with _pool(workers) as each, Tables(beside / "hospital") as tables, Truth(beside / "truth", seed) as truth:
            for part in each(task, parts):
                truth.add(part)
                tables.add(part)
                if progress:
                    progress(part[-1].index + 1, patients, name_of(part[-1].index))
        made.records = dict(tables.counted)
        beside.replace(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return made


def _check(out: Path, patients: int, seed: int, modalities: Sequence[str], size: int) -> None:
    if out.exists():
        raise PhantomError(f"something at {out}", "a folder that is not there yet", "choose another name, or remove it")
    if unknown := sorted(set(modalities) - {*MODALITIES, *ON_REQUEST}):
        raise PhantomError(
            f"the modality {unknown[0]!r}", f"one of {', '.join((*MODALITIES, *ON_REQUEST))}", "correct the name"
        )
    if size % 2 or not 16 <= size <= 512:
        raise PhantomError(f"a size of {size}", "an even number from 16 to 512", "choose such a size")
    if not 1 <= patients <= 1_000_000:
        raise PhantomError(f"{patients} patients", "1 to a million: their numbers have six digits", "choose fewer")
    if seed < 0:
        raise PhantomError(f"a seed of {seed}", "0 or more", "choose such a seed")


def _write_some(indices: Sequence[int], seed: int, size: int, modalities: Sequence[str], beside: Path) -> list[Written]:
    return [write(index, seed, size, modalities, beside / "hospital", beside / "truth") for index in indices]


@contextmanager
def _pool(workers: int) -> Iterator[Any]:
    """`map`, or that of a pool of processes, in order either way."""
    if workers == 1:
        yield map
        return
    spawn = get_context("spawn")
    with ProcessPoolExecutor(
        workers, mp_context=spawn, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
    ) as pool:
        try:
            yield pool.map
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class Tables:
    """The hospital's tables of many patients, written as they come: outcomes, the register of diagnoses, one of genes a site."""

    def __init__(self, hospital: Path) -> None:
        self.hospital, self.counted = hospital, Counter[str]()
        self._files: dict[str, Any] = {}

    def __enter__(self) -> Tables:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def add(self, part: Sequence[Written]) -> None:
        """The rows of some patients."""
        for one in part:
            who, name = one.person, name_of(one.index)
            site = SITES[who["site"]].name
            day = f"{EPOCH + timedelta(days=who['admitted']):%Y-%m-%d}"
            self._row(
                "outcomes.csv",
                _OUTCOMES,
                [name, site, day, int(who["treatment"]), f"{who['months']:.2f}", int(who["died"])],
            )
            # A diagnosis that nobody coded is not known, which is not the same as no.
            coded = ["NY"[who[d]] if who["coded"] else "" for d in _DIAGNOSES]
            self._row("register.csv", _REGISTER, [name, site, day, f"{who['age']:.1f}", "FM"[who["sex"]], *coded])
            self.counted["table"] += 2
            if one.counts is not None:
                self._row(
                    EXPRESSION.format(FOLDERS[who["site"]]),
                    ("patient_id", "site", *gene_names()),
                    [name, site, *one.counts.tolist()],
                )
            for modality, kind, _ in one.files:
                self.counted["mask" if kind == "mask" else modality] += 1

    def _row(self, place: str, header: Sequence[str], cells: Sequence[object]) -> None:
        if place not in self._files:
            path = self.hospital / place
            path.parent.mkdir(parents=True, exist_ok=True)
            self._files[place] = path.open("w", newline="", encoding="utf-8")
            csv.writer(self._files[place], lineterminator="\n").writerow(header)
        csv.writer(self._files[place], lineterminator="\n").writerow(cells)
