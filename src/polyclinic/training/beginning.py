"""Before the first step: what is forgotten, what is compared, what is written down."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..cohort import Cohort, guard, labels_of, split
from ..cohort.catalogue import inputs
from ..cohort.mixture import members, parts_of
from ..harmonise import fit
from ..harmonise.unread import Unread, sound
from ..records import RecordError
from ..schema import Record
from . import checkpoint
from .checkpoint import RunError
from .recipe import Recipe, differing
from .run import KEPT, Run, commit, versions, write_json, write_text


def forget(place: Path) -> None:
    """Remove what would be taken for the new run's: the recipe first, so that a killed process leaves no half of each."""
    for name in ("recipe.yaml", "metrics.parquet", "training.json", "card.md"):
        (place / name).unlink(missing_ok=True)
    checkpoint.forget(place / "checkpoints")
    for name in ("model", "evidence", "offending", "tensorboard"):
        shutil.rmtree(place / name, ignore_errors=True)


def same(run: Run, recipe: Recipe, cohort: Cohort) -> None:
    """Refuse to go on with another recipe or other records: the bits would be of neither."""
    keys = differing(Recipe.load(run.path / "recipe.yaml"), recipe)
    remedy = "change `name`, give another folder with --into, or start anew with --no-resume"
    if keys:
        listed = ", ".join(keys[:6]) + (" …" if len(keys) > 6 else "")
        raise RunError(
            f"the run {run.path} was made by another recipe: it differs in {listed}",
            "the same recipe, or another name",
            remedy,
        )
    known = {name for side in run.lock["records"].values() for name in side} | set(run.lock.get("left", ()))
    now = {record.id for record in cohort.records(recipe.cohort.where)}
    if known != now:
        raise RunError(
            f"the run {run.path} was made of other records: {len(now - known)} came to the cohort and {len(known - now)} left it",
            "the records in its lock.json",
            remedy,
        )


def _strata(recipe: Recipe, answers: Mapping[str, Mapping[str, Any]]) -> dict[str, int] | None:
    """What the split deals evenly: the class, the grade, whether anything was found, or whether the event was seen."""
    name = recipe.cohort.split.stratify
    if name is None:
        return None
    label = recipe.tasks[name].label(name)
    assert label is not None
    return dict(zip(answers[name], label.groups(list(answers[name].values())), strict=True))


def _something_to_read(recipe: Recipe, found: Sequence[Record], train: Sequence[str]) -> None:
    """Refuse training patients of whom no encoder reads a record."""
    mine = set(train)
    there = sorted({r.modality.value for r in found if r.patient in mine})
    if not {m.value for m in recipe.encoders} & set(there):
        raise RunError(
            f"{len(train)} training patients without any {' or '.join(recipe.encoders)}, which is what the encoders read",
            f"one of what these patients have ({', '.join(there)})" if there else "records",
            "see what was set aside (`polyclinic cohort query COHORT 'from rejected'`), or give the recipe another encoder or `where`",
        )


def prepare(run: Run, recipe: Recipe, cohort: Cohort) -> None:
    """Split, guard, fingerprint; write down all of it, the recipe last: where it stands, the rest does.

    A patient of whom a record cannot be read is set aside, and stands in `lock.json` as `unread`. What is not read before the first
    step may still turn out not to be readable: then another stands in, see `Loader.batches`.

    Raises:
        UnreadError: nearly nobody can be read.
    """
    for modality, spec in recipe.encoders.items():
        spec.keep(run.path / KEPT / modality.value)
    everything = cohort.records(recipe.cohort.where)
    try:
        _prepared(run, recipe, cohort, everything, {})
    except RecordError:  # who it is besides, and what the first pass did not read, is seen before the second
        wanted = [r for r in inputs(everything) if r.modality in recipe.encoders]
        unread = sound(wanted, cohort.load)
        if not unread:
            raise
        _prepared(run, recipe, cohort, everything, unread)


def _prepared(
    run: Run, recipe: Recipe, cohort: Cohort, everything: Sequence[Record], unread: Mapping[str, Unread]
) -> None:
    """Prepare a run of all but who was set aside: they are on no side of the split."""
    gone = {one.patient for one in unread.values()}
    records = [r for r in everything if r.patient not in gone]
    answers: dict[str, Any] = {}
    for name, task in recipe.tasks.items():  # a wrong column is an error now, not after an hour
        if (label := task.label(name)) is not None:
            answers[name] = labels_of(records, label)
    parted = split(records, recipe.cohort.split, cohort.load, _strata(recipe, answers))
    guard(parted.train, parted.test, records, cohort.load)
    _something_to_read(recipe, inputs(records), parted.train)
    for stage in (s for s in recipe.stages if s.mixture):  # an error now, not when its turn comes
        members(parts_of(cohort, stage.told(), recipe.cohort.where), parted.train, stage.batch)
    sides = {"train": set(parted.train), "test": set(parted.test)}
    fingerprint = fit([r for r in inputs(records) if r.patient in sides["train"]], cohort.load, recipe.standards())
    (run.path / "model").mkdir(parents=True, exist_ok=True)
    fingerprint.save(run.path / "model/fingerprint.json")
    write_json(run.path / "model/config.json", recipe.model_dump(mode="json", include={"encoders", "model", "seed"}))
    write_json(
        run.path / "lock.json",
        {
            "cohort": str(cohort.path.resolve()),
            "split": {"train": parted.train, "test": parted.test, "hash": parted.hash},
            "records": {name: sorted(r.id for r in records if r.patient in side) for name, side in sides.items()},
            "left": sorted(r.id for r in everything if r.patient not in sides["train"] | sides["test"]),
            **({"unread": [asdict(one) for one in unread.values()]} if unread else {}),
            "packages": versions(),
            "seed": recipe.seed,
            "commit": commit(),
            "threads": torch.get_num_threads(),
        },
    )
    write_text(run.path / "recipe.yaml", recipe.as_yaml())
