"""Answers: of a cohort, for evidence; of a handful of files, for a person."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import records
from ..adaptation.adapted import Adapted, open_adapted
from ..adaptation.plan import AdaptError
from ..cohort import Cohort, Label
from ..harmonise import way_back
from ..harmonise.loader import Loader
from ..records import RecordError
from ..records.raster import luminance
from ..schema import Batch, Modality, Payload, Record, Rejected
from ..tasks import (
    Answer,
    DetectionTask,
    HazardsTask,
    KeypointsTask,
    LinearTask,
    PlacedFields,
    Predictions,
    ReportTask,
    SegmentationTask,
    SurvivalTask,
)
from ..tasks.segmentation import dice, volumes_ml
from ..training import Run
from .places import placed, present
from .report import present_report, written

Look = Callable[[str, np.ndarray, np.ndarray, tuple[float, ...]], None]
"""Whose a record is, on the standard grid the drawn mask and the true one, and mm a sample along each axis, NaN where nobody knows."""


def predict(
    run: Adapted | Run | str | Path, cohort: Cohort | str | Path | None = None, *, patients: Sequence[str] | None = None,
    modalities: Sequence[Modality | str] | None = None, landmark: float | None = None, look: Look | None = None,
    earlier: bool = True,
) -> Predictions:  # fmt: skip
    """An adapted run's answers; the network is asked once about each patient.

    Args:
        run: adapted, or its folder.
        cohort: where it lies now; by default where it lay.
        patients: who; by default the test side.
        modalities: what may be seen of them, among the run's inputs; by default all of those.
        landmark: of a task with landmarks, at which one; by default the first.
        look: of a segmentation, is shown each masked record's masks as they are drawn; none is kept.
        earlier: of reports, whether what was before the study is shown, where the run's decoder sees such.
    Returns:
        one a patient who has something to be read; at a landmark from what was dated until then, beside what is known of those who
        were still at risk. Who cannot be read is set aside.
    Raises:
        AdaptError: a modality that the run does not read.
        UnreadError: nearly nobody can be read.
        TaskError: the task has no such landmark.
    """
    adapted = (run if isinstance(run, Adapted) else open_adapted(run)).at(landmark)
    catalogue = cohort if isinstance(cohort, Cohort) else adapted.run.cohort(cohort)
    who = tuple(patients) if patients is not None else adapted.run.split.test
    reads = allowed(adapted, modalities)
    loader = adapted.run.loader(catalogue, who, (adapted.name,))
    if isinstance(adapted.task, HazardsTask):
        loader = loader.landmarks(adapted.name)[adapted.task.landmark]
    there = [p for p in loader.patients if set(reads) & set(loader.by_patient[p])]
    if isinstance(adapted.task, ReportTask):
        found = written(adapted, loader, there, reads, earlier)
    elif isinstance(adapted.task, SegmentationTask):
        found = _dense(adapted, loader, there, reads, look)
    elif isinstance(adapted.task, DetectionTask | KeypointsTask):
        found = placed(adapted, loader, there, reads)
    else:
        found = _linear(adapted, loader, there, reads)
    return replace(found, unread=loader.aside(set(there) - set(found.patients)))


def allowed(adapted: Adapted, modalities: Sequence[Modality | str] | None) -> tuple[Modality, ...]:
    """The modalities that may be seen, in their order.

    Raises:
        AdaptError: one that the run does not read.
    """
    if modalities is None:
        return adapted.inputs
    for wanted in modalities:
        if wanted not in adapted.inputs:
            raise AdaptError(
                f"predictions from {str(wanted)!r}, which this run does not read",
                "among " + ", ".join(adapted.inputs),
                "leave it out, or adapt with more inputs",
            )
    return tuple(m for m in adapted.inputs if m in modalities)


@torch.no_grad()
def _linear(adapted: Adapted, loader: Loader, patients: Sequence[str], reads: Sequence[Modality]) -> Predictions:
    """What the head tells of each patient; who has nothing that the model knows counts as not labelled."""
    task = adapted.task
    assert isinstance(task, LinearTask)

    def say(batch: Batch) -> tuple[Tensor, Tensor]:
        output, there = said(adapted, batch)
        return task.answer(output), there

    found = answered(loader.labels[0], loader.each(64, patients, reads), say)
    if isinstance(task, SurvivalTask | HazardsTask):
        return replace(found, baseline=task.baseline() if isinstance(task, SurvivalTask) else task.incidence())
    return found


def said(adapted: Adapted, batch: Batch) -> tuple[Tensor, Tensor]:
    """The head's outputs (b …), and (b,) bool of whom anything could be said."""
    assert isinstance(adapted.task, LinearTask)
    return adapted.task.said(adapted.model, batch)


