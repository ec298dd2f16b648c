"""What stops a run: a number that is none, a loss that has run away, memory that is not there. It says where, and keeps the batch."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..schema import Batch, Modality, Ragged, Target
from .checkpoint import RunError
from .memory import told
from .recipe import Recipe, Stage

WINDOW, FEWEST, PATIENCE = 200, 50, 50
"""Steps whose losses the running median is of; without so many there is none; steps in a row that a loss may be far above it."""
FAR = 10.0
"""Median absolute deviations above the median that are far, if they are as much as the median itself."""


class Watch:
    """Whether a loss has run away from its running median.

    A loss is far above it when it exceeds the median of the `WINDOW` steps before by ten median absolute deviations and by the
    median's own size. A step that is far is not taken into the median, and `PATIENCE` of them in a row are a divergence.

    Args:
        losses: of the stage's steps so far; a resumed run sees what it would have seen.
    """

    def __init__(self, losses: Iterable[float] = ()) -> None:
        self.near: list[float] = []
        self.streak = 0
        for loss in losses:
            self.diverged(loss)

    @property
    def limit(self) -> float:
        """From where a loss is far."""
        if len(self.near) < FEWEST:
            return float("inf")
        median = statistics.median(self.near)
        return median + max(FAR * statistics.median(abs(x - median) for x in self.near), abs(median))

    def diverged(self, loss: float) -> bool:
        """Take a step's loss in."""
        if loss > self.limit:
            self.streak += 1
            return self.streak >= PATIENCE
        self.streak = 0
        self.near = [*self.near[-WINDOW + 1 :], loss]
        return False


def refused(
    what: str, stage: Stage, step: int, seed: int, folder: Path, batches: Sequence[Batch], rank: int
) -> RunError:
    """The error that stops a run for its numbers; the batch is kept.

    Args:
        folder: of the run.
        batches: this rank's micro-batches.
    """
    place = folder / "offending" / f"{stage.name}-{step}-rank-{rank}.pt"
    keep(place, batches, {"stage": stage.name, "step": step, "seed": seed, "rank": rank, "why": what})
    return RunError(
        f"{what} at step {step} of stage {stage.name!r}; the weights are as before it",
        f"finite numbers that go down; the batch is kept in {place}, for `polyclinic.training.offending`",
        "look in it for records that are not numbers, or lower the stage's `lr` or `clip` "
        "(and change `name`, or start anew with --no-resume)",
    )


def keep(place: Path, batches: Sequence[Batch], about: dict[str, Any]) -> None:
    """Write a step's batch: tensors, and ids of records. The words of notes stay out; their records' ids say which they were."""
    kept = []
    for batch in batches:
        payloads = {m.value: _fields(r) for m, r in batch.payloads.items() if m is not Modality.TEXT}
        texts = batch.payloads[Modality.TEXT].ids if Modality.TEXT in batch.payloads else []
        targets = {name: {"values": t.values, "mask": t.mask} for name, t in batch.targets.items()}
        kept.append({"payloads": payloads, "targets": targets, "patients": len(batch.patients), "texts": list(texts)})
    place.parent.mkdir(parents=True, exist_ok=True)
    torch.save({**about, "batches": kept}, place)


def offending(place: str | Path) -> tuple[list[Batch], dict[str, Any]]:
    """The batch that stopped a run.

    Args:
        place: a file in the run's `offending/`.
    Returns:
        its micro-batches, without the words of notes and with numbers for names of patients; and stage, step, seed, rank, why, and
        the ids of the notes' records under `texts`.
    Raises:
        RunError: it is no such file.
    """
    try:
        data = torch.load(place, weights_only=True)
        batches = [
            Batch(
                {Modality(m): Ragged(**fields) for m, fields in b["payloads"].items()},
                {name: Target(**fields) for name, fields in b["targets"].items()},
                [str(n) for n in range(b["patients"])],
            )
            for b in data["batches"]
        ]  # fmt: skip
    except Exception as error:
        raise RunError(
            f"{place}, which is no batch that stopped a run ({type(error).__name__})",
            "a file of a run's `offending` folder",
            "check the path",
        ) from error
    about = {k: v for k, v in data.items() if k != "batches"}
    return batches, about | {"texts": [t for b in data["batches"] for t in b["texts"]]}


def _fields(ragged: Ragged) -> dict[str, Any]:
    return {name: getattr(ragged, name) for name in Ragged.__dataclass_fields__}


def ran_out(error: BaseException) -> bool:
    """Whether an error is that there was no memory: Python's, an accelerator's, or the CPU allocator's."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = str(error).lower()
    return isinstance(error, RuntimeError) and ("can't allocate memory" in words or "out of memory" in words)


@contextmanager
def enough_memory(recipe: Recipe, stage: Stage, estimate: Any) -> Iterator[None]:
    """Say, where memory ends, which numbers of the recipe hold it.

    Raises:
        RunError: instead of the allocator's own.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        raise RunError(
            f"out of memory in stage {stage.name!r} ({said(error)})", *told(recipe, stage, estimate)
        ) from error


def said(error: BaseException) -> str:
    """The first line of an allocator's words."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
