"""Work over a cohort of any length, some hundred patients a Parquet file: what is finished is kept, and memory does not grow.

The same function runs here, in several processes or on a Ray cluster; each chunk is a file of its own, written whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from ..cohort.engine import engine
from ..training.run import write_json

CHUNK = 512
"""Patients a file."""
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some of the patients, and where what is found of them is kept."""

    patients: tuple[str, ...]
    path: Path


def over(
    make: Callable[[tuple[str, ...]], pa.Table], who: Sequence[str], place: Path, plan: dict[str, Any], *, name: str,
    kind: Literal["processes", "ray"] = "processes", workers: int = 1, size: int = CHUNK, progress: Progress | None = None,
) -> list[Path]:  # fmt: skip
    """A table of each chunk of patients, in files `name-00000.parquet` … of a folder; interrupted, the same call goes on.

    Args:
        make: patients → their rows; with several workers it must be something that can be sent to another process.
        who: the patients, in their order.
        place: the folder, which is emptied where it holds another plan's files.
        plan: what decides the rows, besides who.
        name: of the files.
        kind, workers: who does it, see `cohort.engine`.
        size: patients a chunk.
        progress: called with done, all, what.
    """
    whole = json.loads(json.dumps(plan | {"patients": _digest(who), "chunk": size}))
    if _told(place / "plan.json") != whole:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        write_json(place / "plan.json", whole)
    paths = [place / f"{name}-{n:05d}.parquet" for n in range(-(-len(who) // size))]
    chunks = [Chunk(tuple(who[n * size : (n + 1) * size]), path) for n, path in enumerate(paths)]
    left = [chunk for chunk in chunks if not chunk.path.exists()]
    done = len(who) - sum(len(c.patients) for c in left)
    if left:
        with engine(kind, workers) as each:
            for count in each(partial(_write, make), left):
                done += count
                if progress:
                    progress(done, len(who), "patients")
    return paths


def _write(make: Callable[[tuple[str, ...]], pa.Table], chunk: Chunk) -> int:
    """Make a chunk's rows and keep them; how many patients they are of."""
    beside = chunk.path.with_suffix(".part")
    pq.write_table(make(chunk.patients), beside)
    beside.replace(chunk.path)
    return len(chunk.patients)


def _digest(names: Sequence[str]) -> str:
    return hashlib.blake2b("\x00".join(names).encode(), digest_size=16).hexdigest()


def _told(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