def answered(
    label: Label, batches: Iterable[Batch], say: Callable[[Batch], tuple[Tensor, Tensor]]
) -> Predictions:  # fmt: skip
    """What is said of patients, batch by batch, beside what is known of them.

    Args:
        label: the task's.
        batches: of the patients, in their order, with the task's targets.
        say: of a batch the answers (b …), and (b,) bool of whom anything could be said.
    """
    outputs, known = [torch.zeros(0)], [torch.zeros(0, dtype=torch.bool)]
    targets = [torch.zeros((0, label.width) if label.width > 1 else 0)]
    patients, has, ids = list[str](), list[tuple[Modality, ...]](), list[tuple[str, ...]]()
    for batch in batches:
        patients += batch.patients
        (output, there), target = say(batch), batch.targets[label.task]
        outputs.append(output)
        assert isinstance(target.values, Tensor)
        targets.append(target.values)
        known.append(target.mask & there)
        owners = {m: set(ragged.patient.tolist()) for m, ragged in batch.payloads.items()}
        has += [tuple(m for m in owners if n in owners[m]) for n in range(len(batch.patients))]
        pairs = [pair for r in batch.payloads.values() for pair in zip(r.patient.tolist(), r.ids, strict=True)]
        ids += [tuple(name for owner, name in pairs if owner == n) for n in range(len(batch.patients))]
    whole = lambda parts: torch.cat(parts).numpy()
    return Predictions(
        label.task, tuple(patients), whole(outputs), whole(targets), whole(known), tuple(has), tuple(ids)
    )


@dataclass(frozen=True, slots=True)
class MaskAnswer:
    """A predicted mask beside the true one, on the standard grid and on the source's."""

    record: Record
    image: Payload
    predicted: np.ndarray
    truth: np.ndarray | None
    on_source: np.ndarray


def _masks(
    adapted: Adapted, loader: Loader, patients: Sequence[str], reads: Sequence[Modality]
) -> Iterator[tuple[Batch, list[Tensor]]]:
    """Of each batch: itself, and the mask of each record on the standard grid."""
    assert isinstance(adapted.task, SegmentationTask)
    with torch.no_grad():
        for batch in loader.each(adapted.together(8), patients, reads, whole=True):
            yield batch, adapted.task.masks(adapted.model, batch)


def _dense(
    adapted: Adapted, loader: Loader, patients: list[str], reads: Sequence[Modality], look: Look | None
) -> Predictions:
    """Dice of each class, a patient with several records by their mean."""
    task = adapted.task
    assert isinstance(task, SegmentationTask)
    modality, k = Modality(task.spec.modality), len(task.spec.classes) + 1
    if modality not in reads:
        empty = np.zeros((0, k - 1))
        return Predictions(adapted.name, (), empty, empty, np.zeros(0, dtype=bool))
    patients = [p for p in patients if modality in loader.by_patient[p]]
    rows, sizes = dict[str, list[np.ndarray]](), dict[str, np.ndarray]()
    for batch, masks in _masks(adapted, loader, patients, reads):
        target, ragged = batch.targets[adapted.name], batch.payloads[modality]
        rows |= {p: [] for p in batch.patients}
        for number, (mask, true) in enumerate(zip(masks, target.values, strict=True)):
            name = batch.patients[int(ragged.patient[number])]
            sizes[name] = volumes_ml([true], k - 1, 1e-3)[0]
            if not bool(target.mask[number]):
                continue
            rows[name].append(dice(mask.numpy(), true.numpy(), k))
            if look is not None:
                sides = (math.nan,) if ragged.spacing is None else tuple(ragged.spacing[number].tolist())
                look(name, mask.numpy(), true.numpy(), sides)
    nobody, patients = np.full(k - 1, np.nan), list(rows)  # who could be read
    return Predictions(
        adapted.name,
        tuple(patients),
        np.array([np.mean(rows[p], axis=0) if rows[p] else nobody for p in patients]).reshape(-1, k - 1),
        np.array([sizes[p] for p in patients]).reshape(-1, k - 1),
        np.array([bool(rows[p]) for p in patients], dtype=bool),
        tuple(tuple(m for m in reads if m in loader.by_patient[p]) for p in patients),
    )


