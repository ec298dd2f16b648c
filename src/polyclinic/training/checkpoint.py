"""Checkpoints: written whole or not at all, and read back to the same bits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..schema import PolyclinicError

KEYS = ("stage", "step", "trainee", "adam", "rows")
"""What a checkpoint holds: where it was taken, weights, the optimiser's moments, the curves so far."""


class RunError(PolyclinicError):
    """A run that cannot go on as asked."""


class InterruptedRunError(PolyclinicError):
    """Stopped by the user, at a checkpoint; the command line exits with 130."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a run's folder: two processes that trained one run would write over each other.

    The lock goes with the process, however that ends.

    Raises:
        RunError: another process holds it.
    """
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"another process is training the run {folder}", "one at a time", "wait for it, or stop it"
            ) from error
        yield


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint beside the last one and put it in its place.

    Raises:
        RunError: the disk is full; the last checkpoint is intact.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(f".{path.name}.*"):  # of a process that was killed while it wrote
        stale.unlink(missing_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as a RuntimeError
        beside.unlink(missing_ok=True)
        raise RunError(
            f"a checkpoint that could not be written to {path.parent} ({str(error).splitlines()[0][:80]})",
            "room on the disk; "
            + ("the checkpoint before it is intact" if path.exists() else "there was none before it"),
            "free some space and run the same command again: it resumes",
        ) from error


def read(path: Path) -> dict[str, Any] | None:
    """The last checkpoint; None where there is none.

    Raises:
        RunError: it is broken.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        missing = [key for key in KEYS if key not in state]
    except Exception as error:
        raise _broken(path, f"torch says {type(error).__name__}") from error
    if missing:
        raise _broken(path, f"it has no {', '.join(missing)}")
    return state


def put_back(path: Path, state: dict[str, Any], trainee: nn.Module, adam: torch.optim.Optimizer) -> None:
    """A checkpoint's weights and moments into a module and its optimiser.

    Raises:
        RunError: they are of another network than the recipe builds now.
    """
    try:
        trainee.load_state_dict(state["trainee"])
        adam.load_state_dict(state["adam"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise _broken(path, "its weights do not fit the network that the recipe builds with this version") from error


def _broken(path: Path, why: str) -> RunError:
    return RunError(
        f"a broken checkpoint {path} ({why})", "one that this version wrote", "remove it, and the run starts again"
    )
