"""Answers about a whole cohort, in files: of any number of patients, with the reason where there is no answer, and where each came from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch

from ..adaptation.adapted import Adapted, open_adapted
from ..cohort import Cohort
from ..harmonise import way_back
from ..harmonise.loader import Loader
from ..schema import Batch, Modality, PolyclinicError
from ..tasks import (
    Answer,
    DetectionTask,
    HazardsTask,
    KeypointsTask,
    LinearTask,
    PlacedFields,
    ReportTask,
    SegmentationTask,
)
from ..tokens import frozen
from ..training import Run
from ..training.run import file_hash, versions, write_json
from .chunks import CHUNK, Progress, over
from .places import names_of, numbers, present
from .predict import allowed, said
from .report import present_report

SCHEMA = pa.schema(
    [
        ("patient", pa.string()), ("record", pa.string()), ("task", pa.string()), ("headline", pa.string()),
        ("values", pa.map_(pa.string(), pa.string())), ("output", pa.float64()),
        ("outputs", pa.list_(pa.float64())), ("modalities", pa.list_(pa.string())),
        ("records", pa.list_(pa.string())), ("why_not", pa.string()),
    ]
)  # fmt: skip
"""A row a patient; of what lies on a record, a row a record. `output` is the probability or the log hazard, `outputs` the probability of
each grade where there are several, of each event by the end of each interval, and of boxes and points `places.numbers`; `why_not` says
why there is neither."""


def answer_cohort(
    run: Run | str | Path, cohort: Cohort | str | Path | None = None, *, where: str | None = None, patients: Sequence[str] | None = None,
    modalities: Sequence[Modality | str] | None = None, into: str | Path | None = None, engine: Literal["processes", "ray"] = "processes",
    workers: int = 1, progress: Progress | None = None, landmark: float | None = None,
) -> Path:  # fmt: skip
    """Answer about every patient of a catalogue; interrupted, the same call goes on.

    A patient of whom a record cannot be read, or who has nothing that the run reads, gets a row that says so; the others go on.

    Args:
        run: adapted, or its folder.
        cohort: any catalogue whose records the run can read, not only that of its training; by default where that lay.
        where: a DuckDB condition on the records that may be read; by default all.
        patients: who; by default all.
        modalities: what may be seen of them; by default all that the run reads.
        into: the folder of files; by default `answers` in the run's.
        engine, workers: who does it: this process, several, or a Ray cluster.
        progress: called with done, all, what.
        landmark: of a task with landmarks, at which one, from what was dated until then; by default the first.
    Returns:
        the folder: `answers-00000.parquet` … with the columns of `SCHEMA`, and `lineage.json`.
    Raises:
        AdaptError: the run is not adapted, or does not read a modality.
        EmptyCohortError: nobody is admitted.
    """
    adapted = open_adapted(run).at(landmark)
    catalogue = cohort if isinstance(cohort, Cohort) else adapted.run.cohort(cohort)
    reads = allowed(adapted, modalities)
    who = sorted(set(patients)) if patients is not None else catalogue.patients(where)
    place = Path(into) if into is not None else adapted.run.path / "answers"
    lineage = {
        "run": str(adapted.run.path), "backbone": file_hash(adapted.run.weights), "adapter": _adapter(adapted.run), "task": adapted.name,
        "split": adapted.run.split.hash, "modalities": [m.value for m in reads], "cohort": str(catalogue.path), "where": where,
        "versions": versions(), **({} if landmark is None else {"landmark": landmark}),
    }  # fmt: skip
    make = partial(_answers, str(adapted.run.path), lineage["adapter"], catalogue.path, where, tuple(reads), landmark)
    over(make, who, place, lineage, name="answers", kind=engine, workers=workers, size=CHUNK, progress=progress)
    write_json(place / "lineage.json", lineage)
    return place


def _adapter(run: Run) -> str:
    return file_hash(run.path / "adapter.safetensors")


@lru_cache(maxsize=1)
def _opened(run: str, adapter: str) -> Adapted:
    """An adapted run with these weights, once in each process."""
    return open_adapted(run)


def _answers(
    run: str, adapter: str, cohort: Path, where: str | None, reads: tuple[Modality, ...], landmark: float | None, who: tuple[str, ...]
) -> pa.Table:  # fmt: skip
    """The rows of some patients."""
    adapted, catalogue = _opened(run, adapter).at(landmark), Cohort.open(cohort)
    found, task = catalogue.records(where, who), adapted.task
    loader = Loader(found, who, adapted.run.recipe.standards(), adapted.run.fingerprint, catalogue.load, most=None)
    if isinstance(task, HazardsTask) and (marks := task.spec.landmarks_of()):
        loader = loader.before(marks.cutoffs(task.landmark, marks.begun(found, loader.start)), marks.undated)
    there = [p for p in loader.patients if set(reads) & set(loader.by_patient[p])]
    nothing = "nothing that the run reads: " + ", ".join(reads)
    rows = [_none(adapted, p, nothing) for p in who if p not in set(there)]
    with torch.no_grad(), frozen(adapted.model, adapted.task):
        size = adapted.together(32)
        for start in range(0, len(there), size):
            rows += _batch(adapted, loader, there[start : start + size], reads)
    rows.sort(key=lambda row: (row["patient"], row["record"] or ""))
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _batch(adapted: Adapted, loader: Loader, who: list[str], reads: Sequence[Modality]) -> list[dict[str, Any]]:
    """The rows of some patients together: of those who can be read their answers, of the others why not."""
    batch, unread = loader.parted(who, reads, whole=isinstance(adapted.task.spec, PlacedFields))
    rows = [_none(adapted, one.patient, one.why) for one in unread]
    if batch is None:
        return rows
    try:
        return rows + list(_rows(adapted, loader, batch))
    except PolyclinicError as error:  # the task's own, of one of them
        if len(batch.patients) == 1:
            return [*rows, _none(adapted, batch.patients[0], f"{error.found}; expected {error.expected}")]
        return rows + [row for p in batch.patients for row in _batch(adapted, loader, [p], reads)]


def _rows(adapted: Adapted, loader: Loader, batch: Batch) -> Iterator[dict[str, Any]]:
    ids = {m: list(zip(r.patient.tolist(), r.ids, strict=True)) for m, r in batch.payloads.items()}
    used = [tuple(m for m in ids if any(p == n for p, _ in ids[m])) for n in range(len(batch.patients))]
    read = [[i for m in ids for p, i in ids[m] if p == n] for n in range(len(batch.patients))]
    if isinstance(adapted.task.spec, PlacedFields):
        yield from _placed(adapted, loader, batch, used)
        return
    if isinstance(adapted.task, ReportTask):
        answer = present_report(adapted, batch, used[0], loader)
        yield _row(adapted, batch.patients[0], answer, records=answer.extra["shown"])
        return
    assert isinstance(adapted.task, LinearTask)
    outputs, there = said(adapted, batch)
    told, present = adapted.task.answer(outputs).tolist(), there.tolist()
    for n, patient in enumerate(batch.patients):
        if not present[n] or not used[n]:
            yield _none(adapted, patient, "records of which the model knows nothing")
            continue
        yield _row(adapted, patient, adapted.task.present(told[n], used[n]), told[n], records=read[n])


def _placed(
    adapted: Adapted, loader: Loader, batch: Batch, used: list[tuple[Modality, ...]]
) -> Iterator[dict[str, Any]]:
    """A row a record that is segmented or searched: how much of it each structure takes, or what lies where, on the source's grid."""
    task = adapted.task
    modality = Modality(task.spec.modality)
    owners = batch.payloads[modality].patient.tolist() if modality in batch.payloads else []
    yield from (_none(adapted, p, f"no {modality} to look at") for n, p in enumerate(batch.patients) if n not in owners)
    if not owners:
        return
    by_id = {r.id: r for p in batch.patients for r in loader.by_patient[p].get(modality, [])}
    assert isinstance(task, DetectionTask | KeypointsTask | SegmentationTask)
    masks = isinstance(task, SegmentationTask)
    found: list[Any] = task.masks(adapted.model, batch) if masks else task.found(adapted.model, batch)
    for owner, name, one in zip(owners, batch.payloads[modality].ids, found, strict=True):
        payload, record = loader.payload(by_id[name]), by_id[name]
        output: list[float] = []
        if isinstance(task, SegmentationTask):
            source = payload.history[-1].to_world
            voxel = (
                None
                if payload.nominal or source is None
                else abs(float(np.linalg.det(np.array(source)[:3, :3]))) / 1000
            )
            size = voxel if modality is Modality.VOLUME else None
            answer = task.present(way_back(one.numpy(), payload.history), size, used[owner])
        else:
            answer = present(task, one, payload, used[owner])
            output = numbers(answer.extra["things"], names_of(task))
        yield _row(adapted, batch.patients[owner], answer, output, record=record.id, records=[record.id])


def _row(
    adapted: Adapted, patient: str, answer: Answer, output: float | Sequence[float] = (), record: str | None = None,
    records: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    return {
        "patient": patient, "record": record, "task": adapted.name, "headline": answer.headline, "why_not": None, **_outputs(output),
        "values": [(k, str(v)) for k, v in answer.values.items()], "modalities": [m.value for m in answer.used], "records": list(records),
    }  # fmt: skip


def _outputs(output: float | Sequence[float]) -> dict[str, Any]:
    """One number, or several; of hazards each event's, one event after the other."""
    if isinstance(output, int | float):
        return {"output": output, "outputs": None}
    return {"output": None, "outputs": np.ravel(output).tolist() or None}


def _none(adapted: Adapted, patient: str, why: str) -> dict[str, Any]:
    """The row of a patient without an answer."""
    return {
        "patient": patient, "record": None, "task": adapted.name, "headline": None, "why_not": why, **_outputs(()), "values": [],
        "modalities": [], "records": [],
    }  # fmt: skip