def predict_masks(
    run: Adapted | Run | str | Path, cohort: Cohort | None = None, *, patients: Sequence[str]
) -> list[MaskAnswer]:
    """The masks themselves, for people to look at; on the standard grid and on the source's."""
    adapted = run if isinstance(run, Adapted) else open_adapted(run)
    catalogue = cohort or adapted.run.cohort()
    loader = adapted.run.loader(catalogue, tuple(patients), (adapted.name,))
    task = adapted.task
    assert isinstance(task, SegmentationTask)
    modality = Modality(task.spec.modality)
    there = [p for p in loader.patients if modality in loader.by_patient[p]]
    by_id = {r.id: r for p in loader.patients for r in loader.by_patient[p].get(modality, [])}
    found = []
    for batch, masks in _masks(adapted, loader, there, adapted.inputs):
        target = batch.targets[adapted.name]
        for number, name in enumerate(batch.payloads[modality].ids):
            payload = loader.payload(by_id[name])
            mask = masks[number].numpy()
            true = target.values[number].numpy() if bool(target.mask[number]) else None
            found.append(MaskAnswer(by_id[name], payload, mask, true, way_back(mask, payload.history)))
    return found


@torch.no_grad()
def embed(
    run: Run | str | Path, cohort: Cohort | None = None, *, patients: Sequence[str] | None = None
) -> dict[Modality, tuple[list[str], np.ndarray]]:
    """Each modality's unit vectors (p e) in the shared space, and whose they are; by default of the test side."""
    run = (run if isinstance(run, Run) else Run.open(run)).backbone
    catalogue = cohort or run.cohort()
    loader = run.loader(catalogue, tuple(patients) if patients is not None else run.split.test)
    model, names, vectors = run.model(), dict[Modality, list[str]](), dict[Modality, list[np.ndarray]]()
    for batch in loader.each(64):
        for modality, tower in model.towers(model.encode(batch)).items():
            names.setdefault(modality, []).extend(batch.patients[i] for i in tower.patient.tolist())
            vectors.setdefault(modality, []).append(tower.vectors.float().numpy())
    return {m: (names[m], np.concatenate(vectors[m])) for m in names}


def predict_files(run: Adapted | Run | str | Path, files: Sequence[str | Path]) -> Answer:
    """The answer about one patient, given as one or several files.

    Args:
        run: adapted, or its folder; of a task with landmarks, `at` the one that is meant.
        files: any subset of the modalities that the run reads.
    Raises:
        RecordError: a file that cannot be used (with the reason) or that holds several patients, or nothing that this run reads; one that
            is dated after the landmark.
    """
    adapted = run if isinstance(run, Adapted) else open_adapted(run)
    loader, whole = one_patient(adapted.run, files, adapted.inputs), isinstance(adapted.task.spec, PlacedFields)
    loader = _until_landmark(adapted, loader)
    batch = loader.of(["patient"], adapted.inputs, whole=whole)
    used = tuple(batch.payloads)
    if not used:
        raise RecordError(
            "a file of which the model knows nothing", "values that the training patients had too", "give another file"
        )
    if isinstance(adapted.task, ReportTask):
        return present_report(adapted, batch, used, loader)
    with torch.no_grad():
        if whole:
            return _present_placed(adapted, loader, batch, used)
        output, _ = said(adapted, batch)
    assert isinstance(adapted.task, LinearTask)
    return adapted.task.present(adapted.task.answer(output)[0].tolist(), used)


