"""Answers that were given once, kept so that they need not be given again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...cohort import Cohort
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


def kept(place: Path, make: Callable[[], Predictions]) -> Predictions:
    """What a file has, or what is made and then written there, whole or not at all.

    Args:
        place: named by `key_of` among others.
        make: the answers about labelled patients.
    """
    if place.exists():
        data = json.loads(place.read_text(encoding="utf-8"))
        arrays = (np.array(data["outputs"], dtype=float), np.array(data["targets"], dtype=float))
        return Predictions(data["task"], tuple(data["patients"]), *arrays, np.ones(len(data["patients"]), dtype=bool))
    found = make()
    arrays = {"outputs": found.outputs.tolist(), "targets": found.targets.tolist()}
    write_json(place, {"task": found.task, "patients": list(found.patients), **arrays})
    return found
