"""Checkpoints: written whole or not at all, and read back to the same bits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from ..schema import PolyclinicError


class RunError(PolyclinicError):
    """A run that cannot go on as asked."""


class Interrupted(PolyclinicError):
    """Stopped by the user, at a checkpoint."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint beside the last one and put it in its place.

    Raises:
        RunError: the disk is full; the last checkpoint is intact.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
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
            "room on the disk; the checkpoint before it is intact",
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
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise RunError(f"a broken checkpoint {path.name}", "one that torch reads", "remove it to start again") from error