def one_patient(run: Run, files: Sequence[str | Path], reads: Sequence[Modality]) -> Loader:
    """A loader of one patient's files, of whom it holds what may be read; every file is read once.

    Raises:
        RecordError: a file that cannot be read (with its reason) or that holds several patients, or nothing that may be read.
    """
    found, roots = _one_patient([Path(file).resolve() for file in files])
    usable = [r for r in found if r.modality in reads]
    if not usable:
        kinds = ", ".join(sorted({r.modality.value for r in found}))
        raise RecordError(f"files of {kinds}", "one of " + ", ".join(reads), "give a file that this model reads")
    sources: dict[str, Payload] = {}  # an overlay is drawn on what was read

    def load(record: Record) -> Payload:
        if record.id not in sources:
            sources[record.id] = records.load(record, roots[record.id])
        return sources[record.id]

    return Loader(usable, ["patient"], run.recipe.standards(), run.fingerprint, load, most=None)


def _until_landmark(adapted: Adapted, loader: Loader) -> Loader:
    """Of a task with landmarks, the loader as it stood then, where the files tell the patient's time 0; what has no date is read.

    Raises:
        RecordError: a file dated later.
    """
    marks = adapted.task.spec.landmarks_of() if isinstance(adapted.task, HazardsTask) else None
    given = [r for by in loader.by_patient["patient"].values() for r in by]
    if marks is None or not (until := marks.cutoffs(adapted.task.landmark, marks.begun(given, loader.start))):
        return loader
    late = [r for r in given if r.time and r.time > until["patient"]]
    if late:
        at = f"{marks.times[adapted.task.landmark]:g} {marks.unit}"
        raise RecordError(
            f"{Path(late[0].uri).name}, dated after the landmark of {at}", "files dated until then",
            "leave it out, or ask at a later landmark",
        )  # fmt: skip
    return loader.before(until, undated=True)


def _one_patient(paths: Sequence[Path]) -> tuple[list[Record], dict[str, Path]]:
    """The records of the files, all of one patient whatever they are called there, each once; and the folder of each."""
    for path in paths:
        if not path.is_file():
            raise RecordError(f"no file {path.name}", "a file", "check the path")
    found: dict[str, Record] = {}
    roots: dict[str, Path] = {}
    names: dict[Path, set[str]] = {}
    for path, item in records.read_patient(paths):
        if isinstance(item, Rejected):
            raise RecordError(f"{path.name}: {item.found}", item.expected, item.remedy)
        names.setdefault(path, set()).add(item.patient)
        # A file that looks like a mask is still what was given.
        kept = {k: v for k, v in item.attributes.items() if k != "mask"}
        found[item.id], roots[item.id] = replace(item, patient="patient", attributes=kept), path.parent
    for path, whose in names.items():
        if len(whose) > 1:
            raise RecordError(
                f"{path.name}: a file of {len(whose)} patients", "one patient's records", "cut the others' out of it"
            )
    return list(found.values()), roots


def _present_placed(adapted: Adapted, loader: Loader, batch: Batch, used: tuple[Modality, ...]) -> Answer:
    """What lies on the one image or volume among the files."""
    task, modality = adapted.task, Modality(adapted.task.spec.modality)
    if modality not in used:
        raise RecordError(f"files without a {modality}", f"a {modality}", "give one")
    record, *others = loader.by_patient["patient"][modality]
    if others:
        raise RecordError(f"{len(others) + 1} {modality}s", f"one {modality}", "give them one after the other")
    payload, source = loader.payload(record), loader.load(record)
    if isinstance(task, DetectionTask | KeypointsTask):
        answer = present(task, task.found(adapted.model, batch)[0], payload, used)
    else:
        assert isinstance(task, SegmentationTask)
        mask = task.masks(adapted.model, batch)[0].numpy()
        voxel = None if source.to_world is None else abs(float(np.linalg.det(source.to_world[:3, :3]))) / 1000
        answer = task.present(way_back(mask, payload.history), voxel if modality is Modality.VOLUME else None, used)
    image = luminance(source.array) if modality is Modality.IMAGE else source.array[0]
    shown = {"image": image, "to_world": source.to_world, "record": record.id}
    return replace(answer, extra={**answer.extra, **shown})
