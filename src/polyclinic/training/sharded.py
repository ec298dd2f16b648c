"""Checkpoints of several ranks: a folder `step-N`, each rank's part written by itself, with torch's distributed checkpoint.

It is read on any number of ranks, one among them. A folder counts from when its `where.json` stands, which is written last.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load as load_tensors
from torch.distributed.checkpoint.state_dict_saver import save as save_tensors

from .checkpoint import RunError, broken, forget, read, targets_of
from .ranks import Ranks
from .run import write_json


def save(folder: Path, at: int, state: dict[str, Any], ranks: Ranks) -> None:
    """Write a checkpoint of several ranks, each its part; then remove the one before.

    Args:
        folder: the run's `checkpoints`.
        at: the run's steps so far, which names it.
        state: as `KEYS`.
        ranks: all of them call it.
    Raises:
        RunError: the disk of one of them is full; the last checkpoint is intact.
    """
    place = folder / f"step-{at}"
    ranks.once(lambda: shutil.rmtree(place, ignore_errors=True))  # of processes that were killed while they wrote
    try:
        save_tensors(state["tensors"], checkpoint_id=place)
    except (OSError, RuntimeError, CheckpointException) as error:
        raise RunError(
            f"a checkpoint that could not be written to {folder} ({str(error).splitlines()[0][:80]})",
            "room on the disk; the checkpoint before it, if there was one, is intact",
            "free some space and run the same command again: it resumes",
        ) from error

    def conclude() -> None:
        about = {k: v for k, v in state.items() if k != "tensors"}
        shapes = {name: list(t.shape) for name, t in state["tensors"].items()}
        write_json(place / "where.json", {**about, "shapes": shapes})
        forget(folder, but=place)

    ranks.once(conclude)


def last_of(folder: Path) -> dict[str, Any] | None:
    """Where the last checkpoint stands, of one process or of several; None where there is none.

    Returns:
        as `KEYS`; of several ranks `tensors` is absent and `folder` says where they are, for `put_back`.
    Raises:
        RunError: it is broken.
    """
    complete = [p.parent for p in folder.glob("step-*/where.json")]
    if not complete:
        return read(folder / "last.pt")
    place = max(complete, key=lambda p: int(p.name.removeprefix("step-")))
    try:
        return {**json.loads((place / "where.json").read_text(encoding="utf-8")), "folder": place}
    except ValueError as error:
        raise broken(place, "its where.json is no JSON") from error


def put_back(
    place: Path, shapes: dict[str, list[int]], trainee: nn.Module, adam: torch.optim.Optimizer, average: dict[str, Tensor] | None
) -> None:  # fmt: skip
    """A checkpoint of several ranks into a module, its optimiser and its average, whatever the number of ranks now.

    Raises:
        RunError: it is broken, or of another network.
    """
    targets = targets_of(place, shapes, trainee, adam, average)
    try:
        load_tensors(targets, checkpoint_id=place, no_dist=not dist.is_initialized())
    except (OSError, ValueError, RuntimeError, EOFError, CheckpointException) as error:
        raise broken(place, f"torch says {type(error).__name__}") from error
