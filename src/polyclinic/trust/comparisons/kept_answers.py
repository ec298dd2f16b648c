"""Answers that were given once, kept so that they need not be given again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ...cohort import Cohort
from ...harmonise.unread import Unread
from ...tasks import Predictions
from ...training import Run
from ...training.run import file_hash, write_json


def basis(run: Run, cohort: Cohort) -> str:
    """Of what any answer of a run rests on: its weights, its split, the records and the tasks of its recipe."""
    records = sorted(r.id for r in cohort.records(run.recipe.cohort.where))
    tasks = run.recipe.model_dump(mode="json", include={"tasks"})
    return key_of(file_hash(run.weights), run.split.hash, records, tasks)


def key_of(*told: Any) -> str:
    """A name made of all that decides an answer."""
    return hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=8).hexdigest()


Made = TypeVar("Made", Predictions, Predictions | None)


def kept(place: Path, make: Callable[[], Made], task: str = "asked") -> Predictions | Made:
    """What a file has, or what is made and then written there, whole or not at all; None is not written.

    Args:
        place: named by `key_of` among others.
        make: the answers.
        task: of a file that does not name it.
    """
    if place.exists():
        return answers_of(json.loads(place.read_text(encoding="utf-8")), task)
    found = make()
    if found is not None:
        write_json(place, told(found))
    return found


def told(found: Predictions) -> dict[str, Any]:
    """Answers as JSON, without what was read for them but of boxes and points."""
    arrays = {"outputs": _plain(found.outputs), "targets": _plain(found.targets), "mask": found.mask.tolist()}
    records = {"records": [list(ids) for ids in found.records]} if _placed(found.outputs) else {}
    aside = {"unread": [asdict(one) for one in found.unread]} if found.unread else {}
    return {"task": found.task, "patients": list(found.patients), **arrays, **records, **aside}


def answers_of(data: Mapping[str, Any], task: str) -> Predictions:
    """What `told` said; older files name no task, or are of labelled patients alone and do not say so."""
    mask = np.array(data.get("mask", [True] * len(data["patients"])), dtype=bool)
    aside = tuple(Unread(**one) for one in data.get("unread", ()))
    arrays = _read(data["outputs"]), _read(data["targets"]), mask
    ids = tuple(map(tuple, data.get("records", ())))
    return Predictions(data.get("task", task), tuple(data["patients"]), *arrays, (), ids, unread=aside)


def _placed(values: np.ndarray) -> bool:
    """Whether they are boxes or points, of which patients have any number, each an array of its own."""
    return values.dtype == object and len(values) > 0 and isinstance(values[0], np.ndarray)


def _plain(values: np.ndarray) -> list[Any]:
    """As JSON has it: of boxes and points each array with its shape; there NaN is null."""
    if not _placed(values):
        return values.tolist()
    plain = lambda row: [float(v) if np.isfinite(v) else None for v in row.ravel()]
    return [{"shape": list(row.shape), "values": plain(row)} for row in values]


def _read(values: list[Any]) -> np.ndarray:
    """What `_plain` wrote."""
    if not values or not isinstance(values[0], dict):
        return np.array(values)
    found = np.empty(len(values), object)
    for number, row in enumerate(values):
        found[number] = np.array(row["values"], dtype=float).reshape(row["shape"])
    return found
